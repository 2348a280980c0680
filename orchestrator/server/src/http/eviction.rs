//! Evicting a pod: a deletion that disruption budgets have a say in. What they say is decided in `waggle-plan`.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::StatusCode;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use waggle_api::admission::webhook::Operation;
use waggle_api::life::Preconditions;
use waggle_api::{Cause, DeleteOptions, Details, Part, Status, find};
use waggle_plan::disruption::{Eviction, evict};

use super::answer::{json as document, refusal};
use super::input;
use super::write::caller_of;
use crate::objects::{Caller, Errand, Object, Objects, WriteOptions};
use crate::run::ServerState;

/// How often an eviction is decided again because its budget or pod changed in between.
const ATTEMPTS: usize = 16;

/// POST of an Eviction to a pod.
pub(super) async fn create(
    State(state): State<ServerState>,
    Path((namespace, name)): Path<(String, String)>,
    request: Request,
) -> Response {
    match answer(&state.objects, &namespace, &name, request).await {
        Ok(()) => {
            let success = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            document(StatusCode::CREATED, &success)
        }
        Err(status) => refusal(&status),
    }
}

async fn answer(
    objects: &Objects,
    namespace: &str,
    name: &str,
    request: Request,
) -> Result<(), Status> {
    let dry_run = super::query::Query::parse(request.uri())?.dry_run;
    let caller = caller_of(&request);
    let (body, _) = input::value(request).await?;
    let fits = |value: &Value| value.is_object() || value.is_null();
    if !(fits(&body) && fits(&body["metadata"])) {
        return Err(Status::bad_request(
            "the body of the request is no Eviction",
        ));
    }
    let named = body["metadata"]["name"].as_str().unwrap_or(name);
    if named != name {
        return Err(Status::bad_request(format!(
            "the name of the Eviction ({named}) does not match the pod's ({name})"
        )));
    }
    let mut options = DeleteOptions::from_value(&body["deleteOptions"])?;
    if dry_run {
        options.dry_run = Some(vec!["All".to_owned()]);
    }
    let pods = find("", "v1", "pods").ok_or_else(Status::unknown_path)?;
    let mut sent = body.clone();
    sent["metadata"]["name"] = name.into();
    sent["metadata"]["namespace"] = namespace.into();
    let errand = Errand {
        resource: pods,
        subresource: "eviction",
        namespace,
        name,
        operation: Operation::Create,
        object: sent,
        dry_run: options
            .dry_run
            .as_ref()
            .is_some_and(|what| !what.is_empty()),
        caller: Some(Arc::clone(&caller)),
    };
    objects.errand(errand).await?;
    for _ in 0..ATTEMPTS {
        match once(objects, &caller, namespace, name, &options).await {
            Err(status) if status.is_conflict() && options.preconditions.is_none() => {}
            answer => return answer,
        }
    }
    Err(Status::too_many_requests(
        "the pod or its disruption budget keeps changing: try again",
        1,
    ))
}

async fn once(
    objects: &Objects,
    caller: &Arc<Caller>,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let pods = find("", "v1", "pods").ok_or_else(Status::unknown_path)?;
    let budgets = find("policy", "v1", "poddisruptionbudgets").ok_or_else(Status::unknown_path)?;
    let pod = objects
        .get(pods, namespace, name)
        .ok_or_else(|| Status::not_found(pods, name))?;
    let mut about = Vec::new();
    for budget in objects.list(budgets, Some(namespace)).objects {
        about.push(typed::<PodDisruptionBudget>(&budget)?);
    }
    match evict(&typed(&pod)?, about.iter(), objects.now()) {
        Eviction::Free => {}
        Eviction::Charged(budget) => {
            let value = serde_json::to_value(budget).map_err(Status::internal)?;
            let write = WriteOptions {
                dry_run: options
                    .dry_run
                    .as_ref()
                    .is_some_and(|what| !what.is_empty()),
                ..WriteOptions::STORED
            };
            objects.update(budgets, value, Part::Status, &write).await?;
        }
        Eviction::Later(why, seconds) => return Err(refused(name, why, seconds)),
        Eviction::Ambiguous => {
            let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::internal(message));
        }
    }
    // The pod that was decided on, and no other of its name.
    let mut options = options.clone();
    options.preconditions.get_or_insert_with(|| Preconditions {
        uid: Some(pod.uid.clone()),
        resource_version: None,
    });
    objects
        .delete_for(Some(Arc::clone(caller)), pods, namespace, name, &options)
        .await
        .map(drop)
}

fn typed<T: DeserializeOwned>(object: &Object) -> Result<T, Status> {
    T::deserialize(&*object.value).map_err(Status::internal)
}

fn refused(name: &str, why: String, seconds: u64) -> Status {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::too_many_requests(message, u32::try_from(seconds).unwrap_or(10));
    let cause = Cause {
        reason: "DisruptionBudget".into(),
        message: why,
        ..Cause::default()
    };
    status.details = Some(Box::new(Details {
        name: name.to_owned(),
        kind: "pods".into(),
        causes: vec![cause],
        retry_after_seconds: (seconds > 0).then(|| u32::try_from(seconds).unwrap_or(10)),
        ..Details::default()
    }));
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_budget_and_when_to_try_again() {
        let status = refused(
            "web",
            "The disruption budget b needs 2 healthy pods and has 2 currently".into(),
            0,
        );
        let value = status.to_value();
        assert_eq!(
            (status.code, &value["reason"]),
            (429, &json!("TooManyRequests"))
        );
        assert_eq!(value["details"]["causes"][0]["reason"], "DisruptionBudget");
        assert!(value["details"]["retryAfterSeconds"].is_null());
        assert_eq!(
            refused("web", String::new(), 10).to_value()["details"]["retryAfterSeconds"],
            10
        );
    }
}
