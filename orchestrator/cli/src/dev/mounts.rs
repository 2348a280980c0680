//! Mounts of a cluster: a bpffs for each node, and the sweep of whatever is mounted below the cluster's folder.

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Mounts a bpffs at `folder`; nothing happens if one is there.
pub(crate) fn ensure_bpffs(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let kind = statfs(folder)
        .with_context(|| format!("cannot look at {}", folder.display()))?
        .filesystem_type();
    if kind == BPF_FS_MAGIC {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), folder, Some("bpf"), flags, Some("mode=700"))
        .with_context(|| format!("cannot mount a bpffs at {}", folder.display()))
}

/// Unmounts everything at or below `folder`, newest first. Every error is given.
pub(crate) fn unmount_below(folder: &Path) -> Vec<anyhow::Error> {
    let points = match points_below(folder) {
        Ok(points) => points,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    for point in points.into_iter().rev() {
        if let Err(error) = umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            errors.push(
                anyhow::Error::new(error).context(format!("cannot unmount {}", point.display())),
            );
        }
    }
    errors
}

/// What is mounted at or below `folder`, oldest first.
pub(crate) fn points_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let table =
        std::fs::read("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(mount_points(&table)
        .into_iter()
        .filter(|point| point.starts_with(folder))
        .collect())
}

/// Mount points in the order they were made. Octal escapes (`\040`) are undone.
fn mount_points(table: &[u8]) -> Vec<PathBuf> {
    table
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(4))
        .map(|field| PathBuf::from(std::ffi::OsString::from_vec(unescape(field))))
        .collect()
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(decoded) => {
                out.push(decoded);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let table = b"22 1 0:20 / /sys rw - sysfs sysfs rw\n23 22 0:21 / /a\\040b rw shared:1 - bpf bpf rw\n";
        assert_eq!(
            mount_points(table),
            [PathBuf::from("/sys"), PathBuf::from("/a b")]
        );
    }
}
