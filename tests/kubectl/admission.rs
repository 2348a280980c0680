//! Namespaces that bound what comes into them: quotas, limit ranges, Pod Security.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Cluster, eventually};

use crate::Kubectl;

const BOUNDS: &str = r#"
apiVersion: v1
kind: ResourceQuota
metadata: {name: few}
spec: {hard: {pods: "2", requests.cpu: "1", count/configmaps: "3"}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: usual}
spec:
  limits:
    - {type: Container, defaultRequest: {cpu: 100m}, default: {cpu: 200m}, max: {cpu: "2"}}
"#;

/// A pod's manifest; `more` is more of its container, in YAML's flow style.
fn pod(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         containers: [{{name: c, image: \"shop/client:1.0\", command: [sleep, \"1000\"]{more}}}]\n"
    )
}

pub(crate) fn bounds(cluster: &Cluster, variable: &str) -> Result<()> {
    let kubectl = Kubectl::new(cluster, variable)?;
    let space = format!("bound-{}", variable.to_lowercase().replace('_', "-"));
    let folder = tempfile::tempdir()?;
    let apply = |text: &str| {
        let path = folder.path().join("object.yaml");
        std::fs::write(&path, text)?;
        kubectl.run(&["-n", &space, "apply", "-f", &path.to_string_lossy()])
    };
    kubectl.ok(&["create", "namespace", &space])?;
    let labels = [
        "pod-security.kubernetes.io/enforce=baseline",
        "pod-security.kubernetes.io/warn=restricted",
    ];
    kubectl.ok(&["label", "namespace", &space, labels[0], labels[1]])?;
    apply(BOUNDS)?.ok()?;

    let refused = apply(&pod("a", ", securityContext: {privileged: true}"))?.fault()?;
    ensure!(
        refused.contains("violates PodSecurity \"baseline:latest\": privileged"),
        "{refused}"
    );
    let refused = apply(&pod("a", ", resources: {limits: {cpu: 3}}"))?.fault()?;
    ensure!(
        refused.contains("maximum cpu usage per Container is 2, but limit is 3"),
        "{refused}"
    );
    let warned = apply(&pod("a", ""))?;
    ensure!(
        warned.code == 0 && warned.stderr.contains("would violate PodSecurity"),
        "{warned:?}"
    );
    let path = "jsonpath={.spec.containers[0].resources.requests.cpu}";
    let asked = kubectl.ok(&["-n", &space, "get", "pod", "a", "-o", path])?;
    ensure!(asked == "100m", "{asked}");
    let refused = apply(&pod(
        "b",
        ", resources: {limits: {cpu: \"2\"}, requests: {cpu: 950m}}",
    ))?
    .fault()?;
    let expect = "exceeded quota: few, requested: requests.cpu=950m, used: requests.cpu=100m, limited: requests.cpu=1";
    ensure!(refused.contains(expect), "{refused}");

    // A Deployment gets what there is room for, and is told of the rest.
    kubectl.ok(&[
        "-n",
        &space,
        "create",
        "deployment",
        "web",
        "--image=shop/user-center:2.0",
    ])?;
    kubectl.ok(&["-n", &space, "scale", "deployment/web", "--replicas=3"])?;
    eventually("the quota's use", Duration::from_secs(30), || {
        let path = "jsonpath={.status.used.pods} {.status.used.requests\\.cpu} {.status.hard.pods}";
        let used = kubectl.ok(&["-n", &space, "get", "quota", "few", "-o", path])?;
        ensure!(used == "2 200m 2", "{used}");
        let events = kubectl.ok(&["-n", &space, "get", "events"])?;
        ensure!(events.contains("exceeded quota: few"), "{events}");
        Ok(())
    })?;
    let described = kubectl.ok(&["-n", &space, "describe", "quota", "few"])?;
    ensure!(
        described.contains("pods") && described.contains("requests.cpu"),
        "{described}"
    );
    kubectl.ok(&["delete", "namespace", &space, "--timeout=60s"])?;
    Ok(())
}
