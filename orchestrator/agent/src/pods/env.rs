//! The environment of a container: values, references and `$(NAME)` expansion, after the Kubernetes rules. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource};
use waggle_model::network::{NetworkState, PerFamily, Service};

use super::desired::Desired;
use super::qos::asked;

/// A reference that leads nowhere: why the container can't be configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadReference(pub(crate) String);

/// What the pod and its node are called, for references to them.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings<'a> {
    pub(crate) node: &'a str,
    pub(crate) hosts: PerFamily<IpAddr>,
    /// CPU (milli-cores) and memory (bytes) of the node: limits of a container that has none.
    pub(crate) node_cpu: u64,
    pub(crate) node_memory: u64,
    pub(crate) services: &'a NetworkState,
    /// VIP of the API.
    pub(crate) api: Option<IpAddr>,
}

/// Variables of `container`, `NAME=value`, later ones winning; `image` are the image's own.
///
/// # Errors
/// [`BadReference`] names the object or key that is missing.
pub(crate) fn environment(
    pod: &Desired,
    container: &Container,
    image: &[String],
    around: &Surroundings<'_>,
) -> Result<Vec<String>, BadReference> {
    let mut known: Vec<(String, String)> = image
        .iter()
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if !known.iter().any(|(name, _)| name == "PATH") {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        set(&mut known, "PATH", path.to_owned());
    }
    set(&mut known, "HOSTNAME", super::files::hostname(pod));
    let mut services = service_variables(pod, around);
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            let optional = reference.optional == Some(true);
            for (key, value) in config_map(pod, &reference.name, optional)?
                .into_iter()
                .flatten()
            {
                set(&mut known, &format!("{prefix}{key}"), value.clone());
            }
        }
        if let Some(reference) = &source.secret_ref {
            let optional = reference.optional == Some(true);
            for (key, value) in secret(pod, &reference.name, optional)?
                .into_iter()
                .flatten()
            {
                set(
                    &mut known,
                    &format!("{prefix}{key}"),
                    String::from_utf8_lossy(&value).into_owned(),
                );
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let lookup = |name: &str| {
            find(&known, name)
                .or_else(|| services.get(name).map(String::as_str))
                .map(str::to_owned)
        };
        if let Some(value) = value(pod, container, variable, around, &lookup)? {
            services.remove(&variable.name);
            set(&mut known, &variable.name, value);
        }
    }
    // The pod's own variables win over those of Services.
    let services = services
        .into_iter()
        .filter(|(name, _)| find(&known, name).is_none());
    let all: Vec<String> = services
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    Ok(all
        .into_iter()
        .chain(known.iter().map(|(name, value)| format!("{name}={value}")))
        .collect())
}

/// `command` or `args` with `$(NAME)` replaced from `env`.
pub(crate) fn expand_all(words: &[String], env: &[String]) -> Vec<String> {
    let lookup = |name: &str| {
        let pairs = env.iter().rev().filter_map(|pair| pair.split_once('='));
        pairs
            .into_iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
    };
    words.iter().map(|word| expand(word, &lookup)).collect()
}

fn set(known: &mut Vec<(String, String)>, name: &str, value: String) {
    match known.iter_mut().find(|(key, _)| key == name) {
        Some(pair) => pair.1 = value,
        None => known.push((name.to_owned(), value)),
    }
}

fn find<'k>(known: &'k [(String, String)], name: &str) -> Option<&'k str> {
    known
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

