//! Which virtual addresses a Service gets, one of each family that it asks for. The books of addresses are kept in memory,
//! made from the Services at start; the choice of an address is `plan::ipam`'s.

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
    /// One for each family of the cluster, the primary first.
    books: Mutex<Vec<ServiceAddresses>>,
    network: ServiceNetwork,
}

/// Addresses given to a Service that is not yet stored with them; unless kept, the Service is left with what it had.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    allocator: &'a ServiceAllocator,
    uid: Option<String>,
    before: Vec<IpAddr>,
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
        let mut books = self.allocator.books();
        for address in &self.before {
            if let Some(book) = book_of(&mut books, *address) {
                let _ = book.claim(&uid, *address);
            }
        }
    }
}

/// The families that a Service asks for, and what it is called when it has them.
struct Families {
    ipv4: Vec<bool>,
    policy: &'static str,
}

impl ServiceAllocator {
    pub(super) fn new(network: ServiceNetwork, cache: &Cache) -> Self {
        let books = Mutex::new(read(&network, cache));
        Self { books, network }
    }

    /// Forgets what was known, for what the Services have now.
    pub(super) fn read_anew(&self, cache: &Cache) {
        *self.books() = read(&self.network, cache);
    }

    fn books(&self) -> MutexGuard<'_, Vec<ServiceAddresses>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the Service in `value` its families and, if it is of a type that has them, its addresses: those that it
    /// names, or free ones.
    pub(super) fn settle(
        &self,
        resource: &Resource,
        value: &mut Value,
    ) -> Result<Option<Reservation<'_>>, Status> {
        let spec = &value["spec"];
        if resource.kind != "Service" || spec["type"] == "ExternalName" {
            return Ok(None);
        }
        let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default();
        let (uid, name) = (text("uid").to_owned(), text("name").to_owned());
        let headless = spec["clusterIP"] == "None";
        let wanted = wanted(spec);
        let families = self
            .families(spec, &wanted)
            .map_err(|fault| Status::invalid(resource, &name, &[fault]))?;
        let Some(families) = families else {
            return Ok(None);
        };
        let names = families.ipv4.iter().map(|ipv4| family_name(*ipv4));
        value["spec"]["ipFamilies"] = names.collect();
        value["spec"]["ipFamilyPolicy"] = families.policy.into();
        if headless {
            value["spec"]["clusterIPs"] = json!(["None"]);
            return Ok(None);
        }
        let (addresses, before) = self
            .take(&uid, &families.ipv4, &wanted)
            .map_err(|(wanted, error)| refused(resource, &name, &wanted, &error))?;
        let changed = addresses != before;
        let reservation = changed.then_some(Reservation {
            allocator: self,
            uid: Some(uid),
            before,
        });
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        value["spec"]["clusterIP"] = texts.first().cloned().into();
        value["spec"]["clusterIPs"] = json!(texts);
        Ok(reservation)
    }

    /// `None` when `wanted` holds something that is no address (validation's to tell).
    fn families(&self, spec: &Value, wanted: &[String]) -> Result<Option<Families>, Fault> {
        let cluster: Vec<bool> = self
            .books()
            .iter()
            .map(|book| book.range().address().is_ipv4())
            .collect();
        let mut named = Vec::new();
        for (index, family) in spec["ipFamilies"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let ipv4 = family == "IPv4";
            if !cluster.contains(&ipv4) {
                return Err(Fault::invalid(
                    format!("spec.ipFamilies[{index}]"),
                    family.clone(),
                    format!(
                        "not configured on this cluster, which has {}",
                        names(&cluster)
                    ),
                ));
            }
            named.push(ipv4);
        }
        for text in wanted.iter().filter(|text| !text.is_empty()) {
            let Ok(address) = text.parse::<IpAddr>() else {
                return Ok(None);
            };
            if !named.contains(&address.is_ipv4()) && named.len() < wanted.len() {
                named.push(address.is_ipv4());
            }
        }
        let mut ipv4 = named.clone();
        for family in &cluster {
            if !ipv4.contains(family) {
                ipv4.push(*family);
            }
        }
        let both = named.len() > 1;
        let policy = match spec["ipFamilyPolicy"].as_str() {
            Some("RequireDualStack") if cluster.len() < 2 => {
                return Err(Fault::invalid(
                    "spec.ipFamilyPolicy",
                    json!("RequireDualStack"),
                    format!("this cluster has {} only", names(&cluster)),
                ));
            }
            Some("RequireDualStack") => "RequireDualStack",
            Some("PreferDualStack") => "PreferDualStack",
            None if both => "RequireDualStack",
            _ => "SingleStack",
        };
        if policy == "SingleStack" {
            ipv4.truncate(1);
        }
        Ok(Some(Families { ipv4, policy }))
    }

    /// The addresses in the order of `families`, and those that the Service had.
    fn take(
        &self,
        uid: &str,
        families: &[bool],
        wanted: &[String],
    ) -> Result<(Vec<IpAddr>, Vec<IpAddr>), (String, IpamError)> {
        let mut books = self.books();
        let had: Vec<IpAddr> = books.iter().filter_map(|book| book.of(uid)).collect();
        let mut before = had.clone();
        before.sort_by_key(|address| {
            let place = families.iter().position(|ipv4| *ipv4 == address.is_ipv4());
            place.unwrap_or(usize::MAX)
        });
        let mut taken = Vec::new();
        for ipv4 in families {
            let named = wanted.iter().find(|text| {
                text.parse::<IpAddr>()
                    .is_ok_and(|one| one.is_ipv4() == *ipv4)
            });
            let book = books
                .iter_mut()
                .find(|book| book.range().address().is_ipv4() == *ipv4);
            let Some(book) = book else { continue };
            let given = match named.and_then(|text| text.parse::<IpAddr>().ok()) {
                None => book.assign(uid),
                Some(address) => {
                    if let Some(index) = self.network.kept.iter().position(|&kept| kept == address)
                    {
                        book.release(&kept_owner(index));
                    }
                    book.claim(uid, address).map(|()| address)
                }
            };
            match given {
                Ok(address) => taken.push(address),
                Err(error) => {
                    // What the others gave goes back to what it was.
                    for book in books.iter_mut() {
                        book.release(uid);
                    }
                    for address in had {
                        if let Some(book) = book_of(&mut books, address) {
                            let _ = book.claim(uid, address);
                        }
                    }
                    return Err((named.cloned().unwrap_or_default(), error));
                }
            }
        }
        for book in books.iter_mut() {
            if !families.contains(&book.range().address().is_ipv4()) {
                book.release(uid);
            }
        }
        Ok((taken, before))
    }

    /// Takes back what a Service had.
    pub(super) fn release(&self, uid: &str) {
        for book in self.books().iter_mut() {
            let Some(address) = book.release(uid) else {
                continue;
            };
            if let Some(index) = self.network.kept.iter().position(|&kept| kept == address) {
                let _ = book.claim(&kept_owner(index), address);
            }
        }
    }
}

