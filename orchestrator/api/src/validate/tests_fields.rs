//! Every field of a pod's containers and of what is around them: what is used, what is refused by name, and what has no
//! effect here and why. A field that a new version of the API brings is in none of these, and the test says so.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::tests::faults;
use crate::openapi::schema::definitions;

/// Type; fields that something here honours; fields that are refused; fields that are accepted without effect.
const FIELDS: [(&str, &str, &str, &str); 21] = [
    (
        "PodSpec",
        "activeDeadlineSeconds affinity automountServiceAccountToken containers dnsConfig dnsPolicy enableServiceLinks \
         ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostname imagePullSecrets initContainers nodeName \
         nodeSelector preemptionPolicy priority priorityClassName readinessGates restartPolicy schedulerName \
         schedulingGates schedulingGroup securityContext serviceAccount serviceAccountName setHostnameAsFQDN \
         shareProcessNamespace subdomain terminationGracePeriodSeconds tolerations topologySpreadConstraints volumes",
        "evictionResponders hostnameOverride overhead resourceClaims resources runtimeClassName",
        // Forbidden when false, true is what is done; Linux or refused.
        "hostUsers os",
    ),
    (
        "Container",
        "args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe resizePolicy \
         resources restartPolicy securityContext startupProbe stdin stdinOnce terminationMessagePath \
         terminationMessagePolicy tty volumeMounts workingDir",
        "restartPolicyRules volumeDevices",
        "",
    ),
    (
        "PodSecurityContext",
        "fsGroup runAsGroup runAsNonRoot runAsUser seccompProfile supplementalGroups supplementalGroupsPolicy sysctls",
        "windowsOptions",
        // No labels are set; AppArmor's default is the node's; a volume's own folder is changed only, whatever is below.
        "appArmorProfile fsGroupChangePolicy seLinuxChangePolicy seLinuxOptions",
    ),
    (
        "SecurityContext",
        "allowPrivilegeEscalation capabilities privileged readOnlyRootFilesystem runAsGroup runAsNonRoot runAsUser \
         seccompProfile",
        "procMount windowsOptions",
        "appArmorProfile seLinuxOptions",
    ),
    ("Lifecycle", "postStart preStop stopSignal", "", ""),
    ("LifecycleHandler", "exec httpGet sleep", "tcpSocket", ""),
    (
        "Probe",
        "exec failureThreshold grpc httpGet initialDelaySeconds periodSeconds successThreshold tcpSocket \
         terminationGracePeriodSeconds timeoutSeconds",
        "",
        "",
    ),
    ("EnvVar", "name value valueFrom", "", ""),
    (
        "EnvVarSource",
        "configMapKeyRef fieldRef resourceFieldRef secretKeyRef",
        "fileKeyRef",
        "",
    ),
    ("EnvFromSource", "configMapRef prefix secretRef", "", ""),
    (
        "VolumeMount",
        "mountPath mountPropagation name readOnly recursiveReadOnly subPath subPathExpr",
        "bindMountOptions",
        "",
    ),
    (
        "ContainerPort",
        "containerPort hostIP hostPort name protocol",
        "",
        "",
    ),
    ("ResourceRequirements", "limits requests", "claims", ""),
    (
        "ContainerResizePolicy",
        "resourceName restartPolicy",
        "",
        "",
    ),
    ("Capabilities", "add drop", "", ""),
    ("SeccompProfile", "localhostProfile type", "", ""),
    ("PodDNSConfig", "nameservers options searches", "", ""),
    ("HostAlias", "hostnames ip", "", ""),
    ("Sysctl", "name value", "", ""),
    (
        "Volume",
        "configMap downwardAPI emptyDir hostPath name persistentVolumeClaim projected secret",
        "awsElasticBlockStore azureDisk azureFile cephfs cinder csi ephemeral fc flexVolume flocker gcePersistentDisk \
         gitRepo glusterfs image iscsi nfs photonPersistentDisk portworxVolume quobyte rbd scaleIO storageos vsphereVolume",
        "",
    ),
    (
        "VolumeProjection",
        "configMap downwardAPI secret serviceAccountToken",
        "clusterTrustBundle podCertificate",
        "",
    ),
];

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace()
}

#[test]
fn every_field_is_used_refused_or_known_to_have_no_effect() {
    for (kind, used, refused, without_effect) in FIELDS {
        let schema = &definitions()[&format!("io.k8s.api.core.v1.{kind}")];
        let known = schema["properties"].as_object().unwrap();
        let known: BTreeSet<&str> = known.keys().map(String::as_str).collect();
        let listed: Vec<&str> = [used, refused, without_effect]
            .into_iter()
            .flat_map(words)
            .collect();
        let set: BTreeSet<&str> = listed.iter().copied().collect();
        assert_eq!(set.len(), listed.len(), "{kind}: a field is listed twice");
        assert_eq!(set, known, "{kind}");
    }
}