/// Replaces `$(NAME)` when `NAME` is known, and `$$` by `$`; everything else stays as it is.
pub(crate) fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest
            .strip_prefix("$(")
            .and_then(|tail| tail.split_once(')'))
        {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

/// `None` for an optional reference that leads nowhere.
fn value(
    pod: &Desired,
    container: &Container,
    variable: &EnvVar,
    around: &Surroundings<'_>,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, BadReference> {
    match &variable.value_from {
        Some(source) => referenced(pod, container, source, around),
        None => Ok(Some(expand(
            variable.value.as_deref().unwrap_or_default(),
            lookup,
        ))),
    }
}

fn referenced(
    pod: &Desired,
    container: &Container,
    source: &EnvVarSource,
    around: &Surroundings<'_>,
) -> Result<Option<String>, BadReference> {
    if let Some(field) = &source.field_ref {
        return field_value(pod, &field.field_path, around).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        let other = resource
            .container_name
            .as_deref()
            .filter(|name| *name != container.name);
        let of = other
            .and_then(|name| pod.all_containers().find(|c| c.name == name))
            .unwrap_or(container);
        let divisor = resource.divisor.as_ref().map_or("1", |q| q.0.as_str());
        return resource_value(of, &resource.resource, divisor, around).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(data) = config_map(pod, &reference.name, optional)? else {
            return Ok(None);
        };
        return key(
            data.get(&reference.key),
            optional,
            &reference.key,
            "ConfigMap",
            pod,
            &reference.name,
        )
        .map(|value| value.cloned());
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(data) = secret(pod, &reference.name, optional)? else {
            return Ok(None);
        };
        let bytes = key(
            data.get(&reference.key),
            optional,
            &reference.key,
            "Secret",
            pod,
            &reference.name,
        )?;
        return Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
    }
    Err(BadReference(
        "valueFrom names no source that this node knows".to_owned(),
    ))
}

fn key<'d, T>(
    found: Option<&'d T>,
    optional: bool,
    key: &str,
    kind: &str,
    pod: &Desired,
    name: &str,
) -> Result<Option<&'d T>, BadReference> {
    match found {
        None if !optional => Err(BadReference(format!(
            "couldn't find key {key} in {kind} {}/{name}",
            pod.key.namespace
        ))),
        found => Ok(found),
    }
}

type Texts = BTreeMap<String, String>;
type Blobs = BTreeMap<String, Vec<u8>>;

/// Data of a ConfigMap; `None` when it is optional and missing.
pub(crate) fn config_map(
    pod: &Desired,
    name: &str,
    optional: bool,
) -> Result<Option<Texts>, BadReference> {
    match pod.config_maps.get(name) {
        Some(map) => Ok(Some(map.data.clone().unwrap_or_default())),
        None if optional => Ok(None),
        None => Err(BadReference(format!("configmap {name:?} not found"))),
    }
}

/// Data of a Secret; `None` when it is optional and missing.
pub(crate) fn secret(
    pod: &Desired,
    name: &str,
    optional: bool,
) -> Result<Option<Blobs>, BadReference> {
    match pod.secrets.get(name) {
        Some(secret) => {
            let data = secret
                .data
                .iter()
                .flatten()
                .map(|(key, value)| (key.clone(), value.0.clone()));
            let text = secret.string_data.iter().flatten();
            let text = text.map(|(key, value)| (key.clone(), value.clone().into_bytes()));
            Ok(Some(data.chain(text).collect()))
        }
        None if optional => Ok(None),
        None => Err(BadReference(format!("secret {name:?} not found"))),
    }
}

/// The value of a downward API field.
pub(crate) fn field_value(
    pod: &Desired,
    path: &str,
    around: &Surroundings<'_>,
) -> Result<String, BadReference> {
    let metadata = &pod.pod.metadata;
    let subscript = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
    if let Some(name) = subscript("metadata.labels['") {
        return Ok(metadata
            .labels
            .as_ref()
            .and_then(|l| l.get(name))
            .cloned()
            .unwrap_or_default());
    }
    if let Some(name) = subscript("metadata.annotations['") {
        return Ok(metadata
            .annotations
            .as_ref()
            .and_then(|l| l.get(name))
            .cloned()
            .unwrap_or_default());
    }
    let spec = pod.pod.spec.as_ref();
    let own = pod.addresses.unwrap_or(around.hosts);
    Ok(match path {
        "metadata.name" => pod.key.name.clone(),
        "metadata.namespace" => pod.key.namespace.clone(),
        "metadata.uid" => pod.key.uid.clone(),
        "metadata.labels" => quoted(metadata.labels.as_ref()),
        "metadata.annotations" => quoted(metadata.annotations.as_ref()),
        "spec.nodeName" => around.node.to_owned(),
        "spec.serviceAccountName" => spec
            .and_then(|s| s.service_account_name.clone())
            .unwrap_or_else(|| "default".to_owned()),
        "status.hostIP" => around.hosts.primary().to_string(),
        "status.hostIPs" => around.hosts.to_string(),
        "status.podIP" => own.primary().to_string(),
        "status.podIPs" => own.to_string(),
        other => {
            return Err(BadReference(format!(
                "fieldPath {other:?} is not supported"
            )));
        }
    })
}

