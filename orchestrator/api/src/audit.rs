//! The audit log's policy and events (audit.k8s.io/v1): what is noted of which request, and in which form. Pure; files,
//! time and requests are the server's.
//!
//! Semantics: <https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/>.

use serde_json::{Value, json};

use crate::access::{Action, User};
use crate::walk::{list, text};

/// What the policy's apiVersion has to be.
pub const API_VERSION: &str = "audit.k8s.io/v1";

/// How much of a request is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    None,
    /// Who did what to which object, when, and how it ended.
    Metadata,
    /// The body of the request too.
    Request,
    /// And that of the answer.
    RequestResponse,
}

impl Level {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "None" => Self::None,
            "Metadata" => Self::Metadata,
            "Request" => Self::Request,
            "RequestResponse" => Self::RequestResponse,
            _ => return None,
        })
    }

    fn word(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// When an event is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before anything is done.
    RequestReceived,
    /// The head of an answer that goes on was sent: a watch, a stream.
    ResponseStarted,
    /// The request is answered.
    ResponseComplete,
}

impl Stage {
    /// As events have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
        }
    }
}

/// What to note, by rules; the first that fits a request decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    rules: Vec<(Level, Value)>,
    omitted: Value,
}

impl Policy {
    /// From a Policy object.
    ///
    /// # Errors
    /// The field that is wrong, and what it may be.
    pub fn read(value: &Value) -> Result<Self, String> {
        if text(value, &["apiVersion"]) != API_VERSION || text(value, &["kind"]) != "Policy" {
            return Err(format!(
                "apiVersion and kind: must be {API_VERSION} and Policy"
            ));
        }
        let rules = list(value, &["rules"]);
        if rules.is_empty() {
            return Err("rules: there must be at least one".into());
        }
        let read = |(index, rule): (usize, &Value)| {
            stages(rule, &format!("rules[{index}].omitStages"))?;
            let given = text(rule, &["level"]);
            let level = Level::parse(given).ok_or_else(|| {
                format!(
                    "rules[{index}].level: {given:?} is none of None, Metadata, Request, RequestResponse"
                )
            })?;
            Ok((level, rule.clone()))
        };
        stages(value, "omitStages")?;
        Ok(Self {
            rules: rules
                .iter()
                .enumerate()
                .map(read)
                .collect::<Result<_, String>>()?,
            omitted: value["omitStages"].clone(),
        })
    }

    /// What is noted of the request.
    pub fn decide(&self, action: &Action, user: Option<&User>) -> Decision<'_> {
        let found = self.rules.iter().find(|(_, rule)| fits(rule, action, user));
        let (level, rule) =
            found.map_or((Level::None, &Value::Null), |(level, rule)| (*level, rule));
        Decision {
            level,
            omitted: [&self.omitted, &rule["omitStages"]],
        }
    }
}

fn stages(value: &Value, path: &str) -> Result<(), String> {
    let known = [
        "RequestReceived",
        "ResponseStarted",
        "ResponseComplete",
        "Panic",
    ];
    let unknown = list(value, &["omitStages"])
        .iter()
        .find(|one| !known.iter().any(|known| *one == known));
    match unknown {
        Some(one) => Err(format!("{path}: {one} is none of {}", known.join(", "))),
        None => Ok(()),
    }
}

/// What a policy says of one request.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a> {
    /// How much is noted.
    pub level: Level,
    omitted: [&'a Value; 2],
}

impl Decision<'_> {
    /// Whether an event is written at this stage.
    pub fn notes(&self, stage: Stage) -> bool {
        let mut omitted = self.omitted.iter().flat_map(|all| list(all, &[]));
        self.level > Level::None && omitted.all(|one| one != stage.word())
    }
}

fn holds(rule: &Value, field: &str, wanted: &str) -> bool {
    list(rule, &[field]).iter().any(|one| one == wanted)
}

fn lists(rule: &Value, field: &str) -> bool {
    !list(rule, &[field]).is_empty()
}

