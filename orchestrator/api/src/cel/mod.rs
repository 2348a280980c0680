//! The Common Expression Language as Kubernetes has it: expressions are checked against the types of their variables when
//! they are declared, and evaluated within a budget. Parsing and evaluation are the `cel` crate's; Kubernetes' functions,
//! types of schemas and the budget are here. Where expressions come from and what they decide is not.
//!
//! Language: <https://github.com/google/cel-spec>, Kubernetes' library:
//! <https://kubernetes.io/docs/reference/using-api/cel/>.

mod budget;
mod check;
mod functions;
mod library;
mod meter;
mod types;
mod value;

use std::sync::{Arc, LazyLock};

use cel::common::ast::IdedExpr;
use cel::common::types::{CelBool, CelOptional, CelString};
use cel::common::value::Val;
use cel::parser::PrattParser;
use cel::{Context, Env, ExecutionError, Value};

pub(crate) use budget::Budget;
pub(crate) use types::Type;
pub(crate) use value::{of_json, of_schema};

/// Longest expression, in bytes.
const LONGEST: usize = 16 << 10;
/// Most nodes of an expression.
const LARGEST: usize = 4_000;
/// Deepest nesting of expressions in source text.
const DEEPEST_SOURCE: u16 = 60;

/// Up to so many nodes, an expression is evaluated on the stack that there is.
const SHALLOW: u64 = 30;
/// Stack that the deepest tree takes, in bytes, with room to spare: unoptimized, 30 kB a level.
const STACK: usize = 8 << 20;

/// The functions of Kubernetes' library.
static LIBRARY: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(library::env()));

/// An expression that was checked.
#[derive(Debug, Clone)]
pub(crate) struct Expression {
    tree: IdedExpr,
    /// Paid for each evaluation: what is not paid for one by one.
    nodes: u64,
    variables: Vec<String>,
}

/// Why an expression has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It took too many steps.
    OutOfBudget,
    /// What it met.
    Error(String),
}

/// What an expression is about: its variables with their types.
pub(crate) type Scope<'s> = [(&'static str, Type<'s>)];

impl Expression {
    /// Compiles an expression that has to come to `wanted`.
    ///
    /// # Errors
    /// What makes it none: syntax, an unknown name or field, types that don't fit, a function that isn't there.
    pub(crate) fn compile(
        source: &str,
        scope: &Scope<'_>,
        wanted: &Type<'_>,
    ) -> Result<Self, String> {
        if source.len() > LONGEST {
            return Err(format!("is longer than {LONGEST} bytes"));
        }
        deep(|| Self::compile_deep(source, scope, wanted))
    }

    fn compile_deep(source: &str, scope: &Scope<'_>, wanted: &Type<'_>) -> Result<Self, String> {
        let parser = PrattParser::new()
            .enable_optional_syntax(true)
            .max_recursion_depth(DEEPEST_SOURCE)
            .max_expression_node_count(LARGEST);
        let tree = parser
            .parse(source)
            .map_err(|errors| format!("compilation failed: {}", shortened(errors.to_string())))?;
        let checked =
            check::check(&tree, scope).map_err(|why| format!("compilation failed: {why}"))?;
        if !checked.result.fits(wanted) {
            return Err(format!("must evaluate to a {wanted}"));
        }
        let nodes = u64::try_from(meter::nodes(&tree)).unwrap_or(u64::MAX);
        let tree = meter::metered(tree);
        let variables = checked.variables;
        Ok(Self {
            tree,
            nodes,
            variables,
        })
    }

    /// Whether the variable is used.
    pub(crate) fn uses(&self, variable: &str) -> bool {
        self.variables.iter().any(|one| one == variable)
    }
}

/// Values of variables, for expressions to be evaluated with.
pub(crate) struct Evaluation<'v> {
    context: Context<'v, 'v>,
    budget: Budget,
}

impl<'v> Evaluation<'v> {
    /// With no variable. What is evaluated is taken from `budget`.
    pub(crate) fn new(budget: &Budget) -> Self {
        let mut context = Context::with_env(Arc::clone(&LIBRARY));
        context.add_variable_as_val(budget::NAME, Box::new(budget.clone()));
        let budget = budget.clone();
        Self { context, budget }
    }

    /// Gives a variable its value.
    pub(crate) fn bind(&mut self, name: &str, value: Box<dyn Val + 'v>) {
        self.context.add_variable_as_val(name, value);
    }

    /// Gives a variable an optional value.
    pub(crate) fn bind_optional(&mut self, name: &str, value: Option<Box<dyn Val + 'v>>) {
        self.bind(name, Box::new(CelOptional::from(value)));
    }

    /// What a condition comes to.
    ///
    /// # Errors
    /// Why it comes to nothing.
    pub(crate) fn holds(&self, expression: &Expression) -> Result<bool, Failure> {
        self.run(expression, |value| {
            value.downcast_ref::<CelBool>().map(|one| *one.inner())
        })
    }

    /// What an expression of a text comes to.
    ///
    /// # Errors
    /// Why it comes to nothing.
    pub(crate) fn text(&self, expression: &Expression) -> Result<String, Failure> {
        self.run(expression, |value| {
            value
                .downcast_ref::<CelString<'_>>()
                .map(|one| one.inner().to_owned())
        })
    }

    fn run<T>(
        &self,
        expression: &Expression,
        take: impl FnOnce(&(dyn Val + 'v)) -> Option<T>,
    ) -> Result<T, Failure> {
        if self.budget.pay(expression.nodes).is_err() {
            return Err(Failure::OutOfBudget);
        }
        let resolve = || Value::resolve_val(&expression.tree, &self.context);
        let result = if expression.nodes > SHALLOW {
            deep(resolve)
        } else {
            resolve()
        };
        // An error inside may have been swallowed by `||`.
        if self.budget.is_spent() {
            return Err(Failure::OutOfBudget);
        }
        let value = result.map_err(|error| Failure::Error(said(&error)))?;
        let kind = value.get_type().name().to_owned();
        take(value.as_ref())
            .ok_or_else(|| Failure::Error(format!("unexpected result of type {kind}")))
    }
}

/// Does what goes as deep as an expression, which a thread's usual stack has no room for.
fn deep<T>(what: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(STACK - (1 << 20), STACK, what)
}

/// The error in the language's own words.
fn said(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        ExecutionError::FunctionError { message, .. } => message.clone(),
        ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
        ExecutionError::RemainderByZero(_) => "modulus by zero".to_owned(),
        ExecutionError::Overflow(..) => "integer overflow".to_owned(),
        ExecutionError::IndexOutOfBounds(_) => "index out of bounds".to_owned(),
        other => shortened(other.to_string()),
    }
}

/// An error may show whole values, or the source over and over.
fn shortened(mut text: String) -> String {
    const MOST: usize = 500;
    if text.len() > MOST {
        let end = (0..=MOST).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push_str("...");
    }
    text
}

/// Compiles whatever it is and evaluates it if it can be.
#[cfg(test)]
pub(crate) fn try_out(source: &str, object: &serde_json::Value) {
    let scope = [("self", Type::Dyn)];
    for wanted in [Type::Bool, Type::Text] {
        let Ok(expression) = Expression::compile(source, &scope, &wanted) else {
            continue;
        };
        let mut evaluation = Evaluation::new(&Budget::of(200_000));
        evaluation.bind("self", of_json(object));
        let _ = evaluation.holds(&expression);
        let _ = evaluation.text(&expression);
    }
}

#[cfg(test)]
mod tests;
