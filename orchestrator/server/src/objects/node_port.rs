//! Which ports of the nodes a Service gets: those that it names, or free ones. The book of ports is kept in memory, made
//! from the Services at start; the choice of a port is `plan::node_ports`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use waggle_api::service::{gets_node_ports, has_node_ports, needs_health_check};
use waggle_api::{Fault, Resource, Status, find};
use waggle_model::network::{PortRange, Protocol};
use waggle_plan::node_ports::{NodePort, NodePortError, NodePorts};

use super::cache::Cache;

#[derive(Debug)]
pub(super) struct NodePortAllocator {
    range: PortRange,
    book: Mutex<NodePorts>,
}

/// Ports given to a Service that is not yet stored with them; unless kept, it gives back those that are new. What it has
/// no more is given back when it is kept.
#[derive(Debug)]
pub(super) struct PortReservation<'a> {
    allocator: &'a NodePortAllocator,
    uid: String,
    wanted: BTreeSet<NodePort>,
    added: Vec<NodePort>,
}

impl PortReservation<'_> {
    /// The Service is stored.
    pub(super) fn keep(mut self) {
        self.added.clear();
        self.allocator.book().settle(&self.uid, &self.wanted);
    }
}

impl Drop for PortReservation<'_> {
    fn drop(&mut self) {
        let mut book = self.allocator.book();
        for port in &self.added {
            book.release(&self.uid, *port);
        }
    }
}

impl NodePortAllocator {
    pub(super) fn new(range: PortRange, cache: &Cache) -> Self {
        let book = Mutex::new(read(range, cache));
        Self { range, book }
    }

    /// Forgets what was known, for what the Services have now.
    pub(super) fn read_anew(&self, cache: &Cache) {
        *self.book() = read(self.range, cache);
    }

    fn book(&self) -> MutexGuard<'_, NodePorts> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the Service in `value` its node ports and, if it needs one, its health check port. `None` when it has
    /// what it had.
    pub(super) fn settle(
        &self,
        resource: &Resource,
        value: &mut Value,
    ) -> Result<Option<PortReservation<'_>>, Status> {
        if resource.kind != "Service" {
            return Ok(None);
        }
        let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default();
        let (uid, name) = (text("uid").to_owned(), text("name").to_owned());
        let mut reservation = PortReservation {
            allocator: self,
            uid,
            wanted: BTreeSet::new(),
            added: Vec::new(),
        };
        if has_node_ports(value) {
            let faults = reservation.claim_named(value);
            if !faults.is_empty() {
                return Err(Status::invalid(resource, &name, &faults));
            }
            reservation.assign_rest(value).map_err(|error| {
                Status::internal(format!(
                    "failed to allocate a nodePort for Service {name:?}: {error}"
                ))
            })?;
        }
        let had = self.book().of(&reservation.uid);
        let changes = !reservation.added.is_empty() || had != reservation.wanted;
        Ok(changes.then_some(reservation))
    }

    /// Takes back what a Service had.
    pub(super) fn release(&self, uid: &str) {
        self.book().settle(uid, &BTreeSet::new());
    }
}

impl PortReservation<'_> {
    /// Claims the ports that the Service names.
    fn claim_named(&mut self, value: &Value) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (path, port) in named(value) {
            if let Err(error) = self.claim(port) {
                faults.push(Fault::invalid(path, port.1, error.to_string()));
            }
        }
        faults
    }

    fn claim(&mut self, port: NodePort) -> Result<(), NodePortError> {
        if !self.wanted.insert(port) {
            let owner = self.uid.clone();
            return Err(NodePortError::Taken { owner });
        }
        if self.allocator.book().claim(&self.uid, port)? {
            self.added.push(port);
        }
        Ok(())
    }

    /// Fills in the ports that the Service does not name.
    fn assign_rest(&mut self, value: &mut Value) -> Result<(), NodePortError> {
        let wanted = gets_node_ports(value);
        let all = value["spec"]["ports"].as_array_mut();
        // The same port over another protocol gets the same node port, if it can.
        let mut like: BTreeMap<i64, u16> = BTreeMap::new();
        for port in all.into_iter().flatten().filter(|_| wanted) {
            let number = port["port"].as_i64().unwrap_or(0);
            let given = match node_port(port) {
                Some(given) => given,
                None => {
                    let Some(protocol) = protocol(port) else {
                        continue;
                    };
                    let given = self.assign(protocol, like.get(&number).copied())?;
                    port["nodePort"] = given.into();
                    given
                }
            };
            like.insert(number, given);
        }
        if needs_health_check(value) && health_check_port(value).is_none() {
            let given = self.assign(Protocol::Tcp, None)?;
            value["spec"]["healthCheckNodePort"] = given.into();
        }
        Ok(())
    }

    fn assign(&mut self, protocol: Protocol, like: Option<u16>) -> Result<u16, NodePortError> {
        let given = self.allocator.book().assign(&self.uid, protocol, like)?;
        self.wanted.insert((protocol, given));
        self.added.push((protocol, given));
        Ok(given)
    }
}

/// Who has which port, by the Services that there are.
fn read(range: PortRange, cache: &Cache) -> NodePorts {
    let mut book = NodePorts::new(range);
    let services = find("", "v1", "services")
        .map(|row| cache.list(row, None).objects)
        .unwrap_or_default();
    for service in services.iter().filter(|one| has_node_ports(&one.value)) {
        for (_, port) in named(&service.value) {
            book.restore(&service.uid, port);
        }
    }
    book
}

/// The ports that a Service names, with where it names them.
fn named(value: &Value) -> Vec<(String, NodePort)> {
    let ports = value["spec"]["ports"].as_array().into_iter().flatten();
    let ports = ports.enumerate().filter_map(|(index, port)| {
        let path = format!("spec.ports[{index}].nodePort");
        Some((path, (protocol(port)?, node_port(port)?)))
    });
    let check = health_check_port(value).filter(|_| needs_health_check(value));
    let check = check.map(|port| ("spec.healthCheckNodePort".to_owned(), (Protocol::Tcp, port)));
    ports.chain(check).collect()
}

fn protocol(port: &Value) -> Option<Protocol> {
    match port["protocol"].as_str().unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

fn node_port(port: &Value) -> Option<u16> {
    number(&port["nodePort"])
}

fn health_check_port(value: &Value) -> Option<u16> {
    number(&value["spec"]["healthCheckNodePort"])
}

fn number(value: &Value) -> Option<u16> {
    let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
    number.filter(|number| *number != 0)
}
