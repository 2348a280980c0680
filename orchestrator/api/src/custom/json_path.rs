//! The JSON paths of printer columns: fields, quoted fields, indexes, wildcards, and filters that compare a field with
//! a text, a number or a boolean.

use serde_json::Value;

/// A parsed path. An empty one leads nowhere.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// From the end when negative.
    Index(i64),
    All,
    Filter {
        path: JsonPath,
        equal: bool,
        value: Value,
    },
}

impl JsonPath {
    /// From `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`, `.metadata.labels['a\.b']`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut rest = text;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = match rest.as_bytes()[0] {
                b'.' => field(&rest[1..])?,
                b'[' => bracket(&rest[1..])?,
                _ => return None,
            };
            steps.push(step);
            rest = after;
        }
        (!steps.is_empty()).then_some(Self { steps })
    }

    /// Everything that the path leads to.
    pub(super) fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        if self.steps.is_empty() {
            return Vec::new();
        }
        let mut found = vec![value];
        for step in &self.steps {
            found = found.into_iter().flat_map(|one| step.take(one)).collect();
        }
        found
    }
}

impl Step {
    fn take<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Self::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
            (Self::All, Value::Array(items)) => items.iter().collect(),
            (Self::All, Value::Object(map)) => map.values().collect(),
            (Self::Index(index), Value::Array(items)) => {
                let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let index = if *index < 0 { length + index } else { *index };
                let found = usize::try_from(index)
                    .ok()
                    .and_then(|index| items.get(index));
                found.into_iter().collect()
            }
            (Self::Filter { path, equal, value }, Value::Array(items)) => items
                .iter()
                .filter(|item| (path.find(item).first() == Some(&value)) == *equal)
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// A field after its dot; a backslash takes the next sign literally.
fn field(text: &str) -> Option<(Step, &str)> {
    let mut name = String::new();
    let mut signs = text.char_indices();
    let mut end = text.len();
    while let Some((at, sign)) = signs.next() {
        match sign {
            '\\' => name.push(signs.next()?.1),
            '.' | '[' => {
                end = at;
                break;
            }
            _ => name.push(sign),
        }
    }
    let step = match name.as_str() {
        "" => return None,
        "*" => Step::All,
        _ => Step::Field(name),
    };
    Some((step, &text[end..]))
}

/// What is after an opening bracket, through its closing one.
fn bracket(text: &str) -> Option<(Step, &str)> {
    if let Some(filter) = text.strip_prefix("?(") {
        let end = filter.find(")]")?;
        return Some((condition(&filter[..end])?, &filter[end + 2..]));
    }
    for quote in ['\'', '"'] {
        if let Some(quoted) = text.strip_prefix(quote) {
            let end = quoted.find(&format!("{quote}]"))?;
            let name = quoted[..end].replace("\\.", ".");
            return Some((Step::Field(name), &quoted[end + 2..]));
        }
    }
    let (inner, rest) = text.split_once(']')?;
    let step = if inner == "*" {
        Step::All
    } else {
        Step::Index(inner.parse().ok()?)
    };
    Some((step, rest))
}

/// `@.type=="Ready"`.
fn condition(text: &str) -> Option<Step> {
    let (equal, (left, right)) = match text.split_once("==") {
        Some(sides) => (true, sides),
        None => (false, text.split_once("!=")?),
    };
    let path = JsonPath::parse(left.trim().strip_prefix('@')?)?;
    let right = right.trim();
    let quoted = right
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''));
    let value = match quoted {
        Some(text) => text.into(),
        None => serde_json::from_str(right).ok()?,
    };
    Some(Step::Filter { path, equal, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_to_values() {
        let object = json!({"spec": {"replicas": 3, "list": [1, 2, 3]}, "metadata": {"labels": {"a.b/c": "x"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]}});
        for (path, expect) in [
            (".spec.replicas", json!([3])),
            (".spec.list[1]", json!([2])),
            (".spec.list[-1]", json!([3])),
            (".spec.list[*]", json!([1, 2, 3])),
            (".metadata.labels.a\\.b/c", json!(["x"])),
            (".metadata.labels['a\\.b/c']", json!(["x"])),
            (
                ".status.conditions[?(@.type==\"Ready\")].status",
                json!(["True"]),
            ),
            (
                ".status.conditions[?(@.type!='Ready')].status",
                json!(["False"]),
            ),
            (".spec.nothing.here", json!([])),
        ] {
            let found = JsonPath::parse(path).unwrap();
            assert_eq!(json!(found.find(&object)), expect, "{path}");
        }
        for bad in ["", "spec", ".", ".a[", ".a[x]", ".a[?(@.b)]", ".a."] {
            assert!(JsonPath::parse(bad).is_none(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_answered(text in "[.a\\[\\]?@='\"()*\\\\-]{0,24}") {
            if let Some(path) = JsonPath::parse(&text) {
                path.find(&json!({"a": [{"a": "a"}]}));
            }
        }
    }
}
