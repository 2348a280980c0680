//! A client that checks the sample application from inside a pod: many requests, each counted, each failure with its
//! errno. Prints one JSON object at the end.
#![forbid(unsafe_code)]

mod await_backends;
mod pingpong;
mod race;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, sendto, socket};
use serde_json::{Value, json};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Requests `/` over a new connection each time.
    Http(Load),
    /// Sends a datagram and waits for its answer, from a new socket each time.
    Udp(Load),
    /// Keeps one connection and sends a request over it each interval.
    Hold(Load),
    /// Answers one byte for one byte: the other end of `race`.
    Answer {
        /// Port to listen on.
        #[arg(long, default_value_t = 7000)]
        port: u16,
        /// Processor to run on.
        #[arg(long, default_value_t = 0)]
        cpu: usize,
    },
    /// Compares two ways to the same server.
    Race {
        /// ADDRESS:PORT of the server itself.
        #[arg(long)]
        direct: SocketAddr,
        /// ADDRESS:PORT of the virtual one.
        #[arg(long)]
        vip: SocketAddr,
        /// Connections each.
        #[arg(long, default_value_t = 2000)]
        rounds: usize,
        /// Processor to run on.
        #[arg(long, default_value_t = 0)]
        cpu: usize,
    },
    /// Counts connections in a second, each with one byte there and back.
    Rate {
        /// ADDRESS:PORT of an `answer`.
        #[arg(long)]
        target: SocketAddr,
        /// Callers at once.
        #[arg(long, default_value_t = 4)]
        callers: usize,
        /// Milliseconds to call for.
        #[arg(long, default_value_t = 2_000)]
        milliseconds: u64,
        /// Processor to run on.
        #[arg(long, default_value_t = 0)]
        cpu: usize,
    },
    /// Echoes bytes: the other end of `pingpong`.
    Echo {
        /// Port to listen on.
        #[arg(long, default_value_t = 7001)]
        port: u16,
        /// Processor to run on.
        #[arg(long, default_value_t = 0)]
        cpu: usize,
    },
    /// Measures one connection.
    Pingpong {
        /// ADDRESS:PORT of an `echo`.
        #[arg(long)]
        target: SocketAddr,
        /// Round trips.
        #[arg(long, default_value_t = 10_000)]
        rounds: usize,
        /// Megabytes to send in one go.
        #[arg(long, default_value_t = 500)]
        megabytes: usize,
        /// Processor to run on.
        #[arg(long, default_value_t = 0)]
        cpu: usize,
    },
    /// Says when each of these services has a backend.
    Await {
        /// ADDRESS:PORT of each, UDP.
        services: Vec<SocketAddr>,
        /// Seconds to wait for all of them.
        #[arg(long, default_value_t = 60)]
        patience: u64,
    },
    /// Sends one UDP datagram with a source address that is not this pod's.
    Spoof {
        /// Source address to claim.
        #[arg(long)]
        source: Ipv4Addr,
        /// ADDRESS:PORT to send to.
        target: String,
    },
}

#[derive(clap::Args)]
struct Load {
    /// HOST:PORT; the name is looked up for each request.
    target: String,
    /// Requests to make; 0 for as many as come before `--until` exists.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Milliseconds between requests.
    #[arg(long, default_value_t = 0)]
    interval: u64,
    /// Milliseconds that one request may take.
    #[arg(long, default_value_t = 1000)]
    timeout: u64,
    /// Stops when this file exists.
    #[arg(long)]
    until: Option<PathBuf>,
}

#[derive(Default)]
struct Tally {
    ok: u64,
    failed: u64,
    errors: BTreeMap<String, u64>,
    pods: BTreeMap<String, u64>,
    versions: BTreeMap<String, u64>,
    callers: BTreeMap<String, u64>,
    slowest: Duration,
    peer: Option<String>,
}

impl Tally {
    fn add(&mut self, outcome: Result<(Value, SocketAddr)>, took: Duration) {
        self.slowest = self.slowest.max(took);
        match outcome {
            Ok((answer, peer)) => {
                self.ok += 1;
                let text = |field: &str| answer[field].as_str().unwrap_or("?").to_owned();
                *self.pods.entry(text("pod")).or_default() += 1;
                *self.versions.entry(text("version")).or_default() += 1;
                *self.callers.entry(text("caller")).or_default() += 1;
                self.peer = Some(peer.to_string());
            }
            Err(error) => {
                self.failed += 1;
                *self.errors.entry(describe(&error)).or_default() += 1;
            }
        }
    }
    fn json(&self) -> Value {
        json!({"ok": self.ok, "failed": self.failed, "errors": self.errors, "pods": self.pods, "versions": self.versions, "callers": self.callers,
            "slowest_ms": self.slowest.as_secs_f64() * 1e3, "peer": self.peer})
    }
}

/// The error with its errno's name, which says more than its text.
fn describe(error: &anyhow::Error) -> String {
    let errno = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error());
    match errno {
        Some(number) => format!("{error:#} [{:?}]", nix::errno::Errno::from_raw(number)),
        None => format!("{error:#}"),
    }
}

