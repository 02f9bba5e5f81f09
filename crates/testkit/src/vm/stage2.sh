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

# Shortly before the host kills a guest that hangs: who waits in the kernel, and for what. Written line by line, since
# the share or a tool may be what hangs; the console has the kernel's own list.
report_hang() {
  $busybox sleep "$($busybox cat $share/report-after-s)"
  exec >$share/hang 2>&1
  for task in /proc/[0-9]*/task/[0-9]*; do
    state=$($busybox sed -n 's/^State:[[:space:]]*//p' $task/status)
    command=$($busybox tr '\0' ' ' <$task/cmdline)
    # Of the kernel's own threads only those that wait for something.
    case "$command$state" in [SIR]\ *) continue ;; esac
    echo "$task $state, in $($busybox cat $task/wchan): $command[$($busybox cat $task/comm)]"
    $busybox sed 's/^/    /' $task/stack
  done
  echo "--- kernel log"
  $busybox dmesg | $busybox tail -n 40
  echo "--- device-mapper"
  $busybox timeout 3 dmsetup info -c
  $busybox timeout 3 dmsetup status
  echo 8 >/proc/sys/kernel/printk
  echo w >/proc/sysrq-trigger
}
report_hang </dev/null &

$busybox sh $share/command.sh </dev/null >$share/stdout 2>$share/stderr
echo $? >$share/status.new
$busybox mv $share/status.new $share/status
$busybox sync
$busybox poweroff -f
