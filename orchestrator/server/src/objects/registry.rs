//! Which kind a store key belongs to.

use waggle_api::{Kinds, Resource};

/// The kind of a store key, and the key below the kind. `None` for a kind that nobody has defined.
pub(super) fn of_key<'a>(kinds: &Kinds, key: &'a str) -> Option<(&'static Resource, &'a str)> {
    let (group, rest) = key.strip_prefix("/registry/")?.split_once('/')?;
    let (plural, below) = rest.split_once('/')?;
    let group = if group == "core" { "" } else { group };
    Some((kinds.in_store(group, plural)?, below))
}

/// Whether a change of this kind changes which kinds there are.
pub(super) fn defines_kinds(resource: &Resource) -> bool {
    resource.group == "apiextensions.k8s.io" && resource.plural == "customresourcedefinitions"
}

#[cfg(test)]
mod tests {
    use super::*;
    use waggle_api::RESOURCES;

    #[test]
    fn keys_lead_back_to_their_kind() {
        let kinds = Kinds::default();
        for row in RESOURCES {
            let key = row.key("shop", "web");
            let (found, below) = of_key(&kinds, &key).unwrap();
            assert!(std::ptr::eq(found, row));
            assert_eq!(below, if row.namespaced { "shop/web" } else { "web" });
        }
        assert!(of_key(&kinds, "/registry/core/nothing/a").is_none());
        assert!(of_key(&kinds, "/elsewhere").is_none());
    }
}
