//! How a Service's endpoints are spread over slices: an endpoint stays where it is, new ones fill what has room, empty
//! slices go. So that one pod's change is one slice's write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    Group, GroupKey, LAST_CHANGE, MANAGED_BY_LABEL, MANAGER, SERVICE_NAME_LABEL, labels_of, since,
    slice_ports,
};
use crate::ids::{fnv32, safe_text};
use crate::ownership::{controller_reference, delete, json};
use crate::write::{ObjectRef, Propagation};
use crate::{Plan, Snapshot, Write, pod};

/// Most endpoints in one slice.
const ROOM: usize = 100;

/// Makes the slices of a Service hold exactly `wanted`.
pub(super) fn reconcile(
    snapshot: &Snapshot,
    service: &Service,
    mut wanted: BTreeMap<GroupKey, Group>,
    plan: &mut Plan,
) {
    let owner = pod::object("v1", "Service", &service.metadata);
    let mut existing: Vec<&Arc<EndpointSlice>> = snapshot
        .slices_of(&owner.namespace, &owner.name)
        .filter(|slice| is_ours(slice) && slice.metadata.deletion_timestamp.is_none())
        .collect();
    for family in families(service) {
        if wanted.keys().all(|(there, _)| *there != family) {
            // An empty slice says "nobody" where none would say "not known yet".
            wanted.insert((family, Vec::new()), Group::new());
        }
    }
    let mut names = Names {
        snapshot,
        owner: &owner,
        given: BTreeSet::new(),
    };
    for (key, group) in wanted {
        let ports = slice_ports(&key.1);
        let (own, rest): (Vec<_>, Vec<_>) = existing.into_iter().partition(|slice| {
            slice.address_type == key.0 && slice.ports.as_deref().unwrap_or_default() == ports
        });
        existing = rest;
        let base = EndpointSlice {
            address_type: key.0.to_owned(),
            ports: (!ports.is_empty()).then_some(ports),
            metadata: metadata(service, &owner),
            ..EndpointSlice::default()
        };
        fill(service, own, group, base, &mut names, plan);
    }
    existing.into_iter().for_each(|slice| remove(slice, plan));
}

/// Those of its addresses; without any, that of most.
fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let listed = spec.and_then(|spec| spec.ip_families.as_deref());
    let listed = listed.filter(|families| !families.is_empty());
    listed.map_or_else(
        || vec!["IPv4"],
        |families| {
            let known = ["IPv4", "IPv6"].into_iter();
            known
                .filter(|one| families.iter().any(|family| family == one))
                .collect()
        },
    )
}

fn is_ours(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(MANAGED_BY_LABEL))
        .is_some_and(|manager| manager == MANAGER)
}

/// Names for new slices.
pub(super) struct Names<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// Whose they are.
    pub(super) owner: &'a ObjectRef,
    pub(super) given: BTreeSet<String>,
}

impl Names<'_> {
    /// The owner's name and an end that no other slice has.
    pub(super) fn next(&mut self) -> String {
        let base: String = self.owner.name.chars().take(52).collect();
        for number in 0u32.. {
            let hash = fnv32(&[self.owner.uid.as_bytes(), &number.to_le_bytes()]);
            let name = format!("{base}-{}", safe_text(hash));
            let taken = self
                .snapshot
                .endpoint_slices
                .get(&self.owner.namespace, &name)
                .is_some();
            if !taken && self.given.insert(name.clone()) {
                return name;
            }
        }
        base
    }
}

fn metadata(service: &Service, owner: &ObjectRef) -> ObjectMeta {
    let mut labels = labels_of(service, MANAGED_BY_LABEL);
    labels.insert(SERVICE_NAME_LABEL.to_owned(), owner.name.clone());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned());
    ObjectMeta {
        generate_name: Some(format!("{}-", owner.name)),
        namespace: service.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![controller_reference(owner)]),
        ..ObjectMeta::default()
    }
}

