//! What goes wrong, and what clients do: each is one step of a simulation.

use super::node::{Local, Machine, Phase};
use super::server::Server;
use super::workload::{NAMESPACE, NODES, Order};
use super::{SERVERS, Simulation};

impl Simulation {
    /// A client wants something; it may take long to arrive, and arrive twice.
    pub(super) fn order(&mut self) {
        let order = Order::any(&mut self.chance);
        self.note(format_args!("a client sends: {order:?}"));
        if self.one_in(4) {
            self.late.push(order.clone());
        }
        self.late.push(order);
    }

    /// One of the orders on their way arrives, not always the oldest.
    pub(super) fn deliver_late(&mut self) {
        if !self.late.is_empty() {
            let index = self.pick(self.late.len());
            let order = self.late.remove(index);
            self.note(format_args!("arrives: {order:?}"));
            order.obey(&mut self.world);
        }
    }

    pub(super) fn cut_or_mend(&mut self) {
        let index = self.pick(NODES.len());
        let mend = self.machines[index].cut;
        if !mend && self.one_in(2) {
            return;
        }
        let machine = &mut self.machines[index];
        machine.cut = !mend;
        machine.hang_up();
        let (name, cut) = (machine.name, machine.cut);
        self.note(format_args!(
            "{name} is {}",
            if cut { "cut off" } else { "back" }
        ));
    }

    /// Somebody deletes a pod.
    pub(super) fn kill(&mut self) {
        let pods = self.world.all("Pod");
        let names: Vec<String> = pods
            .iter()
            .filter_map(|one| one["metadata"]["name"].as_str())
            .map(str::to_owned)
            .collect();
        if let Some(name) = names.get(self.pick(names.len())) {
            self.note(format_args!("somebody deletes pod {name}"));
            self.world.delete("Pod", NAMESPACE, name);
        }
    }

    /// A pod that runs to its end is there, well or not. Its node knows first.
    pub(super) fn end_of_a_run(&mut self) {
        let index = self.pick(NODES.len());
        let well = self.pick(3) != 0;
        self.end_on(index, well);
    }

    pub(super) fn end_on(&mut self, index: usize, well: bool) {
        let phase = if well {
            Phase::Succeeded
        } else {
            Phase::Failed
        };
        let machine = &mut self.machines[index];
        let mut running = machine.pods.iter_mut();
        let found = running.find(|(_, one)| one.ends && one.phase == Phase::Running);
        if let Some((uid, local)) = found {
            local.phase = phase;
            let (uid, name) = (uid.clone(), local.name.clone());
            if well && name.starts_with("sum-") {
                self.witness.succeeded.insert(uid);
            }
            self.note(format_args!("on {}: {name} {phase:?}", NODES[index]));
        }
    }

    /// A server dies: what it was about to write is lost. Another comes up in its place.
    pub(super) fn crash(&mut self) {
        let index = self.pick(SERVERS);
        self.note(format_args!("server {index} dies and starts again"));
        let leads = index == self.leader;
        self.servers[index] = Server::new(&self.world, self.chance.number(), self.elapsed);
        self.machines
            .iter_mut()
            .filter(|one| one.session == Some(index))
            .for_each(Machine::hang_up);
        if leads {
            self.depose();
        }
    }

    /// The other server leads. The deposed one doesn't know yet, and goes on.
    pub(super) fn elect(&mut self) {
        let old = self.leader;
        self.depose();
        let new = self.leader;
        self.note(format_args!("server {new} leads, {old} does not know"));
    }

    pub(super) fn depose(&mut self) {
        self.leader = (self.leader + 1) % SERVERS;
        self.term += 1;
        let seed = self.chance.number();
        let mut server = Server::new(&self.world, seed, self.elapsed);
        server.skew = self.servers[self.leader].skew;
        server.term = Some(self.term);
        self.machines
            .iter_mut()
            .filter(|one| one.session == Some(self.leader))
            .for_each(Machine::hang_up);
        self.servers[self.leader] = server;
    }

    /// The clock of a server is set.
    pub(super) fn jump(&mut self) {
        let index = self.pick(SERVERS);
        let skew = [-300, -20, 0, 20, 300][self.pick(5)];
        self.servers[index].skew = skew;
        self.servers[index].decisions.jump();
        self.note(format_args!("the clock of server {index} is {skew} s off"));
    }

    /// A machine starts anew: what ran to its end there failed, the rest is started again.
    pub(super) fn reboot(&mut self) {
        let index = self.pick(NODES.len());
        let machine = &mut self.machines[index];
        machine.hang_up();
        let ran = |one: &&mut Local| one.phase == Phase::Running;
        machine
            .pods
            .values_mut()
            .filter(ran)
            .filter(|one| one.ends)
            .for_each(|one| one.phase = Phase::Failed);
        self.note(format_args!("{} starts anew", NODES[index]));
    }
}
