//! A real PostgreSQL server of one's own: a new cluster in a temporary folder, with fsync on, on a Unix socket and a port of
//! the loopback. `ops/test` installs the programs.
//!
//! Suites, the node's own tests and `shoal-ops bench` all need it, and none of them is above the others: this file is
//! compiled into each. So it uses nothing but the standard library.
#![allow(clippy::disallowed_methods, reason = "a harness waits on the real clock")]
#![allow(unreachable_pub, reason = "public in one of those who include this file, private in others")]
#![allow(dead_code, reason = "each of those who include this file uses a part of it")]

use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Expected are one or two seconds; a loaded machine gets longer.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Who runs the server when we are root: `initdb` refuses root.
const NOBODY: u32 = 65_534;

/// Starts the server, says its process id, and ends it when its own input ends: then whoever started it is gone, however it
/// went.
const KEEPER: &str = r#""$@" </dev/null & pid=$!; echo "$pid"; read -r _; kill -INT "$pid" 2>/dev/null; wait"#;

/// A cluster and, while it runs, its server. Dropping it ends the server and removes the cluster.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    user: Option<u32>,
    settings: Vec<String>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    keeper: Child,
    pid: u32,
}

impl Postgres {
    /// Makes a cluster and starts its server. `settings` go beside those of a freshly made cluster: `name=value`.
    ///
    /// # Errors
    /// When the programs are not there, or do not work; the text says what to do.
    pub fn start(settings: &[&str]) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let programs = programs().ok_or_else(|| {
            io::Error::other("no PostgreSQL here: ops/test installs it (Debian: apt-get install postgresql)")
        })?;
        // short: the path of a Unix socket has at most 107 bytes
        let name = format!("shoal-pg-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        // left by a process of the same number that could not clear up
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        let user = (fs::metadata(&folder)?.uid() == 0).then_some(NOBODY);
        if user.is_some() {
            chown(&folder, user, user)?;
        }
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        // from here on dropping it removes the folder
        let mut made = Self { programs, folder, port, user, settings, running: None };
        let output = made
            .command("initdb")
            // the files of a new cluster need not survive a power cut; what is written to it later does
            .args(["--no-sync", "--auth=trust", "--username=shoal", "--encoding=UTF8", "--no-locale", "-D"])
            .arg(made.data())
            .output()?;
        if !output.status.success() {
            return Err(io::Error::other(format!("initdb: {}", String::from_utf8_lossy(&output.stderr))));
        }
        made.run()?;
        Ok(made)
    }

    /// Starts the server of a cluster that was stopped or killed, and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up in time; the text has the end of its log.
    pub fn run(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        // after kill -9 the server's other processes hold its memory for a moment, and a new one refuses to start
        loop {
            self.spawn()?;
            while self.is_alive() {
                let ready = self.command("pg_isready").arg("-q").args(self.place()).status()?;
                if ready.success() {
                    return Ok(());
                }
                if begun.elapsed() > START_LIMIT {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            self.end("KILL");
            if begun.elapsed() > START_LIMIT {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(20).collect();
                return Err(io::Error::other(format!("the server does not start: {end:?}")));
            }
        }
    }

    fn spawn(&mut self) -> io::Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = Command::new("/bin/sh");
        self.as_user(&mut command);
        command.args(["-c", KEEPER, "keeper"]).arg(self.programs.join("postgres")).arg("-D").arg(self.data());
        let folder = self.folder.display();
        for setting in [
            format!("port={}", self.port),
            format!("unix_socket_directories={folder}"),
            "listen_addresses=127.0.0.1".to_owned(),
            "shared_buffers=64MB".to_owned(),
        ]
        .iter()
        .chain(&self.settings)
        {
            command.args(["-c", setting]);
        }
        let mut keeper =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).current_dir(&self.folder).spawn()?;
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().ok_or_else(|| io::Error::other("no output"))?).read_line(&mut line)?;
        let pid = line.trim().parse().map_err(|_| io::Error::other(format!("no process id: {line:?}")))?;
        self.running = Some(Running { keeper, pid });
        Ok(())
    }

    fn is_alive(&self) -> bool {
        // a process that has ended and is waited for by the keeper is gone from /proc, or a zombie without a command line
        self.running
            .as_ref()
            .and_then(|running| fs::read(format!("/proc/{}/cmdline", running.pid)).ok())
            .is_some_and(|line| !line.is_empty())
    }

    /// kill -9 of the server. Its other processes notice and end by themselves.
    pub fn kill(&mut self) {
        self.end("KILL");
    }

    /// Ends the server in order: open connections are cut, what is committed is written out.
    pub fn stop(&mut self) {
        self.end("INT");
    }

    fn end(&mut self, signal: &str) {
        if let Some(Running { mut keeper, pid }) = self.running.take() {
            let _ = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).stderr(Stdio::null()).status();
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }

    /// Holds all of the server's processes still (`true`) or lets them go on: a database that neither answers nor refuses.
    pub fn freeze(&self, frozen: bool) {
        let Some(running) = &self.running else { return };
        let signal = if frozen { "-STOP" } else { "-CONT" };
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.pid)).unwrap_or_default();
        let mut command = Command::new("kill");
        command.arg(signal).arg(running.pid.to_string()).args(children.split_whitespace());
        let _ = command.stderr(Stdio::null()).status();
    }

    /// Where it is reached over its Unix socket, as user `shoal`, who may do everything.
    pub fn url(&self) -> String {
        format!("postgres://shoal@/postgres?host={}&port={}", self.folder.display(), self.port)
    }

    /// Where it is reached over the loopback.
    pub fn tcp_url(&self) -> String {
        format!("postgres://shoal@127.0.0.1:{}/postgres", self.port)
    }

    /// Port on the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Folder of the cluster's files.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Folder of socket, log and cluster.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Who owns the cluster's files, if not we.
    pub fn user(&self) -> Option<u32> {
        self.user
    }

    /// What the server has logged.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Runs SQL in `psql` as user `shoal` and returns what it prints: unaligned, without a header.
    ///
    /// # Errors
    /// When the server refuses; the text is the server's.
    pub fn sql(&self, sql: &str) -> io::Result<String> {
        let output = self
            .command("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "shoal", "-d", "postgres", "-c", sql])
            .args(self.place())
            .output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn place(&self) -> [String; 4] {
        ["-h".to_owned(), self.folder.display().to_string(), "-p".to_owned(), self.port.to_string()]
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        self.as_user(&mut command);
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    fn as_user(&self, command: &mut Command) {
        command.env("LC_ALL", "C").env("TZ", "UTC");
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.freeze(false);
        self.end("INT");
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Folder of the newest PostgreSQL here: where Debian puts its versions, else where `$PATH` has one.
pub fn programs() -> Option<PathBuf> {
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| version(path).is_some() && path.join("bin/initdb").exists())
        .collect();
    versions.sort_by_key(|path| version(path));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path =
        || std::env::split_paths(&path).find(|folder| ["initdb", "postgres"].iter().all(|p| folder.join(p).exists()));
    versions.pop().map(|newest| newest.join("bin")).or_else(in_path)
}
