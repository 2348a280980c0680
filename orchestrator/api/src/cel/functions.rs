//! The functions that expressions may call: what they are called on, with how many arguments, what they come to, and how
//! they are paid for. What they do is in [`super::library`] and in the `cel` crate.

use cel::common::ast::{Expr, IdedExpr};

use super::types::Type;

/// What a function is called on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    Nothing,
    Text,
    Bytes,
    List,
    Map,
    Timestamp,
    Duration,
    Optional,
    Opaque(&'static str),
}

/// What a function comes to.
#[derive(Debug, Clone, Copy)]
enum Gives {
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Texts,
    Bytes,
    Timestamp,
    Duration,
    Type,
    Dyn,
    Opaque(&'static str),
    /// What it is called on has inside.
    Inside,
    /// An optional of its argument.
    OptionalOfArgument,
}

/// One function, in one of its forms.
#[derive(Debug)]
struct Function {
    name: &'static str,
    on: &'static [On],
    arguments: std::ops::RangeInclusive<usize>,
    gives: Gives,
}

const fn of(
    name: &'static str,
    on: &'static [On],
    least: usize,
    most: usize,
    gives: Gives,
) -> Function {
    Function {
        name,
        on,
        arguments: least..=most,
        gives,
    }
}

pub(super) const IP: &str = "net.IP";
pub(super) const CIDR: &str = "net.CIDR";
pub(super) const URL: &str = "kubernetes.URL";
pub(super) const QUANTITY: &str = "kubernetes.Quantity";

const NOTHING: &[On] = &[On::Nothing];
const TEXT: &[On] = &[On::Text];
const LIST: &[On] = &[On::List];
const TIME: &[On] = &[On::Timestamp];
const SPAN_OR_TIME: &[On] = &[On::Duration, On::Timestamp];
const OPTIONAL: &[On] = &[On::Optional];
const AN_IP: &[On] = &[On::Opaque(IP)];
const A_CIDR: &[On] = &[On::Opaque(CIDR)];
const A_URL: &[On] = &[On::Opaque(URL)];
const A_QUANTITY: &[On] = &[On::Opaque(QUANTITY)];

static FUNCTIONS: &[Function] = &[
    // The language's own.
    of(
        "size",
        &[On::Nothing, On::Text, On::Bytes, On::List, On::Map],
        0,
        1,
        Gives::Int,
    ),
    of("string", NOTHING, 1, 1, Gives::Text),
    of("int", NOTHING, 1, 1, Gives::Int),
    of("uint", NOTHING, 1, 1, Gives::Uint),
    of("double", NOTHING, 1, 1, Gives::Double),
    of("bool", NOTHING, 1, 1, Gives::Bool),
    of("bytes", NOTHING, 1, 1, Gives::Bytes),
    of("dyn", NOTHING, 1, 1, Gives::Dyn),
    of("type", NOTHING, 1, 1, Gives::Type),
    of("timestamp", NOTHING, 1, 1, Gives::Timestamp),
    of("duration", NOTHING, 1, 1, Gives::Duration),
    of("startsWith", TEXT, 1, 1, Gives::Bool),
    of("endsWith", TEXT, 1, 1, Gives::Bool),
    of("contains", TEXT, 1, 1, Gives::Bool),
    of("matches", &[On::Text, On::Nothing], 1, 2, Gives::Bool),
    of("getFullYear", TIME, 0, 1, Gives::Int),
    of("getMonth", TIME, 0, 1, Gives::Int),
    of("getDayOfYear", TIME, 0, 1, Gives::Int),
    of("getDayOfMonth", TIME, 0, 1, Gives::Int),
    of("getDate", TIME, 0, 1, Gives::Int),
    of("getDayOfWeek", TIME, 0, 1, Gives::Int),
    of("getHours", SPAN_OR_TIME, 0, 1, Gives::Int),
    of("getMinutes", SPAN_OR_TIME, 0, 1, Gives::Int),
    of("getSeconds", SPAN_OR_TIME, 0, 1, Gives::Int),
    of("getMilliseconds", SPAN_OR_TIME, 0, 1, Gives::Int),
    // Optional values.
    of("optional.of", NOTHING, 1, 1, Gives::OptionalOfArgument),
    of(
        "optional.ofNonZeroValue",
        NOTHING,
        1,
        1,
        Gives::OptionalOfArgument,
    ),
    of("optional.none", NOTHING, 0, 0, Gives::Dyn),
    of("hasValue", OPTIONAL, 0, 0, Gives::Bool),
    of("value", OPTIONAL, 0, 0, Gives::Inside),
    of("orValue", OPTIONAL, 1, 1, Gives::Inside),
    of("or", OPTIONAL, 1, 1, Gives::Dyn),
    // Texts.
    of("charAt", TEXT, 1, 1, Gives::Text),
    of("format", TEXT, 1, 1, Gives::Text),
    of("indexOf", &[On::Text, On::List], 1, 2, Gives::Int),
    of("lastIndexOf", &[On::Text, On::List], 1, 2, Gives::Int),
    of("join", LIST, 0, 1, Gives::Text),
    of("lowerAscii", TEXT, 0, 0, Gives::Text),
    of("upperAscii", TEXT, 0, 0, Gives::Text),
    of("trim", TEXT, 0, 0, Gives::Text),
    of("reverse", TEXT, 0, 0, Gives::Text),
    of("replace", TEXT, 2, 3, Gives::Text),
    of("split", TEXT, 1, 2, Gives::Texts),
    of("substring", TEXT, 1, 2, Gives::Text),
    of("strings.quote", NOTHING, 1, 1, Gives::Text),
    of("find", TEXT, 1, 1, Gives::Text),
    of("findAll", TEXT, 1, 2, Gives::Texts),
    // Lists and sets.
    of("isSorted", LIST, 0, 0, Gives::Bool),
    of("sum", LIST, 0, 0, Gives::Inside),
    of("min", LIST, 0, 0, Gives::Inside),
    of("max", LIST, 0, 0, Gives::Inside),
    of("sets.contains", NOTHING, 2, 2, Gives::Bool),
    of("sets.equivalent", NOTHING, 2, 2, Gives::Bool),
    of("sets.intersects", NOTHING, 2, 2, Gives::Bool),
    // Addresses.
    of(
        "ip",
        &[On::Nothing, On::Opaque(CIDR)],
        0,
        1,
        Gives::Opaque(IP),
    ),
    of("isIP", NOTHING, 1, 1, Gives::Bool),
    of("ip.isCanonical", NOTHING, 1, 1, Gives::Bool),
    of("family", AN_IP, 0, 0, Gives::Int),
    of("isUnspecified", AN_IP, 0, 0, Gives::Bool),
    of("isLoopback", AN_IP, 0, 0, Gives::Bool),
    of("isLinkLocalMulticast", AN_IP, 0, 0, Gives::Bool),
    of("isLinkLocalUnicast", AN_IP, 0, 0, Gives::Bool),
    of("isGlobalUnicast", AN_IP, 0, 0, Gives::Bool),
    of("cidr", NOTHING, 1, 1, Gives::Opaque(CIDR)),
    of("isCIDR", NOTHING, 1, 1, Gives::Bool),
    of("containsIP", A_CIDR, 1, 1, Gives::Bool),
    of("containsCIDR", A_CIDR, 1, 1, Gives::Bool),
    of("masked", A_CIDR, 0, 0, Gives::Opaque(CIDR)),
    of("prefixLength", A_CIDR, 0, 0, Gives::Int),
    // URLs.
    of("url", NOTHING, 1, 1, Gives::Opaque(URL)),
    of("isURL", NOTHING, 1, 1, Gives::Bool),
    of("getScheme", A_URL, 0, 0, Gives::Text),
    of("getHost", A_URL, 0, 0, Gives::Text),
    of("getHostname", A_URL, 0, 0, Gives::Text),
    of("getPort", A_URL, 0, 0, Gives::Text),
    of("getEscapedPath", A_URL, 0, 0, Gives::Text),
    of("getQuery", A_URL, 0, 0, Gives::Dyn),
    // Quantities.
    of("quantity", NOTHING, 1, 1, Gives::Opaque(QUANTITY)),
    of("isQuantity", NOTHING, 1, 1, Gives::Bool),
    of("sign", A_QUANTITY, 0, 0, Gives::Int),
    of("isInteger", A_QUANTITY, 0, 0, Gives::Bool),
    of("asInteger", A_QUANTITY, 0, 0, Gives::Int),
    of("asApproximateFloat", A_QUANTITY, 0, 0, Gives::Double),
    of("isGreaterThan", A_QUANTITY, 1, 1, Gives::Bool),
    of("isLessThan", A_QUANTITY, 1, 1, Gives::Bool),
    of("compareTo", A_QUANTITY, 1, 1, Gives::Int),
    of("add", A_QUANTITY, 1, 1, Gives::Opaque(QUANTITY)),
    of("sub", A_QUANTITY, 1, 1, Gives::Opaque(QUANTITY)),
];

/// Functions that take the budget, and what they are called then.
const METERED: [(&str, &str); 8] = [
    ("matches", "@matches"),
    ("find", "@find"),
    ("findAll", "@findAll"),
    ("indexOf", "@indexOf"),
    ("lastIndexOf", "@lastIndexOf"),
    ("join", "@join"),
    ("replace", "@replace"),
    ("split", "@split"),
];

/// Functions that look at everything in their arguments.
const DEEP: [&str; 8] = [
    "format",
    "sum",
    "min",
    "max",
    "isSorted",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
];

/// The name under which a function takes the budget, if it does.
pub(super) fn metered(name: &str, member: bool) -> Option<&'static str> {
    let found = METERED.iter().find(|(given, _)| *given == name)?;
    (member || name == "matches").then_some(found.1)
}

