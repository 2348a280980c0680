//! Turns arguments into the roles' options and runs them until a signal comes.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use waggle_agent::AgentOptions;
use waggle_model::NodeName;
use waggle_runtime::supervisor::SupervisorOptions;
use waggle_server::audit::AuditOptions;
use waggle_server::{EncryptionOptions, NodeLifecycle, ServerOptions, StoreOptions};
use waggle_store::{EmbeddedStore, EtcdOptions, EtcdStore, EtcdTls, backup};

use crate::args::{AgentArgs, EtcdFiles, RestoreArgs, ServerArgs, StoreArg, SupervisorArgs};

/// The control plane, until a signal comes.
pub(crate) async fn server(args: ServerArgs) -> Result<ExitCode> {
    let audit = args.audit_policy_file.map(|policy| AuditOptions {
        policy,
        log: args
            .audit_log_path
            .unwrap_or_else(|| args.data.join("audit.log")),
        largest: args.audit_log_maxsize << 20,
        kept: args.audit_log_maxbackup,
    });
    let mut options = ServerOptions::new(args.data, args.listen, args.node_listen);
    options.store = store_options(args.store, &args.etcd)?;
    options.peer = args.peer;
    options.audit = audit;
    options.encryption = match args.encryption_provider_config {
        Some(file) => EncryptionOptions::Configured(file),
        None if args.secrets_encryption => EncryptionOptions::OwnKey,
        None => EncryptionOptions::Nothing,
    };
    options.max_requests_in_flight = args.max_requests_inflight;
    options.advertise = args.advertise;
    options.extra_names = args.name;
    options.node_cidr_mask_size = args.node_cidr_mask_size;
    options.use_ranges(args.pod_cidr, args.service_cidr)?;
    options.node_ports = args.service_node_port_range;
    if let Some(pool) = args.load_balancer_pool {
        options.use_pool(pool)?;
    }
    if let Some(path) = &args.scheduler_config {
        options.use_scheduler_config(path)?;
    }
    options.node_lifecycle = NodeLifecycle {
        node_eviction_rate: args.eviction.node_eviction_rate,
        secondary_node_eviction_rate: args.eviction.secondary_node_eviction_rate,
        unhealthy_zone_threshold: args.eviction.unhealthy_zone_threshold,
        large_cluster_size_threshold: args.eviction.large_cluster_size_threshold,
        ..NodeLifecycle::default()
    };
    if let Some(name) = args.cluster_name {
        options.cluster_name = name;
    }
    waggle_server::run(options, stop_on_signal()?).await?;
    Ok(ExitCode::SUCCESS)
}

/// Where a store is, with the files that its members are reached by.
pub(crate) fn store_options(store: StoreArg, files: &EtcdFiles) -> Result<StoreOptions> {
    let StoreArg::Etcd(endpoints) = store else {
        return Ok(StoreOptions::Embedded);
    };
    let text = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let secure = endpoints.iter().any(|url| url.starts_with("https://"));
    let tls = match &files.etcd_ca {
        Some(ca) => Some(EtcdTls {
            ca_pem: text(ca)?,
            identity_pem: match (&files.etcd_cert, &files.etcd_key) {
                (Some(certificate), Some(key)) => Some((text(certificate)?, text(key)?)),
                _ => None,
            },
        }),
        None if secure => bail!("an etcd at https:// needs --etcd-ca, its authority's certificate"),
        None => None,
    };
    Ok(StoreOptions::Etcd(EtcdOptions { endpoints, tls }))
}

/// Puts a backup into a store that no server uses.
pub(crate) async fn restore(args: RestoreArgs) -> Result<ExitCode> {
    let summary = match (args.data, args.store) {
        (Some(data), _) => {
            use std::os::unix::fs::DirBuilderExt as _;
            let mut folder = std::fs::DirBuilder::new();
            let made = folder.recursive(true).mode(0o700).create(&data);
            made.with_context(|| format!("cannot make {}", data.display()))?;
            let store = EmbeddedStore::open(&data.join("store.redb"))?;
            backup::restore(&args.file, &store).await?
        }
        (None, Some(store)) => {
            let StoreOptions::Etcd(options) = store_options(store, &args.etcd)? else {
                bail!("name an etcd (--store etcd=...) or a folder (--data)");
            };
            let store = EtcdStore::open(&options).await?;
            if let Some(leader) = store.leader().await? {
                bail!(
                    "a server runs over this etcd (it leads at {leader}): stop all servers first"
                );
            }
            backup::restore(&args.file, &store).await?
        }
        (None, None) => bail!("name an etcd (--store etcd=...) or a folder (--data)"),
    };
    println!(
        "{} entries of revision {} were restored.",
        summary.entries, summary.revision.0
    );
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
        addresses: args.address,
        uplink: args.uplink,
        tunnel: args.tunnel,
        xdp: args.xdp,
        labels: args.label.into_iter().collect(),
        static_pods: args.static_pods,
        insecure_registries: args.insecure_registry,
        pid_file: args.pid_file,
        eviction: args.eviction.into(),
        image_gc: args.image_gc.into(),
        max_pods: args.max_pods,
        reserved: args.system_reserved,
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
