//! A container as the supervisor is told to make it, from the pod, the image and the mounts. Pure but for reading the
//! image's user database.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, PodSecurityContext, SecurityContext};
use waggle_runtime::images::Image;
use waggle_runtime::spec::{ContainerSpec, MountSpec, UserSpec};

use super::desired::Desired;
use super::env::expand_all;
use super::observed::{Ended, note};
use super::qos::{limits, oom_score};

/// What a container may do when its pod says nothing.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Every capability of Linux 5.9 and later.
const ALL_CAPABILITIES: [&str; 27] = [
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_DAC_READ_SEARCH",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_NET_ADMIN",
    "CAP_NET_BROADCAST",
    "CAP_PERFMON",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];

/// What makes one attempt of a container different from the next.
#[derive(Debug, Clone)]
pub(crate) struct Attempt<'a> {
    pub(crate) number: u32,
    pub(crate) streak: u32,
    pub(crate) last: Option<Ended>,
    pub(crate) env: Vec<String>,
    pub(crate) mounts: Vec<MountSpec>,
    pub(crate) log: PathBuf,
    pub(crate) image: &'a Image,
    pub(crate) node_memory: u64,
    /// Where the node's own seccomp profiles are.
    pub(crate) profiles: PathBuf,
}

/// The specification of `container`.
///
/// # Errors
/// A sentence for `CreateContainerConfigError`.
pub(crate) fn container_spec(
    pod: &Desired,
    container: &Container,
    attempt: Attempt<'_>,
) -> Result<ContainerSpec, String> {
    let context = container.security_context.clone().unwrap_or_default();
    let pod_context = pod
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.security_context.clone())
        .unwrap_or_default();
    let config = &attempt.image.config;
    let args = arguments(container, &config.entrypoint, &config.cmd, &attempt.env);
    if args.is_empty() {
        return Err(format!(
            "image {} names no command and the container neither",
            image_of(container)
        ));
    }
    let privileged = context.privileged == Some(true);
    let seccomp = seccomp(&context, &pod_context, &attempt.profiles)?;
    let cwd = container.working_dir.clone().filter(|d| !d.is_empty());
    let cwd = cwd.unwrap_or_else(|| config.working_dir.clone());
    let mut annotations = std::collections::BTreeMap::from([
        (note::IMAGE.to_owned(), image_of(container).to_owned()),
        (note::IMAGE_ID.to_owned(), image_id(attempt.image)),
        (note::STREAK.to_owned(), attempt.streak.to_string()),
    ]);
    if let Some(last) = attempt
        .last
        .as_ref()
        .and_then(|last| serde_json::to_string(last).ok())
    {
        annotations.insert(note::LAST.to_owned(), last);
    }
    Ok(ContainerSpec {
        pod: pod.key.uid.clone(),
        name: container.name.clone(),
        attempt: attempt.number,
        layers: attempt.image.layers.clone(),
        read_only_root: context.read_only_root_filesystem == Some(true),
        args,
        env: attempt.env,
        cwd: if cwd.is_empty() { "/".to_owned() } else { cwd },
        user: user(&context, &pod_context, attempt.image)?,
        mounts: attempt.mounts,
        resources: limits(container),
        capabilities: capabilities(&context)?,
        no_new_privileges: context.allow_privilege_escalation == Some(false),
        privileged,
        seccomp_default: !privileged && seccomp != Seccomp::Unconfined,
        seccomp_profile: match seccomp {
            Seccomp::Profile(path) if !privileged => Some(path),
            _ => None,
        },
        host_pid: pod.host_pid(),
        pid_of: match pod.host_pid() || pod.shares_processes() {
            true => None,
            false => pod.ephemeral.targets.get(&container.name).cloned(),
        },
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        log_path: attempt.log,
        oom_score_adj: oom_score(pod, container, attempt.node_memory),
        annotations,
    })
}

fn image_of(container: &Container) -> &str {
    container.image.as_deref().unwrap_or_default()
}

/// As `imageID` shows it: the registry's digest when it was pulled, else the image's own.
fn image_id(image: &Image) -> String {
    let name = image
        .names
        .first()
        .map(|name| name.rsplit_once(':').map_or(name.as_str(), |(n, _)| n));
    match (&image.manifest_digest, name) {
        (Some(digest), Some(name)) => format!("{name}@{digest}"),
        _ => image.id.clone(),
    }
}

/// `command` replaces the image's entry point and its arguments, `args` its arguments.
fn arguments(
    container: &Container,
    entrypoint: &[String],
    cmd: &[String],
    env: &[String],
) -> Vec<String> {
    let given = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
    let (command, args) = (given(&container.command), given(&container.args));
    match (command, args) {
        (Some(command), args) => {
            let args = args.unwrap_or_default();
            expand_all(&command, env)
                .into_iter()
                .chain(expand_all(&args, env))
                .collect()
        }
        (None, Some(args)) => entrypoint
            .iter()
            .cloned()
            .chain(expand_all(&args, env))
            .collect(),
        (None, None) => entrypoint.iter().chain(cmd).cloned().collect(),
    }
}

