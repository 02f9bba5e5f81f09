//! Real MariaDB and MySQL servers for tests: each with its own datadir, port and socket, gone on drop.
//!
//! The datadir is copied from a template that the first test on a machine makes. A server's option file is a real one:
//! point an agent at it, or start the server yourself with [`Mysqld::argv`].

mod place;
mod shape;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
pub use mysql_async;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Row, Value};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;

use self::place::{copy_tree, give_to_mysql, is_running_with, lock, mariadbd, within};
pub use self::shape::Shape;
use crate::port::Port;

const POLL: Duration = Duration::from_millis(50);
/// A start or stop in a test takes a second or two; a noisy machine gets much more.
const LIMIT: Duration = Duration::from_secs(90);
/// Longest path of a Unix socket, bytes.
const MAX_SOCKET_PATH: usize = 107;

/// Whose server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Vendor {
    /// The distribution's MariaDB.
    #[default]
    Mariadb,
    /// Oracle's MySQL 9 in a tree of its own; see [`mysql9_root`].
    Mysql9 {
        /// The tree.
        root: PathBuf,
    },
    /// MariaDB 11.8 in a tree of its own; see [`mariadb11_root`].
    Mariadb11 {
        /// The tree.
        root: PathBuf,
    },
}

/// What kind of server a test wants.
#[derive(Debug, Clone)]
pub struct MysqldOptions {
    /// Vendor.
    pub vendor: Vendor,
    /// `server_id`; absent: the port, which is unique on this machine.
    pub server_id: Option<u32>,
    /// Directory to put everything in, for example on a mounted volume; must be short and readable by all.
    pub parent: Option<PathBuf>,
    /// Datadir elsewhere than below `parent`; filled from the template unless it has data.
    pub datadir: Option<PathBuf>,
    /// Lines added to `[mysqld]` last.
    pub lines: Vec<String>,
    /// Where it keeps what.
    pub shape: Shape,
}

impl Default for MysqldOptions {
    fn default() -> Self {
        let (lines, shape) = (Vec::new(), Shape::default());
        Self { vendor: Vendor::Mariadb, server_id: None, parent: None, datadir: None, lines, shape }
    }
}

/// A server. Dropping it kills it and removes its files.
#[derive(Debug)]
pub struct Mysqld {
    base: TempDir,
    options: MysqldOptions,
    datadir: PathBuf,
    port: Port,
    child: Option<Child>,
}

/// The tree with Oracle's MySQL 9, made now if need be (about 40 s, root and a package mirror needed).
///
/// # Errors
/// The reason why there is none, for "skipped, because …".
pub fn mysql9_root() -> Result<PathBuf> {
    server_root("mysql9", "OA_MYSQL9_ROOT")
}

/// The tree with MariaDB 11.8, made as [`mysql9_root`] is.
///
/// # Errors
/// The reason why there is none, for "skipped, because …".
pub fn mariadb11_root() -> Result<PathBuf> {
    server_root("mariadb11", "OA_MARIADB11_ROOT")
}

fn server_root(name: &str, variable: &str) -> Result<PathBuf> {
    let root = std::env::var_os(variable).map_or_else(|| Path::new("/tmp").join(name), PathBuf::from);
    let _lock = lock(&std::env::temp_dir().join(format!("oa-{name}.lock")))?;
    if !root.join(".complete").exists() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/server-root");
        let output = Command::new(&script).arg(name).arg(&root).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot run {}", script.display()))?;
        let last = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
        ensure!(output.status.success(), "{} {name} failed: {last}", script.display());
    }
    Ok(root)
}

impl Mysqld {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// With the end of its error log.
    pub async fn start(options: MysqldOptions) -> Result<Self> {
        let mut server = Self::prepare(options)?;
        for _ in 0..3 {
            match server.boot().await {
                // Another test took the port between its choice and its use.
                Err(e) if format!("{e:#}").contains("Address already in use") => {
                    server.port = Port::claim()?;
                    server.write_option_file()?;
                }
                done => return done.map(|()| server),
            }
        }
        bail!("no free port in three tries")
    }

