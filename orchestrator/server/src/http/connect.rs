//! Streams to pods, nodes and Services as webhooks see them: what the query asks for, as the options object that
//! Kubernetes makes of it.

use std::sync::Arc;

use http::Uri;
use serde_json::{Map, Value, json};
use waggle_api::access::Action;
use waggle_api::admission::webhook::Operation;
use waggle_api::{Status, find};

use crate::objects::{Caller, Errand};
use crate::run::ServerState;

/// Asks the webhooks about a stream that is to be opened. Logs are none: they are read.
///
/// # Errors
/// What a webhook says.
pub(super) async fn admit(
    state: &ServerState,
    caller: &Arc<Caller>,
    action: &Action,
    uri: &Uri,
) -> Result<(), Status> {
    let Some(row) =
        find(&action.group, "v1", &action.resource).filter(|_| action.subresource != "log")
    else {
        return Ok(());
    };
    let errand = Errand {
        resource: row,
        subresource: &action.subresource,
        namespace: &action.namespace,
        name: &action.name,
        operation: Operation::Connect,
        object: options(uri),
        dry_run: false,
        caller: Some(Arc::clone(caller)),
    };
    state.objects.errand(errand).await
}

fn options(uri: &Uri) -> Value {
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
    let mut options = Map::new();
    for (name, value) in pairs.map(|pairs| pairs.0).unwrap_or_default() {
        match name.as_str() {
            "stdin" | "stdout" | "stderr" | "tty" => {
                options.insert(name, super::query::flag(&value).into());
            }
            "container" | "path" => {
                options.insert(name, value.into());
            }
            "command" | "ports" => {
                let item = match value.parse::<u16>() {
                    Ok(port) if name == "ports" => json!(port),
                    _ => json!(value),
                };
                let list = options.entry(name).or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(item);
                }
            }
            _ => {}
        }
    }
    Value::Object(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_the_options() {
        let uri = "/exec?command=sh&command=-c&stdin=true&tty=false&container=c&x=y";
        assert_eq!(
            options(&uri.parse().unwrap()),
            json!({"command": ["sh", "-c"], "stdin": true, "tty": false, "container": "c"})
        );
        let uri = "/portforward?ports=80&ports=81";
        assert_eq!(options(&uri.parse().unwrap()), json!({"ports": [80, 81]}));
    }
}
