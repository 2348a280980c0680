//! The kernel's rows, their mirror and what they should be: the one place that writes tables.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use waggle_abi::{Capacity, Config, LinkRow, Reason, endpoint_flag};
use waggle_model::ServiceId;
use waggle_model::network::{Cidr, GenerationGap, NetworkDelta, NetworkState};
use waggle_policy::{
    Current, Desired, DnsRedirect, LocalNode, LocalPod, Refusal, Row, Step, Tallies, enforce, round,
};

use crate::error::{DatapathError, table_error};
use crate::maps::Maps;
use crate::pin::Pins;
use crate::route::{self, Routes};

/// What one go at the tables did.
#[derive(Debug, Default)]
pub(crate) struct Programmed {
    /// Rows written or removed.
    pub(crate) rows: usize,
    /// Rows that found their table full.
    pub(crate) refused: Vec<Refusal>,
    /// Addresses that this node announces from now on.
    pub(crate) announced: Vec<IpAddr>,
}

/// The tables of a node.
pub(crate) struct Tables {
    maps: Maps,
    current: Current,
    desired: Desired,
    capacity: Capacity,
    local: LocalNode,
    /// Whether everything that an earlier agent left was compared with a network state.
    compared: bool,
    tallies: Tallies,
    /// Rows until a fault that a test asked for.
    fault_after: Option<usize>,
}

/// Addresses that this node answers for from now on.
fn announced(steps: &[Step]) -> impl Iterator<Item = IpAddr> {
    steps.iter().filter_map(|step| match step {
        Step::Put(Row::Endpoint(addr, row)) if row.flags & endpoint_flag::ANNOUNCED != 0 => {
            Some((*addr).into())
        }
        _ => None,
    })
}

fn injected() -> DatapathError {
    let fault = std::io::Error::from_raw_os_error(libc::ENOMEM);
    table_error("write", "any")(fault)
}

/// More than there can be rulesets of earlier tables, which are made less than once a second.
fn seconds_since_the_epoch() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| {
        // Below the bit that marks classes.
        (now.as_secs() & 0x7fff_ffff) as u32
    })
}

/// Whether refusals are put down to other policies from then on.
fn moves_policies(delta: &NetworkDelta) -> bool {
    !(delta.policy_upserts.is_empty()
        && delta.policy_removals.is_empty()
        && delta.identity_upserts.is_empty()
        && delta.identity_removals.is_empty())
}

impl Tables {
    /// Reads what is in the kernel.
    pub(crate) fn adopt(
        pins: &Pins,
        local: LocalNode,
        capacity: Capacity,
    ) -> Result<Self, DatapathError> {
        let maps = Maps::open(pins, &capacity)?;
        let mut current = maps.read(pins)?;
        if current.rulesets.next() == 0 {
            // New tables, but flows remember numbers that earlier tables gave: these begin where those can't have come.
            current.rulesets.resume(seconds_since_the_epoch());
        }
        let mut desired = Desired::new(local.clone());
        desired.set_next_ruleset(current.rulesets.next());
        Ok(Self {
            current,
            maps,
            local,
            desired,
            capacity,
            compared: false,
            tallies: Tallies::default(),
            fault_after: None,
        })
    }

    /// Carries out the steps for whatever was touched.
    pub(crate) fn program(&mut self) -> Result<Programmed, DatapathError> {
        let mut programmed = Programmed::default();
        loop {
            // Until a state is known, pods stay under what their links say.
            let governing = self.compared && self.desired.is_ungoverned();
            let refused = if governing {
                self.provide_rulesets()?
            } else {
                Vec::new()
            };
            let round = self.carry_out_rounds()?;
            programmed.rows += round.rows;
            programmed.announced.extend(round.announced);
            programmed.refused = round.refused;
            let room_is_made = governing && self.sweep_rulesets()?;
            if refused.is_empty() || !room_is_made {
                programmed.refused.extend(refused);
                return Ok(programmed);
            }
        }
    }

    /// Has the rulesets of the connected pods in the kernel, before anything names them; says which found no room.
    fn provide_rulesets(&mut self) -> Result<Vec<Refusal>, DatapathError> {
        let identities = self.desired.identities();
        let state = self.desired.state();
        let rulesets = &mut self.current.rulesets;
        let enforcement = enforce(state, &identities, rulesets, &self.capacity);
        // Before their first row: no number may ever be given twice.
        let next_ruleset = self.current.rulesets.next();
        self.desired.set_next_ruleset(next_ruleset);
        let config = self.current.held.config.get(&());
        let config = config.copied().unwrap_or_default();
        if config.next_ruleset != next_ruleset {
            let config = Config {
                next_ruleset,
                ..config
            };
            self.carry_out(&[Step::Put(Row::Config((), config))])?;
        }
        for (number, ruleset) in &enforcement.new {
            self.maps.write_ruleset(*number, ruleset)?;
            self.current.rulesets.adopt(*number, Arc::clone(ruleset));
        }
        let refused = enforcement.refused.clone();
        self.desired.govern(enforcement);
        Ok(refused)
    }

