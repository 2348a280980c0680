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
    /// What is mounted below it is seen in its copies, and the other way around.
    pub shared: bool,
}

/// The mount that a path (absolute, without links) is on: of those in `all` the one that hides the others there.
#[must_use]
pub fn holding<'a>(all: &'a [Mounted], path: &Path) -> Option<&'a Mounted> {
    let above = all.iter().filter(|one| path.starts_with(&one.target));
    // Of several at one place the last one is seen, and so of equals this takes the last.
    above.max_by_key(|one| one.target.components().count())
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
    let (before, after) = line.split_once(" - ")?;
    let kind = after.split(' ').next()?.to_owned();
    let mut optional = before.split(' ').skip(6);
    Some(Mounted {
        target,
        kind,
        shared: optional.any(|field| field.starts_with("shared:")),
    })
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
        assert!(found.shared);
    }

    #[test]
    fn the_mount_that_holds_a_path_says_whether_it_is_shared() {
        let table = "1 0 8:1 / / rw shared:1 - ext4 /dev/x rw\n\
                     2 1 0:5 / /mnt rw master:1 - tmpfs x rw\n\
                     3 2 0:6 / /mnt rw shared:7 master:1 - tmpfs x rw\n\
                     4 3 0:7 / /mnt/shared:a rw - tmpfs x rw\n";
        let all: Vec<Mounted> = table.lines().filter_map(mounted).collect();
        for (path, target, shared) in [
            ("/mntx", "/", true),
            ("/mnt/a", "/mnt", true),
            ("/mnt/shared:a/b", "/mnt/shared:a", false),
        ] {
            let found = holding(&all, Path::new(path)).unwrap();
            assert_eq!(
                (found.target.as_path(), found.shared),
                (Path::new(target), shared),
                "{path}"
            );
        }
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
