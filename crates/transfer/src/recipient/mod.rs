//! The recipient's end: pulls a tree into a staging directory and proves it.
//!
//! Named phases, one after the other: connect, manifest, recheck (what an earlier run left), transfer (several threads
//! that pull, one that settles), complete (metadata, flush), prove (root digest, both ways). All failures leave through one
//! door: the first cause wins, the sockets close, staging and journal stay for the next try.

mod connect;
mod crew;
mod journal;
mod options;
mod peers;
mod pull;
mod queue;
mod rates;
mod recheck;
mod relay;
mod settle;
mod shared;
mod staged;
mod staging;
mod swarm;

/// What a stream's recipient has in common with a tree's.
pub(crate) mod pieces {
    pub(crate) use super::connect::connect;
    pub(crate) use super::journal::Journal;
    pub(crate) use super::pull::donor_failure;
    pub(crate) use super::{donor_should_know, retrying};
}

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::digest::DigestTable;
use crate::frame::{Header, kind};
use crate::handshake::prove_root;
use crate::link::Link;
use crate::manifest::MANIFEST_LEN_MAX;
use crate::progress::Phase;
use crate::{Cancel, DigestKind, Error, Manifest, Progress, Result};
use connect::{Connected, connect, reach, shake_hands};
use crew::Crew;
pub(crate) use journal::Journal;
pub use options::{Base, RecipientOptions};
use pull::{Begin, donor_failure, pull_all};
use relay::Relay;
use shared::Shared;
use staging::{Old, Staging};

const CONNECTIONS_MAX: usize = 64;

/// A tree that has arrived and is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Content of the tree, in bytes.
    pub bytes_total: u64,
    /// Content that this call moved.
    pub bytes_moved: u64,
    /// Content that was there already, proven by an earlier call.
    pub bytes_resumed: u64,
    /// Bytes read from sockets, with framing and encryption.
    pub bytes_wire: u64,
    /// Files of the tree.
    pub files: u64,
    /// BLAKE3 over the manifest and all chunk digests, the same on both ends.
    pub root_digest: [u8; 32],
    /// Only what differs from [`RecipientOptions::base`] was moved; the rest is that tree's.
    pub since_base: bool,
    /// How long this call took.
    pub elapsed: Duration,
}

/// Pulls the donor's tree until it is complete and proven.
///
/// Connections that break are made anew by themselves. After a crash, the same call goes on where the journal ends.
#[expect(
    clippy::needless_pass_by_value,
    reason = "callers move it into a blocking task; nothing of it outlives the call"
)]
pub fn receive(options: RecipientOptions) -> Result<Received> {
    check_options(&options)?;
    let stop = options.cancel.child();
    let received = run(&options, &stop);
    stop.cancel();
    match received {
        Err(_) if options.cancel.is_cancelled() => Err(Error::Cancelled),
        other => other,
    }
}

fn check_options(options: &RecipientOptions) -> Result<()> {
    if options.connections > CONNECTIONS_MAX {
        return Err(Error::Options("connections must be at most 64"));
    }
    if options.digests.is_empty() {
        return Err(Error::Options("digests must not be empty"));
    }
    if options.journal.starts_with(&options.staging) {
        return Err(Error::Options("the journal must not lie inside the staging directory"));
    }
    Ok(())
}

fn run(options: &RecipientOptions, stop: &Arc<Cancel>) -> Result<Received> {
    if options.staging_inode.is_none() {
        fs::create_dir_all(&options.staging).map_err(Error::file("make the directory", &options.staging))?;
    }
    let mut journal = Journal::open(&options.journal)?;
    let session = journal.session;
    let received = run_phases(options, &mut journal, stop);
    if let Err(error) = &received
        && donor_should_know(error)
    {
        stop.cancel();
        tell_donor(options, session, &sys::error::line(error));
    }
    received
}

/// Tells the donor that nobody will come (again) for what it serves, so that it lets its snapshot go at once; best effort,
/// within [`RecipientOptions::tell_limit`] or little more. Of `options` only the donor's addresses, its secrets and the journal are used.
pub fn abandon(options: &RecipientOptions, why: &str) {
    if let Ok(journal) = Journal::open(&options.journal) {
        tell_donor(options, journal.session, why);
    }
}

