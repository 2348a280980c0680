//! The cluster's processes: started detached in the right namespace and cgroup, known by pid and start time, ended.
//!
//! Each is started through the hidden `waggle dev launch`, which is single-threaded when it takes its session, namespace
//! and cgroup, and then becomes the wanted process by exec: the pid stays.

use std::ffi::OsString;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};

use super::{cgroups, netns};

/// A process that runs, or has run: a pid alone could be somebody else's by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    /// Process id.
    pub(crate) pid: i32,
    /// Start time in clock ticks since boot, field 22 of /proc/PID/stat.
    start: u64,
}

impl Process {
    /// The process that has this pid now, unless it has ended.
    pub(crate) fn running(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start) = parse_stat(&stat)?;
        if state == "Z" || state == "X" {
            None
        } else {
            Some(Self { pid, start })
        }
    }

    /// The process that a pid file names, if it still runs.
    pub(crate) fn from_file(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let mut words = text.split_whitespace();
        let known = Self {
            pid: words.next()?.parse().ok()?,
            start: words.next()?.parse().ok()?,
        };
        if known.alive() { Some(known) } else { None }
    }

    /// Writes its pid file.
    pub(crate) fn write(self, path: &Path) -> Result<()> {
        std::fs::write(path, format!("{} {}\n", self.pid, self.start))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Whether it still runs.
    pub(crate) fn alive(self) -> bool {
        Self::running(self.pid) == Some(self)
    }

    /// Its arguments.
    pub(crate) fn arguments(self) -> Vec<OsString> {
        use std::os::unix::ffi::OsStringExt;
        let bytes = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let text = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        text.split(|&byte| byte == 0)
            .map(|word| OsString::from_vec(word.to_vec()))
            .collect()
    }

    /// Whether it runs the same program as `binary`, byte for byte. A replaced file is still readable through /proc.
    pub(crate) fn runs(self, binary: &Path) -> Result<bool> {
        let own = PathBuf::from(format!("/proc/{}/exe", self.pid));
        same_content(&own, binary).with_context(|| {
            format!(
                "cannot compare the program of process {} with {}",
                self.pid,
                binary.display()
            )
        })
    }

    /// Asks it to end, waits, and kills it if it doesn't.
    pub(crate) fn end(self, patience: Duration) -> Result<()> {
        if !self.alive() {
            return Ok(());
        }
        self.signal(Signal::SIGTERM)?;
        if self.wait_gone(patience) {
            return Ok(());
        }
        self.signal(Signal::SIGKILL)?;
        if self.wait_gone(Duration::from_secs(5)) {
            return Ok(());
        }
        bail!("process {} does not end, not even by SIGKILL", self.pid)
    }

    fn signal(self, signal: Signal) -> Result<()> {
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => {
                Err(error).with_context(|| format!("cannot send {signal} to process {}", self.pid))
            }
        }
    }

    fn wait_gone(self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.alive() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// State and start time. The program's name may hold anything but ends at the last parenthesis.
fn parse_stat(stat: &str) -> Option<(&str, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some((fields.first()?, fields.get(19)?.parse().ok()?))
}

fn same_content(left: &Path, right: &Path) -> std::io::Result<bool> {
    let (mut left, mut right) = (std::fs::File::open(left)?, std::fs::File::open(right)?);
    if left.metadata()?.len() != right.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = left.read(&mut a)?;
        if read == 0 {
            return Ok(true);
        }
        right.read_exact(&mut b[..read])?;
        if a[..read] != b[..read] {
            return Ok(false);
        }
    }
}

/// How to start one.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// Network namespace; the caller's when `None`.
    pub(crate) netns: Option<PathBuf>,
    /// cgroup below each hierarchy.
    pub(crate) cgroup: String,
    /// Where its output goes; appended.
    pub(crate) log: PathBuf,
    /// Its pid file.
    pub(crate) pid_file: PathBuf,
    /// Arguments of this program.
    pub(crate) arguments: Vec<OsString>,
    /// Added to the environment; for what must not show in the arguments.
    pub(crate) environment: Vec<(String, String)>,
}

