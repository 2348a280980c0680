//! Starts the node: checks what can be checked with one clear error each, opens the adapters, adopts what an earlier
//! agent left, and runs every task until the end.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use tokio::sync::watch;
use tokio::task::JoinSet;
use waggle_datapath::{ABI_HASH, Capacity, Config, Datapath, PodLink};
use waggle_dns::{DnsOptions, DnsServer, Upstream};
use waggle_runtime::cgroup::Cgroups;
use waggle_runtime::images::{ImageStore, PullOptions};

use crate::containers::Containers;
use crate::enrol::Enrolment;
use crate::events::Recorder;
use crate::folder::Folder;
use crate::machine::{self, Machine};
use crate::network::Network;
use crate::node::Node;
use crate::outbox::Outbox;
use crate::persist::{Keeper, Known};
use crate::pods::resize::Held;
use crate::pods::table::Table;
use crate::pressure;
use crate::session::{Session, decode, join};
use crate::{
    AgentError, AgentOptions, admin, clock, flows, health_check, image_gc, kernel, network,
    reclaim, static_pods,
};

/// Where the node's own name servers are.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long adopting the pods' links may take before the node starts without.
const ADOPTION: Duration = Duration::from_secs(20);

/// Runs the node until `shutdown`.
pub(crate) async fn run(
    options: AgentOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AgentError> {
    // One provider for the process; a second agent in one process finds it set.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let unified = check(&options)?;
    let folder = Folder::open(&options.data)?;
    let _only = lock(&options)?;
    write_pid(&options)?;
    let keeper = Arc::new(Keeper::new(folder.state()));
    let mut known = keeper.load()?;
    let enrolment = Enrolment {
        node: options.node.clone(),
        folder: folder.identity(),
        servers: options.servers.clone(),
        token: options.token.clone(),
    };
    let mut identity = enrolment.kept(clock::seconds())?;
    let dns = DnsServer::bind(&dns_options(&options)).await?;
    let socket = admin::bind(&folder.admin_socket())?;
    tokio::pin!(shutdown);
    // A node that has nothing yet is not set up before it is let in.
    if identity.is_none() && known.pods.generation == 0 {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            joined = join(&enrolment) => identity = Some(joined?),
        }
    }
    let containers = Containers::open(
        folder.runtime(),
        &options.cgroup,
        options.supervisor.clone(),
    )
    .await
    .map_err(|error| AgentError::Supervisor(error.to_string()))?;
    let datapath = datapath(&options, unified).await?;
    kernel::tell(&datapath);
    let images =
        ImageStore::open(folder.images()).map_err(|error| AgentError::Images(error.to_string()))?;
    let node = Arc::new(node(
        &options, folder, containers, images, datapath, &mut known,
    ));
    adopt(&node, &known).await;
    let table = Table::new(Arc::clone(&node));
    table.set(decode(known.pods.pods.iter()), false);
    let listener = SocketAddr::new(options.addresses.primary(), 53);
    let (zone, zones) = watch::channel(None);
    let session = Session {
        node: Arc::clone(&node),
        table: table.clone(),
        enrolment,
        keeper: Arc::clone(&keeper),
        addresses: options.addresses,
        labels: options.labels.clone(),
        pods_generation: known.pods.generation,
        pieces: waggle_wire::Pieces::default(),
        pods: known
            .pods
            .pods
            .into_iter()
            .map(|pod| (pod.uid.clone(), pod))
            .collect(),
    };
    let mut tasks = JoinSet::new();
    let (hearing, containers) = (table.clone(), Arc::clone(&node.containers));
    tasks.spawn(session.run(identity));
    tasks.spawn(async move { Ok(dns.run(zones).await?) });
    tasks.spawn(forever(async move {
        containers.follow(|report| hearing.hear(report)).await;
    }));
    tasks.spawn(forever(network::follow(Arc::clone(&node), listener, zone)));
    tasks.spawn(forever(health_check::serve(Arc::clone(&node))));
    let looking = pressure::run(Arc::clone(&node), table.clone(), options.data.clone());
    tasks.spawn(forever(looking));
    let collecting = image_gc::run(Arc::clone(&node), table.clone());
    tasks.spawn(forever(collecting));
    let report = machine::report(Arc::clone(&node), options.data.clone());
    tasks.spawn(forever(report));
    tasks.spawn(forever(machine::measure(Arc::clone(&node), table.clone())));
    tasks.spawn(forever(admin::serve(socket, Arc::clone(&node), table)));
    tasks.spawn(forever(Arc::clone(&keeper).run()));
    tasks.spawn(forever(flows::read(Arc::clone(&node))));
    tasks.spawn(forever(reclaim::run(Arc::clone(&node))));
    tasks.spawn(forever(static_pods::tell(
        Arc::clone(&node),
        options.static_pods.clone(),
    )));
    let datapath = Arc::clone(&node.datapath);
    tasks.spawn(forever(async move {
        let ended = datapath.keep_routes().await;
        tracing::warn!(
            ?ended,
            "routes are no longer put back when the uplink comes up"
        );
        std::future::pending().await
    }));
    let datapath = Arc::clone(&node.datapath);
    tasks.spawn(forever(async move {
        let error = datapath.forward_logs().await;
        tracing::warn!(%error, "the programs' log can't be read");
        std::future::pending().await
    }));
    tracing::info!(node = %options.node, address = %options.addresses, "node is up");
    let ended = tokio::select! {
        () = &mut shutdown => Ok(()),
        ended = tasks.join_next() => match ended {
            Some(Ok(result)) => result,
            Some(Err(error)) => Err(AgentError::Broken(error.to_string())),
            None => Ok(()),
        },
    };
    tasks.shutdown().await;
    // What breaks comes back; what was asked to end, or is not let in, does not.
    if matches!(ended, Ok(()) | Err(AgentError::Join(_))) {
        node.containers.take_leave().await;
    }
    keeper.write_now()?;
    ended
}

