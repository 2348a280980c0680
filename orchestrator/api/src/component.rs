//! ComponentStatus of v1: whether the parts of the control plane are well. Nothing is stored, it can only be read; old
//! tools and people ask for it.

use serde_json::{Value, json};

use crate::discovery::VERBS;
use crate::resource::Resource;
use crate::table::Column;
use crate::walk::{list, text};
use crate::{Cell, Kinds};

/// What Kubernetes warns of who reads it.
pub const DEPRECATED: &str = "v1 ComponentStatus is deprecated in v1.19+";

/// Its kind. Not one of the registry: there is nothing to write or watch.
pub static ROW: Resource = Resource {
    short_names: &["cs"],
    columns: &[
        Column::NAME,
        Column::text("Status", "Status of the component conditions"),
        Column::text("Message", "Message of the component conditions"),
        Column::text("Error", "Error of the component conditions"),
    ],
    cells,
    ..Resource::of::<k8s_openapi::api::core::v1::ComponentStatus>("componentstatus", false)
};

/// What can be asked for: what is stored, and this.
pub(crate) fn readable(kinds: &Kinds) -> impl Iterator<Item = &'static Resource> + '_ {
    kinds.served().chain([&ROW])
}

/// What can be done with a kind.
pub(crate) fn verbs(row: &Resource) -> &'static [&'static str] {
    if std::ptr::eq(row, &raw const ROW) {
        &["get", "list"]
    } else {
        &VERBS
    }
}

/// One component; `fault` says what is wrong with it.
pub fn object(name: &str, fault: Option<&str>) -> Value {
    let mut condition = json!({"type": "Healthy", "status": "True", "message": "ok"});
    if let Some(fault) = fault {
        condition = json!({"type": "Healthy", "status": "False", "message": fault});
    }
    json!({"apiVersion": "v1", "kind": ROW.kind, "metadata": {"name": name}, "conditions": [condition]})
}

fn cells(object: &Value, _now: i64) -> Vec<Cell> {
    let mut conditions = list(object, &["conditions"]).iter();
    let healthy = conditions.find(|one| text(one, &["type"]) == "Healthy");
    let status = match healthy.map(|one| text(one, &["status"])) {
        None => "Unknown",
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
    };
    let of = |field: &str| healthy.map_or("", |one| text(one, &[field]));
    vec![
        text(object, &["metadata", "name"]).into(),
        status.into(),
        of("message").into(),
        of("error").into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_shown_as_it_is() {
        for (fault, expect) in [
            (None, json!(["scheduler", "Healthy", "ok", ""])),
            (
                Some("no leader"),
                json!(["scheduler", "Unhealthy", "no leader", ""]),
            ),
        ] {
            let shown = object("scheduler", fault);
            let cells: Vec<Value> = cells(&shown, 0).into_iter().map(Value::from).collect();
            assert_eq!(json!(cells), expect);
            let decoded = (ROW.decode)(&shown);
            assert_eq!((decoded.value, decoded.faults), (Some(shown), Vec::new()));
        }
    }
}
