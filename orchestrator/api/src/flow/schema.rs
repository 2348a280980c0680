//! A FlowSchema: which requests it takes, and what tells its flows apart.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::Value;

use crate::access::{Action, SERVICE_ACCOUNT_USER, User, path_matches};
use crate::walk::{list, number, text};

#[derive(Debug, Clone)]
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) level: String,
    pub(super) precedence: i64,
    by: Option<By>,
    rules: Vec<Rule>,
}

/// What tells flows of a schema apart; all are one without it.
#[derive(Debug, Clone, Copy)]
enum By {
    User,
    Namespace,
}

#[derive(Debug, Clone)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resources>,
    paths: Vec<Paths>,
}

#[derive(Debug, Clone)]
enum Subject {
    User(String),
    Group(String),
    Account { namespace: String, name: String },
}

#[derive(Debug, Clone)]
struct Resources {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster: bool,
}

#[derive(Debug, Clone)]
struct Paths {
    verbs: Vec<String>,
    paths: Vec<String>,
}

impl Schema {
    pub(super) fn read(value: &Value) -> Self {
        let spec = &value["spec"];
        let by = match text(spec, &["distinguisherMethod", "type"]) {
            "ByUser" => Some(By::User),
            "ByNamespace" => Some(By::Namespace),
            _ => None,
        };
        Self {
            name: text(value, &["metadata", "name"]).to_owned(),
            uid: text(value, &["metadata", "uid"]).to_owned(),
            level: text(spec, &["priorityLevelConfiguration", "name"]).to_owned(),
            precedence: number(spec, &["matchingPrecedence"]).unwrap_or(1000),
            by,
            rules: list(spec, &["rules"]).iter().map(Rule::read).collect(),
        }
    }

    pub(super) fn takes(&self, user: &User, action: &Action) -> bool {
        self.rules.iter().any(|rule| rule.takes(user, action))
    }

    pub(super) fn hash(&self, user: &User, action: &Action) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match self.by {
            Some(By::User) => user.name.hash(&mut hasher),
            Some(By::Namespace) => action.namespace.hash(&mut hasher),
            None => {}
        }
        hasher.finish()
    }
}

impl Rule {
    fn read(value: &Value) -> Self {
        let texts = |value: &Value, field: &str| {
            let items = list(value, &[field]).iter();
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            subjects: list(value, &["subjects"])
                .iter()
                .filter_map(Subject::read)
                .collect(),
            resources: list(value, &["resourceRules"])
                .iter()
                .map(|rule| Resources {
                    verbs: texts(rule, "verbs"),
                    groups: texts(rule, "apiGroups"),
                    resources: texts(rule, "resources"),
                    namespaces: texts(rule, "namespaces"),
                    cluster: rule["clusterScope"] == true,
                })
                .collect(),
            paths: list(value, &["nonResourceRules"])
                .iter()
                .map(|rule| Paths {
                    verbs: texts(rule, "verbs"),
                    paths: texts(rule, "nonResourceURLs"),
                })
                .collect(),
        }
    }

    fn takes(&self, user: &User, action: &Action) -> bool {
        self.subjects.iter().any(|subject| subject.is(user))
            && if action.resource.is_empty() {
                self.paths.iter().any(|rule| rule.takes(action))
            } else {
                self.resources.iter().any(|rule| rule.takes(action))
            }
    }
}

impl Subject {
    fn read(value: &Value) -> Option<Self> {
        let word = |path: &[&str]| text(value, path).to_owned();
        Some(match text(value, &["kind"]) {
            "User" => Self::User(word(&["user", "name"])),
            "Group" => Self::Group(word(&["group", "name"])),
            "ServiceAccount" => Self::Account {
                namespace: word(&["serviceAccount", "namespace"]),
                name: word(&["serviceAccount", "name"]),
            },
            _ => return None,
        })
    }

    fn is(&self, user: &User) -> bool {
        match self {
            Self::User(name) => is(name, &user.name),
            Self::Group(name) => name == "*" || user.belongs_to(name),
            Self::Account { namespace, name } => user
                .name
                .strip_prefix(SERVICE_ACCOUNT_USER)
                .and_then(|rest| rest.split_once(':'))
                .is_some_and(|account| account.0 == namespace && is(name, account.1)),
        }
    }
}

impl Resources {
    fn takes(&self, action: &Action) -> bool {
        let here = if action.namespace.is_empty() {
            self.cluster
        } else {
            any(&self.namespaces, &action.namespace)
        };
        here && any(&self.verbs, &action.verb)
            && any(&self.groups, &action.group)
            && any(&self.resources, &action.full_resource())
    }
}

impl Paths {
    fn takes(&self, action: &Action) -> bool {
        let mut paths = self.paths.iter();
        any(&self.verbs, &action.verb) && paths.any(|one| path_matches(one, &action.path))
    }
}

fn is(wanted: &str, given: &str) -> bool {
    wanted == "*" || wanted == given
}

fn any(wanted: &[String], given: &str) -> bool {
    wanted.iter().any(|one| is(one, given))
}
