//! What outlives an agent, what a new one finds, and what goes when a pod goes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use aya::programs::SchedClassifier;
use waggle_datapath::{Applied, Capacity, Claimant, Datapath, Reason};

use crate::Case;
use crate::clsact;
use crate::sockets::serve_tcp;
use crate::state::{BILLING, OTHER_HOST, SHOP, With, ip, nodes};
use crate::world::{PATIENCE, World};

pub(crate) const CASES: &[Case] = &[
    (
        "an_agents_death_changes_nothing_and_the_next_adopts",
        an_agents_death_changes_nothing_and_the_next_adopts,
    ),
    (
        "routes_come_back_with_the_uplink",
        routes_come_back_with_the_uplink,
    ),
    (
        "a_new_agents_programs_take_over",
        a_new_agents_programs_take_over,
    ),
    (
        "maps_of_another_size_are_made_anew",
        maps_of_another_size_are_made_anew,
    ),
    (
        "attaching_twice_adopts_and_a_new_namespace_replaces",
        attaching_twice_adopts_and_a_new_namespace_replaces,
    ),
    (
        "detaching_and_sweeping_leave_no_trace",
        detaching_and_sweeping_leave_no_trace,
    ),
    (
        "a_full_table_refuses_what_is_new_and_everything_else_goes_on",
        a_full_table_refuses_what_is_new_and_everything_else_goes_on,
    ),
    ("identity_follows_the_state", identity_follows_the_state),
];

const WEB: &str = "10.244.1.2";
const CART: &str = "10.244.1.3";
const VIP: &str = "10.96.0.5";

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// A connection that stays open, and a way to see that it works.
struct Line(TcpStream);

impl Line {
    fn open(world_room: &crate::room::Room, to: SocketAddr) -> Self {
        let stream = world_room
            .run(move || TcpStream::connect(to))
            .expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a bound");
        Self(stream)
    }

    fn works(&mut self) {
        self.0.write_all(b"?").expect("sends");
        let mut answer = [0; 4];
        self.0.read_exact(&mut answer).expect("receives");
        assert_eq!(&answer, b"web?");
    }
}

fn program_id(world: &World) -> u32 {
    let program = SchedClassifier::from_pin(world.pin("programs", "from_pod")).expect("pinned");
    let _ = program.fd().expect("loaded").as_fd();
    aya::programs::ProgramInfo::from_pin(world.pin("programs", "from_pod"))
        .expect("readable")
        .id()
}

fn an_agents_death_changes_nothing_and_the_next_adopts() {
    let mut world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    let state = nodes()
        .pod(WEB, SHOP)
        .pod(CART, SHOP)
        .service(VIP, SHOP, &[WEB], &[]);
    world.apply(&state);
    serve_tcp(&web.room, at(WEB, 8080), "web");
    let mut line = Line::open(&cart.room, at(VIP, 80));
    line.works();
    let counted = world.counts()[&Reason::Translated];
    world.close();
    line.works();
    Line::open(&cart.room, at(VIP, 80)).works();
    assert_eq!(line.0.peer_addr().expect("a peer"), at(VIP, 80));
    world.open();
    line.works();
    assert_eq!(
        world.try_apply(&state).expect("applies"),
        Applied::default(),
        "everything was found"
    );
    assert_eq!(
        world.counts()[&Reason::Translated],
        counted + 1,
        "counters outlive agents"
    );
    let again = world
        .attach(&web.uid, web.room.path(), web.address, SHOP)
        .expect("adopted");
    assert_eq!(
        again,
        waggle_datapath::Attachment {
            adopted: true,
            ..web.attachment.clone()
        }
    );
    line.works();
}

fn a_new_agents_programs_take_over() {
    let mut world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    world.apply(&nodes().pod(WEB, SHOP).pod(CART, SHOP));
    serve_tcp(&web.room, at(WEB, 8080), "web");
    let mut line = Line::open(&cart.room, at(WEB, 8080));
    line.works();
    let first = program_id(&world);
    world.open();
    let second = program_id(&world);
    assert_ne!(first, second, "a new agent loads its own programs");
    assert_eq!(
        attached_program(&world, &cart.attachment.interface),
        vec![second],
        "and they replace the old in place"
    );
    line.works();
}

