//! A published Service: a TCP forwarder that listens on this machine's loopback and connects from inside node1's network
//! namespace and cgroup, so that the node's socket hook turns the Service's VIP into a backend.
//!
//! Threads: everything runs in the caller's namespace but one, which has entered node1's and only makes sockets. A socket
//! belongs to the namespace and cgroup that it was made in, whoever uses it later.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::layout::{Layout, netns_path, node_name};
use super::{cgroups, netns};
use crate::connect::{Api, check_segment};

/// Where to listen and which Service to reach: `[ADDRESS:]PORT=NAMESPACE/SERVICE:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    /// Loopback address and port.
    pub(crate) listen: SocketAddr,
    namespace: String,
    name: String,
    /// Number or name of the Service's port.
    port: String,
}

impl Publish {
    /// Name of its log and pid file.
    pub(crate) fn part(&self) -> String {
        format!("door-{}", self.listen.port())
    }

    /// `shop/user-center:80`.
    pub(crate) fn service(&self) -> String {
        format!("{}/{}:{}", self.namespace, self.name, self.port)
    }
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not [ADDRESS:]PORT=NAMESPACE/SERVICE:PORT, as in 127.0.0.1:8080=shop/user-center:80"
            )
        };
        let (listen, service) = text.split_once('=').ok_or_else(wrong)?;
        let listen: SocketAddr = match listen.parse::<u16>() {
            Ok(port) => (Ipv4Addr::LOCALHOST, port).into(),
            Err(_) => listen.parse().map_err(|_| wrong())?,
        };
        if !listen.ip().is_loopback() || listen.port() == 0 {
            return Err(format!(
                "{listen} is no port of this machine's loopback: use 127.0.0.1:PORT"
            ));
        }
        let (namespace, rest) = service.split_once('/').ok_or_else(wrong)?;
        let (name, port) = rest.split_once(':').ok_or_else(wrong)?;
        for part in [namespace, name, port] {
            check_segment("part of a Service", part).map_err(|_| wrong())?;
        }
        Ok(Self {
            listen,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            port: port.to_owned(),
        })
    }
}

/// Arguments of the hidden `dev door`.
#[derive(Debug, clap::Args)]
pub(crate) struct DoorArgs {
    #[arg(long)]
    publish: Publish,
    #[arg(long)]
    kubeconfig: PathBuf,
    #[arg(long)]
    netns: PathBuf,
    /// cgroup to connect from
    #[arg(long)]
    cgroup: String,
}

/// Arguments of `waggle` that run a door.
pub(crate) fn arguments(layout: &Layout, publish: &Publish) -> Vec<OsString> {
    vec![
        "dev".into(),
        "door".into(),
        "--publish".into(),
        format!("{}={}", publish.listen, publish.service()).into(),
        "--kubeconfig".into(),
        layout.kubeconfig().into(),
        "--netns".into(),
        netns_path(&layout.netns(1)).into(),
        "--cgroup".into(),
        format!(
            "{}/doors/{}",
            layout.cgroup_of(&node_name(1)),
            publish.part()
        )
        .into(),
    ]
}

/// Longest wait for a backend to take a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a resolved VIP is used before the API is asked again.
const FRESH: Duration = Duration::from_secs(2);

/// What a door writes when it takes connections.
pub(crate) const LISTENING: &str = "listening on";

/// Runs a door until it is told to end.
pub(crate) fn run(args: &DoorArgs) -> Result<ExitCode> {
    let listen = args.publish.listen;
    let listener = std::net::TcpListener::bind(listen)
        .with_context(|| format!("cannot listen on {listen}"))?;
    listener.set_nonblocking(true)?;
    cgroups::join(&args.cgroup)?;
    let sockets = socket_maker(args.netns.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let door = Door {
            publish: args.publish.clone(),
            api: Api::from_file(&args.kubeconfig, None).await?,
            known: Mutex::new(None),
            sockets,
        };
        println!("{LISTENING} {listen} for {}", args.publish.service());
        tokio::select! {
            _ = end.recv() => Ok(ExitCode::SUCCESS),
            ended = serve(TcpListener::from_std(listener)?, std::sync::Arc::new(door)) => ended.map(|()| ExitCode::SUCCESS),
        }
    })
}

type Order = (bool, oneshot::Sender<std::io::Result<TcpSocket>>);

/// Starts the thread that makes sockets inside the namespace.
fn socket_maker(netns: PathBuf) -> Result<mpsc::Sender<Order>> {
    let (orders, mut inbox) = mpsc::channel::<Order>(64);
    let (entered, entry) = std::sync::mpsc::channel();
    let work = move || {
        let result = netns::enter(&netns);
        let inside = result.is_ok();
        let _starter_waits = entered.send(result);
        while let Some((v6, reply)) = inbox.blocking_recv().filter(|_| inside) {
            let _caller_gave_up = reply.send(if v6 {
                TcpSocket::new_v6()
            } else {
                TcpSocket::new_v4()
            });
        }
    };
    std::thread::Builder::new()
        .name("sockets".to_owned())
        .spawn(work)
        .context("cannot start a thread")?;
    entry
        .recv()
        .context("the thread in the node's namespace ended")??;
    Ok(orders)
}

