//! NATS as a cluster of three: a message goes from one server to another, a stream outlives all of them at once. Spoken to in its
//! own protocol, which is lines of text.

use anyhow::{Result, ensure};
use harness::eventually;

use crate::{SETTLE, World};

const CONNECT: &str = r#"CONNECT {"user":"app","pass":"s3cret","verbose":false}\r\n"#;

impl World {
    /// What a server says to these lines within `seconds`.
    fn nats(&self, server: &str, lines: &str, seconds: u32) -> Result<String> {
        let lines = format!("{CONNECT}{lines}").replace('$', "\\$");
        self.client(&format!(
            "(printf \"{}\"; sleep {seconds}) | timeout {seconds} nc {server} 4222 || true",
            lines.replace('"', "\\\"")
        ))
    }

    /// What a stream's server answers to a request.
    fn jetstream(&self, request: &str, body: &str) -> Result<String> {
        let length = body.len();
        let lines = format!("SUB inbox 1\\r\\nPUB {request} inbox {length}\\r\\n{body}\\r\\n");
        self.nats("nats.nats.svc", &lines, 2)
    }
}

pub(crate) fn passes_messages(world: &World) -> Result<()> {
    world.rolled_out("nats", "statefulset/nats")?;
    let [speaker, hearer] = ["nats-0", "nats-2"].map(|pod| format!("{pod}.nats-nodes.nats.svc"));
    eventually("a message comes through", SETTLE, || {
        let heard = std::thread::scope(|scope| {
            let hearing = scope.spawn(|| world.nats(&hearer, "SUB hive 1\\r\\n", 4));
            for _ in 0..3 {
                world.nats(&speaker, "PUB hive 4\\r\\nbuzz\\r\\n", 1)?;
            }
            hearing.join().unwrap_or_else(|_| Ok(String::new()))
        })?;
        ensure!(heard.contains("MSG hive 1 4\r\nbuzz"), "{heard:?}");
        Ok(())
    })?;
    let refused = "printf 'CONNECT {}\\r\\nPING\\r\\n' | timeout 2 nc nats.nats.svc 4222 || true";
    let refused = world.client(refused)?;
    ensure!(refused.contains("Authorization Violation"), "{refused}");
    Ok(())
}

pub(crate) fn keeps_a_stream(world: &World) -> Result<()> {
    let stream = r#"{"name":"LOG","subjects":["log.*"],"num_replicas":3,"storage":"file"}"#;
    eventually("a stream on all three", SETTLE, || {
        let said = world.jetstream("$JS.API.STREAM.CREATE.LOG", stream)?;
        // Made by this question or by one before.
        ensure!(said.contains(r#""name":"LOG""#), "{said}");
        ensure!(!said.contains(r#""error""#), "{said}");
        Ok(())
    })?;
    let said = world.jetstream("log.hive", "swarm")?;
    ensure!(said.contains(r#""stream":"LOG""#), "{said}");

    eventually("a budget for one disruption", SETTLE, || {
        let budget = world.field("nats", "pdb/nats", ".status.disruptionsAllowed")?;
        ensure!(budget == "1", "{budget}");
        Ok(())
    })?;
    let delete = ["delete", "pods", "-l", "app=nats", "-n", "nats"];
    world.kubectl.ok(&delete)?;
    world.rolled_out("nats", "statefulset/nats")?;
    eventually("the message is there", SETTLE, || {
        let last = r#"{"last_by_subj":"log.hive"}"#;
        let said = world.jetstream("$JS.API.STREAM.MSG.GET.LOG", last)?;
        // "swarm", in the encoding of the answer.
        ensure!(said.contains(r#""data":"c3dhcm0=""#), "{said}");
        Ok(())
    })
}
