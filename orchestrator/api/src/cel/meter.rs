//! Rewriting an expression so that it pays for what it does (see [`super::budget`]): loops for what they go over, sums,
//! comparisons and calls for what they look at or make, lists for what they keep. Functions that could make much of
//! little take the budget themselves.

use std::mem::take;

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, operators};

use super::{budget, functions};

/// Pays for every turn of a loop: the budget, what a turn costs, what is gone over, which is passed on.
pub(super) const OVER: &str = "@over";
/// Pays for all of its argument, and passes it on.
pub(super) const SEEN: &str = "@seen";
/// Pays for its argument, but not for what is in it.
pub(super) const GLANCED: &str = "@glanced";
/// Adds up a list of terms, each of which was paid for, and pays for what is made on the way before it is made.
pub(super) const TOTAL: &str = "@total";
/// Pays for an argument that is copied and kept.
pub(super) const KEPT: &str = "@kept";

/// The expression with what it costs.
pub(super) fn metered(mut tree: IdedExpr) -> IdedExpr {
    meter(&mut tree);
    tree
}

fn meter(node: &mut IdedExpr) {
    match &mut node.expr {
        Expr::Call(_) => meter_call(node),
        Expr::Comprehension(all) => {
            for part in [
                &mut all.iter_range,
                &mut all.accu_init,
                &mut all.loop_step,
                &mut all.result,
            ] {
                meter(part);
            }
            let nodes = nodes(&all.loop_step);
            let range = take(&mut all.iter_range);
            all.iter_range = call(OVER, vec![ident(budget::NAME), int(nodes), range]);
        }
        Expr::List(list) => {
            for element in &mut list.elements {
                meter(element);
                pay(element, KEPT);
            }
        }
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    meter(&mut entry.key);
                    meter(&mut entry.value);
                    pay(&mut entry.value, KEPT);
                }
            }
        }
        Expr::Select(select) => meter(&mut select.operand),
        Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}

fn meter_call(node: &mut IdedExpr) {
    let Expr::Call(call) = &mut node.expr else {
        return;
    };
    if call.func_name == operators::ADD {
        // What a loop collects is appended to in place, and the loop has paid for its turns.
        if call.args.first().is_some_and(is_accumulator) {
            return call.args.iter_mut().for_each(meter);
        }
        return meter_sum(node);
    }
    if let Some(target) = &mut call.target {
        meter(target);
    }
    call.args.iter_mut().for_each(meter);
    match call.func_name.as_str() {
        operators::EQUALS | operators::NOT_EQUALS => {
            if !call.args.iter().any(is_literal)
                && let Some(first) = call.args.first_mut()
            {
                pay(first, SEEN);
            }
        }
        operators::IN => {
            if let Some(container) = call.args.get_mut(1) {
                pay(container, SEEN);
            }
        }
        _ => meter_function(call),
    }
}

fn meter_function(call: &mut CallExpr) {
    if let Some(name) = functions::metered(&call.func_name, call.target.is_some()) {
        let budget = ident(budget::NAME);
        let target = call.target.take().map(|target| *target);
        let args = take(&mut call.args);
        call.args = std::iter::once(budget).chain(target).chain(args).collect();
        name.clone_into(&mut call.func_name);
        return;
    }
    let known = functions::is_known(&call.func_name);
    let how = if functions::looks_deep(&call.func_name) {
        SEEN
    } else {
        GLANCED
    };
    if let Some(target) = &mut call.target
        && !functions::is_namespace(target, &call.func_name)
    {
        pay(target, how);
    }
    if known {
        call.args.iter_mut().for_each(|one| pay(one, how));
    }
}

/// A chain of sums becomes one total of its terms, which pay first. It is as long as the source lets it be, and no deeper
/// than its deepest term.
fn meter_sum(node: &mut IdedExpr) {
    let mut terms = Vec::new();
    let mut rest = take(node);
    loop {
        match rest.expr {
            Expr::Call(mut sum) if sum.func_name == operators::ADD && sum.args.len() == 2 => {
                terms.extend(sum.args.pop());
                rest = sum.args.pop().unwrap_or_default();
            }
            _ => break,
        }
    }
    terms.push(rest);
    terms.reverse();
    for term in &mut terms {
        meter(term);
        pay(term, SEEN);
    }
    let terms = IdedExpr {
        id: 0,
        expr: Expr::List(ListExpr::new(terms)),
    };
    *node = call(TOTAL, vec![ident(budget::NAME), terms]);
}

fn is_accumulator(node: &IdedExpr) -> bool {
    matches!(&node.expr, Expr::Ident(name) if name.starts_with('@'))
}

fn is_literal(node: &IdedExpr) -> bool {
    matches!(node.expr, Expr::Literal(_))
}

fn ident(name: &str) -> IdedExpr {
    IdedExpr {
        id: 0,
        expr: Expr::Ident(name.to_owned()),
    }
}

/// Has `node` paid for, unless it costs nothing.
fn pay(node: &mut IdedExpr, how: &str) {
    if is_literal(node) || is_accumulator(node) {
        return;
    }
    let inner = take(node);
    *node = call(how, vec![ident(budget::NAME), inner]);
}

fn call(name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    IdedExpr {
        id: 0,
        expr: Expr::Call(CallExpr {
            func_name: name.to_owned(),
            target: None,
            args,
        }),
    }
}

fn int(number: i64) -> IdedExpr {
    IdedExpr {
        id: 0,
        expr: Expr::Literal(LiteralValue::Int(number.into())),
    }
}

/// What one turn of a loop evaluates, without loops inside.
pub(super) fn nodes(node: &IdedExpr) -> i64 {
    let all = |parts: &[IdedExpr]| parts.iter().map(nodes).sum::<i64>();
    1 + match &node.expr {
        Expr::Call(call) => call.target.as_deref().map_or(0, nodes) + all(&call.args),
        Expr::Comprehension(inner) => {
            nodes(&inner.iter_range) + nodes(&inner.accu_init) + nodes(&inner.result)
        }
        Expr::List(list) => all(&list.elements),
        Expr::Map(map) => {
            let entry = |entry: &EntryExpr| match entry {
                EntryExpr::MapEntry(entry) => nodes(&entry.key) + nodes(&entry.value),
                EntryExpr::StructField(_) => 0,
            };
            map.entries.iter().map(|one| entry(&one.expr)).sum()
        }
        Expr::Select(select) => nodes(&select.operand),
        Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => 0,
    }
}
