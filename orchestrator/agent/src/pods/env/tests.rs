//! Tables of environments.

use waggle_model::network::{Export, NetworkState, Protocol, ServicePort};
use waggle_model::{ServiceId, TenantId};

use super::*;
use crate::pods::fixture::pod;

fn around(services: &NetworkState) -> Surroundings<'_> {
    Surroundings {
        node: "node1",
        hosts: "172.30.0.11".parse().unwrap(),
        node_cpu: 2000,
        node_memory: 1 << 30,
        services,
        api: Some("10.96.0.1".parse().unwrap()),
    }
}

fn shop() -> NetworkState {
    let service = Service {
        id: ServiceId(1),
        namespace: "shop".into(),
        name: "user-center".into(),
        tenant: TenantId(2),
        vips: vec!["10.96.1.2".parse().unwrap()],
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            ..ServicePort::default()
        }],
        export: Export::Everyone,
        ..Service::default()
    };
    NetworkState {
        services: [(service.id, service)].into(),
        ..NetworkState::default()
    }
}

/// The value of `X` in a container with these `env` entries (JSON), or the error.
fn x(env: &str) -> Result<Option<String>, String> {
    let mut pod = pod(&format!(
        r#"{{"containers":[{{"name":"main","image":"i","env":{env},
            "resources":{{"limits":{{"cpu":"1500m","memory":"64Mi"}}}}}}]}}"#
    ));
    let map = r#"{"metadata":{"name":"settings"},"data":{"colour":"blue"}}"#;
    pod.config_maps
        .insert("settings".into(), serde_json::from_str(map).unwrap());
    let secret = r#"{"metadata":{"name":"keys"},"data":{"token":"aGk="}}"#;
    pod.secrets
        .insert("keys".into(), serde_json::from_str(secret).unwrap());
    let services = shop();
    let container = pod.containers()[0].clone();
    let env = environment(
        &pod,
        &container,
        &["IMG=1".into(), "X=image".into()],
        &around(&services),
    )
    .map_err(|error| error.to_string())?;
    let found = env.iter().rev().find_map(|pair| pair.strip_prefix("X="));
    Ok(found.map(str::to_owned))
}

#[test]
fn values_come_from_where_they_are_said_to() {
    for (env, expect) in [
        ("[]", "image"),
        (r#"[{"name":"X","value":"v"}]"#, "v"),
        (
            r#"[{"name":"A","value":"1"},{"name":"X","value":"$(A)-$(IMG)-$(NO)-$$(A)-$5"}]"#,
            "1-1-$(NO)-$(A)-$5",
        ),
        (
            r#"[{"name":"X","value":"$(USER_CENTER_SERVICE_HOST):$(USER_CENTER_SERVICE_PORT_HTTP)"}]"#,
            "10.96.1.2:80",
        ),
        (
            r#"[{"name":"X","value":"$(KUBERNETES_SERVICE_HOST)"}]"#,
            "10.96.0.1",
        ),
        (
            r#"[{"name":"X","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}]"#,
            "web",
        ),
        (
            r#"[{"name":"X","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}}]"#,
            "10.244.0.5",
        ),
        (
            r#"[{"name":"X","valueFrom":{"fieldRef":{"fieldPath":"spec.nodeName"}}}]"#,
            "node1",
        ),
        (
            r#"[{"name":"X","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['app']"}}}]"#,
            "web",
        ),
        (
            r#"[{"name":"X","valueFrom":{"resourceFieldRef":{"resource":"limits.cpu"}}}]"#,
            "2",
        ),
        (
            r#"[{"name":"X","valueFrom":{"resourceFieldRef":{"resource":"limits.memory","divisor":"1Mi"}}}]"#,
            "64",
        ),
        (
            r#"[{"name":"X","valueFrom":{"configMapKeyRef":{"name":"settings","key":"colour"}}}]"#,
            "blue",
        ),
        (
            r#"[{"name":"X","valueFrom":{"secretKeyRef":{"name":"keys","key":"token"}}}]"#,
            "hi",
        ),
        (
            r#"[{"name":"X","valueFrom":{"configMapKeyRef":{"name":"no","key":"k","optional":true}}}]"#,
            "image",
        ),
    ] {
        assert_eq!(x(env), Ok(Some(expect.to_owned())), "{env}");
    }
}

#[test]
fn a_missing_reference_is_named() {
    for (env, part) in [
        (
            r#"[{"name":"X","valueFrom":{"configMapKeyRef":{"name":"no","key":"k"}}}]"#,
            "configmap \"no\" not found",
        ),
        (
            r#"[{"name":"X","valueFrom":{"secretKeyRef":{"name":"keys","key":"no"}}}]"#,
            "key no in Secret shop/keys",
        ),
        (
            r#"[{"name":"X","valueFrom":{"fieldRef":{"fieldPath":"spec.no"}}}]"#,
            "spec.no",
        ),
    ] {
        let error = x(env).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}
