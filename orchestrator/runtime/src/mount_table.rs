//! What is mounted where, as this process sees it, and taking down what is mounted below a folder.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

/// How often the table is read anew until nothing is left: one mount point can carry several.
const ROUNDS: usize = 16;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub target: PathBuf,
    /// Its file system, `tmpfs`.
    pub kind: String,
}

/// Every mount that this process sees, in the order in which they were made.
///
/// # Errors
/// When /proc can't be read.
pub fn read() -> io::Result<Vec<Mounted>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().filter_map(mounted).collect())
}

/// Takes down everything that is mounted at `folder` or below it, so that removing the folder removes nothing else.
///
/// # Errors
/// What can't be taken down, and whatever stays mounted: the folder must not be removed then.
pub fn unmount_below(folder: &Path) -> io::Result<()> {
    let folder = match folder.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for _ in 0..ROUNDS {
        let mut below = read()?;
        below.retain(|one| one.target.starts_with(&folder));
        if below.is_empty() {
            return Ok(());
        }
        // The last are the deepest. One that is gone went with another.
        for one in below.iter().rev() {
            let how = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
            match umount2(&one.target, how) {
                Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let what = format!("something stays mounted below {}", folder.display());
    Err(io::Error::new(io::ErrorKind::ResourceBusy, what))
}

fn mounted(line: &str) -> Option<Mounted> {
    let target = line.split(' ').nth(4).map(unescape)?;
    let kind = line.split_once(" - ")?.1.split(' ').next()?.to_owned();
    Some(Mounted { target, kind })
}

/// mountinfo writes blanks and the like as octal numbers.
fn unescape(text: &str) -> PathBuf {
    let mut out = Vec::new();
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let mut value = 0_u8;
        for _ in 0..3 {
            let Some(digit) = bytes.next_if(|b| (b'0'..=b'7').contains(b)) else {
                break;
            };
            value = value.wrapping_mul(8).wrapping_add(digit - b'0');
        }
        out.push(value);
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount};

    use super::*;

    #[test]
    fn a_line_is_read_with_its_blanks() {
        let line = r"31 28 0:27 / /sys/fs/c\040d\134e rw,nosuid shared:9 - cgroup cgroup rw,cpu";
        let found = mounted(line).unwrap();
        assert_eq!(found.target, Path::new(r"/sys/fs/c d\e"));
        assert_eq!(found.kind, "cgroup");
    }

    #[test]
    fn what_is_bound_below_a_folder_outlives_it() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, gone) = (folder.path().join("kept"), folder.path().join("gone"));
        let place = gone.join("v/a b");
        std::fs::create_dir_all(&kept).unwrap();
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(kept.join("x"), "x").unwrap();
        for _ in 0..2 {
            let flags = MsFlags::MS_BIND;
            mount(Some(&kept), &place, None::<&str>, flags, None::<&str>).unwrap();
        }
        unmount_below(&gone).unwrap();
        assert!(!place.join("x").exists());
        std::fs::remove_dir_all(&gone).unwrap();
        assert!(kept.join("x").exists());
        unmount_below(&gone).unwrap();
    }
}
