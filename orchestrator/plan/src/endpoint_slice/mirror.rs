//! Endpoints that people write for a Service without a selector, as slices: whoever reads slices only finds them too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::slices::{Names, remove};
use super::{LAST_CHANGE, MANAGED_BY_LABEL, SERVICE_NAME_LABEL};
use crate::ownership::{controller_reference, json};
use crate::snapshot::Also;
use crate::{Plan, Scope, Snapshot, Write, endpoints, pod};

/// Value of [`MANAGED_BY_LABEL`] on these slices.
pub(crate) const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";
/// Label of Endpoints that are not to be mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation of Endpoints that are a lock in an old leader election.
const ELECTION: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Most addresses of a subset that are mirrored.
const ROOM: usize = 1_000;

/// Slices of one kind.
type Key = (&'static str, Vec<PortKey>);
type PortKey = (Option<String>, Option<String>, i32, Option<String>);

/// Keeps the mirrored slices of all Endpoints.
pub(super) fn plan(snapshot: &Snapshot, scope: Scope, plan: &mut Plan) {
    let no_others: &[Also] = &[];
    for one in snapshot.in_scope(scope, &snapshot.endpoints, no_others) {
        if one.metadata.deletion_timestamp.is_none() {
            reconcile(snapshot, one, plan);
        }
    }
}

fn reconcile(snapshot: &Snapshot, endpoints: &Endpoints, plan: &mut Plan) {
    let owner = pod::object("v1", "Endpoints", &endpoints.metadata);
    let mine = |slice: &&Arc<EndpointSlice>| {
        let labels = slice.metadata.labels.as_ref();
        let manager = labels.and_then(|labels| labels.get(MANAGED_BY_LABEL));
        manager.is_some_and(|manager| manager == MIRROR)
            && slice.metadata.deletion_timestamp.is_none()
    };
    let mut existing: Vec<_> = snapshot
        .slices_of(&owner.namespace, &owner.name)
        .filter(mine)
        .collect();
    let groups = if is_mirrored(snapshot, endpoints) {
        groups(endpoints)
    } else {
        BTreeMap::new()
    };
    let mut names = Names {
        snapshot,
        owner: &owner,
        given: BTreeSet::new(),
    };
    for ((family, ports), all) in groups {
        let ports: Vec<EndpointPort> = ports.into_iter().map(port).collect();
        let of_kind = |slice: &&Arc<EndpointSlice>| {
            slice.address_type == family && slice.ports.as_deref().unwrap_or_default() == ports
        };
        let found = existing
            .iter()
            .position(of_kind)
            .map(|at| existing.remove(at));
        let base = found.map_or_else(
            || ObjectMeta {
                generate_name: Some(format!("{}-", owner.name)),
                namespace: endpoints.metadata.namespace.clone(),
                ..ObjectMeta::default()
            },
            |slice| slice.metadata.clone(),
        );
        let wanted = EndpointSlice {
            metadata: ObjectMeta {
                labels: Some(labels(endpoints, &owner.name)),
                annotations: annotations(endpoints),
                owner_references: Some(vec![controller_reference(&owner)]),
                ..base
            },
            address_type: family.to_owned(),
            ports: (!ports.is_empty()).then_some(ports),
            endpoints: Some(all.into_values().collect()),
        };
        match found {
            Some(slice) if **slice == wanted => {}
            Some(_) => plan.writes.push(Write::Update(json(&wanted))),
            None => {
                let mut slice = wanted;
                slice.metadata.name = Some(names.next());
                plan.writes.push(Write::Create(json(&slice)));
            }
        }
    }
    existing.into_iter().for_each(|slice| remove(slice, plan));
}

/// Whether these are a Service's that finds no pods itself. What the Endpoints controller wrote while it did has its own slices.
fn is_mirrored(snapshot: &Snapshot, endpoints: &Endpoints) -> bool {
    let (meta, has) = (
        &endpoints.metadata,
        |map: Option<&BTreeMap<_, _>>, key: &str| map.and_then(|map| map.get(key)).cloned(),
    );
    let skipped = has(meta.labels.as_ref(), SKIP).is_some_and(|value: String| value == "true");
    if skipped
        || has(meta.annotations.as_ref(), ELECTION).is_some()
        || endpoints::is_ours(endpoints)
    {
        return false;
    }
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let service = snapshot
        .services
        .get(namespace, meta.name.as_deref().unwrap_or_default());
    service.is_some_and(|service| {
        let selector = service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref());
        selector.is_none_or(BTreeMap::is_empty)
    })
}

/// Endpoints by address, for each family and set of ports.
fn groups(endpoints: &Endpoints) -> BTreeMap<Key, BTreeMap<String, Endpoint>> {
    let mut groups: BTreeMap<Key, BTreeMap<String, Endpoint>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let mut ports: Vec<PortKey> = subset.ports.iter().flatten().map(port_key).collect();
        ports.sort();
        let mut room = ROOM;
        for (address, ready) in addresses(subset) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                continue;
            };
            if room == 0 {
                break;
            }
            room -= 1;
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let group = groups.entry((family, ports.clone())).or_default();
            group
                .entry(address.ip.clone())
                .or_insert_with(|| endpoint(address, ready));
        }
    }
    groups
}

