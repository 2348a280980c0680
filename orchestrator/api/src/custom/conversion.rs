//! What a conversion webhook is sent, and what its answer says. Whether objects need it, and how it is reached, is decided
//! elsewhere.
//!
//! Semantics: <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/>.

use serde_json::{Value, json};

use crate::Fault;
use crate::validate::labels_and_annotations;
use crate::walk::{has, list, text};

const API_VERSION: &str = "apiextensions.k8s.io/v1";
/// Objects that one review asks for at most.
const MANY: usize = 500;
/// Bytes of objects in one review, unless one alone has more: an answer may be several times as large.
const LARGE: usize = 1 << 20;

/// How many objects go into each review, in order, so that neither a review nor its answer is too large to be taken;
/// `sizes` are the objects' lengths as text.
pub fn batches(sizes: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let (mut all, mut bytes) = (Vec::new(), 0_usize);
    for size in sizes {
        bytes = bytes.saturating_add(size);
        match all.last_mut() {
            Some(count) if *count < MANY && bytes <= LARGE => *count += 1,
            _ => {
                all.push(1);
                bytes = size;
            }
        }
    }
    all
}

/// The ConversionReview that asks for `objects` in the version `wanted` (`example.com/v1`).
pub fn review(objects: &[&Value], wanted: &str, uid: &str) -> Value {
    json!({"kind": "ConversionReview", "apiVersion": API_VERSION,
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects}})
}

/// The converted objects of the answer to `review`, in order. Of their metadata only labels and annotations may be others
/// than they were.
///
/// # Errors
/// What makes it no answer, or why the webhook refuses.
pub fn converted(review: &Value, body: &[u8]) -> Result<Vec<Value>, String> {
    let mut answer: Value = serde_json::from_slice(body)
        .map_err(|why| format!("the answer is no JSON document: {why}"))?;
    for field in ["apiVersion", "kind"] {
        if answer[field] != review[field] {
            return Err(format!(
                "expected {field} {}, got {}",
                review[field], answer[field]
            ));
        }
    }
    let (request, response) = (&review["request"], &mut answer["response"]);
    if response["uid"] != request["uid"] {
        return Err(format!(
            "expected response.uid={}, got {}",
            request["uid"], response["uid"]
        ));
    }
    let result = &response["result"];
    if text(result, &["status"]) != "Success" {
        let message = match text(result, &["message"]) {
            "" => "no reason given",
            message => message,
        };
        return Err(message.to_owned());
    }
    let Value::Array(made) = response["convertedObjects"].take() else {
        return Err("the answer has no response.convertedObjects".to_owned());
    };
    let given = list(request, &["objects"]);
    if made.len() != given.len() {
        return Err(format!(
            "expected {} converted objects, got {}",
            given.len(),
            made.len()
        ));
    }
    let wanted = text(request, &["desiredAPIVersion"]);
    let one = |(index, (given, made))| {
        one(given, made, wanted).map_err(|why| format!("response.convertedObjects[{index}]: {why}"))
    };
    given.iter().zip(made).enumerate().map(one).collect()
}

fn one(given: &Value, mut made: Value, wanted: &str) -> Result<Value, String> {
    if text(&made, &["apiVersion"]) != wanted {
        return Err(format!(
            "expected apiVersion {wanted:?}, got {}",
            made["apiVersion"]
        ));
    }
    if made["kind"] != given["kind"] {
        return Err(format!(
            "expected kind {}, got {}",
            given["kind"], made["kind"]
        ));
    }
    if !made["metadata"].is_object() {
        return Err("metadata is missing".to_owned());
    }
    for field in ["name", "namespace", "uid"] {
        let (before, after) = (&given["metadata"][field], &made["metadata"][field]);
        if before != after {
            return Err(format!(
                "metadata.{field} must not change: it was {before}, and is {after}"
            ));
        }
    }
    let mut metadata = given["metadata"].clone();
    for field in ["labels", "annotations"] {
        match made["metadata"][field].take() {
            Value::Null => {
                if let Some(map) = metadata.as_object_mut() {
                    map.remove(field);
                }
            }
            Value::Object(map) if map.values().all(Value::is_string) => {
                metadata[field] = Value::Object(map);
            }
            _ => return Err(format!("metadata.{field} must be a map of texts")),
        }
    }
    made["metadata"] = metadata;
    // What was there before is not the webhook's fault.
    let mut known = Vec::new();
    labels_and_annotations(given, "metadata", &mut known);
    let mut faults = Vec::new();
    labels_and_annotations(&made, "metadata", &mut faults);
    faults.retain(|fault| !known.contains(fault));
    if faults.is_empty() {
        return Ok(made);
    }
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    Err(faults.join(", "))
}

