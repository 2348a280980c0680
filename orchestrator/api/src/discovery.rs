//! Discovery documents: which groups, versions and resources are served, in the plain and the aggregated form, and
//! the answer of `/version`.

use std::cmp::Reverse;

use serde::Serialize;
use serde_json::{Value, json};

use crate::{Kinds, Resource, component};

/// What every stored kind can do.
pub const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// A resource or subresource that the generic path doesn't serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Special {
    /// Group of the path, empty for core.
    pub group: &'static str,
    /// Version of the path.
    pub version: &'static str,
    /// `pods/log`, or `nodes` for a resource of its own.
    pub path: &'static str,
    /// Kind of the answer, with its own group and version.
    pub kind: (&'static str, &'static str, &'static str),
    /// Whether it lives in a Namespace.
    pub namespaced: bool,
    /// What can be done.
    pub verbs: &'static [&'static str],
}

const fn core(
    path: &'static str,
    kind: (&'static str, &'static str, &'static str),
    verbs: &'static [&'static str],
) -> Special {
    Special {
        group: "",
        version: "v1",
        path,
        kind,
        namespaced: true,
        verbs,
    }
}

/// A question that is answered and forgotten.
const fn review(
    group: &'static str,
    path: &'static str,
    kind: &'static str,
    namespaced: bool,
) -> Special {
    Special {
        group,
        version: "v1",
        path,
        kind: (group, "v1", kind),
        namespaced,
        verbs: &["create"],
    }
}

/// What may be asked of what is behind a proxy.
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

/// What the server answers by its own code.
pub static SPECIALS: &[Special] = &[
    Special {
        namespaced: false,
        ..core("namespaces/finalize", ("", "v1", "Namespace"), &["update"])
    },
    core(
        "serviceaccounts/token",
        ("authentication.k8s.io", "v1", "TokenRequest"),
        &["create"],
    ),
    review(
        "authentication.k8s.io",
        "selfsubjectreviews",
        "SelfSubjectReview",
        false,
    ),
    review(
        "authentication.k8s.io",
        "tokenreviews",
        "TokenReview",
        false,
    ),
    review(
        "authorization.k8s.io",
        "localsubjectaccessreviews",
        "LocalSubjectAccessReview",
        true,
    ),
    review(
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        false,
    ),
    review(
        "authorization.k8s.io",
        "selfsubjectrulesreviews",
        "SelfSubjectRulesReview",
        false,
    ),
    review(
        "authorization.k8s.io",
        "subjectaccessreviews",
        "SubjectAccessReview",
        false,
    ),
    core("bindings", ("", "v1", "Binding"), &["create"]),
    core("pods/binding", ("", "v1", "Binding"), &["create"]),
    core("pods/eviction", ("policy", "v1", "Eviction"), &["create"]),
    core(
        "pods/exec",
        ("", "v1", "PodExecOptions"),
        &["create", "get"],
    ),
    core(
        "pods/attach",
        ("", "v1", "PodAttachOptions"),
        &["create", "get"],
    ),
    core("pods/log", ("", "v1", "Pod"), &["get"]),
    core(
        "pods/portforward",
        ("", "v1", "PodPortForwardOptions"),
        &["create", "get"],
    ),
    core("pods/proxy", ("", "v1", "PodProxyOptions"), PROXY),
    core("services/proxy", ("", "v1", "ServiceProxyOptions"), PROXY),
    Special {
        namespaced: false,
        ..core("nodes/proxy", ("", "v1", "NodeProxyOptions"), &["get"])
    },
    Special {
        group: "metrics.k8s.io",
        version: "v1beta1",
        path: "nodes",
        kind: ("metrics.k8s.io", "v1beta1", "NodeMetrics"),
        namespaced: false,
        verbs: &["get", "list"],
    },
    Special {
        group: "metrics.k8s.io",
        version: "v1beta1",
        path: "pods",
        kind: ("metrics.k8s.io", "v1beta1", "PodMetrics"),
        namespaced: true,
        verbs: &["get", "list"],
    },
];

