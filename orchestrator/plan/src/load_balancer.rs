//! The load balancer controller: which address of the cluster's pool each Service of type LoadBalancer has. The status of
//! the Services is the only record of who has which. Which node announces an address is decided in `network`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServiceSpec, ServiceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use waggle_model::network::AddressPool;
use waggle_model::{LOAD_BALANCER_CLASS, LOAD_BALANCER_IPS_ANNOTATION};

use crate::ownership::json;
use crate::{EventDraft, Plan, Snapshot, Write, pod};

/// Condition of a Service of type LoadBalancer: whether it has its addresses of the pool, and if not, why.
pub const CONDITION: &str = "waggle.dev/AddressAssigned";
/// Reason while the cluster has no pool.
const NO_POOL: &str = "NoPool";
const COMPONENT: &str = "load-balancer-controller";

/// Gives every Service of type LoadBalancer its addresses, takes back those of Services that are of another type now.
/// Services of another loadBalancerClass are left alone. The time is written down, and decides nothing.
pub fn plan(snapshot: &Snapshot, pool: Option<&AddressPool>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let touched = snapshot
        .services
        .iter()
        .filter(|one| is_load_balancer(one) || !ingress(one).is_empty());
    let mut services: Vec<&Arc<Service>> = touched.collect();
    if services.is_empty() {
        return plan;
    }
    // The older first: what two say they have is the older one's.
    services.sort_by_key(|one| {
        let metadata = &one.metadata;
        (metadata.creation_timestamp.clone(), metadata.uid.clone())
    });
    let mut books = Books::of(snapshot, pool);
    for service in services.iter().filter(|one| is_ours(one)) {
        books.keep(service);
    }
    for service in services {
        let wanted = if is_ours(service) {
            books.settle(service)
        } else if is_load_balancer(service) {
            continue;
        } else {
            Settled::default()
        };
        write(service, wanted, now, &mut plan);
    }
    plan
}

/// Addresses of the pool that a Service has.
pub fn addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    let ours = is_ours(service) && is_marked(service);
    let texts = ingress(service).iter().filter(move |_| ours);
    texts.filter_map(|one| one.ip.as_deref()?.parse().ok())
}

/// Addresses that another load balancer gave a Service, if the nodes are to serve them too (ipMode VIP: KEP-1860).
pub(crate) fn foreign_addresses(service: &Service) -> impl Iterator<Item = &str> {
    let foreign = is_load_balancer(service) && !(is_ours(service) && is_marked(service));
    let all = ingress(service).iter().filter(move |_| foreign);
    all.filter(|one| one.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|one| one.ip.as_deref())
}

fn is_load_balancer(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"))
}

/// Whether the cluster's own pool serves it.
fn is_ours(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let class = spec.and_then(|spec| spec.load_balancer_class.as_deref());
    is_load_balancer(service) && class.is_none_or(|class| class == LOAD_BALANCER_CLASS)
}

/// Whether what its status says of addresses is this controller's: another one may serve Services without a class in a
/// cluster without a pool.
fn is_marked(service: &Service) -> bool {
    condition(service).is_some_and(|one| one.reason != NO_POOL)
}

fn condition(service: &Service) -> Option<&Condition> {
    let conditions = service.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|one| one.type_ == CONDITION)
}

fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let all = balancer.and_then(|balancer| balancer.ingress.as_deref());
    all.unwrap_or_default()
}

/// What a Service is to have.
#[derive(Debug, Default)]
struct Settled {
    addresses: Vec<IpAddr>,
    /// Reason and message; an empty reason for all is well, `None` when there is nothing to say.
    verdict: Option<(&'static str, String)>,
}

/// Who has which address.
struct Books<'a> {
    pool: Option<&'a AddressPool>,
    owners: BTreeMap<IpAddr, String>,
}

impl<'a> Books<'a> {
    /// What can't be given: addresses of nodes. What Services name as external can: else anybody could use up the pool.
    fn of(snapshot: &Snapshot, pool: Option<&'a AddressPool>) -> Self {
        let mut owners = BTreeMap::new();
        for node in snapshot.nodes.iter() {
            let status = node.status.iter();
            for one in status.flat_map(|status| status.addresses.iter().flatten()) {
                if let Ok(address) = one.address.parse() {
                    let name = node.metadata.name.as_deref().unwrap_or_default();
                    owners.insert(address, format!("Node {name}"));
                }
            }
        }
        Self { pool, owners }
    }

