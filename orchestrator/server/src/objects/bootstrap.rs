//! What every cluster has from its first moment: namespaces, tenants, and the Service by which pods reach the API.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use waggle_api::{Part, Resource, Status, by_kind};
use waggle_model::{DEFAULT_TENANT, SYSTEM_TENANT, TENANT_LABEL};

use super::commit::text;
use super::{Objects, WriteOptions};

const STORED: WriteOptions = WriteOptions::STORED;
/// Name of the Service, its EndpointSlice and its Endpoints.
const API: &str = "kubernetes";

impl Objects {
    /// Makes what is missing, and points the API's Service at `advertise`, where pods reach the API. `api_vip` is the
    /// Service's virtual address.
    ///
    /// # Errors
    /// What a write says.
    pub async fn bootstrap(&self, api_vip: IpAddr, advertise: SocketAddr) -> Result<(), Status> {
        for name in [DEFAULT_TENANT, SYSTEM_TENANT] {
            self.ensure(json!({
                "apiVersion": "waggle.dev/v1", "kind": "Tenant", "metadata": {"name": name}, "spec": {},
            }))
            .await?;
        }
        for (name, tenant) in [
            ("default", None),
            ("kube-system", Some(SYSTEM_TENANT)),
            ("kube-public", Some(SYSTEM_TENANT)),
            ("kube-node-lease", Some(SYSTEM_TENANT)),
        ] {
            let labels = tenant.map_or_else(|| json!({}), |tenant| json!({TENANT_LABEL: tenant}));
            self.ensure(json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
            }))
            .await?;
        }
        for (name, value, about) in [
            (
                "system-cluster-critical",
                2_000_000_000,
                "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
            ),
            (
                "system-node-critical",
                2_000_001_000,
                "Used for system critical pods that must not be moved from their current node.",
            ),
        ] {
            self.ensure(json!({
                "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
                "value": value, "description": about,
            }))
            .await?;
        }
        self.ensure(json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": "local-path", "annotations": {
                "storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": waggle_plan::storage::PROVISIONER,
            "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
        }))
        .await?;
        let kept = waggle_api::access::defaults()
            .into_iter()
            .chain(waggle_api::flow::objects());
        for value in kept {
            self.ensure(value).await?;
        }
        self.ensure(service(api_vip, advertise)).await?;
        let slice = slice(advertise);
        self.point(slice, &["endpoints", "ports"]).await?;
        self.point(endpoints(advertise), &["subsets"]).await
    }

    /// Makes an object of the API's Service, or brings its `fields` up to date.
    async fn point(&self, wanted: Value, fields: &[&str]) -> Result<(), Status> {
        self.ensure(wanted.clone()).await?;
        let kind = kind_of(&wanted)?;
        self.modify(kind, "default", API, Part::Main, &STORED, |old| {
            let mut value = old.value.clone();
            for field in fields {
                value[*field] = wanted[*field].clone();
            }
            Ok(value)
        })
        .await
        .map(drop)
    }

    /// Creates the object unless it is there.
    async fn ensure(&self, value: Value) -> Result<(), Status> {
        let kind = kind_of(&value)?;
        if self
            .get(kind, text(&value, "namespace"), text(&value, "name"))
            .is_some()
        {
            return Ok(());
        }
        match self.create(kind, value, &STORED).await {
            Err(status) if status.is_already_exists() => Ok(()),
            other => other.map(drop),
        }
    }
}

fn kind_of(value: &Value) -> Result<&'static Resource, Status> {
    let word = |field: &str| value[field].as_str().unwrap_or_default();
    by_kind(word("apiVersion"), word("kind"))
        .ok_or_else(|| Status::internal(format!("kind {} is not registered", word("kind"))))
}

fn service(api_vip: IpAddr, advertise: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": API, "namespace": "default",
            "labels": {"component": "apiserver", "provider": "waggle"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": api_vip.to_string(), "clusterIPs": [api_vip.to_string()],
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": advertise.port()}],
        },
    })
}

/// The same as [`slice`], in the older kind.
fn endpoints(advertise: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": API, "namespace": "default"},
        "subsets": [{
            "addresses": [{"ip": advertise.ip().to_string()}],
            "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}],
        }],
    })
}

fn slice(advertise: SocketAddr) -> Value {
    let family = if advertise.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": API, "namespace": "default", "labels": {"kubernetes.io/service-name": API},
        },
        "addressType": family,
        "endpoints": [{"addresses": [advertise.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}],
    })
}
