//! Static pods: what is in a node's folder of manifests is shown as pods that are bound to the node, which is how it comes
//! to run them. They are marked as kubelet marks its mirror pods, so that drains and evictions leave them alone; one that
//! is deleted comes back for as long as its file is there.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize as _;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use waggle_api::{DeleteOptions, MIRROR, Status};
use waggle_plan::pod::Needs;
use waggle_plan::{Snapshot, pod};
use waggle_wire::v1;

use super::{Inner, kind};
use crate::http::input::from_yaml;
use crate::objects::WriteOptions;
use crate::pki::hex;

const HASH: &str = "kubernetes.io/config.hash";
const SOURCE: &str = "kubernetes.io/config.source";

/// A namespace and a name in it.
type Key = (String, String);

/// Has the node's mirror pods be those of `pods`; says which of them can't be.
pub(super) async fn settle(
    inner: &Inner,
    node: &str,
    pods: Vec<v1::StaticPod>,
) -> v1::StaticPodsReply {
    let (mut wanted, mut faults) = (BTreeMap::new(), Vec::new());
    let uid = inner.view.read(|snapshot| {
        let found = snapshot.nodes.get("", node);
        found.and_then(|found| found.metadata.uid.clone())
    });
    let Some(uid) = uid else {
        // The node is not registered yet; it says the same again.
        return v1::StaticPodsReply::default();
    };
    for one in pods {
        let made =
            mirror(node, &uid, &one.manifest).and_then(|(key, value)| match wanted.entry(key) {
                Entry::Vacant(free) => {
                    free.insert((one.file.clone(), value));
                    Ok(())
                }
                Entry::Occupied(other) => Err(format!(
                    "{} has a pod of the same name: rename one of them",
                    other.get().0
                )),
            });
        faults.extend(made.err().map(|message| v1::StaticPodFault {
            file: one.file,
            message,
        }));
    }
    let hash = |value: &Value| value["metadata"]["annotations"][MIRROR].clone();
    for (key, made_from) in inner.view.read(|snapshot| mirrors(snapshot, node)) {
        let stays = wanted
            .get(&key)
            .is_some_and(|(_, value)| made_from.as_deref() == hash(value).as_str());
        if !stays && let Err(error) = remove(inner, &key).await {
            tracing::warn!(node, pod = %key.1, %error, "a static pod that is not wanted stays");
        }
    }
    for (key, (file, value)) in wanted {
        if let Err(message) = create(inner, node, &key, value).await {
            faults.push(v1::StaticPodFault { file, message });
        }
    }
    v1::StaticPodsReply { faults }
}

/// A node's mirror pods that nobody deleted, and what each was made from; nothing for one that ended though it should go
/// on, as after an eviction: it is made anew.
fn mirrors(snapshot: &Snapshot, node: &str) -> BTreeMap<Key, Option<String>> {
    let there = snapshot.pods_on(node).filter(|one| !pod::is_deleted(one));
    let known = there.filter_map(|one| {
        let made_from = one.metadata.annotations.as_ref()?.get(MIRROR)?.clone();
        let key = (one.metadata.namespace.clone()?, one.metadata.name.clone()?);
        let policy = one.spec.as_ref()?.restart_policy.as_deref();
        let anew = policy.unwrap_or("Always") == "Always" && pod::is_terminated(one);
        Some((key, Some(made_from).filter(|_| !anew)))
    });
    known.collect()
}

async fn remove(inner: &Inner, (namespace, name): &Key) -> Result<(), Status> {
    let pods = kind("v1", "Pod")?;
    let options = DeleteOptions::default();
    let removed = inner.objects.delete(pods, namespace, name, &options).await;
    removed.map(drop)
}

