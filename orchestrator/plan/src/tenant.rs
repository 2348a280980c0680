//! Which tenant a namespace or a Service belongs to, and the status of Tenant objects.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use waggle_model::{DEFAULT_TENANT, Generation, SYSTEM_TENANT, TENANT_LABEL, TenantId};

pub use waggle_api::tenant::{Tenant, TenantStatus};

use crate::identity::Registry;
use crate::ownership::json;
use crate::{Plan, Snapshot, Write};

/// Tenant of a namespace, given its name and its object.
pub fn of_namespace<'a>(name: &str, namespace: Option<&'a Namespace>) -> &'a str {
    if matches!(name, "kube-system" | "kube-public" | "kube-node-lease") {
        return SYSTEM_TENANT;
    }
    let labels = namespace.and_then(|namespace| namespace.metadata.labels.as_ref());
    labels
        .and_then(|labels| labels.get(TENANT_LABEL))
        .map_or(DEFAULT_TENANT, String::as_str)
}

/// Tenant of a Service, given its namespace's: the API's own Service is the system's.
pub fn of_service<'a>(namespace: &str, name: &str, of_namespace: &'a str) -> &'a str {
    if (namespace, name) == ("default", "kubernetes") {
        SYSTEM_TENANT
    } else {
        of_namespace
    }
}

/// How far the nodes are with what changed last in a tenant's policies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Enforced {
    /// Network generation of that change.
    pub generation: Generation,
    /// Connected nodes that have it in their kernels.
    pub nodes: u32,
}

/// Brings the status of every Tenant up to date: its number, how many namespaces it has, and how many nodes enforce its
/// newest policies, as far as `enforced` says. The time decides nothing here.
pub fn plan(
    snapshot: &Snapshot,
    registry: &Registry,
    enforced: &BTreeMap<TenantId, Enforced>,
    _now: Timestamp,
) -> Plan {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for namespace in snapshot.namespaces.iter() {
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        *counts
            .entry(of_namespace(name, Some(namespace)))
            .or_default() += 1;
    }
    let mut plan = Plan::default();
    for tenant in snapshot.tenants.iter() {
        let name = tenant.metadata.name.as_deref().unwrap_or_default();
        let before = tenant.status.clone().unwrap_or_default();
        let id = registry.tenant(name);
        let mut status = TenantStatus {
            id: id.map(|id| id.0),
            namespaces: Some(counts.get(name).copied().unwrap_or(0)),
            ..before.clone()
        };
        if let Some(now) = id.and_then(|id| enforced.get(&id)) {
            status.generation = Some(now.generation.0);
            status.enforcing_nodes = Some(now.nodes);
        }
        if status != before {
            let tenant = Tenant {
                api_version: "waggle.dev/v1".to_owned(),
                kind: "Tenant".to_owned(),
                status: Some(status),
                ..Tenant::clone(tenant)
            };
            plan.writes.push(Write::UpdateStatus(json(&tenant)));
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Wanted, assign};
    use crate::world::World;
    use serde_json::json;

    #[test]
    fn the_status_counts_namespaces_and_keeps_what_others_wrote() {
        let mut world = World::new();
        world.put(
            json!({"apiVersion": "waggle.dev/v1", "kind": "Tenant", "metadata": {"name": "shop"},
            "status": {"enforcingNodes": 3}}),
        );
        for (name, labels) in [
            ("front", json!({TENANT_LABEL: "shop"})),
            ("back", json!({TENANT_LABEL: "shop"})),
            ("x", json!({})),
        ] {
            let metadata = json!({"name": name, "labels": labels});
            world.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
        }
        let mut registry = Registry::default();
        registry.apply(assign(&registry, &Wanted::of(&world.snapshot)));
        let none = BTreeMap::new();
        world.settle(|world| plan(&world.snapshot, &registry, &none, world.now));
        let id = registry.tenant("shop").unwrap().0;
        let status = &world.get("Tenant", "", "shop").unwrap()["status"];
        assert_eq!(
            *status,
            json!({"id": id, "namespaces": 2, "enforcingNodes": 3})
        );
        let enforced = Enforced {
            generation: Generation(7),
            nodes: 2,
        };
        let enforced = BTreeMap::from([(TenantId(id), enforced)]);
        world.settle(|world| plan(&world.snapshot, &registry, &enforced, world.now));
        let status = &world.get("Tenant", "", "shop").unwrap()["status"];
        assert_eq!(
            *status,
            json!({"id": id, "namespaces": 2, "enforcingNodes": 2, "generation": 7})
        );
    }

    #[test]
    fn the_clusters_own_namespaces_and_service_are_the_systems() {
        assert_eq!(of_namespace("kube-system", None), SYSTEM_TENANT);
        assert_eq!(of_namespace("shop", None), DEFAULT_TENANT);
        assert_eq!(
            of_service("default", "kubernetes", DEFAULT_TENANT),
            SYSTEM_TENANT
        );
        assert_eq!(of_service("default", "web", DEFAULT_TENANT), DEFAULT_TENANT);
    }
}
