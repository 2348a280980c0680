//! Ports that every node keeps for a Service: node ports and health check ports.

use std::collections::{BTreeMap, BTreeSet};

use waggle_model::network::{PortRange, Protocol};

/// A port of every node.
pub type NodePort = (Protocol, u16);

/// Why there is no port. Worded as Kubernetes words it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodePortError {
    /// Another Service has it.
    #[error("provided port is already allocated")]
    Taken {
        /// Uid of the Service.
        owner: String,
    },
    /// Not one that may be asked for.
    #[error("provided port is not in the valid range. The range of valid ports is {range}")]
    Outside {
        /// Those that may.
        range: PortRange,
    },
    /// All in use.
    #[error("range is full: every port of {range} is in use")]
    Exhausted {
        /// The range.
        range: PortRange,
    },
}

/// Which ports are whose. TCP and UDP have ports of their own. A port that was given back is the last to be given again
/// (next fit).
#[derive(Debug, Clone)]
pub struct NodePorts {
    range: PortRange,
    owners: BTreeMap<NodePort, String>,
    next: u16,
}

impl NodePorts {
    /// All free.
    pub fn new(range: PortRange) -> Self {
        Self {
            range,
            owners: BTreeMap::new(),
            next: range.first(),
        }
    }

    /// Ports of `owner`.
    pub fn of(&self, owner: &str) -> BTreeSet<NodePort> {
        let own = self.owners.iter().filter(|(_, one)| *one == owner);
        own.map(|(port, _)| *port).collect()
    }

    /// Gives `owner` this very port. True when it did not have it before.
    ///
    /// # Errors
    /// [`NodePortError::Taken`], [`NodePortError::Outside`].
    pub fn claim(&mut self, owner: &str, port: NodePort) -> Result<bool, NodePortError> {
        match self.owners.get(&port) {
            Some(other) if other != owner => {
                return Err(NodePortError::Taken {
                    owner: other.clone(),
                });
            }
            Some(_) => return Ok(false),
            None if !self.range.contains(port.1) => {
                return Err(NodePortError::Outside { range: self.range });
            }
            None => self.restore(owner, port),
        }
        Ok(true)
    }

    /// Notes that `owner` has a port unless somebody else has it: one from before a restart, in the range or not.
    pub fn restore(&mut self, owner: &str, port: NodePort) {
        self.owners.entry(port).or_insert_with(|| owner.to_owned());
        if self.range.contains(port.1) {
            self.next = self.next.max(port.1.saturating_add(1));
        }
    }

    /// Gives `owner` a port that is free: `like`, if it is.
    ///
    /// # Errors
    /// [`NodePortError::Exhausted`].
    pub fn assign(
        &mut self,
        owner: &str,
        protocol: Protocol,
        like: Option<u16>,
    ) -> Result<u16, NodePortError> {
        let free = |port: &u16| !self.owners.contains_key(&(protocol, *port));
        let like = like.filter(|port| self.range.contains(*port) && free(port));
        let (first, last) = (self.range.first(), self.range.last());
        let mut candidates =
            (self.next..=last).chain((first..=last).take_while(|port| *port < self.next));
        let Some(port) = like.or_else(|| candidates.find(free)) else {
            return Err(NodePortError::Exhausted { range: self.range });
        };
        if like.is_none() {
            self.next = port.saturating_add(1);
        }
        self.owners.insert((protocol, port), owner.to_owned());
        Ok(port)
    }

    /// Takes back a port of `owner`.
    pub fn release(&mut self, owner: &str, port: NodePort) {
        if self.owners.get(&port).is_some_and(|one| one == owner) {
            self.owners.remove(&port);
        }
    }

    /// Leaves `owner` with exactly these ports, as far as nobody else has them.
    pub fn settle(&mut self, owner: &str, ports: &BTreeSet<NodePort>) {
        self.owners
            .retain(|port, one| one != owner || ports.contains(port));
        for port in ports {
            self.restore(owner, *port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Protocol = Protocol::Tcp;

    fn ports() -> NodePorts {
        NodePorts::new("30000-30003".parse().unwrap())
    }

    #[test]
    fn a_port_rests_before_it_is_given_again() {
        let mut ports = ports();
        let given: Vec<u16> = (0..3)
            .map(|_| ports.assign("a", TCP, None).unwrap())
            .collect();
        assert_eq!(given, [30_000, 30_001, 30_002]);
        ports.release("a", (TCP, 30_001));
        assert_eq!(ports.assign("b", TCP, None), Ok(30_003));
        assert_eq!(ports.assign("b", TCP, None), Ok(30_001));
        let full = ports.assign("c", TCP, None).unwrap_err().to_string();
        assert_eq!(full, "range is full: every port of 30000-30003 is in use");
        // UDP has ports of its own, the same one where it is asked for.
        assert_eq!(ports.assign("c", Protocol::Udp, Some(30_002)), Ok(30_002));
        assert_eq!(ports.assign("c", Protocol::Udp, Some(30_002)), Ok(30_003));
        assert_eq!(ports.assign("c", Protocol::Udp, None), Ok(30_000));
    }

    #[test]
    fn what_was_asked_for_is_respected() {
        let mut ports = ports();
        assert_eq!(ports.claim("a", (TCP, 30_001)), Ok(true));
        assert_eq!(ports.claim("a", (TCP, 30_001)), Ok(false));
        let taken = ports.claim("b", (TCP, 30_001)).unwrap_err();
        assert_eq!(taken.to_string(), "provided port is already allocated");
        let outside = ports.claim("b", (TCP, 80)).unwrap_err();
        assert_eq!(
            outside.to_string(),
            "provided port is not in the valid range. The range of valid ports is 30000-30003"
        );
        assert_eq!(ports.assign("b", TCP, None), Ok(30_002));
        // Another range after a restart: what is in use stays in use.
        ports.restore("old", (TCP, 80));
        ports.restore("thief", (TCP, 80));
        assert_eq!(ports.of("old"), BTreeSet::from([(TCP, 80)]));
        ports.settle("a", &BTreeSet::from([(TCP, 30_003), (TCP, 80)]));
        assert_eq!(ports.of("a"), BTreeSet::from([(TCP, 30_003)]));
    }
}
