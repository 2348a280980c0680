//! Network namespaces that have a name: made, entered and removed without leaving the caller's own. A namespace is kept by
//! a bind mount at /run/netns/NAME, so that `ip netns exec NAME` works. Links inside them are `links`' work.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::layout::{NETNS_DIR, netns_path};

/// Makes a network namespace; nothing happens if it is there already.
pub(crate) fn ensure(name: &str) -> Result<()> {
    let path = netns_path(name);
    if is_namespace(&path) {
        return Ok(());
    }
    share_folder()?;
    File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    let target = path.clone();
    in_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .context("cannot make a network namespace (root is needed)")?;
        mount(
            Some("/proc/thread-self/ns/net"),
            &target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .with_context(|| format!("cannot keep the network namespace at {}", target.display()))
    })
}

/// Makes the folder a shared mount on itself, as iproute2's first `ip netns add` would do later: a mount over it then would
/// hide ours, and nobody could remove them any more.
fn share_folder() -> Result<()> {
    std::fs::create_dir_all(NETNS_DIR).with_context(|| format!("cannot make {NETNS_DIR}"))?;
    if folder_is_mount()? {
        return Ok(());
    }
    let nothing = None::<&str>;
    let bound = mount(
        Some(NETNS_DIR),
        NETNS_DIR,
        nothing,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        nothing,
    );
    bound
        .and_then(|()| {
            mount(
                nothing,
                NETNS_DIR,
                nothing,
                MsFlags::MS_SHARED | MsFlags::MS_REC,
                nothing,
            )
        })
        .with_context(|| format!("cannot share {NETNS_DIR}"))
}

fn folder_is_mount() -> Result<bool> {
    let mounts =
        std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(NETNS_DIR)))
}

/// A namespace file is on the nsfs, which is another device than the folder's.
pub(crate) fn is_namespace(path: &Path) -> bool {
    let (Ok(file), Ok(folder)) = (std::fs::metadata(path), std::fs::metadata(NETNS_DIR)) else {
        return false;
    };
    file.dev() != folder.dev()
}

/// Runs `work` on a thread of its own that has entered the namespace. The caller stays where it is.
pub(crate) fn inside<T, F>(name: &str, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let path = netns_path(name);
    in_thread(move || {
        enter(&path)?;
        work()
    })
}

/// Moves the calling thread into the namespace, for good.
pub(crate) fn enter(path: &Path) -> Result<()> {
    if !is_namespace(path) {
        bail!("there is no network namespace at {}", path.display());
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter {}", path.display()))
}

fn in_thread<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let thread = std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(work)
        .context("cannot start a thread")?;
    thread
        .join()
        .map_err(|_| anyhow!("the thread in another network namespace panicked"))?
}

/// Removes a namespace's mounts and its file. What still runs inside keeps it alive, unnamed.
pub(crate) fn remove(path: &Path) -> Result<()> {
    while is_namespace(path) {
        umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .with_context(|| format!("cannot unmount {}", path.display()))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Names of all namespaces that are kept by name.
pub(crate) fn names() -> Vec<String> {
    let entries = std::fs::read_dir(NETNS_DIR)
        .map(|entries| entries.flatten().collect::<Vec<_>>())
        .unwrap_or_default();
    let mut names: Vec<String> = entries
        .into_iter()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Sets a value below /proc/sys in the namespace that the calling thread is in.
pub(crate) fn set_sysctl(key: &str, value: &str) -> Result<()> {
    let path = PathBuf::from("/proc/sys").join(key);
    std::fs::write(&path, value)
        .with_context(|| format!("cannot set {} to {value}", path.display()))
}
