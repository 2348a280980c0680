//! `waggle dev up`: brings what there is to what is wanted, step by step. Each step looks first, so that a second run changes
//! only what differs: a process whose program or arguments are others is restarted, missing nodes are added.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::door::{self, Publish};
use super::layout::{
    FABRIC_ADDRESS, Layout, MAX_NODES, NODE_PORT, UPLINK, fabric_port, netns_path, node_address,
    node_address_v6, node_name, server_name,
};
use super::process::{Launch, Process, Started};
use super::progress::Progress;
use super::{Which, cgroups, links, lock, mounts, netns, server};
use crate::age::parse_duration;
use crate::connect::Api;

/// Arguments of `dev up`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// How many nodes; else as many as there are, else 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NODES)))]
    nodes: Option<u16>,
    #[command(flatten)]
    which: Which,
    /// Port of the API on 127.0.0.1; else the one it has, else 6443
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    api_port: Option<u16>,
    #[command(flatten)]
    store: server::StoreArgs,
    /// Make a Service reachable from this machine: [ADDRESS:]PORT=NAMESPACE/SERVICE:PORT
    #[arg(long, value_name = "WHERE=WHAT")]
    publish: Vec<Publish>,
    /// Registry that the nodes may speak to without TLS, beside 172.30.0.1:5000 in the fabric's namespace; may be given
    /// more than once
    #[arg(long, value_name = "HOST:PORT")]
    insecure_registry: Vec<String>,
    /// How many pods each node takes. Of a new cluster: nodes get ranges that hold them
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=16_000))]
    max_pods: Option<u32>,
    /// Put each node on a link of its own, with a router between them: pods talk through tunnels. Of a new cluster
    #[arg(long)]
    routed: bool,
    /// How long to wait for the nodes
    #[arg(long, value_parser = parse_duration, default_value = "90s", value_name = "DURATION")]
    timeout: Duration,
    /// No progress lines
    #[arg(short, long)]
    quiet: bool,
}

/// How long a server or an agent may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a dead agent may take until its supervisor has started it again.
const COMING_BACK: Duration = Duration::from_millis(500);
/// A registry that somebody runs in the fabric's namespace, which only this cluster reaches.
const FABRIC_REGISTRY: &str = "172.30.0.1:5000";
const DEFAULT_NODES: u16 = 3;
const DEFAULT_API_PORT: u16 = 6443;

/// What came of bringing a process to what is wanted.
enum Brought {
    Kept(Process),
    Started(Started),
    Restarted(Started),
}

impl Brought {
    fn words(&self) -> String {
        match self {
            Self::Kept(process) => format!("runs already, pid {}", process.pid),
            Self::Started(started) => format!("started, pid {}", started.pid()),
            Self::Restarted(started) => format!("restarted, pid {}", started.pid()),
        }
    }

    fn started(&mut self) -> Option<&mut Started> {
        match self {
            Self::Kept(_) => None,
            Self::Started(started) | Self::Restarted(started) => Some(started),
        }
    }
}

struct Up {
    layout: Layout,
    binary: PathBuf,
    nodes: u16,
    api_port: u16,
    store: server::StoreArgs,
    insecure_registries: Vec<String>,
    timeout: Duration,
    progress: Progress,
}