/// Whether the donor cannot know of a failure, and holds its snapshot for nothing.
pub(crate) fn donor_should_know(error: &Error) -> bool {
    let donor_said_it = matches!(
        error,
        Error::DonorFailed(_) | Error::Token | Error::Fingerprint | Error::Version { .. } | Error::Cancelled
    );
    !donor_said_it && !error.is_retryable()
}

/// Tells the donor why this end gives up, on a fresh connection for the others may be full; best effort.
fn tell_donor(options: &RecipientOptions, session: [u8; 16], why: &str) {
    let bytes = crate::frame::bounded_text(why);
    let brief =
        RecipientOptions { stall_timeout: options.tell_limit.min(options.stall_timeout), ..options.clone() };
    let Ok(mut connected) = connect(&brief, session, &Cancel::new(), 0) else { return };
    let header = Header { len: bytes.len() as u32, ..Header::new(kind::GIVE_UP) };
    if connected.link.queue(&header.encode()).is_ok() && connected.link.queue(bytes).is_ok() {
        connected.link.close_gently(options.tell_limit);
    }
}

fn run_phases(options: &RecipientOptions, journal: &mut Journal, stop: &Arc<Cancel>) -> Result<Received> {
    let started = Instant::now();
    let progress = &options.progress;
    progress.enter(Phase::Connecting);
    if journal.fresh && !is_empty_dir(&options.staging)? {
        let detail = "it is not empty, and there is no journal of an earlier seed; empty it or name another"
            .to_owned();
        return Err(Error::Staging { path: options.staging.clone(), detail });
    }
    let mut crew = None;
    let (manifest, first) = retrying(options, stop, || {
        let reached = reach(options, stop, 0)?;
        crew.get_or_insert_with(|| Crew::gather(options, journal.session, stop, reached.rtt));
        let question = options.base.is_none().then(|| Header::new(kind::WANT_MANIFEST));
        let mut connected = shake_hands(options, journal.session, reached, question)?;
        if let Some(base) = &options.base {
            ask_since(&mut connected, base)?;
        }
        let manifest = await_manifest(&mut connected.link, progress)?;
        match (manifest.since(), &options.base) {
            (Some(since), base) if base.as_ref().is_none_or(|base| base.root_digest != *since) => {
                Err(Error::Protocol("a comparison with another tree than the one that is here"))
            }
            _ => Ok((manifest, connected)),
        }
    })?;
    progress.set_totals(manifest.bytes_data(), manifest.files());

    progress.enter(Phase::Recheck);
    let (staging, proven) = prepare(options, &manifest, journal, first.digest, stop)?;
    progress.enter(Phase::Transfer);
    let session = journal.session;
    let (digest, stop) = (first.digest, Arc::clone(stop));
    let mut crew = crew.unwrap_or_default();
    let connections = crew.suit(&first);
    let shared =
        Shared::new(options, connections, &manifest, &staging, proven, digest, session, Arc::clone(&stop));
    let relay = manifest.since().is_none().then(|| open_relay(options, &first, &stop)).flatten();
    let root_digest = match &relay {
        Some(relay) => peers::in_company(&shared, relay, || finish(&shared, first, crew, journal))?,
        None => finish(&shared, first, crew, journal)?,
    };
    progress.enter(Phase::Done);
    let counters = progress.snapshot();
    Ok(Received {
        bytes_total: manifest.bytes_total(),
        bytes_moved: counters.bytes_done - counters.bytes_resumed,
        bytes_resumed: counters.bytes_resumed,
        bytes_wire: counters.bytes_wire,
        files: manifest.files(),
        root_digest,
        since_base: manifest.since().is_some(),
        elapsed: started.elapsed(),
    })
}

