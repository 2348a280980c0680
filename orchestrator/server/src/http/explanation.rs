//! `schedulingexplanations` of waggle.dev/v1: why a pod is where it is, or nowhere, as the leader's scheduler sees it now.
//! Nothing is stored; the explanation of a pod is found by the pod's name.

use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use waggle_api::Status;
use waggle_plan::scheduler::explain;

use super::answer::{self, refusal};
use crate::run::ServerState;

pub(super) async fn get(
    State(state): State<ServerState>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    match explained(state, namespace, name).await {
        Ok(value) => answer::json(StatusCode::OK, &value),
        Err(status) => refusal(&status),
    }
}

async fn explained(state: ServerState, namespace: String, name: String) -> Result<Value, Status> {
    let sessions = state.leading.sessions();
    let sessions = sessions.ok_or_else(|| Status::unavailable("this server does not lead"))?;
    let view = sessions.view();
    // What the client wrote before it asked is to be seen.
    let written = *state.objects.changed().borrow();
    view.reach(written).await;
    let settings = state.scheduler;
    let look = move || {
        let answer = view.read(|snapshot| explain(snapshot, &settings, &namespace, &name));
        let answer = answer
            .ok_or_else(|| Status::failure(404, "NotFound", format!("pods {name:?} not found")))?;
        let mut value = json!(answer);
        value["apiVersion"] = "waggle.dev/v1".into();
        value["kind"] = "SchedulingExplanation".into();
        value["metadata"] = json!({"namespace": namespace, "name": name});
        Ok(value)
    };
    // Looking at every node of a large cluster takes its time.
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|error| Status::internal(error.to_string()))?
}
