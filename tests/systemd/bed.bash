# shellcheck shell=bash
# A bed of hosts with systemd as PID 1, each in a container of its own (systemd-nspawn) on one private bridge. Sourced by
# scripts/test-systemd. Nothing of the machine's own network, mounts or units changes; bed_down removes all of it.

bed_name=oased$$
bed_dir=
declare -A bed_pid=()

# Why no such host can be had on this machine; prints nothing when one can.
bed_unavailable() {
  [[ $(id -u) -eq 0 ]] || { echo "containers need root"; return; }
  local program
  for program in systemd-nspawn mkfs.btrfs losetup ip nsenter; do
    command -v "$program" >/dev/null || { echo "$program is missing (scripts/install-deps systemd)"; return; }
  done
  grep -qw btrfs /proc/filesystems || modprobe -q btrfs || { echo "the kernel has no btrfs"; return; }
  [[ -n $(bed_cgroups) ]] || { echo "no control groups are mounted"; return; }
}

# The hierarchies in which each host needs a group of its own.
bed_cgroups() {
  local dir
  for dir in /sys/fs/cgroup/unified /sys/fs/cgroup/systemd /sys/fs/cgroup; do
    if [[ -e $dir/cgroup.procs ]]; then echo "$dir"; fi
  done
}

# bed_up DIR: a volume with the tree that hosts are copied from.
bed_up() {
  bed_dir=$(mktemp -d /var/tmp/oa-systemd.XXXXXX)
  mkdir "$bed_dir/hosts"
  truncate -s 12G "$bed_dir/volume"
  mkfs.btrfs -q "$bed_dir/volume" >/dev/null
  mount -o loop "$bed_dir/volume" "$bed_dir/hosts"
  btrfs -q subvolume create "$bed_dir/hosts/base"
  cp -a "$1/." "$bed_dir/hosts/base/"
  ip netns add "$bed_name"
  ip -n "$bed_name" link add br0 type bridge
  ip -n "$bed_name" link set br0 up
}

# bed_host NAME NUMBER: its tree, reachable at 10.66.0.NUMBER; not booted yet.
bed_host() {
  local name=$1 root=$bed_dir/hosts/$1 wants
  btrfs -q subvolume snapshot "$bed_dir/hosts/base" "$root"
  echo "$name" >"$root/etc/hostname"
  rm -f "$root/etc/machine-id"
  systemd-id128 new >"$root/etc/machine-id"
  printf '[Match]\nName=host0\n[Network]\nAddress=10.66.0.%s/24\nLinkLocalAddressing=no\n' "$2" \
    >"$root/etc/systemd/network/10-host0.network"
  wants=$root/etc/systemd/system
  mkdir -p "$wants/network-online.target.wants" "$root/var/log/journal"
  ln -sf /lib/systemd/system/systemd-networkd.service "$wants/multi-user.target.wants/"
  ln -sf /lib/systemd/system/systemd-networkd-wait-online.service "$wants/network-online.target.wants/"
  ln -sf /dev/null "$wants/systemd-firstboot.service"
}

# bed_boot NAME [NSPAWN OPTION...]
bed_boot() {
  local name=$1 dir status
  shift
  (
    # Hosts that share a control group would take each other's processes for their own.
    for dir in $(bed_cgroups); do
      mkdir -p "$dir/$bed_name-$name"
      echo "$BASHPID" >"$dir/$bed_name-$name/cgroup.procs"
    done
    while :; do
      status=0
      setsid --wait nsenter --net="/run/netns/$bed_name" env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 \
        systemd-nspawn --quiet --keep-unit --register=no --boot --directory="$bed_dir/hosts/$name" \
        --machine="$bed_name-$name" --network-bridge=br0 --console=pipe "$@" || status=$?
      # So it says that the host is to be booted again.
      [[ $status -eq 133 ]] || break
    done
  ) </dev/null >"$bed_dir/$name.console" 2>&1 &
  bed_pid[$name]=$!
  disown
}

# The PID of the host's own init; another one after each boot.
bed_init() {
  local keeper
  keeper=$(pgrep --parent "${bed_pid[$1]}" --oldest) && pgrep --parent "$keeper" --oldest
}

# on HOST COMMAND...: as root on that host.
on() {
  local init
  init=$(bed_init "$1") || return 255
  shift
  nsenter --target "$init" --all env -i --chdir=/root HOME=/root LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# wait_for SECONDS WHAT COMMAND...
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS > deadline)); then
      "$@" || true
      fail "waited in vain for $what"
    fi
    sleep 0.2
  done
}

bed_is_up() { [[ $(on "$1" systemctl is-system-running) =~ ^(running|degraded)$ ]]; }

# bed_reboot HOST: at once, as after a power cut: nothing is stopped or written first.
bed_reboot() {
  local before
  before=$(bed_init "$1")
  on "$1" systemctl reboot --force --force || true
  wait_for 30 "$1 to go down" bed_is_another "$1" "$before"
  wait_for 60 "$1 to come up again" bed_is_up "$1"
}

bed_is_another() {
  local now
  now=$(bed_init "$1") && [[ $now != "$2" ]]
}

bed_down() {
  local name dir
  for name in "${!bed_pid[@]}"; do
    # First who would boot it again.
    kill -KILL "${bed_pid[$name]}" "$(pgrep --parent "${bed_pid[$name]}" || true)" "$(bed_init "$name")" 2>/dev/null || true
  done
  ip netns del "$bed_name" 2>/dev/null || true
  [[ -n $bed_dir ]] || return 0
  umount -l "$bed_dir/hosts" 2>/dev/null || true
  for dir in $(bed_cgroups); do
    find "$dir" -depth -type d -path "$dir/$bed_name-*" -exec rmdir {} + 2>/dev/null || true
  done
  rm -rf "$bed_dir"
}
