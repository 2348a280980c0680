//! Admission webhooks as far as they need no network: which webhook is asked about which request, the review that it is
//! sent, and what its answer says. Pure; whoever calls them brings the configurations, the uid and the answers.
//!
//! Semantics: <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::access::User;
use crate::selector::LabelSelector;
use crate::walk::{has, list, text};
use crate::{Resource, Status};

/// Group of the webhooks' own configurations, about which no webhook is asked: one that fails could not be removed.
pub const OWN_GROUP: &str = "admissionregistration.k8s.io";

/// What a webhook is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed one.
    Update,
    /// One that is to go.
    Delete,
    /// A stream to one.
    Connect,
}

impl Operation {
    /// As rules and reviews have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }

    /// Kind of the request's options, if it has any.
    fn options_kind(self) -> Option<&'static str> {
        match self {
            Self::Create => Some("CreateOptions"),
            Self::Update => Some("UpdateOptions"),
            Self::Delete => Some("DeleteOptions"),
            Self::Connect => None,
        }
    }
}

/// A request that webhooks may be asked about.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// What it does.
    pub operation: Operation,
    /// The kind in the version in which it was sent.
    pub resource: &'static Resource,
    /// `status`, or empty.
    pub subresource: &'a str,
    /// Empty for a cluster-scoped kind.
    pub namespace: &'a str,
    /// Of the object.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a User,
    /// `fieldManager` of the request, or empty.
    pub manager: &'a str,
    /// Nothing will be stored.
    pub dry_run: bool,
}

/// The version in which `hook` is asked: the request's own if a rule names it, otherwise (`matchPolicy: Equivalent`) the
/// first of `others`, versions of the same kind, that a rule names.
pub fn asked_in(
    hook: &Value,
    attempt: &Attempt<'_>,
    others: &[&'static Resource],
) -> Option<&'static Resource> {
    let rules = list(hook, &["rules"]);
    let named = |row: &Resource| rules.iter().any(|rule| covers(rule, attempt, row));
    if named(attempt.resource) {
        return Some(attempt.resource);
    }
    let equivalent = text(hook, &["matchPolicy"]) != "Exact";
    others.iter().copied().find(|row| equivalent && named(row))
}

fn covers(rule: &Value, attempt: &Attempt<'_>, row: &Resource) -> bool {
    let any = |field: &str, wanted: &str| {
        list(rule, &[field])
            .iter()
            .any(|one| one == "*" || one == wanted)
    };
    let scope = match text(rule, &["scope"]) {
        "Namespaced" => row.namespaced,
        "Cluster" => !row.namespaced,
        _ => true,
    };
    scope
        && any("operations", attempt.operation.word())
        && any("apiGroups", row.group)
        && any("apiVersions", row.version)
        && list(rule, &["resources"])
            .iter()
            .filter_map(Value::as_str)
            .any(|one| is_of(one, row.plural, attempt.subresource))
}

/// Whether `pattern` (`pods`, `pods/status`, `pods/*`, `*`, `*/scale`, `*/*`) names the resource.
fn is_of(pattern: &str, plural: &str, subresource: &str) -> bool {
    let (main, sub) = pattern.split_once('/').unwrap_or((pattern, ""));
    (main == "*" || main == plural) && (sub == "*" || sub == subresource)
}

/// Whether the selectors of `hook` take the request: `namespace` is the namespace's object (or the Namespace itself), none
/// for what lives in none; one of the objects, before and after, has to be selected.
///
/// # Errors
/// What is wrong with a selector.
pub fn selects(
    hook: &Value,
    namespace: Option<&Value>,
    objects: &[&Value],
) -> Result<bool, String> {
    let of_namespace = LabelSelector::from_object(&hook["namespaceSelector"])?;
    if namespace.is_some_and(|namespace| !of_namespace.matches_object(namespace)) {
        return Ok(false);
    }
    let of_object = LabelSelector::from_object(&hook["objectSelector"])?;
    Ok(of_object.is_empty() || objects.iter().any(|one| of_object.matches_object(one)))
}