/// A pod with one field of a type set to something.
fn with(kind: &str, field: &str) -> Value {
    let value = match (kind, field) {
        ("PodSpec", "evictionResponders" | "resourceClaims")
        | ("ResourceRequirements", "claims") => {
            json!([{"name": "x"}])
        }
        ("PodSpec", "runtimeClassName" | "hostnameOverride") => json!("x"),
        ("PodSpec", "overhead") => json!({"cpu": "1m"}),
        ("PodSpec", "resources") => json!({"limits": {"cpu": "1"}}),
        ("Container", "restartPolicyRules") => json!([{"action": "Restart"}]),
        ("Container", "volumeDevices") => json!([{"name": "v", "devicePath": "/dev/x"}]),
        ("SecurityContext", "procMount") => json!("Unmasked"),
        ("VolumeMount", "bindMountOptions") => json!(["noexec"]),
        ("LifecycleHandler", "tcpSocket") => json!({"port": 1}),
        _ => json!({"x": "y"}),
    };
    let mut pod = json!({
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"containers": [{"name": "a", "image": "a:1", "env": [{"name": "A", "valueFrom": {}}],
                                 "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                 "volumes": [{"name": "v", "emptyDir": {}}]},
    });
    let place = match kind {
        "PodSpec" => "/spec",
        "PodSecurityContext" => "/spec/securityContext",
        "Container" => "/spec/containers/0",
        "SecurityContext" => "/spec/containers/0/securityContext",
        "LifecycleHandler" => "/spec/containers/0/lifecycle/preStop",
        "EnvVarSource" => "/spec/containers/0/env/0/valueFrom",
        "VolumeMount" => "/spec/containers/0/volumeMounts/0",
        "ResourceRequirements" => "/spec/containers/0/resources",
        "Volume" => "/spec/volumes/0",
        "VolumeProjection" => "/spec/volumes/0/projected/sources/0",
        _ => panic!("{kind} has nothing that is refused"),
    };
    if kind == "VolumeProjection" {
        pod["spec"]["volumes"][0] = json!({"name": "v", "projected": {"sources": [{}]}});
    }
    let mut target = &mut pod;
    for step in place.split('/').skip(1) {
        target = match step.parse::<usize>() {
            Ok(index) => &mut target[index],
            Err(_) => &mut target[step],
        };
    }
    target[field] = value;
    pod
}

#[test]
fn what_is_refused_is_named() {
    for (kind, _, refused, _) in FIELDS {
        for field in words(refused) {
            let faults = faults("pod", with(kind, field));
            let named = |fault: &&String| {
                let path = fault.split(": ").next().unwrap_or_default();
                path.rsplit('.')
                    .next()
                    .unwrap_or_default()
                    .starts_with(field)
            };
            assert!(
                faults.iter().any(|f| named(&f)),
                "{kind}.{field}: {faults:?}"
            );
        }
    }
}

#[test]
fn values_with_another_meaning_are_refused_too() {
    let check = |pointer: &str, value: Value, expect: &str| {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {"os": {}, "securityContext": {},
                     "containers": [{"name": "a", "image": "a:1", "lifecycle": {}, "securityContext": {}}]},
        });
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[field] = value;
        let faults = faults("pod", pod);
        match expect {
            "" => assert_eq!(faults, [""; 0], "{pointer}"),
            expect => assert!(faults.iter().any(|f| f.starts_with(expect)), "{faults:?}"),
        }
    };
    let container = "/spec/containers/0";
    check("/spec/hostUsers", json!(false), "spec.hostUsers: Forbidden");
    check("/spec/hostUsers", json!(true), "");
    check(
        "/spec/os/name",
        json!("windows"),
        "spec.os.name: Unsupported",
    );
    let policy = "/spec/securityContext/supplementalGroupsPolicy";
    check(policy, json!("Strict"), "");
    let expect = "spec.securityContext.supplementalGroupsPolicy: Unsupported";
    check(policy, json!("x"), expect);
    let policy = "/spec/securityContext/fsGroupChangePolicy";
    check(policy, json!("OnRootMismatch"), "");
    let signal = format!("{container}/lifecycle/stopSignal");
    check(&signal, json!("SIGUSR1"), "");
    let expect = "spec.containers[0].lifecycle.stopSignal: Unsupported";
    check(&signal, json!("SIGNOT"), expect);
    let profile = format!("{container}/securityContext/appArmorProfile");
    let expect = "spec.containers[0].securityContext.appArmorProfile.type: Forbidden";
    check(&profile, json!({"type": "Localhost"}), expect);
}
