//! Bodies that were right once, spoilt a little: whatever comes of them is answered, without a panic, and with no more
//! than it should take. Plain random bytes are each decoder's own test.

use std::sync::LazyLock;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::ownership::{self, Writer};
use crate::patch::Patch;
use crate::selector::{FieldSelector, LabelSelector};
use crate::{
    CreateContext, FieldValidation, Resource, by_kind, lookup_name, prepare_create, protobuf, table,
};

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}, "annotations": {"a": "b"}, "finalizers": ["x.y/z"]},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "containers": [{"name": "c", "image": "shop/web:1", "ports": [{"containerPort": 8080}],
                    "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                    "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}},
                    "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 5}}],
                "tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": 7}],
                "volumes": [{"name": "v", "configMap": {"name": "m", "items": [{"key": "k", "path": "p"}]}}]}}},
    })
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
        "type": "NodePort", "clusterIPs": ["10.96.0.7"], "ipFamilies": ["IPv4"], "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080, "protocol": "TCP"}]}})
}

fn schema() -> Value {
    serde_json::from_str(include_str!("custom/widget.json")).unwrap()
}

static SEEDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut seeds: Vec<Value> = vec![deployment(), service(), schema()];
    seeds.extend(crate::flow::objects().into_iter().take(9));
    seeds.extend(crate::access::defaults().into_iter().take(3));
    seeds.iter().map(Value::to_string).collect()
});

const PATCHES: [(&str, &str); 4] = [
    (
        "application/json-patch+json",
        r#"[{"op":"add","path":"/spec/template/spec/containers/-","value":{"name":"d","image":"i"}},{"op":"copy","from":"/spec","path":"/metadata/annotations/x"},{"op":"test","path":"/spec/replicas","value":3},{"op":"move","from":"/metadata/labels/app","path":"/metadata/labels/b~1c"},{"op":"remove","path":"/spec/strategy"},{"op":"replace","path":"/spec/replicas","value":4}]"#,
    ),
    (
        "application/merge-patch+json",
        r#"{"metadata":{"labels":{"app":null,"b":"c"}},"spec":{"replicas":null,"template":{"spec":{"containers":[]}}}}"#,
    ),
    (
        "application/strategic-merge-patch+json",
        r#"{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"c"},{"name":"d"}],"containers":[{"name":"d","image":"x"},{"$patch":"delete","name":"c"}],"tolerations":[{"key":"k","$patch":"replace"}]}},"strategy":{"$retainKeys":["type"],"type":"Recreate"}},"metadata":{"$deleteFromPrimitiveList/finalizers":["x.y/z"]}}"#,
    ),
    (
        "application/apply-patch+yaml",
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":5,"template":{"spec":{"containers":[{"name":"c","image":"y","ports":[{"containerPort":8080,"protocol":"UDP"}]}]}}}}"#,
    ),
];

/// Conditions that use most of the language.
const EXPRESSIONS: [&str; 8] = [
    "self.spec.replicas <= 5 && self.spec.template.spec.containers.all(c, c.image.startsWith('shop/'))",
    r#"has(self.metadata.labels) ? self.metadata.labels['app'] == "web" : !(1 + 2 * 3 - 4 / 2 % 3 > 0)"#,
    r"self.spec.template.spec.containers.map(c, c.name + '-' + c.image).join(', ').matches('^[a-z]+-.*\\d$')",
    r"[1, 2u, 3.5, 0x1F, 1e3].exists_one(x, x == 2u) || {'a': [1], 'b': {}}.size() == 2 || b'\x00' == bytes('a')",
    r#"self.?spec.?strategy[?'type'].orValue('x') in ['Recreate', r'raw\n', """long"""] && dyn(1) != null"#,
    "cidr('10.0.0.0/8').containsIP(ip('10.1.2.3')) && quantity('1Gi').add(quantity('1')).isGreaterThan(quantity('1G'))",
    "timestamp('2000-01-01T00:00:00Z') + duration('1h30m') > timestamp('2000-01-01T00:00:00Z') && url('https://h/p?a=1').getHost() == 'h'",
    "'%s %d %5.2f %x %e %b'.format(['a', 1, 2.5, 255, 1.0, 3]).replace('a', 'aa', -1).split(' ', 3).filter(w, w.size() > 1).size() > 0",
];