/// Answer of `/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Kubernetes API major version.
    pub major: String,
    /// Kubernetes API minor version.
    pub minor: String,
    /// Both, and Waggle's own version after `+waggle.`.
    pub git_version: String,
    /// Revision of the sources, empty when unknown.
    pub git_commit: String,
    /// `clean` or `dirty`, empty when unknown.
    pub git_tree_state: String,
    /// When it was built, RFC 3339, empty when unknown.
    pub build_date: String,
    /// Go has no part in it; the compiler's name stands here.
    pub go_version: String,
    /// Compiler.
    pub compiler: String,
    /// `linux/amd64`.
    pub platform: String,
}

impl Version {
    /// The Kubernetes version whose API is served, for Waggle `version` on `platform` (`linux/amd64`).
    pub fn new(version: &str, platform: &str) -> Self {
        Self {
            major: "1".into(),
            minor: "37".into(),
            git_version: format!("v1.37.0+waggle.{version}"),
            git_commit: String::new(),
            git_tree_state: String::new(),
            build_date: String::new(),
            go_version: "none".into(),
            compiler: "rustc".into(),
            platform: platform.into(),
        }
    }
}

/// Every (group, version) but core, in order; of a group, the version that clients should prefer first.
fn groups_served(kinds: &Kinds) -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<_> = kinds.served().map(|row| (row.group, row.version)).collect();
    all.extend(
        SPECIALS
            .iter()
            .map(|special| (special.group, special.version)),
    );
    all.retain(|(group, _)| !group.is_empty());
    all.sort_unstable_by_key(|&(group, version)| (group, Reverse(maturity(version)), version));
    all.dedup();
    all
}

/// By what versions are preferred: stable before beta before alpha, the higher number first, anything else last.
fn maturity(version: &str) -> (u8, u32, u32) {
    let parsed = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.len()
            - rest
                .trim_start_matches(|sign: char| sign.is_ascii_digit())
                .len();
        let (major, rest) = rest.split_at(digits);
        let major = major.parse().ok()?;
        if rest.is_empty() {
            return Some((3, major, 0));
        }
        let beta = rest.strip_prefix("beta").map(|minor| (2, minor));
        let (rank, minor) = beta.or_else(|| Some((1, rest.strip_prefix("alpha")?)))?;
        Some((rank, major, minor.parse().ok()?))
    };
    parsed().unwrap_or_default()
}

/// Every group version, `v1` first: what `/openapi/v3` lists.
pub fn group_versions(kinds: &Kinds) -> Vec<(&'static str, &'static str)> {
    let mut all = vec![("", "v1")];
    all.extend(groups_served(kinds));
    all
}

/// The groups, each with its versions in order.
fn by_group(kinds: &Kinds) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for (group, version) in groups_served(kinds) {
        match all.last_mut().filter(|(last, _)| *last == group) {
            Some((_, versions)) => versions.push(version),
            None => all.push((group, vec![version])),
        }
    }
    all
}

/// Answer of `/api`. `server_address` is `host:port` as clients reach it.
pub fn versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": server_address }],
    })
}

/// Answer of `/apis`.
pub fn groups(kinds: &Kinds) -> Value {
    let groups: Vec<Value> = by_group(kinds)
        .iter()
        .map(|(group, versions)| group_entry(group, versions))
        .collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// Answer of `/apis/<group>`.
pub fn group(kinds: &Kinds, name: &str) -> Option<Value> {
    let groups = by_group(kinds);
    let (group, versions) = groups.iter().find(|(group, _)| *group == name)?;
    let mut entry = group_entry(group, versions);
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Some(entry)
}

fn group_entry(group: &str, versions: &[&str]) -> Value {
    let one = |version: &&str| json!({ "groupVersion": format!("{group}/{version}"), "version": version });
    let versions: Vec<Value> = versions.iter().map(one).collect();
    json!({ "name": group, "preferredVersion": versions.first(), "versions": versions })
}

/// Answer of `/api/v1` and `/apis/<group>/<version>`; the group is empty for core.
pub fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    group_versions(kinds)
        .into_iter()
        .find(|served| *served == (group, version))?;
    let mut list = Vec::new();
    for row in rows(kinds, group, version) {
        list.push(plain_row(row));
        list.extend(
            subresources(row)
                .iter()
                .map(|one| plain_subresource(row, one)),
        );
    }
    list.extend(whole_specials(group, version).map(plain_special));
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": list,
    }))
}

fn rows<'a>(
    kinds: &'a Kinds,
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'static Resource> + 'a {
    component::readable(kinds).filter(move |row| row.group == group && row.version == version)
}

