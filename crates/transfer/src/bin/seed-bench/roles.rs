//! The processes that the benchmark starts from its own program: the two ends of a seed, and of the floor.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use transfer::{Compression, DigestKind, Donor, DonorOptions, RecipientOptions, Throttle, Token, receive};

/// Runs one role; see [`crate::contest`] for who starts it with what.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["donor", root, addr, tokens, security] => donor(root, addr, tokens, security),
        ["recipient", staging, addr, token, fingerprint, durable, compression, old, relay, fault] => {
            let mut options = recipient(staging, addr, token)?;
            options.fingerprint = fingerprint.parse().ok();
            options.durable = *durable == "durable";
            options.compression = match *compression {
                "none" => Compression::None,
                "lz4" => Compression::Lz4,
                "zstd" => Compression::Zstd,
                _ => Compression::Auto,
            };
            if *relay != "-" {
                let ip: IpAddr = relay.parse().map_err(|_| "bad address")?;
                options.relay = Some(SocketAddr::new(ip, 0));
                options.digests = vec![DigestKind::Blake3];
            }
            go_wrong(fault, &mut options)?;
            options.delta_base = (*old != "-").then(|| old.into());
            let journal = options.journal.clone();
            let received = receive(options).map_err(|error| format!("{error:?}"))?;
            // It may lie beside other trees that are counted.
            std::fs::remove_file(journal).map_err(|error| error.to_string())?;
            report(received.bytes_wire);
            Ok(())
        }
        ["floor-send", root, addr] => {
            crate::floor::send(Path::new(root), addr).map_err(|error| error.to_string())
        }
        ["floor-receive", root, addr] => {
            let listener = TcpListener::bind(addr).map_err(|error| error.to_string())?;
            crate::floor::receive(Path::new(root), &listener).map_err(|error| error.to_string())
        }
        _ => Err("unknown role".to_owned()),
    }
}

fn donor(root: &str, addr: &str, tokens: &str, security: &str) -> Result<(), String> {
    let tokens = tokens.split(',').map(str::parse).collect::<Result<Vec<Token>, _>>();
    let mut tokens = tokens.map_err(|_| "bad token")?.into_iter();
    let token = tokens.next().ok_or("no token")?;
    let options = DonorOptions {
        listen: addr.parse().map_err(|_| "bad address")?,
        tls: security != "plain",
        // Agents make an offer for each recipient.
        connections_max: 64 * (tokens.len() + 1),
        pace_long_paths: security != "tls-unpaced",
        ..DonorOptions::new(root, token)
    };
    let donor = Donor::start(options).map_err(|error| format!("{error:?}"))?;
    tokens.for_each(|token| donor.add_token(token));
    println!(
        "{}",
        donor.fingerprint().map_or_else(|| "plain".to_owned(), |fingerprint| fingerprint.to_string())
    );
    let done = donor.wait().map_err(|error| format!("{error:?}"))?;
    // The recipient hangs up by itself when it has read the donor's proof.
    while donor.progress().snapshot().connections > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    report(done.bytes_sent);
    Ok(())
}

fn recipient(staging: &str, addr: &str, token: &str) -> Result<RecipientOptions, String> {
    let token: Token = token.parse().map_err(|_| "bad token")?;
    let addr = addr.parse().map_err(|_| "bad address")?;
    let journal = format!("{staging}.journal");
    let mut options = RecipientOptions::new(vec![addr], token, staging, journal);
    if let Some(asked) = std::env::var("SEED_BENCH_CONNECTIONS").ok().and_then(|text| text.parse().ok()) {
        options.connections = asked;
    }
    Ok(options)
}

/// Has a recipient be slow, hand on false bytes or die.
fn go_wrong(fault: &str, options: &mut RecipientOptions) -> Result<(), String> {
    match fault {
        "-" => {}
        "slow" => options.throttle = Arc::new(Throttle::limited(512 << 10)),
        "dies" => drop(thread::spawn(|| {
            thread::sleep(Duration::from_secs(2));
            std::process::abort();
        })),
        "false" => {
            let staging = options.staging.clone();
            thread::spawn(move || {
                loop {
                    spoil(&staging);
                }
            });
        }
        _ => return Err("unknown fault".to_owned()),
    }
    Ok(())
}

/// Writes over every file that has arrived.
fn spoil(staging: &Path) {
    let files = std::fs::read_dir(staging).into_iter().flatten().flatten();
    for file in files.filter_map(|entry| File::options().write(true).open(entry.path()).ok()) {
        let len = file.metadata().map_or(0, |meta| meta.len());
        for at in (0..len).step_by(256 << 10) {
            let _ = file.write_all_at(&[0x5a; 64], at);
        }
    }
    thread::sleep(Duration::from_millis(10));
}

/// Peak resident memory and bytes on the wire, read by the parent.
fn report(wire: u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    println!("figures {} {wire}", peak.split_whitespace().next().unwrap_or("0"));
}
