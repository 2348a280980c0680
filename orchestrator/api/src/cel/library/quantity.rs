//! Quantities, to a thousandth.

use std::cmp::Ordering;

use cel::common::types::{CelDouble, Type};
use cel::common::value::CowVal;
use cel::{Env, ExecutionError};
use waggle_model::Quantity;

use super::super::functions::QUANTITY;
use super::{
    Declared, Function, INT_TYPE, Named, Own, STRING_TYPE, error, int, own, string, truth, whole,
};

static QUANTITY_TYPE: Type = Type::new_unspecified_type(QUANTITY);

/// In thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Milli(i128);

impl Named for Milli {
    fn kind() -> &'static Type {
        &QUANTITY_TYPE
    }
}

fn parsed(text: &str) -> Option<Milli> {
    text.parse::<Quantity>().ok().map(|one| Milli(one.milli()))
}

/// The argument after the quantity: another, or a whole number.
fn other(all: &[CowVal<'_, '_>]) -> Result<Milli, ExecutionError> {
    if let Ok(one) = own::<Milli>(all, 1) {
        return Ok(*one);
    }
    Ok(Milli(i128::from(int(all, 1)?) * 1000))
}

fn sum<'b, 'v>(all: &[CowVal<'_, '_>], sign: i128) -> super::Answer<'b, 'v> {
    let (one, other) = (own::<Milli>(all, 0)?.0, other(all)?.0);
    let sum = other
        .checked_mul(sign)
        .and_then(|other| one.checked_add(other));
    let sum = sum.ok_or_else(|| error("quantity overflow"))?;
    Ok(CowVal::owned(Own(Milli(sum))))
}

fn sign(order: Ordering) -> i64 {
    match order {
        Ordering::Less => -1,
        Ordering::Equal => 0,
        Ordering::Greater => 1,
    }
}

pub(super) fn register(env: &mut Env) -> Declared {
    let kind = || QUANTITY_TYPE.to_owned();
    env.add_overload("quantity", "string_to_quantity", vec![STRING_TYPE], |all| {
        let given = string(&all, 0)?;
        let why = || error(format!("quantity {given:?} can't be parsed: write a number with an optional suffix such as 500m or 64Mi"));
        Ok(CowVal::owned(Own(parsed(given).ok_or_else(why)?)))
    })?;
    env.add_overload("isQuantity", "is_quantity", vec![STRING_TYPE], |all| {
        truth(parsed(string(&all, 0)?).is_some())
    })?;
    let alone: [(&str, Function); 4] = [
        ("sign", |all| whole(sign(own::<Milli>(&all, 0)?.0.cmp(&0)))),
        ("isInteger", |all| {
            let one = own::<Milli>(&all, 0)?.0;
            truth(one % 1000 == 0 && i64::try_from(one / 1000).is_ok())
        }),
        ("asInteger", |all| {
            let one = own::<Milli>(&all, 0)?.0;
            let number = i64::try_from(one / 1000).ok().filter(|_| one % 1000 == 0);
            whole(number.ok_or_else(|| error("cannot convert value to integer"))?)
        }),
        ("asApproximateFloat", |all| {
            let one = own::<Milli>(&all, 0)?.0;
            #[expect(clippy::cast_precision_loss, reason = "it is asked for approximately")]
            let number = one as f64 / 1000.0;
            Ok(CowVal::owned(CelDouble::from(number)))
        }),
    ];
    for (name, function) in alone {
        env.add_member_overload(name, name, kind(), vec![], function)?;
    }
    let with_another: [(&str, Function); 3] = [
        ("isGreaterThan", |all| {
            truth(*own::<Milli>(&all, 0)? > *own::<Milli>(&all, 1)?)
        }),
        ("isLessThan", |all| {
            truth(*own::<Milli>(&all, 0)? < *own::<Milli>(&all, 1)?)
        }),
        ("compareTo", |all| {
            whole(sign(own::<Milli>(&all, 0)?.cmp(own::<Milli>(&all, 1)?)))
        }),
    ];
    for (name, function) in with_another {
        env.add_member_overload(name, name, kind(), vec![kind()], function)?;
    }
    for (name, function) in [
        ("add", (|all| sum(&all, 1)) as Function),
        ("sub", |all| sum(&all, -1)),
    ] {
        env.add_member_overload(name, name, kind(), vec![kind()], function)?;
        env.add_member_overload(
            name,
            &format!("{name}_int"),
            kind(),
            vec![INT_TYPE],
            function,
        )?;
    }
    Ok(())
}
