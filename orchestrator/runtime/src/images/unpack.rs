//! Turns the tar of an image layer into a folder that overlayfs can stack: whiteouts become what overlayfs expects,
//! nothing is ever written outside of the folder, whatever the archive says.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use sha2::{Digest, Sha256};
use tar::{Entry, EntryType};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A reader that hashes what passes.
pub(super) struct Hashing<R> {
    reader: R,
    hash: Sha256,
}

impl<R> Hashing<R> {
    pub(super) fn new(reader: R) -> Self {
        Hashing {
            reader,
            hash: Sha256::new(),
        }
    }

    /// `sha256:…` of all that has passed.
    pub(super) fn digest(&self) -> String {
        format!("sha256:{:x}", self.hash.clone().finalize())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

/// Decompresses gzip and zstd, known by their first bytes, and passes everything else on.
pub(super) fn decompress<'a>(mut reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = [0_u8; 4];
    let mut have = 0;
    while have < start.len() {
        match reader.read(&mut start[have..])? {
            0 => break,
            n => have += n,
        }
    }
    let whole = io::Cursor::new(start[..have].to_vec()).chain(reader);
    match start {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::read::MultiGzDecoder::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd] => Ok(Box::new(
            ruzstd::decoding::StreamingDecoder::new(whole).map_err(io::Error::other)?,
        )),
        _ => Ok(Box::new(whole)),
    }
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    #[error("the archive can't be read: {0}")]
    Archive(#[source] io::Error),
    #[error("entry {path:?} would leave the layer")]
    Hostile { path: PathBuf },
    #[error(
        "entry {path:?}: with it the layer takes more than {limit} bytes, which the disk doesn't have"
    )]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("entry {path:?}: {operation}: {source}")]
    Entry {
        path: PathBuf,
        operation: &'static str,
        source: io::Error,
    },
}

/// Unpacks an archive into an empty folder; gives the bytes of the files in it.
/// More than nine tenths of what the file system has left is refused: an archive of a few bytes may stand for any size.
pub(super) fn unpack(reader: impl Read, root: &Path) -> Result<u64, UnpackError> {
    let space =
        nix::sys::statvfs::statvfs(root).map_err(|errno| UnpackError::Archive(errno.into()))?;
    let left = space
        .blocks_available()
        .saturating_mul(space.fragment_size());
    unpack_at_most(reader, root, left / 10 * 9)
}

fn unpack_at_most(reader: impl Read, root: &Path, limit: u64) -> Result<u64, UnpackError> {
    let mut unpacker = Unpacker {
        root: File::open(root).map_err(UnpackError::Archive)?,
        parent: None,
        folders: Vec::new(),
        bytes: 0,
        limit,
    };
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(UnpackError::Archive)? {
        unpacker.entry(&mut entry.map_err(UnpackError::Archive)?)?;
    }
    unpacker.finish()
}

struct Unpacker {
    root: File,
    /// The folder of the entry before, which mostly is the folder of this one.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Times of folders, set when nothing is written to them any more.
    folders: Vec<(PathBuf, i64)>,
    bytes: u64,
    /// What `bytes` must not exceed.
    limit: u64,
}

/// Names the path and the step that failed.
struct Step<'a>(&'a Path);

impl Step<'_> {
    fn fail(&self, operation: &'static str) -> impl Fn(Errno) -> UnpackError {
        let path = self.0.to_owned();
        move |errno| match errno {
            Errno::ELOOP | Errno::EXDEV | Errno::ENOTDIR => {
                UnpackError::Hostile { path: path.clone() }
            }
            errno => UnpackError::Entry {
                path: path.clone(),
                operation,
                source: errno.into(),
            },
        }
    }

    fn io(&self, operation: &'static str) -> impl Fn(io::Error) -> UnpackError {
        let path = self.0.to_owned();
        move |source| UnpackError::Entry {
            path: path.clone(),
            operation,
            source,
        }
    }
}

