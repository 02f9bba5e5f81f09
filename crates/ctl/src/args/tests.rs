use clap::CommandFactory;
use clap::error::ErrorKind;
use protocol::seed::{Compression, SeedOptions, Transport};

use super::*;

fn parse(line: &str) -> Cli {
    Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"))
}

fn refused(line: &str) -> clap::Error {
    Cli::try_parse_from(line.split_whitespace()).map(|cli| panic!("{line} gave {cli:?}")).unwrap_err()
}

#[test]
fn the_definition_is_sound_and_every_subcommand_has_help() {
    fn check(command: &Command, path: &str) {
        for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            assert!(sub.get_about().is_some(), "{path} says nothing of itself");
            for arg in sub.get_arguments() {
                assert!(arg.get_help().is_some(), "{path} {} has no help", arg.get_id());
            }
            check(sub, &path);
        }
    }
    let command = Cli::command();
    command.clone().debug_assert();
    check(&command, "orchestrator-ctl");
}

#[test]
fn seed_options_travel_as_they_were_typed() {
    let cli = parse(
        "ctl seed start db7 db8 --from db1 --snapshot vg0/s1 --stop-mysql --allow-primary --allow-other-cluster --no-start --keep-old 2h \
         --connections 4 --throttle 50M --compression zstd --require-proven --delta --reread --transport store --detach --yes --json",
    );
    let Cmd::Seed(SeedCmd::Start { recipients, donor, options, run, .. }) = cli.command else {
        panic!("not a seed start")
    };
    assert_eq!(recipients.iter().map(AgentId::as_str).collect::<Vec<_>>(), ["db7", "db8"]);
    assert_eq!(donor.from.unwrap().as_str(), "db1");
    assert!(run.detach && !options.plain && cli.global.yes && cli.global.json);
    assert_eq!(
        options.to_wire(),
        SeedOptions {
            plain: false,
            stop_mysql: true,
            allow_primary: true,
            allow_busy_donor: false,
            allow_other_cluster: true,
            replace: false,
            start_mysql: false,
            keep_old_s: 7200,
            connections: 4,
            throttle_bytes_per_s: 50 << 20,
            compression: Compression::Zstd,
            transport: Transport::Store,
            require_proven: true,
            delta: true,
            reread: true,
            replicate_from: None,
            relay: false,
        }
    );
}

#[test]
fn without_options_a_seed_allows_nothing() {
    let Cmd::Seed(SeedCmd::Plan { options, .. }) = parse("ctl seed plan db7").command else { panic!() };
    assert_eq!(options.to_wire(), SeedOptions::default());
}

#[test]
fn a_replication_source_is_host_and_port() {
    for (text, host, port) in
        [("db1:3307", "db1", 3307), ("db1", "db1", 3306), ("[fd00::1]:3306", "fd00::1", 3306)]
    {
        let line = format!("ctl seed plan db7 --replicate-from {text}");
        let Cmd::Seed(SeedCmd::Plan { options, .. }) = parse(&line).command else { panic!() };
        let source = options.replicate_from.unwrap();
        assert_eq!((source.host.as_str(), source.port), (host, port));
    }
    refused("ctl seed plan db7 --replicate-from db1:mysql");
    refused("ctl seed plan db7 --replicate-from :3306");
}

#[test]
fn options_that_fight_each_other_are_refused() {
    for line in [
        "ctl seed start db7 --replace --keep-old 1h",
        "ctl seed start db7 --replace --delta",
        "ctl seed start db7 --no-start --replicate-from db1:3306",
        "ctl snapshot find shop --dc a --prefer-dc b",
        "ctl fleet --creds a --nkey-file b",
    ] {
        assert_eq!(refused(line).kind(), ErrorKind::ArgumentConflict, "{line}");
    }
    for line in ["ctl fleet --tls-cert a", "ctl seed start db7 --reread"] {
        assert_eq!(refused(line).kind(), ErrorKind::MissingRequiredArgument, "{line}");
    }
}

fn read(line: &str) -> Result<Cli, clap::Error> {
    Cli::read(line.split_whitespace().map(Into::into))
}

#[test]
fn json_is_asked_for_as_other_tools_have_it() {
    for line in [
        "ctl --json fleet",
        "ctl fleet -o json",
        "ctl fleet -ojson",
        "ctl -o json fleet",
        "ctl fleet --output json",
        "ctl --output=json fleet",
        "ctl --json fleet -o json",
    ] {
        assert!(read(line).unwrap().global.json, "{line}");
        let arguments: Vec<OsString> = line.split(' ').map(Into::into).collect();
        assert!(asks_for_json(&arguments), "{line}");
    }
    for line in ["ctl fleet", "ctl fleet -o text", "ctl fleet --output text"] {
        assert!(!read(line).unwrap().global.json, "{line}");
        let arguments: Vec<OsString> = line.split(' ').map(Into::into).collect();
        assert!(!asks_for_json(&arguments), "{line}");
    }
    for line in ["ctl --json fleet -o text", "ctl -o text fleet --json"] {
        assert_eq!(read(line).unwrap_err().kind(), ErrorKind::ArgumentConflict, "{line}");
    }
    let error = refused("ctl fleet -o yaml").to_string();
    assert!(error.contains("text, json"), "{error}");
}