/// A task that ends with the node only.
async fn forever(task: impl Future<Output = ()>) -> Result<(), AgentError> {
    task.await;
    Ok(())
}

/// What must hold before anything is touched. Gives the node's folder in the unified cgroup hierarchy.
fn check(options: &AgentOptions) -> Result<std::path::PathBuf, AgentError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(AgentError::NotRoot);
    }
    if options.servers.is_empty() {
        return Err(AgentError::Argument(
            "name a server (--server https://HOST:PORT)".to_owned(),
        ));
    }
    options.eviction.check().map_err(AgentError::Argument)?;
    options.image_gc.check().map_err(AgentError::Argument)?;
    if let Some(uplink) = &options.uplink {
        nix::net::if_::if_nametoindex(uplink.as_str())
            .map_err(|error| AgentError::Argument(format!("uplink {uplink:?}: {error}")))?;
    }
    let kernel = |feature: &'static str| {
        move |cause: &dyn std::fmt::Display| AgentError::Kernel {
            feature,
            cause: cause.to_string(),
        }
    };
    let cgroups = Cgroups::detect().map_err(|error| kernel("cgroups")(&error))?;
    let unified = cgroups.unified(&options.cgroup).ok_or_else(|| {
        kernel("a cgroup v2 hierarchy")(&"none is mounted; mount one at /sys/fs/cgroup/unified")
    })?;
    cgroups
        .enter(&format!("{}/agent", options.cgroup), 0)
        .map_err(|error| {
            kernel("cgroups that can be written")(&format!("{}: {error}", options.cgroup))
        })?;
    Ok(unified)
}

/// Keeps a second agent from the same folder.
fn lock(options: &AgentOptions) -> Result<Flock<std::fs::File>, AgentError> {
    let path = options.data.join("agent.lock");
    let fault = |cause: String| AgentError::Data {
        operation: "lock",
        path: path.clone(),
        cause,
    };
    let open = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = open.map_err(|error| fault(error.to_string()))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        let holder = std::fs::read_to_string(&path).unwrap_or_default();
        let holder = holder.trim();
        fault(format!(
            "another agent, process {holder}, runs with this folder; its supervisor brings it back when it dies: end it \
             by `kill {holder}`"
        ))
    })?;
    let written = lock
        .set_len(0)
        .and_then(|()| (&*lock).write_all(std::process::id().to_string().as_bytes()));
    written.map_err(|error| fault(error.to_string()))?;
    Ok(lock)
}

