//! Takes what containers write and puts it into their log files, which are rotated by size. Reading them: `crate::logs`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;

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
        }
    }

    /// Moves what there is to the log.
    pub(super) fn read(&mut self, log: &mut LogFile) -> Left {
        let mut chunk = vec![0_u8; 64 << 10];
        let mut lines = Vec::new();
        let (mut taken, mut left) = (0, Left::More);
        while taken < TURN {
            match nix::unistd::read(&self.fd, &mut chunk) {
                Ok(0) | Err(Errno::EIO) => {
                    left = Left::Ended;
                    break;
                }
                Ok(n) => {
                    taken += n;
                    self.split(&chunk[..n], &mut lines);
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

    /// Takes all that is left when the container has ended, the torn last line included.
    pub(super) fn finish(mut self, log: &mut LogFile) {
        while self.read(log) == Left::More {}
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

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
