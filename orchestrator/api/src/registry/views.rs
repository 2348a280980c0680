//! Rows under which a stored kind is served once more: another group or version, converted both ways.

use k8s_openapi::api::{autoscaling, events};
use serde_json::{Map, Value, json};

use crate::resource::{Resource, Source, View};
use crate::table;
use crate::walk::{carry, list, remove, set, text};

pub(super) const EVENT: Resource = Resource {
    short_names: &["ev"],
    columns: table::cluster::EVENT,
    cells: |event, now| table::cluster::event(&core_event(event, None), now),
    selectable: &[
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ],
    source: Source::View(&View {
        of: ("", "v1", "events"),
        show: shown_event,
        keep: core_event,
    }),
    ..Resource::of::<events::v1::Event>("event", true)
};

pub(super) const AUTOSCALER: Resource = Resource {
    short_names: &["hpa"],
    categories: &["all"],
    subresources: &["status"],
    columns: table::limits::HORIZONTAL_POD_AUTOSCALER,
    cells: |autoscaler, now| {
        table::limits::horizontal_pod_autoscaler(&kept_autoscaler(autoscaler, None), now)
    },
    source: Source::View(&View {
        of: ("autoscaling", "v2", "horizontalpodautoscalers"),
        show: shown_autoscaler,
        keep: kept_autoscaler,
    }),
    ..Resource::of::<autoscaling::v1::HorizontalPodAutoscaler>("horizontalpodautoscaler", true)
};

/// Fields of an Event by their names in core and in events.k8s.io, where these differ.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn shown_event(stored: &Value) -> Value {
    renamed(stored, "events.k8s.io/v1", |name| {
        let pair = EVENT_FIELDS.iter().find(|(core, _)| *core == name);
        pair.map_or(name, |(_, new)| new)
    })
}

fn core_event(served: &Value, _old: Option<&Value>) -> Value {
    renamed(served, "v1", |name| {
        let pair = EVENT_FIELDS.iter().find(|(_, new)| *new == name);
        pair.map_or(name, |(core, _)| core)
    })
}

/// The object with other names for its fields.
fn renamed<'a>(value: &'a Value, version: &str, name: impl Fn(&'a str) -> &'a str) -> Value {
    let fields = value.as_object().into_iter().flatten();
    let fields = fields.map(|(field, value)| (name(field).to_owned(), value.clone()));
    let mut map: Map<String, Value> = fields.collect();
    map.insert("apiVersion".into(), version.into());
    map.into()
}

const TARGET: &str = "targetCPUUtilizationPercentage";
const CURRENT: &str = "currentCPUUtilizationPercentage";

/// Whether a metric, wanted or measured, is the use of CPU in percent of what is requested.
fn is_cpu(metric: &Value, of: &str) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && !metric["resource"][of]["averageUtilization"].is_null()
}

/// Version 1 knows the use of CPU only; what else is wanted stays as it is stored.
fn shown_autoscaler(stored: &Value) -> Value {
    let mut value = stored.clone();
    set(&mut value, &[], "apiVersion", "autoscaling/v1");
    for (part, from, of, to) in [
        ("spec", "metrics", "target", TARGET),
        ("status", "currentMetrics", "current", CURRENT),
    ] {
        let metrics = list(stored, &[part, from]);
        if let Some(metric) = metrics.iter().find(|one| is_cpu(one, of)) {
            let percent = metric["resource"][of]["averageUtilization"].clone();
            set(&mut value, &[part], to, percent);
        }
        remove(&mut value, &[part], from);
    }
    remove(&mut value, &["spec"], "behavior");
    remove(&mut value, &["status"], "conditions");
    value
}

