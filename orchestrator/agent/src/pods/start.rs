//! The steps towards a running container: its image, its files and volumes, itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use k8s_openapi::api::core::v1::Container;
use waggle_runtime::FaultKind;
use waggle_runtime::images::{Credentials, ImageError};
use waggle_runtime::mount_table::unmount_below;
use waggle_runtime::spec::{ContainerState, MountSpec};

use super::compose::{Attempt, container_spec};
use super::desired::Desired;
use super::env::environment;
use super::message::message_file;
use super::observed::{Hold, Prepare, ended, start_error};
use super::status::known_restarts;
use super::worker::{ImageFault, Mail, StepFault, Worker};
use super::{files, volumes};
use crate::clock;
use crate::node::Node;

impl Worker {
    /// Looks for the image of `name` and pulls it if its policy says so; the answer comes by mail.
    pub(super) fn pull(&mut self, name: &str) {
        let Some(container) = self.pod.all_containers().find(|c| c.name == name).cloned() else {
            return;
        };
        let before = self.seen.prepare.get(name).and_then(Prepare::hold).cloned();
        self.seen
            .prepare
            .insert(name.to_owned(), Prepare::Pulling(before));
        let (node, pod, post) = (
            Arc::clone(&self.node),
            Arc::clone(&self.pod),
            self.post.clone(),
        );
        tokio::spawn(async move {
            let reference = container.image.clone().unwrap_or_default();
            let result = image(&node, &pod, &container, &reference).await;
            drop(post.send(Mail::Image {
                container: container.name,
                reference,
                result,
            }));
        });
    }

    /// Creates and starts the next attempt of `name`.
    pub(super) async fn start_step(&mut self, name: &str, streak: u32) {
        let Some(container) = self.pod.all_containers().find(|c| c.name == name).cloned() else {
            return;
        };
        if streak > 1 {
            let text = format!("Back-off restarting failed container {name}");
            self.node.recorder.warning(&self.pod, name, "BackOff", text);
        }
        let number = self.next_attempt(name, self.seen.containers.get(name));
        match self.start(&container, streak).await {
            Ok(()) => {
                self.seen.prepare.remove(name);
                self.seen.messages.remove(name);
                self.seen.start_errors.remove(name);
                self.post_start(&container, number);
            }
            Err(fault) => {
                self.node.recorder.warning(
                    &self.pod,
                    name,
                    "Failed",
                    format!("Error: {}", fault.message),
                );
                let before = self.seen.prepare.get(name).and_then(Prepare::hold).cloned();
                let hold = Hold::after(before.as_ref(), fault.reason, fault.message, clock::now());
                if hold.is_start() {
                    let error = start_error(number, &hold.message, hold.since);
                    self.seen.start_errors.insert(name.to_owned(), error);
                }
                self.seen
                    .prepare
                    .insert(name.to_owned(), Prepare::Held(hold));
            }
        }
    }

