//! The cluster's content, moved from its etcd into one file and from there into another etcd, by backup and restore:
//! the same objects are there each time, and can be changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::run;
use serde_json::Value;

use crate::etcd::Etcd;
use crate::{World, kubectl};

const LIMIT: Duration = Duration::from_secs(60);
/// What people made, and what controllers made of it.
const KINDS: &str = "nodes,namespaces,deployments,replicasets,pods,services,configmaps,secrets,serviceaccounts,\
    customresourcedefinitions,jars.shop.example";

/// A server without nodes, until this is dropped.
struct Alone {
    child: Child,
    config: PathBuf,
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn waggle() -> Result<Command> {
    let binary = std::env::var_os("WAGGLE_BIN").context("WAGGLE_BIN is not set")?;
    let mut command = Command::new(binary);
    for name in ["WAGGLE_HOME", "WAGGLE_CLUSTER", "KUBECONFIG"] {
        command.env_remove(name);
    }
    Ok(command)
}

impl Alone {
    fn start(data: &Path, store: &[&str]) -> Result<Self> {
        let mut command = waggle()?;
        command.arg("server").arg("--data").arg(data);
        command.args(["--listen", "127.0.0.1:0"]).args(store);
        // The ranges of `waggle dev`.
        command.args(["--pod-cidr", "10.244.0.0/16,fd00:10:244::/48"]);
        command.args(["--service-cidr", "10.96.0.0/16,fd00:10:96::/112"]);
        let log = std::fs::File::create(data.with_extension("log"))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let config = data.join("admin.kubeconfig");
        let child = command.spawn().context("start a server")?;
        let alone = Self { child, config };
        let until = Instant::now() + LIMIT;
        while !alone.config.exists()
            || run(&mut alone.kubectl(&["get", "--raw=/readyz"])?, LIMIT)?.code != 0
        {
            ensure!(
                Instant::now() < until,
                "no server: {}",
                std::fs::read_to_string(data.with_extension("log"))?
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(alone)
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<Command> {
        kubectl(&self.config, arguments)
    }

    fn ask(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.kubectl(arguments)?, LIMIT)?.ok()
    }

    fn back_up(&self, file: &Path) -> Result<()> {
        let mut command = waggle()?;
        command
            .arg("backup")
            .arg(file)
            .arg("--kubeconfig")
            .arg(&self.config);
        run(&mut command, LIMIT)?.ok().map(drop)
    }
}

/// Kind, namespace, name and uid of everything in a list.
fn all(list: &str) -> Result<BTreeSet<[String; 4]>> {
    let list: Value = serde_json::from_str(list)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().into_iter().flatten();
    let row = |item: &Value| {
        let metadata = &item["metadata"];
        [
            &item["kind"],
            &metadata["namespace"],
            &metadata["name"],
            &metadata["uid"],
        ]
        .map(text)
    };
    Ok(items.map(row).collect())
}

fn restore(file: &Path, to: &[&str]) -> Result<String> {
    run(waggle()?.arg("restore").arg(file).args(to), LIMIT)?.ok()
}

pub(crate) fn there_and_back(world: &World) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let get = ["get", KINDS, "-A", "-o", "json"];
    let before = all(&world.at(0, &get)?)?;
    ensure!(
        before.len() > 40 && before.iter().any(|row| row[0] == "Jar"),
        "{before:?}"
    );
    let first = path("first.backup");
    world
        .cluster
        .waggle(&["backup", &first.to_string_lossy()])?
        .ok()?;

    let one = path("one");
    restore(&first, &["--data", &one.to_string_lossy()])?;
    let alone = Alone::start(&one, &[])?;
    let there = all(&alone.ask(&get)?)?;
    let lost: Vec<_> = before.difference(&there).collect();
    ensure!(lost.is_empty(), "not in the file: {lost:?}");
    alone.ask(&["create", "configmap", "made-alone", "-n", "shop"])?;
    let second = path("second.backup");
    alone.back_up(&second)?;
    drop(alone);

    let etcd = Etcd::start(1)?;
    let store = ["--store", &format!("etcd={}", etcd.urls())];
    restore(&second, &store)?;
    let again = restore(&second, &store);
    ensure!(again.is_err(), "restored into a store that is not empty");
    let alone = Alone::start(&path("two"), &store)?;
    let back = all(&alone.ask(&get)?)?;
    let lost: Vec<_> = before.difference(&back).collect();
    ensure!(lost.is_empty(), "not in the etcd: {lost:?}");
    alone.ask(&["get", "configmap", "made-alone", "-n", "shop"])?;
    alone
        .ask(&["delete", "jar", "asked", "-n", "shop"])
        .map(drop)
}
