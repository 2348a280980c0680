//! The cluster's names as a pure function of the network state, after the Kubernetes DNS specification 1.1. Nothing
//! is listed record by record: a name is taken apart and looked up in the services and endpoints it speaks of.
//! Sockets and forwarding live in `server` and `forward`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use waggle_model::network::{Cidr, Endpoint, NetworkDelta, NetworkState, Protocol, Service};
use waggle_model::{Generation, ServiceId};

/// Seconds that every answer of the zone may be kept, negative ones too.
pub const TTL: u32 = 5;

/// What the network state does not say of the zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneOptions {
    /// `cluster.local`, without a final dot.
    pub domain: String,
    /// Ranges whose addresses are the cluster's: an unknown one of them has no name, and nobody else is asked.
    pub ranges: Vec<Cidr>,
    /// Address under which the cluster's DNS answers, for its own `NS` name.
    pub dns_vip: Option<IpAddr>,
}

/// What the zone says to a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// These records.
    Records {
        /// Answer section.
        answers: Vec<Record>,
        /// Additional section: the addresses of `SRV` targets.
        additionals: Vec<Record>,
    },
    /// The name is another's (ExternalName), of this zone or not: who asks for more than the alias asks on there.
    Alias {
        /// The `CNAME` record.
        record: Box<Record>,
        /// Canonical name.
        target: Name,
    },
    /// The name exists, but not with this type. Goes out with the SOA.
    NoData(Box<Record>),
    /// No such name. Goes out with the SOA.
    NoSuchName(Box<Record>),
    /// Not a name of this zone.
    NotOurs,
}

/// The zone at one generation of the network state. It moves along with the state: a change costs as much as it touches.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone {
    domain: Name,
    labels: usize,
    nameserver: Name,
    ranges: Vec<Cidr>,
    dns_vip: Option<IpAddr>,
    serial: u32,
    /// By namespace, then by name.
    services: HashMap<String, HashMap<String, ServiceNames>>,
    /// Namespace and name of each Service.
    ids: HashMap<ServiceId, (String, String)>,
    /// Namespace of each pod's address.
    pods: HashMap<IpAddr, String>,
    /// Namespaces with pods, and how many.
    pod_namespaces: HashMap<String, usize>,
    /// Names of VIPs and of headless Services' backends, the oldest Service first.
    reverse: HashMap<IpAddr, Vec<(ServiceId, Name)>>,
}

/// What is asked of one Service.
#[derive(Debug, Clone, PartialEq)]
struct ServiceNames {
    id: ServiceId,
    name: Name,
    /// Canonical name, of an ExternalName Service.
    alias: Option<Name>,
    vips: Vec<IpAddr>,
    ports: Vec<PortNames>,
    /// Every backend once, with its label below the Service's name.
    hosts: Vec<(String, IpAddr)>,
}

#[derive(Debug, Clone, PartialEq)]
struct PortNames {
    name: String,
    protocol: Protocol,
    port: u16,
    backends: Vec<(String, u16)>,
}

/// What a name of the zone stands for.
enum Node<'z> {
    /// Exists only because names below it do.
    Empty,
    Apex,
    Version,
    Addresses(Vec<IpAddr>),
    Service(&'z ServiceNames),
    Port(&'z ServiceNames, Vec<&'z PortNames>),
}

impl Zone {
    /// The zone of `state`.
    ///
    /// # Errors
    /// When `options.domain` is no domain name.
    pub fn build(
        state: &NetworkState,
        options: &ZoneOptions,
    ) -> Result<Self, hickory_proto::ProtoError> {
        let domain = absolute(&options.domain)?.to_lowercase();
        let mut zone = Self {
            labels: domain.iter().count(),
            nameserver: child(&["ns", "dns"], &domain)?,
            domain,
            ranges: options.ranges.clone(),
            dns_vip: options.dns_vip,
            serial: serial(state.generation),
            services: HashMap::new(),
            ids: HashMap::with_capacity(state.services.len()),
            pods: HashMap::with_capacity(state.endpoints.len()),
            pod_namespaces: HashMap::new(),
            reverse: HashMap::new(),
        };
        for endpoint in state.endpoints.values() {
            zone.put_pod(endpoint);
        }
        for service in state.services.values() {
            zone.put_service(service);
        }
        Ok(zone)
    }

    /// Moves along a change of the state that it was made from.
    pub fn apply(&mut self, delta: &NetworkDelta) {
        for id in &delta.service_removals {
            self.remove_service(*id);
        }
        for address in &delta.endpoint_removals {
            self.remove_pod(*address);
        }
        // Two may have changed names: both old ones go before a new one comes.
        for service in &delta.service_upserts {
            self.remove_service(service.id);
        }
        for service in &delta.service_upserts {
            self.put_service(service);
        }
        for endpoint in &delta.endpoint_upserts {
            self.remove_pod(endpoint.address);
            self.put_pod(endpoint);
        }
        self.serial = serial(delta.to);
    }