/// Specials that are no subresource of a row.
fn whole_specials<'a>(
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'static Special> + 'a {
    SPECIALS
        .iter()
        .filter(move |one| one.group == group && one.version == version && !one.path.contains('/'))
}

/// A subresource: name, kind of its answer, verbs.
struct Subresource {
    name: &'static str,
    kind: (&'static str, &'static str, &'static str),
    verbs: &'static [&'static str],
}

fn subresources(row: &Resource) -> Vec<Subresource> {
    let special = SPECIALS
        .iter()
        .filter(|one| one.group == row.group && one.version == row.version)
        .filter_map(|one| {
            let (owner, name) = one.path.split_once('/')?;
            (owner == row.plural).then_some(Subresource {
                name,
                kind: one.kind,
                verbs: one.verbs,
            })
        });
    let generic = row.subresources.iter().map(|&name| {
        let kind = if name == "scale" {
            ("autoscaling", "v1", "Scale")
        } else {
            (row.group, row.version, row.kind)
        };
        Subresource {
            name,
            kind,
            verbs: &["get", "patch", "update"],
        }
    });
    let mut all: Vec<_> = special.chain(generic).collect();
    all.sort_unstable_by_key(|one| one.name);
    all
}

fn plain_row(row: &Resource) -> Value {
    let mut entry = json!({
        "name": row.plural,
        "singularName": row.singular,
        "namespaced": row.namespaced,
        "kind": row.kind,
        "verbs": component::verbs(row),
    });
    if !row.short_names.is_empty() {
        entry["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        entry["categories"] = json!(row.categories);
    }
    entry
}

fn plain_subresource(row: &Resource, one: &Subresource) -> Value {
    let (group, version, kind) = one.kind;
    let mut entry = json!({
        "name": format!("{}/{}", row.plural, one.name),
        "singularName": "",
        "namespaced": row.namespaced,
        "kind": kind,
        "verbs": one.verbs,
    });
    if group != row.group {
        entry["group"] = group.into();
        entry["version"] = version.into();
    }
    entry
}

fn plain_special(one: &Special) -> Value {
    json!({
        "name": one.path,
        "singularName": "",
        "namespaced": one.namespaced,
        "kind": one.kind.2,
        "verbs": one.verbs,
    })
}

/// The form of the aggregated documents that the client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregated {
    /// `apidiscovery.k8s.io/v2`.
    V2,
    /// `apidiscovery.k8s.io/v2beta1`, the same shape.
    V2Beta1,
}

/// Aggregated answer of `/api`.
pub fn aggregated_core(kinds: &Kinds, form: Aggregated) -> Value {
    aggregated(form, vec![aggregated_group(kinds, "", &["v1"])])
}

/// Aggregated answer of `/apis`.
pub fn aggregated_groups(kinds: &Kinds, form: Aggregated) -> Value {
    let groups = by_group(kinds);
    let groups = groups.iter();
    aggregated(
        form,
        groups
            .map(|(group, versions)| aggregated_group(kinds, group, versions))
            .collect(),
    )
}

/// Content-Type of the aggregated answers.
pub fn aggregated_media_type(form: Aggregated) -> &'static str {
    match form {
        Aggregated::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        Aggregated::V2Beta1 => {
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
        }
    }
}

fn aggregated(form: Aggregated, items: Vec<Value>) -> Value {
    let version = match form {
        Aggregated::V2 => "apidiscovery.k8s.io/v2",
        Aggregated::V2Beta1 => "apidiscovery.k8s.io/v2beta1",
    };
    json!({ "kind": "APIGroupDiscoveryList", "apiVersion": version, "metadata": {}, "items": items })
}

fn aggregated_group(kinds: &Kinds, group: &str, versions: &[&str]) -> Value {
    let one = |version: &&str| {
        let mut resources: Vec<Value> = rows(kinds, group, version).map(aggregated_row).collect();
        resources.extend(whole_specials(group, version).map(|one| {
            json!({
                "resource": one.path,
                "responseKind": response_kind(one.kind),
                "scope": scope(one.namespaced),
                "singularResource": "",
                "verbs": one.verbs,
            })
        }));
        json!({ "version": version, "resources": resources, "freshness": "Current" })
    };
    let mut metadata = json!({ "creationTimestamp": null });
    if !group.is_empty() {
        metadata["name"] = group.into();
    }
    json!({ "metadata": metadata, "versions": versions.iter().map(one).collect::<Vec<_>>() })
}

