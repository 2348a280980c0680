//! Pods for tests.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use waggle_model::{IdentityId, PodKey, TenantId};
use waggle_runtime::spec::{ContainerPhase, ContainerSpec, ContainerState, ResourceSpec};

use super::desired::{Desired, Ephemeral};
use super::observed::{SECOND, note};

/// A pod `shop/web` whose spec is `spec` (JSON), with one container `main` unless it names others.
pub(crate) fn pod(spec: &str) -> Desired {
    let mut spec: Value = serde_json::from_str(spec).unwrap();
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "main", "image": "web:1"}]);
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
        "spec": spec,
    });
    Desired {
        key: PodKey {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u1".into(),
        },
        pod: serde_json::from_value(pod).unwrap(),
        ephemeral: Ephemeral::default(),
        config_maps: BTreeMap::new(),
        secrets: BTreeMap::new(),
        volumes: BTreeMap::new(),
        identity: IdentityId(7),
        tenant: TenantId(2),
        addresses: "10.244.0.5".parse().ok(),
        removed: false,
    }
}

/// A container `name` of that pod that runs image `web:1`.
pub(crate) fn container(name: &str, phase: ContainerPhase, streak: u32) -> ContainerState {
    let spec = ContainerSpec {
        pod: "u1".into(),
        name: name.into(),
        attempt: streak,
        layers: vec![],
        read_only_root: false,
        args: vec!["/web".into()],
        env: vec![],
        cwd: "/".into(),
        user: Default::default(),
        mounts: vec![],
        resources: ResourceSpec {
            pids_limit: Some(super::qos::PIDS),
            ..ResourceSpec::default()
        },
        capabilities: vec![],
        no_new_privileges: false,
        privileged: false,
        seccomp_default: true,
        seccomp_profile: None,
        host_pid: false,
        pid_of: None,
        tty: false,
        stdin: false,
        stdin_once: false,
        log_path: "/l".into(),
        oom_score_adj: 0,
        annotations: [
            (note::IMAGE.to_owned(), "web:1".to_owned()),
            (note::STREAK.to_owned(), streak.to_string()),
        ]
        .into(),
    };
    let started_ns = match phase {
        ContainerPhase::Exited { finished_ns, .. } => finished_ns - SECOND,
        _ => 0,
    };
    ContainerState {
        spec,
        pid: None,
        phase,
        started_ns,
        notes: vec![],
    }
}

/// Ended with `code` at `finished`.
pub(crate) fn exited(code: i32, finished: i64) -> ContainerPhase {
    ContainerPhase::Exited {
        code,
        signal: None,
        oom_killed: false,
        finished_ns: finished,
    }
}
