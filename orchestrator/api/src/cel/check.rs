//! What can be known of an expression before it is evaluated: that every name, field and function in it is there, and
//! that operands fit. Where a type isn't known, evaluation will tell.

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators,
};

use super::types::Type;
use super::{Scope, functions, library};

/// Deepest tree; evaluation goes as deep.
const DEEPEST: usize = 150;
/// Names of types.
const TYPES: [&str; 12] = [
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
    "google.protobuf.Duration",
    "google.protobuf.Timestamp",
];

/// Macros that are calls only when their arguments are others than they take.
const MACROS: [&str; 8] = [
    "all",
    "exists",
    "exists_one",
    "existsOne",
    "map",
    "filter",
    "transformList",
    "transformMap",
];

/// What was found out.
pub(super) struct Checked<'s> {
    pub(super) result: Type<'s>,
    /// Names of the variables that are used.
    pub(super) variables: Vec<String>,
}

/// Looks through an expression.
///
/// # Errors
/// The first thing that is wrong with it, in the language's words.
pub(super) fn check<'s>(tree: &IdedExpr, scope: &Scope<'s>) -> Result<Checked<'s>, String> {
    let mut checker = Checker {
        scope,
        bound: Vec::new(),
        used: Vec::new(),
        depth: 0,
    };
    let result = checker.visit(tree)?;
    Ok(Checked {
        result,
        variables: checker.used,
    })
}

struct Checker<'c, 's> {
    scope: &'c Scope<'s>,
    /// Variables of loops, the innermost last.
    bound: Vec<(String, Type<'s>)>,
    used: Vec<String>,
    depth: usize,
}

impl<'s> Checker<'_, 's> {
    fn visit(&mut self, node: &IdedExpr) -> Result<Type<'s>, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("expression is nested deeper than {DEEPEST}"));
        }
        let found = match &node.expr {
            Expr::Literal(literal) => Ok(literal_type(literal)),
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(all) => self.comprehension(all),
            Expr::List(list) => {
                let mut inner = None;
                for element in &list.elements {
                    let kind = self.visit(element)?;
                    inner = Some(inner.map_or_else(|| kind.clone(), |one| merged(one, &kind)));
                }
                Ok(Type::List(Box::new(inner.unwrap_or(Type::Dyn))))
            }
            Expr::Map(map) => {
                let mut inner = None;
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err("a map has keys and values".to_owned());
                    };
                    self.visit(&entry.key)?;
                    let kind = self.visit(&entry.value)?;
                    inner = Some(inner.map_or_else(|| kind.clone(), |one| merged(one, &kind)));
                }
                Ok(Type::Map(Box::new(inner.unwrap_or(Type::Dyn))))
            }
            Expr::Struct(made) => Err(format!(
                "undeclared reference to '{}' (in container '')",
                made.type_name
            )),
            Expr::Unspecified => Err("the expression is incomplete".to_owned()),
        };
        self.depth -= 1;
        found
    }

    fn ident(&mut self, name: &str) -> Result<Type<'s>, String> {
        if let Some((_, kind)) = self.bound.iter().rev().find(|(one, _)| one == name) {
            return Ok(kind.clone());
        }
        if let Some((_, kind)) = self.scope.iter().find(|(one, _)| *one == name) {
            if !self.used.iter().any(|one| one == name) {
                self.used.push(name.to_owned());
            }
            return Ok(kind.clone());
        }
        if TYPES.contains(&name) {
            return Ok(Type::OfTypes);
        }
        Err(format!(
            "undeclared reference to '{name}' (in container '')"
        ))
    }

    fn select(&mut self, select: &SelectExpr) -> Result<Type<'s>, String> {
        if let Some(name) = qualified(select)
            && TYPES.contains(&name.as_str())
        {
            return Ok(Type::OfTypes);
        }
        let operand = self.visit(&select.operand)?;
        let found = field(&operand, &select.field)?;
        Ok(if select.test { Type::Bool } else { found })
    }

    fn call(&mut self, call: &CallExpr) -> Result<Type<'s>, String> {
        if let Some(target) = &call.target
            && functions::is_namespace(target, &call.func_name)
        {
            let Expr::Ident(space) = &target.expr else {
                return Err("undeclared reference".to_owned());
            };
            let arguments = self.visit_all(&call.args)?;
            return functions::result(&format!("{space}.{}", call.func_name), None, &arguments);
        }
        if call.func_name == operators::OPT_SELECT {
            return self.optional_select(call);
        }
        if call.target.is_some() && MACROS.contains(&call.func_name.as_str()) {
            let name = &call.func_name;
            return Err(format!(
                "undeclared reference to '{name}': with these arguments it is not supported"
            ));
        }
        let on = match &call.target {
            Some(target) => Some(self.visit(target)?),
            None => None,
        };
        let arguments = self.visit_all(&call.args)?;
        let name = call.func_name.as_str();
        if on.is_none() && (name.starts_with(['_', '!', '@', '-'])) {
            return operator(name, &arguments);
        }
        if name == "matches"
            && let Some(Expr::Literal(LiteralValue::String(pattern))) =
                call.args.last().map(|one| &one.expr)
        {
            library::pattern(pattern.inner())?;
        }
        functions::result(name, on.as_ref(), &arguments)
    }

    fn visit_all(&mut self, nodes: &[IdedExpr]) -> Result<Vec<Type<'s>>, String> {
        nodes.iter().map(|one| self.visit(one)).collect()
    }

    /// `a.?b`, which is `b` if it is there.
    fn optional_select(&mut self, call: &CallExpr) -> Result<Type<'s>, String> {
        let [operand, name] = call.args.as_slice() else {
            return Err("an optional field has one name".to_owned());
        };
        let operand = self.visit(operand)?;
        let operand = match operand {
            Type::Optional(inner) => *inner,
            other => other,
        };
        let Expr::Literal(LiteralValue::String(name)) = &name.expr else {
            return Err("an optional field has a name".to_owned());
        };
        Ok(Type::Optional(Box::new(field(&operand, name.inner())?)))
    }

    fn comprehension(&mut self, all: &ComprehensionExpr) -> Result<Type<'s>, String> {
        if all.iter_var2.is_some() {
            return Err("macros with two variables are not supported: use one".to_owned());
        }
        let item = match self.visit(&all.iter_range)? {
            Type::List(inner) => *inner,
            Type::Map(_) => Type::Text,
            Type::Dyn => Type::Dyn,
            other => {
                return Err(format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                ));
            }
        };
        let began = self.visit(&all.accu_init)?;
        let outside = self.bound.len();
        self.bound.push((all.accu_var.clone(), began));
        self.bound.push((all.iter_var.clone(), item));
        let step = self.visit(&all.loop_step)?;
        self.visit(&all.loop_cond)?;
        self.bound.truncate(outside);
        self.bound.push((all.accu_var.clone(), step));
        let result = self.visit(&all.result)?;
        self.bound.truncate(outside);
        Ok(result)
    }
}

