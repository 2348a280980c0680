//! What a path names: a kind, a namespace, an object, a subresource.

use waggle_api::{Kinds, Resource};

/// What a path of the API names.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) resource: &'static Resource,
    /// Empty for a cluster-scoped kind and for all namespaces.
    pub(super) namespace: String,
    /// Empty for a collection.
    pub(super) name: String,
    /// `status`, `scale`; empty for the object itself.
    pub(super) subresource: String,
}

impl Target {
    /// `None` when it names no registered kind.
    pub(super) fn parse(kinds: &Kinds, path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/');
        let (group, version) = match parts.next()? {
            "api" => ("", parts.next()?),
            "apis" => (parts.next()?, parts.next()?),
            _ => return None,
        };
        let rest: Vec<&str> = parts.collect();
        if rest.iter().any(|part| part.is_empty()) {
            return None;
        }
        match rest.as_slice() {
            // A namespace's own subresources look like a kind inside it.
            ["namespaces", name, subresource @ ("status" | "finalize")] => {
                Self::of(kinds, group, version, "namespaces", "", name, subresource)
            }
            ["namespaces", namespace, plural, rest @ ..] => {
                let (name, subresource) = name_and_subresource(rest)?;
                let target =
                    Self::of(kinds, group, version, plural, namespace, name, &subresource)?;
                target.resource.namespaced.then_some(target)
            }
            [plural, rest @ ..] => {
                let (name, subresource) = name_and_subresource(rest)?;
                let target = Self::of(kinds, group, version, plural, "", name, &subresource)?;
                // An object of a namespaced kind is only found in its namespace.
                (!target.resource.namespaced || name.is_empty()).then_some(target)
            }
            [] => None,
        }
    }

    fn of(
        kinds: &Kinds,
        group: &str,
        version: &str,
        plural: &str,
        namespace: &str,
        name: &str,
        subresource: &str,
    ) -> Option<Self> {
        let resource = kinds.find(group, version, plural)?;
        Some(Self {
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })
    }

    /// Whether the kind has this subresource on the generic path.
    pub(super) fn serves_subresource(&self) -> bool {
        self.subresource.is_empty()
            || self
                .resource
                .subresources
                .contains(&self.subresource.as_str())
            || (self.subresource == "finalize" && self.resource.kind == "Namespace")
    }

    /// The namespace to list; `None` for all.
    pub(super) fn in_namespace(&self) -> Option<&str> {
        (self.resource.namespaced && !self.namespace.is_empty()).then_some(self.namespace.as_str())
    }
}

fn name_and_subresource<'a>(rest: &[&'a str]) -> Option<(&'a str, String)> {
    match rest {
        [] => Some(("", String::new())),
        [name] => Some((name, String::new())),
        [name, subresource @ ..] => Some((name, subresource.join("/"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expect: Option<(&str, &str, &str, &str)>) {
        let target = Target::parse(&Kinds::default(), path);
        let seen = target.as_ref().map(|one| {
            (
                one.resource.kind,
                one.namespace.as_str(),
                one.name.as_str(),
                one.subresource.as_str(),
            )
        });
        assert_eq!(seen, expect, "{path}");
    }

    #[test]
    fn paths_name_what_kubernetes_means_by_them() {
        check("/api/v1/pods", Some(("Pod", "", "", "")));
        check("/api/v1/namespaces", Some(("Namespace", "", "", "")));
        check(
            "/api/v1/namespaces/shop",
            Some(("Namespace", "", "shop", "")),
        );
        check(
            "/api/v1/namespaces/shop/status",
            Some(("Namespace", "", "shop", "status")),
        );
        check(
            "/api/v1/namespaces/shop/pods",
            Some(("Pod", "shop", "", "")),
        );
        check(
            "/api/v1/namespaces/shop/pods/web",
            Some(("Pod", "shop", "web", "")),
        );
        check(
            "/api/v1/namespaces/shop/pods/web/log",
            Some(("Pod", "shop", "web", "log")),
        );
        check(
            "/apis/apps/v1/namespaces/shop/deployments/web/scale",
            Some(("Deployment", "shop", "web", "scale")),
        );
        check("/api/v1/nodes/node1", Some(("Node", "", "node1", "")));
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/api/v2/pods",
            "/api/v1/pods/web",
            "/apis/apps/v1/pods",
            "/x/v1/pods",
        ] {
            check(path, None);
        }
        check("/api/v1/namespaces/shop/nodes", None);
        check("/api/v1/namespaces//pods", None);
    }
}