/// Faults of a definition's `spec.conversion`.
pub(crate) fn faults(conversion: &Value, out: &mut Vec<Fault>) {
    let strategy = &conversion["strategy"];
    let path = "spec.conversion.webhook";
    match strategy.as_str() {
        Some("Webhook") if has(conversion, &["webhook"]) => {}
        Some("Webhook") => {
            let detail = "required when strategy is set to Webhook";
            return out.push(Fault::required(path, detail));
        }
        Some("None") | None => {
            if has(conversion, &["webhook"]) {
                let detail = "should not be set when strategy is not set to Webhook";
                out.push(Fault::forbidden(path, detail));
            }
            return;
        }
        Some(other) => {
            let path = "spec.conversion.strategy";
            return out.push(Fault::not_supported(path, other, &["None", "Webhook"]));
        }
    }
    let config = &conversion["webhook"]["clientConfig"];
    if has(config, &["url"]) == has(config, &["service"]) {
        let detail = "exactly one of url or service is required";
        out.push(Fault::required(format!("{path}.clientConfig"), detail));
    }
    let versions = list(conversion, &["webhook", "conversionReviewVersions"]);
    if !versions.iter().any(|one| one == "v1") {
        let path = format!("{path}.conversionReviewVersions");
        out.push(Fault::invalid(path, versions.to_vec(), "must include v1"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> Value {
        json!({"apiVersion": "e.com/v1", "kind": "W", "metadata": {"name": "a", "uid": "u", "labels": {"x": "y"}}, "spec": 1})
    }

    fn answered(change: impl FnOnce(&mut Value)) -> Result<Vec<Value>, String> {
        let given = given();
        let review = review(&[&given], "e.com/v2", "7");
        let mut made = given.clone();
        made["apiVersion"] = "e.com/v2".into();
        let mut answer = json!({"apiVersion": API_VERSION, "kind": "ConversionReview",
            "response": {"uid": "7", "result": {"status": "Success"}, "convertedObjects": [made]}});
        change(&mut answer);
        converted(&review, answer.to_string().as_bytes())
    }

    #[test]
    fn only_labels_and_annotations_of_metadata_may_change() {
        let made = answered(|answer| {
            let made = &mut answer["response"]["convertedObjects"][0];
            made["metadata"]["labels"] = json!({"x": "z"});
            made["metadata"]["annotations"] = json!({"k": "v"});
            made["metadata"]["finalizers"] = json!(["odd"]);
            made["spec"] = json!(2);
        });
        let metadata =
            json!({"name": "a", "uid": "u", "labels": {"x": "z"}, "annotations": {"k": "v"}});
        let expect =
            json!({"apiVersion": "e.com/v2", "kind": "W", "metadata": metadata, "spec": 2});
        assert_eq!(made, Ok(vec![expect]));
    }

    #[test]
    fn a_label_that_was_there_may_stay_whatever_it_is() {
        let mut odd = given();
        odd["metadata"]["labels"] = json!({"x": "not valid!"});
        let mut made = odd.clone();
        made["apiVersion"] = "e.com/v2".into();
        assert!(one(&odd, made.clone(), "e.com/v2").is_ok());
        made["metadata"]["labels"]["y"] = "nor this!".into();
        assert!(one(&odd, made, "e.com/v2").is_err());
    }

    #[test]
    fn lists_are_asked_for_in_parts() {
        assert_eq!(batches([]), [] as [usize; 0]);
        assert_eq!(batches([1, 2, 3]), [3]);
        assert_eq!(batches(vec![1; MANY * 2 + 1]), [MANY, MANY, 1]);
        assert_eq!(batches([LARGE / 2, LARGE / 2, 1]), [2, 1]);
        assert_eq!(batches([1, LARGE * 2, 1]), [1, 1, 1]);
    }

    #[test]
    fn what_is_no_answer_is_told() {
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 11] = [
            (
                |one| {
                    one["response"]["convertedObjects"][0]["metadata"]["labels"] =
                        json!({"x": "no label value!"});
                },
                "metadata.labels",
            ),
            (
                |one| {
                    one["response"]["convertedObjects"][0]["metadata"]["annotations"] =
                        json!({"no key!": "v"});
                },
                "metadata.annotations",
            ),
            (
                |one| one["response"]["convertedObjects"][0]["metadata"]["uid"] = "v".into(),
                "metadata.uid must not change",
            ),
            (|one| one["kind"] = "X".into(), "expected kind"),
            (|one| one["response"]["uid"] = "8".into(), "response.uid"),
            (
                |one| one["response"]["result"] = json!({"status": "Failed", "message": "can't"}),
                "can't",
            ),
            (
                |one| one["response"]["convertedObjects"] = json!([]),
                "expected 1 converted objects, got 0",
            ),
            (
                |one| one["response"]["convertedObjects"] = json!(null),
                "no response.convertedObjects",
            ),
            (
                |one| one["response"]["convertedObjects"][0]["apiVersion"] = "e.com/v1".into(),
                "expected apiVersion",
            ),
            (
                |one| one["response"]["convertedObjects"][0]["metadata"]["name"] = "b".into(),
                "metadata.name must not change",
            ),
            (
                |one| one["response"]["convertedObjects"][0]["metadata"]["labels"] = json!([1]),
                "metadata.labels",
            ),
        ];
        for (change, expect) in cases {
            let why = answered(change).unwrap_err();
            assert!(why.contains(expect), "{why}");
        }
    }
}
