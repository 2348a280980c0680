//! Texts, and lists of them: functions that could make much of little, or take long for it, pay for that first.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use cel::common::types::{CelList, CelString};
use cel::common::value::{CowVal, Val};
use cel::{Env, ExecutionError};
use regex::Regex;

use super::{
    Answer, DYN_TYPE, Declared, Function, budget, error, int, list, mismatch, string, truth, whole,
    words,
};

/// Patterns that are kept compiled.
const KEPT_PATTERNS: usize = 64;

static PATTERNS: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);

pub(super) fn register(env: &mut Env) -> Declared {
    let functions: [(&str, std::ops::RangeInclusive<usize>, Function); 8] = [
        ("@matches", 2..=2, matches),
        ("@find", 2..=2, find),
        ("@findAll", 2..=3, find_all),
        ("@indexOf", 2..=3, index_of),
        ("@lastIndexOf", 2..=3, last_index_of),
        ("@join", 1..=2, join),
        ("@replace", 3..=4, replace),
        ("@split", 2..=3, split),
    ];
    for (name, arguments, function) in functions {
        for count in arguments {
            // The budget comes first.
            let types = (0..=count).map(|_| DYN_TYPE).collect();
            env.add_overload(name, &format!("{name}{count}"), types, function)?;
        }
    }
    Ok(())
}

/// The pattern, compiled.
///
/// # Errors
/// What is wrong with it.
pub(in crate::cel) fn pattern(given: &str) -> Result<Regex, String> {
    let kept = || PATTERNS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(one) = kept().get(given) {
        return Ok(one.clone());
    }
    let made = crate::pattern::compile(given)?;
    let mut kept = kept();
    if kept.len() >= KEPT_PATTERNS {
        kept.clear();
    }
    kept.insert(given.to_owned(), made.clone());
    Ok(made)
}

/// Pays for a pattern being compiled and looked for in a text.
fn search(arguments: &[CowVal<'_, '_>]) -> Result<Regex, ExecutionError> {
    let (text, given) = (string(arguments, 1)?, string(arguments, 2)?);
    let budget = budget::of(arguments)?;
    // As Kubernetes has it: a state machine of the pattern's size goes over the text.
    budget.pay((1 + text.len() as u64 / 10) * (1 + given.len() as u64 / 4))?;
    pattern(given).map_err(error)
}

fn matches<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let pattern = search(&arguments)?;
    truth(pattern.is_match(string(&arguments, 1)?))
}

fn find<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let pattern = search(&arguments)?;
    let found = pattern.find(string(&arguments, 1)?);
    words(found.map_or("", |one| one.as_str()))
}

fn find_all<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let pattern = search(&arguments)?;
    let text = string(&arguments, 1)?;
    let most = match arguments.get(3) {
        Some(_) => usize::try_from(int(&arguments, 3)?).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    let budget = budget::of(&arguments)?;
    let mut found = Vec::new();
    for one in pattern.find_iter(text).take(most) {
        // The next search may go over all that is left.
        budget.pay_text(text.len() - one.start())?;
        found.push(one.as_str());
    }
    texts(found.into_iter())
}

fn texts<'b, 'v, 't>(parts: impl Iterator<Item = &'t str>) -> Answer<'b, 'v> {
    let parts = parts.map(|one| -> Box<dyn Val> { Box::new(CelString::from(one.to_owned())) });
    Ok(CowVal::owned(CelList::from(parts.collect::<Vec<_>>())))
}

fn index_of<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    locate(&arguments, "indexOf", true)
}

fn last_index_of<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    locate(&arguments, "lastIndexOf", false)
}

/// Where something is in a list, or a text in a text (in characters); -1 when it is nowhere.
fn locate<'b, 'v>(arguments: &[CowVal<'_, 'v>], name: &str, first: bool) -> Answer<'b, 'v> {
    let budget = budget::of(arguments)?;
    let [_, within, wanted, ..] = arguments else {
        return Err(mismatch(name, arguments));
    };
    if let Some(items) = within.downcast_ref::<CelList<'v>>() {
        budget.pay_for(within.as_ref(), 1)?;
        let is = |one: &(dyn Val + 'v)| one.equals(wanted.as_ref());
        let mut items = items.inner().iter().map(AsRef::as_ref);
        let found = if first {
            items.position(is)
        } else {
            items.rposition(is)
        };
        return whole(position(found));
    }
    let (text, wanted) = (string(arguments, 1)?, string(arguments, 2)?);
    budget.pay(1 + text.len() as u64 / 4)?;
    let length = text.chars().count();
    let offset = match arguments.get(3) {
        None if first => 0,
        None => length,
        Some(_) => {
            let given = int(arguments, 3)?;
            let offset = usize::try_from(given).ok().filter(|one| *one <= length);
            offset.ok_or_else(|| error(format!("index out of range: {given}")))?
        }
    };
    // Where the character at `offset` begins.
    let byte = text
        .char_indices()
        .nth(offset)
        .map_or(text.len(), |(byte, _)| byte);
    let found = if first {
        text[byte..].find(wanted).map(|found| byte + found)
    } else {
        // The last that begins at `offset` or before.
        let end = (byte + wanted.len()).min(text.len());
        let end = (end..=text.len()).find(|end| text.is_char_boundary(*end));
        text[..end.unwrap_or(text.len())].rfind(wanted)
    };
    whole(position(found.map(|byte| text[..byte].chars().count())))
}

fn position(found: Option<usize>) -> i64 {
    found.and_then(|one| i64::try_from(one).ok()).unwrap_or(-1)
}

fn join<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let items = list(&arguments, 1)?;
    let between = match arguments.get(2) {
        Some(_) => string(&arguments, 2)?,
        None => "",
    };
    let budget = budget::of(&arguments)?;
    if let Some(all) = arguments.get(1) {
        budget.pay_for(all.as_ref(), 1)?;
    }
    budget.pay_text(between.len().saturating_mul(items.len()))?;
    let part = |one: &(dyn Val + 'v)| -> Result<String, ExecutionError> {
        let text = one.downcast_ref::<CelString<'_>>();
        let text =
            text.ok_or_else(|| error("join called on a list of something other than strings"))?;
        Ok(text.inner().to_owned())
    };
    let parts: Vec<String> = items
        .iter()
        .map(|one| part(one.as_ref()))
        .collect::<Result<_, _>>()?;
    words(parts.join(between))
}

fn replace<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let (text, from, to) = (
        string(&arguments, 1)?,
        string(&arguments, 2)?,
        string(&arguments, 3)?,
    );
    let most = match arguments.get(4) {
        Some(_) => usize::try_from(int(&arguments, 4)?).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    let times = (text.len() / from.len().max(1) + 1).min(most);
    let size = text.len().saturating_add(times.saturating_mul(to.len()));
    budget::of(&arguments)?.pay_text(size)?;
    words(text.replacen(from, to, most))
}

fn split<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let (text, by) = (string(&arguments, 1)?, string(&arguments, 2)?);
    // Each part takes the memory of a value.
    budget::of(&arguments)?.pay(1 + text.len() as u64)?;
    let most = match arguments.get(3) {
        Some(_) => int(&arguments, 3)?,
        None => -1,
    };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if most == 0 {
        return texts(std::iter::empty());
    }
    if !by.is_empty() {
        return texts(text.splitn(most, by));
    }
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let end = if parts.len() + 1 == most {
            rest.len()
        } else {
            first.len_utf8()
        };
        parts.push(&rest[..end]);
        rest = &rest[end..];
    }
    texts(parts.into_iter())
}