fn aggregated_row(row: &'static Resource) -> Value {
    let mut entry = json!({
        "resource": row.plural,
        "responseKind": response_kind((row.group, row.version, row.kind)),
        "scope": scope(row.namespaced),
        "singularResource": row.singular,
        "verbs": component::verbs(row),
    });
    for (key, names) in [
        ("shortNames", row.short_names),
        ("categories", row.categories),
    ] {
        if !names.is_empty() {
            entry[key] = json!(names);
        }
    }
    let subresources: Vec<Value> = subresources(row)
        .iter()
        .map(|one| json!({ "subresource": one.name, "responseKind": response_kind(one.kind), "verbs": one.verbs }))
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}

fn response_kind((group, version, kind): (&str, &str, &str)) -> Value {
    json!({ "group": group, "version": version, "kind": kind })
}

fn scope(namespaced: bool) -> &'static str {
    if namespaced { "Namespaced" } else { "Cluster" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroupList, APIResourceList};

    #[test]
    fn plain_documents_name_every_resource_once() {
        let kinds = Kinds::default();
        let groups: APIGroupList = serde_json::from_value(groups(&kinds)).unwrap();
        let names: Vec<_> = groups
            .groups
            .iter()
            .map(|group| group.name.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "admissionregistration.k8s.io",
                "apiextensions.k8s.io",
                "apps",
                "authentication.k8s.io",
                "authorization.k8s.io",
                "autoscaling",
                "batch",
                "certificates.k8s.io",
                "coordination.k8s.io",
                "discovery.k8s.io",
                "events.k8s.io",
                "flowcontrol.apiserver.k8s.io",
                "metrics.k8s.io",
                "networking.k8s.io",
                "node.k8s.io",
                "policy",
                "rbac.authorization.k8s.io",
                "scheduling.k8s.io",
                "storage.k8s.io",
                "waggle.dev",
            ]
        );
        let core: APIResourceList =
            serde_json::from_value(resources(&kinds, "", "v1").unwrap()).unwrap();
        let names: Vec<_> = core.resources.iter().map(|one| one.name.as_str()).collect();
        for expect in [
            "pods",
            "pods/log",
            "pods/exec",
            "pods/binding",
            "pods/status",
            "nodes/status",
            "namespaces/finalize",
        ] {
            assert_eq!(
                names.iter().filter(|name| **name == expect).count(),
                1,
                "{expect} in {names:?}"
            );
        }
        assert!(!names.contains(&"nodes/scale"));
        let apps = resources(&kinds, "apps", "v1").unwrap();
        let scale = apps["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"] == "deployments/scale")
            .unwrap();
        assert_eq!(
            (&scale["group"], &scale["kind"]),
            (&json!("autoscaling"), &json!("Scale"))
        );
        assert!(resources(&kinds, "apps", "v2").is_none());
        assert_eq!(
            group(&kinds, "apps").unwrap()["preferredVersion"]["groupVersion"],
            "apps/v1"
        );
    }

    #[test]
    fn aggregated_documents_agree_with_the_plain_ones() {
        let kinds = Kinds::default();
        for document in [
            aggregated_core(&kinds, Aggregated::V2),
            aggregated_groups(&kinds, Aggregated::V2),
        ] {
            for item in document["items"].as_array().unwrap() {
                let group = item["metadata"]["name"].as_str().unwrap_or_default();
                for version in item["versions"].as_array().unwrap() {
                    let plain =
                        resources(&kinds, group, version["version"].as_str().unwrap()).unwrap();
                    let plain: Vec<_> = plain["resources"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|one| one["name"].clone())
                        .collect();
                    let mut names = Vec::new();
                    for one in version["resources"].as_array().unwrap() {
                        names.push(one["resource"].clone());
                        for sub in one["subresources"].as_array().into_iter().flatten() {
                            let (one, sub) = (
                                one["resource"].as_str().unwrap(),
                                sub["subresource"].as_str().unwrap(),
                            );
                            names.push(format!("{one}/{sub}").into());
                        }
                    }
                    assert_eq!(names, plain);
                }
            }
        }
    }
}
