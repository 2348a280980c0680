//! Takes what containers write and puts it into their log files, which are rotated by size. Reading them: `crate::logs`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::cri::{self, Splitter, Stream};
use crate::logs::{ROTATED, rotated};

/// A log file that reaches this size is put aside, bytes.
const ROTATE_AT: u64 = 10 << 20;
/// How much of one stream is read before others have their turn, bytes.
const TURN: usize = 512 << 10;

/// The log file of a container.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    failing: bool,
}

impl LogFile {
    pub(super) fn new(path: PathBuf) -> Self {
        LogFile {
            path,
            file: None,
            size: 0,
            failing: false,
        }
    }

    /// Appends whole lines. A disk that is full costs lines, never the container.
    fn append(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        match self.try_append(lines) {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(path = %self.path.display(), %error, "log lines are lost");
                }
                self.file = None;
            }
        }
    }

    fn try_append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.size >= ROTATE_AT {
            self.file = None;
            for age in (0..ROTATED).rev() {
                match fs::rename(rotated(&self.path, age), rotated(&self.path, age + 1)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                if let Some(folder) = self.path.parent() {
                    fs::create_dir_all(folder)?;
                }
                let file = OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&self.path)?;
                self.size = file.metadata()?.len();
                none.insert(file)
            }
        };
        file.write_all(lines)?;
        self.size += lines.len() as u64;
        Ok(())
    }
}

/// One stream of a container: the reading end of a FIFO, or the master of its terminal.
#[derive(Debug)]
pub(super) struct Output {
    fd: OwnedFd,
    stream: Stream,
    splitter: Splitter,
    terminal: bool,
    /// Pipes of clients that look on.
    copies: Vec<OwnedFd>,
}

/// Whether there is more to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Its turn is over; there is more.
    More,
    /// Nothing now.
    Nothing,
    /// Never again.
    Ended,
}

impl Output {
    /// A stream that is read without blocking.
    pub(super) fn new(fd: OwnedFd, stream: Stream, terminal: bool) -> Self {
        Output {
            fd,
            stream,
            splitter: Splitter::default(),
            terminal,
            copies: Vec::new(),
        }
    }

    /// Copies what comes from now on into a pipe that does not block.
    pub(super) fn copy_to(&mut self, pipe: OwnedFd) {
        self.copies.push(pipe);
    }

    /// The pipes that it is copied into.
    pub(super) fn copies(&self) -> impl Iterator<Item = &OwnedFd> {
        self.copies.iter()
    }

    /// Another descriptor of the same.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// A client that is too slow loses what it has no room for; the log has it.
    fn copy(&mut self, bytes: &[u8]) {
        self.copies.retain(
            |pipe| !matches!(nix::unistd::write(pipe, bytes), Err(error) if error != Errno::EAGAIN),
        );
    }

    /// Moves what there is to the log.
    pub(super) fn read(&mut self, log: &mut LogFile) -> Left {
        let mut chunk = vec![0_u8; 64 << 10];
        let mut lines = Vec::new();
        let (mut taken, mut left) = (0, Left::More);
        while taken < TURN {
            let seen = if self.terminal {
                nix::unistd::read(&self.fd, &mut chunk)
            } else {
                self.peek(&mut chunk)
            };
            match seen {
                Ok(0) | Err(Errno::EIO) => {
                    left = Left::Ended;
                    break;
                }
                Ok(n) => {
                    taken += n;
                    self.split(&chunk[..n], &mut lines);
                    self.copy(&chunk[..n]);
                    if !self.terminal {
                        log.append(&lines);
                        lines.clear();
                        self.consume(&mut chunk[..n]);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    left = Left::Nothing;
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "a stream of a container can't be read");
                    left = Left::Ended;
                    break;
                }
            }
        }
        log.append(&lines);
        left
    }

