//! Whole clusters under faults, each replayable from its seed: the real planners on servers that see the store late and
//! torn, nodes behind a network that delays, repeats and loses, a store that refuses a deposed leader, and clocks that
//! jump. What must hold is checked after every step; when the faults stop, everything comes to rest as ordered.
//!
//! Servers are in `server`, nodes in `node`, what goes wrong in `faults`, what must hold in `invariants`, what the cluster
//! is to run in `workload`, planners that are broken on purpose in `mistakes`.
//! `SIMULATION_SEEDS=N` runs the seeds up to N, `SIMULATION_SEED=S` that one and prints its trace.

mod faults;
mod invariants;
mod load;
mod mistakes;
mod node;
mod server;
mod workload;

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use crate::Ids;
use crate::world::World;
use invariants::Witness;
use mistakes::Mistake;
use node::Machine;
use server::{PLANNERS, Server};
use workload::{NODES, Order};

/// Steps under faults.
const STEPS: usize = 1500;
/// Seeds that an ordinary test run takes.
const SEEDS: u64 = 1000;
/// Waves of load and of gangs that come and go, after the faults, and rounds of each.
const WAVES: (usize, usize) = (2, 5);
/// Rounds in which a cluster without faults must come to rest.
const ROUNDS: usize = 600;
/// Servers that may lead.
const SERVERS: usize = 2;

