//! The registry: one row says everything that the API machinery knows of a kind. Adding a kind is adding a row.

mod stored;
mod views;
mod workload;

use k8s_openapi::api::{apps, coordination, core, discovery};

use crate::decode::{decode, schema};
use crate::resource::{Resource, Source};
use crate::{defaults, table, tenant, validate};

/// Every kind that is served, in the order that discovery lists them.
pub static RESOURCES: &[Resource] = &[
    Resource {
        group: "",
        version: "v1",
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        categories: &[],
        namespaced: true,
        subresources: &[],
        defaults: defaults::nothing,
        decode: decode::<core::v1::ConfigMap>,
        validate: validate::config_map,
        columns: table::config::CONFIG_MAP,
        cells: table::config::config_map,
        selectable: &[],
        schema: schema::<core::v1::ConfigMap>,
        source: Source::Registry,
    },
    Resource {
        group: "",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        categories: &[],
        namespaced: true,
        subresources: &[],
        defaults: defaults::nothing,
        decode: decode::<core::v1::Event>,
        validate: validate::event,
        columns: table::cluster::EVENT,
        cells: table::cluster::event,
        selectable: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        schema: schema::<core::v1::Event>,
        source: Source::Registry,
    },
    Resource {
        group: "",
        version: "v1",
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        categories: &[],
        namespaced: false,
        subresources: &["status"],
        defaults: defaults::namespace,
        decode: decode::<core::v1::Namespace>,
        validate: validate::namespace,
        columns: table::cluster::NAMESPACE,
        cells: table::cluster::namespace,
        selectable: &["status.phase"],
        schema: schema::<core::v1::Namespace>,
        source: Source::Registry,
    },
    Resource {
        group: "",
        version: "v1",
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        categories: &[],
        namespaced: false,
        subresources: &["status"],
        defaults: defaults::nothing,
        decode: decode::<core::v1::Node>,
        validate: validate::node,
        columns: table::node::NODE,
        cells: table::node::node,
        selectable: &["spec.unschedulable"],
        schema: schema::<core::v1::Node>,
        source: Source::Registry,
    },
    Resource {
        group: "",
        version: "v1",
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        namespaced: true,
        subresources: &["ephemeralcontainers", "resize", "status"],
        defaults: defaults::pod,
        decode: decode::<core::v1::Pod>,
        validate: validate::pod,
        columns: table::pod::POD,
        cells: table::pod::pod,
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        schema: schema::<core::v1::Pod>,
        source: Source::Registry,
    },
    workload::REPLICATION_CONTROLLER,
    Resource {
        group: "",
        version: "v1",
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        short_names: &[],
        categories: &[],
        namespaced: true,
        subresources: &[],
        defaults: defaults::secret,
        decode: decode::<core::v1::Secret>,
        validate: validate::secret,
        columns: table::config::SECRET,
        cells: table::config::secret,
        selectable: &["type"],
        schema: schema::<core::v1::Secret>,
        source: Source::Registry,
    },
    Resource {
        group: "",
        version: "v1",
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        categories: &[],
        namespaced: true,
        subresources: &[],
        defaults: defaults::nothing,
        decode: decode::<core::v1::ServiceAccount>,
        validate: validate::service_account,
        columns: table::config::SERVICE_ACCOUNT,
        cells: table::config::service_account,
        selectable: &[],
        schema: schema::<core::v1::ServiceAccount>,
        source: Source::Registry,
    },
    Resource {
        group: "",
        version: "v1",
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        namespaced: true,
        subresources: &["status"],
        defaults: defaults::service,
        decode: decode::<core::v1::Service>,
        validate: validate::service,
        columns: table::network::SERVICE,
        cells: table::network::service,
        selectable: &["spec.clusterIP", "spec.type"],
        schema: schema::<core::v1::Service>,
        source: Source::Registry,
    },
    workload::CONTROLLER_REVISION,
    workload::DAEMON_SET,
    Resource {
        group: "apps",
        version: "v1",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        namespaced: true,
        subresources: &["status", "scale"],
        defaults: defaults::deployment,
        decode: decode::<apps::v1::Deployment>,
        validate: validate::deployment,
        columns: table::workload::DEPLOYMENT,
        cells: table::workload::deployment,
        selectable: &[],
        schema: schema::<apps::v1::Deployment>,
        source: Source::Registry,
    },
    Resource {
        group: "apps",
        version: "v1",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        namespaced: true,
        subresources: &["status", "scale"],
        defaults: defaults::replica_set,
        decode: decode::<apps::v1::ReplicaSet>,
        validate: validate::replica_set,
        columns: table::workload::REPLICA_SET,
        cells: table::workload::replica_set,
        selectable: &["status.replicas"],
        schema: schema::<apps::v1::ReplicaSet>,
        source: Source::Registry,
    },
    workload::STATEFUL_SET,
    workload::HORIZONTAL_POD_AUTOSCALER,
    workload::CRON_JOB,
    workload::JOB,
    Resource {
        group: "coordination.k8s.io",
        version: "v1",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        short_names: &[],
        categories: &[],
        namespaced: true,
        subresources: &[],
        defaults: defaults::nothing,
        decode: decode::<coordination::v1::Lease>,
        validate: validate::lease,
        columns: table::cluster::LEASE,
        cells: table::cluster::lease,
        selectable: &[],
        schema: schema::<coordination::v1::Lease>,
        source: Source::Registry,
    },
    Resource {
        group: "discovery.k8s.io",
        version: "v1",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        short_names: &[],
        categories: &[],
        namespaced: true,
        subresources: &[],
        defaults: defaults::endpoint_slice,
        decode: decode::<discovery::v1::EndpointSlice>,
        validate: validate::endpoint_slice,
        columns: table::network::ENDPOINT_SLICE,
        cells: table::network::endpoint_slice,
        selectable: &[],
        schema: schema::<discovery::v1::EndpointSlice>,
        source: Source::Registry,
    },
    workload::POD_DISRUPTION_BUDGET,
    workload::PRIORITY_CLASS,
    workload::POD_GROUP,
    stored::ENDPOINTS,
    stored::LIMIT_RANGE,
    stored::PERSISTENT_VOLUME,
    stored::PERSISTENT_VOLUME_CLAIM,
    stored::POD_TEMPLATE,
    stored::RESOURCE_QUOTA,
    stored::MUTATING_WEBHOOKS,
    stored::VALIDATING_WEBHOOKS,
    stored::CUSTOM_RESOURCE_DEFINITION,
    stored::SIGNING_REQUEST,
    stored::FLOW_SCHEMA,
    stored::PRIORITY_LEVEL,
    stored::INGRESS_CLASS,
    stored::INGRESS,
    stored::NETWORK_POLICY,
    stored::RUNTIME_CLASS,
    stored::CLUSTER_ROLE_BINDING,
    stored::CLUSTER_ROLE,
    stored::ROLE_BINDING,
    stored::ROLE,
    stored::STORAGE_CLASS,
    Resource {
        group: "waggle.dev",
        version: "v1",
        kind: "Tenant",
        plural: "tenants",
        singular: "tenant",
        short_names: &["tn"],
        categories: &[],
        namespaced: false,
        subresources: &["status"],
        defaults: defaults::nothing,
        decode: decode::<tenant::Tenant>,
        validate: validate::tenant,
        columns: table::cluster::TENANT,
        cells: table::cluster::tenant,
        selectable: &[],
        schema: schema::<tenant::Tenant>,
        source: Source::Registry,
    },
];

