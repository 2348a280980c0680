//! Tables of what is refused, with the words that clients see.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{RESOURCES, lookup_name};

/// The faults of a new object after defaults, each as text.
pub(super) fn faults(kind: &str, mut object: Value) -> Vec<String> {
    let row = lookup_name(kind).unwrap();
    (row.defaults)(&mut object);
    (row.validate)(&object, None)
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Replaces what is at `pointer` of a good object and expects exactly these faults.
pub(super) fn check(kind: &str, good: &Value, pointer: &str, new: Value, expect: &[&str]) {
    assert_eq!(
        faults(kind, good.clone()),
        [""; 0],
        "the base object must be good"
    );
    let object = with(good, pointer, new);
    assert_eq!(faults(kind, object), expect, "{pointer}");
}

pub(super) fn with(good: &Value, pointer: &str, new: Value) -> Value {
    let mut object = good.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/");
    match object
        .pointer_mut(parent)
        .unwrap_or_else(|| panic!("no {parent}"))
    {
        Value::Object(map) if new.is_null() => {
            map.remove(&key);
        }
        Value::Object(map) => {
            map.insert(key, new);
        }
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = new,
        _ => panic!("{pointer}"),
    }
    object
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {
            "containers": [{"name": "a", "image": "shop/a:1", "ports": [{"containerPort": 80}], "resources": {},
                "env": [], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    })
}

fn deployment() -> Value {
    json!({
        "metadata": {"name": "d", "namespace": "n"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "a", "image": "a:1"}]}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {}},
        },
    })
}

fn service() -> Value {
    json!({"metadata": {"name": "s", "namespace": "n", "annotations": {}}, "spec": {"ports": [{"port": 80}]}})
}

