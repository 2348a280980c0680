//! `waggle apply`: reads every manifest, checks all of it, and only then creates or patches. The merge is in `merge`, the
//! reading in `documents`.

pub(crate) mod documents;
mod merge;

pub(crate) use merge::merge_patch as difference;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

use crate::connect::{Api, Globals, Refusal, refused_with};
use crate::kinds::{Kind, Kinds};
use documents::Document;

/// Arguments of `apply`.
#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    /// Manifest file, folder, or - for standard input; may be given more than once
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Look into subfolders too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// A document whose kind the server knows.
#[derive(Debug)]
pub(crate) struct Item<'a> {
    /// Where it stands.
    pub(crate) document: &'a Document,
    /// Its kind.
    pub(crate) kind: &'a Kind,
    /// Its Namespace; empty for a cluster-scoped kind.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

impl Item<'_> {
    pub(crate) fn path(&self) -> String {
        self.kind.object(&self.namespace, &self.name)
    }

    /// `deployment.apps/user-center`.
    pub(crate) fn title(&self) -> String {
        format!("{}/{}", self.kind.qualified(), self.name)
    }
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Created,
    Configured,
    Unchanged,
}

/// Runs it.
pub(crate) async fn run(args: ApplyArgs, globals: &Globals) -> Result<ExitCode> {
    let documents =
        documents::collect(&args.files, args.recursive).map_err(|faults| refuse(&faults))?;
    let api = Api::connect(globals).await?;
    let kinds = Kinds::discover(&api).await?;
    let items = identify(&documents, &kinds, &api.namespace).map_err(|faults| refuse(&faults))?;
    let faults = check_all(&api, &items).await?;
    if !faults.is_empty() {
        return Err(refuse(&faults));
    }
    for item in &items {
        let outcome = if args.dry_run {
            plan_one(&api, item).await?
        } else {
            apply_one(&api, item).await?
        };
        let word = match outcome {
            Outcome::Created => "created",
            Outcome::Configured => "configured",
            Outcome::Unchanged => "unchanged",
        };
        let note = if args.dry_run { " (dry run)" } else { "" };
        crate::get::put(&format!("{} {word}{note}\n", item.title()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn refuse(faults: &[String]) -> anyhow::Error {
    let count = if faults.len() == 1 {
        "1 fault".to_owned()
    } else {
        format!("{} faults", faults.len())
    };
    anyhow!(
        "nothing was changed: {count} found\n  {}",
        faults.join("\n  ")
    )
}

/// Finds each document's kind and place; every fault is listed.
pub(crate) fn identify<'a>(
    documents: &'a [Document],
    kinds: &'a Kinds,
    default_namespace: &str,
) -> Result<Vec<Item<'a>>, Vec<String>> {
    let (mut items, mut faults) = (Vec::<Item<'_>>::new(), Vec::new());
    let mut places: HashMap<String, &Document> = HashMap::new();
    for document in documents {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (api_version, name) = (
            text(&document.object["apiVersion"]),
            text(&document.object["kind"]),
        );
        let Some(kind) = kinds.of(&api_version, &name) else {
            let known: Vec<String> = kinds
                .named(&name)
                .iter()
                .map(|kind| kind.api_version())
                .collect();
            let hint = if known.is_empty() {
                String::new()
            } else {
                format!(": write apiVersion: {}", known.join(" or "))
            };
            faults.push(format!(
                "{}: the server has no {name} in {api_version}{hint}",
                document.place()
            ));
            continue;
        };
        let namespace = match document.object["metadata"]["namespace"]
            .as_str()
            .filter(|name| !name.is_empty())
        {
            _ if !kind.namespaced => String::new(),
            Some(namespace) => namespace.to_owned(),
            None => default_namespace.to_owned(),
        };
        let item = Item {
            document,
            kind,
            namespace,
            name: text(&document.object["metadata"]["name"]),
        };
        for (what, segment) in [("name", &item.name), ("namespace", &item.namespace)] {
            if !segment.is_empty()
                && let Err(error) = crate::connect::check_segment(what, segment)
            {
                faults.push(format!("{}: {error}", document.place()));
            }
        }
        if let Some(twin) = places.insert(item.path(), document) {
            faults.push(format!(
                "{}: the same object is in {} already",
                document.place(),
                twin.place()
            ));
        }
        items.push(item);
    }
    if faults.is_empty() {
        Ok(items)
    } else {
        Err(faults)
    }
}

/// Asks the server about every object without changing anything. What is to live in a Namespace that this apply creates
/// can't be asked about yet: the server's own rules are applied here.
async fn check_all(api: &Api, items: &[Item<'_>]) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for item in items {
        let Err(error) = attempt(api, item, true).await else {
            continue;
        };
        let Some(refusal) = error.downcast_ref::<Refusal>() else {
            return Err(error);
        };
        let refusal = if awaits_namespace(item, items, refusal) {
            let Err(refusal) = check_here(item) else {
                continue;
            };
            refusal
        } else {
            refusal.message.clone()
        };
        faults.push(format!(
            "{}: {}",
            item.document.place(),
            refusal.replace('\n', "\n  ")
        ));
    }
    Ok(faults)
}

/// Decodes, defaults and validates an object as the server will.
fn check_here(item: &Item<'_>) -> Result<(), String> {
    let Some(resource) = waggle_api::by_kind(&item.kind.api_version(), &item.kind.kind) else {
        return Ok(());
    };
    let context = waggle_api::CreateContext {
        now: jiff::Timestamp::now(),
        uid: "00000000-0000-0000-0000-000000000000",
        name_suffix: "",
        namespace: &item.namespace,
    };
    let object = item.document.object.clone();
    let read = resource
        .read(object, waggle_api::FieldValidation::Strict, Vec::new())
        .map_err(|status| status.message)?;
    waggle_api::prepare_create(resource, read.value, &context)
        .map(drop)
        .map_err(|status| status.message)
}

/// Refused only because its Namespace is created by the same apply.
fn awaits_namespace(item: &Item<'_>, items: &[Item<'_>], refusal: &Refusal) -> bool {
    refusal.code == 404
        && items
            .iter()
            .any(|other| other.kind.kind == "Namespace" && other.name == item.namespace)
}

async fn plan_one(api: &Api, item: &Item<'_>) -> Result<Outcome> {
    match attempt(api, item, true).await {
        Err(error) if refused_with(&error, 404) => Ok(Outcome::Created),
        other => other,
    }
}

/// Conflicts with another writer are tried again on the newer object.
async fn apply_one(api: &Api, item: &Item<'_>) -> Result<Outcome> {
    let mut tries = 5;
    loop {
        match attempt(api, item, false).await {
            Err(error) if refused_with(&error, 409) && tries > 1 => tries -= 1,
            other => {
                return other.map_err(|error| {
                    error.context(format!("{}: not applied", item.document.place()))
                });
            }
        }
    }
}

async fn attempt(api: &Api, item: &Item<'_>, dry_run: bool) -> Result<Outcome> {
    let query = if dry_run {
        "?dryRun=All&fieldValidation=Strict"
    } else {
        "?fieldValidation=Strict"
    };
    let wanted = with_last_applied(item)?;
    let Some(current) = api.find(&item.path()).await? else {
        api.create(
            &format!("{}{query}", item.kind.collection(Some(&item.namespace))),
            &wanted,
        )
        .await?;
        return Ok(Outcome::Created);
    };
    let patch = patch_for(&wanted, &current)?;
    let Some(patch) = patch else {
        return Ok(Outcome::Unchanged);
    };
    let changed = api
        .merge_patch(&format!("{}{query}", item.path()), &patch)
        .await?;
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    Ok(if !dry_run && version(&changed) == version(&current) {
        Outcome::Unchanged
    } else {
        Outcome::Configured
    })
}

/// The manifest's object with its Namespace and the annotation that remembers it.
fn with_last_applied(item: &Item<'_>) -> Result<Value> {
    let mut object = item.document.object.clone();
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    if item.kind.namespaced {
        object["metadata"]["namespace"] = item.namespace.as_str().into();
    }
    if object["metadata"]["annotations"].is_null() {
        object["metadata"]["annotations"] = json!({});
    }
    let Some(annotations) = object["metadata"]["annotations"].as_object_mut() else {
        bail!(
            "{}: metadata.annotations is no map of texts",
            item.document.place()
        );
    };
    annotations.remove(merge::LAST_APPLIED);
    let text = serde_json::to_string(&object)? + "\n";
    object["metadata"]["annotations"][merge::LAST_APPLIED] = text.into();
    Ok(object)
}

/// The patch that brings `current` to what is wanted, guarded by its resourceVersion; `None` when nothing differs.
fn patch_for(wanted: &Value, current: &Value) -> Result<Option<Value>> {
    let original = match current["metadata"]["annotations"][merge::LAST_APPLIED].as_str() {
        Some(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        None => Value::Null,
    };
    let merged = merge::three_way(&original, wanted, current);
    let mut patch = merge::merge_patch(current, &merged);
    if patch.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok(None);
    }
    patch["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
    Ok(Some(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items_of(text: &str) -> Result<Vec<String>, Vec<String>> {
        let (documents, faults) = documents::parse("a.yaml", text);
        assert_eq!(faults, Vec::<String>::new());
        identify(&documents, &crate::kinds::tests::sample(), "shop").map(|items| {
            items
                .iter()
                .map(|item| format!("{} {}", item.title(), item.path()))
                .collect()
        })
    }

    #[test]
    fn every_document_finds_its_kind_and_place() {
        let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n, namespace: odd}\n";
        assert_eq!(
            items_of(text).unwrap(),
            [
                "deployment.apps/web /apis/apps/v1/namespaces/shop/deployments/web",
                "node/n /api/v1/nodes/n"
            ]
        );
    }

    #[test]
    fn a_wrong_version_says_which_is_right_and_twins_are_refused() {
        let text = "apiVersion: v1\nkind: Deployment\nmetadata: {name: web}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\n";
        let faults = items_of(text).unwrap_err();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(
            faults[0].contains("write apiVersion: apps/v1"),
            "{faults:?}"
        );
        assert!(faults[1].contains("already"), "{faults:?}");
    }

    #[test]
    fn what_the_server_cannot_be_asked_yet_is_checked_here() {
        let check = |spec: &str| {
            let text = format!(
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec: {spec}\n"
            );
            let (documents, _) = documents::parse("a.yaml", &text);
            check_here(&identify(&documents, &crate::kinds::tests::sample(), "new").unwrap()[0])
        };
        let template =
            "template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}";
        assert_eq!(
            check(&format!(
                "{{selector: {{matchLabels: {{a: b}}}}, {template}}}"
            )),
            Ok(())
        );
        let fault = check(&format!(
            "{{replicas: -1, selector: {{matchLabels: {{a: b}}}}, {template}}}"
        ))
        .unwrap_err();
        assert!(fault.contains("spec.replicas"), "{fault}");
        let fault = check(&format!(
            "{{replicaz: 1, selector: {{matchLabels: {{a: b}}}}, {template}}}"
        ))
        .unwrap_err();
        assert!(fault.contains("spec.replicaz"), "{fault}");
    }

    #[test]
    fn applying_the_same_again_makes_no_patch() {
        let (documents, _) = documents::parse(
            "a.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: a, image: i}]}\n",
        );
        let kinds = crate::kinds::tests::sample();
        let items = identify(&documents, &kinds, "shop").unwrap();
        let wanted = with_last_applied(&items[0]).unwrap();
        let mut current = wanted.clone();
        current["metadata"]["resourceVersion"] = "7".into();
        current["metadata"]["uid"] = "u".into();
        current["spec"]["containers"][0]["imagePullPolicy"] = "Always".into();
        assert_eq!(patch_for(&wanted, &current).unwrap(), None);
        let mut changed = wanted.clone();
        changed["spec"]["containers"][0]["image"] = "i:2".into();
        let patch = patch_for(&changed, &current).unwrap().unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        assert_eq!(patch["spec"]["containers"][0]["imagePullPolicy"], "Always");
    }
}
