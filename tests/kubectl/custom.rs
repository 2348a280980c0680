//! A kind that a CustomResourceDefinition adds, as people use it: explained, validated, applied, shown in its columns,
//! scaled, and taken away with its definition.

use anyhow::{Result, ensure};
use harness::Cluster;

use crate::Kubectl;

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.shop.example}
spec:
  group: shop.example
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd], categories: [all]}
  versions:
    - name: v1
      served: true
      storage: true
      subresources:
        status: {}
        scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.ready}
      additionalPrinterColumns:
        - {name: Size, type: integer, jsonPath: .spec.size}
        - {name: Color, type: string, jsonPath: .spec.color}
      schema:
        openAPIV3Schema:
          type: object
          required: [spec]
          properties:
            spec:
              type: object
              required: [size]
              properties:
                size: {type: integer, minimum: 1, maximum: 9, description: How many pieces.}
                color: {type: string, enum: [red, green], default: green}
            status:
              type: object
              properties:
                ready: {type: integer}
"#;

/// A Widget's manifest; `spec` is in YAML's flow style.
fn manifest(spec: &str) -> String {
    format!(
        "apiVersion: shop.example/v1\nkind: Widget\nmetadata: {{name: a, namespace: default}}\nspec: {spec}\n"
    )
}

pub(crate) fn widgets(cluster: &Cluster, variable: &str) -> Result<()> {
    let kubectl = Kubectl::new(cluster, variable)?;
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let definition = write("definition.yaml", DEFINITION)?;
    kubectl.ok(&["apply", "-f", &definition])?;
    let crd = "crd/widgets.shop.example";
    kubectl.ok(&["wait", "--for=condition=Established", crd, "--timeout=30s"])?;

    let explained = kubectl.ok(&["explain", "widgets.spec.size"])?;
    ensure!(explained.contains("How many pieces."), "{explained}");
    let good = write("good.yaml", &manifest("{size: 3}"))?;
    kubectl.ok(&["apply", "-f", &good])?;
    let again = kubectl.ok(&["apply", "-f", &good])?;
    ensure!(again.contains("unchanged"), "{again}");
    for (spec, expect) in [
        ("{size: 3, colour: red}", "colour"),
        ("{size: 30, color: blue}", "spec.size"),
        ("{size: 30, color: blue}", "spec.color"),
        ("{size: 0}", "greater than or equal to 1"),
        ("{size: many}", "size"),
    ] {
        let bad = write("bad.yaml", &manifest(spec))?;
        let fault = kubectl.run(&["apply", "-f", &bad])?.fault()?;
        ensure!(fault.contains(expect), "{spec}: {fault}");
    }
    kubectl.ok(&[
        "patch",
        "widget",
        "a",
        "--type=merge",
        "-p",
        r#"{"spec":{"color":"red"}}"#,
    ])?;
    let shown = kubectl.ok(&["get", "wd"])?;
    let (head, row) = shown.split_once('\n').unwrap_or_default();
    ensure!(
        head.split_whitespace().eq(["NAME", "SIZE", "COLOR"]),
        "{shown}"
    );
    ensure!(row.split_whitespace().eq(["a", "3", "red"]), "{shown}");
    kubectl.ok(&["scale", "widget/a", "--replicas=5"])?;
    kubectl.ok(&["label", "widget", "a", "team=shop"])?;
    let size = kubectl.ok(&[
        "get",
        "widget",
        "a",
        "-l",
        "team=shop",
        "-o",
        "jsonpath={.spec.size}",
    ]);
    // A name and a selector together are refused; the name alone is not.
    ensure!(size.is_err(), "{size:?}");
    let size = kubectl.ok(&["get", "widget", "a", "-o", "jsonpath={.spec.size}"])?;
    ensure!(size == "5", "{size}");
    kubectl.ok(&[
        "apply",
        "--server-side",
        "--field-manager=other",
        "--force-conflicts",
        "-f",
        &good,
    ])?;
    let size = kubectl.ok(&[
        "get",
        "widget",
        "a",
        "-o",
        "jsonpath={.spec.size} {.spec.color}",
    ])?;
    ensure!(size == "3 red", "{size}");
    let described = kubectl.ok(&["describe", "widget", "a"])?;
    ensure!(
        described.contains("Color:") && described.contains("red"),
        "{described}"
    );
    let all = kubectl.ok(&["get", "all"])?;
    ensure!(all.contains("widget.shop.example/a"), "{all}");
    kubectl.ok(&["delete", "-f", &definition, "--timeout=60s"])?;
    let fault = kubectl.run(&["get", "widgets.shop.example"])?.fault()?;
    ensure!(fault.contains("resource type"), "{fault}");
    Ok(())
}

/// Kinds that are served under another group or version too.
pub(crate) fn other_versions(cluster: &Cluster) -> Result<()> {
    let old = Kubectl::new(cluster, "WAGGLE_KUBECTL_OLD")?;
    let new = Kubectl::new(cluster, "WAGGLE_KUBECTL")?;
    old.ok(&[
        "create",
        "deployment",
        "scaled",
        "--image=shop/client:1.0",
        "--replicas=0",
    ])?;
    old.ok(&[
        "autoscale",
        "deployment",
        "scaled",
        "--max=3",
        "--cpu-percent=60",
    ])?;
    for kubectl in [&old, &new] {
        for (version, path) in [
            ("v1", "{.spec.targetCPUUtilizationPercentage}"),
            (
                "v2",
                "{.spec.metrics[0].resource.target.averageUtilization}",
            ),
        ] {
            let kind = format!("horizontalpodautoscalers.{version}.autoscaling");
            let percent =
                kubectl.ok(&["get", &kind, "scaled", "-o", &format!("jsonpath={path}")])?;
            ensure!(percent == "60", "{version}: {percent}");
        }
        let patch = r#"{"spec":{"maxReplicas":4}}"#;
        kubectl.ok(&[
            "patch",
            "horizontalpodautoscalers.v1.autoscaling",
            "scaled",
            "--type=merge",
            "-p",
            patch,
        ])?;
        let events = kubectl.ok(&["get", "events.events.k8s.io", "-A"])?;
        ensure!(
            events.contains("REASON") && events.lines().count() > 1,
            "{events}"
        );
    }
    old.ok(&["delete", "deployment/scaled", "hpa/scaled", "--timeout=30s"])?;
    Ok(())
}
