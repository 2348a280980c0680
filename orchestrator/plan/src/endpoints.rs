//! The Endpoints controller: what EndpointSlices say, once more in the older kind that much software still asks for (client libraries,
//! Prometheus' discovery, ingress controllers). One object a Service, its first address family only; a pod that ends is in none.
//! Nothing of Waggle reads it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service,
};
use k8s_openapi::api::discovery::v1::Endpoint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::endpoint_slice::slices::noted;
use crate::endpoint_slice::{self, Group, Ports};
use crate::ownership::{delete, json};
use crate::snapshot::Also;
use crate::write::Propagation;
use crate::{Plan, Scope, Snapshot, Write, pod};

/// Label that names who writes the object.
const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// Says that there are more endpoints than the object has.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Most addresses of one object, as in Kubernetes: it is sent whole to whoever watches it.
const ROOM: usize = 1_000;

/// Keeps the Endpoints of every Service with a selector. As in Kubernetes they have no owner: the API removes those of its name with a
/// Service, whoever wrote them, and what was written here and has no Service goes here. The time decides nothing.
pub fn plan(snapshot: &Snapshot, scope: Scope, _now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let services = snapshot.in_scope(scope, &snapshot.services, &[Also::Zones]);
    for service in services {
        if service.metadata.deletion_timestamp.is_none() {
            plan.writes.extend(write(snapshot, service));
        }
    }
    let no_others: &[Also] = &[];
    for one in snapshot.in_scope(scope, &snapshot.endpoints, no_others) {
        let object = pod::object("v1", "Endpoints", &one.metadata);
        let service = snapshot.services.get(&object.namespace, &object.name);
        if is_ours(one) && service.is_none() && one.metadata.deletion_timestamp.is_none() {
            plan.writes
                .push(delete(object, None, Propagation::Background));
        }
    }
    plan
}

/// Whether they were written here.
pub(crate) fn is_ours(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    let manager = labels.and_then(|labels| labels.get(MANAGED_BY_LABEL));
    manager.is_some_and(|manager| manager == MANAGER)
}

fn write(snapshot: &Snapshot, service: &Service) -> Option<Write> {
    let groups = endpoint_slice::endpoints(snapshot, service)?;
    let spec = service.spec.as_ref()?;
    let family = spec.ip_families.as_deref().and_then(<[String]>::first);
    // Without a wish, that of most.
    let family = family.map_or("IPv4", String::as_str);
    let own = groups.into_iter().filter(|(key, _)| key.0 == family);
    let (subsets, truncated) = subsets(own.map(|(key, group)| (key.1, group)));

    let owner = pod::object("v1", "Service", &service.metadata);
    let mut labels = endpoint_slice::labels_of(service, MANAGED_BY_LABEL);
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned());
    let existing = snapshot.endpoints.get(&owner.namespace, &owner.name);
    let base = existing.map_or_else(
        || ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        |one| one.metadata.clone(),
    );
    let mut annotations = base.annotations.clone().unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    let mut wanted = Endpoints {
        metadata: ObjectMeta {
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: None,
            ..base
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    };
    if existing.is_some_and(|one| one.metadata.deletion_timestamp.is_some() || wanted == **one) {
        return None;
    }
    let known: Vec<_> = existing.into_iter().flat_map(|one| rows(one)).collect();
    let changed = rows(&wanted).filter(|row| !known.contains(row));
    let since = endpoint_slice::since(
        snapshot,
        changed.filter_map(|(_, one)| one.target_ref.as_ref()),
    );
    let made = service
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0);
    let since = since.or(made.filter(|_| existing.is_none()));
    wanted.metadata.annotations = noted(wanted.metadata.annotations.as_ref(), since);
    Some(match existing {
        None => Write::Create(json(&wanted)),
        Some(_) => Write::Update(json(&wanted)),
    })
}

/// Every address, and whether it is ready.
fn rows(endpoints: &Endpoints) -> impl Iterator<Item = (bool, &EndpointAddress)> {
    endpoints.subsets.iter().flatten().flat_map(|subset| {
        let ready = subset.addresses.iter().flatten().map(|one| (true, one));
        let others = subset.not_ready_addresses.iter().flatten();
        ready.chain(others.map(|one| (false, one)))
    })
}

