//! What a new pod gets for its ServiceAccount: the volume with a token, the cluster's authority and its namespace, by
//! which it reaches the API; and the account's pull secrets.

use serde_json::{Value, json};
use waggle_api::{MIRROR, Resource, Status, find};

use super::Objects;

/// Where programs look for their token.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The account that pods run as when they name no other; its namespace gets it a moment after it was made.
const DEFAULT: &str = "default";
/// Seconds that a token lives; nodes renew it before.
const TOKEN_SECONDS: u32 = 3607;

impl Objects {
    /// Completes a new pod by what its ServiceAccount says. `suffix` makes the volume's name its own. A dry run goes without
    /// the account: it may be made by the same manifest.
    ///
    /// # Errors
    /// 403 for an account that does not exist.
    pub(super) fn settle_account(
        &self,
        resource: &Resource,
        namespace: &str,
        value: &mut Value,
        suffix: &str,
        dry_run: bool,
    ) -> Result<(), Status> {
        if resource.kind != "Pod" || !resource.group.is_empty() {
            return Ok(());
        }
        // It stands for a pod that runs as nobody's.
        if value["metadata"]["annotations"][MIRROR].is_string() {
            return Ok(());
        }
        let Some(accounts) = find("", "v1", "serviceaccounts") else {
            return Ok(());
        };
        let spec = &value["spec"];
        let named = ["serviceAccountName", "serviceAccount"]
            .iter()
            .filter_map(|field| spec[*field].as_str())
            .find(|name| !name.is_empty());
        let name = named.unwrap_or(DEFAULT);
        let account = self.get(accounts, namespace, name);
        if account.is_none() && name != DEFAULT && !dry_run {
            let pod = value["metadata"]["name"].as_str().unwrap_or_default();
            let why = format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            );
            return Err(Status::forbidden(resource, pod, &why));
        }
        let account = account.map_or(Value::Null, |account| account.value.clone());
        let Some(spec) = value["spec"].as_object_mut() else {
            return Ok(());
        };
        let pulls = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
        if pulls(&account["imagePullSecrets"]) && !spec.get("imagePullSecrets").is_some_and(pulls) {
            spec.insert(
                "imagePullSecrets".into(),
                account["imagePullSecrets"].clone(),
            );
        }
        let mounts = spec
            .get("automountServiceAccountToken")
            .and_then(Value::as_bool)
            .or(account["automountServiceAccountToken"].as_bool());
        if mounts != Some(false) {
            mount_token(spec, suffix);
        }
        Ok(())
    }
}

/// What the token's volume is called; the pod's random suffix follows.
const VOLUME: &str = "kube-api-access-";

/// The token's volume, where it was added before: webhooks may have added containers since.
fn token_volume(spec: &serde_json::Map<String, Value>) -> Option<String> {
    let volumes = spec.get("volumes")?.as_array()?;
    let mut names = volumes.iter().filter_map(|one| one["name"].as_str());
    names
        .find(|name| name.starts_with(VOLUME))
        .map(str::to_owned)
}

/// Mounts the token into every container that has nothing at its place.
fn mount_token(spec: &mut serde_json::Map<String, Value>, suffix: &str) {
    let there = token_volume(spec);
    let made = there.is_none();
    let volume = there.unwrap_or_else(|| format!("{VOLUME}{suffix}"));
    let mut mounted = false;
    for group in ["initContainers", "containers"] {
        let containers = spec.get_mut(group).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Some(container) = container.as_object_mut() else {
                continue;
            };
            let mounts = container.entry("volumeMounts").or_insert(Value::Null);
            if mounts.is_null() {
                *mounts = json!([]);
            }
            let Some(mounts) = mounts.as_array_mut() else {
                continue;
            };
            if mounts.iter().all(|mount| mount["mountPath"] != MOUNT) {
                mounts.push(json!({"name": volume, "mountPath": MOUNT, "readOnly": true}));
                mounted = true;
            }
        }
    }
    if !mounted || !made {
        return;
    }
    let volumes = spec.entry("volumes").or_insert(Value::Null);
    if volumes.is_null() {
        *volumes = json!([]);
    }
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.push(
            json!({"name": volume, "projected": {"defaultMode": 0o644, "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": waggle_plan::service_account::ROOT_CA,
                    "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ]}}),
        );
    }
}