fn user(
    context: &SecurityContext,
    pod_context: &PodSecurityContext,
    image: &Image,
) -> Result<UserSpec, String> {
    let uid = context.run_as_user.or(pod_context.run_as_user);
    let gid = context.run_as_group.or(pod_context.run_as_group);
    let wanted = match (uid, gid) {
        (Some(uid), Some(gid)) => format!("{uid}:{gid}"),
        (Some(uid), None) => uid.to_string(),
        (None, Some(gid)) => {
            let user = image.config.user.split(':').next().unwrap_or_default();
            format!("{}:{gid}", if user.is_empty() { "0" } else { user })
        }
        (None, None) => image.config.user.clone(),
    };
    let mut user =
        waggle_runtime::users::resolve(&wanted, &image.layers).map_err(|e| e.to_string())?;
    let non_root = context.run_as_non_root.or(pod_context.run_as_non_root) == Some(true);
    if non_root && user.uid == 0 {
        return Err("container has runAsNonRoot and would run as root".to_owned());
    }
    // Those that the image's /etc/group gives the user, whichever group it runs as.
    user.additional_gids = match pod_context.supplemental_groups_policy.as_deref() {
        Some("Strict") => Vec::new(),
        _ => {
            let name = wanted.split(':').next().unwrap_or_default();
            let alone = waggle_runtime::users::resolve(name, &image.layers);
            alone.map_err(|e| e.to_string())?.additional_gids
        }
    };
    user.additional_gids.retain(|group| *group != user.gid);
    let more = pod_context
        .supplemental_groups
        .iter()
        .flatten()
        .chain(pod_context.fs_group.iter());
    for group in more.filter_map(|group| u32::try_from(*group).ok()) {
        if !user.additional_gids.contains(&group) {
            user.additional_gids.push(group);
        }
    }
    Ok(user)
}

/// Which system calls a container may make.
#[derive(Debug, PartialEq, Eq)]
enum Seccomp {
    Default,
    Unconfined,
    /// A profile of the node's own.
    Profile(PathBuf),
}

fn seccomp(
    context: &SecurityContext,
    pod_context: &PodSecurityContext,
    profiles: &Path,
) -> Result<Seccomp, String> {
    let profile = context
        .seccomp_profile
        .as_ref()
        .or(pod_context.seccomp_profile.as_ref());
    match profile.map(|profile| profile.type_.as_str()) {
        Some("Unconfined") => Ok(Seccomp::Unconfined),
        Some("Localhost") => {
            let name = profile.and_then(|p| p.localhost_profile.as_deref());
            let name = name.unwrap_or_default();
            let path = profiles.join(name);
            if path.is_file() {
                Ok(Seccomp::Profile(path))
            } else {
                Err(format!(
                    "seccompProfile.localhostProfile: this node has no {}",
                    path.display()
                ))
            }
        }
        _ => Ok(Seccomp::Default),
    }
}