/// Runs it.
pub(crate) fn run(args: UpArgs) -> Result<ExitCode> {
    let layout = super::layout(&args.which)?;
    let _lock = lock(&layout)?;
    let existing = layout.nodes().last().copied().unwrap_or(0);
    let nodes = args.nodes.unwrap_or(if existing == 0 {
        DEFAULT_NODES
    } else {
        existing
    });
    if nodes < existing {
        bail!(
            "the cluster {} has {existing} nodes: --nodes can add to them; to have fewer, run `waggle dev down` first",
            layout.name
        );
    }
    let api_port = args
        .api_port
        .or_else(|| known_api_port(&layout))
        .unwrap_or(DEFAULT_API_PORT);
    let mut up = Up {
        binary: std::env::current_exe().context("cannot find this program's file")?,
        nodes,
        api_port,
        store: args.store.or_known(&layout)?,
        insecure_registries: std::iter::once(FABRIC_REGISTRY.to_owned())
            .chain(args.insecure_registry)
            .collect(),
        timeout: args.timeout,
        progress: Progress::start(args.quiet),
        layout,
    };
    let publish = with_known_doors(&up.layout, args.publish);
    up.check_ports(&publish)?;
    up.progress.say(&format!(
        "Cluster {}: {nodes} nodes, state in {}",
        up.layout.name,
        up.layout.dir.display()
    ));
    if args.routed {
        up.layout.make_routed()?;
    }
    if let Some(count) = args.max_pods {
        up.layout.set_max_pods(count)?;
    }
    up.network()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let api = up.server(&runtime)?;
    up.agents(&runtime, &api)?;
    for one in &publish {
        up.door(one)?;
    }
    for server in 1..=up.store.servers() {
        still_runs(&up.layout, &server_name(server))?;
    }
    for node in 1..=nodes {
        still_runs(&up.layout, &node_name(node))?;
    }
    let shown = up.layout.kubeconfig();
    up.progress.say(&format!(
        "Kubeconfig: {0}\n  export KUBECONFIG={0}",
        shown.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// `waggle dev publish`.
pub(crate) fn publish(layout: &Layout, publish: &[Publish]) -> Result<ExitCode> {
    let _lock = lock(layout)?;
    if !layout.kubeconfig().exists() {
        bail!(
            "there is no cluster {}: start it with `waggle dev up`",
            layout.name
        );
    }
    let mut up = Up {
        binary: std::env::current_exe().context("cannot find this program's file")?,
        nodes: 0,
        api_port: 0,
        store: server::StoreArgs::default(),
        insecure_registries: Vec::new(),
        timeout: Duration::ZERO,
        progress: Progress::start(false),
        layout: layout.clone(),
    };
    for one in publish {
        up.check_door_port(one)?;
        up.door(one)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is to be published now, and what an earlier run has published at other ports.
fn with_known_doors(layout: &Layout, mut publish: Vec<Publish>) -> Vec<Publish> {
    let entries = std::fs::read_dir(&layout.dir)
        .into_iter()
        .flatten()
        .flatten();
    let files = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "publish"));
    let mut known: Vec<Publish> = files
        .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
        .collect();
    known.retain(|one| publish.iter().all(|new| new.part() != one.part()));
    known.sort_by_key(Publish::part);
    publish.extend(known);
    publish
}

/// Refuses a part that has answered but has ended since.
fn still_runs(layout: &Layout, part: &str) -> Result<()> {
    if Process::from_file(&layout.pid_file(part)).is_none() {
        bail!(
            "{part} has ended after its start; log: {}",
            layout.log(part).display()
        );
    }
    Ok(())
}

/// The port that the cluster's kubeconfig points at.
fn known_api_port(layout: &Layout) -> Option<u16> {
    let text = std::fs::read_to_string(layout.kubeconfig()).ok()?;
    let config: Value = serde_yaml_ng::from_str(&text).ok()?;
    config["clusters"][0]["cluster"]["server"]
        .as_str()?
        .rsplit_once(':')?
        .1
        .parse()
        .ok()
}

impl Up {
    /// Before anything is made: the ports must be free, or be ours already.
    fn check_ports(&self, publish: &[Publish]) -> Result<()> {
        for number in 1..=self.store.servers() {
            let name = server_name(number);
            let wanted = server::arguments(&self.layout, self.api_port, number, &self.store);
            let ours = Process::from_file(&self.layout.pid_file(&name))
                .is_some_and(|server| server.arguments().get(1..) == Some(&wanted[..]));
            if !ours && cgroups::processes(&self.layout.cgroup_of(&name)).is_empty() {
                let port = server::loopback_port(self.api_port, number);
                server::check_port(
                    SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                    "choose another with --api-port",
                )?;
            }
        }
        publish.iter().try_for_each(|one| self.check_door_port(one))
    }

    fn check_door_port(&self, publish: &Publish) -> Result<()> {
        if Process::from_file(&self.layout.pid_file(&publish.part())).is_some() {
            return Ok(());
        }
        server::check_port(publish.listen, "choose another before the `=`")
    }

    /// Namespaces, links, addresses, folders and bpffs of everything.
    fn network(&mut self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for folder in std::iter::once(self.layout.server_dir())
            .chain((1..=self.nodes).map(|node| self.layout.node_dir(node)))
        {
            builder
                .create(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        links::ensure_fabric(&self.layout)?;
        for node in 1..=self.nodes {
            links::ensure_node(&self.layout, node)?;
            mounts::ensure_bpffs(&self.layout.bpf_dir(node))?;
        }
        let between = if self.layout.is_routed() {
            "a router between them"
        } else {
            "one bridge"
        };
        let detail = format!(
            "{} and {} node namespaces, {between}",
            self.layout.fabric(),
            self.nodes
        );
        self.progress.done("network", &detail);
        Ok(())
    }

    fn server(&mut self, runtime: &tokio::runtime::Runtime) -> Result<Api> {
        let bring = |number: u16| {
            let arguments = server::arguments(&self.layout, self.api_port, number, &self.store);
            let name = server_name(number);
            self.bring(&name, None, &self.layout.cgroup_of(&name), &arguments, &[])
        };
        let mut brought = bring(1)?;
        let others = (2..=self.store.servers())
            .map(|number| Ok((number, bring(number)?.words())))
            .collect::<Result<Vec<_>>>()?;
        let ready = server::wait_ready(
            &self.layout,
            self.api_port,
            brought.started(),
            Duration::from_secs(30),
        );
        let api = runtime.block_on(ready)?;
        self.progress
            .done("server", &format!("{} ({})", api.server(), brought.words()));
        for (number, words) in others {
            let port = server::loopback_port(self.api_port, number);
            let address = format!("https://{}:{port} ({words})", Ipv4Addr::LOCALHOST);
            self.progress.done(&server_name(number), &address);
        }
        Ok(api)
    }

    fn agents(&mut self, runtime: &tokio::runtime::Runtime, api: &Api) -> Result<()> {
        let token = server::join_token(&self.layout)?;
        let mut agents = BTreeMap::new();
        for node in 1..=self.nodes {
            agents.insert(node, self.agent(node, &token)?);
        }
        let deadline = Instant::now() + self.timeout;
        let mut waiting: BTreeSet<u16> = agents.keys().copied().collect();
        while !waiting.is_empty() {
            for (&node, brought) in &mut agents {
                if let Some(fault) = brought.started().and_then(Started::fault) {
                    bail!("the agent of {} ended: {fault}", node_name(node));
                }
            }
            still_runs(&self.layout, "server")?;
            let nodes = runtime.block_on(api.get("/api/v1/nodes"));
            let nodes = nodes.unwrap_or_default();
            for node in waiting.clone() {
                // A restarted node is Ready by its last report; its new agent must answer for itself.
                let answers = runtime.block_on(self.agent_answers(node));
                if answers && readiness(&nodes, &node_name(node)).is_ok() {
                    waiting.remove(&node);
                    let words = agents.get(&node).map(Brought::words).unwrap_or_default();
                    self.progress.done(
                        &node_name(node),
                        &format!("{} Ready ({words})", node_address(node)),
                    );
                }
            }
            if !waiting.is_empty() && Instant::now() > deadline {
                return Err(self.not_ready(&nodes, &waiting));
            }
            std::thread::sleep(Duration::from_millis(if waiting.is_empty() {
                0
            } else {
                50
            }));
        }
        if self.layout.is_routed() {
            // The router knows nothing of pods.
            return Ok(());
        }
        self.pod_routes(runtime, api)
    }

    /// Whether the node's agent is up and has a network state from the server.
    async fn agent_answers(&self, node: u16) -> bool {
        let socket = self.layout.node_dir(node).join("agent.sock");
        let question = serde_json::json!({"op": "status"});
        let asked = crate::image::ask(&socket, &question);
        match tokio::time::timeout(Duration::from_secs(1), asked).await {
            Ok(Ok(status)) => status["network_generation"]
                .as_u64()
                .is_some_and(|generation| generation > 0),
            _ => false,
        }
    }

    fn not_ready(&self, nodes: &Value, waiting: &BTreeSet<u16>) -> anyhow::Error {
        let reasons: Vec<String> = waiting
            .iter()
            .map(|&node| {
                let name = node_name(node);
                let why = readiness(nodes, &name).err().unwrap_or_default();
                format!("{name}: {why} (log: {})", self.layout.log(&name).display())
            })
            .collect();
        anyhow!(
            "not all nodes are Ready after {} s: {}",
            self.timeout.as_secs(),
            reasons.join("; ")
        )
    }

    fn agent(&self, node: u16, token: &str) -> Result<Brought> {
        let name = node_name(node);
        let cgroup = self.layout.cgroup_of(&name);
        let mut arguments: Vec<OsString> = vec!["agent".into()];
        let mut option = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        for server in 1..=self.store.servers() {
            let port = fabric_port(NODE_PORT, server);
            option(
                "--server",
                format!("https://{FABRIC_ADDRESS}:{port}").into(),
            );
        }
        option("--node", name.clone().into());
        option("--data", self.layout.node_dir(node).into());
        option("--pid-file", self.layout.pid_file(&name).into());
        option("--cgroup", cgroup.clone().into());
        option("--bpf", self.layout.bpf_dir(node).into());
        let addresses = format!("{},{}", node_address(node), node_address_v6(node));
        option("--address", addresses.into());
        option("--uplink", UPLINK.into());
        // Images that were imported can't be pulled again, however full the developer's disk is.
        option("--image-gc-high-threshold", "100".into());
        option("--max-pods", self.layout.max_pods().to_string().into());
        for registry in &self.insecure_registries {
            option("--insecure-registry", registry.into());
        }
        let netns = netns_path(&self.layout.netns(node));
        self.bring(
            &name,
            Some(netns),
            &format!("{cgroup}/agent"),
            &arguments,
            &[("WAGGLE_TOKEN", token)],
        )
    }

    /// A part's process. An agent that has just died is being brought back by its supervisor.
    fn running(&self, part: &str) -> Option<Process> {
        let file = self.layout.pid_file(part);
        let deadline = Instant::now() + COMING_BACK;
        let revived = file.exists() && self.layout.dir.join(part).join("agent.lock").exists();
        loop {
            let running = Process::from_file(&file);
            if running.is_some() || !revived || Instant::now() > deadline {
                return running;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Keeps a process that is as wanted; ends another one and starts it anew.
    fn bring(
        &self,
        part: &str,
        netns: Option<PathBuf>,
        cgroup: &str,
        arguments: &[OsString],
        environment: &[(&str, &str)],
    ) -> Result<Brought> {
        let running = self.running(part);
        if let Some(process) = running {
            if process.arguments().get(1..) == Some(arguments) && process.runs(&self.binary)? {
                return Ok(Brought::Kept(process));
            }
            process.end(PATIENCE)?;
        }
        // What is still in the cgroup lost its pid file in a half-finished run.
        cgroups::kill_all(cgroup, PATIENCE)?;
        let launch = Launch {
            netns,
            cgroup: cgroup.to_owned(),
            log: self.layout.log(part),
            pid_file: self.layout.pid_file(part),
            arguments: arguments.to_vec(),
            environment: environment
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        };
        let started = launch
            .start(&self.binary)
            .with_context(|| format!("cannot start {part}"))?;
        Ok(if running.is_some() {
            Brought::Restarted(started)
        } else {
            Brought::Started(started)
        })
    }

    /// The fabric must know the way to the pods, or the API could not answer them.
    fn pod_routes(&self, runtime: &tokio::runtime::Runtime, api: &Api) -> Result<()> {
        let nodes = runtime.block_on(api.get("/api/v1/nodes"))?;
        let ranges = (1..=self.nodes)
            .filter_map(|number| Some((number, pod_range(find_node(&nodes, &node_name(number))?)?)))
            .collect();
        links::ensure_pod_routes(&self.layout, &ranges)
    }

    fn door(&mut self, publish: &Publish) -> Result<()> {
        let part = publish.part();
        let node = node_name(1);
        if !netns::is_namespace(&netns_path(&self.layout.netns(1))) {
            bail!(
                "the cluster {} has no {node}: start it with `waggle dev up`",
                self.layout.name
            );
        }
        let remembered = self.layout.dir.join(format!("{part}.publish"));
        std::fs::write(
            &remembered,
            format!("{}={}\n", publish.listen, publish.service()),
        )
        .with_context(|| format!("cannot write {}", remembered.display()))?;
        let arguments = door::arguments(&self.layout, publish);
        let cgroup = format!("{}/doors/{part}", self.layout.cgroup_of(&node));
        let mut brought = self.bring(&part, None, &cgroup, &arguments, &[])?;
        wait_listening(publish.listen, brought.started(), &self.layout.log(&part))?;
        self.progress.done(
            "publish",
            &format!(
                "http://{} is {} ({})",
                publish.listen,
                publish.service(),
                brought.words()
            ),
        );
        Ok(())
    }
}

/// Waits until a door takes connections.
fn wait_listening(address: SocketAddr, started: Option<&mut Started>, log: &Path) -> Result<()> {
    let Some(started) = started else {
        return Ok(());
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(fault) = started.fault() {
            bail!("the door at {address} ended: {fault}");
        }
        if started
            .output()
            .is_ok_and(|text| text.contains(door::LISTENING))
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "the door at {address} does not listen after 10 s; log: {}",
                log.display()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn find_node<'a>(nodes: &'a Value, name: &str) -> Option<&'a Value> {
    nodes["items"]
        .as_array()?
        .iter()
        .find(|node| node["metadata"]["name"] == name)
}

/// Whether a node is Ready; if not, why.
pub(crate) fn readiness(nodes: &Value, name: &str) -> Result<(), String> {
    let node = find_node(nodes, name).ok_or("it has not joined the cluster")?;
    let conditions = node["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let ready = conditions
        .into_iter()
        .find(|condition| condition["type"] == "Ready")
        .ok_or("it has reported nothing yet")?;
    if ready["status"] == "True" {
        return Ok(());
    }
    Err(ready["message"]
        .as_str()
        .filter(|text| !text.is_empty())
        .unwrap_or("it is not Ready")
        .to_owned())
}

fn pod_range(node: &Value) -> Option<(Ipv4Addr, u8)> {
    let (network, prefix) = node["spec"]["podCIDR"].as_str()?.split_once('/')?;
    Some((network.parse().ok()?, prefix.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn doors_are_remembered_until_their_port_is_given_anew() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::new(home.path(), "wgt-cli-doors".try_into().unwrap()).unwrap();
        std::fs::create_dir_all(&layout.dir).unwrap();
        for (port, service) in [("8080", "shop/old:80"), ("8081", "shop/other:80")] {
            let text = format!("127.0.0.1:{port}={service}\n");
            std::fs::write(layout.dir.join(format!("door-{port}.publish")), text).unwrap();
        }
        let all = with_known_doors(&layout, vec!["8080=shop/new:80".parse().unwrap()]);
        let shown: Vec<String> = all.iter().map(Publish::service).collect();
        assert_eq!(shown, ["shop/new:80", "shop/other:80"]);
    }

    #[test]
    fn a_server_that_has_ended_is_no_success() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::new(home.path(), "wgt-cli-ended".try_into().unwrap()).unwrap();
        std::fs::create_dir_all(&layout.dir).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process::running(i32::try_from(child.id()).unwrap()).unwrap();
        process.write(&layout.pid_file("server")).unwrap();
        still_runs(&layout, "server").unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let fault = still_runs(&layout, "server").unwrap_err().to_string();
        assert!(
            fault.contains("server has ended") && fault.contains("server.log"),
            "{fault}"
        );
    }

    #[test]
    fn a_node_is_ready_or_says_why_not() {
        let nodes = json!({"items": [
            {"metadata": {"name": "node1"}, "spec": {"podCIDR": "10.244.1.0/24"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}},
            {"metadata": {"name": "node2"}, "status": {"conditions": [{"type": "Ready", "status": "False", "message": "no datapath"}]}},
            {"metadata": {"name": "node3"}}]});
        assert_eq!(readiness(&nodes, "node1"), Ok(()));
        assert_eq!(readiness(&nodes, "node2"), Err("no datapath".to_owned()));
        assert_eq!(
            readiness(&nodes, "node3"),
            Err("it has reported nothing yet".to_owned())
        );
        assert_eq!(
            readiness(&nodes, "node4"),
            Err("it has not joined the cluster".to_owned())
        );
        assert_eq!(
            pod_range(&nodes["items"][0]),
            Some((Ipv4Addr::new(10, 244, 1, 0), 24))
        );
        assert_eq!(pod_range(&nodes["items"][1]), None);
    }
}
