//! Lifecycle hooks of a container: a command in it, a GET to it, or a pause. When they run is decided by `next` and `stop`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::desired::Desired;
use super::exec::run_in;
use super::worker::{Mail, Worker};
use crate::node::Node;
use crate::probe;

/// The longest that a command may take; the grace period, or the end of the container, ends it before.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Runs a hook to its end; `Err` says how it failed.
pub(super) async fn run(
    node: &Node,
    pod: &Desired,
    container: &Container,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let client = node.containers.client().await;
        return match run_in(&client, &pod.key.uid, &container.name, command, LONGEST).await? {
            (0, _) => Ok(()),
            (code, output) => Err(format!("exit code {code}: {}", output.trim_end())),
        };
    }
    if let Some(get) = &hook.http_get {
        let address: IpAddr = pod.address().unwrap_or(node.address);
        return probe::http_get(get, container, address).await.map(drop);
    }
    if let Some(sleep) = &hook.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
    Ok(())
}

impl Worker {
    /// Begins the postStart hook of a container that was just started; its end comes by mail.
    pub(super) fn post_start(&mut self, container: &Container, attempt: u32) {
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|life| life.post_start.clone());
        let Some(hook) = hook else { return };
        self.seen
            .hooks
            .insert(container.name.clone(), super::observed::Hook::Runs);
        let (node, pod) = (Arc::clone(&self.node), Arc::clone(&self.pod));
        let (container, post) = (container.clone(), self.post.clone());
        tokio::spawn(async move {
            let result = run(&node, &pod, &container, &hook).await;
            drop(post.send(Mail::PostStart {
                container: container.name,
                attempt,
                result,
            }));
        });
    }

    /// A postStart hook has ended.
    pub(super) fn post_started(&mut self, name: &str, result: Result<(), String>) {
        match result {
            Ok(()) => drop(self.seen.hooks.remove(name)),
            Err(why) => {
                let text = format!("PostStartHook failed: {why}");
                self.node
                    .recorder
                    .warning(&self.pod, name, "FailedPostStartHook", text);
                self.seen
                    .hooks
                    .insert(name.to_owned(), super::observed::Hook::Failed);
            }
        }
    }
}
