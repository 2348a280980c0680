//! nginx without root: a page out of a ConfigMap behind a Service, changed while it is served.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use harness::eventually;

use crate::{SETTLE, World};

pub(crate) fn serves(world: &World) -> Result<()> {
    world.rolled_out("nginx", "deployment/nginx")?;
    let page = || world.client("wget -qO- http://nginx.nginx.svc/");
    let said = page()?;
    ensure!(said == "<h1>hello</h1>", "{said}");
    let mut servers = BTreeSet::new();
    eventually("both serve", SETTLE, || {
        servers.insert(world.client("wget -qO- http://nginx.nginx.svc/served-by")?);
        ensure!(servers.len() == 2, "{servers:?}");
        Ok(())
    })?;

    let patch = r#"{"data":{"index.html":"<h1>goodbye</h1>\n"}}"#;
    world
        .kubectl
        .ok(&["patch", "configmap/pages", "-n", "nginx", "-p", patch])?;
    eventually("the page has changed on both", SETTLE, || {
        for server in world
            .field("nginx", "pods", ".items[*].status.podIP")?
            .split(' ')
        {
            let said = world.client(&format!("wget -qO- http://{server}:8080/"))?;
            ensure!(said == "<h1>goodbye</h1>", "{server}: {said}");
        }
        Ok(())
    })?;
    let restarts = ".items[*].status.containerStatuses[0].restartCount";
    let restarts = world.field("nginx", "pods", restarts)?;
    ensure!(restarts == "0 0", "{restarts}");

    // Its log is the container's, although it opens /dev/stdout itself and isn't root.
    let logs = ["logs", "-n", "nginx", "-l", "app=nginx", "--tail=-1"];
    let logs = world.kubectl.ok(&logs)?;
    ensure!(
        logs.contains("GET / HTTP/1.1") && !logs.contains("healthz"),
        "{logs}"
    );
    Ok(())
}