fn fits(rule: &Value, action: &Action, user: Option<&User>) -> bool {
    let anonymous = User::anonymous();
    let user = user.unwrap_or(&anonymous);
    if lists(rule, "users") && !holds(rule, "users", &user.name) {
        return false;
    }
    let in_group = user.groups.iter().any(|one| holds(rule, "userGroups", one));
    if lists(rule, "userGroups") && !in_group {
        return false;
    }
    if lists(rule, "verbs") && !holds(rule, "verbs", &action.verb) && !holds(rule, "verbs", "*") {
        return false;
    }
    let is_object = !action.resource.is_empty();
    if lists(rule, "namespaces") || lists(rule, "resources") {
        return is_object && fits_object(rule, action);
    }
    if lists(rule, "nonResourceURLs") {
        let urls = list(rule, &["nonResourceURLs"]);
        let mut urls = urls.iter().filter_map(Value::as_str);
        return !is_object && urls.any(|url| fits_path(url, &action.path));
    }
    true
}

fn fits_path(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => pattern == path,
    }
}

fn fits_object(rule: &Value, action: &Action) -> bool {
    if lists(rule, "namespaces") && !holds(rule, "namespaces", &action.namespace) {
        return false;
    }
    let groups = list(rule, &["resources"]);
    groups.is_empty() || groups.iter().any(|group| fits_group(group, action))
}

fn fits_group(group: &Value, action: &Action) -> bool {
    let given = text(group, &["group"]);
    if given != "*" && given != action.group {
        return false;
    }
    if lists(group, "resourceNames") && !holds(group, "resourceNames", &action.name) {
        return false;
    }
    let resources = list(group, &["resources"]);
    let mut words = resources.iter().filter_map(Value::as_str);
    resources.is_empty()
        || words.any(|word| match word.split_once('/') {
            None if word == "*" => true,
            None => word == action.resource && action.subresource.is_empty(),
            Some((main, sub)) => {
                (main == "*" || main == action.resource)
                    && !action.subresource.is_empty()
                    && (sub == "*" || sub == action.subresource)
            }
        })
}

/// What is known of a request when it comes. Times are RFC 3339 with microseconds.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Its number, the same in all its events.
    pub id: &'a str,
    /// Path and query.
    pub uri: &'a str,
    /// Version in the path.
    pub version: &'a str,
    /// What it wants.
    pub action: &'a Action,
    /// Who sent it; none who isn't known.
    pub user: Option<&'a User>,
    /// Whom they stand in for.
    pub stands_in_for: Option<&'a User>,
    /// Where it came from.
    pub address: Option<String>,
    /// `kubectl/v1.37.1`.
    pub agent: &'a str,
    /// When.
    pub received: &'a str,
}

