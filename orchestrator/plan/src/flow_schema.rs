//! FlowSchemas: whether the priority level that each names exists.

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, FlowSchemaCondition, FlowSchemaStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use waggle_api::flow::GROUP;

use crate::ownership::json;
use crate::{Plan, Snapshot, Write};

const CONDITION: &str = "Dangling";

/// Brings the Dangling condition of every schema up to date.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for schema in snapshot.flow_schemas.iter() {
        let status = status(snapshot, schema, now);
        if Some(&status) != schema.status.as_ref() {
            plan.writes.push(Write::UpdateStatus(json(&FlowSchema {
                status: Some(status),
                ..FlowSchema::clone(schema)
            })));
        }
    }
    plan
}

fn status(snapshot: &Snapshot, schema: &FlowSchema, now: Timestamp) -> FlowSchemaStatus {
    let level = schema.spec.priority_level_configuration.name.as_str();
    let version = format!("{GROUP}/v1");
    let there = snapshot
        .named(&version, "PriorityLevelConfiguration", "", level)
        .is_some();
    let (value, reason, end) = if there {
        ("False", "Found", "it exists")
    } else {
        ("True", "NotFound", "there is no such object")
    };
    let join = if there { "and" } else { "but" };
    let message = format!(
        "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {join} {end}"
    );
    let mut status = schema.status.clone().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions
        .iter()
        .position(|one| one.type_ == CONDITION)
        .map(|index| conditions.remove(index));
    let same = old
        .as_ref()
        .filter(|old| old.status.as_deref() == Some(value));
    let since = same.and_then(|old| old.last_transition_time.clone());
    conditions.push(FlowSchemaCondition {
        type_: CONDITION.to_owned(),
        status: Some(value.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: since.or(Some(Time(now))),
    });
    status
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(kind: &str, name: &str, spec: Value) -> Value {
        json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind,
            "metadata": {"name": name, "uid": name}, "spec": spec})
    }

    fn conditions(plan: &Plan) -> Vec<String> {
        let one = |write: &Write| {
            let Write::UpdateStatus(object) = write else {
                panic!("{write:?}")
            };
            let condition = &object["status"]["conditions"][0];
            let text = |field: &str| condition[field].as_str().unwrap().to_owned();
            format!("{} {} {}", text("type"), text("status"), text("reason"))
        };
        plan.writes.iter().map(one).collect()
    }

    #[test]
    fn a_schema_says_whether_its_level_is_missing() {
        let kinds = ["FlowSchema", "PriorityLevelConfiguration"];
        let mut snapshot =
            Snapshot::new(kinds.map(|kind| ("flowcontrol.apiserver.k8s.io/v1", kind)));
        let spec = json!({"priorityLevelConfiguration": {"name": "mine"}});
        snapshot.upsert(&object("FlowSchema", "all", spec)).unwrap();
        let now = Timestamp::from_second(1_000).unwrap();
        let first = plan(&snapshot, now);
        assert_eq!(conditions(&first), ["Dangling True NotFound"]);
        let Write::UpdateStatus(written) = &first.writes[0] else {
            panic!()
        };
        snapshot.upsert(written).unwrap();
        let later = Timestamp::from_second(2_000).unwrap();
        assert!(plan(&snapshot, later).writes.is_empty());
        let level = object(
            "PriorityLevelConfiguration",
            "mine",
            json!({"type": "Exempt"}),
        );
        snapshot.upsert(&level).unwrap();
        let second = plan(&snapshot, later);
        assert_eq!(conditions(&second), ["Dangling False Found"]);
        let Write::UpdateStatus(written) = &second.writes[0] else {
            panic!()
        };
        snapshot.upsert(written).unwrap();
        assert!(plan(&snapshot, now).writes.is_empty());
        snapshot.remove(
            "flowcontrol.apiserver.k8s.io/v1",
            "PriorityLevelConfiguration",
            "",
            "mine",
        );
        assert_eq!(
            conditions(&plan(&snapshot, now)),
            ["Dangling True NotFound"]
        );
    }
}
