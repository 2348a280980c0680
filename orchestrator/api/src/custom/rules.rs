//! Rules of a schema that are expressions (`x-kubernetes-validations`): compiled once for a version of a definition, and
//! asked about every object. The language is [`crate::cel`]'s.

use std::collections::HashMap;

use serde_json::Value;

use super::schema::{field, join};
use crate::cel::{self, Budget, Evaluation, Expression, Failure, Type};
use crate::walk::{list, members, text};
use crate::{Fault, FaultKind};

const WORD: &str = "x-kubernetes-validations";
/// Deeper than any schema may be.
const DEEPEST: usize = 64;

/// The rules of a value and of what is in it.
#[derive(Debug, Default)]
pub(super) struct Rules {
    own: Vec<Rule>,
    /// Why some don't compile: of a definition that was stored by a server with another library.
    broken: Vec<String>,
    fields: Vec<(String, Rules)>,
    /// Of every member of a map.
    members: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
}

#[derive(Debug)]
struct Rule {
    condition: Expression,
    /// What is said when there is no message.
    source: String,
    message: String,
    message_expression: Option<Expression>,
    kind: FaultKind,
    /// Where the fault is, below the value.
    below: Vec<String>,
    /// Compares with what was before; then, whether also with nothing.
    transition: Option<WithoutOld>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WithoutOld {
    Skipped,
    Asked,
}

/// Compiles the rules of a whole object's schema.
pub(super) fn of(schema: &Value) -> Rules {
    // What is wrong was refused with the definition.
    compile(schema, &mut Place::root(String::new()), &mut Vec::new())
}

/// Faults of the rules of a schema.
pub(crate) fn faults(schema: &Value, path: &str, out: &mut Vec<Fault>) {
    compile(schema, &mut Place::root(path.to_owned()), out);
}

/// Where a schema is.
struct Place {
    path: String,
    whole: bool,
    depth: usize,
    /// The part of the schema below which nothing can be told to be what was before.
    uncorrelatable: Option<String>,
}

impl Place {
    fn root(path: String) -> Self {
        Self {
            path,
            whole: true,
            depth: 0,
            uncorrelatable: None,
        }
    }