    /// What a FIFO holds, left where it is: of a supervisor that is killed before it is in the log, the next one takes it.
    /// Terminals have no such way.
    fn peek(&self, chunk: &mut [u8]) -> nix::Result<usize> {
        let glass = glass()?;
        let (out, into) = &*glass;
        // SAFETY: both are pipes that are open for as long as the call; nothing of ours is written to.
        let copied = unsafe {
            libc::tee(
                self.fd.as_raw_fd(),
                into.as_raw_fd(),
                chunk.len(),
                libc::SPLICE_F_NONBLOCK,
            )
        };
        let copied = usize::try_from(Errno::result(copied)?).unwrap_or(0);
        take_all(out, &mut chunk[..copied])?;
        Ok(copied)
    }

    /// Takes from a FIFO what was seen of it.
    fn consume(&self, seen: &mut [u8]) {
        if let Err(error) = take_all(&self.fd, seen) {
            tracing::warn!(%error, "what is in the log already can't be taken from its stream");
        }
    }

    /// Takes all that is left when the container has ended, the torn last line included.
    pub(super) fn finish(mut self, log: &mut LogFile) {
        while self.read(log) == Left::More {}
        self.write_out(log);
    }

    /// Writes what was read of a line that has no end yet, as a part.
    pub(super) fn write_out(&mut self, log: &mut LogFile) {
        let (mut lines, stamp, stream) = (Vec::new(), cri::stamp(), self.stream);
        self.splitter
            .finish(|full, text| cri::write_line(&mut lines, &stamp, stream, full, text));
        log.append(&lines);
    }

    fn split(&mut self, bytes: &[u8], lines: &mut Vec<u8>) {
        let (stamp, stream, terminal) = (cri::stamp(), self.stream, self.terminal);
        self.splitter.push(bytes, |full, text| {
            // A terminal ends its lines with a carriage return too.
            let text = if terminal && full {
                text.strip_suffix(b"\r").unwrap_or(text)
            } else {
                text
            };
            cri::write_line(lines, &stamp, stream, full, text);
        });
    }
}

/// Fills `chunk` from a pipe that holds as much.
fn take_all(pipe: &OwnedFd, mut chunk: &mut [u8]) -> nix::Result<()> {
    while !chunk.is_empty() {
        match nix::unistd::read(pipe, chunk) {
            Ok(0) => return Err(Errno::EPIPE),
            Ok(n) => chunk = &mut chunk[n..],
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A pipe into which FIFOs are copied to be looked at; empty between two looks. Its reading end comes first.
fn glass() -> nix::Result<MutexGuard<'static, (OwnedFd, OwnedFd)>> {
    static GLASS: OnceLock<Mutex<(OwnedFd, OwnedFd)>> = OnceLock::new();
    let glass = match GLASS.get() {
        Some(glass) => glass,
        None => {
            let ends = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            GLASS.get_or_init(|| Mutex::new(ends))
        }
    };
    Ok(glass.lock().unwrap_or_else(PoisonError::into_inner))
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap()
    }

    #[test]
    fn what_is_looked_at_stays_until_it_is_taken() {
        let (out, into) = pipe();
        nix::unistd::write(&into, b"one\ntwo\n").unwrap();
        let output = Output::new(out, Stream::Stdout, false);
        let mut chunk = [0; 64];
        for _ in 0..2 {
            assert_eq!(output.peek(&mut chunk), Ok(8));
            assert_eq!(&chunk[..8], b"one\ntwo\n");
        }
        output.consume(&mut chunk[..4]);
        assert_eq!(output.peek(&mut chunk), Ok(4));
        output.consume(&mut chunk[..4]);
        assert_eq!(output.peek(&mut chunk), Err(Errno::EAGAIN));
        drop(into);
        assert_eq!(output.peek(&mut chunk), Ok(0));
    }

    #[test]
    fn what_a_fifo_holds_goes_to_the_log_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let (out, into) = pipe();
        let mut output = Output::new(out, Stream::Stdout, false);
        let mut log = LogFile::new(path.clone());
        let line = format!("{}\n", "x".repeat(1000));
        for round in 1..=3 {
            nix::unistd::write(&into, line.repeat(60).as_bytes()).unwrap();
            assert_eq!(output.read(&mut log), Left::Nothing);
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            assert_eq!(lines, 60 * round);
        }
        drop(into);
        assert_eq!(output.read(&mut log), Left::Ended);
    }
}
