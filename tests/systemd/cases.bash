# shellcheck shell=bash
# What is proven on the bed, one function each, in this order. The first ones set up what the others need.

CASES=(hosts_boot pages_work seed_with_active_socket nobody_starts_it_meanwhile reboot_in_the_swap undo_of_a_kept_seed
  stop_and_start_with_socket start_limit_is_told restart_during_a_seed masked_by_the_operator
  first_start_is_closed agent_tells_systemd proof_under_a_strict_umask events_and_who_is_missing)
NEEDED=(hosts_boot pages_work)
declare -A public_key=()
hold=/etc/systemd/system/mariadb.service.d/zzz-orchestrator-agent-hold.conf
generation=0

# On the machine of the person who works: bus1, in the directory with the keys.
at_desk() { on bus1 bash -c "set -euo pipefail; cd /root/desk; if [[ -e env ]]; then source ./env; fi; $1"; }
ctl() { at_desk "orchestrator-ctl $*"; }
sql() { on "$1" mariadb -N -e "$2"; }

hosts_boot() {
  local base=$bed_dir/hosts/base name number=2
  install "$programs/orchestrator-agent" "$programs/orchestrator-ctl" "$base/usr/bin/"
  install -m 0644 ops/systemd/orchestrator-agent.service "$base/etc/systemd/system/"
  printf '127.0.0.1 localhost\n10.66.0.2 bus1.example.com bus1\n10.66.0.3 db1\n10.66.0.4 db2\n' >"$base/etc/hosts"
  for name in bus1 db1 db2; do bed_host "$name" $((number++)); done
  for name in db1 db2; do
    # A donor needs its binary log, and so does who recovers what was being committed there.
    printf '[mysqld]\nserver_id=%s\nlog_bin=binlog\n' "${name#db}" >"$bed_dir/hosts/$name/etc/mysql/mariadb.conf.d/60-log.cnf"
  done
  mkdir -p "$bed_dir/hosts/bus1/root/desk"
  bed_boot bus1 --bind-ro="$repository/ops:/root/desk/ops"
  bed_boot db1
  bed_boot db2
  for name in bus1 db1 db2; do wait_for 60 "$name to come up" bed_is_up "$name"; done
  for name in db1 db2; do
    wait_for 60 "MariaDB on $name" sql "$name" "SELECT 1"
    on "$name" systemctl is-active --quiet mariadb.socket || fail "mariadb.socket does not listen on $name: nothing is proven"
  done
  sql db1 "CREATE DATABASE shop; USE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, v CHAR(200)) ENGINE=InnoDB;
           INSERT INTO shop.t SELECT seq, MD5(seq) FROM seq_1_to_200000; CREATE TABLE shop.generation (g INT)"
}

# Each command of README's section, on the host that it is for.
pages_work() {
  local command name
  while IFS= read -r command; do
    command=$(with_keys "$command")
    case $command in
      *"key generate"*) make_keys "$command" ;;
      *"bus config"*) start_bus "$command" ;;
      "systemctl enable"*) configure_agents "$command" ;;
      "export "*) at_desk "$command; export -p | grep ORCH_ >>env" ;;
      *"seed start"*)
        new_generation
        # A person at a terminal says yes.
        at_desk "printf 'y\n' | script --quiet --return --command '$command' /dev/null"
        ;;
      # The recipient's agent watches for a minute whether anybody uses its server; a person reads on meanwhile.
      *"seed plan"*) wait_for 90 "the plan to pass" at_desk "$command" ;;
      *) at_desk "$command" ;;
    esac || fail "README: $command"
  done < <(page_commands README.md "Two real hosts")
  has_generation db2 "$generation"
  # What follows seeds again and again, and nobody but these cases uses the servers.
  for name in db1 db2; do
    on "$name" bash -c "printf '\n[seed]\nwatch_s = 0\n' >>/etc/orchestrator-agent/agent.toml"
    on "$name" systemctl restart orchestrator-agent
  done
  wait_for 30 "the agents" agents_answer
}

