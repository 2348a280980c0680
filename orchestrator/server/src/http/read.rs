//! Reading one object.

use axum::response::Response;
use http::{HeaderMap, StatusCode};
use waggle_api::{ListMeta, Status, scale as scaling, table};

use super::accept::{Form, form};
use super::answer::{json, object};
use super::query::Query;
use super::target::Target;
use crate::run::ServerState;

/// GET of an object or of its status.
pub(super) async fn get(
    state: &ServerState,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response, Status> {
    at_least(state, &query.resource_version).await?;
    let form = form(headers)?;
    let found = state
        .objects
        .get(target.resource, &target.namespace, &target.name);
    let found = found.ok_or_else(|| Status::not_found(target.resource, &target.name))?;
    let shown = state.objects.converted_one(&found, target.resource).await?;
    Ok(object(
        StatusCode::OK,
        &shown,
        form,
        query.include_object.parse()?,
        state.objects.now().as_second(),
    ))
}

/// GET of an object's scale.
pub(super) async fn scale(
    state: &ServerState,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response, Status> {
    let found = state
        .objects
        .get(target.resource, &target.namespace, &target.name);
    let found = found.ok_or_else(|| Status::not_found(target.resource, &target.name))?;
    let found = if target.resource.converter().is_some() {
        state.objects.converted_one(&found, target.resource).await?
    } else {
        found
    };
    let scale = scaling::get(target.resource, &found.value);
    let include = query.include_object.parse()?;
    let (now, metadata) = (state.objects.now().as_second(), ListMeta::default());
    let shown = match form(headers)? {
        Form::Plain => scale,
        Form::Table => table::document(&scaling::ROW, [&scale], now, include, &metadata, true),
        Form::Metadata => table::partial(&scale),
    };
    Ok(json(StatusCode::OK, &shown))
}

/// Waits until the cache is as new as the client has seen it.
pub(super) async fn at_least(state: &ServerState, resource_version: &str) -> Result<(), Status> {
    match revision(resource_version)? {
        None => Ok(()),
        Some(revision) => state.objects.seen(revision).await,
    }
}

/// A resourceVersion; `None` for "whatever there is".
pub(super) fn revision(text: &str) -> Result<Option<u64>, Status> {
    match text {
        "" | "0" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!(
                "resourceVersion: Invalid value: {text:?}: must be a number"
            ))
        }),
    }
}
