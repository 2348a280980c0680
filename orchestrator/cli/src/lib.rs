//! The client verbs and what they print; the cluster on one machine. Arguments are defined beside each verb; parsing the
//! command line as a whole, tracing and signals are the binary's.
#![forbid(unsafe_code)]

mod age;
mod apply;
mod backup;
mod completion;
mod config;
mod connect;
mod delete;
mod describe;
pub mod dev;
mod drain;
mod exec;
mod flows;
mod get;
mod image;
mod kinds;
mod logs;
mod node;
mod policy;
mod portforward;
mod rollout;
mod scale;
mod schedule;
mod tab;
mod table;
mod top;
mod version;

pub use age::parse_duration;
pub use connect::Globals;

use std::process::ExitCode;

/// Exit code of a command line that can't be understood.
pub const USAGE: u8 = 2;

/// The client verbs.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Show objects
    Get(get::GetArgs),
    /// Show an object in detail, with its events
    Describe(describe::DescribeArgs),
    /// Create or change objects from files
    Apply(apply::ApplyArgs),
    /// Delete objects
    Delete(delete::DeleteArgs),
    /// Print the log of a container
    Logs(logs::LogsArgs),
    /// Show what the nodes' datapaths decide and why
    Flows(flows::FlowsArgs),
    /// Run a command in a container
    Exec(exec::ExecArgs),
    /// Set the number of replicas
    Scale(scale::ScaleArgs),
    /// Follow, restart or undo a rollout
    Rollout(rollout::RolloutArgs),
    /// Say why a pod is on its node, or on none
    Schedule(schedule::ScheduleArgs),
    /// Show what pods or nodes use
    Top(top::TopArgs),
    /// Say which rule lets something reach something else, or keeps it away
    Policy(policy::PolicyArgs),
    /// Forward local ports to a pod
    PortForward(portforward::PortForwardArgs),
    /// Let a node take no new pods
    Cordon(drain::CordonArgs),
    /// Let a node take new pods again
    Uncordon(drain::CordonArgs),
    /// Let a node take no new pods, and end those that it has
    Drain(drain::DrainArgs),
    /// Show the kinds that the server knows
    ApiResources,
    /// Look into a node of this machine
    Node(node::NodeArgs),
    /// Bring images to the nodes of this machine, and list them
    Image(image::ImageArgs),
    /// Save the whole cluster in a file; `waggle restore` brings it back
    Backup(backup::BackupArgs),
    /// Show which kubeconfig is used
    Config(config::ConfigArgs),
    /// Print a completion script for a shell
    Completion(completion::CompletionArgs),
    /// Show the versions of this program and of the server
    Version(version::VersionArgs),
}

/// Runs a client verb. `root` is the whole command, for completion; `build` is this program's version.
pub async fn run(
    verb: Verb,
    globals: Globals,
    root: clap::Command,
    build: &str,
) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Get(args) => get::run(args, &globals).await,
        Verb::Describe(args) => describe::run(args, &globals).await,
        Verb::Apply(args) => apply::run(args, &globals).await,
        Verb::Delete(args) => delete::run(args, &globals).await,
        Verb::Logs(args) => logs::run(args, &globals).await,
        Verb::Flows(args) => flows::run(args, &globals).await,
        Verb::Exec(args) => exec::run(args, &globals).await,
        Verb::Scale(args) => scale::run(args, &globals).await,
        Verb::Rollout(args) => rollout::run(args, &globals).await,
        Verb::Schedule(args) => schedule::run(args, &globals).await,
        Verb::Top(args) => top::run(args, &globals).await,
        Verb::Policy(args) => policy::run(args, &globals).await,
        Verb::PortForward(args) => portforward::run(args, &globals).await,
        Verb::Cordon(args) => drain::cordon(args, &globals, true).await,
        Verb::Uncordon(args) => drain::cordon(args, &globals, false).await,
        Verb::Drain(args) => drain::run(args, &globals).await,
        Verb::ApiResources => kinds::print(&globals).await,
        Verb::Node(args) => node::run(args).await,
        Verb::Image(args) => image::run(args).await,
        Verb::Backup(args) => backup::run(args, &globals).await,
        Verb::Config(args) => config::run(args, &globals),
        Verb::Completion(args) => completion::run(args, root),
        Verb::Version(args) => version::run(args, &globals, build).await,
    }
}