    async fn start(&mut self, container: &Container, streak: u32) -> Result<(), StepFault> {
        let config =
            |error: &dyn std::fmt::Display| StepFault::new("CreateContainerConfigError", error);
        let name = &container.name;
        let before = self.seen.containers.get(name).cloned();
        let number = self.next_attempt(name, before.as_ref());
        let message = self.seen.messages.get(name).cloned().unwrap_or_default();
        let image = self
            .images
            .get(name)
            .ok_or_else(|| config(&"its image is not here"))?
            .clone();
        let folder = self.node.folder.pod(&self.pod.key.uid);
        self.renew_tokens().await.map_err(|e| config(&e))?;
        let (env, places) = self.node.network.read(|network| {
            let around = self.node.surroundings(network);
            let env = environment(&self.pod, container, &image.config.env, &around)
                .map_err(|e| config(&e))?;
            let places =
                volumes::prepare(&self.pod, &folder.join("volumes"), &around, &self.tokens)
                    .map_err(|e| config(&e))?;
            Ok::<_, StepFault>((env, places))
        })?;
        let mut mounts = self
            .standard_mounts(container, number)
            .map_err(|e| config(&e))?;
        let own = volumes::mounts(container, &places, &env, &self.pod).map_err(|e| config(&e))?;
        mounts.retain(|mount| !own.iter().any(|other| other.target == mount.target));
        mounts.extend(own);
        let log = self.node.folder.log(&self.pod.key.uid, name, number);
        make_parent(&log).map_err(|e| config(&e))?;
        let attempt = Attempt {
            number,
            streak,
            last: self
                .seen
                .start_errors
                .get(name)
                .cloned()
                .or_else(|| ended(before.as_ref()?, &message)),
            env,
            mounts,
            log,
            image: &image,
            node_memory: self.node.memory,
            profiles: self.node.folder.seccomp(),
        };
        let spec = container_spec(&self.pod, container, attempt).map_err(|e| config(&e))?;
        self.create_and_start(spec, before).await
    }

    async fn create_and_start(
        &mut self,
        spec: waggle_runtime::spec::ContainerSpec,
        before: Option<ContainerState>,
    ) -> Result<(), StepFault> {
        let client = self.node.containers.client().await;
        let (uid, name) = (self.pod.key.uid.clone(), spec.name.clone());
        if before.is_some_and(|state| !state.exited()) {
            // Created by an agent that died before it could be started.
            let removed = client.remove_container(&uid, &name).await;
            removed.map_err(|error| StepFault::new("CreateContainerError", error))?;
            self.seen.containers.remove(&name);
        }
        let started = client.run_container(spec).await.map_err(|error| {
            let runnable = error.kind() != Some(FaultKind::Invalid);
            let reason = if runnable {
                "CreateContainerError"
            } else {
                "RunContainerError"
            };
            StepFault::new(reason, error)
        })?;
        self.seen.containers.insert(name.clone(), started);
        let recorder = &self.node.recorder;
        let text = format!("Created container: {name}");
        recorder.normal(&self.pod, &name, "Created", text);
        let text = format!("Started container {name}");
        recorder.normal(&self.pod, &name, "Started", text);
        Ok(())
    }

    fn next_attempt(&self, name: &str, before: Option<&ContainerState>) -> u32 {
        if let Some(error) = self.seen.start_errors.get(name) {
            return error.attempt + 1;
        }
        match before {
            Some(state) => state.spec.attempt + 1,
            None => {
                // A container that the API has seen and this node has not: the node lost it.
                let status = self.pod.pod.status.as_ref();
                let lists = status.map(|s| [&s.container_statuses, &s.init_container_statuses]);
                let known = lists.into_iter().flatten().flatten().flatten().any(|s| {
                    s.name == name && s.container_id.as_ref().is_some_and(|id| !id.is_empty())
                });
                let restarts = u32::try_from(known_restarts(&self.pod, name)).unwrap_or(0);
                restarts + u32::from(known)
            }
        }
    }