/// A subset for each set of ports, and whether something found no room.
fn subsets(groups: impl Iterator<Item = (Ports, Group)>) -> (Vec<EndpointSubset>, bool) {
    let (mut room, mut truncated) = (ROOM, false);
    let mut all = Vec::new();
    for (ports, group) in groups {
        // Those that serve first: they are the last to be left out. Pods that share an address, their node's, are told apart by
        // their uids, as in Kubernetes.
        let mut rows: BTreeMap<(bool, IpAddr, String), EndpointAddress> = BTreeMap::new();
        for (uid, endpoint) in group {
            let flags = endpoint.conditions.clone().unwrap_or_default();
            let ready = flags.ready == Some(true);
            if flags.terminating == Some(true) && !ready {
                continue;
            }
            if let Some((ip, address)) = address(endpoint) {
                rows.insert((!ready, ip, uid), address);
            }
        }
        truncated |= rows.len() > room;
        let (mut addresses, mut not_ready) = (Vec::new(), Vec::new());
        for ((unready, ..), address) in rows.into_iter().take(room) {
            let list = if unready {
                &mut not_ready
            } else {
                &mut addresses
            };
            list.push(address);
        }
        room -= addresses.len() + not_ready.len();
        if addresses.is_empty() && not_ready.is_empty() {
            continue;
        }
        let some = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
        all.push(EndpointSubset {
            addresses: some(addresses),
            not_ready_addresses: some(not_ready),
            ports: (!ports.is_empty()).then(|| ports.iter().map(port).collect()),
        });
    }
    (all, truncated)
}

fn address(endpoint: Endpoint) -> Option<(IpAddr, EndpointAddress)> {
    let ip = endpoint.addresses.into_iter().next()?;
    let parsed = ip.parse().ok()?;
    let address = EndpointAddress {
        ip,
        hostname: endpoint.hostname,
        node_name: endpoint.node_name,
        target_ref: endpoint.target_ref,
    };
    Some((parsed, address))
}

