# Second stage, on the guest's final root: what udev and systemd would do elsewhere, then the command, then its status
# into the share. No status file means that the guest died.
busybox=/run/vm/bin/busybox
share=/run/vm/share

$busybox mkdir -p /dev/pts /dev/shm
$busybox mount -t devpts devpts /dev/pts
$busybox mount -t tmpfs tmpfs /dev/shm
$busybox ln -sfn /proc/self/fd /dev/fd
$busybox ln -sfn /proc/self/fd/0 /dev/stdin
$busybox ln -sfn /proc/self/fd/1 /dev/stdout
$busybox ln -sfn /proc/self/fd/2 /dev/stderr

# The kernel loads what is missing (btrfs, veth, netem, dm-flakey, …) through this path.
$busybox mkdir -p /lib/modules
$busybox mount --bind "$($busybox cat $share/modules-path)" /lib/modules
$busybox ln -sf $busybox /sbin/modprobe
echo /sbin/modprobe >/proc/sys/kernel/modprobe

# LVM waits for udev's cookie for ever where no udev runs.
$busybox mkdir -p /etc/lvm
printf 'activation {\n  udev_sync = 0\n  udev_rules = 0\n}\n' >/etc/lvm/lvmlocal.conf

$busybox hostname vm-guest
$busybox ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
  $busybox ip addr add 10.0.2.15/24 dev eth0
  $busybox ip link set eth0 up
  $busybox ip route add default via 10.0.2.2
fi

$busybox sh $share/command.sh </dev/null >$share/stdout 2>$share/stderr
echo $? >$share/status.new
$busybox mv $share/status.new $share/status
$busybox sync
$busybox poweroff -f