/// Makes a mirror pod, unless it is there or has to end first.
async fn create(inner: &Inner, node: &str, key: &Key, value: Value) -> Result<(), String> {
    let pods = kind("v1", "Pod").map_err(|status| status.to_string())?;
    if let Some(there) = inner.objects.get(pods, &key.0, &key.1) {
        let is_ours = there.value["spec"]["nodeName"] == node
            && there.value["metadata"]["annotations"][MIRROR].is_string();
        return match is_ours {
            true => Ok(()),
            false => Err(format!(
                "pod {}/{} is there already: delete it or rename this one",
                key.0, key.1
            )),
        };
    }
    let options = WriteOptions::default();
    let made = inner.objects.create(pods, value, &options).await;
    made.map(drop)
        .map_err(|status| format!("pod {}/{}: {status}", key.0, key.1))
}

/// The pod that stands for a manifest in the API.
fn mirror(node: &str, node_uid: &str, manifest: &[u8]) -> Result<(Key, Value), String> {
    let mut value = from_yaml(manifest).map_err(|status| status.to_string())?;
    if value["apiVersion"] != "v1" || value["kind"] != "Pod" {
        return Err("a static pod is a Pod: write apiVersion: v1 and kind: Pod".to_owned());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = text(&value["metadata"]["name"]);
    if name.is_empty() {
        return Err("metadata.name is missing: name the pod".to_owned());
    }
    let namespace = Some(text(&value["metadata"]["namespace"])).filter(|one| !one.is_empty());
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    let annotations = &value["metadata"]["annotations"];
    if !(annotations.is_object() || annotations.is_null()) {
        return Err("metadata.annotations: must be an object".to_owned());
    }
    check(&value["spec"])?;
    let hash = hex(&Sha256::digest(manifest)[..16]);
    let name = format!("{name}-{node}");
    let metadata = &mut value["metadata"];
    metadata["name"] = json!(name);
    metadata["namespace"] = json!(namespace);
    metadata["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid,
        "controller": true}]);
    for (key, text) in [(MIRROR, &hash), (HASH, &hash), (SOURCE, &"file".to_owned())] {
        metadata["annotations"][key] = json!(text);
    }
    let spec = &mut value["spec"];
    spec["nodeName"] = json!(node);
    spec["automountServiceAccountToken"] = json!(false);
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    tolerations.push(json!({"operator": "Exists", "effect": "NoExecute"}));
    spec["tolerations"] = json!(tolerations);
    Ok(((namespace, name), value))
}