    fn below(&self, part: &str, correlatable: bool) -> Self {
        let here = || self.path.clone();
        Self {
            path: format!("{}.{part}", self.path),
            whole: false,
            depth: self.depth + 1,
            uncorrelatable: self
                .uncorrelatable
                .clone()
                .or_else(|| (!correlatable).then(here)),
        }
    }
}

fn compile(schema: &Value, place: &mut Place, out: &mut Vec<Fault>) -> Rules {
    let mut rules = Rules::default();
    if place.depth > DEEPEST {
        return rules;
    }
    for (index, given) in list(schema, &[WORD]).iter().enumerate() {
        let path = format!("{}.{WORD}[{index}]", place.path);
        match rule(given, schema, place, &path) {
            Ok(rule) => rules.own.push(rule),
            Err(fault) => {
                rules.broken.push(fault.detail.clone());
                out.push(*fault);
            }
        }
    }
    for word in ["allOf", "anyOf", "oneOf"] {
        for (index, part) in list(schema, &[word]).iter().enumerate() {
            refuse_within(part, &format!("{}.{word}[{index}]", place.path), 0, out);
        }
    }
    refuse_within(&schema["not"], &format!("{}.not", place.path), 0, out);
    let granular = schema["x-kubernetes-map-type"] != "atomic";
    for (name, inner) in members(schema, &["properties"]) {
        let mut place = place.below(&format!("properties[{name}]"), granular);
        let inner = compile(inner, &mut place, out);
        if !inner.is_empty() {
            rules.fields.push((name.clone(), inner));
        }
    }
    let mut single = |word: &str, correlatable: bool| {
        let inner = schema.get(word).filter(|one| one.is_object())?;
        let inner = compile(inner, &mut place.below(word, correlatable), out);
        (!inner.is_empty()).then(|| Box::new(inner))
    };
    rules.members = single("additionalProperties", granular);
    rules.items = single("items", schema["x-kubernetes-list-type"] == "map");
    rules
}

/// Rules have no place in alternatives.
fn refuse_within(schema: &Value, path: &str, depth: usize, out: &mut Vec<Fault>) {
    if !schema.is_object() || depth > DEEPEST {
        return;
    }
    if schema.get(WORD).is_some() {
        out.push(Fault::forbidden(
            format!("{path}.{WORD}"),
            "must be empty to be structural",
        ));
    }
    for (name, inner) in members(schema, &["properties"]) {
        refuse_within(inner, &format!("{path}.properties[{name}]"), depth + 1, out);
    }
    for word in ["allOf", "anyOf", "oneOf"] {
        for (index, part) in list(schema, &[word]).iter().enumerate() {
            refuse_within(part, &format!("{path}.{word}[{index}]"), depth + 1, out);
        }
    }
    for word in ["items", "additionalProperties", "not"] {
        refuse_within(&schema[word], &format!("{path}.{word}"), depth + 1, out);
    }
}

fn rule(given: &Value, schema: &Value, place: &Place, path: &str) -> Result<Rule, Box<Fault>> {
    let source = text(given, &["rule"]).trim();
    let invalid = |field: &str, value: &str, why: String| {
        Box::new(Fault::invalid(format!("{path}.{field}"), value, why))
    };
    if source.is_empty() {
        return Err(Box::new(Fault::required(
            format!("{path}.rule"),
            "rule is not specified",
        )));
    }
    let Some(kind) = Type::of(schema, place.whole) else {
        let why =
            "rules need a type: this part of the schema has none that expressions can look at";
        return Err(invalid("rule", source, why.to_owned()));
    };
    let optional = given["optionalOldSelf"] == true;
    let old = if optional {
        Type::Optional(Box::new(kind.clone()))
    } else {
        kind.clone()
    };
    let scope = [("self", kind), ("oldSelf", old)];
    let condition = Expression::compile(source, &scope, &Type::Bool)
        .map_err(|why| invalid("rule", source, why))?;
    let transition = condition.uses("oldSelf").then_some(if optional {
        WithoutOld::Asked
    } else {
        WithoutOld::Skipped
    });
    if let (Some(_), Some(within)) = (transition, &place.uncorrelatable) {
        let why = format!(
            "oldSelf cannot be used on the uncorrelatable portion of the schema within {within}"
        );
        return Err(invalid("rule", source, why));
    }
    if optional && transition.is_none() {
        let why = "may not be set if oldSelf is not used in rule".to_owned();
        return Err(invalid("optionalOldSelf", "true", why));
    }
    let message = text(given, &["message"]).trim();
    if message.contains('\n') {
        return Err(invalid(
            "message",
            message,
            "message must not contain line breaks".to_owned(),
        ));
    }
    let source_of_message = text(given, &["messageExpression"]).trim();
    let message_expression = (!source_of_message.is_empty())
        .then(|| Expression::compile(source_of_message, &scope, &Type::Text))
        .transpose()
        .map_err(|why| invalid("messageExpression", source_of_message, why))?;
    Ok(Rule {
        condition,
        source: source.to_owned(),
        message: message.to_owned(),
        message_expression,
        kind: reason(given, path)?,
        below: below(given, schema, path)?,
        transition,
    })
}

fn reason(given: &Value, path: &str) -> Result<FaultKind, Box<Fault>> {
    let kinds = [
        FaultKind::Required,
        FaultKind::Duplicate,
        FaultKind::Invalid,
        FaultKind::Forbidden,
    ];
    let Some(wanted) = given["reason"].as_str() else {
        return Ok(FaultKind::Invalid);
    };
    let found = kinds.into_iter().find(|kind| kind.reason() == wanted);
    found.ok_or_else(|| {
        let path = format!("{path}.reason");
        Box::new(Fault::not_supported(
            path,
            wanted,
            &kinds.map(FaultKind::reason),
        ))
    })
}

/// The fields of `fieldPath`, which all have to be there.
fn below(given: &Value, schema: &Value, path: &str) -> Result<Vec<String>, Box<Fault>> {
    let Some(given) = given["fieldPath"].as_str() else {
        return Ok(Vec::new());
    };
    let invalid = |why: String| Box::new(Fault::invalid(format!("{path}.fieldPath"), given, why));
    let (mut steps, mut rest, mut here) = (Vec::new(), given.trim(), schema);
    while !rest.is_empty() {
        let step = if let Some(inside) = rest.strip_prefix("['") {
            let (name, after) = inside
                .split_once("']")
                .ok_or_else(|| invalid("['name'] is not closed".to_owned()))?;
            rest = after;
            name
        } else if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            rest = &after[end..];
            &after[..end]
        } else {
            return Err(invalid(
                "must be a path of fields such as .spec.name or ['a.b']".to_owned(),
            ));
        };
        here = field(here, step)
            .ok_or_else(|| invalid(format!("does not refer to a valid field: {step:?}")))?;
        steps.push(step.to_owned());
    }
    if steps.is_empty() {
        return Err(invalid("must name a field".to_owned()));
    }
    Ok(steps)
}

