#!/bin/busybox sh
# The first process of the guest: loads what its root file system is behind, and goes over to that. What whoever starts the machine has put
# beside this, agentd's own program, goes along.
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do /bin/busybox insmod "$module"; done
tries=0
until [ -b /dev/vda ]; do
    tries=$((tries + 1))
    [ $tries -lt 500 ] || { echo "agentd: no root disk"; exit 1; }
    /bin/busybox sleep 0.02
done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount -t tmpfs -o mode=755 tmpfs /root/run
[ ! -e /agentd-guest ] || /bin/busybox mv /agentd-guest /root/run/agentd-guest
exec /bin/busybox switch_root /root /init
