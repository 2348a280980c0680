//! PostgreSQL: rows outlive its process, its pod and its node's absence.

use anyhow::{Result, ensure};
use harness::eventually;

use crate::{SETTLE, World};

const POD: &str = "postgresql-0";

impl World {
    /// What a statement answers, through the Service and with the Secret's password.
    fn sql(&self, statement: &str) -> Result<String> {
        let psql = "exec /usr/lib/postgresql/*/bin/psql -v ON_ERROR_STOP=1 -qAt -d postgres";
        let script = format!(
            "PGPASSWORD=$POSTGRES_PASSWORD {psql} -h postgresql -U $POSTGRES_USER -c \"{statement}\""
        );
        self.shell("postgresql", POD, &script)
    }

    fn restarts(&self) -> Result<String> {
        let path = ".status.containerStatuses[0].restartCount";
        self.field("postgresql", "pod/postgresql-0", path)
    }
}

pub(crate) fn keeps_its_rows(world: &World) -> Result<()> {
    world.rolled_out("postgresql", "statefulset/postgresql")?;
    world.sql("create table hives (name text primary key, bees int)")?;
    world.sql("insert into hives select 'hive ' || n, n from generate_series(1, 10000) n")?;
    let has_rows = || -> Result<()> {
        let rows = world.sql("select count(*), sum(bees) from hives")?;
        ensure!(rows == "10000|50005000", "{rows}");
        Ok(())
    };
    has_rows()?;
    let settings = world.sql("show shared_buffers; show data_directory")?;
    ensure!(
        settings == "32MB\n/var/lib/postgresql/data/pgdata",
        "{settings}"
    );
    let script = "PGPASSWORD=wrong /usr/lib/postgresql/*/bin/psql -h postgresql -U shop -d postgres -c 'select 1' 2>&1 || true";
    let refused = world.shell("postgresql", POD, script)?;
    ensure!(
        refused.contains("password authentication failed"),
        "{refused}"
    );

    // Another pod.
    let uid = world.field("postgresql", "pod/postgresql-0", ".metadata.uid")?;
    world.delete_pod("postgresql", POD)?;
    world.rolled_out("postgresql", "statefulset/postgresql")?;
    let now = world.field("postgresql", "pod/postgresql-0", ".metadata.uid")?;
    ensure!(uid != now, "the pod was not replaced");
    has_rows()?;
    let logs = world.kubectl.ok(&["logs", "-n", "postgresql", POD])?;
    ensure!(
        !logs.contains("interrupted") && logs.contains("ready to accept connections"),
        "it had no time to end: {logs}"
    );

    // A server that ends at once, without writing anything down.
    world.last_words("postgresql", POD, "kill -QUIT 1")?;
    eventually("it was restarted and recovered", SETTLE, || {
        let restarts = world.restarts()?;
        ensure!(restarts == "1", "{restarts}");
        has_rows()
    })?;

    // Its node is emptied: it waits for the node that has its volume.
    let node = world.field("postgresql", "pod/postgresql-0", ".spec.nodeName")?;
    let drain = ["drain", &node, "--pod-selector=app=postgresql"];
    let more = ["--delete-emptydir-data", "--timeout=60s"];
    world.kubectl.ok(&[&drain[..], &more[..]].concat())?;
    eventually("it waits", SETTLE, || {
        let phase = world.field("postgresql", "pod/postgresql-0", ".status.phase")?;
        ensure!(phase == "Pending", "{phase}");
        Ok(())
    })?;
    world.kubectl.ok(&["uncordon", &node])?;
    world.rolled_out("postgresql", "statefulset/postgresql")?;
    has_rows()
}