/// Programs at the ingress of `interface`.
fn attached_program(world: &World, interface: &str) -> Vec<u32> {
    if world.config.hooks.is_some() {
        return clsact::programs(&world.host, interface, "ingress");
    }
    let interface = interface.to_owned();
    world.host.run(move || {
        let query = SchedClassifier::query_tcx(&interface, aya::programs::TcAttachType::Ingress);
        let (_, programs) = query.expect("the interface is there");
        programs
            .iter()
            .map(aya::programs::ProgramInfo::id)
            .collect()
    })
}

fn maps_of_another_size_are_made_anew() {
    let mut world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    let state = nodes()
        .pod(WEB, SHOP)
        .pod(CART, SHOP)
        .service(VIP, SHOP, &[WEB], &[]);
    world.apply(&state);
    serve_tcp(&web.room, at(WEB, 8080), "web");
    let mut line = Line::open(&cart.room, at(VIP, 80));
    let first = attached_program(&world, &cart.attachment.interface);
    world.config.capacity.services *= 2;
    world.config.capacity.links *= 2;
    world.open();
    line.works();
    Line::open(&cart.room, at(VIP, 80)).works();
    assert_eq!(
        attached_program(&world, &cart.attachment.interface),
        first,
        "old programs run until the tables are full"
    );
    for pod in [&web, &cart] {
        assert!(
            world
                .attach(&pod.uid, pod.room.path(), pod.address, SHOP)
                .expect("adopted")
                .adopted
        );
    }
    assert!(
        world.try_apply(&state).expect("applies").rows > 0,
        "the new tables are filled"
    );
    assert_ne!(attached_program(&world, &cart.attachment.interface), first);
    line.works();
    Line::open(&cart.room, at(VIP, 80)).works();
    let info = aya::maps::MapInfo::from_pin(world.pin("maps", "SERVICES")).expect("readable");
    assert_eq!(info.max_entries(), world.config.capacity.services);
}

fn attaching_twice_adopts_and_a_new_namespace_replaces() {
    let world = World::new();
    let web = world.pod(WEB, SHOP);
    assert!(!web.attachment.adopted);
    let again = world
        .attach(&web.uid, web.room.path(), web.address, SHOP)
        .expect("idempotent");
    assert_eq!(
        (again.ifindex, again.adopted),
        (web.attachment.ifindex, true)
    );
    let room = crate::room::Room::new();
    let replaced = world
        .attach(&web.uid, room.path(), web.address, SHOP)
        .expect("a new sandbox of the same pod");
    assert!(!replaced.adopted && replaced.ifindex != web.attachment.ifindex);
    assert_ne!(replaced.netns_cookie, web.attachment.netns_cookie);
    let cart = world.pod(CART, SHOP);
    world.apply(&nodes().pod(WEB, SHOP).pod(CART, SHOP));
    serve_tcp(&room, at(WEB, 8080), "web");
    Line::open(&cart.room, at(WEB, 8080)).works();
}