    fn put_pod(&mut self, endpoint: &Endpoint) {
        let namespace = &endpoint.namespace;
        self.pods.insert(endpoint.address, namespace.clone());
        match self.pod_namespaces.get_mut(namespace) {
            Some(count) => *count += 1,
            None => drop(self.pod_namespaces.insert(namespace.clone(), 1)),
        }
    }

    fn remove_pod(&mut self, address: IpAddr) {
        if let Some(namespace) = self.pods.remove(&address)
            && let Some(count) = self.pod_namespaces.get_mut(&namespace)
        {
            *count -= 1;
            if *count == 0 {
                self.pod_namespaces.remove(&namespace);
            }
        }
    }

    fn put_service(&mut self, service: &Service) {
        // A name that DNS can't carry (over 255 bytes with the domain) has no records; the others still answer.
        let Ok(names) = ServiceNames::build(service, &self.domain) else {
            return;
        };
        for (address, name) in names.reverse() {
            let here = self.reverse.entry(address).or_default();
            let place = here.partition_point(|(id, _)| *id <= service.id);
            here.insert(place, (service.id, name));
        }
        let path = (service.namespace.clone(), service.name.clone());
        self.ids.insert(service.id, path);
        self.services
            .entry(service.namespace.clone())
            .or_default()
            .insert(service.name.clone(), names);
    }

    fn remove_service(&mut self, id: ServiceId) {
        let Some((namespace, name)) = self.ids.remove(&id) else {
            return;
        };
        let Some(siblings) = self.services.get_mut(&namespace) else {
            return;
        };
        // A Service that was made anew under its old name has the place already.
        if siblings.get(&name).is_none_or(|names| names.id != id) {
            return;
        }
        let names = siblings.remove(&name);
        if siblings.is_empty() {
            self.services.remove(&namespace);
        }
        let addresses: HashSet<IpAddr> = names
            .into_iter()
            .flat_map(|names| {
                names
                    .reverse()
                    .map(|(address, _)| address)
                    .collect::<Vec<_>>()
            })
            .collect();
        for address in addresses {
            if let Some(here) = self.reverse.get_mut(&address) {
                here.retain(|(owner, _)| *owner != id);
                if here.is_empty() {
                    self.reverse.remove(&address);
                }
            }
        }
    }

    /// The answer to one question. `turn` rotates answers of several addresses, so that successive askers start with
    /// different ones.
    pub fn answer(&self, question: &Name, kind: RecordType, turn: usize) -> Answer {
        if self.domain.zone_of(question) {
            return self.forward_answer(question, kind, turn);
        }
        match question.parse_arpa_name() {
            Ok(network) => {
                self.reverse_answer(question, network.addr(), network.prefix_len(), kind)
            }
            Err(_) => Answer::NotOurs,
        }
    }

    fn forward_answer(&self, question: &Name, kind: RecordType, turn: usize) -> Answer {
        let lower = question.to_lowercase();
        let labels: Vec<&str> = lower
            .iter()
            .map(|l| std::str::from_utf8(l).unwrap_or("\0"))
            .collect();
        let below = &labels[..labels.len() - self.labels];
        let Some(node) = self.find(below) else {
            return Answer::NoSuchName(Box::new(self.soa(&self.domain)));
        };
        if let Node::Service(ServiceNames {
            alias: Some(target),
            ..
        }) = node
        {
            return alias_answer(question, kind, target);
        }
        let (mut answers, additionals) = self.records(&node, question, kind);
        if answers.is_empty() {
            return Answer::NoData(Box::new(self.soa(&self.domain)));
        }
        let start = turn % answers.len();
        answers.rotate_left(start);
        Answer::Records {
            answers,
            additionals,
        }
    }

    fn reverse_answer(
        &self,
        question: &Name,
        address: IpAddr,
        prefix: u8,
        kind: RecordType,
    ) -> Answer {
        let whole = prefix == if address.is_ipv4() { 32 } else { 128 };
        let names = self.reverse.get(&address).filter(|_| whole);
        let apex = || {
            let text = if address.is_ipv4() {
                "in-addr.arpa."
            } else {
                "ip6.arpa."
            };
            Box::new(self.soa(&Name::from_ascii(text).unwrap_or_else(|_| Name::root())))
        };
        match names {
            Some(names) if matches!(kind, RecordType::PTR | RecordType::ANY) => Answer::Records {
                answers: names
                    .iter()
                    .map(|(_, n)| record(question, RData::PTR(PTR(n.clone()))))
                    .collect(),
                additionals: Vec::new(),
            },
            Some(_) => Answer::NoData(apex()),
            None if whole && self.ranges.iter().any(|range| range.contains(address)) => {
                Answer::NoSuchName(apex())
            }
            None => Answer::NotOurs,
        }
    }

