//! Creating and changing objects.

use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use waggle_api::patch::Patch;
use waggle_api::{FieldValidation, Part, Status, scale};

use super::accept::form;
use super::answer::{json, object, warn};
use super::input;
use super::query::Query;
use super::target::Target;
use crate::objects::{Object, WriteOptions};
use crate::run::ServerState;

/// POST to a collection.
pub(super) async fn create(
    state: &ServerState,
    target: &Target,
    query: &Query,
    request: Request,
) -> Result<Response, Status> {
    if !target.name.is_empty() || (target.resource.namespaced && target.namespace.is_empty()) {
        return Err(Status::method_not_allowed());
    }
    let headers = request.headers().clone();
    let (value, duplicates) = input::value(request).await?;
    let mut read = target
        .resource
        .read(value, query.field_validation, duplicates)?;
    settle_namespace(target, &mut read.value)?;
    let made = state
        .objects
        .create(target.resource, read.value, &options(query))
        .await?;
    answer(
        state,
        StatusCode::CREATED,
        &made,
        query,
        &headers,
        &read.warnings,
    )
}

/// PUT of an object, its status or its scale.
pub(super) async fn update(
    state: &ServerState,
    target: &Target,
    query: &Query,
    request: Request,
) -> Result<Response, Status> {
    let headers = request.headers().clone();
    let (value, duplicates) = input::value(request).await?;
    if target.name.is_empty() {
        return Err(Status::method_not_allowed());
    }
    if target.subresource == "scale" {
        return rescale(state, target, query, |_| Ok(value.clone())).await;
    }
    let mut read = target
        .resource
        .read(value, query.field_validation, duplicates)?;
    settle_name(target, &mut read.value)?;
    let made = state
        .objects
        .update(target.resource, read.value, part(target), &options(query))
        .await?;
    answer(
        state,
        StatusCode::OK,
        &made,
        query,
        &headers,
        &read.warnings,
    )
}

/// PATCH of an object, its status or its scale.
pub(super) async fn patch(
    state: &ServerState,
    target: &Target,
    query: &Query,
    request: Request,
) -> Result<Response, Status> {
    if target.name.is_empty() {
        return Err(Status::method_not_allowed());
    }
    let headers = request.headers().clone();
    let media_type = input::media_type(&headers).to_owned();
    if media_type == "application/apply-patch+yaml" {
        let message = "server-side apply is not served yet: apply without --server-side, or send a merge patch";
        return Err(Status::failure(415, "UnsupportedMediaType", message));
    }
    let patch = Patch::parse(&media_type, &input::body(request).await?)?;
    if target.subresource == "scale" {
        return rescale(state, target, query, |scale| {
            patch_scale(&patch, target, scale)
        })
        .await;
    }
    let mut warnings = Vec::new();
    let change = |old: &Object| {
        let read = patched(&patch, target, query.field_validation, &old.value)?;
        warnings = read.warnings;
        Ok(read.value)
    };
    let objects = &state.objects;
    let (namespace, name) = (target.namespace.as_str(), target.name.as_str());
    let made = objects
        .modify(
            target.resource,
            namespace,
            name,
            part(target),
            &options(query),
            change,
        )
        .await?;
    answer(state, StatusCode::OK, &made, query, &headers, &warnings)
}

/// The object after a patch, read like any other body.
fn patched(
    patch: &Patch,
    target: &Target,
    validation: FieldValidation,
    old: &Value,
) -> Result<waggle_api::Read, Status> {
    let value = patch.apply(target.resource, old)?;
    target.resource.read(value, validation, Vec::new())
}

/// A Scale has no lists: a strategic merge patch of it is a merge patch.
fn patch_scale(patch: &Patch, target: &Target, scale: &Value) -> Result<Value, Status> {
    match patch {
        Patch::Strategic(fields) => Patch::Merge(fields.clone()).apply(target.resource, scale),
        other => other.apply(target.resource, scale),
    }
}

/// Changes the replicas; `change` makes the wanted Scale from the present one.
async fn rescale(
    state: &ServerState,
    target: &Target,
    query: &Query,
    change: impl Fn(&Value) -> Result<Value, Status> + Send + Sync,
) -> Result<Response, Status> {
    let resource = target.resource;
    let (namespace, name) = (target.namespace.as_str(), target.name.as_str());
    let change =
        |old: &Object| scale::apply(resource, &old.value, &change(&scale::get(&old.value))?);
    let made = state
        .objects
        .modify(
            resource,
            namespace,
            name,
            Part::Main,
            &options(query),
            change,
        )
        .await?;
    Ok(json(StatusCode::OK, &scale::get(&made.value)))
}

fn options(query: &Query) -> WriteOptions {
    WriteOptions {
        dry_run: query.dry_run,
    }
}

fn part(target: &Target) -> Part {
    if target.subresource == "status" {
        Part::Status
    } else {
        Part::Main
    }
}

fn answer(
    state: &ServerState,
    code: StatusCode,
    made: &Object,
    query: &Query,
    headers: &HeaderMap,
    warnings: &[String],
) -> Result<Response, Status> {
    let now = state.objects.now().as_second();
    Ok(warn(
        object(
            code,
            made,
            form(headers)?,
            query.include_object.parse()?,
            now,
        ),
        warnings,
    ))
}

/// Gives the object the path's namespace.
fn settle_namespace(target: &Target, value: &mut Value) -> Result<(), Status> {
    if !value["metadata"].is_object() {
        value["metadata"] = serde_json::json!({});
    }
    if !target.resource.namespaced {
        return Ok(());
    }
    let given = value["metadata"]["namespace"].as_str().unwrap_or_default();
    if !given.is_empty() && given != target.namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request: {given:?} and {:?}",
            target.namespace
        )));
    }
    value["metadata"]["namespace"] = target.namespace.as_str().into();
    Ok(())
}

/// Gives the object the path's namespace and checks its name.
fn settle_name(target: &Target, value: &mut Value) -> Result<(), Status> {
    settle_namespace(target, value)?;
    let given = value["metadata"]["name"].as_str().unwrap_or_default();
    if given != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            target.name
        )));
    }
    Ok(())
}
