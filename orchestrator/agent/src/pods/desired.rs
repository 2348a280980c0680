//! A pod as the server wants it on this node, decoded once where it enters. What is seen of it lives in `observed`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PersistentVolume, Pod, Secret};
use waggle_model::network::{InvalidFamilies, PerFamily};
use waggle_model::{IdentityId, PodKey, TenantId};
use waggle_wire::v1;

/// Everything that is needed to run one pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Desired {
    pub(crate) key: PodKey,
    pub(crate) pod: Pod,
    /// Its ephemeral containers.
    pub(crate) ephemeral: Ephemeral,
    /// By name.
    pub(crate) config_maps: BTreeMap<String, ConfigMap>,
    /// By name.
    pub(crate) secrets: BTreeMap<String, Secret>,
    /// By claim.
    pub(crate) volumes: BTreeMap<String, PersistentVolume>,
    pub(crate) identity: IdentityId,
    pub(crate) tenant: TenantId,
    /// `None` for a pod in the node's network.
    pub(crate) addresses: Option<PerFamily<IpAddr>>,
    /// No longer bound here: to be ended at once, whatever its own grace period says.
    pub(crate) removed: bool,
}

/// Containers that were added to a pod that runs. They are run once.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Ephemeral {
    /// As any other container.
    pub(crate) containers: Vec<Container>,
    /// By name, the container whose processes one of them is to see.
    pub(crate) targets: BTreeMap<String, String>,
}

impl Ephemeral {
    fn of(pod: &Pod) -> Result<Self, serde_json::Error> {
        let mut found = Self::default();
        let spec = pod.spec.iter();
        for one in spec.flat_map(|spec| spec.ephemeral_containers.iter().flatten()) {
            let same = serde_json::to_value(one)?;
            found.containers.push(serde_json::from_value(same)?);
            if let Some(target) = one.target_container_name.clone().filter(|t| !t.is_empty()) {
                found.targets.insert(one.name.clone(), target);
            }
        }
        Ok(found)
    }
}

/// An assignment that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("assignment of pod {namespace}/{name}: {field}: {cause}")]
pub(crate) struct BadAssignment {
    namespace: String,
    name: String,
    field: &'static str,
    cause: String,
}

impl TryFrom<v1::PodAssignment> for Desired {
    type Error = BadAssignment;

    fn try_from(message: v1::PodAssignment) -> Result<Self, BadAssignment> {
        let bad = |field, cause: String| BadAssignment {
            namespace: message.namespace.clone(),
            name: message.name.clone(),
            field,
            cause,
        };
        let pod: Pod =
            serde_json::from_slice(&message.pod_json).map_err(|e| bad("pod", e.to_string()))?;
        let addresses = match message.address.as_str() {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|error: InvalidFamilies| bad("address", error.to_string()))?,
            ),
        };
        let config_maps = named(&message.config_maps_json, |map: &ConfigMap| {
            &map.metadata.name
        })
        .map_err(|cause| bad("config maps", cause))?;
        let secrets = named(&message.secrets_json, |secret: &Secret| {
            &secret.metadata.name
        })
        .map_err(|cause| bad("secrets", cause))?;
        let volumes = message
            .volumes
            .iter()
            .map(|one| Ok((one.claim.clone(), serde_json::from_slice(&one.volume_json)?)))
            .collect::<Result<_, serde_json::Error>>()
            .map_err(|cause| bad("volumes", cause.to_string()))?;
        let ephemeral = Ephemeral::of(&pod).map_err(|cause| bad("pod", cause.to_string()))?;
        Ok(Self {
            ephemeral,
            key: PodKey {
                namespace: message.namespace,
                name: message.name,
                uid: message.uid,
            },
            pod,
            config_maps,
            secrets,
            volumes,
            identity: IdentityId(message.identity),
            tenant: TenantId(message.tenant),
            addresses,
            removed: false,
        })
    }
}

fn named<T: serde::de::DeserializeOwned>(
    objects: &[Bytes],
    name: impl Fn(&T) -> &Option<String>,
) -> Result<BTreeMap<String, T>, String> {
    objects
        .iter()
        .map(|bytes| {
            let object: T = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
            Ok((name(&object).clone().unwrap_or_default(), object))
        })
        .collect()
}

/// `restartPolicy` of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl Desired {
    /// In the node's IPC namespace.
    pub(crate) fn host_ipc(&self) -> bool {
        let spec = self.pod.spec.as_ref();
        spec.and_then(|spec| spec.host_ipc) == Some(true)
    }

    /// Its containers see each other's processes.
    pub(crate) fn shares_processes(&self) -> bool {
        let spec = self.pod.spec.as_ref();
        spec.and_then(|spec| spec.share_process_namespace) == Some(true)
    }

    /// In the node's process namespace.
    pub(crate) fn host_pid(&self) -> bool {
        let spec = self.pod.spec.as_ref();
        spec.and_then(|spec| spec.host_pid) == Some(true)
    }

    /// Kernel parameters of its namespaces, name and value.
    pub(crate) fn sysctls(&self) -> Vec<(String, String)> {
        let spec = self.pod.spec.as_ref();
        let context = spec.and_then(|spec| spec.security_context.as_ref());
        let all = context.and_then(|context| context.sysctls.as_deref());
        all.unwrap_or_default()
            .iter()
            .map(|one| (one.name.clone(), one.value.clone()))
            .collect()
    }

    /// The primary address; `None` for a pod in the node's network.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.addresses.map(|both| both.primary())
    }

    /// The main containers.
    pub(crate) fn containers(&self) -> &[Container] {
        self.pod.spec.as_ref().map_or(&[], |spec| &spec.containers)
    }

    /// The init containers, sidecars among them, in their order.
    pub(crate) fn init_containers(&self) -> &[Container] {
        self.pod
            .spec
            .as_ref()
            .and_then(|spec| spec.init_containers.as_deref())
            .unwrap_or_default()
    }

    /// Init and main containers.
    pub(crate) fn own_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers().iter().chain(self.containers())
    }

    /// Init, main and ephemeral containers.
    pub(crate) fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.own_containers().chain(&self.ephemeral.containers)
    }

    /// Shares the node's network namespace.
    pub(crate) fn host_network(&self) -> bool {
        self.pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.host_network == Some(true))
    }

    /// `restartPolicy`, `Always` unless said otherwise.
    pub(crate) fn restart_policy(&self) -> RestartPolicy {
        match self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.as_deref())
        {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        }
    }

    /// Is to end.
    pub(crate) fn ending(&self) -> bool {
        self.removed || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Seconds between SIGTERM and SIGKILL when it ends.
    pub(crate) fn grace_seconds(&self) -> i64 {
        if self.removed {
            return 0;
        }
        let own = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds);
        self.pod
            .metadata
            .deletion_grace_period_seconds
            .or(own)
            .unwrap_or(30)
            .max(0)
    }
}

/// An init container that keeps running beside the main ones.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}
