//! Label selectors, from the query grammar `a=b,c in (x,y),!d` or from a LabelSelector object.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::walk::{list, members, text};
use crate::{Status, validate};

/// How a label must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// One of the values.
    In,
    /// None of the values, or not there.
    NotIn,
    /// There.
    Exists,
    /// Not there.
    NotExists,
    /// A number greater than the value.
    Greater,
    /// A number less than the value.
    Less,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// How it must be.
    pub operator: Operator,
    /// What it is compared with.
    pub values: Vec<String>,
}

/// Conditions that must all hold. Empty matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// All of them.
    pub requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// From the query grammar; empty text matches everything.
    ///
    /// # Errors
    /// 400 naming what was found where something else was expected.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let mut scanner = Scanner { rest: text };
        let parsed = scanner.requirements().and_then(|requirements| {
            requirements.iter().try_for_each(check_words)?;
            Ok(Self { requirements })
        });
        parsed.map_err(|why| {
            Status::bad_request(format!("unable to parse label selector {text:?}: {why}"))
        })
    }

    /// From a LabelSelector object (`matchLabels`, `matchExpressions`). Null matches everything here; whoever means
    /// "nothing" by a missing selector asks first.
    ///
    /// # Errors
    /// What is wrong with the first bad expression.
    pub fn from_object(object: &Value) -> Result<Self, String> {
        let mut requirements: Vec<Requirement> = members(object, &["matchLabels"])
            .map(|(key, value)| Requirement::equals(key, value.as_str().unwrap_or_default()))
            .collect();
        for one in list(object, &["matchExpressions"]) {
            let operator = match text(one, &["operator"]) {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::NotExists,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let values = list(one, &["values"])
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            requirements.push(Requirement {
                key: text(one, &["key"]).to_owned(),
                operator,
                values,
            });
        }
        Ok(Self { requirements })
    }

    /// From a plain map, as a Service's selector.
    pub fn from_map(map: &Value) -> Self {
        let requirements = members(map, &[])
            .map(|(key, value)| Requirement::equals(key, value.as_str().unwrap_or_default()))
            .collect();
        Self { requirements }
    }

    /// Whether it has no conditions.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether `labels`, a JSON object of texts or null, satisfy it.
    pub fn matches(&self, labels: &Value) -> bool {
        self.matches_by(|key| labels[key].as_str())
    }

    /// Whether labels, which `find` finds by their keys, satisfy it.
    pub fn matches_by<'a>(&self, find: impl Fn(&str) -> Option<&'a str>) -> bool {
        let mut requirements = self.requirements.iter();
        requirements.all(|one| one.matches(find(&one.key)))
    }

    /// Whether the object's labels satisfy it.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.is_empty() || self.matches(&object["metadata"]["labels"])
    }
}

impl Requirement {
    fn equals(key: &str, value: &str) -> Self {
        Self {
            key: key.to_owned(),
            operator: Operator::In,
            values: vec![value.to_owned()],
        }
    }

    fn matches(&self, found: Option<&str>) -> bool {
        let listed = |found: &str| self.values.iter().any(|value| value == found);
        let compare = |found: Option<&str>| {
            let found: i64 = found?.parse().ok()?;
            let bound: i64 = self.values.first()?.parse().ok()?;
            Some(found.cmp(&bound))
        };
        match self.operator {
            Operator::In => found.is_some_and(listed),
            Operator::NotIn => !found.is_some_and(listed),
            Operator::Exists => found.is_some(),
            Operator::NotExists => found.is_none(),
            Operator::Greater => compare(found).is_some_and(std::cmp::Ordering::is_gt),
            Operator::Less => compare(found).is_some_and(std::cmp::Ordering::is_lt),
        }
    }
}

impl FromStr for LabelSelector {
    type Err = Status;
    fn from_str(text: &str) -> Result<Self, Status> {
        Self::parse(text)
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.requirements.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(","))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            operator,
            values,
        } = self;
        let joined = values.join(",");
        match operator {
            Operator::In if values.len() == 1 => write!(f, "{key}={joined}"),
            Operator::NotIn if values.len() == 1 => write!(f, "{key}!={joined}"),
            Operator::In => write!(f, "{key} in ({joined})"),
            Operator::NotIn => write!(f, "{key} notin ({joined})"),
            Operator::Exists => write!(f, "{key}"),
            Operator::NotExists => write!(f, "!{key}"),
            Operator::Greater => write!(f, "{key}>{joined}"),
            Operator::Less => write!(f, "{key}<{joined}"),
        }
    }
}

