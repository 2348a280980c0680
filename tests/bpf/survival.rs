//! Agents that are killed and upgraded under live connections and a stream of new ones. An agent is a process of its own
//! here, so that SIGKILL takes it wherever it happens to be: while it opens, programs, attaches or detaches.
//!
//! The quick figures are for every run; `WAGGLE_SURVIVAL=full` does what the product promises: one hundred kills and ten
//! upgrades under ten thousand connections.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use waggle_datapath::{Capacity, Config, Datapath, PodLink};
use waggle_model::network::{NetworkState, PerFamily, TunnelMode, XdpMode};
use waggle_model::{IdentityId, TenantId};

use crate::Case;
use crate::clsact::{hooks, pass_on};
use crate::room::Room;
use crate::sockets::at;
use crate::state::{HOST, SHOP, With, ip, nodes};
use crate::world::{PATIENCE, World};

pub(crate) const CASES: &[Case] = &[(
    "agents_are_killed_and_upgraded_under_live_connections",
    agents_are_killed_and_upgraded_under_live_connections,
)];

/// Makes this binary something else than a test.
const ROLE: &str = "WAGGLE_TEST_ROLE";
const WEB: &str = "10.244.1.2";
const CART: &str = "10.244.1.3";
const SCRATCH: &str = "10.244.1.9";
const VIP: &str = "10.96.0.5";

/// What was asked for, told to child processes by their environment.
struct Orders(Vec<String>);

impl Orders {
    fn command(role: &str, words: &[String]) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.env(ROLE, role).env("ORDERS", words.join(" "));
        command
    }

    fn read() -> Self {
        let text = std::env::var("ORDERS").expect("orders");
        Self(text.split(' ').map(Into::into).collect())
    }
}

/// Plays the part that the environment names; `None` for a test run.
pub(crate) fn role() -> Option<ExitCode> {
    let role = std::env::var(ROLE).ok()?;
    let Orders(words) = Orders::read();
    match role.as_str() {
        "server" => serve(&words[0]),
        "agent" => agent(&words),
        other => panic!("no part is called {other}"),
    }
    Some(ExitCode::SUCCESS)
}

fn enter(netns: &str) {
    let file = std::fs::File::open(netns).expect("the namespace is there");
    setns(file, CloneFlags::CLONE_NEWNET).expect("entered");
}

/// Echoes on any number of connections until it is killed.
fn serve(netns: &str) {
    enter(netns);
    raise_limit();
    let listener = TcpListener::bind(at(WEB, 8080)).expect("binds");
    nix::sys::socket::listen(
        &listener,
        nix::sys::socket::Backlog::new(4096).expect("a number"),
    )
    .expect("listens");
    listener.set_nonblocking(true).expect("set");
    println!("ready");
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    let watch = |fd: &dyn AsFd, number: u64| {
        epoll
            .add(fd.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, number))
            .expect("watched");
    };
    watch(&listener, u64::MAX);
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let count = epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
        for event in &events[..count] {
            if event.data() == u64::MAX {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).expect("set");
                    let free = streams.iter().rposition(Option::is_none);
                    let index = free.unwrap_or_else(|| {
                        streams.push(None);
                        streams.len() - 1
                    });
                    watch(&stream, index as u64);
                    streams[index] = Some(stream);
                }
                continue;
            }
            let slot = &mut streams[usize::try_from(event.data()).expect("an index")];
            let mut byte = [0; 16];
            let answered = slot.as_mut().map(|stream| match stream.read(&mut byte) {
                Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => stream.write_all(&byte[..length]),
                Err(error) => Err(error),
            });
            if !matches!(answered, Some(Ok(()))) {
                *slot = None;
            }
        }
    }
}

fn raise_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raised");
}