/// What the rules are asked about.
#[derive(Clone, Copy)]
struct Asked<'v> {
    schema: &'v Value,
    value: &'v Value,
    /// What it was before, as far as that can be told.
    old: Option<&'v Value>,
    whole: bool,
}

impl Rules {
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            own,
            broken,
            fields,
            members,
            items,
        } = self;
        own.is_empty()
            && broken.is_empty()
            && fields.is_empty()
            && members.is_none()
            && items.is_none()
    }

    /// Every rule that an object breaks. A value that is as it was keeps to the rules that don't compare it with what it
    /// was.
    pub(super) fn faults(
        &self,
        schema: &Value,
        value: &Value,
        old: Option<&Value>,
        out: &mut Vec<Fault>,
    ) {
        if self.is_empty() {
            return;
        }
        if out.iter().any(|fault| blocks(fault.kind)) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing errors \
                       to complete validation";
            out.push(Fault::invalid("<nil>", Value::Null, why));
            return;
        }
        let asked = Asked {
            schema,
            value,
            old,
            whole: true,
        };
        self.ask(asked, "", &Budget::default(), out);
    }

    /// False when the budget is spent.
    fn ask(&self, asked: Asked<'_>, path: &str, budget: &Budget, out: &mut Vec<Fault>) -> bool {
        if asked.value.is_null() {
            return true;
        }
        // Null before is nothing before.
        let old = asked.old.filter(|old| !old.is_null());
        let asked = Asked { old, ..asked };
        self.ask_own(asked, path, budget, out) && self.ask_inside(asked, path, budget, out)
    }

    fn ask_own(&self, asked: Asked<'_>, path: &str, budget: &Budget, out: &mut Vec<Fault>) -> bool {
        let Asked {
            schema,
            value,
            old,
            whole,
        } = asked;
        for why in &self.broken {
            let why = format!("rule compile error: {why}");
            out.push(Fault::invalid(shown(path), shown_type(schema), why));
        }
        let unchanged = old == Some(value);
        let due = |rule: &&Rule| match rule.transition {
            None => !unchanged,
            Some(WithoutOld::Skipped) => old.is_some(),
            Some(WithoutOld::Asked) => true,
        };
        let mut due = self.own.iter().filter(due).peekable();
        if due.peek().is_none() {
            return true;
        }
        let mut evaluation = Evaluation::new(budget);
        evaluation.bind("self", cel::of_schema(value, schema, whole));
        // What was is made once for all rules of a sort: it may be large.
        let mut bound = None;
        for rule in due {
            if bound != Some(rule.transition) {
                let before = || old.map(|old| cel::of_schema(old, schema, whole));
                match rule.transition {
                    None => {}
                    Some(WithoutOld::Asked) => evaluation.bind_optional("oldSelf", before()),
                    Some(WithoutOld::Skipped) => {
                        if let Some(before) = before() {
                            evaluation.bind("oldSelf", before);
                        }
                    }
                }
            }
            if rule.transition.is_some() {
                bound = Some(rule.transition);
            }
            match evaluation.holds(&rule.condition) {
                Ok(true) => {}
                Ok(false) => out.push(rule.fault(schema, path, &evaluation)),
                Err(Failure::OutOfBudget) => {
                    let why = "validation failed due to running out of cost budget, no further validation rules will be run";
                    out.push(Fault::invalid(shown(path), shown_type(schema), why));
                    return false;
                }
                Err(Failure::Error(why)) => {
                    let said = if rule.message.is_empty() {
                        &rule.source
                    } else {
                        &rule.message
                    };
                    let why = format!("{why} evaluating rule: {said}");
                    out.push(Fault::invalid(shown(path), shown_type(schema), why));
                }
            }
        }
        true
    }

    fn ask_inside(
        &self,
        asked: Asked<'_>,
        path: &str,
        budget: &Budget,
        out: &mut Vec<Fault>,
    ) -> bool {
        let Asked {
            schema, value, old, ..
        } = asked;
        let below = |schema, value, old| Asked {
            schema,
            value,
            old,
            whole: false,
        };
        for (name, rules) in &self.fields {
            if let Some(inner) = value.get(name) {
                let old = old.and_then(|old| old.get(name));
                let asked = below(&schema["properties"][name], inner, old);
                if !rules.ask(asked, &join(path, name), budget, out) {
                    return false;
                }
            }
        }
        if let (Some(rules), Some(map)) = (&self.members, value.as_object()) {
            for (name, inner) in map {
                let old = old.and_then(|old| old.get(name));
                let asked = below(&schema["additionalProperties"], inner, old);
                if !rules.ask(asked, &format!("{path}[{name}]"), budget, out) {
                    return false;
                }
            }
        }
        if let (Some(rules), Some(items)) = (&self.items, value.as_array()) {
            let before = Items::of(schema, old, value);
            for (index, item) in items.iter().enumerate() {
                let old = before.of_item(index, item);
                let asked = below(&schema["items"], item, old);
                if !rules.ask(asked, &format!("{path}[{index}]"), budget, out) {
                    return false;
                }
            }
        }
        true
    }
}