struct Door {
    publish: Publish,
    api: Api,
    known: Mutex<Option<(SocketAddr, Instant)>>,
    sockets: mpsc::Sender<Order>,
}

async fn serve(listener: TcpListener, door: std::sync::Arc<Door>) -> Result<()> {
    // Known from the start, the address outlives a server that goes away before the first caller comes.
    if let Err(error) = door.vip().await {
        eprintln!("error: {}: {error:#}", door.publish.service());
    }
    loop {
        let (client, _) = listener
            .accept()
            .await
            .context("cannot take connections any more")?;
        let door = door.clone();
        tokio::spawn(async move {
            if let Err(error) = door.forward(client).await {
                eprintln!("error: {}: {error:#}", door.publish.service());
            }
        });
    }
}

impl Door {
    async fn forward(&self, mut client: TcpStream) -> Result<()> {
        let vip = self.vip().await?;
        let (reply, made) = oneshot::channel();
        self.sockets
            .send((vip.is_ipv6(), reply))
            .await
            .map_err(|_| anyhow!("the socket thread has ended"))?;
        let socket = made
            .await
            .context("the socket thread has ended")?
            .context("cannot make a socket in the node")?;
        let mut backend = tokio::time::timeout(CONNECT_LIMIT, socket.connect(vip))
            .await
            .map_err(|_| anyhow!("{vip} does not answer within {} s", CONNECT_LIMIT.as_secs()))?
            .with_context(|| format!("cannot connect to {vip}"))?;
        let _no_delay = (client.set_nodelay(true), backend.set_nodelay(true));
        // A side that resets is the end of a connection, not a fault of the door.
        let _ended = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
        Ok(())
    }

    async fn vip(&self) -> Result<SocketAddr> {
        let known = self.known.lock().map_or(None, |known| *known);
        if let Some((vip, _)) = known.filter(|(_, when)| when.elapsed() < FRESH) {
            return Ok(vip);
        }
        let path = format!(
            "/api/v1/namespaces/{}/services/{}",
            self.publish.namespace, self.publish.name
        );
        let vip = match self.api.get(&path).await {
            Ok(service) => vip_of(&service, &self.publish.port)?,
            // The API may be away for a while; the Service's address stays.
            Err(error) => known.map(|(vip, _)| vip).ok_or(error)?,
        };
        if let Ok(mut known) = self.known.lock() {
            *known = Some((vip, Instant::now()));
        }
        Ok(vip)
    }
}

/// VIP and port of a Service; `port` is a number or a name.
fn vip_of(service: &Value, port: &str) -> Result<SocketAddr> {
    let ip: IpAddr = service["spec"]["clusterIP"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| {
            anyhow!("the Service has no cluster IP: a headless one can't be published")
        })?;
    let ports = service["spec"]["ports"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let tcp = || {
        ports.iter().filter(|entry| {
            entry["protocol"]
                .as_str()
                .is_none_or(|protocol| protocol == "TCP")
        })
    };
    let number = port.parse::<u16>().ok();
    let found = tcp().find(|entry| {
        entry["name"] == port || number.is_some_and(|number| entry["port"] == number)
    });
    match found
        .and_then(|entry| entry["port"].as_u64())
        .and_then(|number| u16::try_from(number).ok())
    {
        Some(number) => Ok(SocketAddr::new(ip, number)),
        None => {
            let have: Vec<String> = tcp().map(|entry| entry["port"].to_string()).collect();
            bail!(
                "the Service has no TCP port {port}: it has {}",
                have.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn publish_is_read() {
        let full: Publish = "127.0.0.1:8080=shop/user-center:80".parse().unwrap();
        assert_eq!(full, "8080=shop/user-center:80".parse().unwrap());
        assert_eq!(
            (full.part().as_str(), full.service().as_str()),
            ("door-8080", "shop/user-center:80")
        );
        for text in [
            "8080",
            "8080=shop",
            "8080=shop/user-center",
            "x=shop/a:80",
            "0.0.0.0:80=shop/a:80",
            "0=shop/a:80",
            "80=/a:80",
            "80=shop/:80",
        ] {
            assert!(text.parse::<Publish>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_vip_comes_from_the_service() {
        let service = json!({"spec": {"clusterIP": "10.96.0.7", "ports": [
            {"port": 53, "protocol": "UDP", "name": "dns"}, {"port": 80, "name": "http", "protocol": "TCP"}]}});
        let expect: SocketAddr = "10.96.0.7:80".parse().unwrap();
        assert_eq!(vip_of(&service, "80").unwrap(), expect);
        assert_eq!(vip_of(&service, "http").unwrap(), expect);
        assert!(
            vip_of(&service, "53")
                .unwrap_err()
                .to_string()
                .contains("it has 80")
        );
        assert!(vip_of(&json!({"spec": {"clusterIP": "None"}}), "80").is_err());
    }
}