    /// Enters what a Service has and may keep.
    fn keep(&mut self, service: &Service) {
        for address in self.keepable(service) {
            self.owners.entry(address).or_insert_with(|| name(service));
        }
    }

    fn keepable(&self, service: &Service) -> Vec<IpAddr> {
        let (wishes, families) = (wishes(service), families(service));
        let may = |address: &IpAddr| {
            let wish = wishes.iter().find(|one| one.is_ipv4() == address.is_ipv4());
            self.pool.is_some_and(|pool| pool.contains(*address))
                && families.contains(&address.is_ipv4())
                && wish.is_none_or(|wish| wish == address)
        };
        addresses(service).filter(may).collect()
    }

    /// What a Service is to have: what it kept, and new ones for the families that it lacks.
    fn settle(&mut self, service: &Service) -> Settled {
        let Some(pool) = self.pool else {
            // Somebody else serves it.
            if !ingress(service).is_empty() && !is_marked(service) {
                return Settled {
                    addresses: addresses(service).collect(),
                    verdict: None,
                };
            }
            let message = "this cluster has no pool of addresses for load balancers: start its servers with \
                           --load-balancer-pool, or set spec.loadBalancerClass to another controller's";
            return Settled {
                addresses: Vec::new(),
                verdict: Some((NO_POOL, message.to_owned())),
            };
        };
        let (own, wishes) = (name(service), wishes(service));
        let mut kept = self.keepable(service);
        kept.retain(|address| self.owners.get(address) == Some(&own));
        let mut settled = Settled {
            addresses: Vec::new(),
            verdict: Some(("", String::new())),
        };
        for ipv4 in families(service) {
            if let Some(address) = kept.iter().find(|one| one.is_ipv4() == ipv4) {
                settled.addresses.push(*address);
                continue;
            }
            let wish = wishes.iter().find(|one| one.is_ipv4() == ipv4);
            match self.give(pool, ipv4, wish.copied(), &own) {
                Ok(address) => settled.addresses.push(address),
                // The other family is enough for who only prefers both.
                Err(_) if !pool.has_family(ipv4) && prefers_both(service) => {}
                Err(fault) => settled.verdict = Some(fault),
            }
        }
        let families = families(service);
        if let Some(stray) = wishes.iter().find(|one| !families.contains(&one.is_ipv4())) {
            let message = format!(
                "{stray}, which it asks for, is of a family that this Service does not have: see its spec.ipFamilies"
            );
            settled.verdict = Some(("NoFamily", message));
        }
        if settled.addresses.is_empty()
            && settled.verdict.as_ref().is_some_and(|one| one.0.is_empty())
        {
            let message = format!("the pool {pool} has no address of a family of this Service");
            settled.verdict = Some(("NoFamily", message));
        }
        settled
    }

    fn give(
        &mut self,
        pool: &AddressPool,
        ipv4: bool,
        wish: Option<IpAddr>,
        own: &str,
    ) -> Result<IpAddr, (&'static str, String)> {
        let address = match wish {
            Some(wish) => {
                if !pool.contains(wish) {
                    let message = format!("{wish}, which it asks for, is not in the pool {pool}");
                    return Err(("NotInPool", message));
                }
                if let Some(owner) = self.owners.get(&wish).filter(|owner| *owner != own) {
                    let message = format!("{wish}, which it asks for, is {owner}'s");
                    return Err(("AddressTaken", message));
                }
                wish
            }
            None => {
                let family = if ipv4 { "IPv4" } else { "IPv6" };
                let mut all = pool.addresses(ipv4);
                let free = all.find(|address| !self.owners.contains_key(address));
                free.ok_or_else(|| {
                    let message = if pool.has_family(ipv4) {
                        format!("no free {family} address is left in the pool {pool}")
                    } else {
                        format!("the pool {pool} has no {family} addresses")
                    };
                    ("PoolExhausted", message)
                })?
            }
        };
        self.owners.insert(address, own.to_owned());
        Ok(address)
    }
}