fn literal_type(literal: &LiteralValue) -> Type<'static> {
    match literal {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(_) => Type::Text,
        LiteralValue::UInt(_) => Type::Uint,
    }
}

/// `google.protobuf.Duration`, where only names are selected.
fn qualified(select: &SelectExpr) -> Option<String> {
    let before = match &select.operand.expr {
        Expr::Ident(name) => name.clone(),
        Expr::Select(inner) => qualified(inner)?,
        _ => return None,
    };
    Some(format!("{before}.{}", select.field))
}

fn field<'s>(operand: &Type<'s>, name: &str) -> Result<Type<'s>, String> {
    match operand {
        Type::Optional(inner) => Ok(Type::Optional(Box::new(field(inner, name)?))),
        Type::Dyn | Type::Map(_) | Type::Object { .. } => operand
            .field(name)
            .ok_or_else(|| format!("undefined field '{name}'")),
        other => Err(format!("type '{other}' does not support field selection")),
    }
}

/// One type for what may be of either.
fn merged<'s>(one: Type<'s>, other: &Type<'s>) -> Type<'s> {
    if one == *other { one } else { Type::Dyn }
}

fn operator<'s>(name: &str, arguments: &[Type<'s>]) -> Result<Type<'s>, String> {
    let mismatch = || {
        let all: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        format!(
            "found no matching overload for '{name}' applied to '({})'",
            all.join(", ")
        )
    };
    let fits = |one: &Type<'s>, wanted: &Type<'_>| one.fits(wanted);
    match (name, arguments) {
        (operators::CONDITIONAL, [condition, one, other]) => {
            if !fits(condition, &Type::Bool) {
                return Err(mismatch());
            }
            Ok(if one.fits(other) && *other != Type::Dyn {
                other.clone()
            } else {
                merged(one.clone(), other)
            })
        }
        (operators::LOGICAL_AND | operators::LOGICAL_OR, all) => {
            if all.iter().all(|one| fits(one, &Type::Bool)) {
                Ok(Type::Bool)
            } else {
                Err(mismatch())
            }
        }
        (operators::LOGICAL_NOT, [one]) if fits(one, &Type::Bool) => Ok(Type::Bool),
        (operators::NOT_STRICTLY_FALSE, [_]) => Ok(Type::Bool),
        (operators::NEGATE, [one @ (Type::Int | Type::Double | Type::Duration | Type::Dyn)]) => {
            Ok(one.clone())
        }
        (operators::EQUALS | operators::NOT_EQUALS, [one, other]) => {
            // What has no value is compared with null, whatever it is.
            let either_null = *one == Type::Null || *other == Type::Null;
            if either_null || one.fits(other) || other.fits(one) {
                Ok(Type::Bool)
            } else {
                Err(mismatch())
            }
        }
        (
            operators::LESS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS,
            [one, other],
        ) => {
            let number =
                |one: &Type<'_>| matches!(one, Type::Int | Type::Uint | Type::Double | Type::Dyn);
            let ordered = |one: &Type<'_>| {
                number(one)
                    || matches!(
                        one,
                        Type::Bool | Type::Text | Type::Bytes | Type::Timestamp | Type::Duration
                    )
            };
            let same = one.fits(other) || other.fits(one) || number(one) && number(other);
            if same && ordered(one) && ordered(other) {
                Ok(Type::Bool)
            } else {
                Err(mismatch())
            }
        }
        (operators::IN, [_, Type::List(_) | Type::Map(_) | Type::Dyn]) => Ok(Type::Bool),
        (operators::INDEX, [Type::Optional(inner), _]) => match &**inner {
            Type::List(inner) | Type::Map(inner) => Ok(Type::Optional(inner.clone())),
            _ => Ok(Type::Dyn),
        },
        (operators::INDEX, [Type::List(inner) | Type::Map(inner), _]) => Ok((**inner).clone()),
        (operators::INDEX, [Type::Dyn, _]) => Ok(Type::Dyn),
        (operators::OPT_INDEX, [on, _]) => Ok(Type::Optional(Box::new(match on {
            Type::List(inner) | Type::Map(inner) => (**inner).clone(),
            _ => Type::Dyn,
        }))),
        _ => arithmetic(name, arguments).ok_or_else(mismatch),
    }
}

