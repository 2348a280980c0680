//! Who may what, with the roles that every cluster has and some of its own.

use serde_json::json;

use super::*;

struct Fixture(Vec<Value>);

impl Roles for Fixture {
    fn role(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let mut all = self.all(plural, namespace).into_iter();
        all.find(|one| text(one, &["metadata", "name"]) == name)
    }
    fn all(&self, plural: &str, namespace: &str) -> Vec<Value> {
        let mine = |one: &&Value| {
            format!("{}s", text(one, &["kind"]).to_lowercase()) == plural
                && text(one, &["metadata", "namespace"]) == namespace
        };
        self.0.iter().filter(mine).cloned().collect()
    }
}

fn cluster() -> Fixture {
    let mut all = defaults();
    let bind = |name: &str, role: &str, subject: Value| {
        json!({"kind": "RoleBinding", "metadata": {"name": name, "namespace": "shop"},
            "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [subject]})
    };
    all.push(bind(
        "editors",
        "edit",
        json!({"kind": "User", "name": "ann"}),
    ));
    all.push(bind(
        "viewers",
        "view",
        json!({"kind": "Group", "name": "staff"}),
    ));
    all.push(bind(
        "bot",
        "one-map",
        json!({"kind": "ServiceAccount", "name": "ci", "namespace": "build"}),
    ));
    all.push(json!({"kind": "ClusterRole", "metadata": {"name": "one-map"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"], "verbs": ["get"]}]}));
    all.push(json!({"kind": "ClusterRole", "metadata": {"name": "hives",
            "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"apiGroups": ["example.com"], "resources": ["hives"], "verbs": ["list"]}]}));
    Fixture(all)
}

fn user(name: &str, groups: &[&str]) -> User {
    User {
        name: name.into(),
        groups: groups.iter().map(|&group| group.into()).collect(),
        ..User::default()
    }
}

/// `verb group/resource[/subresource] namespace name`; a resource of core has no group.
fn action(words: &str) -> Action {
    let mut words = words.split(' ');
    let mut next = || words.next().unwrap_or_default().to_owned();
    let (verb, what, namespace, name) = (next(), next(), next(), next());
    if what.starts_with('/') {
        return Action {
            verb,
            path: what,
            ..Action::default()
        };
    }
    let (group, what) = what
        .split_once(':')
        .map_or(("", what.as_str()), |(group, what)| (group, what));
    let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
    Action {
        verb,
        group: group.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace,
        name,
        ..Action::default()
    }
}

#[test]
fn each_may_what_they_were_given() {
    let roles = cluster();
    let root = user("root", &["system:masters"]);
    let ann = user("ann", &[AUTHENTICATED]);
    let bob = user("bob", &["staff"]);
    let bot = User::service_account("build", "ci", "u");
    for (who, words, expect) in [
        (&root, "delete nodes", true),
        (&root, "post /anything", true),
        (&ann, "create apps:deployments shop", true),
        (&ann, "create apps:deployments other", false),
        (&ann, "patch apps:deployments/scale shop web", true),
        (&ann, "update apps:deployments/status shop web", false),
        (&ann, "create pods/exec shop web", true),
        (&ann, "get secrets shop s", true),
        (&ann, "create rbac.authorization.k8s.io:roles shop", false),
        (&ann, "get nodes", false),
        (&ann, "get /apis/apps/v1", true),
        (&ann, "get /metrics", false),
        (
            &ann,
            "create authorization.k8s.io:selfsubjectaccessreviews",
            true,
        ),
        (&bob, "list pods shop", true),
        (&bob, "get pods/log shop web", true),
        (&bob, "delete pods shop web", false),
        (&bob, "get secrets shop s", false),
        (&bob, "list example.com:hives shop", true),
        (&bob, "create example.com:hives shop", false),
        (&bot, "get configmaps shop a", true),
        (&bot, "get configmaps shop b", false),
        (&bot, "list configmaps shop", false),
    ] {
        let why = allowed(who, &action(words), &roles);
        assert_eq!(why.is_some(), expect, "{} {words}: {why:?}", who.name);
    }
    assert_eq!(
        allowed(&ann, &action("get pods shop"), &roles).unwrap(),
        "RBAC: allowed by RoleBinding \"editors/shop\" of ClusterRole \"edit\" to User \"ann\""
    );
}

#[test]
fn nobody_gives_away_more_than_they_have() {
    let roles = cluster();
    let (root, ann) = (user("root", &["system:masters"]), user("ann", &[]));
    let fine = [json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "delete"]})];
    let more = [
        json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}),
        json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["get"]}),
        json!({"nonResourceURLs": ["/metrics"], "verbs": ["get"]}),
    ];
    assert_eq!(
        escalation(&ann, &fine, "shop", &roles),
        Vec::<String>::new()
    );
    assert_eq!(escalation(&ann, &fine, "other", &roles).len(), 1);
    assert_eq!(escalation(&ann, &more, "shop", &roles).len(), 3);
    assert_eq!(escalation(&root, &more, "", &roles).len(), 0);
}

#[test]
fn the_default_roles_are_valid() {
    for value in defaults() {
        let row = crate::lookup_name(text(&value, &["kind"])).unwrap();
        let read = row
            .read(value, crate::FieldValidation::Strict, Vec::new())
            .unwrap();
        assert_eq!((row.validate)(&read.value, None), []);
    }
}