/// What expressions are made of.
const WORDS: [&str; 48] = [
    "self",
    ".",
    "spec",
    "replicas",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "?",
    ":",
    ",",
    "==",
    "!=",
    "<",
    ">=",
    "&&",
    "||",
    "!",
    "-",
    "+",
    "*",
    "/",
    "%",
    "in",
    "has",
    "all",
    "map",
    "filter",
    "x",
    "1",
    "2u",
    "1.5",
    "'a'",
    "\"b\"",
    "b'c'",
    "null",
    "true",
    "size",
    "matches",
    "format",
    "repeat",
    "optional",
    "9223372036854775807",
    "'%s'",
    ".?",
    "@budget",
];

const PATHS: [&str; 4] = [
    r#".spec.template.spec.containers[?(@.name=="c")].image"#,
    r".metadata.labels['app\.kubernetes\.io/name']",
    ".spec.template.spec.containers[*].ports[0].containerPort",
    r#"{"name":"c","containerPort":8080}"#,
];

const PATTERNS: [&str; 3] = [
    r"^[a-z\d]([-\w]*[[:alnum:]])?(\.[^\W_]{1,63})*\b$",
    r"(?i)^(?P<year>\d{4})-(0[1-9]|1[0-2])\Q.*\E$",
    r"[]a&&b~~c--d[e-]|\p{Greek}+?\S*\B",
];

/// What is put into a body: structure, numbers at their ends, and what looks like more than it is.
const WEDGES: [&str; 24] = [
    "",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "null",
    "true",
    "-1",
    "0",
    "1e400",
    "-0",
    "18446744073709551616",
    "99999999999999999999999999",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "{\"a\":1,\"a\":2}",
    "[[[[[[[[[[[[[[[[",
    "\"999999999999Ei\"",
    "\"$patch\":\"delete\",",
    "~2",
    "\u{feff}\u{10ffff}",
];

#[derive(Debug, Clone)]
enum Spoil {
    Wedge(prop::sample::Index, usize),
    Cut(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize, usize),
    Byte(prop::sample::Index, u8),
}

fn spoils() -> impl Strategy<Value = Vec<Spoil>> {
    let place = any::<prop::sample::Index>;
    let one = prop_oneof![
        4 => (place(), 0..WEDGES.len()).prop_map(|(at, wedge)| Spoil::Wedge(at, wedge)),
        2 => (place(), 1usize..30).prop_map(|(at, length)| Spoil::Cut(at, length)),
        2 => (place(), 1usize..60, 1usize..40).prop_map(|(at, length, times)| Spoil::Repeat(at, length, times)),
        2 => (place(), any::<u8>()).prop_map(|(at, byte)| Spoil::Byte(at, byte)),
    ];
    proptest::collection::vec(one, 0..4)
}

fn spoilt(seed: &[u8], spoils: &[Spoil]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for spoil in spoils {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match spoil {
            Spoil::Wedge(at, wedge) => {
                let at = at.index(length);
                bytes.splice(at..at, WEDGES[*wedge].bytes());
            }
            Spoil::Cut(at, count) => {
                let at = at.index(length);
                bytes.drain(at..length.min(at + count));
            }
            Spoil::Repeat(at, count, times) => {
                let at = at.index(length);
                let piece = bytes[at..length.min(at + count)].repeat(*times);
                bytes.splice(at..at, piece);
            }
            Spoil::Byte(at, byte) => {
                let at = at.index(length);
                bytes[at] = *byte;
            }
        }
    }
    bytes
}

const CONTEXT: CreateContext<'_> = CreateContext {
    now: Timestamp::UNIX_EPOCH,
    uid: "u",
    name_suffix: "abcde",
    namespace: "",
};