/// Those that are ready come first: where there is no room for all, others are left out.
fn addresses(subset: &EndpointSubset) -> impl Iterator<Item = (&EndpointAddress, bool)> {
    let ready = subset.addresses.iter().flatten().map(|one| (one, true));
    let others = subset.not_ready_addresses.iter().flatten();
    ready.chain(others.map(|one| (one, false)))
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn port_key(port: &k8s_openapi::api::core::v1::EndpointPort) -> PortKey {
    let name = Some(port.name.clone().unwrap_or_default());
    let protocol = port.protocol.clone().or_else(|| Some("TCP".to_owned()));
    (name, protocol, port.port, port.app_protocol.clone())
}

fn port((name, protocol, number, app_protocol): PortKey) -> EndpointPort {
    EndpointPort {
        name,
        protocol,
        port: Some(number),
        app_protocol,
    }
}

fn labels(endpoints: &Endpoints, service: &str) -> BTreeMap<String, String> {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME_LABEL.to_owned(), service.to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MIRROR.to_owned());
    labels
}

fn annotations(endpoints: &Endpoints) -> Option<BTreeMap<String, String>> {
    let mut annotations = endpoints.metadata.annotations.clone()?;
    annotations.retain(|key, _| ![LAST_APPLIED, LAST_CHANGE].contains(&key.as_str()));
    (!annotations.is_empty()).then_some(annotations)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::world::World;

    fn settle(world: &mut World) -> Vec<Value> {
        world.settle(|world| super::super::plan(&world.snapshot, Scope::EVERYTHING, world.now));
        world.all("EndpointSlice").into_iter().cloned().collect()
    }

    fn put(world: &mut World, change: impl FnOnce(&mut Value)) {
        let mut endpoints = json!({"apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "db", "namespace": "shop", "labels": {"team": "data"},
                "annotations": {LAST_APPLIED: "{}", "a": "b"}},
            "subsets": [{"addresses": [{"ip": "192.0.2.1", "hostname": "one"}, {"ip": "2001:db8::1"}],
                "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 5432}]}]});
        change(&mut endpoints);
        world.put(endpoints);
    }

    fn world() -> World {
        let mut world = World::new();
        world.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 5432}]}}));
        world
    }

    #[test]
    fn what_people_wrote_is_shown_as_slices_of_each_family() {
        let mut world = world();
        put(&mut world, |_| ());
        let slices = settle(&mut world);
        assert_eq!(slices.len(), 2);
        let four = slices
            .iter()
            .find(|one| one["addressType"] == "IPv4")
            .unwrap();
        let meta = &four["metadata"];
        assert_eq!(
            meta["labels"],
            json!({"team": "data", SERVICE_NAME_LABEL: "db", MANAGED_BY_LABEL: MIRROR})
        );
        assert_eq!(meta["annotations"], json!({"a": "b"}));
        assert_eq!(meta["ownerReferences"][0]["kind"], "Endpoints");
        assert_eq!(
            four["ports"],
            json!([{"name": "", "port": 5432, "protocol": "TCP"}])
        );
        let expect = json!([
            {"addresses": ["192.0.2.1"], "conditions": {"ready": true}, "hostname": "one"},
            {"addresses": ["192.0.2.2"], "conditions": {"ready": false}},
        ]);
        assert_eq!(four["endpoints"], expect);
        put(&mut world, |one| {
            one["subsets"] =
                json!([{"addresses": [{"ip": "192.0.2.3"}], "ports": [{"port": 5432}]}]);
        });
        let slices = settle(&mut world);
        assert_eq!(slices.len(), 1);
        assert_eq!(
            slices[0]["metadata"]["name"], meta["name"],
            "it is the same slice"
        );
        assert_eq!(slices[0]["endpoints"][0]["addresses"][0], "192.0.2.3");
    }

    #[test]
    fn what_is_not_a_services_or_says_so_is_not_shown() {
        type Change = fn(&mut World);
        let changes: [(&str, Change); 5] = [
            ("skipped", |world| {
                put(world, |one| one["metadata"]["labels"][SKIP] = json!("true"));
            }),
            ("a lock", |world| {
                put(world, |one| {
                    one["metadata"]["annotations"][ELECTION] = json!("{}")
                });
            }),
            ("the controller's", |world| {
                let label = "endpoints.kubernetes.io/managed-by";
                put(world, |one| {
                    one["metadata"]["labels"][label] = json!("endpoint-controller")
                });
            }),
            ("no Service", |world| world.remove("Service", "shop", "db")),
            ("empty", |world| {
                put(world, |one| one["subsets"] = json!([]))
            }),
        ];
        for (why, change) in changes {
            let mut world = world();
            put(&mut world, |_| ());
            assert_eq!(settle(&mut world).len(), 2);
            change(&mut world);
            assert_eq!(settle(&mut world).len(), 0, "{why}");
        }
        let mut world = world();
        put(&mut world, |_| ());
        settle(&mut world);
        world.edit("Service", "shop", "db", |one| {
            one["spec"]["selector"] = json!({"app": "db"})
        });
        let slices = settle(&mut world);
        assert_eq!(
            slices.len(),
            1,
            "the one of a Service without pods: {slices:?}"
        );
        assert_eq!(
            slices[0]["metadata"]["labels"][MANAGED_BY_LABEL],
            super::super::MANAGER
        );
    }

    #[test]
    fn a_change_of_either_is_seen_without_looking_at_everything() {
        let mut world = world();
        let position = world.snapshot.position();
        put(&mut world, |_| ());
        let plan = |world: &World, position| {
            super::super::plan(&world.snapshot, Scope::since(position), world.now)
                .writes
                .len()
        };
        assert_eq!(plan(&world, position), 2);
        settle(&mut world);
        let position = world.snapshot.position();
        world.edit("Service", "shop", "db", |one| {
            one["spec"]["selector"] = json!({"app": "db"})
        });
        assert_eq!(plan(&world, position), 3, "two go, an empty one comes");
        let position = world.snapshot.position();
        world.remove("Service", "shop", "db");
        assert_eq!(plan(&world, position), 2);
    }
}