fn detaching_and_sweeping_leave_no_trace() {
    let world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    let gone = {
        // Its namespace goes, and the veth with it, while nobody looks.
        let lost = world.pod("10.244.1.9", SHOP);
        (lost.attachment.interface.clone(), lost.uid.clone())
    };
    let rows = |name: &str| {
        let map = aya::maps::MapData::from_pin(world.pin("maps", name)).expect("pinned");
        match aya::maps::Map::from_map_data(map).expect("a map") {
            aya::maps::Map::HashMap(map) => {
                let count = |size| match size {
                    4 => aya::maps::HashMap::<_, u32, waggle_abi::LinkRow>::try_from(
                        aya::maps::Map::HashMap(map),
                    )
                    .map(|m| m.keys().count()),
                    _ => aya::maps::HashMap::<_, u64, waggle_abi::OwnerRow>::try_from(
                        aya::maps::Map::HashMap(map),
                    )
                    .map(|m| m.keys().count()),
                };
                count(if name == "LINKS" { 4 } else { 8 }).expect("of that shape")
            }
            _ => panic!("{name} is a hash"),
        }
    };
    assert_eq!((rows("LINKS"), rows("SOCKET_OWNERS")), (3, 3));
    let uid = web.uid.clone();
    world
        .with(async move |datapath| datapath.detach_pod(&uid).await)
        .expect("detached");
    assert_eq!((rows("LINKS"), rows("SOCKET_OWNERS")), (2, 2));
    let live = [cart.uid.clone()].into();
    let swept = world
        .with(async move |datapath| datapath.sweep(&live).await)
        .expect("swept");
    assert_eq!((swept, rows("LINKS"), rows("SOCKET_OWNERS")), (1, 1, 1));
    let pins: Vec<_> = std::fs::read_dir(world.config.bpf_dir.join("links"))
        .expect("a folder")
        .flatten()
        .collect();
    let names: Vec<_> = pins
        .iter()
        .map(|pin| pin.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| !name.contains(&gone.0) && !name.contains(&web.attachment.interface)),
        "{names:?}"
    );
    let uid = web.uid.clone();
    world
        .with(async move |datapath| datapath.detach_pod(&uid).await)
        .expect("nothing there is fine");
}

fn a_full_table_refuses_what_is_new_and_everything_else_goes_on() {
    let world = World::with_capacity(Capacity {
        endpoints: 4,
        flows: 1024,
        sock_vip: 1024,
        ..Capacity::default()
    });
    let web = world.pod(WEB, SHOP);
    let fits = nodes().pod(WEB, SHOP);
    world.apply(&fits);
    let full = fits.clone().pod(CART, SHOP).pod("10.244.1.9", SHOP);
    let applied = world.try_apply(&full).expect("the rest applies");
    assert_eq!(applied.rows, 1, "one of two new pods still fits");
    let [refusal] = &applied.refused[..] else {
        panic!("{applied:?}")
    };
    assert_eq!(refusal.claimant, Claimant::Endpoint(ip("10.244.1.9")));
    assert_eq!(
        refusal.fault.to_string(),
        "5 addresses are needed but this node's datapath has room for 4"
    );
    let less = fits.clone().pod("10.244.1.9", SHOP);
    let applied = world.try_apply(&less).expect("applies");
    assert_eq!(
        (applied.rows, applied.refused),
        (2, vec![]),
        "one came, one went"
    );
    drop(web);
}

fn identity_follows_the_state() {
    let world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    serve_tcp(&web.room, at(WEB, 8080), "web");
    world.apply(&nodes().pod(WEB, SHOP).pod(CART, SHOP));
    Line::open(&cart.room, at(WEB, 8080)).works();
    world.apply(&nodes().pod(WEB, SHOP).pod(CART, BILLING));
    let fault = cart.room.run(|| {
        TcpStream::connect(at(WEB, 8080))
            .err()
            .and_then(|error| error.raw_os_error())
    });
    assert_eq!(fault, Some(13), "its namespace was moved to another tenant");
}

/// Takes `link` down and up again, and with it the route that `iproute2` shows as `route`, until that is back. Called where
/// the datapath's node is.
pub(crate) async fn lose_link(datapath: &Datapath, link: &str, route: &str) {
    let ip = |arguments: &str| {
        let output = std::process::Command::new("ip")
            .args(arguments.split(' '))
            .output();
        let output = output.expect("iproute2 is installed");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let there = || ip("route show proto 119").contains(route);
    assert!(there());
    let flip = async {
        ip(&format!("link set {link} down"));
        assert!(!there(), "the kernel drops it with the link");
        ip(&format!("link set {link} up"));
        let deadline = Instant::now() + PATIENCE;
        while !there() {
            assert!(Instant::now() < deadline, "it is missing");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        // The first to be asked, so that it listens before the link goes.
        biased;
        ended = datapath.keep_routes() => panic!("{ended:?}"),
        () = flip => {}
    }
}

fn routes_come_back_with_the_uplink() {
    let world = World::new();
    world.apply(&nodes());
    world.with(async |datapath| {
        lose_link(datapath, "eth0", &format!("via {OTHER_HOST}")).await;
    });
}