/// The pid file, as `waggle dev` writes it too: pid and start time.
fn write_pid(options: &AgentOptions) -> Result<(), AgentError> {
    let Some(path) = &options.pid_file else {
        return Ok(());
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name is in parentheses and may hold anything.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let started = after_name.split_whitespace().nth(19).unwrap_or("0");
    std::fs::write(path, format!("{} {started}\n", std::process::id())).map_err(|error| {
        AgentError::Data {
            operation: "write",
            path: path.clone(),
            cause: error.to_string(),
        }
    })
}

fn dns_options(options: &AgentOptions) -> DnsOptions {
    let upstream = match &options.dns_upstream {
        Some(servers) => Upstream::Servers(servers.clone()),
        None => Upstream::File(RESOLV_CONF.into()),
    };
    DnsOptions {
        listen: options
            .addresses
            .iter()
            .map(|address| SocketAddr::new(address, 53))
            .collect(),
        upstream,
    }
}

async fn datapath(
    options: &AgentOptions,
    cgroup: std::path::PathBuf,
) -> Result<Arc<Datapath>, AgentError> {
    let config = Config {
        bpf_dir: options.bpf_dir.clone(),
        cgroup,
        node: options.node.to_string(),
        addresses: options.addresses,
        mtu: None,
        tunnel: options.tunnel,
        xdp: options.xdp,
        hooks: None,
        capacity: Capacity::default(),
        abi: ABI_HASH,
    };
    let datapath = Datapath::open(config).await;
    datapath
        .map(Arc::new)
        .map_err(|error| AgentError::Datapath(error.to_string()))
}

fn node(
    options: &AgentOptions,
    folder: Folder,
    containers: Arc<Containers>,
    images: ImageStore,
    datapath: Arc<Datapath>,
    known: &mut Known,
) -> Node {
    let machine = Machine::read(&options.data, &folder.images());
    let outbox = Arc::new(Outbox::default());
    Node {
        name: options.node.to_string(),
        address: options.addresses.primary(),
        addresses: options.addresses,
        version: options.version.clone(),
        cgroup: options.cgroup.clone(),
        folder,
        containers,
        images,
        pull: PullOptions {
            insecure_registries: options.insecure_registries.clone(),
            registries: Some(options.data.join("registries")),
            credentials: None,
        },
        datapath,
        recorder: Recorder::new(options.node.as_str(), Arc::clone(&outbox)),
        outbox,
        cluster: watch::Sender::new(known.cluster.clone()),
        server: watch::Sender::new(None),
        network: Arc::new(Network::new(std::mem::take(&mut known.network))),
        flows: flows::Flows::default(),
        refused: watch::Sender::default(),
        refused_told: false.into(),
        pressures: watch::Sender::default(),
        eviction: options.eviction.clone(),
        image_gc: options.image_gc,
        reserved: options.reserved,
        applied: watch::Sender::default(),
        max_pods: options.max_pods,
        held: Held::default(),
        allocatable: machine::allocatable(&machine, &options.eviction, options.reserved),
        cpu_milli: machine.cpus * 1000,
        memory: machine.memory,
        resolv_conf: std::fs::read_to_string(RESOLV_CONF).unwrap_or_default(),
    }
}

/// Takes over the links of the pods that live on, before the first network state is applied, and removes the links of
/// pods that are gone.
async fn adopt(node: &Node, known: &Known) {
    let adopting = tokio::time::timeout(ADOPTION, async {
        let (sandboxes, _) = match node.containers.client().await.list().await {
            Ok(all) => all,
            Err(error) => return tracing::error!(%error, "what runs here can't be listed"),
        };
        let live = sandboxes
            .iter()
            .map(|sandbox| sandbox.pod.clone())
            .collect();
        for pod in decode(known.pods.pods.iter()) {
            let sandbox = sandboxes.iter().find(|sandbox| sandbox.pod == pod.key.uid);
            let Some((netns, addresses)) = sandbox.and_then(|s| s.netns.clone()).zip(pod.addresses)
            else {
                continue;
            };
            let (identity, tenant) = (pod.identity, pod.tenant);
            let link = PodLink {
                uid: pod.key.uid.clone(),
                netns,
                addresses,
                identity,
                tenant,
            };
            if let Err(error) = node.datapath.attach_pod(&link).await {
                tracing::error!(pod = %pod.key, %error, "the link of a pod that lives on can't be taken over");
            }
        }
        match node.datapath.sweep(&live).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed links of pods that are gone"),
            Err(error) => tracing::warn!(%error, "links of pods that are gone can't be removed"),
        }
    });
    if adopting.await.is_err() {
        tracing::error!("taking over the pods' links takes too long; starting without the rest");
    }
}
