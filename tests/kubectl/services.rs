//! Services of every type as people make them with kubectl, what they see of them, and what they are told when they
//! are wrong. No traffic.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Cluster, eventually};

use crate::Kubectl;

/// kubectl in a namespace of its own.
struct Space {
    kubectl: Kubectl,
    name: String,
}

impl Space {
    fn run(&self, words: &[&str]) -> Result<harness::Output> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend(words);
        self.kubectl.run(&all)
    }

    fn ok(&self, words: &[&str]) -> Result<String> {
        self.run(words)?.ok()
    }

    fn field(&self, service: &str, path: &str) -> Result<String> {
        self.ok(&["get", "svc", service, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// What is said of a manifest that is refused.
    fn refused(&self, spec: &str) -> Result<String> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("service.yaml");
        let text =
            format!("apiVersion: v1\nkind: Service\nmetadata: {{name: wrong}}\nspec: {spec}\n");
        std::fs::write(&file, text)?;
        self.run(&["create", "-f", &file.to_string_lossy()])?
            .fault()
    }
}

/// Makes one of every type, looks at them, changes their types and makes them wrong.
pub(crate) fn every_type(cluster: &Cluster, variable: &str) -> Result<()> {
    let kubectl = Kubectl::new(cluster, variable)?;
    let name = format!("services-{}", variable.to_lowercase().replace('_', "-"));
    kubectl.ok(&["create", "namespace", &name])?;
    let space = Space { kubectl, name };
    made(&space)?;
    shown(&space)?;
    changed(&space)?;
    faulty(&space)
}

fn made(space: &Space) -> Result<()> {
    space.ok(&[
        "create",
        "deployment",
        "web",
        "--image=shop/user-center:2.0",
        "--replicas=0",
    ])?;
    space.ok(&[
        "expose",
        "deployment",
        "web",
        "--name=exposed",
        "--type=NodePort",
        "--port=80",
        "--target-port=8080",
    ])?;
    space.ok(&[
        "create",
        "service",
        "nodeport",
        "node",
        "--tcp=80:8080",
        "--tcp=81:8081",
    ])?;
    space.ok(&[
        "create",
        "service",
        "loadbalancer",
        "balanced",
        "--tcp=80:8080",
    ])?;
    space.ok(&[
        "create",
        "service",
        "externalname",
        "alias",
        "--external-name",
        "db.example.com",
    ])?;
    for (service, path) in [
        ("exposed", ".spec.ports[0].nodePort"),
        ("node", ".spec.ports[1].nodePort"),
    ] {
        let port: u16 = space.field(service, path)?.parse()?;
        ensure!((30_000..=32_767).contains(&port), "{service}: {port}");
    }
    eventually(
        "the load balancer has an address",
        Duration::from_secs(20),
        || {
            let address = space.field("balanced", ".status.loadBalancer.ingress[0].ip")?;
            ensure!(address.starts_with("172.30.0."), "no address: {address:?}");
            Ok(())
        },
    )
}

/// The line of a Service in a listing, as words.
fn line(listing: &str, name: &str) -> Result<Vec<String>> {
    let line = listing.lines().find(|line| line.starts_with(name));
    let line = line.with_context(|| format!("no {name}: {listing}"))?;
    Ok(line.split_whitespace().map(str::to_owned).collect())
}

fn shown(space: &Space) -> Result<()> {
    let listing = space.ok(&["get", "svc", "-o", "wide"])?;
    let port = space.field("exposed", ".spec.ports[0].nodePort")?;
    let exposed = line(&listing, "exposed")?;
    ensure!(
        exposed[1] == "NodePort" && exposed[3] == "<none>",
        "{listing}"
    );
    ensure!(
        exposed[4] == format!("80:{port}/TCP") && exposed[6] == "app=web",
        "{listing}"
    );
    let alias = line(&listing, "alias")?;
    ensure!(
        alias[1..5] == ["ExternalName", "<none>", "db.example.com", "<none>"],
        "{listing}"
    );
    let address = space.field("balanced", ".status.loadBalancer.ingress[0].ip")?;
    let balanced = line(&listing, "balanced")?;
    ensure!(
        balanced[1] == "LoadBalancer" && balanced[3] == address,
        "{listing}"
    );
    ensure!(
        space.field("balanced", ".status.loadBalancer.ingress[0].ipMode")? == "VIP",
        "no ipMode"
    );
    let described = space.ok(&["describe", "svc", "balanced"])?;
    for words in [
        "LoadBalancer Ingress:",
        &address,
        "NodePort:",
        "External Traffic Policy:",
        "IPAllocated",
    ] {
        ensure!(described.contains(words), "{words}: {described}");
    }
    Ok(())
}

fn changed(space: &Space) -> Result<()> {
    let patch = |service: &str, text: &str| space.ok(&["patch", "svc", service, "-p", text]);
    let before = space.field("exposed", ".spec.ports[0].nodePort")?;
    patch(
        "exposed",
        r#"{"spec":{"type":"LoadBalancer","externalTrafficPolicy":"Local"}}"#,
    )?;
    let check: u16 = space
        .field("exposed", ".spec.healthCheckNodePort")?
        .parse()?;
    ensure!((30_000..=32_767).contains(&check), "{check}");
    ensure!(
        space.field("exposed", ".spec.ports[0].nodePort")? == before,
        "its node port changed"
    );
    patch("exposed", r#"{"spec":{"type":"ClusterIP"}}"#)?;
    for path in [
        ".spec.healthCheckNodePort",
        ".spec.ports[0].nodePort",
        ".spec.externalTrafficPolicy",
    ] {
        let left = space.field("exposed", path)?;
        ensure!(left.is_empty(), "{path}: {left}");
    }
    eventually("its address is taken back", Duration::from_secs(20), || {
        let left = space.field("exposed", ".status.loadBalancer.ingress")?;
        ensure!(left.is_empty(), "it keeps {left}");
        Ok(())
    })?;
    // What it gave back is anybody's.
    let wish = format!("--node-port={before}");
    space.ok(&["create", "service", "nodeport", "heir", "--tcp=80", &wish])?;
    let taken = space
        .run(&["create", "service", "nodeport", "thief", "--tcp=80", &wish])?
        .fault()?;
    ensure!(
        taken.contains("provided port is already allocated"),
        "{taken}"
    );
    patch(
        "node",
        r#"{"spec":{"type":"ExternalName","externalName":"db.example.com"}}"#,
    )?;
    ensure!(
        space.field("node", ".spec.clusterIP")?.is_empty(),
        "an alias has an address"
    );
    patch(
        "alias",
        r#"{"spec":{"type":"ClusterIP","ports":[{"port":80}]}}"#,
    )?;
    ensure!(
        !space.field("alias", ".spec.clusterIP")?.is_empty(),
        "no address"
    );
    Ok(())
}

fn faulty(space: &Space) -> Result<()> {
    for (spec, words) in [
        (
            "{type: NodePort, ports: [{port: 80, nodePort: 80}]}",
            &[
                "spec.ports[0].nodePort",
                "The range of valid ports is 30000-32767",
            ][..],
        ),
        (
            "{ports: [{port: 80, nodePort: 30999}]}",
            &["may not be used when `type` is 'ClusterIP'"],
        ),
        (
            "{type: ExternalName, ports: [{port: 80}]}",
            &["spec.externalName: Required value"],
        ),
        (
            "{type: Cloud, sessionAffinity: Cookie, externalIPs: [127.0.0.1], ports: [{port: 80, protocol: SCTP}]}",
            &[
                "spec.type",
                "spec.sessionAffinity",
                "spec.externalIPs[0]",
                "loopback range",
                "TCP and UDP only",
            ],
        ),
        (
            "{externalTrafficPolicy: Local, loadBalancerSourceRanges: [10.0.0.0/8], ports: [{port: 80}]}",
            &[
                "may only be set for externally-accessible services",
                "may only be used when `type` is 'LoadBalancer'",
            ],
        ),
    ] {
        let said = space.refused(spec)?;
        for word in words {
            ensure!(said.contains(word), "{spec}: {word:?} is missing: {said}");
        }
    }
    Ok(())
}