/// Moves the chunks, completes the tree and has the donor confirm it: the root digest.
fn finish(shared: &Shared<'_>, first: Connected, crew: Crew, journal: &mut Journal) -> Result<[u8; 32]> {
    let (options, staging) = (shared.options, shared.staging);
    let unsettled = transfer(shared, first, crew, journal)?;
    options.progress.enter(Phase::Verify);
    staging.complete(shared.manifest)?;
    if options.durable {
        staging.flush_all()?;
    }
    settle::let_go(shared, &unsettled);
    journal.append(&unsettled, options.durable)?;
    let root_digest = shared.root_digest();
    staging.is_in_its_place()?;
    let mut kept = shared.kept();
    let (session, stop) = (shared.session, &shared.stop);
    retrying(options, stop, || prove(options, session, stop, &root_digest, kept.take()))?;
    Ok(root_digest)
}

/// Where this recipient hands on, if it does. Without it the donor alone gives everything, as ever.
fn open_relay(options: &RecipientOptions, first: &Connected, stop: &Cancel) -> Option<Relay> {
    let addr = options.relay?;
    let is_possible = first.introduces
        && first.digest == DigestKind::Blake3
        && options.fingerprint.is_some()
        && options.delta_base.is_none();
    if !is_possible {
        return None;
    }
    // Others come to the address that this one reaches the donor from.
    let is_v6 = options.donor.iter().all(SocketAddr::is_ipv6);
    let addr = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() && is_v6 => (Ipv6Addr::UNSPECIFIED, addr.port()).into(),
        _ => addr,
    };
    Relay::open(addr, stop.child())
        .inspect_err(|error| tracing::warn!(error = %sys::error::line(error), "nothing is handed on"))
        .ok()
}

fn is_empty_dir(path: &std::path::Path) -> Result<bool> {
    Ok(fs::read_dir(path).map_err(Error::file("list", path))?.next().is_none())
}

/// Tries again after failures that another connection may cure, until nothing has worked for the stall limit.
pub(crate) fn retrying<T>(
    options: &RecipientOptions,
    stop: &Cancel,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let started = Instant::now();
    let mut backoff = Duration::from_millis(50);
    loop {
        match attempt() {
            Err(error) if error.is_retryable() && !stop.is_cancelled() => {
                if started.elapsed() + backoff >= options.stall_timeout {
                    return Err(Error::Stalled {
                        seconds: started.elapsed().as_secs(),
                        last: Some(Box::new(error)),
                    });
                }
                stop.sleep(backoff);
                backoff = (backoff * 2).min(Duration::from_secs(2));
            }
            other => return other,
        }
    }
}

/// Asks for the manifest of what differs from a tree that is here, of a donor that can tell.
fn ask_since(connected: &mut Connected, base: &Base) -> Result<()> {
    let link = &mut connected.link;
    if connected.compares {
        link.queue(&Header { len: 32, ..Header::new(kind::WANT_SINCE) }.encode())?;
        link.queue(&base.root_digest)?;
    } else {
        link.queue(&Header::new(kind::WANT_MANIFEST).encode())?;
    }
    link.flush(false)
}

/// Takes the manifest, which was asked for.
fn await_manifest(link: &mut Link, progress: &Progress) -> Result<Manifest> {
    progress.enter(Phase::Manifest);
    let len = await_answer(link, kind::MANIFEST)?.value;
    if len > MANIFEST_LEN_MAX {
        return Err(crate::manifest::ManifestError::TooLarge("more than 256 MiB").into());
    }
    // Grows with what arrives, not with what was announced.
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < len {
        link.need(1)?;
        let part = link.received().len().min(len as usize - bytes.len());
        bytes.extend_from_slice(&link.received()[..part]);
        link.consume(part);
    }
    bytes.shrink_to_fit();
    Ok(Manifest::parse(bytes)?)
}

/// Waits for a frame of one kind; signs of life may come first.
fn await_answer(link: &mut Link, wanted: u8) -> Result<Header> {
    loop {
        let header = link.read_header()?;
        match header.kind {
            kind::KEEP_ALIVE => {}
            kind::FAILURE => return Err(donor_failure(link, header.len as usize)),
            other if other == wanted => return Ok(header),
            _ => return Err(Error::Protocol("an answer to no question")),
        }
    }
}

