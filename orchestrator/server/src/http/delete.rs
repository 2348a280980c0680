//! Deleting one object or a collection.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use waggle_api::{DeleteOptions, Status};

use super::answer::{bytes, json, warn};
use super::collection::Selection;
use super::input;
use super::query::Query;
use super::target::Target;
use super::write::caller_of;
use crate::objects::Deleted;
use crate::run::ServerState;

/// DELETE of an object.
pub(super) async fn one(
    state: &ServerState,
    target: &Target,
    query: &Query,
    request: Request,
) -> Result<Response, Status> {
    let caller = caller_of(&request);
    let options = options(query, request).await?;
    let deleted = state
        .objects
        .delete_for(
            Some(Arc::clone(&caller)),
            target.resource,
            &target.namespace,
            &target.name,
            &options,
        )
        .await?;
    let answer = match deleted {
        Deleted::Gone(object) => json(
            StatusCode::OK,
            &Status::deleted(target.resource, &object.name, &object.uid).to_value(),
        ),
        Deleted::Marked(object) => {
            let shown = state
                .objects
                .converted_one(&object, target.resource)
                .await?;
            bytes(StatusCode::OK, "application/json", shown.bytes.clone())
        }
    };
    Ok(warn(answer, &caller.warnings()))
}

/// DELETE of a collection: every object that the selectors take, each as if alone.
pub(super) async fn many(
    state: &ServerState,
    target: &Target,
    query: &Query,
    request: Request,
) -> Result<Response, Status> {
    let caller = caller_of(&request);
    let options = options(query, request).await?;
    let selection = Selection::new(target, query)?;
    let listing = state.objects.list(target.resource, target.in_namespace());
    let mut gone = Vec::new();
    for object in listing
        .objects
        .iter()
        .filter(|object| selection.takes(object))
    {
        match state
            .objects
            .delete_for(
                Some(Arc::clone(&caller)),
                target.resource,
                &object.namespace,
                &object.name,
                &options,
            )
            .await
        {
            Ok(deleted) => gone.push(Arc::clone(deleted.object())),
            Err(status) if status.is_not_found() => {}
            Err(status) => return Err(status),
        }
    }
    let items = state.objects.converted(gone, target.resource).await?;
    let items: Vec<Value> = items.iter().map(|one| one.value.clone()).collect();
    let revision = state.objects.changed().borrow().to_string();
    let list = json!({
        "kind": target.resource.list_kind(), "apiVersion": target.resource.api_version(),
        "metadata": {"resourceVersion": revision}, "items": items,
    });
    Ok(warn(json(StatusCode::OK, &list), &caller.warnings()))
}

/// The body's options; the query's where the body says nothing.
async fn options(query: &Query, request: Request) -> Result<DeleteOptions, Status> {
    let (body, _) = input::value(request).await?;
    let mut options = DeleteOptions::from_value(&body)?;
    options.grace_period_seconds = options.grace_period_seconds.or(query.grace_period_seconds);
    options.propagation_policy = options.propagation_policy.or(query.propagation_policy);
    options.orphan_dependents = options.orphan_dependents.or(query.orphan_dependents);
    if query.dry_run {
        options.dry_run = Some(vec!["All".to_owned()]);
    }
    Ok(options)
}
