//! Rows of the kinds that are kept, checked and shown here and acted on elsewhere, if at all: access rules, storage,
//! ingress, quota, extensions.

use k8s_openapi::api::{
    admissionregistration, certificates, core, flowcontrol, networking, node, rbac, storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;

use crate::resource::Resource;
use crate::{defaults, table, validate};

pub(super) const ENDPOINTS: Resource = Resource {
    short_names: &["ep"],
    defaults: defaults::endpoints,
    validate: validate::endpoints,
    columns: table::network::ENDPOINTS,
    cells: table::network::endpoints,
    ..Resource::of::<core::v1::Endpoints>("endpoints", true)
};

pub(super) const LIMIT_RANGE: Resource = Resource {
    short_names: &["limits"],
    defaults: defaults::limit_range,
    validate: validate::limit_range,
    columns: table::NAME_AND_CREATION,
    cells: table::name_and_creation,
    ..Resource::of::<core::v1::LimitRange>("limitrange", true)
};

pub(super) const PERSISTENT_VOLUME: Resource = Resource {
    short_names: &["pv"],
    subresources: &["status"],
    defaults: defaults::persistent_volume,
    validate: validate::persistent_volume,
    columns: table::storage::PERSISTENT_VOLUME,
    cells: table::storage::persistent_volume,
    ..Resource::of::<core::v1::PersistentVolume>("persistentvolume", false)
};

pub(super) const PERSISTENT_VOLUME_CLAIM: Resource = Resource {
    short_names: &["pvc"],
    subresources: &["status"],
    defaults: defaults::persistent_volume_claim,
    validate: validate::persistent_volume_claim,
    columns: table::storage::PERSISTENT_VOLUME_CLAIM,
    cells: table::storage::persistent_volume_claim,
    ..Resource::of::<core::v1::PersistentVolumeClaim>("persistentvolumeclaim", true)
};

pub(super) const POD_TEMPLATE: Resource = Resource {
    defaults: defaults::pod_template,
    validate: validate::pod_template,
    columns: table::workload::POD_TEMPLATE,
    cells: table::workload::pod_template,
    ..Resource::of::<core::v1::PodTemplate>("podtemplate", true)
};

pub(super) const RESOURCE_QUOTA: Resource = Resource {
    short_names: &["quota"],
    subresources: &["status"],
    validate: validate::resource_quota,
    columns: table::config::RESOURCE_QUOTA,
    cells: table::config::resource_quota,
    ..Resource::of::<core::v1::ResourceQuota>("resourcequota", true)
};

pub(super) const MUTATING_WEBHOOKS: Resource = Resource {
    categories: &["api-extensions"],
    defaults: defaults::webhooks,
    validate: validate::webhooks,
    columns: table::extension::WEBHOOKS,
    cells: table::extension::webhooks,
    ..Resource::of::<admissionregistration::v1::MutatingWebhookConfiguration>(
        "mutatingwebhookconfiguration",
        false,
    )
};

pub(super) const VALIDATING_WEBHOOKS: Resource = Resource {
    categories: &["api-extensions"],
    defaults: defaults::webhooks,
    validate: validate::webhooks,
    columns: table::extension::WEBHOOKS,
    cells: table::extension::webhooks,
    ..Resource::of::<admissionregistration::v1::ValidatingWebhookConfiguration>(
        "validatingwebhookconfiguration",
        false,
    )
};

pub(super) const CUSTOM_RESOURCE_DEFINITION: Resource = Resource {
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    subresources: &["status"],
    defaults: defaults::custom_resource_definition,
    validate: validate::custom_resource_definition,
    columns: table::NAME_AND_CREATION,
    cells: table::name_and_creation,
    ..Resource::of::<apiextensions::v1::CustomResourceDefinition>("customresourcedefinition", false)
};

pub(super) const SIGNING_REQUEST: Resource = Resource {
    short_names: &["csr"],
    subresources: &["approval", "status"],
    validate: validate::signing_request,
    columns: table::extension::SIGNING_REQUEST,
    cells: table::extension::signing_request,
    selectable: &["spec.signerName"],
    ..Resource::of::<certificates::v1::CertificateSigningRequest>(
        "certificatesigningrequest",
        false,
    )
};

pub(super) const FLOW_SCHEMA: Resource = Resource {
    subresources: &["status"],
    defaults: defaults::flow_schema,
    validate: validate::flow_schema,
    columns: table::flow::FLOW_SCHEMA,
    cells: table::flow::flow_schema,
    ..Resource::of::<flowcontrol::v1::FlowSchema>("flowschema", false)
};

pub(super) const PRIORITY_LEVEL: Resource = Resource {
    subresources: &["status"],
    defaults: defaults::priority_level,
    validate: validate::priority_level,
    columns: table::flow::PRIORITY_LEVEL,
    cells: table::flow::priority_level,
    ..Resource::of::<flowcontrol::v1::PriorityLevelConfiguration>(
        "prioritylevelconfiguration",
        false,
    )
};

pub(super) const INGRESS_CLASS: Resource = Resource {
    validate: validate::ingress_class,
    columns: table::network::INGRESS_CLASS,
    cells: table::network::ingress_class,
    ..Resource::of::<networking::v1::IngressClass>("ingressclass", false)
};

pub(super) const INGRESS: Resource = Resource {
    short_names: &["ing"],
    subresources: &["status"],
    validate: validate::ingress,
    columns: table::network::INGRESS,
    cells: table::network::ingress,
    ..Resource::of::<networking::v1::Ingress>("ingress", true)
};

pub(super) const NETWORK_POLICY: Resource = Resource {
    short_names: &["netpol"],
    defaults: defaults::network_policy,
    validate: validate::network_policy,
    columns: table::network::NETWORK_POLICY,
    cells: table::network::network_policy,
    ..Resource::of::<networking::v1::NetworkPolicy>("networkpolicy", true)
};

pub(super) const RUNTIME_CLASS: Resource = Resource {
    validate: validate::runtime_class,
    columns: table::extension::RUNTIME_CLASS,
    cells: table::extension::runtime_class,
    ..Resource::of::<node::v1::RuntimeClass>("runtimeclass", false)
};

pub(super) const CLUSTER_ROLE_BINDING: Resource = Resource {
    defaults: defaults::role_binding,
    validate: validate::cluster_role_binding,
    columns: table::access::ROLE_BINDING,
    cells: table::access::role_binding,
    ..Resource::of::<rbac::v1::ClusterRoleBinding>("clusterrolebinding", false)
};

pub(super) const CLUSTER_ROLE: Resource = Resource {
    validate: validate::cluster_role,
    columns: table::NAME_AND_CREATION,
    cells: table::name_and_creation,
    ..Resource::of::<rbac::v1::ClusterRole>("clusterrole", false)
};

pub(super) const ROLE_BINDING: Resource = Resource {
    defaults: defaults::role_binding,
    validate: validate::role_binding,
    columns: table::access::ROLE_BINDING,
    cells: table::access::role_binding,
    ..Resource::of::<rbac::v1::RoleBinding>("rolebinding", true)
};

pub(super) const ROLE: Resource = Resource {
    validate: validate::role,
    columns: table::NAME_AND_CREATION,
    cells: table::name_and_creation,
    ..Resource::of::<rbac::v1::Role>("role", true)
};

pub(super) const STORAGE_CLASS: Resource = Resource {
    short_names: &["sc"],
    defaults: defaults::storage_class,
    validate: validate::storage_class,
    columns: table::storage::STORAGE_CLASS,
    cells: table::storage::storage_class,
    ..Resource::of::<storage::v1::StorageClass>("storageclass", false)
};
