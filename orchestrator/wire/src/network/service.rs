//! Services with their backends, to and from their messages.

use waggle_model::network::{Backend, Export, External, Scope, Service, ServicePort, Standing};
use waggle_model::{ServiceId, TenantId};

use super::{Invalid, address, all, field, optional_port, port, protocol, protocol_message, range};
use crate::v1;

impl From<&Service> for v1::Service {
    fn from(service: &Service) -> Self {
        let (exported_to, exported_to_all) = match &service.export {
            Export::To(tenants) => (tenants.iter().map(|tenant| tenant.0).collect(), false),
            Export::Everyone => (Vec::new(), true),
        };
        Self {
            id: service.id.0,
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            tenant: service.tenant.0,
            vips: service.vips.iter().map(ToString::to_string).collect(),
            ports: service.ports.iter().map(Into::into).collect(),
            exported_to,
            exported_to_all,
            shared: service.tenant == TenantId::SYSTEM,
            external: service.external.iter().map(Into::into).collect(),
            affinity_seconds: service.affinity_seconds.unwrap_or(0),
            internal_local: service.internal_scope == Scope::Local,
            external_local: service.external_scope == Scope::Local,
            health_check_port: service.health_check_port.map_or(0, u32::from),
            source_ranges: service
                .source_ranges
                .iter()
                .map(ToString::to_string)
                .collect(),
            direct_return: service.direct_return,
            external_name: service.external_name.clone(),
        }
    }
}

impl TryFrom<v1::Service> for Service {
    type Error = Invalid;
    fn try_from(message: v1::Service) -> Result<Self, Invalid> {
        if message.id == 0 {
            return Err(field("Service", "id", &0, "service number (1 or more)"));
        }
        let export = if message.exported_to_all {
            Export::Everyone
        } else {
            Export::To(message.exported_to.into_iter().map(TenantId).collect())
        };
        Ok(Self {
            id: ServiceId(message.id),
            namespace: message.namespace,
            name: message.name,
            tenant: TenantId(message.tenant),
            vips: message
                .vips
                .iter()
                .map(|text| address("Service", "vips", text))
                .collect::<Result<_, _>>()?,
            ports: all(message.ports)?,
            export,
            external: all(message.external)?,
            affinity_seconds: (message.affinity_seconds != 0).then_some(message.affinity_seconds),
            internal_scope: scope(message.internal_local),
            external_scope: scope(message.external_local),
            health_check_port: optional_port(
                "Service",
                "health_check_port",
                message.health_check_port,
            )?,
            source_ranges: message
                .source_ranges
                .iter()
                .map(|text| range("Service", "source_ranges", text))
                .collect::<Result<_, _>>()?,
            direct_return: message.direct_return,
            external_name: message.external_name,
        })
    }
}

impl From<&ServicePort> for v1::ServicePort {
    fn from(port: &ServicePort) -> Self {
        Self {
            name: port.name.clone(),
            protocol: protocol_message(port.protocol),
            port: port.port.into(),
            node_port: port.node_port.map_or(0, u32::from),
            backends: port.backends.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::ServicePort> for ServicePort {
    type Error = Invalid;
    fn try_from(message: v1::ServicePort) -> Result<Self, Invalid> {
        Ok(Self {
            name: message.name,
            protocol: protocol("ServicePort", message.protocol)?,
            port: port("ServicePort", "port", message.port)?,
            node_port: optional_port("ServicePort", "node_port", message.node_port)?,
            backends: all(message.backends)?,
        })
    }
}

impl From<&Backend> for v1::Backend {
    fn from(backend: &Backend) -> Self {
        Self {
            address: backend.address.to_string(),
            port: backend.port.into(),
            node: backend.node.clone(),
            hostname: backend.hostname.clone(),
            terminating: backend.standing == Standing::Terminating,
            unready: backend.standing == Standing::Unready,
            for_zones: backend.for_zones.iter().cloned().collect(),
            for_nodes: backend.for_nodes.iter().cloned().collect(),
        }
    }
}

impl TryFrom<v1::Backend> for Backend {
    type Error = Invalid;
    fn try_from(message: v1::Backend) -> Result<Self, Invalid> {
        Ok(Self {
            address: address("Backend", "address", &message.address)?,
            port: port("Backend", "port", message.port)?,
            node: message.node,
            hostname: message.hostname,
            standing: match (message.terminating, message.unready) {
                (false, false) => Standing::Ready,
                (true, false) => Standing::Terminating,
                (_, true) => Standing::Unready,
            },
            for_zones: message.for_zones.into_iter().collect(),
            for_nodes: message.for_nodes.into_iter().collect(),
        })
    }
}

impl From<&External> for v1::External {
    fn from(one: &External) -> Self {
        Self {
            address: one.address.to_string(),
            announced_by: one.announced_by.clone(),
        }
    }
}

impl TryFrom<v1::External> for External {
    type Error = Invalid;
    fn try_from(message: v1::External) -> Result<Self, Invalid> {
        Ok(Self {
            address: address("External", "address", &message.address)?,
            announced_by: message.announced_by,
        })
    }
}

fn scope(local: bool) -> Scope {
    if local { Scope::Local } else { Scope::Cluster }
}