/// Labels or annotations as the downward API writes them to a file.
fn quoted(pairs: Option<&BTreeMap<String, String>>) -> String {
    let lines = pairs
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The value of a container's request or limit, rounded up to whole `divisor`s.
pub(crate) fn resource_value(
    container: &Container,
    resource: &str,
    divisor: &str,
    around: &Surroundings<'_>,
) -> Result<String, BadReference> {
    let asked = asked(container);
    let milli = |cpu: Option<waggle_model::MilliCpu>| cpu.map(|c| i128::from(c.0));
    let bytes = |memory: Option<waggle_model::Bytes>| memory.map(|b| i128::from(b.0) * 1000);
    let amount = match resource {
        "limits.cpu" => milli(asked.cpu_limit).unwrap_or(i128::from(around.node_cpu)),
        "requests.cpu" => milli(asked.cpu_request).unwrap_or(0),
        "limits.memory" => {
            bytes(asked.memory_limit).unwrap_or(i128::from(around.node_memory) * 1000)
        }
        "requests.memory" => bytes(asked.memory_request).unwrap_or(0),
        other => return Err(BadReference(format!("resource {other:?} is not supported"))),
    };
    let divisor: waggle_model::Quantity = divisor
        .parse()
        .map_err(|error: waggle_model::InvalidQuantity| BadReference(error.to_string()))?;
    let divisor = if divisor.milli() <= 0 {
        1000
    } else {
        divisor.milli()
    };
    Ok(((amount + divisor - 1) / divisor).to_string())
}

/// `KUBERNETES_SERVICE_HOST` and, unless the pod declines, the variables of its namespace's Services.
fn service_variables(pod: &Desired, around: &Surroundings<'_>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    if let Some(api) = around.api {
        variables.insert("KUBERNETES_SERVICE_HOST".to_owned(), api.to_string());
        variables.insert("KUBERNETES_SERVICE_PORT".to_owned(), "443".to_owned());
        variables.insert("KUBERNETES_SERVICE_PORT_HTTPS".to_owned(), "443".to_owned());
        let url = format!("tcp://{}", bracketed(api, 443));
        for (name, value) in [
            ("PORT", url.clone()),
            ("PORT_443_TCP", url),
            ("PORT_443_TCP_PROTO", "tcp".to_owned()),
            ("PORT_443_TCP_PORT", "443".to_owned()),
            ("PORT_443_TCP_ADDR", api.to_string()),
        ] {
            variables.insert(format!("KUBERNETES_{name}"), value);
        }
    }
    let links = pod
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.enable_service_links)
        != Some(false);
    let own = around
        .services
        .services
        .values()
        .filter(|s| links && s.namespace == pod.key.namespace);
    own.for_each(|service| variables.extend(link(service)));
    variables
}

fn link(service: &Service) -> Vec<(String, String)> {
    let (Some(&vip), Some(first)) = (service.vips.first(), service.ports.first()) else {
        return Vec::new();
    };
    let name = service.name.to_ascii_uppercase().replace(['-', '.'], "_");
    let protocol = |port: &waggle_model::network::ServicePort| match port.protocol {
        waggle_model::network::Protocol::Tcp => "tcp",
        waggle_model::network::Protocol::Udp => "udp",
        waggle_model::network::Protocol::Sctp => "sctp",
    };
    let url = |port: &waggle_model::network::ServicePort| {
        format!("{}://{}", protocol(port), bracketed(vip, port.port))
    };
    let mut variables = vec![
        (format!("{name}_SERVICE_HOST"), vip.to_string()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
        (format!("{name}_PORT"), url(first)),
    ];
    for port in &service.ports {
        if !port.name.is_empty() {
            let label = port.name.to_ascii_uppercase().replace('-', "_");
            variables.push((
                format!("{name}_SERVICE_PORT_{label}"),
                port.port.to_string(),
            ));
        }
        let prefix = format!(
            "{name}_PORT_{}_{}",
            port.port,
            protocol(port).to_ascii_uppercase()
        );
        variables.push((prefix.clone(), url(port)));
        variables.push((format!("{prefix}_PROTO"), protocol(port).to_owned()));
        variables.push((format!("{prefix}_PORT"), port.port.to_string()));
        variables.push((format!("{prefix}_ADDR"), vip.to_string()));
    }
    variables
}

fn bracketed(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

#[cfg(test)]
mod tests;
