//! What evaluating may cost: every expression is rewritten so that what grows with the data is paid for, and stops when
//! the budget is spent.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cel::ExecutionError;
use cel::common::types::{CelBytes, CelList, CelMap, CelOptional, CelString, Type};
use cel::common::value::{CowVal, StaticVal, Val};

/// The variable that holds the budget; no source text can name it.
pub(super) const NAME: &str = "@budget";
/// Bytes of text for one step.
const BYTES_A_STEP: usize = 16;
/// Steps for one object with all its rules: about half a second.
const STEPS: u64 = 5_000_000;

static TYPE: Type = Type::new_unspecified_type(NAME);

/// Steps that are left, shared by its clones.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<Left>);

#[derive(Debug)]
struct Left {
    steps: AtomicU64,
    /// Something asked for more than was left.
    spent: std::sync::atomic::AtomicBool,
}

impl Default for Budget {
    fn default() -> Self {
        Self::of(STEPS)
    }
}

impl Budget {
    pub(crate) fn of(steps: u64) -> Self {
        Self(Arc::new(Left {
            steps: AtomicU64::new(steps),
            spent: false.into(),
        }))
    }

    /// Whether something asked for more than was left.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.spent.load(Ordering::Relaxed)
    }

    fn left(&self) -> u64 {
        if self.is_spent() {
            return 0;
        }
        self.0.steps.load(Ordering::Relaxed)
    }

    /// Pays for `steps`.
    ///
    /// # Errors
    /// When there are not so many left, from then on always.
    pub(super) fn pay(&self, steps: u64) -> Result<(), ExecutionError> {
        let left = self.left();
        if left == 0 || steps > left {
            self.0.spent.store(true, Ordering::Relaxed);
            return Err(ExecutionError::function_error(
                "cost",
                "cost budget exceeded",
            ));
        }
        self.0.steps.store(left - steps, Ordering::Relaxed);
        Ok(())
    }

    /// Pays for a text of `bytes` to be looked at.
    ///
    /// # Errors
    /// As [`Budget::pay`].
    pub(super) fn pay_text(&self, bytes: usize) -> Result<(), ExecutionError> {
        self.pay(1 + (bytes / BYTES_A_STEP) as u64)
    }

    /// Pays `times` for everything in `value` to be looked at.
    ///
    /// # Errors
    /// As [`Budget::pay`].
    pub(super) fn pay_for(&self, value: &dyn Val, times: u64) -> Result<(), ExecutionError> {
        let most = self.left() / times.max(1);
        self.pay(weight(value, most).saturating_mul(times).max(1))
    }
}

/// How much there is to a value, not counted much beyond `most`.
fn weight(value: &dyn Val, most: u64) -> u64 {
    let sum = |parts: &mut dyn Iterator<Item = &dyn Val>| {
        let mut sum = 1;
        for part in parts {
            if sum > most {
                break;
            }
            sum += weight(part, most - sum);
        }
        sum
    };
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        1 + (text.inner().len() / BYTES_A_STEP) as u64
    } else if let Some(bytes) = value.downcast_ref::<CelBytes<'_>>() {
        1 + (bytes.inner().len() / BYTES_A_STEP) as u64
    } else if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        sum(&mut list.inner().iter().map(AsRef::as_ref))
    } else if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        sum(&mut map
            .inner()
            .iter()
            .flat_map(|(key, value)| [key.inner(), value.as_ref()]))
    } else if let Some(optional) = value.downcast_ref::<CelOptional<'_>>() {
        1 + optional.option().map_or(0, |inner| weight(inner, most))
    } else {
        1
    }
}

impl Val for Budget {
    fn get_type(&self) -> &Type {
        &TYPE
    }

    fn cel_type() -> &'static Type {
        &TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
impl StaticVal for Budget {}

/// The budget, the first of a metered function's arguments.
pub(super) fn of<'b>(arguments: &'b [CowVal<'_, '_>]) -> Result<&'b Budget, ExecutionError> {
    arguments
        .first()
        .and_then(|one| one.downcast_ref::<Budget>())
        .ok_or_else(|| ExecutionError::function_error("cost", "no budget"))
}