fn port(
    (name, protocol, number, application): &(String, String, i32, Option<String>),
) -> EndpointPort {
    EndpointPort {
        name: (!name.is_empty()).then(|| name.clone()),
        port: *number,
        protocol: Some(protocol.clone()),
        app_protocol: application.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::endpoint_slice::{HEADLESS_LABEL, LAST_CHANGE};
    use crate::world::{World, running};

    fn service(change: impl FnOnce(&mut Value)) -> Value {
        let mut value = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "shop", "labels": {"team": "front"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.20", "ipFamilies": ["IPv4"],
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        });
        change(&mut value);
        value
    }

    fn pod(name: &str, address: &str) -> Value {
        let mut value = crate::world::pod(name, "0", "0");
        value["spec"]["nodeName"] = json!("node1");
        value["status"] = running(address, "2026-01-01T00:00:00Z".parse().unwrap());
        value
    }

    fn settle(world: &mut World) -> Value {
        world.settle(|world| plan(&world.snapshot, Scope::EVERYTHING, world.now));
        let all = world.all("Endpoints");
        assert!(all.len() < 2, "{all:?}");
        all.first().map_or(Value::Null, |one| (*one).clone())
    }

    /// Addresses of a list of the first subset.
    fn ips(endpoints: &Value, list: &str) -> Vec<String> {
        let list = endpoints["subsets"][0][list].as_array().cloned();
        let ips = list.unwrap_or_default().into_iter();
        ips.filter_map(|one| one["ip"].as_str().map(str::to_owned))
            .collect()
    }

    #[test]
    fn ready_and_unready_pods_are_told_apart_and_ending_ones_left_out() {
        let mut world = World::new();
        world.put(service(|_| ()));
        assert_eq!(settle(&mut world)["subsets"], Value::Null);
        world.put(pod("a", "10.244.0.10"));
        world.put(pod("b", "10.244.0.9"));
        world.put(pod("c", "10.244.0.3"));
        world.put(pod("d", "10.244.0.4"));
        world.edit("Pod", "shop", "c", |pod| {
            pod["status"]["conditions"] = json!([])
        });
        world.delete("Pod", "shop", "d");
        let found = settle(&mut world);
        assert_eq!(ips(&found, "addresses"), ["10.244.0.9", "10.244.0.10"]);
        assert_eq!(ips(&found, "notReadyAddresses"), ["10.244.0.3"]);
        let first = &found["subsets"][0];
        assert_eq!(
            first["ports"],
            json!([{"name": "http", "port": 8080, "protocol": "TCP"}])
        );
        assert_eq!(first["addresses"][0]["targetRef"]["name"], "b");
        assert_eq!(first["addresses"][0]["nodeName"], "node1");
        assert_eq!(found["metadata"]["labels"]["team"], "front");
        assert_eq!(found["metadata"]["ownerReferences"], Value::Null);
        let since = &found["metadata"]["annotations"][LAST_CHANGE];
        assert_eq!(since, "2026-01-01T00:00:00Z");
        world.remove("Service", "shop", "web");
        assert_eq!(settle(&mut world), Value::Null, "nobody's");
    }

    #[test]
    fn ending_pods_stay_where_their_service_publishes_all() {
        let mut world = World::new();
        world.put(service(|one| {
            one["spec"]["publishNotReadyAddresses"] = json!(true);
            one["spec"]["clusterIP"] = json!("None");
        }));
        world.put(pod("a", "10.244.0.2"));
        world.delete("Pod", "shop", "a");
        let found = settle(&mut world);
        assert_eq!(ips(&found, "addresses"), ["10.244.0.2"]);
        assert_eq!(found["metadata"]["labels"][HEADLESS_LABEL], "");
    }

    #[test]
    fn what_somebody_else_wrote_is_put_right_and_what_has_no_selector_is_left() {
        let mut world = World::new();
        world.put(service(|_| ()));
        world.put(pod("a", "10.244.0.2"));
        let before = settle(&mut world);
        world.edit("Endpoints", "shop", "web", |one| {
            one["subsets"] = json!([{"addresses": [{"ip": "192.0.2.1"}]}])
        });
        assert_eq!(settle(&mut world)["subsets"], before["subsets"]);

        let mut world = World::new();
        world.put(service(|one| one["spec"]["selector"] = json!({})));
        world.put(json!({"apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "web", "namespace": "shop"},
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}]}]}));
        assert_eq!(ips(&settle(&mut world), "addresses"), ["192.0.2.1"]);
    }

    #[test]
    fn a_service_that_loses_its_selector_keeps_what_it_had() {
        let mut world = World::new();
        world.put(service(|_| ()));
        world.put(pod("a", "10.244.0.2"));
        let before = settle(&mut world);
        world.edit("Service", "shop", "web", |one| {
            one["spec"]["selector"] = Value::Null
        });
        world.put(pod("b", "10.244.0.3"));
        assert_eq!(settle(&mut world), before, "it is the user's from now on");
        world.put(service(|_| ()));
        assert_eq!(ips(&settle(&mut world), "addresses").len(), 2);
    }

    #[test]
    fn pods_that_share_an_address_are_told_apart() {
        let mut world = World::new();
        world.put(service(|_| ()));
        for name in ["a", "b", "c"] {
            world.put(pod(name, "172.30.0.11"));
        }
        world.edit("Pod", "shop", "c", |pod| {
            pod["status"]["conditions"] = json!([])
        });
        let found = settle(&mut world);
        let rows = found["subsets"][0]["addresses"].as_array().unwrap();
        let names = rows.iter().map(|row| row["targetRef"]["name"].as_str());
        assert_eq!(names.collect::<Vec<_>>(), [Some("a"), Some("b")]);
        assert_eq!(ips(&found, "notReadyAddresses"), ["172.30.0.11"]);
        assert_eq!(found["subsets"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn what_is_beyond_the_room_is_said() {
        let mut world = World::new();
        world.put(service(|_| ()));
        for index in 0..=ROOM {
            let address = format!("10.244.{}.{}", index / 250, index % 250 + 1);
            world.put(pod(&format!("p{index}"), &address));
        }
        world.edit("Pod", "shop", "p3", |pod| {
            pod["status"]["conditions"] = json!([])
        });
        let found = settle(&mut world);
        assert_eq!(ips(&found, "addresses").len(), ROOM);
        assert_eq!(ips(&found, "notReadyAddresses").len(), 0);
        assert_eq!(found["metadata"]["annotations"][OVER_CAPACITY], "truncated");
        world.remove("Pod", "shop", "p7");
        let found = settle(&mut world);
        assert_eq!(ips(&found, "notReadyAddresses").len(), 1);
        assert_eq!(found["metadata"]["annotations"][OVER_CAPACITY], Value::Null);
    }
}
