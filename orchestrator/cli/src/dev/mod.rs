//! `waggle dev`: a cluster on this machine. Every node is a network namespace with its own agent, supervisor, cgroups, state
//! folder and bpffs; a bridge in a namespace of its own joins them. The machine's own links, routes and root cgroup are
//! never touched. Up can be done again, and down removes every trace of whatever there is.

mod cgroups;
mod door;
mod down;
mod layout;
mod links;
mod mounts;
mod netns;
mod process;
mod progress;
mod server;
mod status;
#[cfg(test)]
mod tests;
mod up;

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use waggle_model::ClusterName;

pub(crate) use layout::Layout;

use crate::connect::waggle_home;

/// Arguments of `dev`.
#[derive(Debug, clap::Args)]
pub struct DevArgs {
    #[command(subcommand)]
    action: Action,
}

/// Which cluster.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Which {
    /// Name of the cluster
    #[arg(
        long,
        env = "WAGGLE_CLUSTER",
        default_value = "local",
        value_name = "NAME"
    )]
    pub(crate) cluster: ClusterName,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Start a cluster, or upgrade the one that runs in place
    Up(up::UpArgs),
    /// Stop a cluster and remove every trace of it
    Down {
        #[command(flatten)]
        which: Which,
        /// No progress lines
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show the processes of a cluster
    Status {
        #[command(flatten)]
        which: Which,
    },
    /// Make a Service reachable from this machine
    Publish {
        /// [ADDRESS:]PORT=NAMESPACE/SERVICE:PORT
        #[arg(required = true)]
        publish: Vec<door::Publish>,
        #[command(flatten)]
        which: Which,
    },
    /// One published Service
    #[command(hide = true)]
    Door(door::DoorArgs),
    /// Becomes another subcommand in a session, namespace and cgroup of its own
    #[command(hide = true)]
    Launch {
        #[arg(long)]
        netns: Option<PathBuf>,
        #[arg(long)]
        cgroup: String,
        #[arg(last = true, required = true)]
        arguments: Vec<OsString>,
    },
}

/// Runs it. Must be called before any other thread is started.
///
/// # Errors
/// In one sentence with its causes, naming what to do where something can be done.
pub fn run(args: DevArgs) -> Result<ExitCode> {
    match args.action {
        Action::Up(args) => up::run(args),
        Action::Down { which, quiet } => down::run(&layout(&which)?, quiet),
        Action::Status { which } => status::run(&layout(&which)?),
        Action::Publish { publish, which } => up::publish(&layout(&which)?, &publish),
        Action::Door(args) => door::run(&args),
        Action::Launch {
            netns,
            cgroup,
            arguments,
        } => match process::launch(netns.as_deref(), &cgroup, &arguments)? {},
    }
}

/// Where a cluster is.
pub(crate) fn layout(which: &Which) -> Result<Layout> {
    Layout::new(&waggle_home()?, which.cluster.clone())
}

/// Keeps two of these commands from working on one cluster at a time. Without a cluster at its end, its file goes too, and
/// the home folder with it if nothing else is there.
#[derive(Debug)]
struct ClusterLock {
    _file: Flock<File>,
    path: PathBuf,
    cluster: PathBuf,
}

impl Drop for ClusterLock {
    fn drop(&mut self) {
        if !self.cluster.exists() {
            let _already_gone = std::fs::remove_file(&self.path);
            if let Some(home) = self.path.parent() {
                let _in_use = std::fs::remove_dir(home);
            }
        }
    }
}

fn lock(layout: &Layout) -> Result<ClusterLock> {
    require_root()?;
    let home = layout
        .dir
        .parent()
        .context("a cluster folder without a parent")?;
    let path = home.join(format!(".{}.lock", layout.name));
    loop {
        std::fs::create_dir_all(home).with_context(|| format!("cannot make {}", home.display()))?;
        let file = match File::create(&path) {
            // The holder before us has removed the folder that we have just made sure of.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !home.exists() => {
                continue;
            }
            other => other.with_context(|| format!("cannot open {}", path.display()))?,
        };
        let locked = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => locked,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                bail!(
                    "another `waggle dev` is working on the cluster {}: wait until it has ended",
                    layout.name
                )
            }
            Err((_, error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        };
        // The holder before us may have removed the file that we have locked.
        let inode = locked.metadata().context("cannot look at the lock")?.ino();
        if std::fs::metadata(&path).is_ok_and(|current| current.ino() == inode) {
            return Ok(ClusterLock {
                _file: locked,
                path,
                cluster: layout.dir.clone(),
            });
        }
    }
}

fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("`waggle dev` makes network namespaces, mounts and cgroups: run it as root");
    }
    Ok(())
}
