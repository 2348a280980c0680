//! Files of a volume that is made from data, replaced all at once: each version lies in a folder of its own, `..data` is
//! a link to the newest, and every name in the volume is a link through `..data`. One rename changes them all.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

/// The link to the newest version.
const DATA: &str = "..data";

/// A file of a volume.
pub(super) struct Content {
    pub(super) path: String,
    pub(super) data: Vec<u8>,
    pub(super) mode: u32,
}

/// A relative path that stays below its start.
pub(super) fn inside(path: &str) -> Option<&Path> {
    let path = Path::new(path);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    (plain && path.components().next().is_some()).then_some(path)
}

pub(super) fn open_to(path: &Path, mode: u32, group: Option<u32>) -> std::io::Result<()> {
    if let Some(group) = group {
        std::os::unix::fs::lchown(path, None, Some(group))?;
    }
    let set_gid = if group.is_some() && path.is_dir() {
        0o2000
    } else {
        0
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | set_gid))
}

/// Brings a volume to `contents`; nothing is touched when it is there already.
pub(super) fn write(place: &Path, contents: &[Content], group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(place)?;
    open_to(place, 0o755, group)?;
    let current = fs::read_link(place.join(DATA)).ok();
    if let Some(current) = &current
        && is_same(&place.join(current), contents)?
    {
        return link_all(place, contents);
    }
    let version = next_version(place, current.as_deref())?;
    let folder = place.join(&version);
    fs::create_dir(&folder)?;
    open_to(&folder, 0o755, group)?;
    for content in contents {
        let path = folder.join(relative(content)?);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &content.data)?;
        open_to(&path, content.mode, group)?;
    }
    let link = place.join("..data_new");
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => symlink(&version, &link)?,
    }
    fs::rename(&link, place.join(DATA))?;
    link_all(place, contents)?;
    sweep(place, &version)
}

fn relative(content: &Content) -> io::Result<&Path> {
    inside(&content.path)
        .ok_or_else(|| io::Error::other(format!("path {:?} leads out of the volume", content.path)))
}

/// A version holds these files, with these modes, and no others.
fn is_same(folder: &Path, contents: &[Content]) -> io::Result<bool> {
    for content in contents {
        let path = folder.join(relative(content)?);
        let mode = fs::metadata(&path).map(|m| m.permissions().mode() & 0o777);
        let same = fs::read(&path).is_ok_and(|old| old == content.data);
        if !same || mode.ok() != Some(content.mode & 0o777) {
            return Ok(false);
        }
    }
    Ok(count(folder)? == contents.len())
}

fn count(folder: &Path) -> io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() {
            count(&entry.path())?
        } else {
            1
        };
    }
    Ok(files)
}

/// A name that no version has had: `..1`, `..2` and so on.
fn next_version(place: &Path, current: Option<&Path>) -> io::Result<PathBuf> {
    let number = |name: &Path| name.to_str()?.strip_prefix("..")?.parse::<u64>().ok();
    let mut highest = current.and_then(number).unwrap_or(0);
    for entry in fs::read_dir(place)? {
        let name = PathBuf::from(entry?.file_name());
        highest = highest.max(number(&name).unwrap_or(0));
    }
    Ok(format!("..{}", highest + 1).into())
}

/// Makes a link for every name at the top of the data, and removes all other names.
fn link_all(place: &Path, contents: &[Content]) -> io::Result<()> {
    let mut tops = Vec::new();
    for content in contents {
        if let Some(Component::Normal(top)) = relative(content)?.components().next()
            && !tops.contains(&top)
        {
            tops.push(top);
        }
    }
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        let name = entry.file_name();
        let own = name.as_encoded_bytes().starts_with(b"..");
        let link = entry.file_type()?.is_symlink();
        if own || (link && tops.contains(&name.as_os_str())) {
            continue;
        }
        remove(&entry.path())?;
    }
    for top in tops {
        let target = Path::new(DATA).join(top);
        match symlink(target, place.join(top)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes the versions before.
fn sweep(place: &Path, version: &Path) -> io::Result<()> {
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        let name = entry.file_name();
        let old = name.as_encoded_bytes().starts_with(b"..") && entry.file_type()?.is_dir();
        if old && Path::new(&name) != version {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}
