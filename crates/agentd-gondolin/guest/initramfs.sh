#!/bin/busybox sh
# The first process of the guest: loads what its root file system is behind, and goes over to that. What whoever starts the machine has put
# beside this, agentd's own program, goes along.
#
# The root is the disk that all machines share, read-only. What a payload can write to is another one, which `init` mounts and nothing here
# starts from: what a payload left on it decides nothing when a machine is started over it again.
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t sysfs sysfs /sys
for module in /modules/*; do /bin/busybox insmod "$module"; done
tries=0 root=''
until [ -b "$root" ]; do
    tries=$((tries + 1))
    [ $tries -lt 500 ] || { echo "agentd: no root disk"; exit 1; }
    /bin/busybox sleep 0.02
    for disk in /sys/block/vd*; do
        # One that cannot say whose it is is not taken for the root.
        serial=$(/bin/busybox cat "$disk/serial" 2>/dev/null) || continue
        [ "$serial" = agentd ] || root=/dev/${disk##*/}
    done
done
/bin/busybox mount -t ext4 -o ro "$root" /root
/bin/busybox umount /sys
/bin/busybox mount -t tmpfs -o mode=755 tmpfs /root/run
[ ! -e /agentd-guest ] || /bin/busybox mv /agentd-guest /root/run/agentd-guest
exec /bin/busybox switch_root /root /init