    /// hosts, hostname, resolv.conf and the place for a last word.
    fn standard_mounts(
        &self,
        container: &Container,
        attempt: u32,
    ) -> std::io::Result<Vec<MountSpec>> {
        let folder = self.node.folder.pod(&self.pod.key.uid);
        self.write_files()?;
        let bind = |source: PathBuf, target: &str, read_only| MountSpec {
            source: Some(source),
            target: target.to_owned(),
            read_only,
            ..MountSpec::default()
        };
        let message = message_file(&folder, &container.name, attempt);
        make_parent(&message)?;
        std::fs::write(&message, b"")?;
        std::os::unix::fs::chown(&message, None, None)?;
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&message, all)?;
        let target = container
            .termination_message_path
            .as_deref()
            .unwrap_or("/dev/termination-log");
        Ok(vec![
            bind(folder.join("etc/hosts"), "/etc/hosts", false),
            bind(folder.join("etc/hostname"), "/etc/hostname", false),
            bind(folder.join("etc/resolv.conf"), "/etc/resolv.conf", false),
            bind(message, target, false),
        ])
    }

    /// Writes the pod's generated files.
    pub(super) fn write_files(&self) -> std::io::Result<()> {
        let etc = self.node.folder.pod(&self.pod.key.uid).join("etc");
        let dns = self.node.dns();
        let hosts = files::hosts(&self.pod, self.node.addresses, &dns.domain);
        std::fs::create_dir_all(&etc)?;
        for (name, text) in [
            ("hosts", hosts),
            ("hostname", format!("{}\n", files::hostname(&self.pod))),
            ("resolv.conf", files::resolv_conf(&self.pod, &dns)),
        ] {
            let path = etc.join(name);
            // In place: containers that run have these very files.
            if std::fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
                std::fs::write(&path, text)?;
                std::fs::set_permissions(
                    &path,
                    std::os::unix::fs::PermissionsExt::from_mode(0o644),
                )?;
            }
        }
        Ok(())
    }

    /// Brings volumes that are made from data up to date, for the containers that run.
    pub(super) async fn refresh_volumes(&mut self) {
        self.pod = self.refreshed();
        if self.pod.ending() || self.seen.containers.is_empty() {
            return;
        }
        if let Err(error) = self.renew_tokens().await {
            tracing::warn!(pod = %self.pod.key, error, "its volumes stay as they are");
            return;
        }
        let folder = self.node.folder.pod(&self.pod.key.uid).join("volumes");
        let prepared = self.node.network.read(|network| {
            let around = self.node.surroundings(network);
            volumes::prepare(&self.pod, &folder, &around, &self.tokens)
        });
        if let Err(error) = prepared {
            self.node
                .recorder
                .warning(&self.pod, "", "FailedMount", error.to_string());
        }
    }

    async fn renew_tokens(&mut self) -> Result<(), String> {
        let volumes = self.node.folder.pod(&self.pod.key.uid).join("volumes");
        self.tokens.renew(&self.node, &self.pod, &volumes).await
    }

    /// Removes volumes, generated files and logs.
    pub(super) fn remove_files(&self) -> std::io::Result<()> {
        let folder = self.node.folder.pod(&self.pod.key.uid);
        // What `prepare` mounted, and what privileged containers did.
        unmount_below(&folder)?;
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn make_parent(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)
}

/// The image, from here or from its registry, as the pull policy says.
async fn image(
    node: &Node,
    pod: &Desired,
    container: &Container,
    reference: &str,
) -> Result<Box<waggle_runtime::images::Image>, ImageFault> {
    let policy = pull_policy(container, reference);
    let here = node
        .images
        .resolve(reference)
        .map_err(|error| fault(&error))?;
    match (here, policy) {
        (Some(image), "IfNotPresent" | "Never") => {
            let text = format!("Container image {reference:?} already present on machine");
            node.recorder.normal(pod, &container.name, "Pulled", text);
            return Ok(Box::new(image));
        }
        (None, "Never") => {
            let message =
                format!("Container image {reference:?} is not present with pull policy of Never");
            return Err(ImageFault {
                reason: "ErrImageNeverPull",
                message,
            });
        }
        _ => {}
    }
    node.recorder.normal(
        pod,
        &container.name,
        "Pulling",
        format!("Pulling image {reference:?}"),
    );
    let mut options = node.pull.clone();
    options.credentials = credentials(pod, reference);
    let started = std::time::Instant::now();
    let image = node
        .images
        .pull(reference, &options, |_| {})
        .await
        .map_err(|error| fault(&error))?;
    let text = format!(
        "Successfully pulled image {reference:?} in {} ms. Image size: {} bytes.",
        started.elapsed().as_millis(),
        image.size
    );
    node.recorder.normal(pod, &container.name, "Pulled", text);
    Ok(Box::new(image))
}

