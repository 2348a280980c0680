//! Turns arguments into the roles' options and runs them until a signal comes.

use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use waggle_agent::AgentOptions;
use waggle_model::NodeName;
use waggle_runtime::supervisor::SupervisorOptions;
use waggle_server::ServerOptions;

use crate::args::{AgentArgs, ServerArgs, SupervisorArgs};

/// The control plane, until a signal comes.
pub(crate) async fn server(args: ServerArgs) -> Result<ExitCode> {
    let mut options = ServerOptions::new(args.data, args.listen, args.node_listen);
    options.advertise = args.advertise;
    options.extra_names = args.name;
    if let Some(name) = args.cluster_name {
        options.cluster_name = name;
    }
    waggle_server::run(options, stop_on_signal()?).await?;
    Ok(ExitCode::SUCCESS)
}

/// A node, until a signal comes. Its pods stay.
pub(crate) async fn agent(args: AgentArgs) -> Result<ExitCode> {
    let node = match args.node {
        Some(node) => node,
        None => host_name()?,
    };
    let options = AgentOptions {
        servers: args.server,
        token: args.token,
        node,
        data: args.data,
        cgroup: args.cgroup,
        bpf_dir: args.bpf,
        address: args.address,
        uplink: args.uplink,
        labels: args.label.into_iter().collect(),
        insecure_registries: args.insecure_registry,
        supervisor: None,
        dns_upstream: if args.dns_upstream.is_empty() {
            None
        } else {
            Some(args.dns_upstream)
        },
        version: crate::VERSION.to_owned(),
    };
    let stop = stop_on_signal()?;
    waggle_agent::run(options, async move { stop.cancelled().await }).await?;
    Ok(ExitCode::SUCCESS)
}

fn host_name() -> Result<NodeName> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("cannot read this host's name")?;
    NodeName::try_from(text.trim().to_lowercase())
        .context("this host's name can't be a node's: give --node")
}

/// Cancelled by the first SIGTERM or SIGINT; the second one ends the process at once.
fn stop_on_signal() -> Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        for round in 0.. {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if round > 0 {
                std::process::exit(1);
            }
            tracing::info!(signal = name, "ending");
            stop.cancel();
        }
    });
    Ok(token)
}

/// The owner of a node's containers. Single-threaded.
pub(crate) fn supervisor(args: SupervisorArgs) -> Result<ExitCode> {
    waggle_runtime::supervisor::main(&SupervisorOptions::new(args.data, args.cgroup))?;
    Ok(ExitCode::SUCCESS)
}

/// Creates containers for the supervisor. Single-threaded.
pub(crate) fn worker() -> Result<ExitCode> {
    waggle_runtime::worker::main()?;
    Ok(ExitCode::SUCCESS)
}
