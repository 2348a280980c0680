//! Creating and changing objects.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use http::header::USER_AGENT;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use waggle_api::admission::pod_security::Mode;
use waggle_api::patch::Patch;
use waggle_api::{FieldValidation, Part, Status, scale};

use super::accept::form;
use super::answer::{json, object, warn};
use super::apply;
use super::input;
use super::query::Query;
use super::target::Target;
use crate::auth::{admit_part, admit_write, advice, stamp};
use crate::objects::{Caller, Object, Ownership, WriteOptions};
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
    let caller = caller_of(&request);
    let user = caller.user();
    let (value, duplicates) = input::value(request).await?;
    let mut read = target
        .resource
        .read(value, query.field_validation, duplicates)?;
    caller.warn_all(read.warnings);
    settle_namespace(target, &mut read.value)?;
    stamp(user, target.resource, &mut read.value)?;
    admit_write(&state.objects, user, target.resource, None, &read.value)?;
    let made = state
        .objects
        .create(
            target.resource,
            read.value,
            &options(target, query, &headers, &caller),
        )
        .await?;
    answer(
        state,
        target,
        StatusCode::CREATED,
        &made,
        query,
        &headers,
        &caller,
    )
    .await
}

/// PUT of an object, its status or its scale.
pub(super) async fn update(
    state: &ServerState,
    target: &Target,
    query: &Query,
    request: Request,
) -> Result<Response, Status> {
    let headers = request.headers().clone();
    let caller = caller_of(&request);
    let user = caller.user();
    let (value, duplicates) = input::value(request).await?;
    if target.name.is_empty() {
        return Err(Status::method_not_allowed());
    }
    if target.subresource == "scale" {
        return rescale(state, target, query, &headers, &caller, |_| {
            Ok(value.clone())
        })
        .await;
    }
    let mut read = target
        .resource
        .read(value, query.field_validation, duplicates)?;
    caller.warn_all(read.warnings);
    settle_name(target, &mut read.value)?;
    let old = state
        .objects
        .get(target.resource, &target.namespace, &target.name);
    let old = match old {
        Some(old) => Some(state.objects.converted_one(&old, target.resource).await?),
        None => None,
    };
    let old = old.as_ref().map(|old| &*old.value);
    if let Some(old) = old {
        let part = target.subresource.as_str();
        admit_part(&state.objects, user, target.resource, part, old)?;
    }
    admit_write(&state.objects, user, target.resource, old, &read.value)?;
    let made = state
        .objects
        .update(
            target.resource,
            read.value,
            part(target),
            &options(target, query, &headers, &caller),
        )
        .await?;
    answer(
        state,
        target,
        StatusCode::OK,
        &made,
        query,
        &headers,
        &caller,
    )
    .await
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
    if media_type == apply::MEDIA_TYPE {
        return apply::apply(state, target, query, request).await;
    }
    let caller = caller_of(&request);
    let user = caller.user();
    let patch = Patch::parse(&media_type, &input::whole(request.into_body()).await?)?;
    if target.subresource == "scale" {
        return rescale(state, target, query, &headers, &caller, |scale| {
            patch_scale(&patch, target, scale)
        })
        .await;
    }
    let mut warnings = Vec::new();
    let change = |old: &Object| {
        let (objects, part) = (&state.objects, target.subresource.as_str());
        admit_part(objects, user, target.resource, part, &old.value)?;
        let read = patched(&patch, target, query.field_validation, &old.value)?;
        admit_write(
            &state.objects,
            user,
            target.resource,
            Some(&old.value),
            &read.value,
        )?;
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
            &options(target, query, &headers, &caller),
            change,
        )
        .await?;
    caller.warn_all(warnings);
    answer(
        state,
        target,
        StatusCode::OK,
        &made,
        query,
        &headers,
        &caller,
    )
    .await
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
    headers: &HeaderMap,
    caller: &Arc<Caller>,
    change: impl Fn(&Value) -> Result<Value, Status> + Send + Sync,
) -> Result<Response, Status> {
    let resource = target.resource;
    let (namespace, name) = (target.namespace.as_str(), target.name.as_str());
    let change = |old: &Object| {
        scale::apply(
            resource,
            &old.value,
            &change(&scale::get(resource, &old.value))?,
        )
    };
    let made = state
        .objects
        .modify(
            resource,
            namespace,
            name,
            Part::Main,
            &options(target, query, headers, caller),
            change,
        )
        .await?;
    let answer = json(StatusCode::OK, &scale::get(resource, &made.value));
    Ok(warn(answer, &caller.warnings()))
}

/// Who sent the request.
pub(super) fn caller_of(request: &Request) -> Arc<Caller> {
    let known = request.extensions().get::<Arc<Caller>>();
    known.cloned().unwrap_or_default()
}

/// How the request's writer is noted.
fn options(
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    caller: &Arc<Caller>,
) -> WriteOptions {
    WriteOptions {
        dry_run: query.dry_run,
        ownership: Ownership::Client {
            manager: manager(query, headers),
            subresource: target.subresource.clone(),
        },
        caller: Some(Arc::clone(caller)),
    }
}

/// Who the writer says it is: `fieldManager`, or what its User-Agent starts with.
fn manager(query: &Query, headers: &HeaderMap) -> String {
    if !query.field_manager.is_empty() {
        return query.field_manager.clone();
    }
    let agent = headers
        .get(USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match agent.split('/').next().unwrap_or_default() {
        "" => "unknown".to_owned(),
        name => name.chars().take(128).collect(),
    }
}

pub(super) fn part(target: &Target) -> Part {
    match target.subresource.as_str() {
        "status" => Part::Status,
        "ephemeralcontainers" => Part::Ephemeral,
        "resize" => Part::Resize,
        "approval" => Part::Approval,
        _ => Part::Main,
    }
}

pub(super) async fn answer(
    state: &ServerState,
    target: &Target,
    code: StatusCode,
    made: &Arc<Object>,
    query: &Query,
    headers: &HeaderMap,
    caller: &Caller,
) -> Result<Response, Status> {
    let now = state.objects.now().as_second();
    if let Some(broken) = state
        .objects
        .insecurities(Mode::Audit, made.resource, &made.value)
        .filter(|_| !made.resource.is_custom())
    {
        let key = "pod-security.kubernetes.io/audit-violations";
        caller.annotate(key.into(), format!("would violate {broken}"));
    }
    caller.warn_all(advice(&state.objects, made.resource, &made.value));
    let shown = state.objects.converted_one(made, target.resource).await?;
    Ok(warn(
        object(
            code,
            &shown,
            form(headers)?,
            query.include_object.parse()?,
            now,
        ),
        &caller.warnings(),
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
pub(super) fn settle_name(target: &Target, value: &mut Value) -> Result<(), Status> {
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
