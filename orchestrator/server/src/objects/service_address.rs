//! Which virtual address a Service gets. The book of addresses is kept in memory, made from the Services at start; the
//! choice itself is `plan::ipam`'s.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use waggle_api::{Fault, Resource, Status, find};
use waggle_plan::ipam::{IpamError, ServiceAddresses};

use super::ServiceNetwork;
use super::cache::Cache;

/// Owner of an address that is kept until a Service asks for it.
const KEPT: &str = "the cluster: it is given only to the Service that names it";

#[derive(Debug)]
pub(super) struct ServiceAllocator {
    book: Mutex<ServiceAddresses>,
    network: ServiceNetwork,
}

/// An address given to a Service that is not yet stored with it; unless kept, the Service is left with what it had.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    allocator: &'a ServiceAllocator,
    uid: Option<String>,
    before: Option<IpAddr>,
}

impl Reservation<'_> {
    /// The Service is stored.
    pub(super) fn keep(mut self) {
        self.uid = None;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let Some(uid) = self.uid.take() else { return };
        self.allocator.release(&uid);
        if let Some(before) = self.before {
            let _ = self.allocator.book().claim(&uid, before);
        }
    }
}

impl ServiceAllocator {
    pub(super) fn new(network: ServiceNetwork, cache: &Cache) -> Self {
        let book = Mutex::new(read(&network, cache));
        Self { book, network }
    }

    /// Forgets what was known, for what the Services have now.
    pub(super) fn read_anew(&self, cache: &Cache) {
        *self.book() = read(&self.network, cache);
    }

    fn book(&self) -> MutexGuard<'_, ServiceAddresses> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the Service in `value` its address, if it is of a type that has one: the one it names, or a free one.
    pub(super) fn settle(
        &self,
        resource: &Resource,
        value: &mut Value,
    ) -> Result<Option<Reservation<'_>>, Status> {
        let spec = &value["spec"];
        let wanted = spec["clusterIP"].as_str().unwrap_or_default();
        if resource.kind != "Service" || spec["type"] == "ExternalName" || wanted == "None" {
            return Ok(None);
        }
        let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default();
        let (uid, name) = (text("uid").to_owned(), text("name").to_owned());
        let taken = self
            .take(&uid, wanted)
            .map_err(|error| refused(resource, &name, wanted, &error))?;
        let Some((address, before)) = taken else {
            return Ok(None);
        };
        value["spec"]["clusterIP"] = address.to_string().into();
        value["spec"]["clusterIPs"] = json!([address.to_string()]);
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        value["spec"]["ipFamilies"] = json!([family]);
        if value["spec"]["ipFamilyPolicy"].is_null() {
            value["spec"]["ipFamilyPolicy"] = "SingleStack".into();
        }
        let changed = before != Some(address);
        Ok(changed.then_some(Reservation {
            allocator: self,
            uid: Some(uid),
            before,
        }))
    }

    /// The address, and the one that the Service had. `None` when `wanted` is no address (validation's to tell).
    fn take(&self, uid: &str, wanted: &str) -> Result<Option<(IpAddr, Option<IpAddr>)>, IpamError> {
        let mut book = self.book();
        let before = book.of(uid);
        if wanted.is_empty() {
            return Ok(Some((book.assign(uid)?, before)));
        }
        let Ok(address) = wanted.parse::<IpAddr>() else {
            return Ok(None);
        };
        if let Some(index) = self.network.kept.iter().position(|&kept| kept == address) {
            book.release(&kept_owner(index));
        }
        book.claim(uid, address)?;
        Ok(Some((address, before)))
    }

    /// Takes back what a Service had.
    pub(super) fn release(&self, uid: &str) {
        let mut book = self.book();
        let Some(address) = book.release(uid) else {
            return;
        };
        if let Some(index) = self.network.kept.iter().position(|&kept| kept == address) {
            let _ = book.claim(&kept_owner(index), address);
        }
    }
}

/// Who has which address, by the Services that there are.
fn read(network: &ServiceNetwork, cache: &Cache) -> ServiceAddresses {
    let mut book = ServiceAddresses::new(network.range);
    let services = find("", "v1", "services")
        .map(|row| cache.list(row, None).objects)
        .unwrap_or_default();
    for service in services {
        let address = service.value["spec"]["clusterIP"]
            .as_str()
            .and_then(|text| text.parse().ok());
        if let Some(Err(error)) = address.map(|address| book.claim(&service.uid, address)) {
            tracing::warn!(service = service.name, namespace = service.namespace, %error, "clusterIP");
        }
    }
    for (index, &address) in network.kept.iter().enumerate() {
        if book.owner(address).is_none() {
            let _ = book.claim(&kept_owner(index), address);
        }
    }
    book
}

fn kept_owner(index: usize) -> String {
    format!("{KEPT} ({index})")
}

fn refused(resource: &Resource, name: &str, wanted: &str, error: &IpamError) -> Status {
    if matches!(error, IpamError::Exhausted { .. }) {
        return Status::internal(format!(
            "failed to allocate a clusterIP for Service {name:?}: {error}"
        ));
    }
    let fault = Fault::invalid(
        "spec.clusterIPs",
        json!([wanted]),
        format!("failed to allocate IP {wanted}: {error}"),
    );
    Status::invalid(resource, name, &[fault])
}
