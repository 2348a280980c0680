//! What a request wants to do, read from its method and path alone: any group, kind and subresource, known or not.

use http::{Method, Uri};
use waggle_api::access::Action;

/// Streams into a pod: opening one changes what runs there, whatever the method.
const STREAMS: [&str; 3] = ["attach", "exec", "portforward"];

/// What the request wants to do. `watch` is what its query says.
pub(crate) fn action_of(method: &Method, uri: &Uri, watch: bool) -> Action {
    let path = uri.path();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _version, rest @ ..] if !rest.is_empty() => ("", rest),
        ["apis", group, _version, rest @ ..] if !rest.is_empty() => (*group, rest),
        _ => {
            return Action {
                verb: method.as_str().to_ascii_lowercase(),
                path: path.to_owned(),
                ..Action::default()
            };
        }
    };
    let (namespace, rest) = match rest {
        // A namespace itself and its own subresources.
        ["namespaces", name, "status" | "finalize"] | ["namespaces", name] => (*name, rest),
        ["namespaces", namespace, rest @ ..] => (*namespace, rest),
        rest => ("", rest),
    };
    let word = |index: usize| rest.get(index).copied().unwrap_or_default();
    let (resource, name, subresource) = (
        word(0),
        word(1),
        rest.get(2..).unwrap_or_default().join("/"),
    );
    let verb = match method.as_str() {
        _ if STREAMS.contains(&subresource.as_str()) => "create",
        "GET" | "HEAD" if watch => "watch",
        "GET" | "HEAD" if name.is_empty() => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if name.is_empty() => "deletecollection",
        "DELETE" => "delete",
        _ => "get",
    };
    Action {
        verb: verb.to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        // `proxy/some/path` is the subresource proxy.
        subresource: subresource.split('/').next().unwrap_or_default().to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        field_selector: field_selector(uri),
        ..Action::default()
    }
}

fn field_selector(uri: &Uri) -> String {
    if !uri
        .query()
        .is_some_and(|query| query.contains("fieldSelector"))
    {
        return String::new();
    }
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
    let mut pairs = pairs.map(|pairs| pairs.0).unwrap_or_default().into_iter();
    // The last one counts, as it does when the request is carried out.
    let given = pairs.rfind(|(name, _)| name == "fieldSelector");
    given.map(|(_, value)| value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_what_kubernetes_says_they_are() {
        for (method, path, expect) in [
            ("GET", "/api/v1/pods", "list  pods/   "),
            (
                "GET",
                "/api/v1/namespaces/shop/pods/web",
                "get  pods/ shop web",
            ),
            (
                "GET",
                "/api/v1/namespaces/shop",
                "get  namespaces/ shop shop",
            ),
            (
                "PUT",
                "/api/v1/namespaces/shop/finalize",
                "update  namespaces/finalize shop shop",
            ),
            (
                "GET",
                "/api/v1/namespaces/shop/pods/web/exec",
                "create  pods/exec shop web",
            ),
            (
                "GET",
                "/api/v1/namespaces/shop/pods/web/log",
                "get  pods/log shop web",
            ),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/shop/deployments",
                "deletecollection apps deployments/ shop ",
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/shop/deployments/web/scale",
                "patch apps deployments/scale shop web",
            ),
            (
                "GET",
                "/apis/waggle.dev/v1/namespaces/shop/flows",
                "list waggle.dev flows/ shop ",
            ),
            (
                "GET",
                "/api/v1/nodes/node1/proxy/metrics",
                "get  nodes/proxy  node1",
            ),
            (
                "POST",
                "/apis/example.com/v1/hives",
                "create example.com hives/  ",
            ),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let action = action_of(&method, &path.parse().unwrap(), false);
            let seen = format!(
                "{} {} {}/{} {} {}",
                action.verb,
                action.group,
                action.resource,
                action.subresource,
                action.namespace,
                action.name
            );
            assert_eq!(seen.trim_end(), expect.trim_end(), "{method} {path}");
        }
        let action = action_of(&Method::GET, &"/apis/apps/v1".parse().unwrap(), false);
        assert_eq!(
            (action.verb.as_str(), action.path.as_str()),
            ("get", "/apis/apps/v1")
        );
    }
}
