//! What kubectl creates from its arguments (in protobuf, when it is new), server-side apply and its conflicts, roles
//! and tokens, and draining a node that a disruption budget guards.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::Cluster;

use crate::Kubectl;

/// Kinds made from arguments alone, and what is seen of them.
pub(crate) fn creates(cluster: &Cluster, variable: &str) -> Result<()> {
    let kubectl = Kubectl::new(cluster, variable)?;
    let space = format!("made-{}", variable.to_lowercase().replace('_', "-"));
    kubectl.ok(&["create", "namespace", &space])?;
    let create = |words: &[&str]| {
        let mut all = vec!["-n", space.as_str(), "create"];
        all.extend(words);
        kubectl.ok(&all)
    };
    create(&[
        "deployment",
        "web",
        "--image=shop/user-center:2.0",
        "--replicas=0",
    ])?;
    create(&["configmap", "map", "--from-literal=a=b"])?;
    create(&["secret", "generic", "secret", "--from-literal=a=b"])?;
    create(&["serviceaccount", "ci"])?;
    create(&["service", "clusterip", "web", "--tcp=80:8080"])?;
    create(&["quota", "few", "--hard=pods=3"])?;
    create(&["role", "reader", "--verb=get,list", "--resource=pods"])?;
    let account = format!("--serviceaccount={space}:ci");
    create(&["rolebinding", "reader", "--role=reader", &account])?;
    create(&["ingress", "web", "--rule=shop.example/*=web:80"])?;
    create(&["job", "once", "--image=shop/client:1.0", "--", "true"])?;
    for (kind, name) in [
        ("deployment", "web"),
        ("quota", "few"),
        ("ingress", "web"),
        ("rolebinding", "reader"),
        ("job", "once"),
    ] {
        let shown = kubectl.ok(&["-n", &space, "get", kind, name])?;
        ensure!(shown.contains(name), "{shown}");
    }
    let data = kubectl.ok(&["-n", &space, "get", "cm", "map", "-o", "jsonpath={.data.a}"])?;
    ensure!(data == "b", "{data}");
    let who = format!("--as=system:serviceaccount:{space}:ci");
    for (verb, expect) in [("list", "yes"), ("delete", "no")] {
        let said = kubectl.run(&["-n", &space, "auth", "can-i", verb, "pods", &who])?;
        ensure!(said.stdout.trim() == expect, "{verb}: {said:?}");
    }
    let refused = kubectl
        .run(&["-n", &space, "get", "secrets", &who])?
        .fault()?;
    ensure!(
        refused.contains("cannot list resource \"secrets\""),
        "{refused}"
    );
    applies(&kubectl, &space)?;
    kubectl.ok(&["delete", "namespace", &space, "--timeout=60s"])?;
    Ok(())
}

/// Two managers of one object.
fn applies(kubectl: &Kubectl, space: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("map.yaml");
    let write = |value: &str| {
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: shared}}\ndata: {{a: '{value}'}}\n"
        );
        std::fs::write(&file, text)
    };
    let path = file.to_string_lossy().into_owned();
    let apply = |more: &[&str]| {
        let mut words = vec!["-n", space, "apply", "--server-side", "-f", path.as_str()];
        words.extend(more);
        kubectl.run(&words)
    };
    write("1")?;
    apply(&[])?.ok()?;
    write("2")?;
    let diff = kubectl.run(&["-n", space, "diff", "--server-side", "-f", &path])?;
    ensure!(
        diff.code == 1 && diff.stdout.contains("+  a: \"2\""),
        "{diff:?}"
    );
    let conflict = apply(&["--field-manager=other"])?.fault()?;
    ensure!(
        conflict.contains("conflict with \"kubectl\"") && conflict.contains(".data.a"),
        "{conflict}"
    );
    apply(&["--field-manager=other", "--force-conflicts"])?.ok()?;
    let back = apply(&[])?;
    ensure!(back.code == 0, "the same value is no conflict: {back:?}");
    Ok(())
}

/// Tokens, who one is, and a drain that waits for a budget.
pub(crate) fn asks_and_drains(cluster: &Cluster) -> Result<()> {
    let kubectl = Kubectl::new(cluster, "WAGGLE_KUBECTL")?;
    kubectl.ok(&["create", "serviceaccount", "robot"])?;
    let token = kubectl.ok(&["create", "token", "robot"])?;
    ensure!(token.trim().split('.').count() == 3, "{token}");
    let me = kubectl.ok(&["auth", "whoami"])?;
    ensure!(me.contains("system:masters"), "{me}");
    let unknown = ["explain", "hives"];
    ensure!(kubectl.run(&unknown)?.code != 0);
    for kind in [
        "networkpolicy.spec",
        "ingress.spec.rules",
        "pvc.spec",
        "crd.spec",
    ] {
        kubectl.ok(&["explain", kind])?;
    }
    kubectl.ok(&[
        "create",
        "deployment",
        "guarded",
        "--image=shop/user-center:2.0",
    ])?;
    kubectl.ok(&["rollout", "status", "deployment/guarded", "--timeout=60s"])?;
    kubectl.ok(&[
        "create",
        "poddisruptionbudget",
        "guard",
        "--selector=app=guarded",
        "--min-available=1",
    ])?;
    harness::eventually("the budget is counted", Duration::from_secs(30), || {
        let healthy = kubectl.ok(&[
            "get",
            "pdb",
            "guard",
            "-o",
            "jsonpath={.status.currentHealthy}",
        ])?;
        ensure!(healthy == "1", "{healthy} healthy");
        Ok(())
    })?;
    let drain = [
        "drain",
        "node1",
        "--ignore-daemonsets",
        "--force",
        "--delete-emptydir-data",
        "--timeout=8s",
    ];
    let held = kubectl.run(&drain)?;
    let said = format!("{}{}", held.stdout, held.stderr);
    ensure!(
        held.code != 0 && said.contains("disruption budget"),
        "the budget did not hold the drain: {held:?}"
    );
    kubectl.ok(&["delete", "pdb", "guard"])?;
    let drain = [
        "drain",
        "node1",
        "--ignore-daemonsets",
        "--force",
        "--delete-emptydir-data",
        "--timeout=60s",
    ];
    kubectl.ok(&drain)?;
    kubectl.ok(&["uncordon", "node1"])?;
    kubectl.ok(&["delete", "deployment", "guarded", "--timeout=60s"])?;
    kubectl.ok(&["delete", "serviceaccount", "robot"])?;
    Ok(())
}