/// What an agent does: opens, adopts its pods, applies, and goes on changing things until it is killed.
fn agent(words: &[String]) {
    let [netns, bpf_dir, cgroup, abi, links @ ..] = words else {
        panic!("orders: {words:?}")
    };
    enter(netns);
    let config = Config {
        bpf_dir: PathBuf::from(bpf_dir),
        cgroup: PathBuf::from(cgroup),
        node: "node1".into(),
        addresses: PerFamily::single(ip(HOST)),
        mtu: None,
        tunnel: TunnelMode::Auto,
        xdp: XdpMode::Never,
        hooks: hooks(),
        capacity: capacity(),
        abi: abi.parse().expect("a number"),
    };
    let links: Vec<_> = links
        .iter()
        .map(|link| {
            let [uid, netns, address] = link.split(',').collect::<Vec<_>>()[..] else {
                panic!("a link: {link}")
            };
            pod_link(uid, netns, ip(address))
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let datapath = Datapath::open(config).await.expect("opens");
        let (scratch, pods) = links.split_last().expect("a scratch pod");
        for pod in pods {
            datapath.attach_pod(pod).await.expect("adopted");
        }
        let live = pods.iter().map(|pod| pod.uid.clone()).collect();
        datapath.sweep(&live).await.expect("swept");
        datapath.apply(&state(0)).await.expect("applies");
        println!("ready");
        for turn in 1.. {
            datapath.apply(&state(turn)).await.expect("applies");
            datapath.attach_pod(scratch).await.expect("attached");
            datapath.detach_pod(&scratch.uid).await.expect("detached");
        }
    });
}

fn pod_link(uid: &str, netns: &str, address: IpAddr) -> PodLink {
    PodLink {
        uid: uid.into(),
        netns: netns.into(),
        addresses: PerFamily::single(address),
        identity: IdentityId(SHOP * 10),
        tenant: TenantId(SHOP),
    }
}

fn capacity() -> Capacity {
    Capacity {
        flows: 1024,
        sock_vip: 32_768,
        slots: 4096,
        ..Capacity::default()
    }
}

/// The service that is called stays; around it things come and go.
fn state(turn: usize) -> NetworkState {
    let backends: Vec<_> = (0..=turn % 5)
        .map(|index| format!("10.244.2.{}", 10 + index))
        .collect();
    let backends: Vec<_> = backends.iter().map(String::as_str).collect();
    let mut state = nodes().pod(WEB, SHOP).pod(CART, SHOP);
    for address in &backends {
        state = state.pod(address, SHOP);
    }
    // Behind the one that is called, so that its number stays.
    state = state.service(VIP, SHOP, &[WEB], &[]);
    for index in 0..10 + turn % 7 {
        state = state.service(&format!("10.96.1.{index}"), SHOP, &backends, &[]);
    }
    state
}

/// How much of it.
struct Size {
    connections: usize,
    kills: usize,
    upgrades: usize,
}

impl Size {
    fn wanted() -> Self {
        let (connections, kills, upgrades) = match std::env::var("WAGGLE_SURVIVAL").as_deref() {
            Ok("full") => (10_000, 100, 10),
            Ok(other) => panic!("WAGGLE_SURVIVAL is \"{other}\", which is neither unset nor full"),
            Err(_) => (1_000, 10, 2),
        };
        Self {
            connections,
            kills,
            upgrades,
        }
    }
}

/// The world without a datapath of its own: agents come from outside.
struct Stage {
    world: World,
    rooms: [Room; 3],
    server: Option<Child>,
}

impl Stage {
    fn set() -> Self {
        let mut world = World::new();
        world.close();
        let rooms = [Room::new(), Room::new(), Room::new()];
        Self {
            world,
            rooms,
            server: None,
        }
    }

