//! Real kubectl, an old one, one of the middle and a current one, against a cluster of one node: what people type every day.
#![forbid(unsafe_code)]

mod admission;
mod attach;
mod certificates;
mod custom;
mod debug;
mod in_pod;
mod resize;
mod services;
mod streams;
mod writers;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::{Cluster, Kubectl, Suite};

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: shop/user-center:2.0
          ports: [{name: http, containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
"#;

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    match Cluster::up("wgt-kubectl", 1) {
        Ok(cluster) => Suite::new(cluster)
            .test("kubectl_1_20", |cluster| {
                everyday(cluster, "WAGGLE_KUBECTL_OLD")
            })
            .test("kubectl_1_28", |cluster| {
                everyday(cluster, "WAGGLE_KUBECTL_MIDDLE")
            })
            .test("kubectl_1_37", |cluster| {
                everyday(cluster, "WAGGLE_KUBECTL")
            })
            .test("kubectl_1_20_creates_and_applies", |cluster| {
                writers::creates(cluster, "WAGGLE_KUBECTL_OLD")
            })
            .test("kubectl_1_28_creates_and_applies", |cluster| {
                writers::creates(cluster, "WAGGLE_KUBECTL_MIDDLE")
            })
            .test("kubectl_1_37_creates_and_applies", |cluster| {
                writers::creates(cluster, "WAGGLE_KUBECTL")
            })
            .test("kubectl_1_20_services_of_every_type", |cluster| {
                services::every_type(cluster, "WAGGLE_KUBECTL_OLD")
            })
            .test("kubectl_1_37_services_of_every_type", |cluster| {
                services::every_type(cluster, "WAGGLE_KUBECTL")
            })
            .test("kubectl_1_20_custom_resources", |cluster| {
                custom::widgets(cluster, "WAGGLE_KUBECTL_OLD")
            })
            .test("kubectl_1_37_custom_resources", |cluster| {
                custom::widgets(cluster, "WAGGLE_KUBECTL")
            })
            .test("kubectl_1_20_meets_bounds", |cluster| {
                admission::bounds(cluster, "WAGGLE_KUBECTL_OLD")
            })
            .test("kubectl_1_37_meets_bounds", |cluster| {
                admission::bounds(cluster, "WAGGLE_KUBECTL")
            })
            .test(
                "kubectl_1_37_a_user_gets_a_certificate",
                certificates::a_user_gets_a_certificate,
            )
            .test("kubectl_sees_other_versions", custom::other_versions)
            .test("kubectl_1_37_asks_and_drains", writers::asks_and_drains)
            .test("kubectl_1_20_reaches_into_a_pod", |cluster| {
                streams::into_a_pod(cluster, "WAGGLE_KUBECTL_OLD")
            })
            .test("kubectl_1_28_reaches_into_a_pod", |cluster| {
                streams::into_a_pod(cluster, "WAGGLE_KUBECTL_MIDDLE")
            })
            .test("kubectl_1_37_reaches_into_a_pod", |cluster| {
                streams::into_a_pod(cluster, "WAGGLE_KUBECTL")
            })
            .test("kubectl_1_20_runs_and_attaches", |cluster| {
                attach::runs_and_attaches(cluster, "WAGGLE_KUBECTL_OLD")
            })
            .test("kubectl_1_37_runs_and_attaches", |cluster| {
                attach::runs_and_attaches(cluster, "WAGGLE_KUBECTL")
            })
            .test("kubectl_1_37_resizes", resize::resources_change_in_place)
            .test("kubectl_1_37_debugs", debug::containers_are_added)
            .test(
                "kubectl_1_37_in_a_pod_may_what_its_account_may",
                in_pod::roles_decide,
            )
            .run(),
        Err(error) => {
            eprintln!("no cluster to test: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn everyday(cluster: &Cluster, variable: &str) -> Result<()> {
    let kubectl = Kubectl::new(cluster, variable)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("web.yaml");
    std::fs::write(&file, MANIFEST)?;
    let file = file.to_string_lossy().into_owned();

    let applied = kubectl.run(&["apply", "-f", &file])?;
    ensure!(
        applied.code == 0 && !applied.stderr.to_lowercase().contains("error"),
        "{applied:?}"
    );
    kubectl.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let pods = kubectl.ok(&["get", "pods", "-o", "wide"])?;
    ensure!(
        pods.lines()
            .next()
            .is_some_and(|head| head.contains("READY") && head.contains("NODE")),
        "{pods}"
    );
    ensure!(
        pods.matches("1/1").count() == 2 && pods.contains("node1"),
        "{pods}"
    );
    let unchanged = kubectl.ok(&["apply", "-f", &file])?;
    ensure!(unchanged.matches("unchanged").count() == 2, "{unchanged}");
    let described = kubectl.ok(&["describe", "deployment", "web"])?;
    ensure!(
        described.contains("2 desired | 2 updated | 2 total | 2 available"),
        "{described}"
    );
    let described = kubectl.ok(&["describe", "pods"])?;
    ensure!(described.contains("Started"), "no events: {described}");
    kubectl.ok(&["scale", "deployment/web", "--replicas=3"])?;
    kubectl.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    std::fs::write(&file, MANIFEST.replace("center:2.0", "center:2.1"))?;
    let configured = kubectl.ok(&["apply", "-f", &file])?;
    ensure!(
        configured.contains("deployment.apps/web configured"),
        "{configured}"
    );
    kubectl.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    for kinds in [
        "nodes",
        "namespaces",
        "events",
        "replicasets",
        "endpointslices",
        "leases",
        "secrets",
        "configmaps",
        "tenants",
    ] {
        kubectl.ok(&["get", kinds, "-A"])?;
    }
    let versions = kubectl.ok(&[
        "get",
        "deployment",
        "web",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].image}",
    ])?;
    ensure!(versions == "shop/user-center:2.1", "{versions}");
    kubectl.ok(&["label", "deployment", "web", "team=shop"])?;
    kubectl.ok(&[
        "patch",
        "deployment",
        "web",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/metadata/labels/x","value":"y"}]"#,
    ])?;
    kubectl.ok(&[
        "patch",
        "deployment",
        "web",
        "--type=merge",
        "-p",
        r#"{"metadata":{"labels":{"x":null}}}"#,
    ])?;
    kubectl.ok(&["patch", "deployment", "web", "-p", r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"A","value":"1"}]}]}}}}"#])?;
    let image = kubectl.ok(&[
        "get",
        "deployment",
        "web",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].image}",
    ])?;
    ensure!(
        image == "shop/user-center:2.1",
        "a strategic merge patch lost the image: {image}"
    );
    let fault = kubectl
        .run(&["scale", "deployment/web", "--replicas=-1"])?
        .fault()?;
    ensure!(fault.contains("replicas"), "{fault}");
    let fault = kubectl.run(&["get", "pods", "nobody"])?.fault()?;
    ensure!(fault.contains(r#"pods "nobody" not found"#), "{fault}");
    kubectl.ok(&["delete", "-f", &file, "--timeout=60s"])?;
    let gone = kubectl.ok(&[
        "wait",
        "--for=delete",
        "pod",
        "-l",
        "app=web",
        "--timeout=60s",
    ]);
    ensure!(
        gone.is_ok() || kubectl.ok(&["get", "pods"])?.is_empty(),
        "pods stay: {gone:?}"
    );
    Ok(())
}
