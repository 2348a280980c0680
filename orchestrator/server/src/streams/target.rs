//! Which container on which node a request means, and what a user is told when that can't be answered.

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use waggle_api::Status;
use waggle_wire::v1;

use super::Streams;
use crate::sessions::{OpenFault, StreamEnds, kind};

/// Annotation that says which container is meant when none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// A pod on a node.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) pod: v1::PodRef,
    pub(super) node: String,
    typed: Pod,
}

impl Target {
    /// Finds the pod and its node.
    pub(super) fn find(streams: &Streams, namespace: &str, name: &str) -> Result<Self, Status> {
        let pods = kind("v1", "Pod")?;
        let object = streams
            .objects
            .get(pods, namespace, name)
            .ok_or_else(|| Status::not_found(pods, name))?;
        let typed = Pod::deserialize(&*object.value).map_err(Status::internal)?;
        let node = typed.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let node = node.filter(|node| !node.is_empty()).ok_or_else(|| {
            Status::bad_request(format!("pod {name} does not have a host assigned"))
        })?;
        let pod = v1::PodRef {
            namespace: namespace.into(),
            name: name.into(),
            uid: object.uid.clone(),
        };
        Ok(Self { pod, node, typed })
    }

    /// The container that is meant; `named` may be empty.
    pub(super) fn container(&self, named: &str) -> Result<String, Status> {
        container(&self.typed, named)
    }

    /// Opens a stream with the pod's node.
    pub(super) async fn open(
        &self,
        streams: &Streams,
        request: v1::open_stream::Request,
    ) -> Result<StreamEnds, Status> {
        let sessions = streams.leading.sessions().ok_or_else(|| {
            Status::unavailable("this server does not lead: nodes are reached through the leader")
        })?;
        let opened = sessions.open(&self.node, request).await;
        opened.map_err(|fault| {
            let message = format!(
                "pod {}/{} can't be reached: {fault}",
                self.pod.namespace, self.pod.name
            );
            match fault {
                OpenFault::NotConnected { .. } => Status::unavailable(message),
                OpenFault::NoAnswer { .. } => Status::timeout(message),
            }
        })
    }
}

fn container(pod: &Pod, named: &str) -> Result<String, Status> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let main: Vec<&str> = spec
        .into_iter()
        .flat_map(|spec| &spec.containers)
        .map(|one| one.name.as_str())
        .collect();
    let init = spec
        .and_then(|spec| spec.init_containers.as_ref())
        .into_iter()
        .flatten();
    let ephemeral = spec
        .and_then(|spec| spec.ephemeral_containers.as_ref())
        .into_iter()
        .flatten();
    let others: Vec<&str> = init
        .map(|one| one.name.as_str())
        .chain(ephemeral.map(|one| one.name.as_str()))
        .collect();
    if !named.is_empty() {
        let known = main.iter().chain(&others).any(|one| *one == named);
        return if known {
            Ok(named.to_owned())
        } else {
            Err(Status::bad_request(format!(
                "container {named} is not valid for pod {name}"
            )))
        };
    }
    let default = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(DEFAULT_CONTAINER));
    if let Some(default) = default.filter(|default| main.contains(&default.as_str())) {
        return Ok(default.clone());
    }
    if let [only] = main.as_slice() {
        return Ok((*only).to_owned());
    }
    let choice = main.join(" ");
    let init = spec
        .and_then(|spec| spec.init_containers.as_ref())
        .into_iter()
        .flatten();
    let init: Vec<&str> = init.map(|one| one.name.as_str()).collect();
    let init = if init.is_empty() {
        String::new()
    } else {
        format!(" or one of the init containers: [{}]", init.join(" "))
    };
    Err(Status::bad_request(format!(
        "a container name must be specified for pod {name}, choose one of: [{choice}]{init}"
    )))
}

/// What an agent answered in place of a stream, or at its end.
pub(super) fn fault(end: &v1::StreamEnd) -> Option<Status> {
    if end.fault.is_empty() {
        return None;
    }
    Some(match end.reason.as_str() {
        "NotFound" => Status::failure(404, "NotFound", &end.fault),
        "BadRequest" => Status::bad_request(&end.fault),
        _ => Status::internal(&end.fault),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(annotation: Option<&str>, named: &str, expect: Result<&str, &str>) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "annotations": {DEFAULT_CONTAINER: annotation.unwrap_or_default()}},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
        }))
        .unwrap();
        let found = container(&pod, named).map_err(|status| status.message);
        assert_eq!(found.as_deref().map_err(String::as_str), expect);
    }

    #[test]
    fn containers_are_chosen_as_in_kubernetes() {
        check(None, "a", Ok("a"));
        check(None, "i", Ok("i"));
        check(None, "x", Err("container x is not valid for pod web"));
        check(Some("b"), "", Ok("b"));
        check(
            None,
            "",
            Err(
                "a container name must be specified for pod web, choose one of: [a b] or one of the init containers: [i]",
            ),
        );
    }
}
