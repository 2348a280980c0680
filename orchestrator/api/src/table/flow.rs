//! Columns of FlowSchemas and PriorityLevelConfigurations.

use serde_json::Value;

use super::{Cell, Column, age, name};
use crate::walk::{at, list, number, text};

/// Columns of a FlowSchema.
pub const FLOW_SCHEMA: &[Column] = &[
    Column::NAME,
    Column::text("PriorityLevel", "Level of what it takes."),
    Column::number("MatchingPrecedence", "Lower ones are asked first."),
    Column::text("DistinguisherMethod", "What tells its flows apart."),
    Column::AGE,
    Column::text("MissingPL", "Whether its level does not exist."),
];

/// Cells of a FlowSchema.
pub fn flow_schema(object: &Value, now: i64) -> Vec<Cell> {
    let conditions = list(object, &["status", "conditions"]).iter();
    let mut dangling = conditions.filter(|one| one["type"] == "Dangling");
    let missing = dangling.next().map_or("?", |one| text(one, &["status"]));
    vec![
        name(object),
        text(object, &["spec", "priorityLevelConfiguration", "name"]).into(),
        number(object, &["spec", "matchingPrecedence"])
            .unwrap_or(0)
            .into(),
        Cell::or_none(text(object, &["spec", "distinguisherMethod", "type"])),
        age(object, now),
        missing.into(),
    ]
}

/// Columns of a PriorityLevelConfiguration.
pub const PRIORITY_LEVEL: &[Column] = &[
    Column::NAME,
    Column::text("Type", "Whether it has bounds."),
    Column::text("NominalConcurrencyShares", "Its part of the seats."),
    Column::text("Queues", "How many it has."),
    Column::text("HandSize", "Queues that a flow chooses from."),
    Column::text("QueueLengthLimit", "Requests that wait in one."),
    Column::AGE,
];

/// Cells of a PriorityLevelConfiguration.
pub fn priority_level(object: &Value, now: i64) -> Vec<Cell> {
    let limited = &object["spec"]["limited"];
    let count =
        |value: &Value| Cell::or_none(&value.as_i64().map_or_else(String::new, |n| n.to_string()));
    let queuing = at(limited, &["limitResponse", "queuing"]);
    vec![
        name(object),
        text(object, &["spec", "type"]).into(),
        count(&limited["nominalConcurrencyShares"]),
        count(&queuing["queues"]),
        count(&queuing["handSize"]),
        count(&queuing["queueLengthLimit"]),
        age(object, now),
    ]
}
