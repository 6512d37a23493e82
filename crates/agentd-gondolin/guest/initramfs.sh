#!/bin/busybox sh
# The first process of the guest: loads the modules for the root file system and switches to it. Also moves agentd's own program, which
# the host has appended to the initramfs, to /run.
#
# The root is the read-only disk that all machines share. Payloads write to another disk, which `init` mounts and from which nothing is
# executed here. So the content of that disk cannot influence the next start of a machine with the same disk.
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t sysfs sysfs /sys
for module in /modules/*; do /bin/busybox insmod "$module"; done
tries=0 root=''
until [ -b "$root" ]; do
    tries=$((tries + 1))
    [ $tries -lt 500 ] || { echo "agentd: no root disk found within 10 s"; exit 1; }
    /bin/busybox sleep 0.02
    for disk in /sys/block/vd*; do
        # Skip a disk whose serial number cannot be read: it may be the disk of the sandbox.
        serial=$(/bin/busybox cat "$disk/serial" 2>/dev/null) || continue
        [ "$serial" = agentd ] || root=/dev/${disk##*/}
    done
done
/bin/busybox mount -t ext4 -o ro "$root" /root
/bin/busybox umount /sys
/bin/busybox mount -t tmpfs -o mode=755 tmpfs /root/run
[ ! -e /agentd-guest ] || /bin/busybox mv /agentd-guest /root/run/agentd-guest
exec /bin/busybox switch_root /root /init
