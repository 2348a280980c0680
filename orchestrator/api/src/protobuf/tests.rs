//! Bodies built by hand, byte for byte as the wire format says, and any bytes at all.

use proptest::prelude::*;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::json;

use super::*;

fn bytes(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut out);
    encode_varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

fn int(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    encode_key(number, WireType::Varint, &mut out);
    encode_varint(value, &mut out);
    out
}

fn body(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
    let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes(1, &meta), bytes(2, object)].concat()
}

#[test]
fn a_deployment_is_read() {
    let container = [
        bytes(1, b"web"),
        bytes(2, b"shop/web:1"),
        // ports: hostPort 0 says nothing
        bytes(6, &[int(2, 0), int(3, 8080), bytes(4, b"TCP")].concat()),
        // resources.limits
        bytes(
            8,
            &bytes(
                1,
                &[bytes(1, b"cpu"), bytes(2, &bytes(1, b"250m"))].concat(),
            ),
        ),
        bytes(14, b""),
        // stdin: false
        int(16, 0),
    ]
    .concat();
    // volumes: the source is inside, emptyDir
    let volume = [bytes(1, b"tmp"), bytes(2, &bytes(2, b""))].concat();
    let pod = [bytes(1, &volume), bytes(2, &container), bytes(3, b"")].concat();
    let labels = bytes(11, &[bytes(1, b"app"), bytes(2, b"web")].concat());
    let template = [
        bytes(1, &[labels.clone(), bytes(8, b"")].concat()),
        bytes(2, &pod),
    ]
    .concat();
    let surge = bytes(2, &[int(1, 1), bytes(3, b"25%")].concat());
    let strategy = [bytes(1, b"RollingUpdate"), bytes(2, &surge)].concat();
    let spec = [
        int(1, 0),
        bytes(3, &template),
        bytes(4, &strategy),
        int(5, 0),
    ]
    .concat();
    let meta = [bytes(1, b"web"), bytes(3, b""), labels, bytes(8, b"")].concat();
    let object = [bytes(1, &meta), bytes(2, &spec), bytes(3, b"")].concat();
    assert_eq!(
        parse(&body("apps/v1", "Deployment", &object)).unwrap(),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {
                "replicas": 0,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {
                        "containers": [{
                            "name": "web", "image": "shop/web:1",
                            "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                            "resources": {"limits": {"cpu": "250m"}},
                        }],
                        "volumes": [{"name": "tmp", "emptyDir": {}}],
                    },
                },
            },
            "status": {},
        })
    );
}

#[test]
fn bytes_times_and_extras_are_read() {
    let data = bytes(2, &[bytes(1, b"k"), bytes(2, &[0, 255])].concat());
    let meta = [bytes(1, b"s"), bytes(8, &int(1, 1_700_000_000))].concat();
    let secret = [bytes(1, &meta), data].concat();
    assert_eq!(
        parse(&body("v1", "Secret", &secret)).unwrap(),
        json!({"apiVersion": "v1", "kind": "Secret", "data": {"k": "AP8="},
            "metadata": {"name": "s", "creationTimestamp": "2023-11-14T22:13:20Z"}})
    );
    let extra = bytes(
        5,
        &[bytes(1, b"scopes"), bytes(2, &bytes(1, b"a"))].concat(),
    );
    let review = bytes(2, &[bytes(3, b"ann"), extra].concat());
    let read = parse(&body(
        "authorization.k8s.io/v1",
        "SubjectAccessReview",
        &review,
    ))
    .unwrap();
    assert_eq!(
        read["spec"],
        json!({"user": "ann", "extra": {"scopes": ["a"]}})
    );
}

#[test]
fn options_keep_a_grace_period_of_none() {
    let options = [int(1, 0), bytes(2, &bytes(1, b"u"))].concat();
    let read = parse(&body("policy/v1", "DeleteOptions", &options)).unwrap();
    assert_eq!(read["gracePeriodSeconds"], 0);
    assert_eq!(read["preconditions"], json!({"uid": "u"}));
}

#[test]
fn what_can_not_be_read_is_answered() {
    for (bytes, code) in [
        (b"{}".to_vec(), 400),
        (body("example.com/v1", "Thing", b""), 415),
        (body("v1", "Pod", &[0x0a, 0x05, 1]), 400),
        (body("v1", "Pod", &bytes(1, &bytes(1, &[0xff]))), 400),
        (body("v1", "Pod", &int(1, 1)), 400),
    ] {
        assert_eq!(parse(&bytes).unwrap_err().code, code);
    }
}

#[test]
fn every_message_that_is_named_is_there() {
    let special = [
        "meta.v1.Time",
        "meta.v1.MicroTime",
        "resource.Quantity",
        "intstr.IntOrString",
        "runtime.RawExtension",
        "meta.v1.FieldsV1",
    ];
    for (name, message) in MESSAGES.iter() {
        for field in message.values() {
            let known = MESSAGES.contains_key(field.kind) || special.contains(&field.kind);
            assert!(
                known || field.kind.len() == 1,
                "{name}.{}: {}",
                field.name,
                field.kind
            );
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered(content in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&content);
        let _ = parse(&[MAGIC, &content].concat());
        for kind in ["Pod", "Service", "Secret", "Node"] {
            let _ = parse(&body("v1", kind, &content));
        }
    }
}