/// Everything there is, at one moment.
struct Simulation {
    world: World,
    chance: Ids,
    servers: Vec<Server>,
    machines: Vec<Machine>,
    /// Which server the store takes writes from.
    leader: usize,
    /// Counts elections: a write of an earlier term is refused.
    term: u64,
    /// Seconds since the start, which no jump of a clock touches.
    elapsed: i64,
    /// What clients asked for that is still on its way.
    late: Vec<Order>,
    witness: Witness,
    /// How much of the store's history the witness has looked at.
    looked: usize,
    /// What a planner does wrong.
    mistake: Option<Mistake>,
    trace: Vec<String>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut world = World::new();
        workload::put(&mut world);
        let mut chance = Ids::new(seed);
        let servers = (0..SERVERS)
            .map(|_| Server::new(&world, chance.number(), 0))
            .collect();
        let mut simulation = Self {
            world,
            servers,
            machines: NODES.into_iter().map(Machine::new).collect(),
            leader: 0,
            term: 1,
            elapsed: 0,
            late: Vec::new(),
            witness: Witness::default(),
            looked: 0,
            mistake: None,
            trace: Vec::new(),
            chance,
        };
        simulation.servers[0].term = Some(1);
        simulation
    }

    /// A number below `count`.
    fn pick(&mut self, count: usize) -> usize {
        let number = self.chance.number() % u64::try_from(count.max(1)).unwrap_or(1);
        usize::try_from(number).unwrap_or(0)
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.pick(count) == 0
    }

    fn note(&mut self, what: impl Display) {
        self.trace.push(format!("{:>6} {what}", self.elapsed));
    }

    fn step(&mut self) {
        match self.pick(256) {
            0..=2 => self.order(),
            3..=6 => self.deliver_late(),
            7 => self.cut_or_mend(),
            8 => self.kill(),
            9..=11 => self.end_of_a_run(),
            12 => self.crash(),
            13 => self.elect(),
            14 => self.jump(),
            15 => self.reboot(),
            16..=31 => {
                let seconds = [1, 1, 2, 15][self.pick(4)];
                self.pass(seconds);
            }
            32..=71 => self.machine_acts(),
            72..=111 => self.server_listens(),
            112..=131 => self.server_assigns(),
            132..=167 => self.view_moves(),
            168..=207 => self.server_commits(),
            _ => self.server_plans(),
        }
        self.check();
    }

    fn pass(&mut self, seconds: i64) {
        self.note(format_args!("{seconds} s pass"));
        self.elapsed += seconds;
        self.world.pass(seconds);
    }

    /// A machine finds a server, takes in what it was told last, and reports.
    fn machine_acts(&mut self) {
        let index = self.pick(NODES.len());
        let again = self.one_in(8);
        self.machine_turn(index, again);
    }

    fn machine_turn(&mut self, index: usize, again: bool) {
        let known = self
            .servers
            .iter()
            .rposition(|one| one.term == Some(self.term));
        let machine = &mut self.machines[index];
        if machine.cut {
            machine.run();
            return;
        }
        if machine.session.is_none() {
            machine.session = known;
        }
        machine.listen(again);
        machine.run();
        machine.report(again);
    }

    /// A server works on what one of its nodes said.
    fn server_listens(&mut self) {
        let index = self.pick(NODES.len());
        self.listen_to(index);
    }

    fn listen_to(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        let Some(server) = machine.session else {
            return;
        };
        let said: Vec<_> = machine.up.drain(..).collect();
        let name = machine.name;
        if self.servers[server].term != Some(self.term) {
            // The store refuses what a deposed leader writes; it hangs up when it learns of that.
            if !said.is_empty() {
                self.servers[server].term = None;
                self.machines[index].hang_up();
            }
            return;
        }
        let clock = self.servers[server].now(self.world.now);
        let truth = std::mem::replace(&mut self.world.now, clock);
        for one in said {
            let what = one.tell(name, &mut self.world);
            self.trace.extend(what.map(|what| format!("       {what}")));
        }
        self.world.now = truth;
    }

    /// A server reserves addresses and tells a node of its pods.
    fn server_assigns(&mut self) {
        let (server, index) = (self.pick(SERVERS), self.pick(NODES.len()));
        self.assign(server, index);
    }

    fn assign(&mut self, server: usize, index: usize) {
        let one = &mut self.servers[server];
        if one.term.is_none() || !one.is_idle() {
            return;
        }
        one.reserve();
        if self.machines[index].session == Some(server) {
            let told = self.servers[server].assignment(NODES[index]);
            self.machines[index].down.push_back(told);
        }
    }

    /// A server sees some of what happened, of one kind sooner than of another.
    fn view_moves(&mut self) {
        let server = self.pick(SERVERS);
        let whole = self.one_in(2);
        let head = self.world.log.len();
        let until = if whole {
            head
        } else {
            let seen = self.servers[server].seen();
            seen + self.pick(head - seen + 1)
        };
        let torn = (!whole).then(|| self.chance.number());
        self.measure(server);
        self.servers[server].follow(&self.world.log, until, torn);
    }

    /// A server hears what the pods use.
    fn measure(&mut self, server: usize) {
        self.servers[server].usage = load::usage(&self.world, &self.machines);
    }

    /// A server's next writes reach the store.
    fn server_commits(&mut self) {
        let server = self.pick(SERVERS);
        let count = 1 + self.pick(6);
        let twice = self.one_in(6);
        for _ in 0..count {
            self.commit(server, twice);
        }
    }

    fn commit(&mut self, server: usize, twice: bool) {
        let one = &mut self.servers[server];
        let Some(write) = one.flight.pop_front() else {
            return;
        };
        if one.term != Some(self.term) {
            one.flight.clear();
            one.term = None;
            one.look_again();
            self.note(format_args!("server {server} learns that it leads no more"));
            return;
        }
        let clock = one.now(self.world.now);
        let truth = std::mem::replace(&mut self.world.now, clock);
        let before = self.world.refused;
        self.witness
            .before(&write, &self.servers[server], &self.world);
        self.world.write(&write);
        let refused = self.world.refused > before;
        if twice {
            // The acknowledgement was lost, and the same is sent once more.
            self.world.write(&write);
        }
        self.world.now = truth;
        let wrote = self.world.log.len();
        self.servers[server].must_see = wrote;
        if refused {
            self.servers[server].look_again();
        }
        let shown = server::shown(&write);
        self.note(format_args!(
            "server {server}: {shown}{}",
            if refused { " (refused)" } else { "" }
        ));
        self.check();
    }

    /// A server asks a planner and sends what it decided on its way.
    fn server_plans(&mut self) {
        let server = self.pick(SERVERS);
        let in_turn = !self.one_in(4);
        let any = self.pick(PLANNERS.len());
        self.plan(server, in_turn, any);
    }

    fn plan(&mut self, server: usize, in_turn: bool, any: usize) {
        let one = &mut self.servers[server];
        if one.term.is_none() || !one.is_idle() {
            return;
        }
        let index = if in_turn { one.next() } else { any };
        let mut plan = one.ask(index, self.world.now, self.elapsed);
        if let Some(mistake) = self.mistake
            && mistake.planner == PLANNERS[index].0
        {
            (mistake.spoil)(&mut plan);
        }
        let mut faults: Vec<String> = invariants::of_plan(index, &one.view, &plan)
            .iter()
            .map(ToString::to_string)
            .collect();
        if PLANNERS[index].0 == "autoscaler" {
            faults.extend(one.decisions.judge(&one.view, &plan, self.elapsed));
        }
        let count = plan.writes.len();
        one.flight.extend(plan.writes);
        if count > 0 {
            let name = PLANNERS[index].0;
            self.note(format_args!("server {server}: {name} decides {count}"));
        }
        assert!(faults.is_empty(), "{faults:?}");
    }

    fn check(&mut self) {
        let since = std::mem::replace(&mut self.looked, self.world.log.len());
        self.witness.look(&self.world, since, &self.machines);
    }

    /// No more faults: the cluster comes to rest.
    fn rest(&mut self) {
        self.note("no more faults");
        for machine in &mut self.machines {
            machine.cut = false;
        }
        while !self.late.is_empty() {
            self.deliver_late();
        }
        self.waves();
        workload::last_orders(&mut self.world);
        let calm = self.servers.iter().map(|one| one.skew).max().unwrap_or(0);
        for one in &mut self.servers {
            one.skew = calm;
            one.decisions.jump();
        }
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            let before = self.world.log.len();
            self.round();
            // Heartbeats are no news.
            let news = self.world.log[before..]
                .iter()
                .any(|change| change.key.1 != "Lease");
            quiet = if news { 0 } else { quiet + 1 };
            if quiet == 6 {
                return;
            }
            // Long enough in the end for the longest pause after failures.
            self.pass(if quiet < 3 { 10 } else { 8 * 60 });
            if quiet >= 3 {
                self.beat();
            }
        }
        panic!("does not come to rest");
    }

    /// What takes its time under faults, again and again without any.
    fn waves(&mut self) {
        for _ in 0..WAVES.0 {
            for order in Order::wave(&mut self.chance) {
                self.note(format_args!("a client wants: {order:?}"));
                order.obey(&mut self.world);
            }
            for _ in 0..WAVES.1 {
                self.round();
                self.pass(20);
            }
        }
    }

    /// Every machine says that it is there, before time that passed at once is held against it.
    fn beat(&mut self) {
        for index in 0..NODES.len() {
            self.machine_turn(index, false);
            self.listen_to(index);
        }
    }

    /// Everybody does what there is to do, once.
    fn round(&mut self) {
        self.beat();
        for index in 0..NODES.len() {
            self.end_on(index, true);
        }
        self.measure(self.leader);
        for any in 0..PLANNERS.len() {
            self.plan(self.leader, false, any);
            while !self.servers[self.leader].flight.is_empty() {
                self.commit(self.leader, false);
            }
            let head = self.world.log.len();
            self.servers[self.leader].follow(&self.world.log, head, None);
        }
        for index in 0..NODES.len() {
            self.assign(self.leader, index);
            while !self.servers[self.leader].flight.is_empty() {
                self.commit(self.leader, false);
            }
            let head = self.world.log.len();
            self.servers[self.leader].follow(&self.world.log, head, None);
        }
        self.check();
    }
}