pub(super) fn is_known(name: &str) -> bool {
    FUNCTIONS.iter().any(|one| last(one.name) == name)
}

pub(super) fn looks_deep(name: &str) -> bool {
    DEEP.iter().any(|one| last(one) == name)
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Whether `target` is no value but the first half of a function's name, as in `optional.of`.
pub(super) fn is_namespace(target: &IdedExpr, name: &str) -> bool {
    let Expr::Ident(space) = &target.expr else {
        return false;
    };
    let whole = |one: &Function| one.name.split_once('.') == Some((space, name));
    FUNCTIONS.iter().any(whole)
}

/// What a call comes to; `on` is what it is called on.
///
/// # Errors
/// That there is no such function, or none for such arguments.
pub(super) fn result<'s>(
    name: &str,
    on: Option<&Type<'s>>,
    arguments: &[Type<'s>],
) -> Result<Type<'s>, String> {
    let mut named = FUNCTIONS.iter().filter(|one| one.name == name).peekable();
    if named.peek().is_none() {
        return Err(format!(
            "undeclared reference to '{name}' (in container '')"
        ));
    }
    let found = named.find(|one| one.arguments.contains(&arguments.len()) && takes(one, on));
    let Some(found) = found else {
        let all: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let all = all.join(", ");
        let applied = on.map_or_else(|| format!("({all})"), |on| format!("{on}.({all})"));
        return Err(format!(
            "found no matching overload for '{name}' applied to '{applied}'"
        ));
    };
    Ok(match found.gives {
        Gives::Bool => Type::Bool,
        Gives::Int => Type::Int,
        Gives::Uint => Type::Uint,
        Gives::Double => Type::Double,
        Gives::Text => Type::Text,
        Gives::Texts => Type::List(Box::new(Type::Text)),
        Gives::Bytes => Type::Bytes,
        Gives::Timestamp => Type::Timestamp,
        Gives::Duration => Type::Duration,
        Gives::Type => Type::OfTypes,
        Gives::Dyn => Type::Dyn,
        Gives::Opaque(name) => Type::Opaque(name),
        Gives::Inside => match on {
            Some(Type::List(inner) | Type::Optional(inner)) => (**inner).clone(),
            _ => Type::Dyn,
        },
        Gives::OptionalOfArgument => {
            Type::Optional(Box::new(arguments.first().cloned().unwrap_or(Type::Dyn)))
        }
    })
}

fn takes(function: &Function, on: Option<&Type<'_>>) -> bool {
    function.on.iter().any(|one| match (one, on) {
        (On::Nothing, None) => true,
        (On::Nothing, Some(_)) | (_, None) => false,
        (_, Some(Type::Dyn)) => true,
        (On::Text, Some(Type::Text))
        | (On::Bytes, Some(Type::Bytes))
        | (On::List, Some(Type::List(_)))
        | (On::Map, Some(Type::Map(_)))
        | (On::Timestamp, Some(Type::Timestamp))
        | (On::Duration, Some(Type::Duration))
        | (On::Optional, Some(Type::Optional(_))) => true,
        (On::Opaque(one), Some(Type::Opaque(other))) => one == other,
        _ => false,
    })
}
