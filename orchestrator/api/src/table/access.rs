//! Columns of role bindings.

use serde_json::Value;

use super::{Cell, Column, age, name};
use crate::walk::{list, text};

/// Columns of a RoleBinding or ClusterRoleBinding.
pub const ROLE_BINDING: &[Column] = &[
    Column::NAME,
    Column::text("Role", "What it gives."),
    Column::AGE,
    Column::text("Users", "Users that it gives it to.").wide(),
    Column::text("Groups", "Groups that it gives it to.").wide(),
    Column::text("ServiceAccounts", "ServiceAccounts that it gives it to.").wide(),
];

/// Cells of a RoleBinding or ClusterRoleBinding.
pub fn role_binding(object: &Value, now: i64) -> Vec<Cell> {
    let of = |kind: &str| {
        let all = list(object, &["subjects"])
            .iter()
            .filter(|one| one["kind"] == kind);
        let names: Vec<String> = all
            .map(|one| match text(one, &["namespace"]) {
                "" => text(one, &["name"]).to_owned(),
                namespace => format!("{namespace}/{}", text(one, &["name"])),
            })
            .collect();
        Cell::from(names.join(", "))
    };
    let role = format!(
        "{}/{}",
        text(object, &["roleRef", "kind"]),
        text(object, &["roleRef", "name"])
    );
    vec![
        name(object),
        role.into(),
        age(object, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}
