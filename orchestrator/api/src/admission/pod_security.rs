//! Pod Security: what the standards `baseline` and `restricted` forbid of a pod, in Kubernetes' words
//! (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>), and which of them a namespace asks for.

use serde_json::Value;

use crate::walk::{at, has, list, members, text};

/// How much a pod may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Privileged,
    /// Nothing that is known to raise its rights on the node.
    Baseline,
    /// Only what hardened pods need.
    Restricted,
}

/// What becomes of a pod that breaks the standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is refused.
    Enforce,
    /// Its writer is warned.
    Warn,
    /// The audit log tells.
    Audit,
}

impl Level {
    /// `baseline`, as labels have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// The level that a namespace asks for, and the version of the standard. A level that nobody knows is the strictest,
/// so that a slip of the pen opens nothing.
pub fn level_of(namespace: &Value, mode: Mode) -> (Level, String) {
    let mode = match mode {
        Mode::Enforce => "enforce",
        Mode::Warn => "warn",
        Mode::Audit => "audit",
    };
    let label = |suffix: &str| {
        let key = format!("pod-security.kubernetes.io/{mode}{suffix}");
        namespace["metadata"]["labels"][key.as_str()]
            .as_str()
            .map(str::to_owned)
    };
    let level = match label("").as_deref() {
        None | Some("privileged") => Level::Privileged,
        Some("baseline") => Level::Baseline,
        Some(_) => Level::Restricted,
    };
    (
        level,
        label("-version").unwrap_or_else(|| "latest".to_owned()),
    )
}

/// The rules that a pod's spec breaks at a level, each with what breaks it; `metadata` is the pod's or its template's.
pub fn violations(level: Level, metadata: &Value, spec: &Value) -> Vec<String> {
    let pod = Pod { metadata, spec };
    let mut out = Vec::new();
    if level >= Level::Baseline {
        baseline(&pod, &mut out);
    }
    if level >= Level::Restricted {
        restricted(&pod, &mut out);
    }
    out
}

/// The pod's metadata and spec within an object of a kind that makes pods, or is one.
pub fn template_of<'a>(kind: &str, value: &'a Value) -> Option<(&'a Value, &'a Value)> {
    let template = match kind {
        "Pod" => value,
        "Deployment"
        | "ReplicaSet"
        | "StatefulSet"
        | "DaemonSet"
        | "Job"
        | "ReplicationController" => at(value, &["spec", "template"]),
        "CronJob" => at(value, &["spec", "jobTemplate", "spec", "template"]),
        "PodTemplate" => &value["template"],
        _ => return None,
    };
    Some((&template["metadata"], &template["spec"]))
}

struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(move |field| list(spec, &[field]))
    }

    /// Names of containers that break a rule, as a sentence's subject: `container "a"`, `containers "a", "b"`.
    fn offenders(&self, breaks: impl Fn(&Value) -> bool) -> Option<String> {
        let names: Vec<String> = self
            .containers()
            .filter(|one| breaks(one))
            .map(|one| format!("{:?}", text(one, &["name"])))
            .collect();
        match names.as_slice() {
            [] => None,
            [one] => Some(format!("container {one}")),
            all => Some(format!("containers {}", all.join(", "))),
        }
    }

    fn is_windows(&self) -> bool {
        text(self.spec, &["os", "name"]) == "windows"
    }
}

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

const SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
];

const SELINUX_TYPES: [&str; 5] = [
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
];

fn added(container: &Value) -> impl Iterator<Item = &str> {
    let all = list(container, &["securityContext", "capabilities", "add"]);
    all.iter().filter_map(Value::as_str)
}