/// Runs one seed to its end, or to where something that must hold does not.
fn run(seed: u64, mistake: Option<Mistake>) -> (Simulation, std::thread::Result<()>) {
    let mut simulation = Simulation::new(seed);
    simulation.mistake = mistake;
    let run = AssertUnwindSafe(|| {
        for _ in 0..STEPS {
            simulation.step();
        }
        simulation.rest();
        invariants::at_rest(&simulation.world, &simulation.machines, &simulation.witness);
    });
    let outcome = catch_unwind(run);
    (simulation, outcome)
}

/// Runs one seed to its end, and tells its history when something did not hold.
fn simulate(seed: u64, tell: bool) {
    let (simulation, outcome) = run(seed, None);
    if tell || outcome.is_err() {
        eprintln!("seed {seed}:\n{}", simulation.trace.join("\n"));
    }
    if let Err(cause) = outcome {
        eprintln!("again: cargo xtask simulate --seed {seed}");
        resume_unwind(cause);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn invariants_hold_under_faults() {
    if let Some(seed) = number("SIMULATION_SEED") {
        return simulate(seed, true);
    }
    let seeds = number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            simulate(seed, false);
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    eprintln!("{seeds} seeds, {STEPS} steps each: every invariant held");
}

#[test]
fn a_seed_is_one_history() {
    let history = |seed| {
        let mut simulation = Simulation::new(seed);
        (0..STEPS).for_each(|_| simulation.step());
        let objects = json!(simulation.world.all("Pod"));
        (simulation.trace, objects)
    };
    assert_eq!(history(3), history(3));
    assert_ne!(history(3).0, history(4).0);
}