fn capabilities(context: &SecurityContext) -> Result<Vec<String>, String> {
    let every = || {
        DEFAULT_CAPABILITIES
            .iter()
            .chain(&ALL_CAPABILITIES)
            .copied()
    };
    let mut set: BTreeSet<&str> = DEFAULT_CAPABILITIES.into();
    let Some(change) = &context.capabilities else {
        return Ok(set.into_iter().map(str::to_owned).collect());
    };
    let named = |text: &String| -> Result<&'static str, String> {
        let upper = text.to_ascii_uppercase();
        let name = if upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        every()
            .find(|known| *known == name)
            .ok_or_else(|| format!("unknown capability {text:?}"))
    };
    let all =
        |list: &Option<Vec<String>>| list.iter().flatten().any(|c| c.eq_ignore_ascii_case("ALL"));
    if all(&change.drop) {
        set.clear();
    }
    if all(&change.add) {
        set.extend(every());
    }
    for text in change
        .drop
        .iter()
        .flatten()
        .filter(|c| !c.eq_ignore_ascii_case("ALL"))
    {
        set.remove(named(text)?);
    }
    for text in change
        .add
        .iter()
        .flatten()
        .filter(|c| !c.eq_ignore_ascii_case("ALL"))
    {
        set.insert(named(text)?);
    }
    Ok(set.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use waggle_runtime::images::ImageConfig;

    use super::*;
    use crate::pods::fixture::pod;

    fn spec(container: &str, pod_context: &str) -> Result<ContainerSpec, String> {
        let pod = pod(&format!(
            r#"{{"securityContext":{pod_context},"containers":[{{"name":"main","image":"web:1",{container}}}]}}"#
        ));
        let image = Image {
            id: "sha256:aa".into(),
            names: vec!["docker.io/library/web:1".into()],
            manifest_digest: Some("sha256:bb".into()),
            layers: vec![],
            size: 1,
            config: ImageConfig {
                entrypoint: vec!["/entry".into()],
                cmd: vec!["a".into()],
                user: "5:6".into(),
                ..ImageConfig::default()
            },
        };
        let attempt = Attempt {
            number: 2,
            streak: 1,
            last: None,
            env: vec!["A=1".into()],
            mounts: vec![],
            log: "/log".into(),
            image: &image,
            node_memory: 1 << 30,
            profiles: "/no/such/folder".into(),
        };
        container_spec(&pod, &pod.containers()[0].clone(), attempt)
    }

    #[test]
    fn command_and_args_replace_entrypoint_and_cmd() {
        for (container, args) in [
            (r#""stdin":false"#, "/entry a"),
            (r#""args":["$(A)","$$(A)"]"#, "/entry 1 $(A)"),
            (r#""command":["/x"]"#, "/x"),
            (r#""command":["/x"],"args":["y"]"#, "/x y"),
        ] {
            assert_eq!(
                spec(container, "{}").unwrap().args.join(" "),
                args,
                "{container}"
            );
        }
        assert_eq!(
            spec(r#""tty":true"#, "{}").unwrap().annotations[note::IMAGE_ID],
            "docker.io/library/web@sha256:bb"
        );
    }

    #[test]
    fn groups_of_the_image_are_merged_unless_the_policy_is_strict() {
        let layer = tempfile::tempdir().unwrap();
        let etc = layer.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        std::fs::write(etc.join("passwd"), "me:x:5:6::/:/bin/sh\n").unwrap();
        std::fs::write(etc.join("group"), "own:x:6:me\nmore:x:50:me\n").unwrap();
        let image = Image {
            id: "sha256:aa".into(),
            names: vec![],
            manifest_digest: None,
            layers: vec![layer.path().to_owned()],
            size: 1,
            config: ImageConfig::default(),
        };
        let check = |context: &str, expect: &[u32]| {
            let context = serde_json::from_str(context).unwrap();
            let user = user(&SecurityContext::default(), &context, &image).unwrap();
            assert_eq!(user.additional_gids, expect, "{context:?}");
        };
        let given = r#""runAsUser":5,"runAsGroup":7,"supplementalGroups":[9]"#;
        check(&format!("{{{given}}}"), &[50, 9]);
        check(
            &format!(r#"{{{given},"supplementalGroupsPolicy":"Merge"}}"#),
            &[50, 9],
        );
        check(
            &format!(r#"{{{given},"supplementalGroupsPolicy":"Strict"}}"#),
            &[9],
        );
        check(r#"{"runAsUser":5}"#, &[50]);
        check(
            r#"{"runAsUser":5,"supplementalGroupsPolicy":"Strict"}"#,
            &[],
        );
    }

    #[test]
    fn users_come_from_container_pod_and_image() {
        for (context, pod_context, uid, gid, groups) in [
            ("{}", "{}", 5, 6, vec![]),
            (r#"{"runAsUser":1000}"#, "{}", 1000, 0, vec![]),
            (
                "{}",
                r#"{"runAsUser":7,"runAsGroup":8,"supplementalGroups":[9],"fsGroup":10}"#,
                7,
                8,
                vec![9, 10],
            ),
            (
                r#"{"runAsUser":1}"#,
                r#"{"runAsUser":7,"runAsGroup":8}"#,
                1,
                8,
                vec![],
            ),
        ] {
            let user = spec(&format!(r#""securityContext":{context}"#), pod_context)
                .unwrap()
                .user;
            assert_eq!(
                (user.uid, user.gid, user.additional_gids),
                (uid, gid, groups),
                "{context} {pod_context}"
            );
        }
        let error = spec(
            r#""securityContext":{"runAsUser":0,"runAsNonRoot":true}"#,
            "{}",
        )
        .unwrap_err();
        assert!(error.contains("runAsNonRoot"), "{error}");
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let count = |capabilities: &str| {
            let container = format!(r#""securityContext":{{"capabilities":{capabilities}}}"#);
            spec(&container, "{}").map(|spec| spec.capabilities)
        };
        assert_eq!(count("{}").unwrap().len(), 14);
        assert_eq!(
            count(r#"{"drop":["ALL"],"add":["NET_BIND_SERVICE"]}"#).unwrap(),
            ["CAP_NET_BIND_SERVICE"]
        );
        assert_eq!(
            count(r#"{"add":["ALL"],"drop":["sys_admin"]}"#)
                .unwrap()
                .len(),
            40
        );
        assert!(count(r#"{"add":["FLY"]}"#).unwrap_err().contains("FLY"));
    }
}