    /// Makes datadir and option file without starting anything.
    ///
    /// # Errors
    /// When files cannot be made.
    pub fn prepare(options: MysqldOptions) -> Result<Self> {
        let parent = options.parent.clone().unwrap_or_else(|| options.vendor.short_dir());
        let base = tempfile::Builder::new().prefix("oa-").rand_bytes(6).tempdir_in(&parent)?;
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755))?;
        fs::create_dir(base.path().join("tmp"))?;
        give_to_mysql(base.path())?;
        give_to_mysql(&base.path().join("tmp"))?;
        let datadir = options.shape.datadir(base.path(), options.datadir.as_deref());
        let server = Self { base, options, datadir, port: Port::claim()?, child: None };
        ensure!(
            server.socket().as_os_str().len() <= MAX_SOCKET_PATH,
            "{} is too long",
            server.socket().display()
        );
        server.options.shape.link(server.base.path())?;
        if !server.datadir.join("ibdata1").exists() {
            copy_tree(&server.options.vendor.template()?, &server.datadir)?;
        }
        server.options.shape.make(server.base.path(), &server.datadir)?;
        server.write_option_file()?;
        Ok(server)
    }

    /// Starts it (again) and waits until it answers.
    ///
    /// # Errors
    /// With the end of its error log.
    pub async fn boot(&mut self) -> Result<()> {
        let argv = self.argv();
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().with_context(|| format!("cannot start {}", argv[0]))?);
        let deadline = Instant::now() + LIMIT;
        loop {
            if self.connect().await.is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().transpose()).transpose()? {
                self.child = None;
                bail!("mysqld ended with {status}: {}", self.log_end());
            }
            ensure!(Instant::now() < deadline, "mysqld did not answer: {}", self.log_end());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Leaves starting and stopping to an agent: from now on the process is reaped as soon as it ends, whoever ends it.
    pub fn hand_over(&mut self) {
        if let Some(mut child) = self.child.take() {
            std::thread::spawn(move || child.wait());
        }
    }

    /// Stops it cleanly, whoever started it, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not stop.
    pub async fn stop(&mut self) -> Result<()> {
        self.end(Signal::SIGTERM).await
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill9(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL).await
    }

    /// Stops it cleanly and starts it again.
    ///
    /// # Errors
    /// As [`stop`](Self::stop) and [`boot`](Self::boot).
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.boot().await
    }

    /// A connection as the all-powerful account, by the socket.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect(&self) -> Result<Conn> {
        let opts = OptsBuilder::default()
            .socket(Some(self.socket().to_string_lossy()))
            .user(Some("root"))
            .prefer_socket(false)
            .max_allowed_packet(Some(64 << 20))
            .wait_timeout(Some(28_800));
        Ok(tokio::time::timeout(LIMIT, Conn::new(opts)).await??)
    }

    /// Runs a statement.
    ///
    /// # Errors
    /// The server's.
    pub async fn exec(&self, sql: impl AsRef<str>) -> Result<()> {
        let mut conn = self.connect().await?;
        conn.query_drop(sql.as_ref()).await.with_context(|| format!("on {}", self.datadir.display()))?;
        conn.disconnect().await?;
        Ok(())
    }

    /// Runs a query; NULL is the text `NULL`.
    ///
    /// # Errors
    /// The server's.
    pub async fn query(&self, sql: impl AsRef<str>) -> Result<Vec<Vec<String>>> {
        let mut conn = self.connect().await?;
        let rows: Vec<Row> = conn.query(sql.as_ref()).await?;
        conn.disconnect().await?;
        Ok(rows.into_iter().map(|row| row.unwrap().iter().map(text).collect()).collect())
    }

    /// The first column of the first row.
    ///
    /// # Errors
    /// The server's, or when there is no row.
    pub async fn scalar(&self, sql: impl AsRef<str>) -> Result<String> {
        let rows = self.query(sql).await?;
        rows.into_iter().next().and_then(|row| row.into_iter().next()).context("no row")
    }

    /// Program and arguments that start this server in the foreground.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        let mut argv = self.options.vendor.program();
        argv.push(format!("--defaults-file={}", self.option_file().display()));
        argv
    }

    /// Its option file, with `[mysqld]` and `[client]`.
    #[must_use]
    pub fn option_file(&self) -> PathBuf {
        self.base.path().join("my.cnf")
    }

    /// Whose server it is.
    #[must_use]
    pub fn vendor(&self) -> &Vendor {
        &self.options.vendor
    }

    /// Its data directory.
    #[must_use]
    pub fn datadir(&self) -> &Path {
        &self.datadir
    }

    /// The directory with all its files.
    #[must_use]
    pub fn base(&self) -> &Path {
        self.base.path()
    }

    /// Its Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.base.path().join("s")
    }

    /// Its TCP port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its error log.
    #[must_use]
    pub fn error_log(&self) -> PathBuf {
        self.base.path().join("error.log")
    }

    /// Its pid, whoever started it.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.pids().first().map(|pid| pid.as_raw())
    }

    /// Every live process that was started with this server's option file.
    fn pids(&self) -> Vec<Pid> {
        let wanted = format!("--defaults-file={}", self.option_file().display());
        let Ok(proc) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = proc.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| is_running_with(*pid, &wanted)).map(Pid::from_raw).collect()
    }

    async fn end(&mut self, signal: Signal) -> Result<()> {
        for pid in self.pids() {
            let _ = kill(pid, signal);
        }
        let deadline = Instant::now() + LIMIT;
        while !self.pids().is_empty() {
            ensure!(Instant::now() < deadline, "mysqld does not end: {}", self.log_end());
            tokio::time::sleep(POLL).await;
        }
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    fn write_option_file(&self) -> Result<()> {
        let base = self.base.path().display();
        let mut text = format!(
            "[mysqld]\ndatadir={}\nsocket={base}/s\nport={}\nbind-address=127.0.0.1\npid-file={base}/pid\n\
             log-error={base}/error.log\ntmpdir={base}/tmp\nserver-id={}\nlog-bin=binlog\nbinlog-format=ROW\n\
             log-slave-updates=ON\nskip-name-resolve=ON\ninnodb-buffer-pool-size=32M\nmax-connections=60\n",
            self.datadir.display(),
            self.port.number(),
            self.options.server_id.unwrap_or_else(|| self.port.number().into()),
        );
        if Uid::effective().is_root() {
            text.push_str("user=mysql\n");
        }
        text.push_str(match self.options.vendor {
            Vendor::Mariadb | Vendor::Mariadb11 { .. } => "innodb-log-file-size=10M\n",
            Vendor::Mysql9 { .. } => {
                "gtid-mode=ON\nenforce-gtid-consistency=ON\nmysqlx=OFF\nsecure-file-priv=NULL\n\
                 innodb-redo-log-capacity=32M\n"
            }
        });
        let lines =
            self.options.lines.iter().map(String::as_str).chain(self.options.shape.lines.iter().copied());
        for line in lines {
            text.push_str(&shape::placed(line, self.base.path(), &self.datadir));
            text.push('\n');
        }
        text.push_str(&format!("[client]\nsocket={base}/s\nuser=root\n"));
        let mut file = File::create(self.option_file())?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        Ok(())
    }

    fn log_end(&self) -> String {
        let text = fs::read_to_string(self.error_log()).unwrap_or_else(|e| e.to_string());
        let lines: Vec<_> = text.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Mysqld {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Vendor {
    /// Program that starts the server.
    fn program(&self) -> Vec<String> {
        match self {
            Self::Mariadb => vec![mariadbd()],
            Self::Mysql9 { root } => within(root, "/usr/sbin/mysqld"),
            Self::Mariadb11 { root } => within(root, "/usr/sbin/mariadbd"),
        }
    }

    /// A directory with a short path that the server can see.
    #[must_use]
    pub fn short_dir(&self) -> PathBuf {
        match self {
            Self::Mariadb => PathBuf::from("/tmp"),
            Self::Mysql9 { root } | Self::Mariadb11 { root } => root.join("srv"),
        }
    }

    /// True for Oracle's servers, whose SQL differs from MariaDB's.
    #[must_use]
    pub fn is_mysql(&self) -> bool {
        matches!(self, Self::Mysql9 { .. })
    }

    /// A fresh datadir, made once per machine and version.
    fn template(&self) -> Result<PathBuf> {
        let uid = Uid::effective();
        let program = self.program();
        let version = Command::new(&program[0]).args(&program[1..]).arg("--version").output()?;
        let version: String = String::from_utf8_lossy(&version.stdout)
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' })
            .skip_while(|c| !c.is_ascii_digit())
            .take(24)
            .collect();
        let template = self.short_dir().join(format!("oa-template-{uid}-{version}"));
        let _lock = lock(&template.with_extension("lock"))?;
        let data = template.join("data");
        if template.join("complete").exists() {
            return Ok(data);
        }
        if template.exists() {
            fs::remove_dir_all(&template)?;
        }
        fs::create_dir(&template)?;
        fs::set_permissions(&template, fs::Permissions::from_mode(0o755))?;
        give_to_mysql(&template)?;
        self.initialize(&data)?;
        File::create(template.join("complete"))?;
        Ok(data)
    }

    fn initialize(&self, data: &Path) -> Result<()> {
        let install = |mut argv: Vec<String>| {
            argv.extend(
                [
                    "--no-defaults",
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                    // A tree of its own has no /etc/hosts.
                    "--force",
                    "--innodb-log-file-size=10M",
                    "--innodb-undo-tablespaces=0",
                ]
                .map(str::to_owned),
            );
            argv
        };
        let mut argv = match self {
            Self::Mariadb => install(vec!["mariadb-install-db".to_owned()]),
            Self::Mariadb11 { root } => install(within(root, "/usr/bin/mariadb-install-db")),
            Self::Mysql9 { .. } => {
                let mut argv = self.program();
                argv.extend(
                    ["--no-defaults", "--initialize-insecure", "--innodb-redo-log-capacity=32M"]
                        .map(str::to_owned),
                );
                argv
            }
        };
        argv.push(format!("--datadir={}", data.display()));
        if Uid::effective().is_root() {
            argv.push("--user=mysql".to_owned());
        }
        let output = Command::new(&argv[0]).args(&argv[1..]).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} failed: {said}", argv.join(" "));
        // Two servers must not share an identity.
        match fs::remove_file(data.join("auto.cnf")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::NULL => "NULL".to_owned(),
        other => other.as_sql(true).trim_matches('\'').to_owned(),
    }
}