/// The items that a list had before.
enum Items<'a> {
    /// The same as now.
    Unchanged(&'a [Value]),
    /// By the values of the keys in which a list of type map has each once.
    ByKeys(Vec<&'a str>, HashMap<Vec<&'a Value>, &'a Value>),
    /// Which item is which can't be told.
    Unknown,
}

impl<'a> Items<'a> {
    fn of(schema: &'a Value, old: Option<&'a Value>, now: &Value) -> Self {
        let Some(before) = old.and_then(Value::as_array) else {
            return Self::Unknown;
        };
        if old == Some(now) {
            return Self::Unchanged(before);
        }
        if schema["x-kubernetes-list-type"] != "map" {
            return Self::Unknown;
        }
        let keys = list(schema, &["x-kubernetes-list-map-keys"]).iter();
        let keys: Vec<&str> = keys.filter_map(Value::as_str).collect();
        let rows = before.iter().map(|item| (values(&keys, item), item));
        let rows = rows.collect();
        Self::ByKeys(keys, rows)
    }

    fn of_item(&self, index: usize, item: &'a Value) -> Option<&'a Value> {
        match self {
            Self::Unchanged(before) => before.get(index),
            Self::ByKeys(keys, rows) => rows.get(&values(keys, item)).copied(),
            Self::Unknown => None,
        }
    }
}

fn values<'a>(keys: &[&str], item: &'a Value) -> Vec<&'a Value> {
    keys.iter().map(|key| &item[*key]).collect()
}

impl Rule {
    fn fault(&self, schema: &Value, path: &str, evaluation: &Evaluation<'_>) -> Fault {
        let made = self
            .message_expression
            .as_ref()
            .and_then(|one| evaluation.text(one).ok());
        let made = made.map(|one| one.trim().to_owned());
        let detail = match made.filter(|one| !one.is_empty() && !one.contains('\n')) {
            Some(made) => made,
            None if self.message.is_empty() => format!("failed rule: {}", self.source),
            None => self.message.clone(),
        };
        let path = self
            .below
            .iter()
            .fold(path.to_owned(), |path, step| join(&path, step));
        let value = match self.kind {
            FaultKind::Invalid | FaultKind::Duplicate => shown_type(schema),
            _ => Value::Null,
        };
        Fault {
            path: shown(&path),
            kind: self.kind,
            detail,
            value,
        }
    }
}

/// The whole object has no path.
fn shown(path: &str) -> String {
    if path.is_empty() { "<nil>" } else { path }.to_owned()
}

/// Instead of a value, which may be large, its type is told.
fn shown_type(schema: &Value) -> Value {
    text(schema, &["type"]).into()
}

/// Whether a fault makes a value something that expressions may not expect.
fn blocks(kind: FaultKind) -> bool {
    matches!(
        kind,
        FaultKind::NotSupported
            | FaultKind::Required
            | FaultKind::TooLong
            | FaultKind::TooMany
            | FaultKind::WrongType
    )
}