/// Other versions and groups under which kinds of [`RESOURCES`] are served.
pub static VIEWS: &[Resource] = &[views::AUTOSCALER, views::EVENT];

/// By path: `("apps", "v1", "deployments")`; the group is empty for core.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES
        .iter()
        .chain(VIEWS)
        .find(|row| row.group == group && row.version == version && row.plural == plural)
}

/// By what an object says it is: `("apps/v1", "Deployment")`.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    RESOURCES
        .iter()
        .chain(VIEWS)
        .find(|row| row.group == group && row.version == version && row.kind == kind)
}

/// By what people type: plural, singular, short name or kind, with or without `.group` (or `.version.group`), in any
/// case.
pub fn lookup_name(name: &str) -> Option<&'static Resource> {
    let lower = name.to_ascii_lowercase();
    let (word, rest) = lower.split_once('.').unwrap_or((&lower, ""));
    RESOURCES.iter().find(|row| {
        let named = [row.plural, row.singular].contains(&word)
            || row.short_names.contains(&word)
            || row.kind.to_ascii_lowercase() == word;
        named
            && (rest.is_empty()
                || rest == row.group
                || rest == format!("{}.{}", row.version, row.group))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_path_kind_and_typed_name() {
        for (name, kind) in [
            ("po", "Pod"),
            ("pods", "Pod"),
            ("pod", "Pod"),
            ("Pod", "Pod"),
            ("deploy", "Deployment"),
            ("deployments.apps", "Deployment"),
            ("deployments.v1.apps", "Deployment"),
            ("tn", "Tenant"),
        ] {
            assert_eq!(lookup_name(name).map(|row| row.kind), Some(kind), "{name}");
        }
        assert!(lookup_name("deployments.batch").is_none());
        assert!(lookup_name("").is_none());
        for row in RESOURCES.iter().chain(VIEWS) {
            assert!(std::ptr::eq(
                find(row.group, row.version, row.plural).unwrap(),
                row
            ));
            assert!(std::ptr::eq(
                by_kind(&row.api_version(), row.kind).unwrap(),
                row
            ));
        }
    }

    #[test]
    fn no_name_is_used_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for row in RESOURCES {
            let mut own: Vec<&str> = row.short_names.to_vec();
            own.extend([row.plural, row.singular]);
            own.sort_unstable();
            // Endpoints are one and many.
            own.dedup();
            for name in own {
                assert!(seen.insert(name), "{name}");
            }
        }
    }
}
