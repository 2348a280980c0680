//! `waggle dev down`: ends every process and removes every trace. Goes by names, not by what a run remembers, so that it also
//! works after a kill -9 of everything or a half-finished up. Collects all errors.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::layout::{Layout, MAX_SERVERS, netns_path, node_name, server_name};
use super::process::Process;
use super::progress::Progress;
use super::{cgroups, lock, mounts, netns};

/// How long processes get to end by themselves.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs it.
pub(crate) fn run(layout: &Layout, quiet: bool) -> Result<ExitCode> {
    let _lock = lock(layout)?;
    let mut progress = Progress::start(quiet);
    let mut errors = Vec::new();
    if !exists(layout) {
        progress.say(&format!("Cluster {}: nothing is there", layout.name));
        return Ok(ExitCode::SUCCESS);
    }
    progress.say(&format!("Cluster {}", layout.name));
    errors.extend(end_processes(layout));
    progress.done(
        "processes",
        "server, agents, supervisors and containers ended",
    );
    errors.extend(mounts::unmount_below(&layout.dir));
    for name in netns::names()
        .into_iter()
        .filter(|name| layout.owns_netns(name))
    {
        errors.extend(netns::remove(&netns_path(&name)).err());
    }
    progress.done("network", "namespaces and mounts removed");
    errors.extend(cgroups::remove(&layout.cgroup()));
    progress.done("cgroups", "removed from every hierarchy");
    errors.extend(remove_state(&layout.dir).err());
    progress.done("state", &format!("{} removed", layout.dir.display()));
    if errors.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let texts: Vec<String> = errors.iter().map(|error| format!("{error:#}")).collect();
    bail!(
        "not everything of the cluster {} could be removed: {}",
        layout.name,
        texts.join("; ")
    )
}

fn exists(layout: &Layout) -> bool {
    layout.dir.exists()
        || netns::names().iter().any(|name| layout.owns_netns(name))
        || cgroups::hierarchies()
            .iter()
            .any(|hierarchy| hierarchy.join(layout.cgroup()).exists())
}

/// Asks our own processes to end, then kills whatever is left in the cluster's cgroups.
fn end_processes(layout: &Layout) -> Vec<anyhow::Error> {
    let mut errors = Vec::new();
    let mut parts: Vec<String> = std::fs::read_dir(&layout.dir)
        .map(|entries| {
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect::<Vec<_>>()
        })
        .unwrap_or_default()
        .into_iter()
        .filter_map(|name| name.strip_suffix(".pid").map(str::to_owned))
        .collect();
    // Nodes first, the server last: it notes what the agents say at their end.
    parts.sort_by_key(|part| {
        (
            !part.starts_with("door"),
            part.starts_with("server"),
            part.clone(),
        )
    });
    let running: Vec<Process> = parts
        .iter()
        .filter_map(|part| Process::from_file(&layout.pid_file(part)))
        .collect();
    let enders: Vec<_> = running
        .into_iter()
        .map(|process| std::thread::spawn(move || process.end(PATIENCE)))
        .collect();
    for ender in enders {
        errors.extend(ender.join().ok().and_then(Result::err));
    }
    errors.extend(cgroups::kill_all(&layout.cgroup(), Duration::from_secs(15)).err());
    errors
}

/// Removes the state, but never through a mount that is still there.
pub(crate) fn remove_state(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let left = mounts::points_below(dir)?;
    if let Some(point) = left.first() {
        bail!(
            "{} is still mounted: the folder {} was left alone",
            point.display(),
            dir.display()
        );
    }
    std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))
}

/// Names of the parts of a cluster that have a process of ours: server, nodes, doors.
pub(crate) fn parts(layout: &Layout) -> Vec<String> {
    let mut parts = vec!["server".to_owned()];
    let more = (2..=MAX_SERVERS).map(server_name);
    parts.extend(more.filter(|name| layout.pid_file(name).exists()));
    parts.extend(layout.nodes().into_iter().map(node_name));
    let mut doors: Vec<String> = std::fs::read_dir(&layout.dir)
        .map(|entries| {
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect::<Vec<_>>()
        })
        .unwrap_or_default()
        .into_iter()
        .filter_map(|name| {
            name.strip_suffix(".pid")
                .filter(|part| part.starts_with("door"))
                .map(str::to_owned)
        })
        .collect();
    doors.sort();
    parts.extend(doors);
    parts
}