/// The AdmissionReview to send, in the newest version that the webhook reads. `row` is what [`asked_in`] answered; the
/// objects, after and before, are in its form.
///
/// # Errors
/// What to correct, when it reads none that is served.
pub fn review(
    hook: &Value,
    attempt: &Attempt<'_>,
    row: &Resource,
    uid: &str,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<Value, String> {
    let read = list(hook, &["admissionReviewVersions"]);
    let version = ["v1", "v1beta1"]
        .into_iter()
        .find(|known| read.iter().any(|one| one == known))
        .ok_or("admissionReviewVersions: must name v1 or v1beta1")?;
    let mut options = Value::Null;
    if let Some(kind) = attempt.operation.options_kind() {
        options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if attempt.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        if !attempt.manager.is_empty() && attempt.operation != Operation::Delete {
            options["fieldManager"] = attempt.manager.into();
        }
    }
    let mut request = json!({
        "uid": uid,
        "kind": kind_of(row, attempt.subresource),
        "resource": resource_of(row),
        "requestKind": kind_of(attempt.resource, attempt.subresource),
        "requestResource": resource_of(attempt.resource),
        "name": attempt.name,
        "operation": attempt.operation.word(),
        "userInfo": attempt.user.to_value(),
        "object": new,
        "oldObject": old,
        "dryRun": attempt.dry_run,
        "options": options,
    });
    if !attempt.namespace.is_empty() {
        request["namespace"] = attempt.namespace.into();
    }
    if !attempt.subresource.is_empty() {
        request["subResource"] = attempt.subresource.into();
        request["requestSubResource"] = attempt.subresource.into();
    }
    Ok(json!({
        "kind": "AdmissionReview",
        "apiVersion": format!("admission.k8s.io/{version}"),
        "request": request,
    }))
}

fn kind_of(row: &Resource, subresource: &str) -> Value {
    let (group, version, kind) = sent_kind(row, subresource);
    json!({"group": group, "version": version, "kind": kind})
}

/// Group, version and kind of what is sent to a subresource.
pub fn sent_kind(row: &Resource, subresource: &str) -> (&'static str, &'static str, &'static str) {
    match (row.kind, subresource) {
        (_, "scale") => ("autoscaling", "v1", "Scale"),
        ("Pod", "eviction") => ("policy", "v1", "Eviction"),
        ("Pod", "exec") => ("", "v1", "PodExecOptions"),
        ("Pod", "attach") => ("", "v1", "PodAttachOptions"),
        ("Pod", "portforward") => ("", "v1", "PodPortForwardOptions"),
        ("Pod", "proxy") => ("", "v1", "PodProxyOptions"),
        ("Node", "proxy") => ("", "v1", "NodeProxyOptions"),
        ("Service", "proxy") => ("", "v1", "ServiceProxyOptions"),
        ("ServiceAccount", "token") => ("authentication.k8s.io", "v1", "TokenRequest"),
        _ => (row.group, row.version, row.kind),
    }
}

fn resource_of(row: &Resource) -> Value {
    json!({"group": row.group, "version": row.version, "resource": row.plural})
}

/// What a webhook says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// Why not, when it refuses.
    pub refusal: Option<Status>,
    /// JSON patch (RFC 6902) of the object, as it was sent.
    pub patch: Option<Vec<u8>>,
    /// For whoever asked.
    pub warnings: Vec<String>,
    /// For the audit log, keys as the webhook gave them.
    pub annotations: Vec<(String, String)>,
}

impl Answer {
    /// Reads the answer of the webhook `name` to `review`.
    ///
    /// # Errors
    /// What makes it no answer: the call has failed then.
    pub fn read(name: &str, review: &Value, body: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| format!("the answer is no JSON document: {error}"))?;
        for field in ["apiVersion", "kind"] {
            if value[field] != review[field] {
                return Err(format!(
                    "expected {field} {}, got {}",
                    review[field], value[field]
                ));
            }
        }
        let said = &value["response"];
        let Some(allowed) = said["allowed"].as_bool() else {
            return Err("the answer has no response.allowed".into());
        };
        // Only v1 asks for it.
        let strict = review["apiVersion"] == "admission.k8s.io/v1";
        if (strict || has(said, &["uid"])) && said["uid"] != review["request"]["uid"] {
            return Err(format!(
                "expected response.uid={}, got {}",
                review["request"]["uid"], said["uid"]
            ));
        }
        let patch = match said["patch"].as_str().filter(|text| !text.is_empty()) {
            None => None,
            Some(_) if strict && said["patchType"] != "JSONPatch" => {
                return Err(format!(
                    "response.patchType must be \"JSONPatch\", got {}",
                    said["patchType"]
                ));
            }
            Some(text) => Some(
                STANDARD
                    .decode(text)
                    .map_err(|error| format!("response.patch is no base64: {error}"))?,
            ),
        };
        let texts = |field: &str| list(said, &[field]).iter().filter_map(Value::as_str);
        let annotations = said["auditAnnotations"].as_object().into_iter().flatten();
        Ok(Self {
            refusal: (!allowed).then(|| denied(name, &said["status"])),
            patch,
            warnings: texts("warnings").map(str::to_owned).collect(),
            annotations: annotations
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
        })
    }
}

