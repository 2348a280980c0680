//! redis with replicas: they follow the first, wherever it comes back, and catch up with what was written without them.

use anyhow::{Result, ensure};
use harness::eventually;

use crate::{SETTLE, World};

const NODES: &str = "redis-nodes.redis.svc.cluster.local";

impl World {
    /// A command to the redis of one pod, asked in that pod.
    fn redis(&self, pod: &str, command: &str) -> Result<String> {
        self.shell("redis", pod, &format!("redis-cli {command}"))
    }

    /// A command to the redis that is written to, through its Service.
    fn write(&self, command: &str) -> Result<String> {
        self.redis("redis-1", &format!("-h redis.redis.svc {command}"))
    }

    fn replicas_have(&self, key: &str, value: &str) -> Result<()> {
        eventually("replicas have it", SETTLE, || {
            for pod in ["redis-1", "redis-2"] {
                let said = self.redis(pod, &format!("get {key}"))?;
                ensure!(said == value, "{pod}: {said}");
            }
            Ok(())
        })
    }
}

pub(crate) fn is_replicated(world: &World) -> Result<()> {
    world.rolled_out("redis", "statefulset/redis")?;
    let said = world.write("set bees 41")?;
    ensure!(said == "OK", "{said}");
    world.replicas_have("bees", "41")?;
    let said = world.redis("redis-2", "set bees 1")?;
    ensure!(
        said.contains("READONLY"),
        "a replica was written to: {said}"
    );
    let said = world.redis("redis-0", "info replication")?;
    let online = said.matches("state=online").count();
    ensure!(online == 2 && said.contains(NODES), "{said}");
    // The password comes from the Secret, so nobody gets in without it.
    let said = world.client("printf 'PING\\r\\n' | timeout 2 nc redis.redis.svc 6379 || true")?;
    ensure!(said.contains("NOAUTH"), "{said}");
    let nodes = world.field("redis", "pods", ".items[*].spec.nodeName")?;
    ensure!(
        nodes.contains("node1") && nodes.contains("node2"),
        "not spread: {nodes}"
    );
    Ok(())
}

pub(crate) fn comes_back(world: &World) -> Result<()> {
    // The one that is written to: another pod at another address, with its data.
    let before = world.field("redis", "pod/redis-0", ".metadata.uid")?;
    world.delete_pod("redis", "redis-0")?;
    world.rolled_out("redis", "statefulset/redis")?;
    let after = world.field("redis", "pod/redis-0", ".metadata.uid")?;
    ensure!(before != after, "redis-0 was not replaced");
    let kept = world.redis("redis-0", "get bees")?;
    ensure!(kept == "41", "{kept}");
    let said = world.write("set bees 42")?;
    ensure!(said == "OK", "{said}");
    world.replicas_have("bees", "42")?;

    // A replica that misses something.
    world.delete_pod("redis", "redis-2")?;
    let said = world.write("set wasps 7")?;
    ensure!(said == "OK", "{said}");
    world.rolled_out("redis", "statefulset/redis")?;
    world.replicas_have("wasps", "7")?;

    // A server that ends is started again in its pod.
    world.last_words("redis", "redis-1", "redis-cli shutdown nosave")?;
    eventually("redis-1 was restarted", SETTLE, || {
        let status = ".status.containerStatuses[0]";
        let restarts = world.field("redis", "pod/redis-1", &format!("{status}.restartCount"))?;
        let ready = world.field("redis", "pod/redis-1", &format!("{status}.ready"))?;
        ensure!(restarts == "1" && ready == "true", "{restarts} {ready}");
        Ok(())
    })?;
    world.replicas_have("bees", "42")
}
