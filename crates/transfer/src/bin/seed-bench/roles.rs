//! The processes that the benchmark starts from its own program: the two ends of a seed, and of the floor.

use std::net::TcpListener;
use std::path::Path;

use transfer::{Donor, DonorOptions, RecipientOptions, Token, receive};

/// Runs one role; see [`crate::contest`] for who starts it with what.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["donor", root, port, token, tls] => donor(root, port, token, *tls == "tls"),
        ["recipient", staging, port, token, fingerprint, connections, durable] => {
            recipient(staging, port, token, fingerprint, connections, *durable == "durable")
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

fn donor(root: &str, port: &str, token: &str, tls: bool) -> Result<(), String> {
    let token: Token = token.parse().map_err(|_| "bad token")?;
    let options = DonorOptions {
        listen: format!("127.0.0.1:{port}").parse().map_err(|_| "bad port")?,
        tls,
        ..DonorOptions::new(root, token)
    };
    let donor = Donor::start(options).map_err(|error| format!("{error:?}"))?;
    println!(
        "{}",
        donor.fingerprint().map_or_else(|| "plain".to_owned(), |fingerprint| fingerprint.to_string())
    );
    donor.wait().map_err(|error| format!("{error:?}"))?;
    // The recipient hangs up by itself when it has read the donor's proof.
    while donor.progress().snapshot().connections > 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    report_memory("donor");
    Ok(())
}

fn recipient(
    staging: &str,
    port: &str,
    token: &str,
    fingerprint: &str,
    connections: &str,
    durable: bool,
) -> Result<(), String> {
    let token: Token = token.parse().map_err(|_| "bad token")?;
    let addr = format!("127.0.0.1:{port}").parse().map_err(|_| "bad port")?;
    let journal = format!("{staging}.journal");
    let options = RecipientOptions {
        fingerprint: fingerprint.parse().ok(),
        connections: connections.parse().map_err(|_| "bad number of connections")?,
        durable,
        ..RecipientOptions::new(vec![addr], token, staging, journal)
    };
    receive(options).map_err(|error| format!("{error:?}"))?;
    report_memory("recipient");
    Ok(())
}

/// Peak resident memory, read by the parent.
fn report_memory(role: &str) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    println!("peak {role} {}", peak.trim());
}