fn check_words(one: &Requirement) -> Result<(), String> {
    if let Some(rule) = validate::qualified_name(&one.key) {
        return Err(format!("key: Invalid value: {:?}: {rule}", one.key));
    }
    if matches!(one.operator, Operator::Greater | Operator::Less) {
        let whole = one.values.iter().all(|value| value.parse::<i64>().is_ok());
        return if whole {
            Ok(())
        } else {
            Err("for 'Gt', 'Lt' operators, the value must be an integer".to_owned())
        };
    }
    for value in &one.values {
        if let Some(rule) = validate::label_value(value) {
            return Err(format!(
                "values[0][{}]: Invalid value: {value:?}: {rule}",
                one.key
            ));
        }
    }
    Ok(())
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, symbol: &str) -> bool {
        self.skip_blanks();
        match self.rest.strip_prefix(symbol) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Letters up to the next symbol or blank; may be empty.
    fn word(&mut self) -> &'a str {
        self.skip_blanks();
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || "=!(),<>".contains(c))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn found(&mut self) -> String {
        self.skip_blanks();
        match self.rest.chars().next() {
            Some(symbol) => format!("found {symbol:?}"),
            None => "found the end".to_owned(),
        }
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
        let mut all = Vec::new();
        self.skip_blanks();
        if self.rest.is_empty() {
            return Ok(all);
        }
        loop {
            all.push(self.requirement()?);
            self.skip_blanks();
            if self.rest.is_empty() {
                return Ok(all);
            }
            if !self.take(",") {
                return Err(format!("{}, expected ',' or the end", self.found()));
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.take("!");
        let key = self.word().to_owned();
        if key.is_empty() {
            return Err(format!("{}, expected a label key", self.found()));
        }
        if negated {
            return Ok(Requirement {
                key,
                operator: Operator::NotExists,
                values: Vec::new(),
            });
        }
        self.skip_blanks();
        if self.rest.is_empty() || self.rest.starts_with(',') {
            return Ok(Requirement {
                key,
                operator: Operator::Exists,
                values: Vec::new(),
            });
        }
        for (symbol, operator) in [
            ("==", Operator::In),
            ("=", Operator::In),
            ("!=", Operator::NotIn),
            (">", Operator::Greater),
            ("<", Operator::Less),
        ] {
            if self.take(symbol) {
                let value = self.word().to_owned();
                return Ok(Requirement {
                    key,
                    operator,
                    values: vec![value],
                });
            }
        }
        let operator = match self.word() {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            "" => return Err(format!("{}, expected an operator", self.found())),
            other => {
                return Err(format!(
                    "found {other:?}, expected in, notin, =, ==, !=, >, <"
                ));
            }
        };
        Ok(Requirement {
            key,
            operator,
            values: self.values()?,
        })
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        if !self.take("(") {
            return Err(format!("{}, expected '('", self.found()));
        }
        let mut values = Vec::new();
        loop {
            values.push(self.word().to_owned());
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                return Err(format!("{}, expected ',' or ')'", self.found()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn check(text: &str, expect: bool) {
        let labels = json!({"app": "web", "tier": "front", "size": "5", "empty": ""});
        let selector = LabelSelector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(selector.matches(&labels), expect, "{text}");
        let again = LabelSelector::parse(&selector.to_string()).unwrap();
        assert_eq!(
            again.matches(&labels),
            expect,
            "{text} printed as {selector}"
        );
    }

    #[test]
    fn the_grammar_means_what_kubernetes_means() {
        for (text, expect) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier = front", true),
            ("app=db", false),
            ("app!=db", true),
            ("none!=db", true),
            ("app in (web, db)", true),
            ("app in (db)", false),
            ("app notin (db,x)", true),
            ("none notin (db)", true),
            ("app", true),
            ("none", false),
            ("!none", true),
            ("! app", false),
            ("size>4", true),
            ("size<4", false),
            ("app>4", false),
            ("empty=", true),
            ("empty in ()", true),
            ("example.com/x", false),
        ] {
            check(text, expect);
        }
    }

    #[test]
    fn malformed_selectors_are_refused_with_the_place() {
        for (text, part) in [
            ("a in", "expected '('"),
            ("a in (x", "expected ',' or ')'"),
            ("=x", "expected a label key"),
            ("a b", "expected in, notin"),
            ("a=b c", "expected ','"),
            ("a=b,", "expected a label key"),
            ("a_b/c/d=x", "Invalid value"),
            ("a=b!c", "expected ','"),
            ("a>x", "integer"),
        ] {
            let error = LabelSelector::parse(text).unwrap_err();
            assert_eq!(error.code, 400);
            assert!(error.message.contains(part), "{text}: {}", error.message);
        }
    }

    #[test]
    fn objects_and_maps_mean_the_same() {
        let object = json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::from_object(&object).unwrap();
        assert_eq!(selector.to_string(), "app=web,!x");
        assert!(selector.matches(&json!({"app": "web"})));
        assert!(!selector.matches(&Value::Null));
        assert!(LabelSelector::from_map(&json!({"a": "b"})).matches(&json!({"a": "b", "c": "d"})));
        assert!(
            LabelSelector::from_object(
                &json!({"matchExpressions": [{"key": "x", "operator": "Like"}]})
            )
            .is_err()
        );
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[a-c =!,()<>inotn/.-]{0,30}|\\PC{0,30}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
            }
        }
    }
}
