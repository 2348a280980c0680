//! The ConfigMaps and Secrets that a pod names: its node is sent them, may read them, and is told when they change.

use std::collections::BTreeSet;

use serde_json::Value;

/// Names in the pod's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Secrets.
    pub secrets: BTreeSet<String>,
}

impl Needs {
    /// What a pod's `spec` names: in volumes, in containers' environments, to pull images.
    pub fn of(spec: &Value) -> Self {
        let mut needs = Self::default();
        for volume in rows(&spec["volumes"]) {
            needs.take(
                &volume["configMap"]["name"],
                &volume["secret"]["secretName"],
            );
            for source in rows(&volume["projected"]["sources"]) {
                needs.take(&source["configMap"]["name"], &source["secret"]["name"]);
            }
        }
        let containers = ["initContainers", "containers", "ephemeralContainers"];
        for container in containers.iter().flat_map(|list| rows(&spec[*list])) {
            for variable in rows(&container["env"]) {
                let from = &variable["valueFrom"];
                needs.take(
                    &from["configMapKeyRef"]["name"],
                    &from["secretKeyRef"]["name"],
                );
            }
            for source in rows(&container["envFrom"]) {
                needs.take(
                    &source["configMapRef"]["name"],
                    &source["secretRef"]["name"],
                );
            }
        }
        for secret in rows(&spec["imagePullSecrets"]) {
            needs.take(&Value::Null, &secret["name"]);
        }
        needs
    }

    fn take(&mut self, config_map: &Value, secret: &Value) {
        let name = |value: &Value| value.as_str().map(str::to_owned);
        self.config_maps.extend(name(config_map));
        self.secrets.extend(name(secret));
    }
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_that_a_pod_names_is_found() {
        let spec = json!({
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "m1"}}, {"secretRef": {"name": "s1"}}]}],
            "containers": [{"name": "c", "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m2", "key": "k"}}},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}},
                {"name": "C", "value": "plain"},
            ]}],
            "volumes": [
                {"name": "a", "configMap": {"name": "m3"}},
                {"name": "b", "secret": {"secretName": "s3"}},
                {"name": "c", "projected": {"sources": [{"configMap": {"name": "m4"}}, {"secret": {"name": "s4"}}]}},
                {"name": "d", "emptyDir": {}},
            ],
        });
        let needs = Needs::of(&spec);
        assert_eq!(
            needs.config_maps.into_iter().collect::<Vec<_>>(),
            ["m1", "m2", "m3", "m4"]
        );
        assert_eq!(
            needs.secrets.into_iter().collect::<Vec<_>>(),
            ["pull", "s1", "s2", "s3", "s4"]
        );
    }
}
