# shellcheck shell=bash
# What is proven of the packages, one function each, in this order.

CASES=(hosts_boot installed_and_not_started five_lines_and_it_is_in_the_fleet a_seed_works upgrade_in_the_middle_of_a_seed
  removal_in_the_middle_of_a_seed removed_and_installed_again purged)
generation=0

# Two versions of each package; the later agent has another sample configuration.
pack() {
  local profile=${PROFILE:-dist} package
  say "packing ($profile)"
  scripts/deb "$profile" --fast --deb-version 0.0.1-1 --output "$debs/one/" >/dev/null
  mkdir "$debs/two"
  for package in orchestrator-agent orchestrator-ctl orchestrator-gateway; do
    dpkg-deb --raw-extract "$debs/one/${package}_0.0.1-1_"*.deb "$debs/tree"
    sed -i 's/^Version: .*/Version: 0.0.2-1/' "$debs/tree/DEBIAN/control"
    if [[ $package == orchestrator-agent ]]; then
      echo "# A line that the package before did not have." >>"$debs/tree/etc/orchestrator-agent/agent.toml"
    fi
    dpkg-deb --root-owner-group -Znone --build "$debs/tree" "$debs/two" >/dev/null
    rm -r "$debs/tree"
  done
}

ctl() { on bus1 env ORCH_SERVER=nats://127.0.0.1:4222 orchestrator-ctl --actor tester --yes "$@"; }
sql() { on "$1" mariadb -N -e "$2"; }

# install_on HOST VERSION PACKAGE...: as an upgrade by night does it, which asks nobody.
install_on() {
  local host=$1 version=$2 files=() package
  shift 2
  for package in "$@"; do files+=(/root/debs/"$version"/"$package"_*.deb); done
  on "$host" env DEBIAN_FRONTEND=noninteractive bash -c "dpkg --install --force-confold ${files[*]}" >"$bed_dir/dpkg.log" 2>&1 ||
    fail "dpkg on $host: $(cat "$bed_dir/dpkg.log")"
}

# What is on a host, beside what changes by itself.
files_of() {
  on "$1" bash -c 'find /etc /usr /var/lib /opt /srv /run/systemd/system /var/log -xdev ! -type d \
    ! -path "/var/lib/mysql/*" ! -path "/var/lib/dpkg/*" ! -path "/var/lib/systemd/*" ! -path "/var/log/*" ! -path "*/__pycache__/*" \
    ! -path "/etc/*-" ! -path "/var/lib/apt/*" | sort; find /etc/orchestrator* /var/lib/orchestrator* /usr/share/doc/orchestrator* 2>/dev/null | sort'
}

hosts_boot() {
  local base=$bed_dir/hosts/base name number=2
  mkdir -p "$base/root/debs"
  cp -r "$debs/one" "$debs/two" "$base/root/debs/"
  printf '127.0.0.1 localhost\n10.66.0.2 bus1\n10.66.0.3 db1\n10.66.0.4 db2\n' >"$base/etc/hosts"
  for name in bus1 db1 db2; do bed_host "$name" $((number++)); done
  for name in db1 db2; do
    printf '[mysqld]\nserver_id=%s\nlog_bin=binlog\n' "${name#db}" >"$bed_dir/hosts/$name/etc/mysql/mariadb.conf.d/60-log.cnf"
  done
  printf 'listen: "0.0.0.0:4222"\njetstream { store_dir: "/var/lib/nats" }\n' >"$bed_dir/hosts/bus1/etc/nats-server.conf"
  for name in bus1 db1 db2; do bed_boot "$name"; done
  for name in bus1 db1 db2; do wait_for 60 "$name to come up" bed_is_up "$name"; done
  for name in db1 db2; do wait_for 60 "MariaDB on $name" sql "$name" "SELECT 1"; done
  on bus1 bash -c 'mkdir -p /var/lib/nats && chown nats /var/lib/nats && systemctl restart nats-server'
  sql db1 "CREATE DATABASE shop; USE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, v CHAR(200)) ENGINE=InnoDB;
           INSERT INTO shop.t SELECT seq, MD5(seq) FROM seq_1_to_200000; CREATE TABLE shop.generation (g INT)"
}

installed_and_not_started() {
  local name
  for name in db1 db2; do
    files_of "$name" >"$bed_dir/$name.before"
    install_on "$name" one orchestrator-agent
    # Nobody has configured it.
    [[ $(on "$name" systemctl is-active orchestrator-agent) == inactive ]] || fail "it runs on $name before it is configured"
    [[ $(on "$name" systemctl is-enabled orchestrator-agent) == disabled ]] || fail "it is enabled on $name before it is configured"
    on "$name" test -e /usr/share/doc/orchestrator-agent/README.md.gz -o -e /usr/share/doc/orchestrator-agent/README.md
  done
  install_on bus1 one orchestrator-ctl orchestrator-gateway
  on bus1 bash -c 'zcat /usr/share/man/man1/orchestrator-ctl-seed-start.1.gz | grep -q 'stop.*mysql'' || fail "no man page of seed start"
  for name in bash-completion/completions/orchestrator-ctl zsh/vendor-completions/_orchestrator-ctl fish/vendor_completions.d/orchestrator-ctl.fish; do
    on bus1 grep -q COMPLETE "/usr/share/$name" || fail "no completions in $name"
  done
  # The shell asks the program.
  on bus1 bash -c 'source /usr/share/bash-completion/completions/orchestrator-ctl
    COMP_WORDS=(orchestrator-ctl snap) COMP_CWORD=1 COMP_TYPE=9
    _clap_complete_orchestrator_ctl orchestrator-ctl snap
    [[ "${COMPREPLY[*]}" == *snapshot* ]]' || fail "bash does not complete snap"
  on bus1 getent passwd orchestrator-gateway >/dev/null || fail "the gateway has no account"
  [[ $(on bus1 systemctl is-active orchestrator-gateway) == inactive ]] || fail "the gateway runs before it is configured"
}

five_lines_and_it_is_in_the_fleet() {
  local name
  for name in db1 db2; do
    on "$name" mkdir -p /srv/mysql-snapshots
    on "$name" bash -c 'cat >/etc/orchestrator-agent/agent.toml' <<'LINES'
agent.cluster = "shop"
bus.servers = ["nats://bus1:4222"]
auth.accept_unsigned = true
seed.watch_s = 0
snapshot.provider = { provider = "reflink", root = "/srv/mysql-snapshots" }
LINES
    on "$name" systemctl enable --quiet --now orchestrator-agent
  done
  wait_for 60 "both hosts in the fleet" both_are_there
  [[ $(on db1 stat -c %a /var/lib/orchestrator-agent) == 700 ]] || fail "the state can be read by others"
}

both_are_there() {
  local said
  said=$(ctl fleet) && [[ $said == *db1* && $said == *db2* ]]
}

new_generation() {
  generation=$((generation + 1))
  sql db1 "DELETE FROM shop.generation; INSERT INTO shop.generation VALUES ($generation)"
  ctl snapshot create db1 >/dev/null
}

has_generation() {
  [[ $(sql db2 "SELECT g FROM shop.generation") == "$generation" ]] || fail "db2 has not generation $generation"
  [[ $(sql db1 "CHECKSUM TABLE shop.t") == "$(sql db2 "CHECKSUM TABLE shop.t")" ]] || fail "rows differ"
}

a_seed_works() {
  new_generation
  ctl seed start db2 --from db1 --stop-mysql >"$bed_dir/seed.log" 2>&1 || fail "the seed: $(tail -5 "$bed_dir/seed.log")"
  has_generation
}

# A seed of db2 that is in its transfer and stays there for a while.
slow_seed() {
  new_generation
  ctl seed start db2 --from db1 --stop-mysql --allow-primary --compression none --throttle 3M "$@" >"$bed_dir/seed.log" 2>&1 &
  seed=$!
  wait_for 60 "bytes of the seed to arrive" in_transfer
}

in_transfer() { [[ $(ctl --json jobs db2 list --unfinished) =~ \"bytes_done\":[[:space:]]*[1-9][0-9]{6} ]]; }

seed_ends_well() {
  wait_for 60 "the seed to take a new limit" ctl seed throttle db2 1G
  wait "$seed" || fail "the seed: $(tail -5 "$bed_dir/seed.log")"
  has_generation
}

upgrade_in_the_middle_of_a_seed() {
  local name before
  before=$(on db2 cat /etc/orchestrator-agent/agent.toml)
  declare -A pid
  for name in db1 db2; do pid[$name]=$(on "$name" systemctl show --property=MainPID --value orchestrator-agent); done
  slow_seed
  for name in db2 db1; do
    install_on "$name" two orchestrator-agent
    [[ $(on "$name" systemctl show --property=MainPID --value orchestrator-agent) != "${pid[$name]}" ]] || fail "the older agent runs on on $name"
  done
  seed_ends_well
  [[ $(on db2 cat /etc/orchestrator-agent/agent.toml) == "$before" ]] || fail "the upgrade has written to the configuration"
  on db2 systemctl is-enabled --quiet orchestrator-agent || fail "the upgrade has disabled the agent"
  grep -q 'bytes_resumed *[1-9]' "$bed_dir/seed.log" || fail "all bytes travelled again: $(grep bytes_ "$bed_dir/seed.log")"
}

removal_in_the_middle_of_a_seed() {
  local name said
  slow_seed
  for name in db2 db1; do
    if said=$(on "$name" dpkg --remove orchestrator-agent 2>&1); then fail "the agent was removed from $name in the middle of a seed"; fi
    [[ $said == *"gives or takes a seed"*"orchestrator-ctl jobs $name abort"* ]] || fail "dpkg said: $said"
    on "$name" systemctl is-active --quiet orchestrator-agent || fail "the refused removal has stopped the agent of $name"
  done
  seed_ends_well
}

removed_and_installed_again() {
  local before
  before=$(on db2 cat /etc/orchestrator-agent/agent.toml)
  wait_for 30 "the seed to be let go" seed_let_go
  on db2 dpkg --remove orchestrator-agent >/dev/null 2>&1 || fail "the agent cannot be removed"
  sql db2 "SELECT 1" >/dev/null || fail "MariaDB went with the agent"
  on db2 test -d /var/lib/orchestrator-agent/jobs || fail "a removal has taken the journals"
  install_on db2 two orchestrator-agent
  on db2 systemctl enable --quiet --now orchestrator-agent
  [[ $(on db2 cat /etc/orchestrator-agent/agent.toml) == "$before" ]] || fail "another configuration than before the removal"
  wait_for 60 "both hosts in the fleet" both_are_there
  [[ $(ctl jobs db2 list) == *seed.start* ]] || fail "the seeds of before are forgotten"
}

seed_let_go() { on db2 bash -c '[[ -z $(ls -A /var/lib/orchestrator-agent/seeds /var/lib/orchestrator-agent/offers | grep -v :) ]]'; }

# Nothing is left but what a person has made; of that everything.
purged() {
  local name left
  on db1 bash -c 'umask 077; echo mine >/etc/orchestrator-agent/db1.nk'
  slow_seed --keep-old 1h
  seed_ends_well
  wait_for 60 "the seed to be let go" seed_let_go
  for name in db1 db2; do
    on "$name" dpkg --purge orchestrator-agent >"$bed_dir/dpkg.log" 2>&1 || fail "the agent cannot be purged: $(cat "$bed_dir/dpkg.log")"
    sql "$name" "SELECT COUNT(*) FROM shop.t" >/dev/null || fail "MariaDB of $name went with the agent"
  done
  files_of db1 >"$bed_dir/db1.after"
  left=$(comm -13 <(sort -u "$bed_dir/db1.before") <(sort -u "$bed_dir/db1.after") | grep -v '^/srv/mysql-snapshots/' || true)
  [[ $left == $'/etc/orchestrator-agent\n/etc/orchestrator-agent/db1.nk' ]] || fail "a purge has left: $left"
  [[ -z $(comm -23 <(sort -u "$bed_dir/db1.before") <(sort -u "$bed_dir/db1.after")) ]] || fail "a purge has taken what was there before"
  on db1 bash -c 'ls /srv/mysql-snapshots/*/' >/dev/null || fail "a purge has taken snapshots"
  # The old datadir is a person's, and so is the word where it is.
  [[ -n $(on db2 find /var/lib -maxdepth 3 -path "*/.orch-seed-*" -name ibdata1) ]] ||
    fail "a purge has taken the old datadir: $(on db2 find /var/lib -maxdepth 2 -name ".orch*")"
  [[ $(on db2 ls /var/lib/orchestrator-agent/kept) == *.json ]] || fail "nothing tells of the old datadir any more"
  on bus1 dpkg --purge orchestrator-ctl orchestrator-gateway >/dev/null 2>&1 || fail "ctl and the gateway cannot be purged"
  [[ -z $(on bus1 bash -c 'find /etc /usr /var/lib -name "*orchestrator*" ! -path "/var/lib/dpkg/*"') ]] || fail "ctl and the gateway have left files"
}

show_logs() {
  local name
  for name in "${!bed_pid[@]}"; do
    say "the last of $name:" >&2
    on "$name" journalctl --no-pager --lines=15 --output=cat -u orchestrator-agent -u nats-server >&2
  done
  if [[ -e $bed_dir/seed.log ]]; then tail -20 "$bed_dir/seed.log" >&2; fi
}
