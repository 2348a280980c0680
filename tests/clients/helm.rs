//! helm with a chart of our own: a definition in `crds/`, an object of its kind, a workload that it waits for, hooks.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Cluster, Output, run};
use serde_json::Value;

use super::setting;

struct Helm<'a> {
    cluster: &'a Cluster,
    binary: String,
    home: tempfile::TempDir,
    namespace: &'a str,
}

impl<'a> Helm<'a> {
    fn new(cluster: &'a Cluster, namespace: &'a str) -> Result<Self> {
        Ok(Self {
            cluster,
            binary: setting("WAGGLE_HELM")?,
            home: tempfile::tempdir()?,
            namespace,
        })
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .args(["--namespace", self.namespace, "--kubeconfig"])
            .arg(self.cluster.folder().join("kubeconfig"))
            .env("HELM_CACHE_HOME", self.home.path())
            .env("HELM_CONFIG_HOME", self.home.path())
            .env("HELM_DATA_HOME", self.home.path());
        run(&mut command, Duration::from_secs(120))
    }

    fn ok(&self, arguments: &[&str]) -> Result<String> {
        self.run(arguments)?.ok()
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ok(&[arguments, &["--output", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    fn object(&self, kind: &str, name: &str) -> Result<Value> {
        self.cluster.json(&[kind, name, "-n", self.namespace])
    }
}

fn chart() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients/chart");
    path.to_string_lossy().into_owned()
}

pub(crate) fn installs_upgrades_and_rolls_back(cluster: &Cluster) -> Result<()> {
    let helm = Helm::new(cluster, "charts")?;
    let chart = chart();
    let wait = ["--wait", "--timeout", "60s"];
    let installed =
        helm.ok(&[&["install", "one", &chart, "--create-namespace"], &wait[..]].concat())?;
    ensure!(installed.contains("STATUS: deployed"), "{installed}");
    let deployment = helm.object("deployment", "one")?;
    ensure!(
        deployment["status"]["readyReplicas"] == 1,
        "installed before it was ready: {deployment}"
    );
    let gadget = helm.object("gadgets", "one")?;
    ensure!(
        gadget["spec"]["colour"] == "blue" && gadget["spec"]["size"] == 3,
        "{gadget}"
    );
    let job = helm.object("job", "one-pre-install")?;
    ensure!(job["status"]["succeeded"] == 1, "{job}");
    helm.ok(&["test", "one", "--timeout", "60s"])?;

    let set = ["--set", "replicas=2,greeting=goodbye,colour=green"];
    let upgraded = helm.ok(&[&["upgrade", "one", &chart], &set[..], &wait[..]].concat())?;
    ensure!(upgraded.contains("REVISION: 2"), "{upgraded}");
    let deployment = helm.object("deployment", "one")?;
    ensure!(deployment["status"]["readyReplicas"] == 2, "{deployment}");
    ensure!(
        helm.object("gadgets", "one")?["spec"]["colour"] == "green",
        "the object was not changed"
    );
    ensure!(
        helm.object("configmap", "one")?["data"]["index.html"] == "goodbye",
        "the text was not changed"
    );

    // What the schema forbids is refused, and the release says so.
    let fault = helm
        .run(&["upgrade", "one", &chart, "--set", "colour=red"])?
        .fault()?;
    ensure!(
        fault.contains("spec.colour") && fault.contains("blue"),
        "{fault}"
    );
    ensure!(
        helm.json(&["status", "one"])?["info"]["status"] == "failed",
        "{fault}"
    );

    helm.ok(&[&["rollback", "one", "1"], &wait[..]].concat())?;
    let status = helm.json(&["status", "one"])?;
    ensure!(
        status["info"]["status"] == "deployed" && status["version"] == 4,
        "{status}"
    );
    ensure!(
        helm.object("gadgets", "one")?["spec"]["colour"] == "blue",
        "not rolled back"
    );
    ensure!(
        helm.object("deployment", "one")?["spec"]["replicas"] == 1,
        "not rolled back"
    );
    let history = helm.json(&["history", "one"])?;
    let statuses: Vec<_> = history
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["status"].as_str())
        .collect();
    ensure!(
        statuses == ["superseded", "superseded", "failed", "deployed"],
        "{history}"
    );
    let list = helm.json(&["list"])?;
    ensure!(
        list[0]["name"] == "one" && list[0]["chart"] == "gadgets-0.1.0",
        "{list}"
    );
    let manifest = helm.ok(&["get", "manifest", "one"])?;
    ensure!(manifest.contains("kind: Gadget"), "{manifest}");

    helm.ok(&[&["uninstall", "one"], &wait[..]].concat())?;
    for kind in ["deployment", "service", "configmap", "gadgets"] {
        let gone = cluster
            .waggle(&["get", kind, "one", "-n", "charts"])?
            .fault()?;
        ensure!(gone.contains("not found"), "{kind}: {gone}");
    }
    let list = helm.json(&["list", "--all-namespaces"])?;
    ensure!(list == serde_json::json!([]), "{list}");
    Ok(())
}

pub(crate) fn hooks_that_fail(cluster: &Cluster) -> Result<()> {
    let helm = Helm::new(cluster, "hooks")?;
    let chart = chart();
    helm.ok(&[
        "install",
        "two",
        &chart,
        "--create-namespace",
        "--wait",
        "--timeout",
        "60s",
    ])?;
    let fault = helm
        .run(&[
            "upgrade",
            "two",
            &chart,
            "--set",
            "check=exit 1,greeting=never",
            "--timeout",
            "60s",
        ])?
        .fault()?;
    ensure!(
        fault.contains("pre-upgrade") && fault.contains("failed"),
        "{fault}"
    );
    ensure!(
        helm.json(&["status", "two"])?["info"]["status"] == "failed",
        "{fault}"
    );
    ensure!(
        helm.object("configmap", "two")?["data"]["index.html"] == "hello",
        "upgraded in spite of its hook"
    );
    // The next one that succeeds is a revision like any other.
    helm.ok(&[
        "upgrade",
        "two",
        &chart,
        "--set",
        "greeting=again",
        "--wait",
        "--timeout",
        "60s",
    ])?;
    ensure!(
        helm.object("configmap", "two")?["data"]["index.html"] == "again",
        "not upgraded"
    );
    helm.ok(&["uninstall", "two", "--wait", "--timeout", "60s"])?;
    Ok(())
}
