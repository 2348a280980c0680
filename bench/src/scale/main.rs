//! A server with thousands of nodes that hold real sessions and run nothing: what it costs at rest, how fast the pods of a
//! node that falls silent are elsewhere and in every node's network, what a large Deployment takes, what it holds. A node is
//! in `node`, what nodes see in `sight`, what is asked of the server in `orders`.
#![forbid(unsafe_code)]

mod node;
mod orders;
mod sight;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use waggle_bench::server::{Client, Server, free_port};

use node::{Gate, Standing};
use orders::Orders;
use sight::Sight;

/// Nodes that come up at once.
const TOGETHER: usize = 64;
/// Pods of each Deployment.
const REPLICAS: usize = 20;

/// Puts many nodes on a server and says what it takes.
#[derive(Parser)]
#[command(name = "waggle-bench-scale")]
struct Arguments {
    /// The `waggle` binary, an optimized one.
    #[arg(long)]
    waggle: PathBuf,
    /// Folder on the disk that is used; what is made below it is removed.
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// Nodes.
    #[arg(long, default_value_t = 5_000)]
    nodes: usize,
    /// Pods beside those of the large Deployment, in Deployments of twenty, each behind a Service.
    #[arg(long, default_value_t = 100_000)]
    pods: usize,
    /// Pods of the large Deployment.
    #[arg(long, default_value_t = 10_000)]
    large: usize,
    /// Seconds for which the server is watched at rest.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Nodes that fall silent, one after the other.
    #[arg(long, default_value_t = 3)]
    failures: usize,
}

/// A server and its nodes.
struct Fleet {
    server: Server,
    nodes: Vec<Arc<Standing>>,
    sight: Arc<Sight>,
    lives: JoinSet<Result<()>>,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut fleet = Fleet::start(&arguments).await?;
    fleet.rest("no pods", arguments.seconds).await?;
    let orders = Orders::new(Client::connect(&fleet.server.door).await?);
    let start = Instant::now();
    orders.fill(arguments.pods / REPLICAS, REPLICAS).await?;
    println!(
        "{} pods in {} Deployments, each behind a Service: run after {:.1} s",
        arguments.pods,
        arguments.pods / REPLICAS,
        start.elapsed().as_secs_f64()
    );
    fleet.settle().await;
    fleet.rest("all pods", arguments.seconds).await?;
    for number in 0..arguments.failures {
        fleet.fail(&orders, number).await?;
    }
    fleet.large(&orders, arguments.large).await?;
    fleet.settle().await;
    fleet.rest("afterwards", arguments.seconds).await?;
    Ok(())
}

impl Fleet {
    async fn start(arguments: &Arguments) -> Result<Self> {
        let port = free_port()?;
        let listen = format!("127.0.0.1:{port}");
        let more = ["--node-listen", &listen, "--pod-cidr", "10.128.0.0/10"];
        let server = Server::start_with(&arguments.waggle, &arguments.folder, &more).await?;
        let data = server.folder.path().join("server");
        let gate = Gate {
            url: format!("https://{listen}"),
            authority: std::fs::read_to_string(data.join("ca.crt"))?,
            token: std::fs::read_to_string(data.join("join-token"))?
                .trim()
                .to_owned(),
        };
        let mut fleet = Self {
            server,
            nodes: Vec::new(),
            sight: Arc::default(),
            lives: JoinSet::new(),
        };
        let start = Instant::now();
        let mut desk = gate.desk().await?;
        let (up, mut ups) = mpsc::channel(TOGETHER);
        let mut coming = 0;
        for number in 0..arguments.nodes {
            let name = gate.join(&mut desk, number).await?;
            let standing = Arc::new(Standing::default());
            fleet.nodes.push(Arc::clone(&standing));
            let (gate, sight, up) = (gate.clone(), Arc::clone(&fleet.sight), up.clone());
            fleet
                .lives
                .spawn(async move { gate.live(name, standing, sight, up).await });
            coming += 1;
            if coming == TOGETHER {
                fleet.one_up(&mut ups).await?;
                coming -= 1;
            }
        }
        for _ in 0..coming {
            fleet.one_up(&mut ups).await?;
        }
        let (took, busy) = (start.elapsed().as_secs_f64(), fleet.server.busy()?);
        println!(
            "{} nodes joined and have a session after {took:.1} s; the server was busy for {busy:.1} s; {} MiB resident",
            arguments.nodes,
            fleet.server.memory("VmRSS")?
        );
        fleet.settle().await;
        Ok(fleet)
    }