fn fault(error: &ImageError) -> ImageFault {
    let reason = match error {
        ImageError::BadReference { .. } => "InvalidImageName",
        _ => "ErrImagePull",
    };
    ImageFault {
        reason,
        message: error.to_string(),
    }
}

/// As given, else `Always` for `latest` and `IfNotPresent` for everything else.
fn pull_policy<'a>(container: &'a Container, reference: &str) -> &'a str {
    if let Some(policy) = container.image_pull_policy.as_deref() {
        return policy;
    }
    let name = reference.rsplit('/').next().unwrap_or(reference);
    let latest = !name.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
    if latest { "Always" } else { "IfNotPresent" }
}

/// From the pod's `imagePullSecrets`, the entry whose registry is the image's.
fn credentials(pod: &Desired, reference: &str) -> Option<Credentials> {
    let normalised = waggle_runtime::images::normalise(reference).ok()?;
    let registry = normalised.split('/').next()?;
    let names = pod.pod.spec.as_ref()?.image_pull_secrets.as_ref()?;
    names
        .iter()
        .filter_map(|name| pod.secrets.get(&name.name))
        .find_map(|secret| {
            let json = secret.data.as_ref()?.get(".dockerconfigjson")?;
            let config: serde_json::Value = serde_json::from_slice(&json.0).ok()?;
            let auths = config.get("auths")?.as_object()?;
            let host = |key: &str| {
                let bare = key
                    .trim_start_matches("https://")
                    .trim_start_matches("http://");
                bare.split('/').next().unwrap_or_default().to_owned()
            };
            let docker = registry == "docker.io";
            let (_, entry) = auths.iter().find(|(key, _)| {
                let host = host(key);
                host == registry || (docker && host == "index.docker.io")
            })?;
            let text = |field: &str| entry.get(field)?.as_str().map(str::to_owned);
            if let (Some(username), Some(password)) = (text("username"), text("password")) {
                return Some(Credentials { username, password });
            }
            let decoded = base64::engine::general_purpose::STANDARD
                .decode(text("auth")?)
                .ok()?;
            let decoded = String::from_utf8(decoded).ok()?;
            let (username, password) = decoded.split_once(':')?;
            Some(Credentials {
                username: username.to_owned(),
                password: password.to_owned(),
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixture::pod;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for (policy, image, expect) in [
            (None, "web", "Always"),
            (None, "web:latest", "Always"),
            (None, "web:1", "IfNotPresent"),
            (None, "registry:5000/web", "Always"),
            (None, "web@sha256:aa", "IfNotPresent"),
            (Some("Never"), "web", "Never"),
        ] {
            let container = Container {
                image_pull_policy: policy.map(str::to_owned),
                ..Container::default()
            };
            assert_eq!(pull_policy(&container, image), expect, "{image}");
        }
    }

    #[test]
    fn pull_secrets_are_matched_by_registry() {
        let mut pod = pod(r#"{"imagePullSecrets":[{"name":"s"}]}"#);
        let config = serde_json::json!({"auths": {
            "https://other:5000/v1/": {"username": "no", "password": "no"},
            "10.0.0.1:5000": {"auth": base64::engine::general_purpose::STANDARD.encode("me:pass:word")},
        }});
        let data = base64::engine::general_purpose::STANDARD.encode(config.to_string());
        let secret =
            serde_json::json!({"metadata": {"name": "s"}, "data": {".dockerconfigjson": data}});
        pod.secrets
            .insert("s".into(), serde_json::from_value(secret).unwrap());
        let found = credentials(&pod, "10.0.0.1:5000/web:1").unwrap();
        assert_eq!(
            (found.username.as_str(), found.password.as_str()),
            ("me", "pass:word")
        );
        assert!(credentials(&pod, "web:1").is_none());
    }
}