/// Makes staging ready and finds out what an earlier run has proven.
fn prepare(
    options: &RecipientOptions,
    manifest: &Manifest,
    journal: &mut Journal,
    digest: DigestKind,
    stop: &Cancel,
) -> Result<(Staging, DigestTable)> {
    let mut proven = DigestTable::new(manifest.chunks());
    let is_empty =
        fs::read_dir(&options.staging).map_err(Error::file("list", &options.staging))?.next().is_none();
    journal.bind(manifest, digest, |chunk, digest| {
        proven.set(chunk, digest);
    })?;
    let old = match (manifest.since(), &options.base, &options.delta_base) {
        (Some(_), Some(base), _) => Old::Rest(&base.root),
        (_, _, Some(old)) => Old::Compared(old),
        _ => Old::None,
    };
    let staging = Staging::prepare(
        &options.staging,
        options.staging_inode,
        manifest,
        options.owner,
        old,
        manifest.bytes_data() <= options.cache_max,
        !is_empty,
    )?;
    if proven.known_count() > 0 {
        recheck::recheck(options, manifest, &staging, digest, &mut proven, stop)?;
    }
    let there: u64 = recheck::proven_bytes(manifest, &proven);
    options.progress.add_resumed(there);
    options.progress.add_files(recheck::proven_files(manifest, &proven));
    let missing = manifest.bytes_data() - there;
    let free = staging.free_bytes()?;
    // What an earlier run wrote without proving it is counted twice here; only refuse what cannot fit in any case.
    if is_empty && missing > free {
        let detail = format!("{missing} bytes are to come and {free} are free");
        return Err(Error::Staging { path: options.staging.clone(), detail });
    }
    Ok((staging, proven))
}

/// A thread that pulls, for as long as it does.
struct Leaving<'a, 'b>(&'a Shared<'b>);

impl Drop for Leaving<'_, '_> {
    fn drop(&mut self) {
        self.0.left();
    }
}

/// Moves the chunks: threads that pull, and one that settles what they have proven.
fn transfer(
    shared: &Shared<'_>,
    first: Connected,
    mut crew: Crew,
    journal: &mut Journal,
) -> Result<settle::Unsettled> {
    let unsettled = thread::scope(|scope| {
        let settling = scope.spawn(|| settle::settle(shared, journal));
        thread::scope(|pullers| {
            let pull = |number, begin| {
                let body = move || {
                    let _leaves = Leaving(shared);
                    pull_all(shared, begin, number);
                };
                thread::Builder::new().name(format!("seed-pull-{number}")).spawn_scoped(pullers, body)
            };
            for (number, begin) in crew.begin(first).into_iter().enumerate() {
                if let Err(error) = pull(number, begin) {
                    shared.left();
                    shared.fail(Error::network("start a thread")(error));
                }
            }
            crew.grow(shared, |number| {
                shared.joined();
                if pull(number, Begin::AsHelp).is_err() {
                    shared.left();
                }
            });
        });
        shared.drain();
        settling.join()
    });
    shared.outcome()?;
    unsettled.map_err(|_| Error::Options("the settling thread died"))
}

/// Has the donor confirm the root digest, and checks its word; over a connection that is there, or a new one.
fn prove(
    options: &RecipientOptions,
    session: [u8; 16],
    stop: &Cancel,
    root: &[u8; 32],
    kept: Option<Link>,
) -> Result<()> {
    let mut link = match kept {
        Some(link) => link,
        None => connect(options, session, stop, 0)?.link,
    };
    link.queue(&Header { len: 32, ..Header::new(kind::PROVE) }.encode())?;
    link.queue(root)?;
    link.flush(false)?;
    await_answer(&mut link, kind::PROOF)?;
    let proof: [u8; 32] = link.take_array()?;
    if prove_root(&options.token, &session, root) != blake3::Hash::from_bytes(proof) {
        return Err(Error::RootDigest);
    }
    Ok(())
}
