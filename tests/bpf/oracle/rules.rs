//! Rules of the shape that kube-proxy's nftables mode writes, for one node and one family: maps of verdicts at the nat hooks,
//! a chain for each service port, one for callers at its external addresses, and one for each endpoint. Endpoints take turns
//! instead of being drawn, so that all of them are seen in few calls.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use waggle_model::network::Scope;

use super::services::{HOSTS, POD_RANGES, Spec, TARGET_PORT, Target, address_of};

const PROTOCOLS: [&str; 2] = ["tcp", "udp"];
const KINDS: [&str; 2] = ["ipv4_addr", "ipv6_addr"];

/// Elements of the maps, and the chains that they lead to.
#[derive(Default)]
struct Rules {
    chains: String,
    cluster_ips: Vec<String>,
    services: Vec<String>,
    node_ports: Vec<String>,
    refused: Vec<String>,
    refused_node_ports: Vec<String>,
    guarded: Vec<String>,
}

/// The table of a family, for `nft -f`.
pub(crate) fn table(specs: &[Spec], family: usize) -> String {
    let mut rules = Rules::default();
    for spec in specs {
        let address = spec.address(Target::ClusterIp, family);
        rules.cluster_ips.push(address.to_string());
        for protocol in PROTOCOLS {
            rules.add(&Port::new(spec, protocol, family));
        }
    }
    rules.write(family)
}

fn word(family: usize) -> &'static str {
    ["ip", "ip6"][family]
}

/// A service port of one family.
struct Port<'a> {
    spec: &'a Spec,
    protocol: &'static str,
    family: usize,
    /// What its chains' names end with.
    name: String,
    /// Who answers under each policy.
    cluster: BTreeSet<&'static str>,
    local: BTreeSet<&'static str>,
}

impl<'a> Port<'a> {
    fn new(spec: &'a Spec, protocol: &'static str, family: usize) -> Self {
        Self {
            spec,
            protocol,
            family,
            name: format!("{protocol}-{}", spec.number),
            cluster: spec.answering(Scope::Cluster),
            local: spec.answering(Scope::Local),
        }
    }

    /// A target as the maps have it.
    fn place(&self, target: Target) -> String {
        let port = format!("{} . {}", self.protocol, self.spec.port(target));
        match target {
            Target::NodePort => port,
            _ => format!("{} . {port}", self.spec.address(target, self.family)),
        }
    }

    /// The chain that chooses under a policy, if it has anybody to choose.
    fn chosen(&self, scope: Scope) -> Option<String> {
        let (word, answering) = match scope {
            Scope::Cluster => ("cluster", &self.cluster),
            Scope::Local => ("local", &self.local),
        };
        (!answering.is_empty()).then(|| format!("{word}-{}", self.name))
    }
}

const ADDRESSES: [Target; 2] = [Target::LoadBalancer, Target::ExternalIp];

impl Rules {
    fn add(&mut self, port: &Port) {
        self.guard(port);
        if port.cluster.is_empty() {
            self.refuse(port, Target::ClusterIp, "goto reject-chain");
            self.refuse_external(port, "goto reject-chain");
            return;
        }
        for endpoint in port.cluster.union(&port.local) {
            self.endpoint(port, endpoint);
        }
        self.choice(port, "cluster", &port.cluster);
        self.choice(port, "local", &port.local);
        self.internal(port);
        self.external(port);
    }

    fn refuse(&mut self, port: &Port, target: Target, verdict: &str) {
        let element = format!("{} : {verdict}", port.place(target));
        match target {
            Target::NodePort => self.refused_node_ports.push(element),
            _ => self.refused.push(element),
        }
    }

    fn refuse_external(&mut self, port: &Port, verdict: &str) {
        for target in [Target::NodePort].into_iter().chain(ADDRESSES) {
            self.refuse(port, target, verdict);
        }
    }

    /// Callers of the virtual address.
    fn internal(&mut self, port: &Port) {
        let Some(chosen) = port.chosen(port.spec.internal) else {
            self.refuse(port, Target::ClusterIp, "drop");
            return;
        };
        let (ip, name, pods) = (word(port.family), &port.name, POD_RANGES[port.family]);
        let _ = writeln!(
            self.chains,
            "chain service-{name} {{ {ip} saddr != {pods} jump mark-for-masquerade; goto {chosen}; }}"
        );
        let place = port.place(Target::ClusterIp);
        self.services.push(format!("{place} : goto service-{name}"));
    }

    /// Callers of the other addresses.
    fn external(&mut self, port: &Port) {
        let (ip, name) = (word(port.family), &port.name);
        let (pods, host) = (POD_RANGES[port.family], HOSTS[port.family]);
        let rules = match port.spec.external {
            Scope::Cluster => format!("jump mark-for-masquerade; goto cluster-{name};"),
            Scope::Local => format!(
                "{ip} saddr {pods} goto cluster-{name}; {ip} saddr {host} jump mark-for-masquerade; \
                 {ip} saddr {host} goto cluster-{name}; goto local-{name};"
            ),
        };
        let _ = writeln!(self.chains, "chain external-{name} {{ {rules} }}");
        let verdict = format!("goto external-{name}");
        for target in ADDRESSES {
            let place = port.place(target);
            self.services.push(format!("{place} : {verdict}"));
        }
        let place = port.place(Target::NodePort);
        self.node_ports.push(format!("{place} : {verdict}"));
        if port.chosen(port.spec.external).is_none() {
            self.refuse_external(port, "drop");
        }
    }