    /// What stands at the labels before the domain, innermost first.
    fn find(&self, below: &[&str]) -> Option<Node<'_>> {
        Some(match below {
            [] => Node::Apex,
            ["dns-version"] => Node::Version,
            ["svc" | "pod" | "dns"] => Node::Empty,
            ["ns", "dns"] => Node::Addresses(self.dns_vip.into_iter().collect()),
            [namespace, "pod"] => self
                .pod_namespaces
                .contains_key(*namespace)
                .then_some(Node::Empty)?,
            [dashed, namespace, "pod"] => {
                let address = undash(dashed)?;
                (self.pods.get(&address)? == namespace).then(|| Node::Addresses(vec![address]))?
            }
            [namespace, "svc"] => self.services.get(*namespace).map(|_| Node::Empty)?,
            [rest @ .., service, namespace, "svc"] => {
                self.services.get(*namespace)?.get(*service)?.find(rest)?
            }
            _ => return None,
        })
    }

    fn records(
        &self,
        node: &Node<'_>,
        question: &Name,
        kind: RecordType,
    ) -> (Vec<Record>, Vec<Record>) {
        let none = (Vec::new(), Vec::new());
        match (node, kind) {
            (Node::Apex, RecordType::SOA) => (vec![self.soa(question)], Vec::new()),
            (Node::Apex, RecordType::NS) => {
                let answer = record(question, RData::NS(NS(self.nameserver.clone())));
                let glue: Vec<IpAddr> = self.dns_vip.into_iter().collect();
                (
                    vec![answer],
                    address_records(&self.nameserver, &glue, RecordType::ANY),
                )
            }
            (Node::Version, RecordType::TXT) => (
                vec![record(
                    question,
                    RData::TXT(TXT::new(vec!["1.1.0".to_owned()])),
                )],
                Vec::new(),
            ),
            (Node::Addresses(addresses), _) => {
                (address_records(question, addresses, kind), Vec::new())
            }
            (Node::Service(service), RecordType::SRV) => {
                service.srv_records(question, &service.ports.iter().collect::<Vec<_>>())
            }
            (Node::Service(service), _) => (
                address_records(question, &service.addresses(), kind),
                Vec::new(),
            ),
            (Node::Port(service, ports), RecordType::SRV | RecordType::ANY) => {
                service.srv_records(question, ports)
            }
            _ => none,
        }
    }

    fn soa(&self, apex: &Name) -> Record {
        let contact = child(&["hostmaster"], &self.domain).unwrap_or_else(|_| self.domain.clone());
        let soa = SOA::new(
            self.nameserver.clone(),
            contact,
            self.serial,
            7200,
            1800,
            86400,
            TTL,
        );
        record(apex, RData::SOA(soa))
    }
}

impl ServiceNames {
    fn build(service: &Service, domain: &Name) -> Result<Self, hickory_proto::ProtoError> {
        let name = child(&[&service.name, &service.namespace, "svc"], domain)?;
        let alias = match service.external_name.as_str() {
            "" => None,
            text => Some(absolute(text)?),
        };
        let mut seen = BTreeSet::new();
        let mut hosts = Vec::new();
        let mut ports = Vec::with_capacity(service.ports.len());
        for port in &service.ports {
            let mut backends = Vec::with_capacity(port.backends.len());
            for backend in port.usable() {
                let label = host_label(&backend.hostname, backend.address);
                if seen.insert((label.clone(), backend.address)) {
                    hosts.push((label.clone(), backend.address));
                }
                backends.push((label, backend.port));
            }
            ports.push(PortNames {
                name: port.name.clone(),
                protocol: port.protocol,
                port: port.port,
                backends,
            });
        }
        Ok(Self {
            id: service.id,
            name,
            alias,
            vips: service.vips.clone(),
            ports,
            hosts,
        })
    }

    fn headless(&self) -> bool {
        self.vips.is_empty()
    }

    /// The addresses whose name it gives: its VIPs, or its backends' when it has none.
    fn reverse(&self) -> impl Iterator<Item = (IpAddr, Name)> {
        let vips = self.vips.iter().map(|vip| (*vip, self.name.clone()));
        let hosts = if self.headless() {
            &self.hosts[..]
        } else {
            &[]
        };
        let hosts = hosts.iter().filter_map(|(label, address)| {
            let name = child(&[label], &self.name).ok()?;
            Some((*address, name))
        });
        vips.chain(hosts)
    }

