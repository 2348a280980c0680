//! The steps around a pod as a whole: its namespaces, its place in the network, and its end.

use waggle_datapath::PodLink;
use waggle_runtime::spec::SandboxSpec;
use waggle_wire::v1;

use std::time::Duration;

use super::files;
use super::observed::{Hold, SECOND};
use super::worker::{StepFault, Worker};
use crate::clock;

/// How long a pod waits for the network state to be in the kernel.
const NETWORK: Duration = Duration::from_secs(3);

impl Worker {
    /// A pod whose identity changed has to be attached again.
    pub(super) fn refresh_attachment(&mut self) {
        if self.pod.host_network() {
            self.seen.attached = self.seen.sandbox;
            return;
        }
        let wanted = self.link();
        self.seen.attached =
            self.seen.sandbox && self.attached_as.is_some() && self.attached_as == wanted;
    }

    fn link(&self) -> Option<PodLink> {
        Some(PodLink {
            uid: self.pod.key.uid.clone(),
            netns: self.sandbox.as_ref()?.netns.clone()?,
            addresses: self.pod.addresses?,
            identity: self.pod.identity,
            tenant: self.pod.tenant,
        })
    }

    pub(super) fn sandbox_step(&mut self, what: &str, result: Result<(), StepFault>) {
        match result {
            Ok(()) if self.seen.attached => self.seen.sandbox_hold = None,
            Ok(()) => {}
            Err(fault) => {
                let message = format!("Failed to {what} of the pod: {}", fault.message);
                self.node
                    .recorder
                    .warning(&self.pod, "", fault.reason, message.clone());
                let before = self.seen.sandbox_hold.take();
                self.seen.sandbox_hold = Some(Hold::after(
                    before.as_ref(),
                    fault.reason,
                    message,
                    clock::now(),
                ));
            }
        }
    }

    pub(super) async fn create_sandbox(&mut self) -> Result<(), StepFault> {
        let failed =
            |error: &dyn std::fmt::Display| StepFault::new("FailedCreatePodSandBox", error);
        self.write_files().map_err(|error| failed(&error))?;
        let spec = SandboxSpec {
            pod: self.pod.key.uid.clone(),
            namespace: self.pod.key.namespace.clone(),
            name: self.pod.key.name.clone(),
            hostname: files::uts_hostname(&self.pod, &self.node.dns().domain),
            host_network: self.pod.host_network(),
            host_ipc: self.pod.host_ipc(),
            share_pid: self.pod.shares_processes(),
            sysctls: self.pod.sysctls(),
        };
        let sandbox = self
            .node
            .containers
            .client()
            .await
            .create_sandbox(spec)
            .await
            .map_err(|e| failed(&e))?;
        self.sandbox = Some(sandbox);
        self.seen.sandbox = true;
        self.refresh_attachment();
        Ok(())
    }

    pub(super) async fn attach(&mut self) -> Result<(), StepFault> {
        let failed =
            |error: &dyn std::fmt::Display| StepFault::new("FailedCreatePodSandBox", error);
        let link = self
            .link()
            .ok_or_else(|| failed(&"the server has reserved no address for it"))?;
        let attachment = self
            .node
            .datapath
            .attach_pod(&link)
            .await
            .map_err(|error| failed(&error))?;
        tracing::debug!(pod = %self.pod.key, interface = attachment.interface, adopted = attachment.adopted, "attached");
        self.attached_as = Some(link);
        self.refresh_attachment();
        self.await_network().await;
        Ok(())
    }

    /// What was known of the network when the pod was attached is in the kernel before its first process starts.
    async fn await_network(&self) {
        let wanted = self.node.network.generation();
        let mut applied = self.node.applied.subscribe();
        let there = applied.wait_for(|generation| *generation >= wanted);
        if tokio::time::timeout(NETWORK, there).await.is_err() {
            tracing::warn!(pod = %self.pod.key, %wanted, "starts before the network state is applied");
        }
    }

    /// True once nothing of the pod is left.
    pub(super) async fn teardown(&mut self) -> bool {
        match self.remove_all().await {
            Ok(()) => {
                let key = &self.pod.key;
                tracing::info!(pod = %key, "pod is gone");
                if self.pod.removed {
                    self.node.outbox.forget(&key.uid);
                } else {
                    self.node.outbox.pod_gone(v1::PodGone {
                        namespace: key.namespace.clone(),
                        name: key.name.clone(),
                        uid: key.uid.clone(),
                    });
                }
                true
            }
            Err(fault) => {
                let message = format!("Failed to remove the pod: {}", fault.message);
                tracing::warn!(pod = %self.pod.key, message);
                self.node
                    .recorder
                    .warning(&self.pod, "", fault.reason, message.clone());
                let before = self.seen.sandbox_hold.take();
                let mut hold = Hold::after(before.as_ref(), fault.reason, message, clock::now());
                hold.until = hold.until.min(clock::now() + 5 * SECOND);
                self.seen.sandbox_hold = Some(hold);
                false
            }
        }
    }

    async fn remove_all(&mut self) -> Result<(), StepFault> {
        let failed = |error: &dyn std::fmt::Display| StepFault::new("FailedKillPod", error);
        let uid = &self.pod.key.uid;
        let client = self.node.containers.client().await;
        let names: Vec<String> = self.seen.containers.keys().cloned().collect();
        for name in names {
            client
                .remove_container(uid, &name)
                .await
                .map_err(|error| failed(&error))?;
            self.seen.containers.remove(&name);
        }
        self.node
            .datapath
            .detach_pod(uid)
            .await
            .map_err(|error| failed(&error))?;
        self.attached_as = None;
        client
            .remove_sandbox(uid)
            .await
            .map_err(|error| failed(&error))?;
        (self.sandbox, self.seen.sandbox) = (None, false);
        self.remove_files().map_err(|error| failed(&error))
    }
}
