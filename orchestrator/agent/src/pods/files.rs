//! What the agent writes for every pod: hostname, hosts and resolv.conf, as text. Pure.

use std::net::IpAddr;

use waggle_model::network::PerFamily;

use super::desired::Desired;

/// The pod's hostname: as given, or its name, cut to what a hostname may be (63 bytes).
pub(crate) fn hostname(pod: &Desired) -> String {
    let given = pod
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.hostname.clone())
        .filter(|name| !name.is_empty());
    let name = given.unwrap_or_else(|| pod.key.name.clone());
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The name in the pod's UTS namespace: the hostname, or with `setHostnameAsFQDN` and a subdomain all of its name, where
/// the kernel takes it (64 bytes).
pub(crate) fn uts_hostname(pod: &Desired, domain: &str) -> String {
    let name = hostname(pod);
    let spec = pod.pod.spec.as_ref();
    let wanted = spec.and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    let sub = spec
        .and_then(|spec| spec.subdomain.as_deref())
        .filter(|sub| wanted && !sub.is_empty());
    let full = sub.map(|sub| format!("{name}.{sub}.{}.svc.{domain}", pod.key.namespace));
    full.filter(|full| full.len() <= 64).unwrap_or(name)
}

/// What DNS a pod gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterDns {
    /// `None` until the cluster has told.
    pub(crate) vip: Option<IpAddr>,
    pub(crate) domain: String,
    /// The node's own resolv.conf.
    pub(crate) node: String,
}

/// The pod's `/etc/hosts`.
pub(crate) fn hosts(pod: &Desired, host: PerFamily<IpAddr>, domain: &str) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    let spec = pod.pod.spec.as_ref();
    let addresses = if pod.host_network() {
        Some(host)
    } else {
        pod.addresses
    };
    for address in addresses.iter().flat_map(PerFamily::iter) {
        let name = hostname(pod);
        let subdomain = spec
            .and_then(|s| s.subdomain.as_deref())
            .filter(|s| !s.is_empty());
        match subdomain {
            Some(sub) => {
                text += &format!(
                    "{address}\t{name}.{sub}.{}.svc.{domain}\t{name}\n",
                    pod.key.namespace
                );
            }
            None => text += &format!("{address}\t{name}\n"),
        }
    }
    for alias in spec
        .and_then(|s| s.host_aliases.as_deref())
        .unwrap_or_default()
    {
        let names = alias
            .hostnames
            .iter()
            .flatten()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\t");
        text += &format!("{}\t{names}\n", alias.ip);
    }
    text
}

/// The pod's `/etc/resolv.conf`.
pub(crate) fn resolv_conf(pod: &Desired, dns: &ClusterDns) -> String {
    let spec = pod.pod.spec.as_ref();
    let policy = spec
        .and_then(|s| s.dns_policy.as_deref())
        .unwrap_or("ClusterFirst");
    let own = spec.and_then(|s| s.dns_config.as_ref());
    let cluster = match policy {
        "None" => false,
        "Default" => return with_additions(&dns.node, own),
        "ClusterFirstWithHostNet" => true,
        _ => !pod.host_network(),
    };
    if !cluster && policy != "None" {
        return with_additions(&dns.node, own);
    }
    let mut text = String::new();
    if cluster {
        if let Some(vip) = dns.vip {
            text += &format!("nameserver {vip}\n");
        }
        let (namespace, domain) = (&pod.key.namespace, &dns.domain);
        text +=
            &format!("search {namespace}.svc.{domain} svc.{domain} {domain}\noptions ndots:5\n");
    }
    with_additions(&text, own)
}

/// `dnsConfig` merged into `text`: more name servers, more searches, more options (a later option wins).
fn with_additions(text: &str, own: Option<&k8s_openapi::api::core::v1::PodDNSConfig>) -> String {
    let Some(own) = own else {
        return text.to_owned();
    };
    let words = |key: &str| -> Vec<String> {
        let lines = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix(key));
        lines
            .flat_map(str::split_whitespace)
            .map(str::to_owned)
            .collect()
    };
    let mut servers = words("nameserver ");
    servers.extend(own.nameservers.iter().flatten().cloned());
    servers.dedup();
    let mut searches = words("search ");
    searches.extend(own.searches.iter().flatten().cloned());
    let mut options = words("options ");
    for option in own.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        let name_of = |word: &String| word.split(':').next() == Some(name.as_str());
        options.retain(|word| !name_of(word));
        options.push(match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        });
    }
    let mut out: String = servers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    if !searches.is_empty() {
        out += &format!("search {}\n", searches.join(" "));
    }
    if !options.is_empty() {
        out += &format!("options {}\n", options.join(" "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixture::pod;

    fn dns() -> ClusterDns {
        ClusterDns {
            vip: Some("10.96.0.10".parse().unwrap()),
            domain: "cluster.local".into(),
            node: "nameserver 10.0.0.2\nsearch lan\n".into(),
        }
    }

    #[test]
    fn resolv_conf_follows_the_dns_policy() {
        let cluster = "nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";
        for (spec, expect) in [
            ("{}", cluster.to_owned()),
            (r#"{"hostNetwork":true}"#, dns().node),
            (
                r#"{"hostNetwork":true,"dnsPolicy":"ClusterFirstWithHostNet"}"#,
                cluster.to_owned(),
            ),
            (r#"{"dnsPolicy":"Default"}"#, dns().node),
            (
                r#"{"dnsPolicy":"None","dnsConfig":{"nameservers":["1.1.1.1"],"searches":["x.y"]}}"#,
                "nameserver 1.1.1.1\nsearch x.y\n".to_owned(),
            ),
            (
                r#"{"dnsConfig":{"options":[{"name":"ndots","value":"2"},{"name":"edns0"}]}}"#,
                cluster.replace("options ndots:5", "options ndots:2 edns0"),
            ),
        ] {
            assert_eq!(resolv_conf(&pod(spec), &dns()), expect, "{spec}");
        }
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let spec = r#"{"hostname":"a","subdomain":"b","hostAliases":[{"ip":"1.2.3.4","hostnames":["x","y"]}]}"#;
        let text = hosts(&pod(spec), "172.30.0.11".parse().unwrap(), "cluster.local");
        assert!(
            text.contains("10.244.0.5\ta.b.shop.svc.cluster.local\ta\n"),
            "{text}"
        );
        assert!(text.ends_with("1.2.3.4\tx\ty\n"), "{text}");
    }

    #[test]
    fn the_whole_name_is_the_hostname_where_asked_for() {
        let spec = r#"{"hostname":"a","subdomain":"sub","setHostnameAsFQDN":true}"#;
        let pod = pod(spec);
        let full = format!("a.sub.{}.svc.cluster.local", pod.key.namespace);
        assert_eq!(uts_hostname(&pod, "cluster.local"), full);
        assert_eq!(uts_hostname(&pod, &"x".repeat(64)), "a");
        assert_eq!(hostname(&pod), "a");
    }

    #[test]
    fn a_long_name_makes_a_legal_hostname() {
        let mut long = pod("{}");
        long.key.name = format!("{}-x", "a".repeat(62));
        assert_eq!(hostname(&long), "a".repeat(62));
    }
}
