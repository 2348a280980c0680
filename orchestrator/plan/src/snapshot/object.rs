//! An object read once: what ownership needs of any kind, and the typed object of kinds that planners read. Whoever keeps
//! several snapshots shares it between them.

use std::sync::Arc;

use k8s_openapi::Metadata;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, ReplicationController,
    ResourceQuota, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1beta1::PodGroup as SchedulingGroup;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Meta, SnapshotError};
use crate::pod::Pod;
use crate::tenant::Tenant;

/// One version of an object.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(super) meta: Arc<Meta>,
    pub(super) typed: Typed,
}

/// The object itself; `Other` where its metadata is all that planners read.
#[derive(Debug, Clone)]
pub(super) enum Typed {
    Pod(Arc<Pod>),
    Node(Arc<Node>),
    Service(Arc<Service>),
    ResourceQuota(Arc<ResourceQuota>),
    Namespace(Arc<Namespace>),
    PersistentVolume(Arc<PersistentVolume>),
    PersistentVolumeClaim(Arc<PersistentVolumeClaim>),
    StorageClass(Arc<StorageClass>),
    Endpoints(Arc<Endpoints>),
    EndpointSlice(Arc<EndpointSlice>),
    Deployment(Arc<Deployment>),
    ReplicaSet(Arc<ReplicaSet>),
    ReplicationController(Arc<ReplicationController>),
    StatefulSet(Arc<StatefulSet>),
    DaemonSet(Arc<DaemonSet>),
    ControllerRevision(Arc<ControllerRevision>),
    Job(Arc<Job>),
    CronJob(Arc<CronJob>),
    Autoscaler(Arc<HorizontalPodAutoscaler>),
    DisruptionBudget(Arc<PodDisruptionBudget>),
    PodGroup(Arc<SchedulingGroup>),
    Lease(Arc<Lease>),
    NetworkPolicy(Arc<NetworkPolicy>),
    SigningRequest(Arc<CertificateSigningRequest>),
    Definition(Arc<CustomResourceDefinition>),
    FlowSchema(Arc<FlowSchema>),
    Tenant(Arc<Tenant>),
    Other,
}

impl Object {
    /// Reads an object's JSON with apiVersion and kind.
    pub(crate) fn of(value: &Value) -> Result<Self, SnapshotError> {
        let meta = Meta::of(value);
        let typed = Typed::of(value, &meta)?;
        let meta = Arc::new(meta);
        Ok(Self { meta, typed })
    }
}

impl Typed {
    fn of(value: &Value, meta: &Meta) -> Result<Self, SnapshotError> {
        let kind = (&*meta.key.api_version, &*meta.key.kind);
        Ok(match kind {
            ("v1", "Pod") => {
                let pod = Pod::of(value).map_err(|cause| refused(meta, cause))?;
                Self::Pod(Arc::new(pod))
            }
            ("v1", "Node") => Self::Node(decode(value, meta)?),
            ("v1", "Service") => Self::Service(decode(value, meta)?),
            ("v1", "ResourceQuota") => Self::ResourceQuota(decode(value, meta)?),
            ("v1", "Namespace") => Self::Namespace(decode(value, meta)?),
            ("v1", "PersistentVolume") => Self::PersistentVolume(decode(value, meta)?),
            ("v1", "PersistentVolumeClaim") => Self::PersistentVolumeClaim(decode(value, meta)?),
            ("storage.k8s.io/v1", "StorageClass") => Self::StorageClass(decode(value, meta)?),
            ("v1", "Endpoints") => Self::Endpoints(decode(value, meta)?),
            ("discovery.k8s.io/v1", "EndpointSlice") => Self::EndpointSlice(decode(value, meta)?),
            ("apps/v1", "Deployment") => Self::Deployment(decode(value, meta)?),
            ("apps/v1", "ReplicaSet") => Self::ReplicaSet(decode(value, meta)?),
            ("v1", "ReplicationController") => Self::ReplicationController(decode(value, meta)?),
            ("apps/v1", "StatefulSet") => Self::StatefulSet(decode(value, meta)?),
            ("apps/v1", "DaemonSet") => Self::DaemonSet(decode(value, meta)?),
            ("apps/v1", "ControllerRevision") => Self::ControllerRevision(decode(value, meta)?),
            ("batch/v1", "Job") => Self::Job(decode(value, meta)?),
            ("batch/v1", "CronJob") => Self::CronJob(decode(value, meta)?),
            ("autoscaling/v2", "HorizontalPodAutoscaler") => Self::Autoscaler(decode(value, meta)?),
            ("policy/v1", "PodDisruptionBudget") => Self::DisruptionBudget(decode(value, meta)?),
            ("scheduling.k8s.io/v1beta1", "PodGroup") => Self::PodGroup(decode(value, meta)?),
            ("coordination.k8s.io/v1", "Lease") => Self::Lease(decode(value, meta)?),
            ("networking.k8s.io/v1", "NetworkPolicy") => Self::NetworkPolicy(decode(value, meta)?),
            ("certificates.k8s.io/v1", "CertificateSigningRequest") => {
                Self::SigningRequest(decode(value, meta)?)
            }
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
                Self::Definition(decode(value, meta)?)
            }
            ("flowcontrol.apiserver.k8s.io/v1", "FlowSchema") => {
                Self::FlowSchema(decode(value, meta)?)
            }
            ("waggle.dev/v1", "Tenant") => Self::Tenant(decode(value, meta)?),
            _ => Self::Other,
        })
    }
}

/// An object as planners see it: without `managedFields`, which are as large as the rest, and which a write that says
/// nothing of them leaves as they are.
fn decode<T>(value: &Value, meta: &Meta) -> Result<Arc<T>, SnapshotError>
where
    T: DeserializeOwned + Metadata<Ty = ObjectMeta>,
{
    let mut object = T::deserialize(value).map_err(|cause| refused(meta, cause))?;
    object.metadata_mut().managed_fields = None;
    Ok(Arc::new(object))
}

fn refused(meta: &Meta, cause: serde_json::Error) -> SnapshotError {
    SnapshotError {
        kind: meta.key.kind.to_string(),
        namespace: meta.key.namespace.to_string(),
        name: meta.key.name.clone(),
        cause,
    }
}