    /// loadBalancerSourceRanges.
    fn guard(&mut self, port: &Port) {
        if let Some(ranges) = port.spec.sources.ranges() {
            let (ip, name, range) = (word(port.family), &port.name, ranges[port.family]);
            let _ = writeln!(
                self.chains,
                "chain firewall-{name} {{ {ip} saddr != {range} drop; }}"
            );
            let place = port.place(Target::LoadBalancer);
            self.guarded.push(format!("{place} : goto firewall-{name}"));
        }
    }

    fn endpoint(&mut self, port: &Port, endpoint: &str) {
        let (ip, name, protocol) = (word(port.family), &port.name, port.protocol);
        let address = address_of(endpoint, port.family);
        let to = SocketAddr::new(crate::state::ip(address), TARGET_PORT);
        let mut rules = format!("{ip} saddr {address} jump mark-for-masquerade; ");
        if port.spec.affinity {
            let set = format!("affinity-{name}-{endpoint}");
            let kind = KINDS[port.family];
            let _ = writeln!(
                self.chains,
                "set {set} {{ type {kind}; flags dynamic,timeout; timeout 3h; }}"
            );
            let _ = write!(rules, "update @{set} {{ {ip} saddr }}; ");
        }
        let _ = writeln!(
            self.chains,
            "chain endpoint-{name}-{endpoint} {{ {rules}meta l4proto {protocol} dnat to {to}; }}"
        );
    }

    fn choice(&mut self, port: &Port, policy: &str, endpoints: &BTreeSet<&str>) {
        let (ip, name) = (word(port.family), &port.name);
        let mut rules = String::new();
        if port.spec.affinity {
            for endpoint in endpoints {
                let _ = write!(
                    rules,
                    "{ip} saddr @affinity-{name}-{endpoint} goto endpoint-{name}-{endpoint}; "
                );
            }
        }
        if !endpoints.is_empty() {
            let verdict = |(index, endpoint)| format!("{index} : goto endpoint-{name}-{endpoint}");
            let verdicts: Vec<_> = endpoints.iter().enumerate().map(verdict).collect();
            let (count, verdicts) = (endpoints.len(), verdicts.join(", "));
            let _ = write!(rules, "numgen inc mod {count} vmap {{ {verdicts} }};");
        }
        let _ = writeln!(self.chains, "chain {policy}-{name} {{ {rules} }}");
    }

    fn write(self, family: usize) -> String {
        let (ip, kind, host) = (word(family), KINDS[family], HOSTS[family]);
        let place = format!("{kind} . inet_proto . inet_service");
        let map = |name: &str, kind: &str, elements: &[String]| {
            let elements = if elements.is_empty() {
                String::new()
            } else {
                format!("elements = {{ {} }};", elements.join(", "))
            };
            format!("map {name} {{ type {kind} : verdict; {elements} }}\n")
        };
        let by_port = "inet_proto . inet_service";
        let maps = [
            map("service-ips", &place, &self.services),
            map("service-nodeports", by_port, &self.node_ports),
            map("no-endpoint-services", &place, &self.refused),
            map("no-endpoint-nodeports", by_port, &self.refused_node_ports),
            map("firewall-ips", &place, &self.guarded),
        ];
        let called = format!("{ip} daddr . meta l4proto . th dport vmap");
        let at_node = format!("{ip} daddr {host} meta l4proto . th dport vmap");
        // A chain is there before what leads to it.
        format!(
            "table {ip} kube-proxy {{
set cluster-ips {{ type {kind}; elements = {{ {} }}; }}
chain reject-chain {{ reject; }}
chain mark-for-masquerade {{ meta mark set meta mark | 0x4000; }}
{}{}chain services {{ {called} @service-ips; {at_node} @service-nodeports; }}
chain firewall-check {{ {called} @firewall-ips; }}
chain service-endpoints-check {{ {called} @no-endpoint-services; }}
chain nodeport-endpoints-check {{ {at_node} @no-endpoint-nodeports; }}
chain cluster-ips-check {{ {ip} daddr @cluster-ips reject; }}
chain filter-prerouting {{ type filter hook prerouting priority -110; ct state new jump firewall-check; }}
chain filter-output-pre-dnat {{ type filter hook output priority -110; ct state new jump firewall-check; }}
chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
chain nat-output {{ type nat hook output priority -100; jump services; }}
chain filter-input {{ type filter hook input priority 0; ct state new jump nodeport-endpoints-check; ct state new jump service-endpoints-check; }}
chain filter-forward {{ type filter hook forward priority 0; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }}
chain filter-output {{ type filter hook output priority 0; ct state new jump service-endpoints-check; ct state new jump nodeport-endpoints-check; ct state new jump cluster-ips-check; }}
chain nat-postrouting {{ type nat hook postrouting priority 100; meta mark & 0x4000 != 0 masquerade; }}
}}
",
            self.cluster_ips.join(", "),
            self.chains,
            maps.concat(),
        )
    }
}
