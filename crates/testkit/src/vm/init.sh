#!/bin/busybox sh
# First process of the guest, from the initramfs: the host's own root, read-only over 9p, becomes the lower layer of an
# overlay whose upper layer is RAM; then the second stage runs on it.
/bin/busybox --install -s /bin
export PATH=/bin

die() {
  echo "vm-init: $*" >/dev/console
  poweroff -f
}

mount -t proc proc /proc || die "no proc"
mount -t sysfs sysfs /sys || die "no sysfs"
mount -t devtmpfs devtmpfs /dev || die "no devtmpfs"

while read -r module; do
  insmod "/modules/$module" || die "cannot load $module"
done </modules/order

mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=524288 root /lower || die "cannot mount the host's root"
mount -t tmpfs -o size=80% tmpfs /upper || die "no tmpfs"
mkdir /upper/changes /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/changes,workdir=/upper/work overlay /new || die "cannot mount the overlay"

mount -t tmpfs tmpfs /new/run || die "no tmpfs for /run"
mkdir -p /new/run/lock /new/run/vm/bin /new/run/vm/share
cp /bin/busybox /new/run/vm/bin/busybox
mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=524288 share /new/run/vm/share || die "cannot mount the share"

mount --move /proc /new/proc
mount --move /sys /new/sys
mount --move /dev /new/dev
exec switch_root /new /run/vm/bin/busybox sh /run/vm/share/stage2.sh
