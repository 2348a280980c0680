//! Reads the logs of containers back: the last lines, lines since a time, and following over rotations until the
//! container has ended. Who writes them: `supervisor::logs`; the line format: `cri`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::fs::File;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::cri;

/// How much of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Only lines from this time on.
    pub since: Option<jiff::Timestamp>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Go on until the container has ended.
    pub follow: bool,
    /// Stop after so many bytes.
    pub limit_bytes: Option<u64>,
}

/// The bytes of a log as they are wanted; dropping it stops the reading.
pub type LogStream = ReceiverStream<io::Result<Bytes>>;

/// Older files of a rotated log that are kept beside it, `<path>.1` the newest of them.
pub const ROTATED: usize = 4;

/// The path of a rotated file; 0 is the log itself.
#[must_use]
pub fn rotated(path: &Path, age: usize) -> PathBuf {
    if age == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}

/// Removes a log with all that was rotated away.
pub fn remove(path: &Path) -> io::Result<()> {
    for age in 0..=ROTATED {
        match std::fs::remove_file(rotated(path, age)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Reads a container's log. A log that isn't there is empty; when following, it is waited for. `ended` is cancelled by
/// the caller when the container has ended, and only then does following stop.
pub fn read(path: impl AsRef<Path>, query: LogQuery, ended: CancellationToken) -> LogStream {
    let (sender, receiver) = mpsc::channel(16);
    let path = path.as_ref().to_owned();
    tokio::spawn(async move {
        let mut reader = Reader {
            left: query.limit_bytes,
            path,
            query,
            sender,
            mid_line: false,
            skipping: false,
        };
        if let Err(error) = reader.run(&ended).await {
            // The receiver may have gone, which is how a caller stops reading.
            let _ = reader.sender.send(Err(error)).await;
        }
    });
    ReceiverStream::new(receiver)
}

struct Reader {
    path: PathBuf,
    query: LogQuery,
    sender: mpsc::Sender<io::Result<Bytes>>,
    /// Bytes that may still be sent.
    left: Option<u64>,
    /// The next line continues one that was sent in part.
    mid_line: bool,
    /// The line that is being continued is older than what is wanted.
    skipping: bool,
}

/// An open log file, and the torn line at its end so far.
struct Open {
    file: File,
    inode: u64,
    torn: Vec<u8>,
}

impl Open {
    async fn at(path: &Path, offset: u64) -> io::Result<Option<Open>> {
        let mut file = match File::open(path).await {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        file.seek(SeekFrom::Start(offset)).await?;
        let inode = file.metadata().await?.ino();
        Ok(Some(Open {
            file,
            inode,
            torn: Vec::new(),
        }))
    }
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Flow {
    More,
    Enough,
}

impl Reader {
    async fn run(&mut self, ended: &CancellationToken) -> io::Result<()> {
        // Before the first look, so that nothing happens in between unseen.
        let changes = if self.query.follow {
            Changes::of(&self.path)?
        } else {
            None
        };
        let (age, offset) = match self.query.tail {
            Some(lines) => tail_start(&self.path, lines).await?,
            None => (ROTATED, 0),
        };
        let mut open: Option<Open> = None;
        let mut start = offset;
        for age in (0..=age).rev() {
            let Some(next) =
                Open::at(&rotated(&self.path, age), std::mem::take(&mut start)).await?
            else {
                continue;
            };
            // A rotation while we read can show the same file again under the next name.
            if open.as_ref().is_some_and(|o| o.inode == next.inode) {
                continue;
            }
            let current = open.insert(next);
            if self.drain(current).await? == Flow::Enough {
                return Ok(());
            }
        }
        match changes {
            Some(changes) => self.follow(open, &changes, ended).await,
            None => Ok(()),
        }
    }

    async fn follow(
        &mut self,
        mut open: Option<Open>,
        changes: &Changes,
        ended: &CancellationToken,
    ) -> io::Result<()> {
        loop {
            let last = ended.is_cancelled();
            if self.catch_up(&mut open).await? == Flow::Enough || last {
                return Ok(());
            }
            tokio::select! {
                () = ended.cancelled() => {}
                () = self.sender.closed() => return Ok(()),
                changed = changes.wait() => changed?,
            }
        }
    }

    /// Reads what there is now, through every file that came after the open one.
    async fn catch_up(&mut self, open: &mut Option<Open>) -> io::Result<Flow> {
        loop {
            let next = newer(&self.path, open.as_ref().map(|o| o.inode)).await?;
            if let Some(current) = open
                && self.drain(current).await? == Flow::Enough
            {
                return Ok(Flow::Enough);
            }
            match next {
                Some(path) => match Open::at(&path, 0).await? {
                    Some(next) => *open = Some(next),
                    None => return Ok(Flow::More),
                },
                None => return Ok(Flow::More),
            }
        }
    }

    async fn drain(&mut self, open: &mut Open) -> io::Result<Flow> {
        let mut chunk = vec![0_u8; 64 << 10];
        loop {
            let n = open.file.read(&mut chunk).await?;
            if n == 0 {
                return Ok(Flow::More);
            }
            open.torn.extend_from_slice(&chunk[..n]);
            let Some(end) = open.torn.iter().rposition(|b| *b == b'\n') else {
                continue;
            };
            let rest = open.torn.split_off(end + 1);
            let lines = std::mem::replace(&mut open.torn, rest);
            if self.emit(&lines).await == Flow::Enough {
                return Ok(Flow::Enough);
            }
        }
    }

    /// Sends whole lines of the file as the caller wants them.
    async fn emit(&mut self, lines: &[u8]) -> Flow {
        let since = self.query.since.map(|t| format!("{t:.9}"));
        let mut out = Vec::with_capacity(lines.len());
        for line in lines.split(|b| *b == b'\n').filter_map(cri::parse) {
            if !self.mid_line {
                // Both have the same fixed form, so they sort as text.
                self.skipping = since.as_deref().is_some_and(|since| line.stamp < since);
            }
            let first = !std::mem::replace(&mut self.mid_line, !line.full);
            if self.skipping {
                continue;
            }
            if first && self.query.timestamps {
                out.extend_from_slice(line.stamp.as_bytes());
                out.push(b' ');
            }
            out.extend_from_slice(line.text);
            if line.full {
                out.push(b'\n');
            }
        }
        if let Some(left) = &mut self.left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
        if !out.is_empty() && self.sender.send(Ok(out.into())).await.is_err() {
            return Flow::Enough;
        }
        if self.left == Some(0) {
            Flow::Enough
        } else {
            Flow::More
        }
    }
}

/// Age and offset of the file where the last `wanted` lines begin.
async fn tail_start(path: &Path, wanted: u64) -> io::Result<(usize, u64)> {
    let mut missing = usize::try_from(wanted).unwrap_or(usize::MAX);
    let mut oldest = 0;
    for age in 0..=ROTATED {
        let content = match tokio::fs::read(rotated(path, age)).await {
            Ok(content) => content,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        oldest = age;
        let starts = line_starts(&content);
        if starts.len() >= missing {
            let offset = if missing == 0 {
                content.len()
            } else {
                starts[starts.len() - missing]
            };
            return Ok((age, offset as u64));
        }
        missing -= starts.len();
    }
    Ok((oldest, 0))
}

/// Where the container's own lines begin; parts of one line count once.
fn line_starts(content: &[u8]) -> Vec<usize> {
    let mut starts = Vec::new();
    let (mut offset, mut fresh) = (0, true);
    for line in content.split_inclusive(|b| *b == b'\n') {
        if let Some(parsed) = cri::parse(line.strip_suffix(b"\n").unwrap_or(line)) {
            if fresh {
                starts.push(offset);
            }
            fresh = parsed.full;
        }
        offset += line.len();
    }
    starts
}

/// The file to read after the one with this inode: the next newer one; the oldest when that one is gone.
async fn newer(path: &Path, inode: Option<u64>) -> io::Result<Option<PathBuf>> {
    let mut next = None;
    for age in 0..=ROTATED {
        let candidate = rotated(path, age);
        match tokio::fs::metadata(&candidate).await {
            Ok(found) if Some(found.ino()) == inode => return Ok(next),
            Ok(_) => next = Some(candidate),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(next)
}

/// Tells that something happened in a log's folder.
struct Changes {
    inotify: AsyncFd<OwnedFd>,
}

impl Changes {
    /// `None` when there is no such folder: nothing will ever come.
    fn of(path: &Path) -> io::Result<Option<Changes>> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let flags =
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        match inotify.add_watch(folder, flags) {
            Ok(_) => {
                // SAFETY: an OwnedFd keeps its descriptor open, and always gives the same one.
                let inotify = unsafe { AsyncFd::register(OwnedFd::from(inotify)) }?;
                Ok(Some(Changes { inotify }))
            }
            Err(nix::errno::Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    async fn wait(&self) -> io::Result<()> {
        let mut buffer = [0_u8; 4096];
        loop {
            let mut ready = self.inotify.readable().await?;
            match ready.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), &mut buffer)?)) {
                Ok(result) => {
                    return result.map(drop);
                }
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{Stream, StreamExt};
    use std::fmt::Write;

    fn line(second: u32, tag: char, text: &str) -> String {
        format!("2026-01-01T00:00:{second:02}.000000000Z stdout {tag} {text}\n")
    }

    async fn all(stream: impl Stream<Item = io::Result<Bytes>> + Unpin) -> String {
        let parts: Vec<Bytes> = stream.map(Result::unwrap).collect().await;
        String::from_utf8(parts.concat()).unwrap()
    }

    fn sample() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(rotated(&path, 2), line(1, 'F', "one")).unwrap();
        std::fs::write(
            rotated(&path, 1),
            line(2, 'F', "two") + &line(3, 'P', "thr") + &line(3, 'F', "ee"),
        )
        .unwrap();
        std::fs::write(&path, line(4, 'F', "four") + &line(5, 'P', "five")).unwrap();
        (dir, path)
    }

    #[track_caller]
    fn check(query: LogQuery, expected: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (_dir, path) = sample();
        let read = runtime
            .block_on(async { all(read(&path, query.clone(), CancellationToken::new())).await });
        assert_eq!(read, expected, "{query:?}");
    }

    #[test]
    fn queries() {
        check(LogQuery::default(), "one\ntwo\nthree\nfour\nfive");
        for (tail, expected) in [
            (0, ""),
            (1, "five"),
            (2, "four\nfive"),
            (3, "three\nfour\nfive"),
            (99, "one\ntwo\nthree\nfour\nfive"),
        ] {
            check(
                LogQuery {
                    tail: Some(tail),
                    ..LogQuery::default()
                },
                expected,
            );
        }
        let since = Some("2026-01-01T00:00:04Z".parse().unwrap());
        check(
            LogQuery {
                since,
                ..LogQuery::default()
            },
            "four\nfive",
        );
        check(
            LogQuery {
                limit_bytes: Some(5),
                ..LogQuery::default()
            },
            "one\nt",
        );
        check(
            LogQuery {
                timestamps: true,
                tail: Some(3),
                limit_bytes: Some(37),
                ..LogQuery::default()
            },
            "2026-01-01T00:00:03.000000000Z three\n",
        );
    }

    #[tokio::test]
    async fn following_loses_nothing_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let ended = CancellationToken::new();
        let query = LogQuery {
            follow: true,
            ..LogQuery::default()
        };
        let reading = tokio::spawn(all(read(&path, query, ended.clone())));
        let mut expected = String::new();
        for n in 0..50_u32 {
            if n % 20 == 19 {
                for age in (0..2).rev() {
                    // The oldest may not be there yet.
                    let _ = std::fs::rename(rotated(&path, age), rotated(&path, age + 1));
                }
            }
            let mut file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .unwrap();
            io::Write::write_all(&mut file, line(n, 'F', &n.to_string()).as_bytes()).unwrap();
            writeln!(expected, "{n}").unwrap();
            tokio::task::yield_now().await;
        }
        ended.cancel();
        assert_eq!(reading.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_missing_log_is_empty() {
        let query = LogQuery::default();
        assert_eq!(
            all(read("/nonexistent/x.log", query, CancellationToken::new())).await,
            ""
        );
    }
}