/// A static pod can't hang on other objects: it must run without them.
fn check(spec: &Value) -> Result<(), String> {
    if !spec.is_object() {
        return Err("spec is missing: say which containers the pod has".to_owned());
    }
    let named = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    if named(&spec["serviceAccountName"]) || named(&spec["serviceAccount"]) {
        return Err(
            "spec.serviceAccountName: a static pod has no ServiceAccount: remove it".to_owned(),
        );
    }
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    for volume in volumes {
        let sources = [
            "secret",
            "configMap",
            "projected",
            "persistentVolumeClaim",
            "ephemeral",
            "csi",
        ];
        if let Some(source) = sources.iter().find(|source| !volume[**source].is_null()) {
            return Err(format!(
                "spec.volumes[{}].{source}: a static pod can't read other objects: use a hostPath or an emptyDir",
                volume["name"].as_str().unwrap_or_default()
            ));
        }
    }
    PodSpec::deserialize(spec).map_err(|error| format!("spec: {error}"))?;
    let needs = Needs::of(spec);
    match needs.config_maps.iter().chain(&needs.secrets).next() {
        None => Ok(()),
        Some(name) => Err(format!(
            "spec names {name:?}: a static pod can't read ConfigMaps or Secrets (env, envFrom, imagePullSecrets)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Cluster;
    use super::*;
    use waggle_wire::v1::node_client::NodeClient;

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\nspec: {containers: [{name: main, image: web:1}]}\n";

    #[test]
    fn what_hangs_on_other_objects_is_refused_with_the_field() {
        let with = |spec: &str| {
            format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {spec}\n")
        };
        for (text, said) in [
            ("kind: Service\napiVersion: v1\n".to_owned(), "kind: Pod"),
            (
                "apiVersion: v1\nkind: Pod\nspec: {}\n".to_owned(),
                "metadata.name",
            ),
            (
                with("{serviceAccountName: robot}"),
                "spec.serviceAccountName",
            ),
            (
                with("{volumes: [{name: a, secret: {secretName: b}}]}"),
                "spec.volumes[a].secret",
            ),
            (
                with("{containers: [{name: a, env: [{name: B, valueFrom: {secretKeyRef: {name: card, key: pin}}}]}]}"),
                "\"card\"",
            ),
            (with("{containers: [], imagePullSecrets: [{name: pull}]}"), "\"pull\""),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: text}\nspec: {containers: []}\n".to_owned(),
                "metadata.annotations",
            ),
            (with("[]"), "spec"),
            ("a: [".to_owned(), "YAML"),
        ] {
            let fault = mirror("node1", "uid", text.as_bytes()).unwrap_err();
            assert!(fault.contains(said), "{fault}");
        }
    }

    #[tokio::test]
    async fn a_folders_pods_come_change_come_back_and_go() {
        let cluster = Cluster::start().await;
        let mut one = cluster.agent("node1").await;
        let mut client = NodeClient::new(one.channel.clone());
        let mut say = async |files: &[(&str, &str)]| {
            let pods = files.iter().map(|(file, text)| v1::StaticPod {
                file: (*file).into(),
                manifest: text.as_bytes().to_vec().into(),
            });
            let request = v1::StaticPodsRequest {
                pods: pods.collect(),
            };
            client
                .static_pods(request)
                .await
                .unwrap()
                .into_inner()
                .faults
        };
        assert_eq!(say(&[("web.yaml", WEB)]).await, []);
        let made = cluster.pod("web-node1").unwrap();
        assert_eq!(made.value["spec"]["nodeName"], "node1");
        assert_eq!(made.value["metadata"]["ownerReferences"][0]["kind"], "Node");
        one.until("the node is told to run it", |one| one.pod("web-node1"))
            .await;
        assert_eq!(say(&[("web.yaml", WEB)]).await, []);
        assert_eq!(cluster.pod("web-node1").unwrap().uid, made.uid);
        let twice = say(&[("a.yaml", WEB), ("web.yaml", WEB)]).await;
        assert!(twice[0].message.contains("a.yaml has a pod"), "{twice:?}");
        let bad = WEB.replace("image: web:1", "image: web:1, imagePullPolicy: Sometimes");
        let faults = say(&[
            ("web.yaml", WEB),
            ("bad.yaml", &bad.replace("name: web,", "name: bad,")),
        ])
        .await;
        assert!(faults[0].message.contains("imagePullPolicy"), "{faults:?}");
        assert_eq!(faults[0].file, "bad.yaml");
        // Another version: the first has to end before.
        let new = WEB.replace("web:1", "web:2");
        say(&[("web.yaml", &new)]).await;
        let ending = cluster.pod("web-node1").unwrap();
        assert!(ending.value["metadata"]["deletionTimestamp"].is_string());
        let pods = kind("v1", "Pod").unwrap();
        let now = DeleteOptions {
            grace_period_seconds: Some(0),
            ..DeleteOptions::default()
        };
        let delete = async || {
            drop(
                cluster
                    .objects
                    .delete(pods, "shop", "web-node1", &now)
                    .await,
            )
        };
        delete().await;
        say(&[("web.yaml", &new)]).await;
        let second = cluster
            .eventually("the new version", |cluster| cluster.pod("web-node1"))
            .await;
        assert_eq!(second.value["spec"]["containers"][0]["image"], "web:2");
        say(&[]).await;
        let ending = cluster.pod("web-node1").unwrap();
        assert!(ending.value["metadata"]["deletionTimestamp"].is_string());
    }
}
