//! What Kubernetes' functions do. Which there are is in [`super::functions`].

mod net;
mod quantity;
mod text;
mod url;

use std::any::Any;
use std::cmp::Ordering;
use std::fmt::Debug;

use cel::common::types::{
    CelBool, CelDouble, CelDuration, CelInt, CelList, CelString, CelUInt, DYN_TYPE, INT_TYPE,
    LIST_TYPE, STRING_TYPE, Type,
};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::{Env, ExecutionError, extensions};

use super::{budget, meter};

pub(super) use text::pattern;

/// Pairs that sets are compared in at most: 500 items with 500.
const MOST_COMPARED: usize = 250_000;

type Answer<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;
type Function = cel::common::functions::Function;

/// The standard functions and Kubernetes'.
#[expect(
    clippy::expect_used,
    reason = "names and types are all constants, and a test makes one"
)]
pub(super) fn env() -> Env {
    let mut env = Env::stdlib();
    extensions::strings(&mut env)
        .and_then(|()| register(&mut env))
        .expect("no function is declared twice");
    env
}

type Declared = Result<(), cel::DeclarationError>;

fn register(env: &mut Env) -> Declared {
    let of_budget = || vec![DYN_TYPE, DYN_TYPE];
    env.add_overload(
        meter::OVER,
        meter::OVER,
        vec![DYN_TYPE, DYN_TYPE, DYN_TYPE],
        over,
    )?;
    env.add_overload(meter::SEEN, meter::SEEN, of_budget(), seen)?;
    env.add_overload(meter::GLANCED, meter::GLANCED, of_budget(), glanced)?;
    env.add_overload(meter::KEPT, meter::KEPT, of_budget(), kept)?;
    env.add_overload(meter::TOTAL, meter::TOTAL, of_budget(), total)?;
    for (name, function) in [
        ("isSorted", is_sorted as Function),
        ("sum", sum),
        ("min", least),
        ("max", greatest),
    ] {
        env.add_member_overload(name, name, LIST_TYPE, vec![], function)?;
    }
    for (name, function) in [
        ("sets.contains", sets_contain as Function),
        ("sets.equivalent", sets_are_equivalent),
        ("sets.intersects", sets_intersect),
    ] {
        env.add_overload(name, name, vec![LIST_TYPE, LIST_TYPE], function)?;
    }
    text::register(env)?;
    net::register(env)?;
    url::register(env)?;
    quantity::register(env)
}

/// A value of one of the library's own types.
#[derive(Debug, Clone, PartialEq)]
struct Own<T>(T);

/// What makes a type one of the library's own.
trait Named: Debug + Clone + PartialEq + Send + Sync + 'static {
    fn kind() -> &'static Type;
}

impl<T: Named> Val for Own<T> {
    fn get_type(&self) -> &Type {
        T::kind()
    }

    fn cel_type() -> &'static Type {
        T::kind()
    }

    fn equals(&self, other: &dyn Val) -> bool {
        other
            .downcast_ref::<Self>()
            .is_some_and(|other| self == other)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
impl<T: Named> StaticVal for Own<T> {}

/// An argument of one of the library's own types.
fn own<'b, T: Named>(
    arguments: &'b [CowVal<'_, '_>],
    index: usize,
) -> Result<&'b T, ExecutionError> {
    let found = arguments
        .get(index)
        .and_then(|one| one.downcast_ref::<Own<T>>());
    found
        .map(|one| &one.0)
        .ok_or_else(|| error("unexpected argument"))
}

fn error(why: impl ToString) -> ExecutionError {
    ExecutionError::function_error("call", why)
}

fn mismatch(name: &str, arguments: &[CowVal<'_, '_>]) -> ExecutionError {
    let kinds = arguments.iter().map(|one| one.get_type().name().to_owned());
    ExecutionError::no_such_overload(name, kinds.collect())
}

/// A text among the arguments.
fn string<'b>(arguments: &'b [CowVal<'_, '_>], index: usize) -> Result<&'b str, ExecutionError> {
    let found = arguments
        .get(index)
        .and_then(|one| one.downcast_ref::<CelString<'_>>());
    found
        .map(CelString::inner)
        .ok_or_else(|| error("expected a string"))
}

/// A whole number among the arguments.
fn int(arguments: &[CowVal<'_, '_>], index: usize) -> Result<i64, ExecutionError> {
    let found = arguments
        .get(index)
        .and_then(|one| one.downcast_ref::<CelInt>());
    found
        .map(|one| *one.inner())
        .ok_or_else(|| error("expected an int"))
}