fn baseline(pod: &Pod<'_>, out: &mut Vec<String>) {
    let spec = pod.spec;
    let spaces: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| spec[*field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if !spaces.is_empty() {
        out.push(format!("host namespaces ({})", spaces.join(", ")));
    }
    if let Some(who) = pod.offenders(|one| one["securityContext"]["privileged"] == true) {
        out.push(format!(
            "privileged ({who} must not set securityContext.privileged=true)"
        ));
    }
    let forbidden = |one: &str| !CAPABILITIES.contains(&one);
    if let Some(who) = pod.offenders(|one| added(one).any(forbidden)) {
        let mut names: Vec<String> = pod
            .containers()
            .flat_map(added)
            .filter(|one| forbidden(one))
            .map(|one| format!("{one:?}"))
            .collect();
        names.sort_unstable();
        names.dedup();
        let names = names.join(", ");
        out.push(format!(
            "non-default capabilities ({who} must not include {names} in securityContext.capabilities.add)"
        ));
    }
    volumes_of_the_host(pod, out);
    if let Some(who) = pod.offenders(|one| {
        list(one, &["ports"])
            .iter()
            .any(|port| port["hostPort"].as_i64().unwrap_or(0) != 0)
    }) {
        let mut ports: Vec<i64> = pod
            .containers()
            .flat_map(|one| list(one, &["ports"]))
            .filter_map(|port| port["hostPort"].as_i64().filter(|port| *port != 0))
            .collect();
        ports.sort_unstable();
        ports.dedup();
        let (plural, list) = (
            if ports.len() == 1 {
                "hostPort"
            } else {
                "hostPorts"
            },
            joined(&ports),
        );
        out.push(format!("hostPort ({who} uses {plural} {list})"));
    }
    probes_at_hosts(pod, out);
    profiles(pod, out);
    let proc_mount =
        |one: &Value| !matches!(text(one, &["securityContext", "procMount"]), "" | "Default");
    // A user namespace makes it harmless.
    if let Some(who) = pod
        .offenders(proc_mount)
        .filter(|_| spec["hostUsers"] != false)
    {
        out.push(format!(
            "procMount ({who} must not set securityContext.procMount to \"Unmasked\")"
        ));
    }
    let sysctls: Vec<String> = list(spec, &["securityContext", "sysctls"])
        .iter()
        .map(|one| text(one, &["name"]))
        .filter(|name| !SYSCTLS.contains(name))
        .map(str::to_owned)
        .collect();
    if !sysctls.is_empty() {
        out.push(format!("forbidden sysctls ({})", sysctls.join(", ")));
    }
    let host_process =
        |one: &Value| at(one, &["securityContext", "windowsOptions", "hostProcess"]) == true;
    let of_pod = host_process(spec);
    if let Some(who) = pod
        .offenders(host_process)
        .or_else(|| of_pod.then(|| "pod".to_owned()))
    {
        out.push(format!(
            "hostProcess ({who} must not set securityContext.windowsOptions.hostProcess=true)"
        ));
    }
}

fn joined(numbers: &[i64]) -> String {
    let all: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    all.join(", ")
}

fn volumes_of_the_host(pod: &Pod<'_>, out: &mut Vec<String>) {
    let names: Vec<String> = list(pod.spec, &["volumes"])
        .iter()
        .filter(|one| has(one, &["hostPath"]))
        .map(|one| format!("{:?}", text(one, &["name"])))
        .collect();
    match names.as_slice() {
        [] => {}
        [one] => out.push(format!("hostPath volumes (volume {one})")),
        all => out.push(format!("hostPath volumes (volumes {})", all.join(", "))),
    }
}

/// A probe or hook with a host of its own reaches where the pod may not.
fn probes_at_hosts(pod: &Pod<'_>, out: &mut Vec<String>) {
    let aims = |handler: &Value| {
        ["httpGet", "tcpSocket"]
            .iter()
            .any(|kind| !text(handler, &[kind, "host"]).is_empty())
    };
    let breaks = |one: &Value| {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"];
        let hooks = ["postStart", "preStop"];
        probes.iter().any(|probe| aims(&one[*probe]))
            || hooks.iter().any(|hook| aims(&one["lifecycle"][*hook]))
    };
    if let Some(who) = pod.offenders(breaks) {
        out.push(format!(
            "probe or lifecycle host ({who} must not set a host in probes or lifecycle hooks)"
        ));
    }
}

/// Profiles of AppArmor, SELinux and seccomp that are no profiles.
fn profiles(pod: &Pod<'_>, out: &mut Vec<String>) {
    let spec = pod.spec;
    let unconfined =
        |one: &Value, field: &str| text(one, &["securityContext", field, "type"]) == "Unconfined";
    let annotated = members(pod.metadata, &["annotations"]).any(|(key, value)| {
        let profile = value.as_str().unwrap_or_default();
        let fine = matches!(profile, "" | "runtime/default") || profile.starts_with("localhost/");
        key.starts_with("container.apparmor.security.beta.kubernetes.io/") && !fine
    });
    let who = pod.offenders(|one| unconfined(one, "appArmorProfile"));
    let of_pod = unconfined(spec, "appArmorProfile") || annotated;
    if let Some(who) = who.or_else(|| of_pod.then(|| "pod".to_owned())) {
        out.push(format!("forbidden AppArmor profile ({who} must not set AppArmor profile type to \"Unconfined\")"));
    }
    let odd = |one: &Value| {
        let options = at(one, &["securityContext", "seLinuxOptions"]);
        let kind = text(options, &["type"]);
        !SELINUX_TYPES.contains(&kind)
            || !text(options, &["user"]).is_empty()
            || !text(options, &["role"]).is_empty()
    };
    let who = pod.offenders(odd);
    if let Some(who) = who.or_else(|| odd(spec).then(|| "pod".to_owned())) {
        out.push(format!(
            "seLinuxOptions ({who} set forbidden securityContext.seLinuxOptions)"
        ));
    }
    let who = pod.offenders(|one| unconfined(one, "seccompProfile"));
    let of_pod = unconfined(spec, "seccompProfile");
    if let Some(who) = who.or_else(|| of_pod.then(|| "pod".to_owned())) {
        out.push(format!("seccompProfile ({who} must not set securityContext.seccompProfile.type to \"Unconfined\")"));
    }
}

const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
];

