//! One file per family of subcommands.

mod accounts;
mod binlog;
mod bus;
mod doctor;
mod events;
mod fleet;
mod host;
mod jobs;
mod key;
mod pages;
mod raw;
mod seed;
mod snapshot;

use trace::Kind;

use crate::args::{BinlogCmd, BusCmd, Cli, Cmd, CustomCmd, KeyCmd, MysqlCmd, SeedCmd, SnapshotCmd};
use crate::error::{CtlError, Result};
use crate::exit::Exit;
use crate::output::Out;
use crate::session::Session;
use crate::spans;

/// Does what was asked for.
///
/// # Errors
/// What a person needs to know; see [`CtlError`].
pub async fn run(cli: Cli, out: Out) -> Result<()> {
    let Cli { global, command, spoken } = cli;
    // Keys and configurations are made without a bus.
    let command = match command {
        Cmd::Key(KeyCmd::Pin { hosts, replace }) => return key::pin(global, out, hosts, replace).await,
        Cmd::Key(command) => return key::run(&command, &out),
        Cmd::Bus(BusCmd::Config(args)) => return bus::config(args, global.js_domain, &out),
        Cmd::Bus(BusCmd::Init(args)) => return accounts::init(&args, global.js_domain, &out),
        Cmd::Bus(BusCmd::User(args)) => return accounts::users(&args, &out),
        Cmd::Bus(BusCmd::Revoke(args)) => return Box::pin(accounts::revoke(&args, global, out)).await,
        Cmd::Bus(BusCmd::Push(args)) => return Box::pin(accounts::push(&args, global, out)).await,
        Cmd::Completions { shell } => return pages::completions(shell, &out),
        Cmd::Man { dir } => return pages::man(&dir, &out),
        other => other,
    };
    if global.queue.is_some() && !may_wait(&command) {
        let hint = "commands that change a host wait for it: snapshot create, mysql start, seed undo, …";
        let what = "this cannot be queued: nobody would read the answer later".to_owned();
        return Err(CtlError::Usage { what, hint: Some(hint.to_owned()) });
    }
    let traces = spans::open(&global, &out);
    let mut session = Session::open(global, out).await?;
    let (mut span, client) =
        session.client.with_traces(traces.clone()).begin(spoken, Kind::Internal, spans::parent());
    session.client = client;
    let result = dispatch(&session, command).await;
    session.close().await;
    if let Err(error) = &result {
        span.fail(format!("exit {}", error.exit().code()));
    }
    drop(span);
    traces.end(spans::LAST).await;
    result
}

/// Whether a command may be left for a host that is away: what changes it, and what needs nothing of another host.
fn may_wait(command: &Cmd) -> bool {
    match command {
        Cmd::Snapshot(command) => !matches!(
            command,
            SnapshotCmd::List { .. } | SnapshotCmd::Find { .. } | SnapshotCmd::Mounts { .. }
        ),
        Cmd::Mysql(target) => {
            matches!(target.command, MysqlCmd::Start { .. } | MysqlCmd::Stop { .. } | MysqlCmd::Restart(_))
        }
        Cmd::Binlog(target) => matches!(target.command, BinlogCmd::Apply { .. }),
        Cmd::Custom(target) => matches!(target.command, CustomCmd::Run { .. }),
        Cmd::Seed(command) => matches!(command, SeedCmd::Throttle { .. } | SeedCmd::Undo { .. }),
        Cmd::Datadir(_) | Cmd::Raw(_) => true,
        _ => false,
    }
}

async fn dispatch(session: &Session, command: Cmd) -> Result<()> {
    match command {
        Cmd::Fleet(args) => fleet::run(session, &args).await,
        Cmd::Doctor(args) => doctor::run(session, args).await,
        Cmd::Host(target) => host::host(session, &target.host, target.command).await,
        Cmd::Mysql(target) => host::mysql(session, &target.host, target.command).await,
        Cmd::Snapshot(command) => snapshot::run(session, command).await,
        Cmd::Datadir(target) => host::datadir(session, &target.host, target.command).await,
        Cmd::Binlog(target) => binlog::run(session, &target.host, target.command).await,
        Cmd::Custom(target) => host::custom(session, &target.host, target.command).await,
        Cmd::Jobs(target) => jobs::run(session, &target.host, target.command).await,
        Cmd::Seed(command) => Box::pin(seed::run(session, command)).await,
        Cmd::Events(args) => events::run(session, args).await,
        Cmd::Raw(args) => raw::run(session, args).await,
        Cmd::Bus(BusCmd::Status) => Box::pin(bus::status(session)).await,
        Cmd::Bus(BusCmd::Setup(args)) => bus::setup(session, &args).await,
        Cmd::Key(_) | Cmd::Bus(_) | Cmd::Completions { .. } | Cmd::Man { .. } => Ok(()),
    }
}

/// Asks before something is destroyed. Without a terminal the answer is yes: a script names what it means.
///
/// # Errors
/// When the person says no.
fn confirm(session: &Session, question: &str) -> Result<()> {
    if session.global.yes || session.out.ask(question) != Some(false) {
        return Ok(());
    }
    Err(CtlError::Usage { what: "not confirmed; nothing was done".to_owned(), hint: None })
}

/// One failure is the program's own; several are reported here and the worst one counts.
fn settle(session: &Session, mut failures: Vec<CtlError>) -> Result<()> {
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        _ => {
            failures.iter().for_each(|failure| crate::report(&session.out, failure));
            Err(CtlError::Told(Exit::worst(failures.iter().map(CtlError::exit))))
        }
    }
}