make_keys() {
  local names keys index
  mapfile -t names < <(grep -o '[a-z0-9]*\.nk' <<<"$1")
  mapfile -t keys < <(at_desk "$1" | grep -o 'U[A-Z2-7]\{55\}')
  [[ ${#names[@]} -gt 0 && ${#names[@]} -eq ${#keys[@]} ]] || return 1
  for index in "${!names[@]}"; do public_key[${names[index]%.nk}]=${keys[index]}; done
}

start_bus() {
  local command
  while IFS= read -r command; do
    case $command in
      # It is there; and who sets up is not known yet.
      *apt-get*|*"bus setup"*) ;;
      *) at_desk "$(with_keys "$command")" || return 1 ;;
    esac
  done < <(page_commands ops/nats/README.md "On Debian")
  at_desk "$1" && on bus1 systemctl restart nats-server
}

configure_agents() {
  local name text
  text=$(page_block README.md "Two real hosts" toml)
  text=${text//'"U…"'/"\"${public_key[dba]}\""}
  # No host here has LVM.
  text=${text//'provider = "lvm"'/$'provider = "reflink"\nroot = "/srv/mysql-snapshots"'}
  for name in db1 db2; do
    on "$name" install -d /etc/orchestrator-agent /srv/mysql-snapshots
    at_desk "cat $name.nk" | on "$name" install -m 0600 /dev/stdin "/etc/orchestrator-agent/$name.nk"
    on "$name" install -m 0644 /dev/stdin /etc/orchestrator-agent/agent.toml <<<"${text//db1/$name}"
    on "$name" $1
  done
  wait_for 30 "both agents on the bus" agents_answer
}

agents_answer() {
  on bus1 bash -c "cd /root/desk; for host in db1 db2; do
    ORCH_SERVER=nats://bus1.example.com:4222 ORCH_NKEY_FILE=dba.nk ORCH_SIGN_KEY=dba.nk ORCH_INBOX_PREFIX=_INBOX_USER_dba \
      orchestrator-ctl --timeout 2s host \$host info || exit 1; done"
}

# Something on the donor that the recipient does not have yet.
new_generation() {
  generation=$((generation + 1))
  sql db1 "DELETE FROM shop.generation; INSERT INTO shop.generation VALUES ($generation)"
  ctl snapshot create db1
}

has_generation() {
  local donor recipient
  [[ $(sql "$1" "SELECT g FROM shop.generation") == "$2" ]] || fail "$1 has not generation $2"
  donor=$(sql db1 "CHECKSUM TABLE shop.t") recipient=$(sql "$1" "CHECKSUM TABLE shop.t")
  [[ $donor == "$recipient" ]] || fail "rows differ: $donor, $recipient"
}

# The recipient is as a host should be after a seed: all that was active is, and nothing is held.
is_at_rest() {
  on db2 systemctl is-active --quiet mariadb.service || fail "mariadb.service is not active on db2"
  on db2 systemctl is-active --quiet mariadb.socket || fail "mariadb.socket is not active on db2"
  on db2 test ! -e "$hold" || fail "mariadb.service is still held on db2"
  on db2 test ! -e /etc/systemd/system/mariadb.socket.d || fail "a drop-in of the socket is left on db2"
  [[ $(on db2 systemctl show --property=NeedDaemonReload --value mariadb.service) == no ]] || fail "systemd was not told"
}

seed_with_active_socket() {
  local round
  for round in 1 2 3; do
    new_generation
    ctl --yes seed start db2 --from db1 --stop-mysql || fail "seed $round"
    has_generation db2 "$generation"
    is_at_rest
  done
}

# pause_at POINT: db2's agent stops there in its next seed until the file is made.
pause_at() {
  on db2 rm -f /var/lib/pause /var/lib/pause.reached
  on db2 install -D -m 0644 /dev/stdin /etc/systemd/system/orchestrator-agent.service.d/fault.conf \
    <<<"[Service]
Environment=OA_FAULT=pause@$1=/var/lib/pause"
  on db2 systemctl daemon-reload
  on db2 systemctl restart orchestrator-agent
  wait_for 30 "the agents" agents_answer
}

no_pause() {
  on db2 rm -f /etc/systemd/system/orchestrator-agent.service.d/fault.conf
  on db2 systemctl daemon-reload
  on db2 systemctl restart orchestrator-agent
  wait_for 30 "the agents" agents_answer
}

seed_up_to() {
  pause_at "$1"
  new_generation
  ctl --yes seed start db2 --from db1 --stop-mysql >"$bed_dir/seed.log" 2>&1 &
  seed_pid=$!
  wait_for 60 "the seed to reach $1" on db2 test -e /var/lib/pause.reached
}

seed_ends_well() {
  on db2 touch /var/lib/pause
  wait_for 90 "generation $generation on db2" has_arrived
  wait "$seed_pid" || true
  no_pause
  is_at_rest
}

has_arrived() { [[ $(sql db2 "SELECT g FROM shop.generation") == "$generation" ]] && on db2 test ! -e "$hold"; }

is_held() {
  local said
  on db2 test -e "$hold" || fail "nothing holds mariadb.service"
  # The client that would wake the socket, the operator, and systemd itself.
  if sql db2 "SELECT 1" 2>/dev/null; then fail "a client reached a server in the middle of the swap"; fi
  if said=$(on db2 systemctl start mariadb 2>&1); then fail "the operator could start MariaDB in the middle of the swap"; fi
  [[ $said == *"Assertion failed"* ]] || fail "systemctl start said: $said"
  said=$(on db2 systemctl status mariadb) || true
  [[ $said == *"AssertPathExists=!$hold was not met"* ]] || fail "systemctl status does not show who holds it: $said"
  on db2 systemctl start mariadb.socket 2>/dev/null && fail "the socket could be started in the middle of the swap"
  return 0
}

nobody_starts_it_meanwhile() {
  seed_up_to swap:end
  is_held
  on db2 systemctl kill --signal=KILL --kill-who=main orchestrator-agent
  is_held
  seed_ends_well
  has_generation db2 "$generation"
}

reboot_in_the_swap() {
  seed_up_to swap:end
  bed_reboot db2
  [[ $(on db2 systemctl show --property=AssertResult --value mariadb.service) == no ]] || fail "the boot did not try to start MariaDB"
  is_held
  seed_ends_well
  has_generation db2 "$generation"
}

undo_of_a_kept_seed() {
  local before=$generation
  new_generation
  ctl --yes seed start db2 --from db1 --stop-mysql --keep-old 1h
  has_generation db2 "$generation"
  ctl --yes seed undo db2
  has_generation db2 "$before"
  is_at_rest
}

stop_and_start_with_socket() {
  local said
  ctl --yes mysql db2 stop
  if sql db2 "SELECT 1" 2>/dev/null; then fail "its socket started MariaDB again"; fi
  on db2 test ! -e "$hold" || fail "a stopped MariaDB is held: its operator could not start it"
  ctl mysql db2 start
  is_at_rest
  ctl --yes mysql db2 restart
  is_at_rest
}

start_limit_is_told() {
  local said began
  on db2 systemctl stop mariadb.socket mariadb.service
  on db2 bash -c 'for i in 1 2 3 4 5 6 7; do systemctl start mariadb && systemctl stop mariadb; done' 2>/dev/null || true
  began=$SECONDS
  if said=$(ctl mysql db2 start 2>&1); then fail "it started: the start limit was not met"; fi
  [[ $said == *start-limit-hit* && $said == *"systemctl reset-failed mariadb.service"* ]] || fail "it was told: $said"
  say "the start limit was told after $((SECONDS - began)) s"
  on db2 systemctl reset-failed mariadb.service
  on db2 systemctl start mariadb.socket
  ctl mysql db2 start
  is_at_rest
}

restart_during_a_seed() {
  seed_up_to transfer:end
  on db2 systemctl restart orchestrator-agent
  seed_ends_well
  has_generation db2 "$generation"
}

masked_by_the_operator() {
  local said
  on db2 systemctl mask mariadb.service
  if said=$(ctl --yes seed start db2 --from db1 --stop-mysql 2>&1); then fail "a seed ended well that could not start MariaDB"; fi
  [[ $said == *"systemctl unmask mariadb.service"* ]] || fail "it was told: $said"
  [[ $(on db2 systemctl show --property=LoadState --value mariadb.service) == masked ]] || fail "the mask is gone"
  on db2 systemctl unmask mariadb.service
}

# An application with rights of its own, at the socket of a server that is to become a replica.
first_start_is_closed() {
  local said
  sql db1 "CREATE OR REPLACE USER repl@'%' IDENTIFIED BY 'repl'; GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO repl@'%';
           CREATE OR REPLACE USER app@localhost IDENTIFIED BY 'app'; GRANT INSERT, SELECT ON shop.* TO app@localhost"
  on db2 install -m 0600 /dev/stdin /etc/orchestrator-agent/repl.cnf <<<$'[client]\nuser=repl\npassword=repl\nssl-mode=DISABLED'
  on db2 sed -i '/^\[seed\]/a replication_credentials = "/etc/orchestrator-agent/repl.cnf"' /etc/orchestrator-agent/agent.toml
  pause_at start:end
  # A unit that does not pass the word on.
  on db2 mkdir -p /run/systemd/system/mariadb.service.d
  on db2 bash -c 'printf "[Service]\nExecStart=\nExecStart=/usr/sbin/mariadbd\n" >/run/systemd/system/mariadb.service.d/own.conf'
  on db2 systemctl daemon-reload
  said=$(ctl seed plan db2 --from db1 --stop-mysql --replicate-from db1:3306 2>&1 || true)
  [[ $said == *"does not pass MYSQLD_OPTS on"* ]] || fail "a start that is open to writes was planned: $said"
  on db2 rm /run/systemd/system/mariadb.service.d/own.conf
  on db2 systemctl daemon-reload
  new_generation
  ctl --yes seed start db2 --from db1 --stop-mysql --replicate-from db1:3306 >"$bed_dir/seed.log" 2>&1 &
  seed_pid=$!
  wait_for 90 "the seed to reach start:end" on db2 test -e /var/lib/pause.reached
  if said=$(on db2 mariadb -N -uapp -papp -e "INSERT INTO shop.generation VALUES (-1)" 2>&1); then fail "an application wrote before it was a replica"; fi
  [[ $said == *read-only* ]] || fail "the application was told: $said"
  on db2 test ! -e /run/systemd/system/mariadb.service.d/zzz-orchestrator-agent-closed.conf || fail "its next start would be read-only too"
  on db2 touch /var/lib/pause
  wait "$seed_pid" || fail "the seed: $(tail -n 3 "$bed_dir/seed.log")"
  no_pause
  [[ $(sql db2 "SELECT @@read_only") == 1 ]] || fail "the replica is open to writes"
  [[ $(sql db2 "SHOW SLAVE STATUS") == *repl* ]] || fail "db2 is no replica"
  # For the cases that follow.
  sql db2 "STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = OFF"
  is_at_rest
}

agent_tells_systemd() {
  local started
  [[ $(on db2 systemctl show --property=Type --value orchestrator-agent) == notify ]] || fail "the unit does not wait for the agent"
  # An agent that is stuck is started again.
  on db2 mkdir -p /run/systemd/system/orchestrator-agent.service.d
  on db2 bash -c 'printf "[Service]\nWatchdogSec=2s\n" >/run/systemd/system/orchestrator-agent.service.d/quick.conf'
  on db2 systemctl daemon-reload
  on db2 systemctl restart orchestrator-agent
  started=$(on db2 systemctl show --property=MainPID --value orchestrator-agent)
  sleep 5 # sleeps because nothing may happen: it lives
  [[ $(on db2 systemctl show --property=MainPID --value orchestrator-agent) == "$started" ]] || fail "the watchdog ended a sound agent"
  on db2 kill -STOP "$started"
  wait_for 30 "another agent in the place of the stuck one" is_another_agent "$started"
  on db2 rm -r /run/systemd/system/orchestrator-agent.service.d
  on db2 systemctl daemon-reload
  on db2 systemctl restart orchestrator-agent
  wait_for 30 "the agents" agents_answer
}

is_another_agent() {
  local now
  now=$(on db2 systemctl show --property=MainPID --value orchestrator-agent)
  [[ $now != 0 && $now != "$1" ]]
}

proof_under_a_strict_umask() {
  local snapshot
  snapshot=$(ctl snapshot list db1 | grep -o 'shop-[0-9]*T[0-9]*Z' | head -1)
  ctl snapshot verify db1 "$snapshot" || fail "a sound snapshot is not proven"
  ctl mysql db1 start --on-snapshot "$snapshot" --port 3307 || fail "no server comes up on a snapshot"
  on db1 mariadb --socket=/run/orchestrator-agent/servers/3307/own/s -e "SELECT g FROM shop.generation" >/dev/null ||
    fail "the server on the snapshot does not answer"
  ctl --yes mysql db1 stop --on-snapshot "$snapshot"
}

events_and_who_is_missing() {
  local said
  said=$(ctl events --since 1h --host db2) || fail "events: $said"
  [[ $said == *seed* ]] || fail "no event of a seed of db2: $said"
  on db2 systemctl stop orchestrator-agent
  said=$(ctl fleet) || true
  [[ $said == *"1 missing"* ]] || fail "a host that is down is not missed: $said"
  on db2 systemctl start orchestrator-agent
  wait_for 30 "the agents" agents_answer
}

show_logs() {
  local name
  for name in "${!bed_pid[@]}"; do
    say "the last of $name:" >&2
    on "$name" journalctl --no-pager --lines=25 --output=cat -u orchestrator-agent -u nats-server >&2
    on "$name" journalctl --no-pager --lines=12 --output=cat -t systemd -t mariadbd >&2
  done
  if [[ -e $bed_dir/seed.log ]]; then tail -20 "$bed_dir/seed.log" >&2; fi
}
