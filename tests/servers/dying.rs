//! Servers and etcd members that are killed: pods, services, watches and writes go on.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::eventually;
use serde_json::Value;

use crate::{SERVERS, SETTLE, World};

/// `kubectl get --watch` through a server, until this is dropped.
struct Watching {
    child: Child,
    file: std::path::PathBuf,
}

impl Watching {
    fn start(world: &World, server: usize) -> Result<Self> {
        let file = world.folder.path().join("watched");
        let get = [
            "get",
            "configmaps",
            "-n",
            "shop",
            "-o",
            "name",
            "--watch-only",
        ];
        let mut command = world.command(server, &get)?;
        command
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&file)?);
        let child = command.spawn().context("start kubectl")?;
        Ok(Self { child, file })
    }

    /// How often it told of this one.
    fn times(&self, name: &str) -> Result<usize> {
        let text = std::fs::read_to_string(&self.file)?;
        let line = format!("configmap/{name}");
        Ok(text.lines().filter(|one| **one == line).count())
    }

    fn sees(&self, name: &str) -> Result<()> {
        let times = self.times(name)?;
        ensure!(times == 1, "{name} was told {times} times");
        Ok(())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The followers first, then the leader; each comes back before the next goes.
pub(crate) fn servers(world: &World) -> Result<()> {
    let leader = world.leader(&[0, 1, 2])?;
    let followers = [(leader + 1) % SERVERS.len(), (leader + 2) % SERVERS.len()];
    let before = uids(world, followers[0])?;
    for victim in [followers[0], followers[1], leader] {
        let name = SERVERS[victim];
        let (near, far) = ((victim + 1) % SERVERS.len(), (victim + 2) % SERVERS.len());
        let watching = Watching::start(world, near)?;
        let first = format!("before-{name}");
        // kubectl says nothing of when its watch has begun.
        let touch = |round: &str| world.at(far, &["create", "configmap", round, "-n", "shop"]);
        let mut round = 0;
        eventually("the watch has begun", SETTLE, || {
            round += 1;
            touch(&format!("{first}-{round}"))?;
            std::thread::sleep(Duration::from_millis(300));
            watching.sees(&format!("{first}-{round}"))
        })?;
        world.cluster.kill(name)?;
        for request in 0..20 {
            let page = world.page();
            page.with_context(|| format!("request {request} without {name}"))?;
        }
        // Asked at once: without a leader it waits for the next.
        let after = format!("after-{name}");
        eventually("a write is taken", SETTLE, || touch(&after))?;
        eventually("the watch goes on", SETTLE, || watching.sees(&after))?;
        world.at(near, &["get", "nodes,pods,deployments", "-A"])?;
        if victim == leader {
            eventually("another leads", SETTLE, || world.leader(&followers))?;
            world.scale(near, 4)?;
        }
        watching.sees(&after)?;
        world.cluster.start()?;
        world.at(victim, &["get", "configmap", &after, "-n", "shop"])?;
    }
    let after = uids(world, leader)?;
    ensure!(
        before.iter().all(|uid| after.contains(uid)),
        "{before:?} became {after:?}"
    );
    world.page().map(drop)
}

pub(crate) fn member(world: &World) -> Result<()> {
    let mut etcd = world.etcd();
    for member in [0, 1] {
        etcd.kill(member);
        world.scale(member, 3 + member)?;
        world.page()?;
        etcd.run(member)?;
        // A majority without the next one needs this one back.
        eventually("the member is back", SETTLE, || etcd.answers(member))?;
    }
    Ok(())
}

fn uids(world: &World, server: usize) -> Result<Vec<String>> {
    let list = world.at(server, &["get", "pods,services", "-A", "-o", "json"])?;
    let list: Value = serde_json::from_str(&list)?;
    let items = list["items"].as_array().into_iter().flatten();
    let uids = items.filter_map(|item| item["metadata"]["uid"].as_str());
    Ok(uids.map(str::to_owned).collect())
}
