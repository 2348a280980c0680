//! The fields of a pod that decisions are made from, by the names and types that Kubernetes gives them. There are many
//! pods: one with every field takes six times the memory. What is not here (environment, probes, mounts, most volumes) is
//! for the pod's node, which is sent the object as it was committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Affinity, ContainerPort, ContainerState, EphemeralVolumeSource,
    PersistentVolumeClaimVolumeSource, PodCondition, PodIP, PodSchedulingGate, PodSchedulingGroup,
    Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::de::Error as _;
use serde::de::value::MapDeserializer;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::Needs;
use crate::resources::Quantities;

/// A pod as decisions look at it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pod {
    /// `metadata`.
    pub metadata: ObjectMeta,
    /// Of `spec`, what is its own.
    pub place: Place,
    /// Of `spec`, what pods of a template have in common: they share it.
    pub spec: Option<Arc<PodSpec>>,
    /// `status`.
    pub status: Option<PodStatus>,
}

impl Pod {
    /// Reads it from a pod's JSON.
    ///
    /// # Errors
    /// What the decoder says of a field that is not of its type.
    pub fn of(value: &Value) -> Result<Self, serde_json::Error> {
        let spec = &value["spec"];
        Ok(Self {
            metadata: metadata(&value["metadata"])?,
            place: Option::deserialize(spec)?.unwrap_or_default(),
            spec: shared(spec)?.map(Arc::new),
            status: Option::deserialize(&value["status"])?,
        })
    }
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of(&Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl k8s_openapi::Resource for Pod {
    const API_VERSION: &'static str = "v1";
    const GROUP: &'static str = "";
    const KIND: &'static str = "Pod";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "pods";
    type Scope = k8s_openapi::NamespaceResourceScope;
}

impl k8s_openapi::Metadata for Pod {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Of a pod's `spec`, what tells it from others of its template.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Place {
    /// `hostname`.
    pub hostname: Option<String>,
    /// `nodeName`.
    pub node_name: Option<String>,
    /// Those of `volumes` that are claims.
    #[serde(deserialize_with = "claims")]
    pub volumes: Option<Vec<Volume>>,
}

/// Of a pod's `spec`, what is its template's.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// `affinity`.
    pub affinity: Option<Box<Affinity>>,
    /// `containers`.
    pub containers: Vec<Container>,
    /// `hostNetwork`.
    pub host_network: Option<bool>,
    /// `initContainers`.
    pub init_containers: Option<Vec<Container>>,
    /// What it names in its namespace.
    #[serde(skip)]
    pub needs: Needs,
    /// `nodeSelector`.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// `overhead`.
    pub overhead: Quantities,
    /// `preemptionPolicy`.
    pub preemption_policy: Option<String>,
    /// `priority`.
    pub priority: Option<i32>,
    /// `resources`, of the whole pod.
    pub resources: Resources,
    /// `restartPolicy`.
    pub restart_policy: Option<String>,
    /// `schedulerName`.
    pub scheduler_name: Option<String>,
    /// `schedulingGates`.
    pub scheduling_gates: Option<Vec<PodSchedulingGate>>,
    /// `schedulingGroup`.
    pub scheduling_group: Option<PodSchedulingGroup>,
    /// `subdomain`.
    pub subdomain: Option<String>,
    /// `tolerations`.
    pub tolerations: Option<Vec<Toleration>>,
    /// `topologySpreadConstraints`.
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
}

/// Of a container.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// `image`.
    pub image: Option<String>,
    /// `name`.
    pub name: String,
    /// `ports`.
    pub ports: Option<Vec<ContainerPort>>,
    /// `resources`.
    pub resources: Resources,
    /// `restartPolicy`: `Always` makes a sidecar of an init container.
    pub restart_policy: Option<String>,
}

/// What a container, or a pod as a whole, asks for and may take.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// `limits`.
    pub limits: Quantities,
    /// `requests`.
    pub requests: Quantities,
}

/// A volume that is a claim.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// `ephemeral`.
    pub ephemeral: Option<Box<EphemeralVolumeSource>>,
    /// `name`.
    pub name: String,
    /// `persistentVolumeClaim`.
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
}

/// Of a pod's `status`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `conditions`.
    pub conditions: Option<Vec<PodCondition>>,
    /// `containerStatuses`.
    pub container_statuses: Option<Vec<ContainerStatus>>,
    /// `initContainerStatuses`.
    pub init_container_statuses: Option<Vec<ContainerStatus>>,
    /// `nominatedNodeName`.
    pub nominated_node_name: Option<String>,
    /// `phase`.
    pub phase: Option<String>,
    /// `podIP`.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// `podIPs`.
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Vec<PodIP>>,
    /// `reason`.
    pub reason: Option<String>,
    /// `startTime`.
    pub start_time: Option<Time>,
}

/// Of a container's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// `name`.
    pub name: String,
    /// `ready`.
    pub ready: bool,
    /// `restartCount`.
    pub restart_count: i32,
    /// `state`.
    pub state: Option<Box<ContainerState>>,
}

fn shared(value: &Value) -> Result<Option<PodSpec>, serde_json::Error> {
    let mut spec: Option<PodSpec> = Option::deserialize(value)?;
    if let Some(spec) = &mut spec {
        spec.needs = Needs::of(value);
    }
    Ok(spec)
}

/// Without `managedFields`, which are as large as the rest, and which nobody here reads.
fn metadata(value: &Value) -> Result<ObjectMeta, serde_json::Error> {
    let fields = value.as_object().into_iter().flatten();
    let read = fields.filter(|(name, _)| *name != "managedFields");
    ObjectMeta::deserialize(MapDeserializer::new(
        read.map(|(name, value)| (name.as_str(), value)),
    ))
}

fn claims<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Volume>>, D::Error> {
    let volumes = Option::<Vec<Volume>>::deserialize(deserializer)?;
    let is_claim = |one: &Volume| one.persistent_volume_claim.is_some() || one.ephemeral.is_some();
    let claims: Vec<Volume> = volumes.into_iter().flatten().filter(is_claim).collect();
    Ok((!claims.is_empty()).then_some(claims))
}
