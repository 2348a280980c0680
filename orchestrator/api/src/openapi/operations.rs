//! What can be done at which path, as both OpenAPI versions tell it.

use crate::patch::{CUSTOM_MEDIA_TYPES, MEDIA_TYPES};
use crate::{Resource, component};

use super::schema::{DELETE_OPTIONS, SCALE, STATUS, definition_of, list_of};

/// One operation at one path.
pub(super) struct Operation {
    pub(super) path: String,
    pub(super) method: &'static str,
    verb: &'static str,
    pub(super) action: &'static str,
    pub(super) id: String,
    pub(super) description: String,
    pub(super) kind: (&'static str, &'static str, &'static str),
    /// Name and type of each query parameter.
    pub(super) query: &'static [(&'static str, &'static str)],
    pub(super) consumes: &'static [&'static str],
    pub(super) input: Option<String>,
    pub(super) output: String,
}

const JSON: &[&str] = &["application/json"];
const READ: &[(&str, &str)] = &[("pretty", "string")];
const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("pretty", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
    ("pretty", "string"),
];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("pretty", "string"),
    ("propagationPolicy", "string"),
];

/// Every operation of these rows.
pub(super) fn operations(rows: impl Iterator<Item = &'static Resource>) -> Vec<Operation> {
    rows.flat_map(of_row).collect()
}

struct Paths {
    everywhere: String,
    collection: String,
    item: String,
}

fn paths(row: &Resource) -> Paths {
    let base = if row.group.is_empty() {
        format!("/api/{}", row.version)
    } else {
        format!("/apis/{}/{}", row.group, row.version)
    };
    let everywhere = format!("{base}/{}", row.plural);
    let collection = if row.namespaced {
        format!("{base}/namespaces/{{namespace}}/{}", row.plural)
    } else {
        everywhere.clone()
    };
    Paths {
        item: format!("{collection}/{{name}}"),
        everywhere,
        collection,
    }
}

fn of_row(row: &'static Resource) -> Vec<Operation> {
    let Some(definition) = definition_of(row) else {
        return Vec::new();
    };
    let Paths {
        everywhere,
        collection,
        item,
    } = paths(row);
    let list = list_of(definition);
    let mut all = vec![
        Draft {
            verb: "list",
            query: LIST,
            input: None,
            ..Draft::new(row, &collection, definition)
        }
        .with_output(&list),
        Draft {
            verb: "create",
            query: WRITE,
            ..Draft::new(row, &collection, definition)
        }
        .finish(),
        Draft {
            verb: "deletecollection",
            query: LIST,
            input: Some(DELETE_OPTIONS),
            ..Draft::new(row, &collection, definition)
        }
        .with_output(STATUS),
    ];
    if row.namespaced {
        let draft = Draft {
            verb: "list",
            query: LIST,
            input: None,
            suffix: "ForAllNamespaces",
            ..Draft::new(row, &everywhere, definition)
        };
        all.push(draft.with_output(&list));
    }
    all.extend(reads_and_writes(
        row,
        &item,
        "",
        definition,
        (row.group, row.version, row.kind),
    ));
    all.push(
        Draft {
            verb: "delete",
            query: DELETE,
            input: Some(DELETE_OPTIONS),
            ..Draft::new(row, &item, definition)
        }
        .with_output(STATUS),
    );
    for &sub in row.subresources {
        let path = format!("{item}/{sub}");
        if sub == "scale" {
            all.extend(reads_and_writes(
                row,
                &path,
                "Scale",
                SCALE,
                ("autoscaling", "v1", "Scale"),
            ));
        } else {
            all.extend(reads_and_writes(
                row,
                &path,
                match sub {
                    "approval" => "Approval",
                    "ephemeralcontainers" => "Ephemeralcontainers",
                    "resize" => "Resize",
                    _ => "Status",
                },
                definition,
                (row.group, row.version, row.kind),
            ));
        }
    }
    let verbs = component::verbs(row);
    all.retain(|one| verbs.contains(&one.verb));
    all
}

fn reads_and_writes(
    row: &'static Resource,
    path: &str,
    suffix: &'static str,
    definition: &str,
    kind: (&'static str, &'static str, &'static str),
) -> Vec<Operation> {
    let draft = |verb, query, input| Draft {
        verb,
        query,
        input,
        suffix,
        kind,
        ..Draft::new(row, path, definition)
    };
    vec![
        draft("get", READ, None).finish(),
        draft("update", WRITE, Some(definition)).finish(),
        draft("patch", WRITE, Some(definition)).finish(),
    ]
}

struct Draft<'a> {
    row: &'static Resource,
    path: &'a str,
    verb: &'static str,
    suffix: &'static str,
    query: &'static [(&'static str, &'static str)],
    kind: (&'static str, &'static str, &'static str),
    input: Option<&'a str>,
    output: &'a str,
}

impl<'a> Draft<'a> {
    fn new(row: &'static Resource, path: &'a str, definition: &'a str) -> Self {
        let kind = (row.group, row.version, row.kind);
        Self {
            row,
            path,
            verb: "",
            suffix: "",
            query: READ,
            kind,
            input: Some(definition),
            output: definition,
        }
    }

    fn with_output(mut self, output: &'a str) -> Operation {
        self.output = output;
        self.finish()
    }

    fn finish(self) -> Operation {
        let (method, action) = match self.verb {
            "create" => ("post", "post"),
            "update" => ("put", "put"),
            "patch" => ("patch", "patch"),
            "delete" => ("delete", "delete"),
            "deletecollection" => ("delete", "deletecollection"),
            "list" => ("get", "list"),
            _ => ("get", "get"),
        };
        let row = self.row;
        let namespaced = if row.namespaced && self.suffix != "ForAllNamespaces" {
            "Namespaced"
        } else {
            ""
        };
        let group: String = row.group.split(['.', '-']).map(capital).collect();
        let id = format!(
            "{}{group}{}{namespaced}{}{}",
            self.verb,
            capital(row.version),
            row.kind,
            self.suffix
        );
        Operation {
            path: self.path.to_owned(),
            method,
            verb: self.verb,
            action,
            id,
            description: format!("{} {} {}", self.verb, row.kind, self.suffix.to_lowercase())
                .trim_end()
                .to_owned(),
            kind: self.kind,
            query: self.query,
            consumes: match self.verb {
                "patch" if row.is_custom() => &CUSTOM_MEDIA_TYPES,
                "patch" => &MEDIA_TYPES,
                _ => JSON,
            },
            input: self.input.map(str::to_owned),
            output: self.output.to_owned(),
        }
    }
}

fn capital(word: &str) -> String {
    let mut symbols = word.chars();
    symbols
        .next()
        .map(|first| first.to_uppercase().chain(symbols).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn operations_have_names_of_their_own() {
        let all = operations(component::readable(&crate::Kinds::default()));
        let ids: BTreeSet<_> = all.iter().map(|one| &one.id).collect();
        assert_eq!(ids.len(), all.len());
        let places: BTreeSet<_> = all.iter().map(|one| (&one.path, one.method)).collect();
        assert_eq!(places.len(), all.len());
    }
}