    /// Removes the rulesets that no row names; says whether there were any.
    fn sweep_rulesets(&mut self) -> Result<bool, DatapathError> {
        let links = self.current.held.links.values();
        let used = links.flat_map(|link| [link.ingress, link.egress]).collect();
        let unused = self.current.rulesets.unused(&used);
        for number in unused.iter().copied() {
            if let Some(ruleset) = self.current.rulesets.contents().get(&number) {
                self.maps.remove_ruleset(number, ruleset)?;
            }
            self.current.rulesets.forget(number);
        }
        Ok(!unused.is_empty())
    }

    fn carry_out_rounds(&mut self) -> Result<Programmed, DatapathError> {
        let mut programmed = Programmed::default();
        loop {
            let round = round(&self.desired, &mut self.current, &self.capacity);
            self.carry_out(&round.steps)?;
            programmed.rows += round.steps.len();
            programmed.announced.extend(announced(&round.steps));
            let left_out = round.refused.iter().map(|(key, _)| *key);
            self.desired.settle(left_out);
            if round.refused.is_empty() || !round.frees {
                let refused = round.refused.into_iter();
                programmed.refused = refused.map(|(_, refusal)| refusal).collect();
                return Ok(programmed);
            }
        }
    }

    fn carry_out(&mut self, steps: &[Step]) -> Result<(), DatapathError> {
        let mut rest = steps;
        while !rest.is_empty() {
            let allowed = self
                .fault_after
                .map_or(rest.len(), |left| left.min(rest.len()));
            let (done, result) = match allowed {
                0 => (0, Err(injected())),
                allowed => self.maps.write(&rest[..allowed]),
            };
            rest[..done].iter().for_each(|step| self.current.note(step));
            self.fault_after = self.fault_after.map(|left| left - done);
            result?;
            rest = &rest[done..];
        }
        Ok(())
    }

    /// Has writing fail after this many rows, as a kernel without memory would.
    pub(crate) fn fail_after(&mut self, rows: Option<usize>) {
        self.fault_after = rows;
    }

    /// Until the first network state is known, what an earlier agent left stays as it is.
    pub(crate) fn compare_everything_once(&mut self) {
        if !self.compared {
            self.compared = true;
            self.desired.touch_all(&self.current);
        }
    }

    pub(crate) fn state(&self) -> &NetworkState {
        self.desired.state()
    }

    pub(crate) fn take_moved_services(&mut self) -> BTreeSet<ServiceId> {
        self.desired.take_moved_services()
    }

    pub(crate) fn set_state(&mut self, state: &NetworkState) {
        self.settle_tallies();
        self.desired.set_state(state);
    }

    pub(crate) fn advance(&mut self, delta: NetworkDelta) -> Result<(), GenerationGap> {
        if moves_policies(&delta) {
            self.settle_tallies();
        }
        self.desired.apply(delta)
    }

    /// Puts what was counted down to the objects as they are now, and returns the sums.
    pub(crate) fn tallies(&mut self) -> Result<&Tallies, DatapathError> {
        let counts = self.maps.object_counts()?;
        let state = self.desired.state();
        let gone = self.tallies.take(counts, state);
        self.maps.forget_counts(&gone)?;
        self.maps
            .take_back_counts(|service| state.services.contains_key(&service));
        Ok(&self.tallies)
    }

    /// Counts are no reason not to go on.
    fn settle_tallies(&mut self) {
        if let Err(error) = self.tallies() {
            tracing::warn!(%error, "what services and policies did can't be read");
        }
    }

    pub(crate) fn tell_new(&mut self, tell: bool) {
        self.desired.tell_new(tell);
    }

    pub(crate) fn set_dns(&mut self, dns: Option<DnsRedirect>) {
        self.desired.set_dns(dns);
    }

    pub(crate) fn set_service_ranges(&mut self, ranges: Vec<Cidr>) {
        self.desired.set_service_ranges(ranges);
    }

    pub(crate) fn put_pod(&mut self, pod: LocalPod) {
        self.desired.put_pod(pod);
    }

    pub(crate) fn remove_pod(&mut self, ifindex: u32) {
        self.desired.remove_pod(ifindex);
    }

    /// Pods' links that are in the kernel, by interface index.
    pub(crate) fn links(&self) -> Vec<(u32, LinkRow)> {
        let links = self.current.held.links.iter();
        links.map(|(ifindex, row)| (*ifindex, *row)).collect()
    }

    pub(crate) fn current(&self) -> &Current {
        &self.current
    }

    pub(crate) fn wanted_routes(&self) -> Routes {
        route::wanted(self.desired.state(), &self.local)
    }

    pub(crate) fn counters(&self) -> Result<Vec<(Reason, waggle_abi::Counter)>, DatapathError> {
        self.maps.counters()
    }
}