/// All that a body goes through on its way to the store.
fn go(row: &'static Resource, value: Value) {
    for validation in [FieldValidation::Strict, FieldValidation::Warn] {
        let Ok(read) = row.read(value.clone(), validation, Vec::new()) else {
            continue;
        };
        let namespace = if row.namespaced { "shop" } else { "" };
        let context = CreateContext {
            namespace,
            ..CONTEXT
        };
        let Ok(made) = prepare_create(row, read.value, &context) else {
            continue;
        };
        let _ = row.row_cells(&made, 7);
        let _ = table::partial(&made);
        let writer = Writer {
            manager: "m",
            subresource: "",
            now: Timestamp::UNIX_EPOCH,
        };
        let _ = ownership::apply(row, Some(&made), &value, writer, true);
        if row.kind == "CustomResourceDefinition" {
            for row in crate::custom::rows(&made).unwrap_or_default() {
                let _ = row.read(json!({"spec": {"size": 1}}), validation, Vec::new());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn spoilt_manifests_are_answered(seed in any::<proptest::sample::Index>(), spoils in spoils()) {
        let seed = seed.get(&SEEDS);
        let Ok((value, _)) = crate::body::parse(&spoilt(seed.as_bytes(), &spoils)) else {
            return Ok(());
        };
        let word = |field: &str| value[field].as_str().unwrap_or_default();
        if let Some(row) = by_kind(word("apiVersion"), word("kind")) {
            go(row, value.clone());
        }
    }

    #[test]
    fn spoilt_patches_are_answered(which in 0..PATCHES.len(), spoils in spoils()) {
        let (media_type, seed) = PATCHES[which];
        let bytes = spoilt(seed.as_bytes(), &spoils);
        let row = lookup_name("deployments").unwrap();
        let old = deployment();
        let Ok(patch) = Patch::parse(media_type, &bytes) else {
            if let Ok(config) = serde_json::from_slice::<Value>(&bytes) {
                go(row, config);
            }
            return Ok(());
        };
        if let Ok(patched) = patch.apply(row, &old) {
            go(row, patched);
        }
    }

    #[test]
    fn spoilt_selectors_are_answered(spoils in spoils()) {
        let row = lookup_name("pods").unwrap();
        let labels = spoilt(b"app in (a, b),!c,d!=e,f notin (g),h", &spoils);
        let fields = spoilt(b"metadata.name=a\\,b,spec.nodeName!=n,status.phase==Running", &spoils);
        let object = deployment();
        if let Ok(selector) = LabelSelector::parse(&String::from_utf8_lossy(&labels)) {
            let _ = selector.matches_object(&object);
        }
        if let Ok(selector) = FieldSelector::parse(row, &String::from_utf8_lossy(&fields)) {
            let _ = selector.matches(&object);
        }
    }

    #[test]
    fn spoilt_expressions_are_answered(which in 0..EXPRESSIONS.len(), spoils in spoils()) {
        let source = spoilt(EXPRESSIONS[which].as_bytes(), &spoils);
        let began = std::time::Instant::now();
        crate::cel::try_out(&String::from_utf8_lossy(&source), &deployment());
        prop_assert!(began.elapsed().as_secs() < 10, "{:?}", String::from_utf8_lossy(&source));
    }

    #[test]
    fn words_in_any_order_are_answered(words in proptest::collection::vec(0..WORDS.len(), 0..60)) {
        let source: Vec<&str> = words.iter().map(|word| WORDS[*word]).collect();
        crate::cel::try_out(&source.join(" "), &deployment());
        crate::cel::try_out(&source.concat(), &deployment());
    }

    #[test]
    fn spoilt_field_paths_are_answered(which in 0..PATHS.len(), spoils in spoils()) {
        let path = spoilt(PATHS[which].as_bytes(), &spoils);
        let path = String::from_utf8_lossy(&path);
        crate::custom::try_out_path(&path, &deployment());
        let entries = json!([{"manager": "m", "operation": "Apply", "apiVersion": "apps/v1", "fieldsType": "FieldsV1",
            "fieldsV1": {format!("f:{path}"): {}, format!("k:{path}"): {".": {}}, format!("v:{path}"): {"f:a": {}}}}]);
        let mut live = deployment();
        live["metadata"]["managedFields"] = entries;
        go(lookup_name("deployments").unwrap(), live);
    }

    #[test]
    fn spoilt_patterns_are_answered(which in 0..PATTERNS.len(), spoils in spoils()) {
        let given = spoilt(PATTERNS[which].as_bytes(), &spoils);
        if let Ok(pattern) = crate::pattern::compile(&String::from_utf8_lossy(&given)) {
            let _ = pattern.is_match("a1_ é\u{667}\n");
        }
    }

    #[test]
    fn spoilt_protobuf_is_answered(content in proptest::collection::vec(any::<u8>(), 0..120), spoils in spoils()) {
        // An envelope around a pod whose metadata nests into itself.
        let mut seed = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12".to_vec();
        let inner = [b"\x0a\x05\x0a\x03web\x12".as_slice(), &[u8::try_from(content.len()).unwrap()], &content].concat();
        seed.push(u8::try_from(inner.len()).unwrap());
        seed.extend(inner);
        if let Ok(value) = protobuf::parse(&spoilt(&seed, &spoils)) {
            go(lookup_name("pods").unwrap(), value);
        }
    }
}
