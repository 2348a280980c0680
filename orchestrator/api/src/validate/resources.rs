//! Requests and limits.

use std::str::FromStr;

use serde_json::Value;
use waggle_model::Quantity;

use super::names;
use crate::Fault;
use crate::walk::{has, members, text};

/// Resources that need no domain before their name.
const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Faults of a container's `resources`.
pub(super) fn check(resources: &Value, path: &str, out: &mut Vec<Fault>) {
    for side in ["limits", "requests"] {
        for (name, amount) in members(resources, &[side]) {
            check_name(name, &format!("{path}.{side}"), out);
            let amount = amount.as_str().unwrap_or_default();
            let place = format!("{path}.{side}[{name}]");
            let whole = !STANDARD.contains(&name.as_str());
            quantity(amount, whole, &place, out);
        }
    }
    for (name, amount) in members(resources, &["requests"]) {
        let (request, limit) = (
            amount.as_str().unwrap_or_default(),
            text(resources, &["limits", name]),
        );
        let (Ok(asked), Ok(most)) = (Quantity::from_str(request), Quantity::from_str(limit)) else {
            continue;
        };
        if asked > most {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            out.push(Fault::invalid(format!("{path}.requests"), request, detail));
        }
    }
    if has(resources, &["claims"]) {
        out.push(Fault::forbidden(
            format!("{path}.claims"),
            "this cluster has no dynamic resource allocation",
        ));
    }
}

fn check_name(name: &str, path: &str, out: &mut Vec<Fault>) {
    if let Some(rule) = names::qualified_name(name) {
        out.push(Fault::invalid(path, name, rule));
    } else if !name.contains('/') && !STANDARD.contains(&name) && !name.starts_with("hugepages-") {
        out.push(Fault::invalid(
            path,
            name,
            "must be a standard resource type or fully qualified",
        ));
    }
}

/// Faults of one amount; `whole` ones have no fraction.
pub(super) fn quantity(amount: &str, whole: bool, path: &str, out: &mut Vec<Fault>) {
    match Quantity::from_str(amount) {
        Err(error) => out.push(Fault::invalid(path, amount, error.to_string())),
        Ok(parsed) if parsed.is_negative() => {
            out.push(Fault::invalid(
                path,
                amount,
                "must be greater than or equal to 0",
            ));
        }
        Ok(parsed) if whole && parsed.milli() % 1000 != 0 => {
            out.push(Fault::invalid(path, amount, "must be an integer"));
        }
        Ok(_) => {}
    }
}
