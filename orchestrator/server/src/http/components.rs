//! `componentstatuses` of v1: the parts of the control plane. Here they are the leader's own, but the store.

use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use waggle_api::component::{DEPRECATED, ROW, object};
use waggle_api::{ListMeta, Status, table};

use super::accept::{Form, form};
use super::answer::{self, refusal, warn};
use super::query::Query;
use crate::run::ServerState;

/// GET of all of them.
pub(super) async fn list(State(state): State<ServerState>, request: Request) -> Response {
    let all = components(&state).await;
    answered(Query::parse(request.uri()).and_then(|query| {
        if query.watch {
            return Err(Status::method_not_allowed());
        }
        let metadata = ListMeta::default();
        let include = query.include_object.parse()?;
        let value = match form(request.headers())? {
            Form::Plain => {
                json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": all})
            }
            Form::Table => table::document(&ROW, &all, 0, include, &metadata, true),
            Form::Metadata => table::partial_list(&all, &metadata),
        };
        Ok(value)
    }))
}

/// GET of one.
pub(super) async fn get(
    State(state): State<ServerState>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let all = components(&state).await;
    let found = all.iter().find(|one| one["metadata"]["name"] == *name);
    let found = found.ok_or_else(|| Status::not_found(&ROW, &name));
    answered(found.and_then(|found| {
        let include = table::IncludeObject::default();
        Ok(match form(&headers)? {
            Form::Plain => found.clone(),
            Form::Table => table::document(&ROW, [found], 0, include, &ListMeta::default(), true),
            Form::Metadata => table::partial(found),
        })
    }))
}

fn answered(value: Result<Value, Status>) -> Response {
    match value {
        Ok(value) => warn(
            answer::json(StatusCode::OK, &value),
            &[DEPRECATED.to_owned()],
        ),
        Err(status) => refusal(&status),
    }
}

/// By the names that they have in Kubernetes.
async fn components(state: &ServerState) -> Vec<Value> {
    let store = state.objects.check().await;
    let store = store.as_ref().err().map(ToString::to_string);
    let leads = (state.leading.sessions().is_none()).then_some("no server leads");
    vec![
        object("controller-manager", leads),
        object("scheduler", leads),
        object("etcd-0", store.as_deref()),
    ]
}