#[test]
fn pods_are_checked() {
    let c = "/spec/containers/0";
    for (pointer, new, expect) in [
        (
            "/metadata/name",
            json!("A"),
            &[
                "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist \
            of lower case letters, digits, '-' or '.', and start and end with a letter or digit (such as 'example.com')",
            ][..],
        ),
        (
            "/metadata/name",
            Value::Null,
            &["metadata.name: Required value: name or generateName is required"],
        ),
        (
            "/metadata/labels",
            json!({"a b": "c"}),
            &[
                "metadata.labels: Invalid value: \"a b\": name part must consist of \
            letters, digits, '-', '_' or '.', and start and end with a letter or digit (such as 'MyName' or 'my.name'), \
            after an optional DNS subdomain and '/' (such as 'example.com/MyName')",
            ],
        ),
        (
            "/spec/containers",
            json!([]),
            &["spec.containers: Required value"],
        ),
        (
            "/spec/containers/0/image",
            Value::Null,
            &["spec.containers[0].image: Required value"],
        ),
        (
            "/spec/containers/0/image",
            json!(" a"),
            &[
                "spec.containers[0].image: Invalid value: \" a\": must not have leading or trailing whitespace",
            ],
        ),
        (
            "/spec/containers/0/ports/0",
            json!({"containerPort": 70000}),
            &[
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            "/spec/containers/0/ports/0",
            json!({"containerPort": 1, "protocol": "X"}),
            &[
                "spec.containers[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
            ],
        ),
        (
            "/spec/containers/0/resources",
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
            &[
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        ),
        (
            "/spec/containers/0/resources",
            json!({"requests": {"memory": "1x"}}),
            &[
                "spec.containers[0].resources.requests[memory]: Invalid value: \"1x\": invalid quantity \"1x\": write a number \
             with an optional suffix such as 500m, 2, 64Mi or 1G",
            ],
        ),
        (
            "/spec/containers/0/resources",
            json!({"requests": {"gpu": "1"}}),
            &[
                "spec.containers[0].resources.requests: Invalid value: \"gpu\": must be a standard resource type or fully \
             qualified",
            ],
        ),
        (
            "/spec/containers/0/env",
            json!([{"name": "A=B"}]),
            &[
                "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must consist only \
             of printable ASCII characters other than '='",
            ],
        ),
        (
            "/spec/containers/0/env",
            json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]),
            &[
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.x\": supported values: \
             \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \
             \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            ],
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "x", "mountPath": "/x"}]),
            &["spec.containers[0].volumeMounts[0].name: Not found: \"x\""],
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "v", "mountPath": "/x"}, {"name": "v", "mountPath": "/x"}]),
            &[
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/x\": must be unique",
            ],
        ),
        (
            "/spec/containers/0/livenessProbe",
            json!({"periodSeconds": -1}),
            &[
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
                "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ],
        ),
        (
            "/spec/containers/0/livenessProbe",
            json!({"httpGet": {"port": 0}, "successThreshold": 2}),
            &[
                "spec.containers[0].livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}]),
            &["spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "nfs": {"server": "a", "path": "/b"}}]),
            &[
                "spec.volumes[0].nfs: Forbidden: this cluster has no volumes of type nfs; use one of configMap, downwardAPI, \
             emptyDir, hostPath, persistentVolumeClaim, projected, secret",
            ],
        ),
        (
            "/spec/restartPolicy",
            json!("X"),
            &[
                "spec.restartPolicy: Unsupported value: \"X\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ],
        ),
        ("/spec/shareProcessNamespace", json!(true), &[]),
        ("/spec/hostPID", json!(true), &[]),
        ("/spec/activeDeadlineSeconds", json!(10), &[]),
        (
            "/spec/activeDeadlineSeconds",
            json!(0),
            &["spec.activeDeadlineSeconds: Invalid value: 0: must be greater than or equal to 1"],
        ),
        (
            "/spec/terminationGracePeriodSeconds",
            json!(-1),
            &[
                "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ],
        ),
        (
            "/spec/tolerations",
            json!([{"operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 1}]),
            &[
                "spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when \
             `tolerationSeconds` is set",
            ],
        ),
        (
            "/spec/topologySpreadConstraints",
            json!([{"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "X"}]),
            &[
                "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than or equal to 1",
                "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
                "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"X\": supported values: \
             \"DoNotSchedule\", \"ScheduleAnyway\"",
            ],
        ),
        (
            "/spec/ephemeralContainers",
            json!([{"name": "e"}]),
            &[
                "spec.ephemeralContainers: Forbidden: cannot be set here: they are added to a pod that runs (subresource \
             ephemeralcontainers, `kubectl debug`)",
            ],
        ),
    ] {
        check("pod", &pod(), pointer, new, expect);
    }
    let two = json!([{"name": "a", "image": "a:1"}, {"name": "a", "image": "a:1", "lifecycle": {"preStop": {}}}]);
    let object = with(
        &with(&pod(), c, json!({"name": "b", "image": "b:1"})),
        "/spec/initContainers",
        two,
    );
    assert_eq!(
        faults("pod", object),
        [
            "spec.initContainers[1].name: Duplicate value: \"a\"",
            "spec.initContainers[1].lifecycle.preStop: Required value: must specify a handler type",
            "spec.initContainers[1].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always",
        ]
    );
}

#[test]
fn mounts_cross_for_the_privileged_only() {
    let at = "spec.containers[0].volumeMounts[0]";
    let mount = |more: Value, privileged: bool| {
        let mut mount = json!({"name": "v", "mountPath": "/v"});
        mount
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let pod = with(&pod(), "/spec/containers/0/volumeMounts/0", mount);
        let context = json!({"privileged": privileged});
        faults(
            "pods",
            with(&pod, "/spec/containers/0/securityContext", context),
        )
    };
    assert_eq!(
        mount(json!({"mountPropagation": "Bidirectional"}), true),
        [""; 0]
    );
    let said = mount(json!({"mountPropagation": "Bidirectional"}), false);
    assert!(
        said[0].starts_with(&format!("{at}.mountPropagation: Forbidden")),
        "{said:?}"
    );
    let said = mount(json!({"mountPropagation": "Both"}), true);
    assert!(said[0].contains("Unsupported value"), "{said:?}");
    let deep = json!({"recursiveReadOnly": "Enabled", "readOnly": true});
    assert_eq!(mount(deep, false), [""; 0]);
    let said = mount(json!({"recursiveReadOnly": "Enabled"}), false);
    assert!(said[0].contains("readOnly is true"), "{said:?}");
    let said = mount(
        json!({"recursiveReadOnly": "IfPossible", "readOnly": true, "mountPropagation": "HostToContainer"}),
        false,
    );
    assert!(said[0].contains("mountPropagation is None"), "{said:?}");
}

#[test]
fn deployments_are_checked() {
    for (pointer, new, expect) in [
        (
            "/spec/replicas",
            json!(-1),
            &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"][..],
        ),
        (
            "/spec/selector",
            Value::Null,
            &["spec.selector: Required value"],
        ),
        (
            "/spec/selector",
            json!({}),
            &["spec.selector: Required value"],
        ),
        (
            "/spec/selector",
            json!({"matchLabels": {"app": "x"}}),
            &[
                "spec.template.metadata.labels: Invalid value: {\"app\":\"d\"}: `selector` does not match template `labels`",
            ],
        ),
        (
            "/spec/template",
            Value::Null,
            &["spec.template: Required value"],
        ),
        (
            "/spec/template/spec/containers/0/image",
            Value::Null,
            &["spec.template.spec.containers[0].image: Required value"],
        ),
        (
            "/spec/template/spec/restartPolicy",
            json!("Never"),
            &[
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ],
        ),
        (
            "/spec/strategy",
            json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}),
            &[
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ],
        ),
        (
            "/spec/strategy/rollingUpdate",
            json!({"maxSurge": 0, "maxUnavailable": 0}),
            &[
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
            ],
        ),
        (
            "/spec/strategy/rollingUpdate",
            json!({"maxSurge": "x", "maxUnavailable": "101%"}),
            &[
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
                "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"x\": must be an integer or a percentage (such as '5%')",
            ],
        ),
        (
            "/spec/progressDeadlineSeconds",
            json!(0),
            &[
                "spec.progressDeadlineSeconds: Invalid value: 0: must be greater than minReadySeconds",
            ],
        ),
    ] {
        check("deployment", &deployment(), pointer, new, expect);
    }
}

#[test]
fn every_fault_is_said_at_once() {
    let mut object = with(&deployment(), "/spec/replicas", json!(-3));
    object["spec"]["template"]["spec"]["containers"][0] =
        json!({"name": "A", "ports": [{"containerPort": 0}]});
    let all = faults("deployment", object);
    let paths: Vec<_> = all
        .iter()
        .map(|text| text.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            "spec.replicas",
            "spec.template.spec.containers[0].name",
            "spec.template.spec.containers[0].image",
            "spec.template.spec.containers[0].ports[0].containerPort",
        ]
    );
}

#[test]
fn services_are_checked() {
    for (pointer, new, expect) in [
        (
            "/metadata/name",
            json!("1a"),
            &[
                "metadata.name: Invalid value: \"1a\": a DNS-1035 label must consist of lower \
            case letters, digits or '-', start with a letter, and end with a letter or digit (such as 'my-name' or \
            'abc-123')",
            ][..],
        ),
        ("/spec/ports", json!([]), &["spec.ports: Required value"]),
        (
            "/spec/ports",
            json!([{"port": 0}]),
            &[
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            "/spec/ports",
            json!([{"port": 1}, {"port": 1, "name": "a"}]),
            &[
                "spec.ports[0].name: Required value",
                "spec.ports[1]: Duplicate value: {\"port\":1,\"protocol\":\"TCP\"}",
            ],
        ),
        (
            "/spec/ports",
            json!([{"port": 1, "protocol": "SCTP"}]),
            &[
                "spec.ports[0].protocol: Invalid value: \"SCTP\": Services carry TCP and UDP only: reach SCTP servers by \
            their pods' addresses, where NetworkPolicies govern it",
            ],
        ),
        (
            "/spec/clusterIP",
            json!("x"),
            &[
                "spec.clusterIPs[0]: Invalid value: \"x\": must be empty, 'None', or a valid IP address",
            ],
        ),
        (
            "/spec/type",
            json!("NodePorts"),
            &[
                "spec.type: Unsupported value: \"NodePorts\": supported values: \"ClusterIP\", \"ExternalName\", \
            \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        (
            "/metadata/annotations/waggle.dev~1export-to",
            json!("billing, Search"),
            &[
                "metadata.annotations[waggle.dev/export-to]: Invalid value: \"billing, Search\": \"Search\" is no tenant name: \
             write tenant names separated by commas, or '*'",
            ],
        ),
        (
            "/metadata/annotations/waggle.dev~1export-to",
            json!("*"),
            &[],
        ),
        (
            "/metadata/annotations/waggle.dev~1export-to",
            json!("billing,search"),
            &[],
        ),
    ] {
        check("service", &service(), pointer, new, expect);
    }
}

#[test]
fn the_smaller_kinds_are_checked() {
    let meta = json!({"name": "x", "namespace": "n"});
    for (kind, object, expect) in [
        ("ns", json!({"metadata": {"name": "a.b"}}), "metadata.name"),
        (
            "ns",
            json!({"metadata": {"name": "a", "labels": {"waggle.dev/tenant": "A_b"}}}),
            "metadata.labels[waggle.dev/tenant]",
        ),
        (
            "cm",
            json!({"metadata": meta, "data": {"a/b": ""}}),
            "data[a/b]",
        ),
        (
            "cm",
            json!({"metadata": meta, "data": {"a": "x".repeat(1 << 21)}}),
            "data",
        ),
        (
            "secret",
            json!({"metadata": meta, "type": "kubernetes.io/tls"}),
            "data[tls.crt]",
        ),
        (
            "ns",
            json!({"metadata": {"name": "a", "labels": {"waggle.dev/tenant": "system"}}}),
            "metadata.labels[waggle.dev/tenant]",
        ),
        (
            "node",
            json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "a", "effect": "X"}]}}),
            "spec.taints[0].effect",
        ),
        (
            "tenant",
            json!({"metadata": {"name": "A"}}),
            "metadata.name",
        ),
        (
            "event",
            json!({"metadata": meta, "involvedObject": {"namespace": "other"}}),
            "involvedObject.namespace",
        ),
        (
            "endpointslice",
            json!({"metadata": meta, "addressType": "IPv4", "endpoints": [{"addresses": ["x"]}]}),
            "endpoints[0].addresses[0]",
        ),
        (
            "lease",
            json!({"metadata": meta, "spec": {"leaseDurationSeconds": 0}}),
            "spec.leaseDurationSeconds",
        ),
        (
            "sa",
            json!({"metadata": {"name": "x", "finalizers": ["a"]}}),
            "metadata.finalizers[0]",
        ),
        (
            "sa",
            json!({"metadata": {"name": "x", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}}),
            "metadata.ownerReferences[0].uid",
        ),
    ] {
        let all = faults(kind, object.clone());
        assert!(
            all.first()
                .is_some_and(|first| first.starts_with(&format!("{expect}: "))),
            "{object}: {all:?}"
        );
    }
}

#[test]
fn what_may_not_change_does_not() {
    let refused = |kind: &str, old: &Value, pointer: &str, new: Value| -> Vec<String> {
        let row = lookup_name(kind).unwrap();
        let mut old = old.clone();
        (row.defaults)(&mut old);
        let mut object = with(&old, pointer, new);
        (row.defaults)(&mut object);
        (row.validate)(&object, Some(&old))
            .iter()
            .map(|fault| fault.path.clone())
            .collect()
    };
    let none: [&str; 0] = [];
    let mut changed = deployment();
    changed["spec"]["template"]["metadata"]["labels"] = json!({"app": "d", "b": "c"});
    assert_eq!(
        refused(
            "deployment",
            &changed,
            "/spec/selector",
            json!({"matchLabels": {"b": "c"}})
        ),
        ["spec.selector"]
    );
    assert_eq!(
        refused("pod", &pod(), "/spec/containers/0/image", json!("b:2")),
        none
    );
    assert_eq!(
        refused("pod", &pod(), "/spec/containers/0/name", json!("b")),
        ["spec"]
    );
    assert_eq!(
        refused("pod", &pod(), "/spec/nodeName", json!("n1")),
        ["spec"]
    );
    assert_eq!(
        refused("pod", &pod(), "/metadata/labels", json!({"a": "b"})),
        none
    );
    let mut fixed = service();
    fixed["spec"]["clusterIP"] = json!("10.96.0.9");
    assert_eq!(
        refused("service", &fixed, "/spec/clusterIP", json!("10.96.0.8")),
        ["spec.clusterIPs[0]"]
    );
    let frozen = json!({"metadata": {"name": "x"}, "immutable": true, "data": {"a": "b"}});
    assert_eq!(refused("cm", &frozen, "/data/a", json!("c")), ["data"]);
    assert_eq!(
        refused("cm", &frozen, "/immutable", Value::Null),
        ["immutable"]
    );
}

proptest! {
    #[test]
    fn any_object_is_answered(
        index in 0..RESOURCES.len(), mut object in crate::any_json(), old in crate::any_json(), update in any::<bool>(),
    ) {
        let row = &RESOURCES[index];
        let _ = (row.validate)(&object, update.then_some(&old));
        (row.defaults)(&mut object);
        let once = object.clone();
        (row.defaults)(&mut object);
        prop_assert_eq!(&object, &once, "defaults are idempotent");
        let _ = (row.decode)(&object);
    }
}