impl Launch {
    /// Starts it. Until the returned child is dropped its early end can be seen by [`Started::fault`].
    pub(crate) fn start(&self, binary: &Path) -> Result<Started> {
        let log_start = std::fs::metadata(&self.log).map_or(0, |metadata| metadata.len());
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot open {}", self.log.display()))?;
        let errors = log.try_clone().context("cannot duplicate a descriptor")?;
        let mut command = Command::new(binary);
        command.args(["dev", "launch", "--cgroup", &self.cgroup]);
        if let Some(netns) = &self.netns {
            command.arg("--netns").arg(netns);
        }
        command
            .arg("--")
            .args(&self.arguments)
            .envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let pid = i32::try_from(child.id()).context("a pid beyond the kernel's range")?;
        let mut started = Started {
            child,
            log: self.log.clone(),
            log_start,
        };
        match Process::running(pid) {
            Some(process) => process.write(&self.pid_file)?,
            None => bail!(
                "{}",
                started
                    .fault()
                    .unwrap_or_else(|| format!("process {pid} ended at once"))
            ),
        }
        Ok(started)
    }
}

/// A process just started.
#[derive(Debug)]
pub(crate) struct Started {
    child: Child,
    log: PathBuf,
    log_start: u64,
}

impl Started {
    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Why it ended, if it has: the last thing it wrote, and where to read the rest.
    pub(crate) fn fault(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        let text = self.output().unwrap_or_default();
        let error = text.lines().rev().find(|line| line.starts_with("error:"));
        let last = error
            .or_else(|| text.lines().rev().find(|line| !line.trim().is_empty()))
            .unwrap_or("it wrote nothing");
        Some(format!(
            "{} ({status}; log: {})",
            last.trim_start_matches("error: "),
            self.log.display()
        ))
    }

    /// What it has written so far.
    pub(crate) fn output(&self) -> std::io::Result<String> {
        let mut file = std::fs::File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.log_start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The hidden `waggle dev launch`: becomes the wanted process. Returns only when that failed.
///
/// Must run before any thread is started: namespace and session are the whole process's then.
pub(crate) fn launch(
    netns_path: Option<&Path>,
    cgroup: &str,
    arguments: &[OsString],
) -> Result<std::convert::Infallible> {
    match setsid() {
        // Already a leader: started from a shell's job, for example.
        Ok(_) | Err(Errno::EPERM) => {}
        Err(error) => return Err(error).context("cannot start a session"),
    }
    cgroups::join(cgroup)?;
    if let Some(path) = netns_path {
        netns::enter(path)?;
    }
    let binary = std::env::current_exe().context("cannot find this program's file")?;
    let error = Command::new(&binary)
        .args(arguments)
        .current_dir("/")
        .exec();
    Err(error).with_context(|| format!("cannot run {}", binary.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_program_is_called() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1 1";
        assert_eq!(parse_stat(stat), Some(("S", 987_654)));
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn a_process_is_known_by_more_than_its_pid() {
        let me = Process::running(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.alive());
        assert!(
            !Process {
                start: me.start + 1,
                ..me
            }
            .alive()
        );
        assert!(me.runs(&std::env::current_exe().unwrap()).unwrap());
        assert!(!me.runs(Path::new("/bin/true")).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("me.pid");
        me.write(&file).unwrap();
        assert_eq!(Process::from_file(&file), Some(me));
        std::fs::write(&file, format!("{} 1\n", me.pid)).unwrap();
        assert_eq!(Process::from_file(&file), None);
    }

    #[test]
    fn ending_a_process_waits_for_it() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::running(i32::try_from(child.id()).unwrap()).unwrap();
        process.end(Duration::from_secs(5)).unwrap();
        assert!(!process.alive());
        child.wait().unwrap();
    }
}
