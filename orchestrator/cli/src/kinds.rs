//! Which kinds the server has, by discovery, and how a word on the command line names one (`po`, `deploy`, `pods`,
//! `deployments.apps`). Also turns `TYPE NAME...` and `TYPE/NAME` into targets.

use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::connect::{Api, Globals, check_segment};
use crate::tab;

/// One kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Group, empty for core.
    pub(crate) group: String,
    /// Version.
    pub(crate) version: String,
    /// `Pod`.
    pub(crate) kind: String,
    /// `pods`.
    pub(crate) plural: String,
    /// `pod`.
    pub(crate) singular: String,
    /// `po`.
    pub(crate) short_names: Vec<String>,
    /// `all`.
    pub(crate) categories: Vec<String>,
    /// Lives in a Namespace.
    pub(crate) namespaced: bool,
    /// `get`, `list`, ...
    pub(crate) verbs: Vec<String>,
}

impl Kind {
    /// `v1`, `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `deployment.apps`, `pod`: what kubectl writes before a name.
    pub(crate) fn qualified(&self) -> String {
        let singular = if self.singular.is_empty() {
            self.kind.to_lowercase()
        } else {
            self.singular.clone()
        };
        if self.group.is_empty() {
            singular
        } else {
            format!("{singular}.{}", self.group)
        }
    }

    /// Path of the collection; all Namespaces when `namespace` is `None`.
    pub(crate) fn collection(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            "/api".to_owned()
        } else {
            format!("/apis/{}", self.group)
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!(
                "{root}/{}/namespaces/{namespace}/{}",
                self.version, self.plural
            ),
            None => format!("{root}/{}/{}", self.version, self.plural),
        }
    }

    /// Path of one object.
    pub(crate) fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.collection(Some(namespace)))
    }

    fn answers_to(&self, word: &str) -> bool {
        let short = self.plural == word
            || self.singular == word
            || self.kind.eq_ignore_ascii_case(word)
            || self.short_names.iter().any(|name| name == word);
        let Some((name, rest)) = word.split_once('.') else {
            return short;
        };
        let names_me =
            self.plural == name || self.singular == name || self.kind.eq_ignore_ascii_case(name);
        names_me && (rest == self.group || rest == format!("{}.{}", self.version, self.group))
    }
}

/// All kinds of a server, core first.
#[derive(Debug, Clone)]
pub(crate) struct Kinds(Vec<Kind>);

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

impl Kinds {
    /// Asks the server.
    pub(crate) async fn discover(api: &Api) -> Result<Self> {
        let mut kinds = Vec::new();
        for root in ["/api", "/apis"] {
            let answer = api.get_as(root, AGGREGATED).await?;
            if answer["kind"] == "APIGroupDiscoveryList" {
                kinds.extend(from_aggregated(&answer));
            } else {
                for version in group_versions(&answer) {
                    kinds.extend(from_resources(
                        &api.get(&format!("{root}/{version}")).await?,
                    ));
                }
            }
        }
        Ok(Self(kinds))
    }

    /// The kind that a word names.
    pub(crate) fn find(&self, word: &str) -> Result<&Kind> {
        let lower = word.to_lowercase();
        match self.0.iter().find(|kind| kind.answers_to(&lower)) {
            Some(kind) => Ok(kind),
            None => {
                bail!("the server has no kind {word:?}; `waggle api-resources` lists what it has")
            }
        }
    }

    /// The kinds that a comma list names, categories such as `all` included.
    pub(crate) fn find_list(&self, words: &str) -> Result<Vec<&Kind>> {
        let mut found: Vec<&Kind> = Vec::new();
        for word in words.split(',').filter(|word| !word.is_empty()) {
            let in_category: Vec<&Kind> = self
                .0
                .iter()
                .filter(|kind| kind.categories.iter().any(|category| category == word))
                .collect();
            let these = if in_category.is_empty() {
                vec![self.find(word)?]
            } else {
                in_category
            };
            for kind in these {
                if !found.contains(&kind) {
                    found.push(kind);
                }
            }
        }
        if found.is_empty() {
            bail!("name a kind, such as pods; `waggle api-resources` lists them");
        }
        Ok(found)
    }

