//! Rules of the shape that kube-proxy's nftables mode writes, for one node and one family: maps of verdicts at the nat hooks,
//! a chain for each service port, one for callers at its external addresses, and one for each endpoint. Endpoints take turns
//! instead of being drawn, so that all of them are seen in few calls.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use waggle_model::network::Scope;

use super::services::{HOSTS, POD_RANGES, Spec, TARGET_PORT, Target, address_of};

const PROTOCOLS: [&str; 2] = ["tcp", "udp"];

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
            rules.add(spec, protocol, family);
        }
    }
    rules.write(family)
}

fn word(family: usize) -> &'static str {
    ["ip", "ip6"][family]
}

impl Rules {
    fn add(&mut self, spec: &Spec, protocol: &str, family: usize) {
        let (ip, number) = (word(family), spec.number);
        let name = format!("{protocol}-{number}");
        let place = |target| {
            let (address, port) = (spec.address(target, family), spec.port(target));
            format!("{address} . {protocol} . {port}")
        };
        let node_port = format!("{protocol} . {}", spec.port(Target::NodePort));
        let addresses = [Target::LoadBalancer, Target::ExternalIp];
        let everybody = spec.answering(Scope::Cluster);
        self.guard(spec, &name, &place(Target::LoadBalancer), family);
        if everybody.is_empty() {
            let refuse = |place| format!("{place} : goto reject-chain");
            self.refused.push(refuse(place(Target::ClusterIp)));
            self.refused.extend(addresses.map(place).map(refuse));
            self.refused_node_ports.push(refuse(node_port));
            return;
        }
        for endpoint in &everybody {
            self.endpoint(spec, &name, endpoint, protocol, family);
        }
        let local = spec.answering(Scope::Local);
        for endpoint in local.difference(&everybody) {
            self.endpoint(spec, &name, endpoint, protocol, family);
        }
        self.choice(spec, &format!("cluster-{name}"), &name, &everybody, family);
        self.choice(spec, &format!("local-{name}"), &name, &local, family);
        let masquerade = format!(
            "{ip} saddr != {} jump mark-for-masquerade",
            POD_RANGES[family]
        );
        // Callers of the virtual address.
        let set = |scope| match scope {
            Scope::Cluster => ("cluster", &everybody),
            Scope::Local => ("local", &local),
        };
        let (chosen, answering) = set(spec.internal);
        if answering.is_empty() {
            self.refused
                .push(format!("{} : drop", place(Target::ClusterIp)));
        } else {
            let _ = writeln!(
                self.chains,
                "chain service-{name} {{ {masquerade}; goto {chosen}-{name}; }}"
            );
            self.services.push(format!(
                "{} : goto service-{name}",
                place(Target::ClusterIp)
            ));
        }
        // Callers of the other addresses.
        let external = match spec.external {
            Scope::Cluster => format!("jump mark-for-masquerade; goto cluster-{name};"),
            Scope::Local => format!(
                "{ip} saddr {} goto cluster-{name}; {ip} saddr {} jump mark-for-masquerade; {ip} saddr {} goto cluster-{name}; \
                 goto local-{name};",
                POD_RANGES[family], HOSTS[family], HOSTS[family]
            ),
        };
        let _ = writeln!(self.chains, "chain external-{name} {{ {external} }}");
        for address in addresses.map(place) {
            self.services
                .push(format!("{address} : goto external-{name}"));
        }
        self.node_ports
            .push(format!("{node_port} : goto external-{name}"));
        if set(spec.external).1.is_empty() {
            for address in addresses.map(place) {
                self.refused.push(format!("{address} : drop"));
            }
            self.refused_node_ports.push(format!("{node_port} : drop"));
        }
    }

    /// loadBalancerSourceRanges.
    fn guard(&mut self, spec: &Spec, name: &str, address: &str, family: usize) {
        if let Some(ranges) = spec.sources.ranges() {
            let (ip, range) = (word(family), ranges[family]);
            let _ = writeln!(
                self.chains,
                "chain firewall-{name} {{ {ip} saddr != {range} drop; }}"
            );
            self.guarded
                .push(format!("{address} : goto firewall-{name}"));
        }
    }

    fn endpoint(&mut self, spec: &Spec, name: &str, endpoint: &str, protocol: &str, family: usize) {
        let (ip, address) = (word(family), address_of(endpoint, family));
        let to = if family == 0 {
            format!("{address}:{TARGET_PORT}")
        } else {
            format!("[{address}]:{TARGET_PORT}")
        };
        let mut rules = format!("{ip} saddr {address} jump mark-for-masquerade; ");
        if spec.affinity {
            let kind = ["ipv4_addr", "ipv6_addr"][family];
            let _ = writeln!(
                self.chains,
                "set affinity-{name}-{endpoint} {{ type {kind}; flags dynamic,timeout; timeout 3h; }}"
            );
            let _ = write!(
                rules,
                "update @affinity-{name}-{endpoint} {{ {ip} saddr }}; "
            );
        }
        let _ = writeln!(
            self.chains,
            "chain endpoint-{name}-{endpoint} {{ {rules}meta l4proto {protocol} dnat to {to}; }}"
        );
    }

    fn choice(
        &mut self,
        spec: &Spec,
        chain: &str,
        name: &str,
        endpoints: &BTreeSet<&str>,
        family: usize,
    ) {
        let ip = word(family);
        let mut rules = String::new();
        if spec.affinity {
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
            let _ = write!(
                rules,
                "numgen inc mod {} vmap {{ {} }};",
                endpoints.len(),
                verdicts.join(", ")
            );
        }
        let _ = writeln!(self.chains, "chain {chain} {{ {rules} }}");
    }

    fn write(self, family: usize) -> String {
        let (ip, kind, host) = (
            word(family),
            ["ipv4_addr", "ipv6_addr"][family],
            HOSTS[family],
        );
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
