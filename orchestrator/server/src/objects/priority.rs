//! What a pod's priority class makes of its priority and its right to displace others, when it is created.

use serde_json::{Value, json};
use waggle_api::{Resource, Status, find};

use super::Objects;

impl Objects {
    /// Resolves the priority class of a new pod, or the class that is the default, into numbers.
    ///
    /// # Errors
    /// 403 for a class that does not exist, and for a priority that is not its class's.
    pub(super) fn settle_priority(
        &self,
        resource: &Resource,
        value: &mut Value,
    ) -> Result<(), Status> {
        if resource.kind != "Pod" || !resource.group.is_empty() {
            return Ok(());
        }
        let Some(classes) = find("scheduling.k8s.io", "v1", "priorityclasses") else {
            return Ok(());
        };
        let pod = value["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let wanted = value["spec"]["priorityClassName"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let class = if wanted.is_empty() {
            let all = self.list(classes, None).objects;
            let default = all.iter().filter(|one| one.value["globalDefault"] == true);
            default
                .min_by_key(|one| one.value["value"].as_i64())
                .cloned()
        } else {
            let found = self.get(classes, "", &wanted);
            let why = format!("no PriorityClass with name {wanted} was found");
            Some(found.ok_or_else(|| Status::forbidden(resource, &pod, &why))?)
        };
        let (priority, policy) =
            class
                .as_ref()
                .map_or((json!(0), json!("PreemptLowerPriority")), |one| {
                    (
                        one.value["value"].clone(),
                        one.value["preemptionPolicy"].clone(),
                    )
                });
        let Some(spec) = value["spec"].as_object_mut() else {
            return Ok(());
        };
        let given = spec.get("priority").filter(|given| !given.is_null());
        if given.is_some_and(|given| *given != priority) {
            let why = "the integer value of priority must not be provided in pod spec; priority admission controller \
                       computed another from the given PriorityClass name";
            return Err(Status::forbidden(resource, &pod, why));
        }
        spec.insert("priority".into(), priority);
        if let Some(class) = class {
            spec.insert("priorityClassName".into(), class.name.as_str().into());
        }
        if spec.get("preemptionPolicy").is_none_or(Value::is_null) {
            spec.insert("preemptionPolicy".into(), policy);
        }
        Ok(())
    }
}
