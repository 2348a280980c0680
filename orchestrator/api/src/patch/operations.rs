//! JSON patch, one operation after another, so that few of them can't make much: an object copied into itself again and
//! again, or nested deeper than anybody reads.

use json_patch::PatchOperation;
use json_patch::jsonptr::PointerBuf;
use serde_json::Value;

use crate::Status;
use crate::body::is_deeper;

/// Operations of one patch; Kubernetes' own bound.
const MOST: usize = 10_000;
/// What all copies of one patch come to, in values and bytes of text; Kubernetes' own bound, in its bytes.
const COPIED: usize = 3 << 20;
/// Levels of what an operation leaves. Bodies have no more.
const DEEPEST: usize = 127;

/// The object after the operations. `what` is what it is, for people.
///
/// # Errors
/// 413 for too many operations, 422 for one that can't be carried out.
pub(super) fn apply(what: &str, old: &Value, patch: &[PatchOperation]) -> Result<Value, Status> {
    if patch.len() > MOST {
        let message = format!(
            "The allowed maximum operations in a JSON patch is {MOST}, got {}",
            patch.len()
        );
        return Err(Status::failure(413, "RequestEntityTooLarge", message));
    }
    let refused = |error: String| {
        let message = format!(
            "the server rejected our request due to an error in our request: JSON patch of {what}: {error}"
        );
        Status::failure(422, "Invalid", message)
    };
    let mut value = old.clone();
    let mut left = COPIED;
    for operation in patch {
        if is_absence(operation, &value) {
            continue;
        }
        bound(&value, operation, &mut left).map_err(|error| refused(error.to_owned()))?;
        json_patch::patch(&mut value, std::slice::from_ref(operation))
            .map_err(|error| refused(error.to_string()))?;
    }
    Ok(value)
}

/// Whether this is a test for `null` of what isn't there: Kubernetes lets it pass, and clients test so that nobody has
/// added a first finalizer meanwhile.
fn is_absence(operation: &PatchOperation, value: &Value) -> bool {
    matches!(operation, PatchOperation::Test(test)
        if test.value.is_null() && found(value, &test.path).is_none())
}

fn bound(value: &Value, operation: &PatchOperation, left: &mut usize) -> Result<(), &'static str> {
    let (path, content) = match operation {
        PatchOperation::Add(one) => (&one.path, Some(&one.value)),
        PatchOperation::Replace(one) => (&one.path, Some(&one.value)),
        PatchOperation::Move(one) => (&one.path, found(value, &one.from)),
        PatchOperation::Copy(one) => {
            let content = found(value, &one.from);
            if let Some(content) = content {
                spend(content, left)?;
            }
            (&one.path, content)
        }
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
    };
    let levels = path.tokens().take(DEEPEST + 1).count();
    let deep = match (DEEPEST.checked_sub(levels), content) {
        (None, _) => true,
        (Some(most), Some(content)) => is_deeper(content, most),
        (Some(_), None) => false,
    };
    if deep {
        return Err("it nests values too deeply");
    }
    Ok(())
}

fn found<'a>(value: &'a Value, path: &PointerBuf) -> Option<&'a Value> {
    value.pointer(path.as_str())
}

fn spend(value: &Value, left: &mut usize) -> Result<(), &'static str> {
    let mut take = |bytes: usize| {
        let rest = left.checked_sub(bytes + 1);
        *left = rest.ok_or("its copies come to more than 3 MiB")?;
        Ok(())
    };
    match value {
        Value::String(text) => take(text.len()),
        Value::Array(list) => {
            take(0)?;
            list.iter().try_for_each(|item| spend(item, left))
        }
        Value::Object(map) => {
            take(0)?;
            map.iter().try_for_each(|(key, item)| {
                *left = left.saturating_sub(key.len());
                spend(item, left)
            })
        }
        _ => take(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(old: &Value, patch: &Value) -> Result<Value, Status> {
        let patch: json_patch::Patch = serde_json::from_value(patch.clone()).unwrap();
        apply("pods", old, &patch.0)
    }

    #[test]
    fn few_operations_make_no_flood() {
        let double = |times: usize| {
            let one = |at: usize| json!({"op": "copy", "from": "/a", "path": format!("/a/c{at}")});
            Value::Array((0..times).map(one).collect())
        };
        let old = json!({"a": {"b": "x".repeat(1000)}});
        assert!(run(&old, &double(8)).is_ok());
        let error = run(&old, &double(60)).unwrap_err();
        assert!(error.message.contains("3 MiB"), "{}", error.message);
        let many = vec![json!({"op": "test", "path": "", "value": 1}); MOST + 1];
        assert_eq!(run(&old, &Value::Array(many)).unwrap_err().code, 413);
    }

    #[test]
    fn nothing_is_nested_deeper_than_bodies_are() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({"a": inner}));
        let at = |levels: usize| "/a".repeat(levels);
        let old = nested(120);
        let add = |levels: usize, more: usize| json!([{"op": "add", "path": at(levels), "value": nested(more)}]);
        assert!(run(&old, &add(100, 27)).is_ok());
        for patch in [
            add(100, 28),
            json!([{"op": "copy", "from": "/a", "path": at(100)}]),
            json!([{"op": "add", "path": at(5000), "value": 1}]),
        ] {
            let error = run(&old, &patch).unwrap_err();
            assert_eq!(
                (error.code, error.message.contains("deeply")),
                (422, true),
                "{}",
                error.message
            );
        }
    }
}