    /// The kind of an object.
    pub(crate) fn of(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        self.0
            .iter()
            .find(|known| known.kind == kind && known.api_version() == api_version)
    }

    /// Kinds of that name in any version, to say what would have been right.
    pub(crate) fn named(&self, kind: &str) -> Vec<&Kind> {
        self.0
            .iter()
            .filter(|known| known.kind.eq_ignore_ascii_case(kind))
            .collect()
    }
}

/// What a command line points at: kinds, and names if any are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// The kind.
    pub(crate) kind: &'a Kind,
    /// `None` for the whole collection.
    pub(crate) name: Option<String>,
}

impl Kinds {
    /// Reads `TYPE[,TYPE]`, `TYPE NAME...` or `TYPE/NAME...`.
    pub(crate) fn targets(&self, words: &[String]) -> Result<Vec<Target<'_>>> {
        let Some((first, rest)) = words.split_first() else {
            bail!("name what to look for: TYPE, TYPE NAME or TYPE/NAME");
        };
        if first.contains('/') {
            return words.iter().map(|word| self.slashed(word)).collect();
        }
        let kinds = self.find_list(first)?;
        let mut targets = Vec::new();
        for kind in kinds {
            if rest.is_empty() {
                targets.push(Target { kind, name: None });
            }
            for name in rest {
                if name.contains('/') {
                    bail!("{name:?} mixes `TYPE NAME` with `TYPE/NAME`: use one of them");
                }
                targets.push(Target {
                    kind,
                    name: Some(check_segment("name", name)?.to_owned()),
                });
            }
        }
        Ok(targets)
    }

    fn slashed(&self, word: &str) -> Result<Target<'_>> {
        let Some((kind, name)) = word.split_once('/') else {
            bail!("{word:?} mixes `TYPE/NAME` with `TYPE NAME`: use one of them");
        };
        Ok(Target {
            kind: self.find(kind)?,
            name: Some(check_segment("name", name)?.to_owned()),
        })
    }
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn from_aggregated(answer: &Value) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for group in answer["items"].as_array().into_iter().flatten() {
        for version in group["versions"].as_array().into_iter().flatten() {
            for resource in version["resources"].as_array().into_iter().flatten() {
                kinds.push(Kind {
                    group: text(&group["metadata"]["name"]),
                    version: text(&version["version"]),
                    kind: text(&resource["responseKind"]["kind"]),
                    plural: text(&resource["resource"]),
                    singular: text(&resource["singularResource"]),
                    short_names: strings(&resource["shortNames"]),
                    categories: strings(&resource["categories"]),
                    namespaced: resource["scope"] == "Namespaced",
                    verbs: strings(&resource["verbs"]),
                });
            }
        }
    }
    kinds
}

fn group_versions(answer: &Value) -> Vec<String> {
    let mut versions = strings(&answer["versions"]);
    for group in answer["groups"].as_array().into_iter().flatten() {
        versions.extend(
            group["versions"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|version| text(&version["groupVersion"])),
        );
    }
    versions
}

fn from_resources(list: &Value) -> Vec<Kind> {
    let group_version = text(&list["groupVersion"]);
    let (group, version) = group_version
        .split_once('/')
        .unwrap_or(("", &group_version));
    let resources = list["resources"].as_array().into_iter().flatten();
    resources
        .filter(|resource| !resource["name"].as_str().unwrap_or_default().contains('/'))
        .map(|resource| Kind {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: text(&resource["kind"]),
            plural: text(&resource["name"]),
            singular: text(&resource["singularName"]),
            short_names: strings(&resource["shortNames"]),
            categories: strings(&resource["categories"]),
            namespaced: resource["namespaced"] == true,
            verbs: strings(&resource["verbs"]),
        })
        .collect()
}

