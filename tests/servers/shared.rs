//! What one server took, every server shows: objects, logs of nodes, kinds that a definition adds, webhooks.

use anyhow::{Result, ensure};
use harness::{eventually, run};

use crate::{SERVERS, SETTLE, World};

pub(crate) fn objects(world: &World) -> Result<()> {
    for (server, server_name) in SERVERS.iter().enumerate() {
        let name = format!("made-at-{server}");
        world.at(server, &["get", "nodes"])?;
        world.at(server, &["create", "configmap", &name, "-n", "shop"])?;
        for other in 0..SERVERS.len() {
            world.at(other, &["get", "configmap", &name, "-n", "shop"])?;
        }
        // Through the leader to the node, by a plain answer and by an upgraded connection.
        let log = world.at(server, &["logs", "-n", "shop", "deployment/user-center"])?;
        ensure!(!log.is_empty(), "no log through {server_name}");
        let exec = [
            "exec",
            "-n",
            "shop",
            "deployment/redis",
            "--",
            "echo",
            "here",
        ];
        let said = world.at(server, &exec)?;
        ensure!(said.contains("here"), "{said} through {server_name}");
    }
    Ok(())
}

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: jars.shop.example}
spec:
  group: shop.example
  scope: Namespaced
  names: {plural: jars, singular: jar, kind: Jar}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {type: object, properties: {size: {type: integer, maximum: 9, default: 4}}}
"#;

/// Nobody listens at its address.
const WEBHOOK: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: nobody}
webhooks:
  - name: nobody.shop.example
    clientConfig: {url: "https://127.0.0.1:1/"}
    rules: [{apiGroups: [shop.example], apiVersions: ["*"], operations: [CREATE], resources: [jars]}]
    failurePolicy: Fail
    timeoutSeconds: 2
    sideEffects: None
    admissionReviewVersions: [v1]
"#;

fn jar(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: shop.example/v1\nkind: Jar\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

pub(crate) fn extensions(world: &World) -> Result<()> {
    world.apply(1, DEFINITION)?;
    for server in [2, 0, 1] {
        let name = format!("jar{server}");
        eventually("the kind is served", SETTLE, || {
            world.apply(server, &jar(&name, "{}"))
        })?;
        let size = [
            "get",
            "jar",
            &name,
            "-n",
            "shop",
            "-o",
            "jsonpath={.spec.size}",
        ];
        for (other, other_name) in SERVERS.iter().enumerate() {
            let said = world.at(other, &size)?;
            ensure!(said == "4", "{said:?} at {other_name}");
        }
        let large = world.apply(server, &jar("large", "{size: 10}"));
        let refused = format!(
            "{:#}",
            large.err().unwrap_or_else(|| anyhow::anyhow!("taken"))
        );
        ensure!(refused.contains("spec.size"), "{refused}");
    }
    world.apply(2, WEBHOOK)?;
    for server in 0..SERVERS.len() {
        let file = world.folder.path().join("jar.yaml");
        std::fs::write(&file, jar("asked", "{}"))?;
        let create = ["create", "-f", &file.to_string_lossy()];
        let refused = run(&mut world.command(server, &create)?, SETTLE)?.fault()?;
        ensure!(refused.contains("nobody.shop.example"), "{refused}");
    }
    world.at(0, &["delete", "validatingwebhookconfiguration", "nobody"])?;
    world.apply(1, &jar("asked", "{}"))?;
    Ok(())
}
