#!/bin/sh
# Process 1 of the guest until it executes Gondolin's daemon `sandboxd`: sets up what the daemons need. As in Gondolin's own script,
# the kernel command line names the mount points of the host's files. Without these options, no files are shared.
b=/usr/lib/gondolin/busybox
$b mount -t devtmpfs devtmpfs /dev
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t cgroup2 cgroup2 /sys/fs/cgroup
$b mkdir -p /dev/pts /dev/shm /dev/virtio-ports
$b mount -t devpts -o ptmxmode=666 devpts /dev/pts
$b mount -t tmpfs tmpfs /dev/shm
$b mount -t tmpfs -o mode=1777 tmpfs /tmp
$b chmod 1777 /dev/shm
$b ip link set lo up
for port in /sys/class/virtio-ports/vport*; do
    read -r name <"$port/name"
    $b ln -sf "../${port##*/}" "/dev/virtio-ports/$name"
done
# Mount the disk of the sandbox, if there is one. A new disk has the same content as this root.
for disk in /sys/block/vd*; do
    [ "$($b cat "$disk/serial")" = agentd ] || continue
    $b mkdir /run/root
    $b mount -t ext4 -o nosuid,nodev "/dev/${disk##*/}" /run/root
done
read -r words </proc/cmdline
mount='' binds=''
for word in $words; do
    case $word in
        sandboxfs.mount=*) mount=${word#*=} ;;
        sandboxfs.bind=*) binds=${word#*=} ;;
    esac
done
if [ -n "$binds" ]; then
    $b mkdir -p "$mount"
    /usr/bin/sandboxfs --mount "$mount" --rpc-path /dev/virtio-ports/virtio-fs >/dev/console 2>&1 &
    tries=0
    until $b grep -q " $mount fuse.sandboxfs " /proc/mounts; do
        tries=$((tries + 1))
        [ $tries -lt 500 ] || { echo "sandboxfs did not mount the files of the host within 10 s" >/run/sandboxfs.failed; break; }
        $b sleep 0.02
    done
    IFS=,
    for place in $binds; do
        $b mkdir -p "$place"
        $b mount --bind "$mount$place" "$place"
    done
    unset IFS
fi
[ -e /run/sandboxfs.failed ] || echo ok >/run/sandboxfs.ready
/usr/bin/sandboxssh >/dev/null 2>&1 &
/usr/bin/sandboxingress >/dev/null 2>&1 &
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
exec /usr/bin/sandboxd