fn restricted(pod: &Pod<'_>, out: &mut Vec<String>) {
    let spec = pod.spec;
    let windows = pod.is_windows();
    let kinds = |volume: &Value| {
        let fields = members(volume, &[])
            .map(|(name, _)| name.as_str())
            .filter(|name| *name != "name");
        fields
            .filter(|name| !VOLUMES.contains(name) && *name != "secret")
            .count()
            > 0
    };
    let volumes: Vec<String> = list(spec, &["volumes"])
        .iter()
        .filter(|one| kinds(one) && !has(one, &["hostPath"]))
        .map(|one| format!("{:?}", text(one, &["name"])))
        .collect();
    if !volumes.is_empty() {
        out.push(format!(
            "restricted volume types (volumes {} use restricted volume types)",
            volumes.join(", ")
        ));
    }
    if list(spec, &["volumes"])
        .iter()
        .any(|one| has(one, &["hostPath"]))
    {
        out.push("restricted volume types (volumes of type \"hostPath\")".to_owned());
    }
    let escalates = |one: &Value| one["securityContext"]["allowPrivilegeEscalation"] != false;
    if let Some(who) = pod.offenders(escalates).filter(|_| !windows) {
        out.push(format!(
            "allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
        ));
    }
    let dropped = |one: &Value| {
        let dropped = list(one, &["securityContext", "capabilities", "drop"]);
        dropped.iter().any(|name| name == "ALL")
    };
    if let Some(who) = pod.offenders(|one| !dropped(one)).filter(|_| !windows) {
        out.push(format!(
            "unrestricted capabilities ({who} must set securityContext.capabilities.drop=[\"ALL\"])"
        ));
    } else if let Some(who) = pod.offenders(|one| added(one).any(|name| name != "NET_BIND_SERVICE"))
    {
        out.push(format!(
            "unrestricted capabilities ({who} must not add any capability but \"NET_BIND_SERVICE\" in securityContext.capabilities.add)"
        ));
    }
    let of_pod = at(spec, &["securityContext", "runAsNonRoot"]);
    let as_root = |one: &Value| match &one["securityContext"]["runAsNonRoot"] {
        Value::Null => of_pod != true,
        own => *own != true,
    };
    if let Some(who) = pod.offenders(as_root) {
        out.push(format!(
            "runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"
        ));
    }
    let zero = |one: &Value| at(one, &["securityContext", "runAsUser"]) == 0;
    let who = pod.offenders(zero);
    if let Some(who) = who.or_else(|| zero(spec).then(|| "pod".to_owned())) {
        out.push(format!("runAsUser=0 ({who} must not set runAsUser=0)"));
    }
    let of_pod = text(spec, &["securityContext", "seccompProfile", "type"]).to_owned();
    let confined = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let open = |one: &Value| match text(one, &["securityContext", "seccompProfile", "type"]) {
        "" => !confined(&of_pod),
        own => !confined(own),
    };
    if let Some(who) = pod.offenders(open).filter(|_| !windows) {
        out.push(format!(
            "seccompProfile (pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(level: Level, spec: Value, expect: &[&str]) {
        let found = violations(level, &Value::Null, &spec);
        let starts = found.len() == expect.len()
            && found
                .iter()
                .zip(expect)
                .all(|(one, start)| one.starts_with(start));
        assert!(starts, "{found:#?}");
    }

    fn hardened() -> Value {
        json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}],
            "volumes": [{"name": "v", "secret": {}}]})
    }

    #[test]
    fn baseline_forbids_what_reaches_the_node() {
        check(Level::Baseline, json!({"containers": [{"name": "c"}]}), &[]);
        check(
            Level::Privileged,
            json!({"hostNetwork": true, "containers": []}),
            &[],
        );
        check(
            Level::Baseline,
            json!({"hostNetwork": true, "hostPID": true, "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
                "securityContext": {"sysctls": [{"name": "kernel.msgmax"}], "seLinuxOptions": {"type": "spc_t"}},
                "containers": [{"name": "c", "ports": [{"hostPort": 80}], "livenessProbe": {"httpGet": {"host": "h"}},
                    "securityContext": {"privileged": true, "procMount": "Unmasked",
                        "capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}, "seccompProfile": {"type": "Unconfined"},
                        "appArmorProfile": {"type": "Unconfined"}}}]}),
            &[
                "host namespaces (hostNetwork=true, hostPID=true)",
                "privileged (container \"c\" must not set securityContext.privileged=true)",
                "non-default capabilities (container \"c\" must not include \"SYS_ADMIN\" in",
                "hostPath volumes (volume \"v\")",
                "hostPort (container \"c\" uses hostPort 80)",
                "probe or lifecycle host",
                "forbidden AppArmor profile",
                "seLinuxOptions",
                "seccompProfile",
                "procMount",
                "forbidden sysctls (kernel.msgmax)",
            ],
        );
    }

    #[test]
    fn restricted_takes_hardened_pods_only() {
        check(Level::Restricted, hardened(), &[]);
        check(
            Level::Restricted,
            json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}),
            &[
                "allowPrivilegeEscalation != false (containers \"i\", \"a\", \"b\" must set",
                "unrestricted capabilities",
                "runAsNonRoot != true",
                "seccompProfile",
            ],
        );
        let mut root = hardened();
        root["securityContext"]["runAsUser"] = json!(0);
        root["volumes"] = json!([{"name": "n", "nfs": {}}]);
        root["containers"][0]["securityContext"]["capabilities"]["add"] = json!(["CHOWN"]);
        check(
            Level::Restricted,
            root,
            &[
                "restricted volume types",
                "unrestricted capabilities",
                "runAsUser=0",
            ],
        );
    }

    #[test]
    fn namespaces_ask_by_labels() {
        let namespace = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline",
            "pod-security.kubernetes.io/warn": "restrictd", "pod-security.kubernetes.io/enforce-version": "v1.30"}}});
        assert_eq!(
            level_of(&namespace, Mode::Enforce),
            (Level::Baseline, "v1.30".to_owned())
        );
        assert_eq!(level_of(&namespace, Mode::Warn).0, Level::Restricted);
        assert_eq!(level_of(&namespace, Mode::Audit).0, Level::Privileged);
    }
}