/// Writes what changed in a Service's status, and says so.
fn write(service: &Service, settled: Settled, now: Timestamp, plan: &mut Plan) {
    let before = service.status.clone().unwrap_or_default();
    let mut status = before.clone();
    let foreign = settled.verdict.is_none() && is_load_balancer(service);
    if !foreign {
        let rows: Vec<LoadBalancerIngress> = settled.addresses.iter().map(row).collect();
        let balancer = status.load_balancer.get_or_insert_default();
        if ingress(service) != rows {
            balancer.ingress = (!rows.is_empty()).then_some(rows);
        }
    }
    let told = told(service, &settled, now);
    set_condition(&mut status, told.clone());
    if status == before {
        return;
    }
    if let Some(told) =
        told.filter(|told| condition(service).map(|one| &one.message) != Some(&told.message))
    {
        plan.events.push(event(service, &told));
    }
    let next = Service {
        status: Some(status),
        ..service.clone()
    };
    plan.writes.push(Write::UpdateStatus(json(&next)));
}

fn row(address: &IpAddr) -> LoadBalancerIngress {
    LoadBalancerIngress {
        ip: Some(address.to_string()),
        ip_mode: Some("VIP".to_owned()),
        ..LoadBalancerIngress::default()
    }
}

/// The condition; the time of the old one stays while its status does.
fn told(service: &Service, settled: &Settled, now: Timestamp) -> Option<Condition> {
    let (reason, message) = settled.verdict.clone()?;
    let good = reason.is_empty();
    let texts: Vec<String> = settled.addresses.iter().map(ToString::to_string).collect();
    let status = if good { "True" } else { "False" };
    let old = condition(service).filter(|old| old.status == status);
    Some(Condition {
        type_: CONDITION.to_owned(),
        status: status.to_owned(),
        reason: if good { "Assigned" } else { reason }.to_owned(),
        message: if good {
            format!("addresses of the pool: {}", texts.join(", "))
        } else {
            message
        },
        last_transition_time: old.map_or(Time(now), |old| old.last_transition_time.clone()),
        observed_generation: None,
    })
}

fn set_condition(status: &mut ServiceStatus, told: Option<Condition>) {
    let mut conditions = status.conditions.take().unwrap_or_default();
    match (
        conditions.iter().position(|one| one.type_ == CONDITION),
        told,
    ) {
        (Some(index), Some(told)) => conditions[index] = told,
        (Some(index), None) => drop(conditions.remove(index)),
        (None, told) => conditions.extend(told),
    }
    status.conditions = (!conditions.is_empty()).then_some(conditions);
}

fn event(service: &Service, told: &Condition) -> EventDraft {
    let good = told.status == "True";
    EventDraft {
        object: pod::object("v1", "Service", &service.metadata),
        warning: !good,
        reason: if good {
            "IPAllocated"
        } else {
            "AllocationFailed"
        },
        message: told.message.clone(),
        component: COMPONENT,
    }
}

fn name(service: &Service) -> String {
    let metadata = &service.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    format!(
        "Service {namespace}/{}",
        metadata.name.as_deref().unwrap_or_default()
    )
}

/// Whether each family that it is to have is IPv4, in its order.
fn families(service: &Service) -> Vec<bool> {
    let named = service
        .spec
        .iter()
        .flat_map(|spec| spec.ip_families.iter().flatten());
    let named: Vec<bool> = named.map(|family| family == "IPv4").collect();
    if named.is_empty() { vec![true] } else { named }
}

fn prefers_both(service: &Service) -> bool {
    let policy = |spec: &ServiceSpec| spec.ip_family_policy.as_deref() == Some("PreferDualStack");
    service.spec.as_ref().is_some_and(policy)
}

/// Addresses that it asks for: by annotation, else spec.loadBalancerIP.
fn wishes(service: &Service) -> Vec<IpAddr> {
    let annotations = service.metadata.annotations.as_ref();
    let listed = annotations.and_then(|all| all.get(LOAD_BALANCER_IPS_ANNOTATION));
    let spec = service.spec.as_ref();
    let one = spec.and_then(|spec| spec.load_balancer_ip.as_deref());
    let texts = listed.map(String::as_str).or(one).unwrap_or_default();
    texts
        .split(',')
        .filter_map(|text| text.trim().parse().ok())
        .collect()
}
