//! Columns of webhook configurations, signing requests and RuntimeClasses.

use serde_json::Value;

use super::{Cell, Column, age, name};
use crate::walk::{list, number, text};

/// Columns of a MutatingWebhookConfiguration or ValidatingWebhookConfiguration.
pub const WEBHOOKS: &[Column] = &[
    Column::NAME,
    Column::number("Webhooks", "How many it has."),
    Column::AGE,
];

/// Cells of a MutatingWebhookConfiguration or ValidatingWebhookConfiguration.
pub fn webhooks(object: &Value, now: i64) -> Vec<Cell> {
    let count = i64::try_from(list(object, &["webhooks"]).len()).unwrap_or(i64::MAX);
    vec![name(object), count.into(), age(object, now)]
}

/// Columns of a CertificateSigningRequest.
pub const SIGNING_REQUEST: &[Column] = &[
    Column::NAME,
    Column::AGE,
    Column::text("SignerName", "Who is asked to sign."),
    Column::text("Requestor", "Who asks."),
    Column::text("RequestedDuration", "For how long."),
    Column::text("Condition", "What came of it."),
];

/// Cells of a CertificateSigningRequest.
pub fn signing_request(object: &Value, now: i64) -> Vec<Cell> {
    let has = |kind: &str| {
        list(object, &["status", "conditions"])
            .iter()
            .any(|one| one["type"] == kind)
    };
    let mut condition = if has("Denied") {
        "Denied".to_owned()
    } else if has("Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if has("Failed") {
        condition.push_str(",Failed");
    }
    if !text(object, &["status", "certificate"]).is_empty() {
        condition.push_str(",Issued");
    }
    let duration = number(object, &["spec", "expirationSeconds"])
        .map_or_else(|| "<none>".to_owned(), super::age::duration);
    vec![
        name(object),
        age(object, now),
        text(object, &["spec", "signerName"]).into(),
        text(object, &["spec", "username"]).into(),
        duration.into(),
        condition.into(),
    ]
}

/// Columns of a RuntimeClass.
pub const RUNTIME_CLASS: &[Column] = &[
    Column::NAME,
    Column::text("Handler", "Which runtime runs its pods."),
    Column::AGE,
];

/// Cells of a RuntimeClass.
pub fn runtime_class(object: &Value, now: i64) -> Vec<Cell> {
    vec![
        name(object),
        text(object, &["handler"]).into(),
        age(object, now),
    ]
}