fn main() -> Result<()> {
    let report = match Arguments::parse().verb {
        Verb::Http(load) => load.run(http),
        Verb::Udp(load) => load.run(udp),
        Verb::Hold(load) => hold(&load)?,
        Verb::Answer { port, cpu } => return race::answer(port, cpu),
        Verb::Race {
            direct,
            vip,
            rounds,
            cpu,
        } => race::race(direct, vip, rounds, cpu)?,
        Verb::Rate {
            target,
            callers,
            milliseconds,
            cpu,
        } => race::rate(target, callers, Duration::from_millis(milliseconds), cpu)?,
        Verb::Echo { port, cpu } => return pingpong::echo(port, cpu),
        Verb::Pingpong {
            target,
            rounds,
            megabytes,
            cpu,
        } => pingpong::pingpong(target, rounds, megabytes, cpu)?,
        Verb::Await { services, patience } => {
            await_backends::run(&services, Duration::from_secs(patience))?
        }
        Verb::Spoof { source, target } => spoof(source, &target)?,
    };
    println!("{report}");
    if report["failed"].as_u64().unwrap_or(0) > 0 {
        std::process::exit(1);
    }
    Ok(())
}

impl Load {
    fn patience(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }
    fn address(&self) -> Result<SocketAddr> {
        let mut found = self
            .target
            .to_socket_addrs()
            .with_context(|| format!("look up {}", self.target))?;
        found
            .next()
            .with_context(|| format!("{} has no address", self.target))
    }
    fn goes_on(&self, done: u64) -> bool {
        let told = self.until.as_ref().is_some_and(|file| file.exists());
        !told && (self.count == 0 || done < self.count)
    }
    fn run(&self, mut request: impl FnMut(&Self) -> Result<(Value, SocketAddr)>) -> Value {
        let mut tally = Tally::default();
        while self.goes_on(tally.ok + tally.failed) {
            let start = Instant::now();
            let outcome = request(self);
            tally.add(outcome, start.elapsed());
            std::thread::sleep(Duration::from_millis(self.interval));
        }
        tally.json()
    }
}

fn connect(load: &Load) -> Result<(TcpStream, SocketAddr)> {
    let stream =
        TcpStream::connect_timeout(&load.address()?, load.patience()).context("connect")?;
    stream.set_read_timeout(Some(load.patience()))?;
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr().context("getpeername")?;
    Ok((stream, peer))
}

fn http(load: &Load) -> Result<(Value, SocketAddr)> {
    let (mut stream, peer) = connect(load)?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        load.target
    )
    .context("send")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("receive")?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("an answer without a body")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("answered {:?}", head.lines().next().unwrap_or(""));
    }
    Ok((serde_json::from_str(body).context("answer")?, peer))
}

fn udp(load: &Load) -> Result<(Value, SocketAddr)> {
    let target = load.address()?;
    let own = if target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(own)?;
    socket.set_read_timeout(Some(load.patience()))?;
    socket.send_to(b"hello", target).context("send")?;
    let mut buffer = [0; 1500];
    let (length, from) = socket.recv_from(&mut buffer).context("receive")?;
    if from != target {
        bail!("asked {target}, answered by {from}");
    }
    Ok((
        serde_json::from_slice(&buffer[..length]).context("answer")?,
        from,
    ))
}

fn hold(load: &Load) -> Result<Value> {
    let (stream, peer) = connect(load)?;
    let mut reader = BufReader::new(stream);
    Ok(load.run(move |load| {
        write!(
            reader.get_mut(),
            "GET / HTTP/1.1\r\nHost: {}\r\n\r\n",
            load.target
        )
        .context("send")?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).context("receive")? == 0 {
                return Err(std::io::Error::from(ErrorKind::UnexpectedEof))
                    .context("connection closed");
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().context("content-length")?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).context("receive")?;
        Ok((serde_json::from_slice(&body).context("answer")?, peer))
    }))
}

/// One UDP datagram below a hand-made IPv4 header; the kernel fills in the checksum and the length.
fn spoof(source: Ipv4Addr, target: &str) -> Result<Value> {
    let SocketAddr::V4(target) = target.parse().context("target")? else {
        bail!("an IPv4 target, please")
    };
    // IPPROTO_RAW means that the header is ours.
    let raw = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::empty(),
        nix::sys::socket::SockProtocol::Raw,
    )
    .context("raw socket (needs CAP_NET_RAW)")?;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(target.ip().octets());
    packet.extend(4000u16.to_be_bytes());
    packet.extend(target.port().to_be_bytes());
    packet.extend([0, 13, 0, 0]);
    packet.extend(b"spoof");
    let sent = sendto(
        raw.as_raw_fd(),
        &packet,
        &SockaddrIn::from(target),
        MsgFlags::empty(),
    );
    Ok(match sent {
        Ok(_) => json!({"sent": 1, "failed": 0}),
        Err(errno) => json!({"sent": 0, "failed": 0, "errno": format!("{errno:?}")}),
    })
}