impl Request<'_> {
    /// The event of a stage, without bodies and answer.
    pub fn event(&self, level: Level, stage: Stage, now: &str) -> Value {
        let mut event = json!({
            "kind": "Event",
            "apiVersion": API_VERSION,
            "level": level.word(),
            "auditID": self.id,
            "stage": stage.word(),
            "requestURI": self.uri,
            "verb": self.action.verb,
            "user": self.user.unwrap_or(&User::anonymous()).to_value(),
            "requestReceivedTimestamp": self.received,
            "stageTimestamp": now,
        });
        if let Some(other) = self.stands_in_for {
            event["impersonatedUser"] = other.to_value();
        }
        if let Some(address) = &self.address {
            event["sourceIPs"] = json!([address]);
        }
        if !self.agent.is_empty() {
            event["userAgent"] = self.agent.into();
        }
        if !self.action.resource.is_empty() {
            event["objectRef"] = self.object();
        }
        event
    }

    fn object(&self) -> Value {
        let action = self.action;
        let fields = [
            ("resource", action.resource.as_str()),
            ("namespace", &action.namespace),
            ("name", &action.name),
            ("apiGroup", &action.group),
            ("apiVersion", self.version),
            ("subresource", &action.subresource),
        ];
        let given = fields.iter().filter(|(_, value)| !value.is_empty());
        given
            .map(|(field, value)| ((*field).to_owned(), Value::from(*value)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let policy = json!({"apiVersion": API_VERSION, "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [
            {"level": "None", "users": ["system:node:n1"], "verbs": ["watch"]},
            {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets", "pods/log"]}]},
            {"level": "RequestResponse", "resources": [{"group": "apps"}], "namespaces": ["shop"],
             "omitStages": ["ResponseStarted"]},
            {"level": "Request", "resources": [{"group": "", "resources": ["pods/*"], "resourceNames": ["web"]}]},
            {"level": "None", "nonResourceURLs": ["/healthz*", "/version"]},
            {"level": "Metadata", "userGroups": ["system:authenticated"]},
        ]});
        Policy::read(&policy).unwrap()
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let (node, ann) = (
            User {
                name: "system:node:n1".into(),
                ..User::default()
            },
            User {
                name: "ann".into(),
                groups: vec!["system:authenticated".into()],
                ..User::default()
            },
        );
        for (verb, group, resource, subresource, path, user, expect) in [
            ("watch", "", "pods", "", "", &node, Level::None),
            ("get", "", "pods", "", "", &node, Level::None),
            ("get", "", "secrets", "", "", &ann, Level::Metadata),
            ("get", "", "pods", "log", "", &ann, Level::Metadata),
            ("get", "", "pods", "exec", "", &ann, Level::Request),
            (
                "create",
                "apps",
                "deployments",
                "",
                "",
                &node,
                Level::RequestResponse,
            ),
            ("get", "", "", "", "/healthz/x", &ann, Level::None),
            ("get", "", "", "", "/version/x", &ann, Level::Metadata),
            ("get", "", "", "", "/version", &ann, Level::None),
        ] {
            let action = Action {
                verb: verb.into(),
                group: group.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                namespace: "shop".into(),
                name: "web".into(),
                path: path.into(),
                ..Action::default()
            };
            let level = policy().decide(&action, Some(user)).level;
            assert_eq!(
                level, expect,
                "{verb} {group} {resource} {subresource} {path}"
            );
        }
        let nobody = policy().decide(&Action::default(), None).level;
        assert_eq!(nobody, Level::None);
    }

    #[test]
    fn whoever_is_not_known_is_in_the_group_of_those() {
        let policy = json!({"apiVersion": API_VERSION, "kind": "Policy", "rules": [
            {"level": "Metadata", "userGroups": ["system:unauthenticated"]},
        ]});
        let policy = Policy::read(&policy).unwrap();
        let level = policy.decide(&Action::default(), None).level;
        assert_eq!(level, Level::Metadata);
    }

    #[test]
    fn stages_are_left_out_by_policy_and_rule() {
        let policy = policy();
        let action = Action {
            group: "apps".into(),
            resource: "deployments".into(),
            namespace: "shop".into(),
            ..Action::default()
        };
        let decision = policy.decide(&action, None);
        assert!(decision.notes(Stage::ResponseComplete));
        assert!(!decision.notes(Stage::ResponseStarted));
        assert!(!decision.notes(Stage::RequestReceived));
    }

    #[test]
    fn a_bad_policy_is_refused_by_field() {
        let with =
            |rules: Value| json!({"apiVersion": API_VERSION, "kind": "Policy", "rules": rules});
        for (policy, field) in [
            (json!({"kind": "Policy"}), "apiVersion"),
            (with(json!([])), "rules:"),
            (with(json!([{"level": "All"}])), "rules[0].level"),
            (
                with(json!([{"level": "None", "omitStages": ["End"]}])),
                "rules[0].omitStages",
            ),
        ] {
            let why = Policy::read(&policy).unwrap_err();
            assert!(why.starts_with(field), "{why}");
        }
    }
}
