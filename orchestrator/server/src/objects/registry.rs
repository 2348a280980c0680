//! Which kind a store key belongs to.

use waggle_api::{RESOURCES, Resource};

/// The kind of a store key, and the key below the kind. `None` for a kind that isn't registered.
pub(super) fn of_key(key: &str) -> Option<(&'static Resource, &str)> {
    let (group, rest) = key.strip_prefix("/registry/")?.split_once('/')?;
    let (plural, below) = rest.split_once('/')?;
    let group = if group == "core" { "" } else { group };
    let row = RESOURCES
        .iter()
        .find(|row| row.group == group && row.plural == plural)?;
    Some((row, below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lead_back_to_their_kind() {
        for row in RESOURCES {
            let key = row.key("shop", "web");
            let (found, below) = of_key(&key).unwrap();
            assert!(std::ptr::eq(found, row));
            assert_eq!(below, if row.namespaced { "shop/web" } else { "web" });
        }
        assert!(of_key("/registry/core/nothing/a").is_none());
        assert!(of_key("/elsewhere").is_none());
    }
}
