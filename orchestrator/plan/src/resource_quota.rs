//! What ResourceQuotas show of their use. Whether something fits is decided where it is created.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::ownership::json;
use crate::{Plan, Snapshot, Write};

/// What is used of each quota's resources, by namespace and name.
pub type Used = BTreeMap<(String, String), BTreeMap<String, String>>;

/// Brings every quota's status up to date. A quota that `used` does not know stays as it is. The time decides nothing
/// here.
pub fn plan(snapshot: &Snapshot, used: &Used, _now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for quota in snapshot.resource_quotas.iter() {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let key = (text(&quota.metadata.namespace), text(&quota.metadata.name));
        let Some(used) = used.get(&key) else { continue };
        let used = used
            .iter()
            .map(|(name, amount)| (name.clone(), Quantity(amount.clone())));
        let status = ResourceQuotaStatus {
            hard: quota.spec.as_ref().and_then(|spec| spec.hard.clone()),
            used: Some(used.collect()),
        };
        if quota.status.as_ref() != Some(&status) {
            plan.writes.push(Write::UpdateStatus(json(&ResourceQuota {
                status: Some(status),
                ..ResourceQuota::clone(quota)
            })));
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use serde_json::json;

    #[test]
    fn a_quota_shows_what_is_used_of_it() {
        let mut world = World::new();
        world.put(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "shop"},
            "spec": {"hard": {"pods": "3"}}}));
        let used = |count: &str| {
            let mine = BTreeMap::from([("pods".to_owned(), count.to_owned())]);
            BTreeMap::from([(("shop".to_owned(), "q".to_owned()), mine)])
        };
        world.settle(|world| plan(&world.snapshot, &used("2"), world.now));
        let quota = world.get("ResourceQuota", "shop", "q").unwrap();
        assert_eq!(
            quota["status"],
            json!({"hard": {"pods": "3"}, "used": {"pods": "2"}})
        );
        assert_eq!(plan(&world.snapshot, &used("2"), world.now).writes, []);
        assert_eq!(plan(&world.snapshot, &used("1"), world.now).writes.len(), 1);
    }
}