    async fn one_up(&mut self, ups: &mut mpsc::Receiver<()>) -> Result<()> {
        tokio::select! {
            one = ups.recv() => one.context("no node comes up"),
            ended = self.lives.join_next() => match ended {
                Some(ended) => ended?.and(Err(anyhow::anyhow!("a session ended"))),
                None => anyhow::bail!("no node comes up"),
            },
        }
    }

    /// Waits until the server has worked off what there is.
    async fn settle(&self) {
        for _ in 0..60 {
            let before = self.server.busy().unwrap_or_default();
            tokio::time::sleep(Duration::from_secs(2)).await;
            if self.server.busy().unwrap_or_default() - before < 0.3 {
                return;
            }
        }
    }

    /// What the server takes while nothing happens but heartbeats.
    async fn rest(&mut self, what: &str, seconds: u64) -> Result<()> {
        let (busy, start) = (self.server.busy()?, Instant::now());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let busy = self.server.busy()? - busy;
        if let Some(ended) = self.lives.try_join_next() {
            ended??;
            anyhow::bail!("a session ended");
        }
        println!(
            "at rest, {what}: {:.1}% of a core; {} MiB resident, {} MiB at most",
            busy / start.elapsed().as_secs_f64() * 100.0,
            self.server.memory("VmRSS")?,
            self.server.memory("VmHWM")?
        );
        Ok(())
    }

    /// A node falls silent: how long from its detection until its pods are elsewhere and every other node has them.
    async fn fail(&mut self, orders: &Orders, number: usize) -> Result<()> {
        let name = format!("n{number}");
        let pods = orders.pods_on(&name).await?;
        ensure!(pods > 0, "no pods on node {name}");
        self.sight.mark();
        let before = self.server.busy()?;
        self.nodes[number].stop.cancel();
        self.lives.join_next().await.context("no nodes")???;
        orders.until_unknown(&name).await?;
        let (detected, busy) = (Instant::now(), self.server.busy()? - before);
        let until = detected + Duration::from_secs(120);
        let wait = async |done: &dyn Fn() -> bool| {
            while !done() {
                ensure!(Instant::now() < until, "not done in time");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(detected.elapsed().as_secs_f64())
        };
        let started = wait(&|| self.sight.started() >= pods).await?;
        let published = wait(&|| self.sight.served(pods).is_some()).await?;
        let generation = self.sight.served(pods).context("published")?;
        let has = |one: &Arc<Standing>| {
            one.stop.is_cancelled() || one.acknowledged.load(Ordering::Relaxed) >= generation
        };
        let everywhere = wait(&|| self.nodes.iter().all(has)).await?;
        let cost = self.server.busy()? - before - busy;
        println!(
            "node {name} with {pods} pods falls silent; after it was seen: others run in {started:.2} s, \
             are told to the first node in {published:.2} s, acknowledged by every node in {everywhere:.2} s; \
             {cost:.2} s of processor"
        );
        self.sight.unmark();
        self.settle().await;
        Ok(())
    }

    /// A large Deployment is made, rolled and deleted.
    async fn large(&self, orders: &Orders, pods: usize) -> Result<()> {
        let mut last = self.server.busy()?;
        let mut tell = |what: &str, start: Instant| -> Result<()> {
            let busy = self.server.busy()?;
            println!(
                "a Deployment of {pods} pods is {what} in {:.1} s; {:.1} s of processor",
                start.elapsed().as_secs_f64(),
                busy - last
            );
            last = busy;
            Ok(())
        };
        let start = Instant::now();
        orders.create("large", pods).await?;
        orders.until_complete("large", pods).await?;
        tell("made", start)?;
        let start = Instant::now();
        orders.roll("large").await?;
        orders.until_complete("large", pods).await?;
        tell("rolled", start)?;
        let start = Instant::now();
        orders.delete("large").await?;
        tell("deleted", start)
    }
}