fn kept_autoscaler(served: &Value, old: Option<&Value>) -> Value {
    let mut value = served.clone();
    set(&mut value, &[], "apiVersion", "autoscaling/v2");
    let none = Value::Null;
    let old = old.unwrap_or(&none);
    for (part, from, of, to) in [
        ("spec", TARGET, "target", "metrics"),
        ("status", CURRENT, "current", "currentMetrics"),
    ] {
        let Some(percent) = remove(&mut value, &[part], from).filter(|one| !one.is_null()) else {
            carry(old, &mut value, &[part], to);
            if part == "spec" {
                without_cpu(&mut value);
            }
            continue;
        };
        let mut amount = json!({"averageUtilization": percent});
        if of == "target" {
            amount["type"] = "Utilization".into();
        } else if let Some(measured) = list(old, &[part, to]).iter().find(|one| is_cpu(one, of)) {
            amount["averageValue"] = measured["resource"][of]["averageValue"].clone();
        }
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", of: amount}});
        let others = list(old, &[part, to]).iter().filter(|one| !is_cpu(one, of));
        let all: Vec<Value> = others.cloned().chain([metric]).collect();
        set(&mut value, &[part], to, all);
    }
    carry(old, &mut value, &["spec"], "behavior");
    carry(old, &mut value, &["status"], "conditions");
    if text(old, &["kind"]).is_empty() && value["status"].as_object().is_some_and(Map::is_empty) {
        remove(&mut value, &[], "status");
    }
    value
}

/// Who leaves the percentage out wants it no longer.
fn without_cpu(value: &mut Value) {
    let kept = list(value, &["spec", "metrics"]).iter();
    let kept: Vec<Value> = kept.filter(|one| !is_cpu(one, "target")).cloned().collect();
    if kept.is_empty() {
        remove(value, &["spec"], "metrics");
    } else {
        set(value, &["spec"], "metrics", kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CreateContext, FieldValidation, Part, find, prepare_create, prepare_update};

    #[test]
    fn an_event_is_the_same_in_both_groups() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "n"},
            "involvedObject": {"kind": "Pod", "name": "p"}, "message": "hello", "reason": "Greeted", "count": 2,
            "type": "Normal", "source": {"component": "c"}, "firstTimestamp": "2026-01-01T00:00:00Z"});
        let shown = shown_event(&core);
        assert_eq!(
            (&shown["note"], &shown["regarding"]["name"]),
            (&json!("hello"), &json!("p"))
        );
        let row = find("events.k8s.io", "v1", "events").unwrap();
        let read = row
            .read(shown, FieldValidation::Strict, Vec::new())
            .unwrap();
        let mut back = core_event(&read.value, None);
        remove(&mut back, &[], "eventTime");
        assert_eq!(back, core);
    }

    #[test]
    fn an_autoscaler_keeps_what_the_older_version_cannot_say() {
        let row = find("autoscaling", "v1", "horizontalpodautoscalers").unwrap();
        let context = CreateContext {
            now: jiff::Timestamp::UNIX_EPOCH,
            uid: "u",
            name_suffix: "abcde",
            namespace: "n",
        };
        let wanted = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 5,
                TARGET: 60}});
        let mut stored = prepare_create(row, wanted, &context).unwrap();
        assert_eq!(stored["apiVersion"], "autoscaling/v2");
        let metrics = stored["spec"]["metrics"].as_array_mut().unwrap();
        assert_eq!(metrics[0]["resource"]["target"]["averageUtilization"], 60);
        let memory = json!({"type": "Resource", "resource": {"name": "memory",
            "target": {"type": "Utilization", "averageUtilization": 70}}});
        metrics.push(memory.clone());
        let mut shown = row.show(&stored).into_owned();
        assert_eq!(shown["spec"][TARGET], 60);
        assert!(shown["spec"]["metrics"].is_null());
        shown["spec"][TARGET] = json!(50);
        let changed = prepare_update(row, &stored, shown, Part::Main).unwrap();
        let metrics = changed["spec"]["metrics"].as_array().unwrap();
        assert_eq!(metrics[0], memory);
        assert_eq!(metrics[1]["resource"]["target"]["averageUtilization"], 50);
    }
}