impl Unpacker {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let path = clean(&entry.path_bytes())?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return self.root_entry(entry);
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let step = Step(&path);
        self.enter(&folder).map_err(step.fail("open its folder"))?;
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return self.whiteout(&path, name.as_bytes(), hidden);
        }
        self.make(entry, kind, &path, &name)?;
        self.attributes(entry, kind, &path, &name)
    }

    fn finish(mut self) -> Result<u64, UnpackError> {
        for (path, mtime) in std::mem::take(&mut self.folders) {
            let step = Step(&path);
            let Some(name) = path.file_name() else {
                continue;
            };
            // A later entry may have replaced the folder.
            if self.enter(path.parent().unwrap_or(Path::new(""))).is_err() {
                continue;
            }
            match set_time(self.parent_fd(), name, mtime) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(step.fail("set its time")(errno)),
            }
        }
        Ok(self.bytes)
    }

    fn parent_fd(&self) -> &OwnedFd {
        match &self.parent {
            Some((_, fd)) => fd,
            None => unreachable!("every caller has entered a folder"),
        }
    }

    /// The archive may speak about the root folder itself.
    fn root_entry<R: Read>(&mut self, entry: &Entry<'_, R>) -> Result<(), UnpackError> {
        let step = Step(Path::new("/"));
        if entry.header().entry_type().is_dir() {
            let (uid, gid) = owner(entry).map_err(step.io("read its owner"))?;
            let mode =
                Mode::from_bits_truncate(entry.header().mode().map_err(step.io("read its mode"))?);
            nix::unistd::fchown(&self.root, Some(uid), Some(gid))
                .map_err(step.fail("set its owner"))?;
            nix::sys::stat::fchmod(&self.root, mode).map_err(step.fail("set its mode"))?;
        }
        Ok(())
    }

    /// Opens a folder of the layer, makes it when it is missing. Links are followed as if the layer were the root.
    fn enter(&mut self, folder: &Path) -> nix::Result<()> {
        if self.parent.as_ref().is_some_and(|(path, _)| path == folder) {
            return Ok(());
        }
        let fd = match self.open_folder(folder) {
            Err(Errno::ENOENT) => {
                let mut sofar = PathBuf::new();
                for part in folder.components() {
                    let above = self.open_folder(&sofar)?;
                    match mkdirat(&above, part.as_os_str(), Mode::from_bits_truncate(0o755)) {
                        Ok(()) | Err(Errno::EEXIST) => {}
                        Err(errno) => return Err(errno),
                    }
                    sofar.push(part);
                }
                self.open_folder(folder)?
            }
            other => other?,
        };
        self.parent = Some((folder.to_owned(), fd));
        Ok(())
    }

    fn open_folder(&self, folder: &Path) -> nix::Result<OwnedFd> {
        let path = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.root, path, how)
    }

    fn whiteout(&mut self, path: &Path, name: &[u8], hidden: &[u8]) -> Result<(), UnpackError> {
        let step = Step(path);
        if name == OPAQUE {
            let folder = format!("/proc/self/fd/{}/.", self.parent_fd().as_raw_fd());
            return xattr::set(folder, "trusted.overlay.opaque", b"y")
                .map_err(step.io("hide what is below"));
        }
        // Other names of this kind are bookkeeping of a file system that nobody uses any more.
        if hidden.starts_with(WHITEOUT) || hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(hidden);
        self.clear(hidden).map_err(step.fail("replace"))?;
        mknodat(
            self.parent_fd(),
            hidden,
            SFlag::S_IFCHR,
            Mode::empty(),
            makedev(0, 0),
        )
        .map_err(step.fail("hide what is below"))
    }

    /// Removes what stands in the way of an entry.
    fn clear(&mut self, name: &OsStr) -> nix::Result<()> {
        match unlinkat(self.parent_fd(), name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(()),
            Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EISDIR) => {
                let path = format!("/proc/self/fd/{}/", self.parent_fd().as_raw_fd());
                std::fs::remove_dir_all(Path::new(&path).join(name))
                    .map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
            }
            Err(errno) => Err(errno),
        }
    }

    fn make<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        kind: EntryType,
        path: &Path,
        name: &OsStr,
    ) -> Result<(), UnpackError> {
        let step = Step(path);
        if kind.is_dir() {
            return match mkdirat(self.parent_fd(), name, Mode::from_bits_truncate(0o700)) {
                Err(Errno::EEXIST) if self.is_folder(name) => Ok(()),
                Err(Errno::EEXIST) => {
                    self.clear(name).map_err(step.fail("replace"))?;
                    mkdirat(self.parent_fd(), name, Mode::from_bits_truncate(0o700))
                        .map_err(step.fail("create"))
                }
                other => other.map_err(step.fail("create")),
            };
        }
        self.clear(name).map_err(step.fail("replace"))?;
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(entry, path, name)
            }
            EntryType::Link => self.hard_link(entry, path, name),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                symlinkat(OsStr::from_bytes(&target), self.parent_fd(), name)
                    .map_err(step.fail("create"))
            }
            EntryType::Fifo => mknodat(self.parent_fd(), name, SFlag::S_IFIFO, Mode::empty(), 0)
                .map_err(step.fail("create")),
            EntryType::Char | EntryType::Block => {
                let header = entry.header();
                let number = |n: io::Result<Option<u32>>| n.map(|n| u64::from(n.unwrap_or(0)));
                let major = number(header.device_major()).map_err(step.io("read its device"))?;
                let minor = number(header.device_minor()).map_err(step.io("read its device"))?;
                let kind = if kind == EntryType::Char {
                    SFlag::S_IFCHR
                } else {
                    SFlag::S_IFBLK
                };
                mknodat(
                    self.parent_fd(),
                    name,
                    kind,
                    Mode::empty(),
                    makedev(major, minor),
                )
                .map_err(step.fail("create"))
            }
            other => Err(step.io("create")(io::Error::other(format!(
                "unknown kind of entry {other:?}"
            )))),
        }
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &Path,
        name: &OsStr,
    ) -> Result<(), UnpackError> {
        let step = Step(path);
        if self.bytes.saturating_add(entry.size()) > self.limit {
            return Err(UnpackError::TooLarge {
                path: path.to_owned(),
                limit: self.limit,
            });
        }
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::openat(
            self.parent_fd(),
            name,
            flags,
            Mode::from_bits_truncate(0o600),
        )
        .map_err(step.fail("create"))?;
        self.bytes += io::copy(entry, &mut File::from(fd)).map_err(step.io("write"))?;
        Ok(())
    }

    fn hard_link<R: Read>(
        &mut self,
        entry: &Entry<'_, R>,
        path: &Path,
        name: &OsStr,
    ) -> Result<(), UnpackError> {
        let step = Step(path);
        let target = clean(&entry.link_name_bytes().unwrap_or_default())?;
        let Some(leaf) = target.file_name() else {
            return Err(UnpackError::Hostile {
                path: path.to_owned(),
            });
        };
        let folder = self
            .open_folder(target.parent().unwrap_or(Path::new("")))
            .map_err(step.fail("find what it links to"))?;
        linkat(&folder, leaf, self.parent_fd(), name, AtFlags::empty()).map_err(step.fail("link"))
    }

    fn attributes<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        kind: EntryType,
        path: &Path,
        name: &OsStr,
    ) -> Result<(), UnpackError> {
        let step = Step(path);
        if kind == EntryType::Link {
            return Ok(());
        }
        let (uid, gid) = owner(entry).map_err(step.io("read its owner"))?;
        fchownat(
            self.parent_fd(),
            name,
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .map_err(step.fail("set its owner"))?;
        if kind != EntryType::Symlink {
            let mode =
                Mode::from_bits_truncate(entry.header().mode().map_err(step.io("read its mode"))?);
            fchmodat(self.parent_fd(), name, mode, FchmodatFlags::FollowSymlink)
                .map_err(step.fail("set its mode"))?;
        }
        self.extended(entry, path, name)?;
        let mtime = i64::try_from(entry.header().mtime().unwrap_or(0)).unwrap_or(0);
        if kind.is_dir() {
            self.folders.push((path.to_owned(), mtime));
            return Ok(());
        }
        set_time(self.parent_fd(), name, mtime).map_err(step.fail("set its time"))
    }

    /// Extended attributes (file capabilities among them), but for those that would speak to overlayfs.
    fn extended<R: Read>(
        &self,
        entry: &mut Entry<'_, R>,
        path: &Path,
        name: &OsStr,
    ) -> Result<(), UnpackError> {
        let step = Step(path);
        let Some(extensions) = entry
            .pax_extensions()
            .map_err(step.io("read its attributes"))?
        else {
            return Ok(());
        };
        let file = Path::new(&format!("/proc/self/fd/{}", self.parent_fd().as_raw_fd())).join(name);
        for extension in extensions {
            let extension = extension.map_err(step.io("read its attributes"))?;
            let Some(key) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") else {
                continue;
            };
            if key.starts_with(b"trusted.overlay.") || key.starts_with(b"user.overlay.") {
                continue;
            }
            match xattr::set(&file, OsStr::from_bytes(key), extension.value_bytes()) {
                Ok(()) => {}
                // This file system has none; the file is of use all the same.
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(e) => return Err(step.io("set an extended attribute")(e)),
            }
        }
        Ok(())
    }

    fn is_folder(&self, name: &OsStr) -> bool {
        nix::sys::stat::fstatat(self.parent_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|s| SFlag::from_bits_truncate(s.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
    }
}

fn set_time(folder: &OwnedFd, name: &OsStr, mtime: i64) -> nix::Result<()> {
    let time = TimeSpec::new(mtime, 0);
    utimensat(folder, name, &time, &time, UtimensatFlags::NoFollowSymlink)
}

fn owner<R: Read>(entry: &Entry<'_, R>) -> io::Result<(Uid, Gid)> {
    let id = |n: u64| u32::try_from(n).map_err(io::Error::other);
    Ok((
        Uid::from_raw(id(entry.header().uid()?)?),
        Gid::from_raw(id(entry.header().gid()?)?),
    ))
}

/// A path of an archive, relative and without detours. One that climbs is refused.
fn clean(bytes: &[u8]) -> Result<PathBuf, UnpackError> {
    let mut path = PathBuf::new();
    for part in bytes.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                return Err(UnpackError::Hostile {
                    path: OsStr::from_bytes(bytes).into(),
                });
            }
            part if part.contains(&0) => {
                return Err(UnpackError::Hostile {
                    path: OsStr::from_bytes(bytes).into(),
                });
            }
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_that_stands_for_more_than_there_is_room_is_refused() {
        let mut archive = tar::Builder::new(Vec::new());
        for name in ["a", "b"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(40);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            archive
                .append_data(&mut header, name, &[b'x'; 40][..])
                .unwrap();
        }
        let bytes = archive.into_inner().unwrap();
        let root = tempfile::tempdir().unwrap();
        let error = unpack_at_most(bytes.as_slice(), root.path(), 50).unwrap_err();
        assert!(error.to_string().contains("more than 50 bytes"), "{error}");
        assert!(root.path().join("a").exists() && !root.path().join("b").exists());
        let root = tempfile::tempdir().unwrap();
        let unpacked = unpack_at_most(bytes.as_slice(), root.path(), 80);
        assert_eq!(unpacked.unwrap(), 80);
    }
}