fn arithmetic<'s>(name: &str, arguments: &[Type<'s>]) -> Option<Type<'s>> {
    let [one, other] = arguments else {
        return None;
    };
    let number = |one: &Type<'_>| matches!(one, Type::Int | Type::Uint | Type::Double);
    Some(match (name, one, other) {
        (_, Type::Dyn, Type::List(_)) => other.clone(),
        (_, Type::Dyn, _) | (_, _, Type::Dyn) => Type::Dyn,
        (operators::ADD, Type::List(one), Type::List(other)) => match (&**one, &**other) {
            (Type::Dyn, inner) | (inner, Type::Dyn) => Type::List(Box::new(inner.clone())),
            (one, other) => Type::List(Box::new(merged(one.clone(), other))),
        },
        (operators::ADD, Type::Text | Type::Bytes, _) if one == other => one.clone(),
        (operators::ADD | operators::SUBSTRACT, Type::Timestamp, Type::Duration)
        | (operators::ADD, Type::Duration, Type::Timestamp) => Type::Timestamp,
        (operators::ADD | operators::SUBSTRACT, Type::Duration, Type::Duration)
        | (operators::SUBSTRACT, Type::Timestamp, Type::Timestamp) => Type::Duration,
        (operators::MODULO, Type::Double, _) => return None,
        (
            operators::ADD
            | operators::SUBSTRACT
            | operators::MULTIPLY
            | operators::DIVIDE
            | operators::MODULO,
            _,
            _,
        ) if one == other && number(one) => one.clone(),
        _ => return None,
    })
}