fn list<'b, 'v>(
    arguments: &'b [CowVal<'_, 'v>],
    index: usize,
) -> Result<&'b [Box<dyn Val + 'v>], ExecutionError> {
    let found = arguments
        .get(index)
        .and_then(|one| one.downcast_ref::<CelList<'v>>());
    found
        .map(CelList::inner)
        .ok_or_else(|| error("expected a list"))
}

fn truth<'b, 'v>(holds: bool) -> Answer<'b, 'v> {
    Ok(CowVal::owned(CelBool::from(holds)))
}

fn whole<'b, 'v>(number: i64) -> Answer<'b, 'v> {
    Ok(CowVal::owned(CelInt::from(number)))
}

fn words<'b, 'v>(text: impl Into<String>) -> Answer<'b, 'v> {
    Ok(CowVal::owned(CelString::from(text.into())))
}

fn over<'b, 'v>(mut arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let value = arguments.pop().ok_or_else(|| error("nothing to pay for"))?;
    let budget = budget::of(&arguments)?;
    budget.pay_for(value.as_ref(), 1)?;
    let turns = value.as_sizer().map_or(1, |one| *one.size().inner());
    budget.pay(turns.saturating_mul(int(&arguments, 1)?).unsigned_abs())?;
    Ok(value)
}

fn seen<'b, 'v>(mut arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let value = arguments.pop().ok_or_else(|| error("nothing to pay for"))?;
    budget::of(&arguments)?.pay_for(value.as_ref(), 1)?;
    Ok(value)
}

fn glanced<'b, 'v>(mut arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let value = arguments.pop().ok_or_else(|| error("nothing to pay for"))?;
    let text = value
        .downcast_ref::<CelString<'_>>()
        .map_or(0, |one| one.inner().len());
    budget::of(&arguments)?.pay_text(text)?;
    Ok(value)
}

/// What is kept takes memory, about a hundred bytes for each step.
fn kept<'b, 'v>(mut arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let value = arguments.pop().ok_or_else(|| error("nothing to pay for"))?;
    budget::of(&arguments)?.pay_for(value.as_ref(), 8)?;
    Ok(value)
}

/// The terms of a chain of sums, added up.
fn total<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let budget = budget::of(&arguments)?;
    let terms = list(&arguments, 1)?;
    let text = |one: &(dyn Val + 'v)| {
        let text = one.downcast_ref::<CelString<'_>>();
        text.map(|text| text.inner().to_owned())
    };
    let texts: Option<Vec<String>> = terms.iter().map(|one| text(one.as_ref())).collect();
    if let Some(texts) = texts {
        return words(texts.concat());
    }
    let Some((first, rest)) = terms.split_first() else {
        return Err(error("no terms"));
    };
    let mut sum = first.clone();
    for one in rest {
        budget.pay_for(sum.as_ref(), 1)?;
        let adder = sum.as_adder().ok_or_else(|| error("no such overload"))?;
        let next = adder.add(one.as_ref())?.into_owned();
        sum = next;
    }
    Ok(CowVal::Owned(sum))
}

fn compare(one: &dyn Val, other: &dyn Val) -> Result<Ordering, ExecutionError> {
    let comparer = one
        .as_comparer()
        .ok_or_else(|| error("the list's items can't be compared"))?;
    comparer.compare(other)
}

fn is_sorted<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    for pair in list(&arguments, 0)?.windows(2) {
        if let [one, other] = pair
            && compare(one.as_ref(), other.as_ref())? == Ordering::Greater
        {
            return truth(false);
        }
    }
    truth(true)
}

fn sum<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let items = list(&arguments, 0)?;
    let Some((first, rest)) = items.split_first() else {
        return whole(0);
    };
    let number = |one: &dyn Val| {
        one.downcast_ref::<CelInt>().is_some()
            || one.downcast_ref::<CelUInt>().is_some()
            || one.downcast_ref::<CelDouble>().is_some()
            || one.downcast_ref::<CelDuration>().is_some()
    };
    if !number(first.as_ref()) {
        return Err(error("only numbers and durations have a sum"));
    }
    let mut sum = first.clone();
    for one in rest {
        let adder = sum
            .as_adder()
            .ok_or_else(|| error("the list's items have no sum"))?;
        let next = adder.add(one.as_ref())?.into_owned();
        sum = next;
    }
    Ok(CowVal::Owned(sum))
}

fn least<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    extreme(&arguments, "min", Ordering::Less)
}

fn greatest<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    extreme(&arguments, "max", Ordering::Greater)
}

fn extreme<'b, 'v>(arguments: &[CowVal<'_, 'v>], name: &str, better: Ordering) -> Answer<'b, 'v> {
    let (first, rest) = list(arguments, 0)?
        .split_first()
        .ok_or_else(|| error(format!("{name} called on empty list")))?;
    let mut best = first;
    for one in rest {
        if compare(one.as_ref(), best.as_ref())? == better {
            best = one;
        }
    }
    Ok(CowVal::Owned(best.clone()))
}

/// Refuses sets whose items can't be compared, each with each, in a reasonable time.
fn bounded(all: usize, part: usize) -> Result<(), ExecutionError> {
    if all.saturating_mul(part) <= MOST_COMPARED {
        return Ok(());
    }
    Err(error(format!(
        "sets of {all} and {part} items are too large to be compared"
    )))
}

/// Whether everything of `part` is in `all`.
fn covers(arguments: &[CowVal<'_, '_>], all: usize, part: usize) -> Result<bool, ExecutionError> {
    let (all, part) = (list(arguments, all)?, list(arguments, part)?);
    bounded(all.len(), part.len())?;
    Ok(part
        .iter()
        .all(|one| all.iter().any(|other| one.equals(other.as_ref()))))
}

fn sets_contain<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    truth(covers(&arguments, 0, 1)?)
}

fn sets_are_equivalent<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    truth(covers(&arguments, 0, 1)? && covers(&arguments, 1, 0)?)
}

fn sets_intersect<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let (all, part) = (list(&arguments, 0)?, list(&arguments, 1)?);
    bounded(all.len(), part.len())?;
    truth(
        part.iter()
            .any(|one| all.iter().any(|other| one.equals(other.as_ref()))),
    )
}