/// Who has which address, by the Services that there are.
fn read(network: &ServiceNetwork, cache: &Cache) -> Vec<ServiceAddresses> {
    let mut books: Vec<_> = network.ranges.iter().map(ServiceAddresses::new).collect();
    let services = find("", "v1", "services")
        .map(|row| cache.list(row, None).objects)
        .unwrap_or_default();
    for service in services {
        for address in addresses_in(&service.value["spec"]) {
            let Some(book) = book_of(&mut books, address) else {
                continue;
            };
            if let Err(error) = book.claim(&service.uid, address) {
                tracing::warn!(service = service.name, namespace = service.namespace, %error, "clusterIP");
            }
        }
    }
    for (index, &address) in network.kept.iter().enumerate() {
        if let Some(book) = book_of(&mut books, address)
            && book.owner(address).is_none()
        {
            let _ = book.claim(&kept_owner(index), address);
        }
    }
    books
}

fn book_of(books: &mut [ServiceAddresses], address: IpAddr) -> Option<&mut ServiceAddresses> {
    books
        .iter_mut()
        .find(|book| book.range().address().is_ipv4() == address.is_ipv4())
}

/// The addresses that a spec names, an empty text for one that is to be chosen.
fn wanted(spec: &Value) -> Vec<String> {
    let listed = spec["clusterIPs"].as_array().into_iter().flatten();
    let mut texts: Vec<String> = listed
        .filter_map(|one| one.as_str().map(str::to_owned))
        .collect();
    let first = spec["clusterIP"].as_str().unwrap_or_default();
    match texts.first_mut() {
        Some(text) => first.clone_into(text),
        None => texts.push(first.to_owned()),
    }
    texts
}

fn addresses_in(spec: &Value) -> Vec<IpAddr> {
    let texts = wanted(spec);
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn family_name(ipv4: bool) -> &'static str {
    if ipv4 { "IPv4" } else { "IPv6" }
}

fn names(families: &[bool]) -> String {
    let names: Vec<_> = families.iter().map(|ipv4| family_name(*ipv4)).collect();
    names.join(" and ")
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