/// The refusal, worded as Kubernetes words it.
fn denied(name: &str, status: &Value) -> Status {
    let code = status["code"]
        .as_u64()
        .and_then(|code| u16::try_from(code).ok())
        .filter(|code| (400..600).contains(code))
        .unwrap_or(400);
    let (message, reason) = (text(status, &["message"]), text(status, &["reason"]));
    let by = format!("admission webhook {name:?} denied the request");
    let message = match (message, reason) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    Status::failure(code, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User {
            name: "ann".into(),
            groups: vec!["system:authenticated".into()],
            ..User::default()
        }
    }

    fn attempt<'a>(user: &'a User, path: (&str, &str, &str), subresource: &'a str) -> Attempt<'a> {
        Attempt {
            operation: Operation::Create,
            resource: crate::find(path.0, path.1, path.2).unwrap(),
            subresource,
            namespace: "shop",
            name: "web",
            user,
            manager: "kubectl",
            dry_run: false,
        }
    }

    fn hook(groups: &[&str], versions: &[&str], resources: &[&str], scope: &str) -> Value {
        json!({"matchPolicy": "Equivalent", "admissionReviewVersions": ["v1beta1", "v1"], "rules": [{
            "operations": ["CREATE"], "apiGroups": groups, "apiVersions": versions,
            "resources": resources, "scope": scope}]})
    }

    #[test]
    fn rules_name_resources_and_subresources() {
        let user = user();
        for (resources, subresource, expect) in [
            (&["pods"][..], "", true),
            (&["pods"], "status", false),
            (&["pods/status"], "status", true),
            (&["pods/*"], "status", true),
            (&["pods/*"], "", true),
            (&["*"], "", true),
            (&["*"], "status", false),
            (&["*/*"], "status", true),
            (&["*/status"], "status", true),
            (&["*/status"], "", false),
            (&["services", "pods"], "", true),
            (&["services"], "", false),
        ] {
            let attempt = attempt(&user, ("", "v1", "pods"), subresource);
            let hook = hook(&[""], &["v1"], resources, "*");
            let seen = asked_in(&hook, &attempt, &[]).is_some();
            assert_eq!(seen, expect, "{resources:?} {subresource:?}");
        }
        let attempt = attempt(&user, ("", "v1", "pods"), "");
        for (hook, expect) in [
            (hook(&["apps"], &["v1"], &["pods"], "*"), false),
            (hook(&["*"], &["*"], &["*"], "Namespaced"), true),
            (hook(&["*"], &["*"], &["*"], "Cluster"), false),
        ] {
            assert_eq!(asked_in(&hook, &attempt, &[]).is_some(), expect, "{hook}");
        }
    }

    #[test]
    fn another_version_is_asked_in_when_that_is_allowed() {
        let user = user();
        let attempt = attempt(&user, ("autoscaling", "v1", "horizontalpodautoscalers"), "");
        let newer = crate::find("autoscaling", "v2", "horizontalpodautoscalers").unwrap();
        let mut hook = hook(&["autoscaling"], &["v2"], &["*"], "*");
        let row = asked_in(&hook, &attempt, &[newer]).unwrap();
        assert_eq!(row.version, "v2");
        let review = review(&hook, &attempt, row, "u", Some(&json!({})), None).unwrap();
        assert_eq!(review["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(review["request"]["kind"]["version"], "v2");
        assert_eq!(review["request"]["requestKind"]["version"], "v1");
        hook["matchPolicy"] = "Exact".into();
        assert!(asked_in(&hook, &attempt, &[newer]).is_none());
    }

    #[test]
    fn selectors_look_at_the_namespace_and_at_both_objects() {
        let labelled = |labels: Value| json!({"metadata": {"labels": labels}});
        let hook = json!({"namespaceSelector": {"matchLabels": {"guard": "on"}},
            "objectSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}});
        let (on, off) = (labelled(json!({"guard": "on"})), labelled(json!({})));
        let (web, bare) = (labelled(json!({"app": "web"})), json!({"metadata": {}}));
        assert!(selects(&hook, Some(&on), &[&web]).unwrap());
        assert!(selects(&hook, Some(&on), &[&bare, &web]).unwrap());
        assert!(selects(&hook, None, &[&web]).unwrap());
        assert!(!selects(&hook, Some(&off), &[&web]).unwrap());
        assert!(!selects(&hook, Some(&on), &[&bare]).unwrap());
    }

    fn answered(response: &Value) -> Result<Answer, String> {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u"}});
        let mut body = review.clone();
        body["response"] = response.clone();
        Answer::read("a.b.c", &review, body.to_string().as_bytes())
    }

    #[test]
    fn answers_are_read_strictly() {
        let answer = answered(
            &json!({"uid": "u", "allowed": true, "warnings": ["w"], "patchType": "JSONPatch",
            "patch": STANDARD.encode("[]"), "auditAnnotations": {"k": "v"}}),
        );
        let expect = Answer {
            patch: Some(b"[]".to_vec()),
            warnings: vec!["w".into()],
            annotations: vec![("k".into(), "v".into())],
            ..Answer::default()
        };
        assert_eq!(answer, Ok(expect));
        for broken in [
            json!({"uid": "u"}),
            json!({"uid": "other", "allowed": true}),
            json!({"uid": "u", "allowed": true, "patch": "W10="}),
            json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": "*"}),
        ] {
            assert!(answered(&broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn refusals_say_who_refuses() {
        for (status, code, message) in [
            (json!(null), 400, "denied the request without explanation"),
            (json!({"code": 200}), 400, "without explanation"),
            (
                json!({"reason": "Bad", "code": 403}),
                403,
                "denied the request: Bad",
            ),
            (
                json!({"message": "no", "code": 418}),
                418,
                "webhook \"a.b.c\" denied the request: no",
            ),
        ] {
            let answer =
                answered(&json!({"uid": "u", "allowed": false, "status": status})).unwrap();
            let refusal = answer.refusal.unwrap();
            assert_eq!(refusal.code, code);
            assert!(refusal.message.contains(message), "{}", refusal.message);
        }
    }
}