    /// Once its pod has an address.
    fn start_server(&mut self) {
        let mut server = Orders::command("server", &[self.rooms[0].outside_path()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        await_ready(&mut server);
        self.server = Some(server);
    }

    fn agent(&self, abi: u64) -> Child {
        let mut words = vec![
            self.world.host.outside_path(),
            self.world.config.bpf_dir.display().to_string(),
            self.world.config.cgroup.display().to_string(),
            abi.to_string(),
        ];
        for (room, address) in self.rooms.iter().zip([WEB, CART, SCRATCH]) {
            words.push(format!("pod-{address},{},{address}", room.outside_path()));
        }
        let mut agent = Orders::command("agent", &words);
        pass_on(&mut agent);
        agent
            .stdout(Stdio::piped())
            .spawn()
            .expect("the agent starts")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            // It may be gone; then there is nothing to end.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn await_ready(child: &mut Child) {
    let mut line = String::new();
    let output = child.stdout.as_mut().expect("its output");
    BufReader::new(output).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
}

fn kill(mut child: Child) {
    child.kill().expect("killed");
    child.wait().expect("ended");
}

/// New connections, one after the other, each through the VIP; those that failed are counted.
struct Stream {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<String>>,
}

impl Stream {
    fn start(room: &Room) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let netns = room.outside_path();
        let (stopped, counted): (_, Arc<AtomicUsize>) = (stop.clone(), Arc::clone(&made));
        let thread = std::thread::spawn(move || {
            enter(&netns);
            let mut faults = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = one_call() {
                    faults.push(error.to_string());
                }
                counted.fetch_add(1, Ordering::Relaxed);
                // As many as matter, and no more: the machine is small.
                std::thread::sleep(Duration::from_millis(1));
            }
            faults
        });
        Self { stop, made, thread }
    }

    fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let faults = self.thread.join().expect("it counted");
        (self.made.load(Ordering::Relaxed), faults)
    }
}

fn one_call() -> std::io::Result<()> {
    let mut stream = TcpStream::connect(at(VIP, 80))?;
    nix::sys::socket::setsockopt(
        &stream,
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    )?;
    echo(&mut stream)
}

fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

fn agents_are_killed_and_upgraded_under_live_connections() {
    let size = Size::wanted();
    raise_limit();
    let mut stage = Stage::set();
    let abi = waggle_abi::ABI_HASH;
    let mut agent = stage.agent(abi);
    await_ready(&mut agent);
    stage.start_server();
    let count = size.connections;
    let mut live: Vec<TcpStream> = stage.rooms[1].run(move || {
        (0..count)
            .map(|_| TcpStream::connect(at(VIP, 80)).expect("connects"))
            .collect()
    });
    let streams = [&stage.rooms[1], &stage.world.host].map(Stream::start);
    let start = Instant::now();
    let (mut turns, mut resets) = (0, 0);
    for turn in 0..size.kills + size.upgrades {
        // Anywhere between its first instruction and long after it is ready.
        std::thread::sleep(Duration::from_millis((turn as u64 * 37) % 400));
        kill(agent);
        let upgraded = turn % (size.kills / size.upgrades + 1) == 0;
        turns += u64::from(upgraded);
        agent = stage.agent(abi.wrapping_add(turns));
        if upgraded || turn % 3 == 0 {
            await_ready(&mut agent);
        }
        resets += live
            .iter_mut()
            .skip(turn)
            .step_by(97)
            .filter_map(|stream| echo(stream).err())
            .count();
    }
    kill(agent);
    resets += live.iter_mut().filter_map(|one| echo(one).err()).count();
    let shown = live
        .iter()
        .filter(|one| one.peer_addr().ok() == Some(at(VIP, 80)));
    assert_eq!(
        shown.count(),
        live.len(),
        "each still shows what was called"
    );
    let (mut made, mut faults) = (0, Vec::new());
    for stream in streams {
        let (more, failed) = stream.end();
        made += more;
        faults.extend(failed);
    }
    println!(
        "{} connections, {} kills, {turns} of them upgrades, in {:?}: {resets} resets; {made} new connections, {} refused: {:?}",
        live.len(),
        size.kills + size.upgrades,
        start.elapsed(),
        faults.len(),
        faults.first(),
    );
    assert_eq!((resets, faults.len()), (0, 0));
    assert!(made > size.kills, "new connections were made all the time");
}