/// Brings the slices of one kind up to date with their endpoints.
fn fill(
    service: &Service,
    own: Vec<&Arc<EndpointSlice>>,
    mut group: Group,
    base: EndpointSlice,
    names: &mut Names<'_>,
    plan: &mut Plan,
) {
    let placeholder = group.is_empty();
    let mut rows: Vec<(&Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in own {
        let before = slice.endpoints.iter().flatten();
        // What is beyond the limit moves on.
        let kept = before
            .filter_map(|endpoint| group.remove(uid_of(endpoint)?))
            .take(ROOM)
            .collect();
        rows.push((slice, kept));
    }
    let mut new = group.into_values();
    for (_, endpoints) in rows
        .iter_mut()
        .filter(|(_, endpoints)| !endpoints.is_empty())
    {
        endpoints.extend(new.by_ref().take(ROOM - endpoints.len()));
    }
    for (index, (slice, mut endpoints)) in rows.into_iter().enumerate() {
        if endpoints.is_empty() {
            endpoints.extend(new.by_ref().take(ROOM));
        }
        if endpoints.is_empty() && !(placeholder && index == 0) {
            remove(slice, plan);
            continue;
        }
        update(names.snapshot, slice, &base, endpoints, plan);
    }
    let mut left: Vec<Endpoint> = new.collect();
    let mut first = placeholder && plan_has_no_slice(names, &base);
    while first || !left.is_empty() {
        first = false;
        let part = left.drain(..left.len().min(ROOM)).collect();
        let mut slice = EndpointSlice {
            endpoints: Some(part),
            ..base.clone()
        };
        slice.metadata.name = Some(names.next());
        let part = slice.endpoints.as_deref().unwrap_or_default();
        let made = service
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0);
        let since = since(names.snapshot, part.iter().filter_map(target));
        slice.metadata.annotations = noted(None, since.or(made));
        plan.writes.push(Write::Create(json(&slice)));
    }
}

/// Whether the Service has no slice of this kind at all.
fn plan_has_no_slice(names: &Names<'_>, base: &EndpointSlice) -> bool {
    let mut slices = names
        .snapshot
        .slices_of(&names.owner.namespace, &names.owner.name);
    !slices.any(|slice| {
        is_ours(slice) && slice.address_type == base.address_type && slice.ports == base.ports
    })
}

fn uid_of(endpoint: &Endpoint) -> Option<&String> {
    endpoint.target_ref.as_ref()?.uid.as_ref()
}

fn target(endpoint: &Endpoint) -> Option<&ObjectReference> {
    endpoint.target_ref.as_ref()
}

/// These annotations with the moment that the change goes back to.
pub(crate) fn noted(
    annotations: Option<&BTreeMap<String, String>>,
    since: Option<Timestamp>,
) -> Option<BTreeMap<String, String>> {
    let mut annotations = annotations.cloned().unwrap_or_default();
    annotations.remove(LAST_CHANGE);
    if let Some(since) = since {
        annotations.insert(LAST_CHANGE.to_owned(), since.to_string());
    }
    (!annotations.is_empty()).then_some(annotations)
}

fn update(
    snapshot: &Snapshot,
    slice: &EndpointSlice,
    base: &EndpointSlice,
    endpoints: Vec<Endpoint>,
    plan: &mut Plan,
) {
    let metadata = ObjectMeta {
        labels: base.metadata.labels.clone(),
        owner_references: base.metadata.owner_references.clone(),
        ..slice.metadata.clone()
    };
    let mut next = EndpointSlice {
        metadata,
        endpoints: Some(endpoints),
        ..slice.clone()
    };
    let before = EndpointSlice {
        endpoints: Some(slice.endpoints.clone().unwrap_or_default()),
        ..slice.clone()
    };
    if next != before {
        let known = before.endpoints.as_deref().unwrap_or_default();
        let changed = next
            .endpoints
            .iter()
            .flatten()
            .filter(|one| !known.contains(one));
        let since = since(snapshot, changed.filter_map(target));
        next.metadata.annotations = noted(slice.metadata.annotations.as_ref(), since);
        plan.writes.push(Write::Update(json(&next)));
    }
}

pub(super) fn remove(slice: &EndpointSlice, plan: &mut Plan) {
    let object = pod::object("discovery.k8s.io/v1", "EndpointSlice", &slice.metadata);
    plan.writes
        .push(delete(object, None, Propagation::Background));
}