    /// What its own name resolves to: the VIPs, or every ready backend.
    fn addresses(&self) -> Vec<IpAddr> {
        if !self.headless() {
            return self.vips.clone();
        }
        let unique: BTreeSet<IpAddr> = self.hosts.iter().map(|(_, address)| *address).collect();
        unique.into_iter().collect()
    }

    /// What stands at labels below its name, innermost first.
    fn find(&self, rest: &[&str]) -> Option<Node<'_>> {
        match rest {
            [] => Some(Node::Service(self)),
            [protocol @ ("_tcp" | "_udp")] => self
                .ports
                .iter()
                .any(|p| label_of(p.protocol) == *protocol)
                .then_some(Node::Empty),
            [port, protocol @ ("_tcp" | "_udp")] => {
                let wanted = port.strip_prefix('_')?;
                let ports: Vec<_> = self
                    .ports
                    .iter()
                    .filter(|p| {
                        !p.name.is_empty() && p.name == wanted && label_of(p.protocol) == *protocol
                    })
                    .collect();
                (!ports.is_empty()).then_some(Node::Port(self, ports))
            }
            [host] => {
                let addresses: Vec<IpAddr> = self
                    .hosts
                    .iter()
                    .filter(|(label, _)| label == host)
                    .map(|(_, a)| *a)
                    .collect();
                (!addresses.is_empty()).then_some(Node::Addresses(addresses))
            }
            _ => None,
        }
    }

    fn srv_records(&self, question: &Name, ports: &[&PortNames]) -> (Vec<Record>, Vec<Record>) {
        let srv = |port, target| record(question, RData::SRV(SRV::new(0, 100, port, target)));
        let named = ports.iter().filter(|port| !port.name.is_empty());
        if !self.headless() {
            let answers = named
                .map(|port| srv(port.port, self.name.clone()))
                .collect();
            return (
                answers,
                address_records(&self.name, &self.vips, RecordType::ANY),
            );
        }
        let mut answers = Vec::new();
        for port in named {
            for (label, number) in &port.backends {
                answers.extend(
                    child(&[label], &self.name)
                        .ok()
                        .map(|target| srv(*number, target)),
                );
            }
        }
        let mut additionals = Vec::new();
        if !answers.is_empty() {
            for (label, address) in &self.hosts {
                if let Ok(target) = child(&[label], &self.name) {
                    additionals.extend(address_records(&target, &[*address], RecordType::ANY));
                }
            }
        }
        (answers, additionals)
    }
}

fn alias_answer(question: &Name, kind: RecordType, target: &Name) -> Answer {
    let alias = record(question, RData::CNAME(CNAME(target.clone())));
    match kind {
        RecordType::CNAME | RecordType::ANY => Answer::Records {
            answers: vec![alias],
            additionals: Vec::new(),
        },
        _ => Answer::Alias {
            record: Box::new(alias),
            target: target.clone(),
        },
    }
}

fn absolute(text: &str) -> Result<Name, hickory_proto::ProtoError> {
    let mut name = Name::from_ascii(text)?;
    name.set_fqdn(true);
    Ok(name)
}

fn serial(generation: Generation) -> u32 {
    u32::try_from(generation.0 & u64::from(u32::MAX)).unwrap_or_default()
}

fn child(labels: &[&str], parent: &Name) -> Result<Name, hickory_proto::ProtoError> {
    // A Service name may hold dots only where Kubernetes forbids it; taken as text, they make labels of their own.
    Name::from_ascii(labels.join("."))?.append_domain(parent)
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn label_of(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "_tcp",
        Protocol::Udp => "_udp",
        Protocol::Sctp => "_sctp",
    }
}

fn address_records(name: &Name, addresses: &[IpAddr], kind: RecordType) -> Vec<Record> {
    let wanted = |address: &&IpAddr| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    };
    let data = |address: &IpAddr| match address {
        IpAddr::V4(v4) => RData::A(A(*v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
    };
    addresses
        .iter()
        .filter(wanted)
        .map(|address| record(name, data(address)))
        .collect()
}

fn host_label(hostname: &str, address: IpAddr) -> String {
    if hostname.is_empty() || hostname.contains('.') {
        dash(address)
    } else {
        hostname.to_ascii_lowercase()
    }
}

/// `10.244.0.5` as `10-244-0-5`, `fd00::1` as `fd00--1`.
fn dash(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn undash(label: &str) -> Option<IpAddr> {
    label
        .replace('-', ".")
        .parse()
        .map(IpAddr::V4)
        .or_else(|_: std::net::AddrParseError| label.replace('-', ":").parse().map(IpAddr::V6))
        .ok()
}

#[cfg(test)]
mod tests;