/// `waggle api-resources`.
pub(crate) async fn print(globals: &Globals) -> Result<ExitCode> {
    let api = Api::connect(globals).await?;
    let kinds = Kinds::discover(&api).await?;
    let mut out = String::from("NAME\tSHORTNAMES\tAPIVERSION\tNAMESPACED\tKIND\n");
    for kind in &kinds.0 {
        out.push_str(&format!(
            "{}\t{}\t{}\t{}\t{}\n",
            kind.plural,
            kind.short_names.join(","),
            kind.api_version(),
            kind.namespaced,
            kind.kind
        ));
    }
    print!("{}", tab::align(&out, 6, 3));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn sample() -> Kinds {
        let core = json!({"kind": "APIGroupDiscoveryList", "items": [{"metadata": {}, "versions": [{"version": "v1", "resources": [
            {"resource": "pods", "singularResource": "pod", "shortNames": ["po"], "categories": ["all"], "scope": "Namespaced",
             "responseKind": {"kind": "Pod"}, "verbs": ["get", "list"]},
            {"resource": "nodes", "singularResource": "node", "shortNames": ["no"], "scope": "Cluster", "responseKind": {"kind": "Node"}}]}]}]});
        let apps = json!({"groupVersion": "apps/v1", "resources": [
            {"name": "deployments", "singularName": "deployment", "shortNames": ["deploy"], "categories": ["all"], "namespaced": true, "kind": "Deployment"},
            {"name": "deployments/status", "singularName": "", "namespaced": true, "kind": "Deployment"}]});
        let mut kinds = from_aggregated(&core);
        kinds.extend(from_resources(&apps));
        Kinds(kinds)
    }

    #[test]
    fn a_word_names_a_kind() {
        let kinds = sample();
        for (word, plural) in [
            ("po", "pods"),
            ("pod", "pods"),
            ("Pods", "pods"),
            ("Pod", "pods"),
            ("no", "nodes"),
            ("deploy", "deployments"),
            ("deployments.apps", "deployments"),
            ("deployment.v1.apps", "deployments"),
        ] {
            assert_eq!(
                kinds.find(word).map(|kind| kind.plural.as_str()).ok(),
                Some(plural),
                "{word}"
            );
        }
        for word in ["", "p", "pods.apps", "deployments/status"] {
            assert!(kinds.find(word).is_err(), "{word}");
        }
    }

    #[test]
    fn paths_follow_group_and_scope() {
        let kinds = sample();
        let path = |word: &str| kinds.find(word).unwrap().object("shop", "x");
        assert_eq!(path("po"), "/api/v1/namespaces/shop/pods/x");
        assert_eq!(path("no"), "/api/v1/nodes/x");
        assert_eq!(
            path("deploy"),
            "/apis/apps/v1/namespaces/shop/deployments/x"
        );
        assert_eq!(
            kinds.find("deploy").unwrap().collection(None),
            "/apis/apps/v1/deployments"
        );
        assert_eq!(kinds.find("deploy").unwrap().qualified(), "deployment.apps");
    }

    #[test]
    fn targets_come_in_three_spellings() {
        let kinds = sample();
        let read = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            kinds.targets(&words).map(|targets| {
                targets
                    .iter()
                    .map(|target| {
                        format!(
                            "{}/{}",
                            target.kind.plural,
                            target.name.as_deref().unwrap_or("*")
                        )
                    })
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(read(&["po,no"]).unwrap(), ["pods/*", "nodes/*"]);
        assert_eq!(read(&["all"]).unwrap(), ["pods/*", "deployments/*"]);
        assert_eq!(read(&["po", "a", "b"]).unwrap(), ["pods/a", "pods/b"]);
        assert_eq!(
            read(&["po/a", "deploy/b"]).unwrap(),
            ["pods/a", "deployments/b"]
        );
        assert!(
            read(&[]).is_err() && read(&["po/a", "b"]).is_err() && read(&["po", "no/b"]).is_err()
        );
        assert!(read(&["po/../nodes"]).is_err());
    }
}