#[test]
fn host_and_verb_are_understood_in_either_order() {
    for (line, spoken) in [
        ("ctl mysql start db1", "mysql start"),
        ("ctl mysql db1 start", "mysql start"),
        ("ctl jobs show db1 00ab", "jobs show"),
        ("ctl snapshot db1 create --keep 7d", "snapshot create"),
        ("ctl seed db7 start --from db1", "seed start"),
    ] {
        assert_eq!(read(line).unwrap_or_else(|e| panic!("{line}: {e}")).spoken, spoken);
    }
    let help = read("ctl mysql error-log --help").unwrap_err().to_string();
    assert!(help.contains("--lines"), "{help}");
    let unknown = read("ctl mysql db1 sart").unwrap_err().to_string();
    assert!(unknown.contains("'start'"), "{unknown}");
}

#[test]
fn bad_values_are_refused_with_what_was_expected() {
    for (line, part) in [
        ("ctl seed start db7 --throttle fast", "write it like 500K"),
        ("ctl seed start db7 --keep-old soon", "write it like 30s"),
        ("ctl seed start d/b7", "only letters, digits"),
        ("ctl snapshot remove db1 ../etc", "no part of it may be"),
        ("ctl events --since whenever", "write it like 2026"),
        ("ctl mysql db1 error-log -n 0", "1..=1000"),
        ("ctl jobs db1 show 17", "expected the id of a job"),
        ("ctl --timeout never fleet", "30s, 5m"),
        ("ctl bus config --controller nonsense", "not NAME=KEY"),
        ("ctl bus config --agent db1=nonsense", "no public nkey"),
    ] {
        let error = refused(line).to_string();
        assert!(error.contains(part), "{line}: {error}");
    }
    assert_eq!(refused("ctl seed start").kind(), ErrorKind::MissingRequiredArgument);
    assert_eq!(refused("ctl mysql db1 start --port 3307").kind(), ErrorKind::MissingRequiredArgument);
}

#[test]
fn every_command_of_the_brief_is_understood() {
    let job = "01931111-0000-7000-8000-000000000000";
    for line in [
        "fleet --watch --cluster c --dc d",
        "host db1 info",
        "host db1:3307 status",
        "host db1 disk-free /var/lib",
        "host db1 disk-usage /var/lib --fresh",
        "host db1 volumes ^vg0",
        "mysql db1 info",
        "mysql db1 start --detach",
        "mysql db1 stop",
        "mysql db1 start --on-snapshot vg0/s --port 3307 --detach",
        "mysql db1 stop --on-snapshot vg0/s",
        "mysql db1 restart",
        "mysql db1 error-log -n 5",
        "mysql db1 disk-usage",
        "mysql db1 disk-free",
        "snapshot list db1 --usable",
        "snapshot create db1 --keep 7d --size 20G",
        "snapshot remove db1 vg0/s",
        "snapshot mount db1 vg0/s --writable --at-mount-point",
        "snapshot unmount db1 vg0/s",
        "snapshot mount db1",
        "snapshot unmount db1",
        "snapshot mounts db1",
        "snapshot verify db1 vg0/s --budget 2m",
        "snapshot find shop --dc dc1",
        "snapshot find shop --local-dc dc1",
        "snapshot find shop --prefer-dc dc1",
        "datadir db1 clear --datadir /var/lib/mysql",
        "datadir db1 post-copy",
        "binlog db1 files",
        "binlog db1 relay-files",
        "binlog db1 relay-end",
        "binlog db1 text binlog.000001 --start 4",
        "binlog db1 binary binlog.000001 --stop 999",
        "binlog db1 apply -",
        "custom db1 list",
        "custom db1 run warm-up",
        "jobs db1 list --unfinished",
        &format!("jobs db1 show {job}"),
        &format!("jobs db1 watch {job}"),
        &format!("jobs db1 abort {job}"),
        "seed plan db7 --from db1",
        "seed watch db7",
        &format!("seed watch db7 {job}"),
        "seed abort db7",
        &format!("seed show db7 {job}"),
        "seed throttle db7 80M",
        "seed undo db7",
        "seed list db7 -n 5 --unfinished",
        "seed show db7 00ab",
        "events --follow --since 2h --cluster c --host db1 --kind job",
        "raw db1 agent.info",
        "raw db1 mysql.error-log {\"lines\":3} --queue 1h",
        "key generate /tmp/k",
        "key show /tmp/k",
        "bus config --strict",
        "bus init /tmp/k",
        "bus user --keys /tmp/k --agent db1 --controller alice --auditor bob --valid 90d --into /tmp",
        "bus revoke --keys /tmp/k db1 --offline",
        "bus push --keys /tmp/k",
    ] {
        parse(&format!("ctl {line}"));
    }
}
