//! Who an image's `USER` is: names and numbers looked up in the passwd and group files of its layers.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::spec::UserSpec;

/// passwd and group files larger than this are not read, bytes.
const MAX_FILE: u64 = 4 << 20;

/// Why a user can't be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// A name that the image doesn't know.
    #[error("image has no {kind} {name:?}")]
    Unknown {
        /// user or group.
        kind: &'static str,
        /// As asked for.
        name: String,
    },
    /// The image's file can't be read.
    #[error("read {file} of the image: {source}")]
    Read {
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
        /// Cause.
        source: std::io::Error,
    },
}

/// Resolves `user`, `uid`, `user:group` or `uid:gid` (empty: root) against an image's layers, lowest first. A user by
/// number that the image doesn't know is in group 0; supplementary groups come from the group file unless a group was
/// given.
pub fn resolve(user: &str, layers: &[PathBuf]) -> Result<UserSpec, UserError> {
    let passwd = read(layers, "/etc/passwd")?;
    let group = read(layers, "/etc/group")?;
    lookup(user, &passwd, &group)
}

fn lookup(text: &str, passwd: &str, group: &str) -> Result<UserSpec, UserError> {
    let (user, given) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let entry = passwd
        .lines()
        .filter_map(passwd_line)
        .find(|e| e.name == user || Some(e.uid) == number);
    let (uid, primary) = match (&entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) => {
            return Err(UserError::Unknown {
                kind: "user",
                name: user.to_owned(),
            });
        }
    };
    let Some(given) = given else {
        let name = entry.map(|e| e.name);
        let mut additional_gids: Vec<u32> = group
            .lines()
            .filter_map(group_line)
            .filter(|(_, gid, members)| {
                *gid != primary && name.is_some_and(|n| members.split(',').any(|m| m == n))
            })
            .map(|(_, gid, _)| gid)
            .collect();
        additional_gids.sort_unstable();
        additional_gids.dedup();
        return Ok(UserSpec {
            uid,
            gid: primary,
            additional_gids,
        });
    };
    let by_name = group
        .lines()
        .filter_map(group_line)
        .find(|(name, ..)| *name == given)
        .map(|(_, gid, _)| gid);
    let gid = by_name
        .or_else(|| given.parse().ok())
        .ok_or_else(|| UserError::Unknown {
            kind: "group",
            name: given.to_owned(),
        })?;
    Ok(UserSpec {
        uid,
        gid,
        additional_gids: Vec::new(),
    })
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

fn passwd_line(line: &str) -> Option<PasswdEntry<'_>> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(PasswdEntry { name, uid, gid })
}

fn group_line(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let gid = fields.nth(1)?.parse().ok()?;
    Some((name, gid, fields.next().unwrap_or_default().trim()))
}

/// The file as the container will see it: from the topmost layer that has it, empty when none does or one removed it.
fn read(layers: &[PathBuf], file: &'static str) -> Result<String, UserError> {
    for layer in layers.iter().rev() {
        match open(layer, file) {
            Ok(Some(mut opened)) => {
                let mut bytes = Vec::new();
                opened
                    .by_ref()
                    .take(MAX_FILE)
                    .read_to_end(&mut bytes)
                    .map_err(|source| UserError::Read { file, source })?;
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            Ok(None) => return Ok(String::new()),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => {
                return Err(UserError::Read {
                    file,
                    source: errno.into(),
                });
            }
        }
    }
    Ok(String::new())
}

/// `None` when the layer removes the file.
fn open(layer: &Path, file: &str) -> nix::Result<Option<File>> {
    let io = |e: std::io::Error| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let root = File::open(layer).map_err(io)?;
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let look = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(resolve);
    let found = File::from(openat2(&root, file, look)?)
        .metadata()
        .map_err(io)?;
    if found.file_type().is_char_device() && found.rdev() == 0 {
        return Ok(None);
    }
    if !found.is_file() {
        return Err(Errno::EINVAL);
    }
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(resolve);
    Ok(Some(File::from(openat2(&root, file, how)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nredis:x:101:102::/var/lib/redis:/bin/false\nbroken\n1234:x:7:8::/:/\n";
    const GROUP: &str = "root:x:0:\nredis:x:102:\ntls:x:110:redis,other\nlog:x:4:other\n";

    #[track_caller]
    fn check(text: &str, uid: u32, gid: u32, additional: &[u32]) {
        let user = lookup(text, PASSWD, GROUP).unwrap();
        assert_eq!(
            (user.uid, user.gid, user.additional_gids.as_slice()),
            (uid, gid, additional),
            "{text}"
        );
    }

    #[test]
    fn names_numbers_and_groups() {
        check("", 0, 0, &[]);
        check("redis", 101, 102, &[110]);
        check("101", 101, 102, &[110]);
        check("1000", 1000, 0, &[]);
        check("1000:1001", 1000, 1001, &[]);
        check("redis:log", 101, 4, &[]);
        check("redis:", 101, 102, &[110]);
        // A user whose name is a number wins over the number.
        check("1234", 7, 8, &[]);
    }

    #[test]
    fn unknown_names_are_told() {
        assert_eq!(
            lookup("ghost", PASSWD, GROUP).unwrap_err().to_string(),
            "image has no user \"ghost\""
        );
        assert_eq!(
            lookup("redis:ghost", PASSWD, GROUP)
                .unwrap_err()
                .to_string(),
            "image has no group \"ghost\""
        );
    }

    #[test]
    fn the_topmost_layer_wins_and_links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = ["low", "high"].iter().map(|n| dir.path().join(n)).collect();
        for (layer, uid) in layers.iter().zip([1, 2]) {
            std::fs::create_dir_all(layer.join("etc")).unwrap();
            std::fs::write(
                layer.join("etc/passwd"),
                format!("app:x:{uid}:{uid}::/:/\n"),
            )
            .unwrap();
        }
        assert_eq!(resolve("app", &layers).unwrap().uid, 2);
        std::fs::remove_file(layers[1].join("etc/passwd")).unwrap();
        assert_eq!(resolve("app", &layers).unwrap().uid, 1);
        // Points to the layer's own file, not to the host's.
        std::fs::write(layers[1].join("users"), "app:x:9:9::/:/\n").unwrap();
        std::os::unix::fs::symlink("/users", layers[1].join("etc/passwd")).unwrap();
        assert_eq!(resolve("app", &layers).unwrap().uid, 9);
    }
}
