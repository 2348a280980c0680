//! Field selectors: `spec.nodeName=n1,status.phase!=Running`.

use serde_json::Value;

use crate::{Resource, Status};

/// Conditions on fields that must all hold. Empty matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    path: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// From the query grammar, for objects of `resource`.
    ///
    /// # Errors
    /// 400 for bad syntax or a field that the kind can't be selected by.
    pub fn parse(resource: &Resource, text: &str) -> Result<Self, Status> {
        let mut terms = Vec::new();
        for part in split(text).into_iter().filter(|part| !part.is_empty()) {
            let term = Term::parse(&part).ok_or_else(|| {
                Status::bad_request(format!(
                    "invalid field selector {text:?}: can't understand {part:?}"
                ))
            })?;
            let known = matches!(term.path.as_str(), "metadata.name" | "metadata.namespace")
                || resource.selectable.contains(&term.path.as_str());
            if !known {
                return Err(Status::bad_request(format!(
                    "field label not supported: {} (of {}; supported: {})",
                    term.path,
                    resource.qualified(),
                    ["metadata.name", "metadata.namespace"]
                        .iter()
                        .chain(resource.selectable)
                        .copied()
                        .collect::<Vec<_>>()
                        .join(", ")
                )));
            }
            terms.push(term);
        }
        Ok(Self { terms })
    }

    /// Whether it has no conditions.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether the object satisfies it. A missing field is the empty text, a missing boolean is `false`.
    pub fn matches(&self, object: &Value) -> bool {
        self.holds(|path| read(object, path))
    }

    fn holds<T: PartialEq<String>>(&self, found: impl Fn(&str) -> T) -> bool {
        let mut terms = self.terms.iter();
        terms.all(|term| (found(&term.path) == term.value) == term.equal)
    }

    /// What objects of a kind can be selected by beside their names, of one object.
    pub fn values(resource: &Resource, object: &Value) -> Box<[Box<str>]> {
        let fields = resource.selectable.iter();
        fields.map(|path| read(object, path).into()).collect()
    }

    /// The same as [`FieldSelector::matches`], by names and [`FieldSelector::values`].
    pub fn matches_values(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        values: &[Box<str>],
    ) -> bool {
        self.holds(|path| match path {
            "metadata.name" => name,
            "metadata.namespace" => namespace,
            _ => {
                let index = resource.selectable.iter().position(|one| *one == path);
                index
                    .and_then(|index| values.get(index))
                    .map_or("", |value| value)
            }
        })
    }

    /// What a field of every match must be, if it asks for one value.
    pub fn value_of(&self, path: &str) -> Option<&str> {
        let mut terms = self.terms.iter();
        let term = terms.find(|term| term.equal && term.path == path)?;
        Some(&term.value)
    }
}

impl Term {
    fn parse(text: &str) -> Option<Self> {
        let (path, equal, value) = if let Some((path, value)) = text.split_once("!=") {
            (path, false, value)
        } else if let Some((path, value)) = text.split_once("==") {
            (path, true, value)
        } else {
            let (path, value) = text.split_once('=')?;
            (path, true, value)
        };
        let path = path.trim();
        (!path.is_empty()).then(|| Self {
            path: path.to_owned(),
            equal,
            value: unescape(value),
        })
    }
}

/// Parts between commas that no backslash precedes.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for symbol in text.chars() {
        if symbol == ',' && !escaped {
            parts.push(String::new());
            continue;
        }
        escaped = symbol == '\\' && !escaped;
        if let Some(last) = parts.last_mut() {
            last.push(symbol);
        }
    }
    parts
}

fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut symbols = text.chars();
    while let Some(symbol) = symbols.next() {
        plain.push(if symbol == '\\' {
            symbols.next().unwrap_or('\\')
        } else {
            symbol
        });
    }
    plain
}

fn read(object: &Value, path: &str) -> String {
    // An Event's source is asked for by its component's name.
    let path = if path == "source" {
        "source.component"
    } else {
        path
    };
    let found = path.split('.').fold(object, |value, step| &value[step]);
    match found {
        Value::String(text) => text.clone(),
        Value::Null if matches!(path, "spec.unschedulable" | "spec.hostNetwork") => {
            "false".to_owned()
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup_name;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn fields_select_as_in_kubernetes() {
        let pod = lookup_name("pod").unwrap();
        let object = json!({
            "metadata": {"name": "a", "namespace": "b"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"},
        });
        for (text, expect) in [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==a,metadata.namespace=b", true),
            ("spec.nodeName!=n1", false),
            ("spec.nodeName=n1,status.phase!=Failed", true),
            ("spec.nodeName=", false),
            ("status.phase!=Succeeded,status.phase!=Failed", true),
            ("spec.hostNetwork=false", true),
            ("status.podIP=", true),
        ] {
            let selector = FieldSelector::parse(pod, text).unwrap();
            assert_eq!(selector.matches(&object), expect, "{text}");
        }
        assert_eq!(
            FieldSelector::parse(pod, "metadata.name=x")
                .unwrap()
                .value_of("metadata.name"),
            Some("x")
        );
        for text in ["spec.image=x", "metadata.name", "=x"] {
            assert_eq!(
                FieldSelector::parse(pod, text).unwrap_err().code,
                400,
                "{text}"
            );
        }
        let escaped = FieldSelector::parse(pod, r"metadata.name=a\,b\=c").unwrap();
        assert_eq!(escaped.value_of("metadata.name"), Some("a,b=c"));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,40}") {
            let _ = FieldSelector::parse(lookup_name("events").unwrap(), &text);
        }
    }
}
