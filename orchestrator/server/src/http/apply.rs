//! Server-side apply: a PATCH that says what its writer wants, and what it wants no longer by leaving it out. The merge
//! and the conflicts are `waggle-api`'s.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value};
use waggle_api::ownership::{self, Writer};
use waggle_api::{FieldValidation, Status};

use super::input;
use super::query::Query;
use super::target::Target;
use super::write::{answer, caller_of, part, settle_name};
use crate::auth::{admit_part, admit_write, stamp};
use crate::objects::{Caller, Object, Ownership, WriteOptions};
use crate::run::ServerState;

/// Content-Type of such a patch. JSON is YAML too.
pub(super) const MEDIA_TYPE: &str = "application/apply-patch+yaml";

/// How often an apply starts again because the object came or went in between.
const ATTEMPTS: usize = 8;

/// PATCH with an apply configuration.
pub(super) async fn apply(
    state: &ServerState,
    target: &Target,
    query: &Query,
    request: Request,
) -> Result<Response, Status> {
    if query.field_manager.is_empty() {
        let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
        return Err(Status::failure(422, "Invalid", message));
    }
    if target.subresource == "scale" {
        return Err(Status::unsupported_media_type(
            &waggle_api::patch::MEDIA_TYPES,
        ));
    }
    let headers = request.headers().clone();
    let caller = caller_of(&request);
    let wanted = input::from_yaml(&input::whole(request.into_body()).await?)?;
    let mut read = target
        .resource
        .read_partial(wanted, query.field_validation)?;
    settle_name(target, &mut read.value)?;
    only_the_part(target, &mut read.value);
    for _ in 0..ATTEMPTS {
        let there = state
            .objects
            .get(target.resource, &target.namespace, &target.name)
            .is_some();
        let (code, made) = if there {
            (
                StatusCode::OK,
                change(state, target, query, &caller, &read.value).await,
            )
        } else {
            (
                StatusCode::CREATED,
                create(state, target, query, &caller, &read.value).await,
            )
        };
        match made {
            Err(status) if !there && status.is_already_exists() => {}
            Err(status) if there && status.is_not_found() => {}
            Err(status) => return Err(status),
            Ok(made) => {
                caller.warn_all(read.warnings);
                return answer(state, target, code, &made, query, &headers, &caller).await;
            }
        }
    }
    Err(Status::modified(target.resource, &target.name))
}

/// An apply of the object leaves its status alone, an apply of the status everything else.
fn only_the_part(target: &Target, value: &mut Value) {
    let Some(map) = value.as_object_mut() else {
        return;
    };
    if target.subresource == "status" {
        map.retain(|field, _| {
            matches!(
                field.as_str(),
                "apiVersion" | "kind" | "metadata" | "status"
            )
        });
        if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            let kept = ["name", "namespace", "uid", "resourceVersion"];
            metadata.retain(|field, _| kept.contains(&field.as_str()));
        }
    } else if target.resource.has_status() {
        map.remove("status");
    }
}

fn settled(query: &Query, caller: &Arc<Caller>) -> WriteOptions {
    WriteOptions {
        dry_run: query.dry_run,
        ownership: Ownership::Settled,
        caller: Some(Arc::clone(caller)),
    }
}

type Made = Result<Arc<Object>, Status>;

async fn create(
    state: &ServerState,
    target: &Target,
    query: &Query,
    caller: &Arc<Caller>,
    config: &Value,
) -> Made {
    if !target.subresource.is_empty() || !config["metadata"]["uid"].is_null() {
        return Err(Status::not_found(target.resource, &target.name));
    }
    let user = caller.user();
    let mut applied = merged(state, target, query, None, config)?;
    stamp(user, target.resource, &mut applied)?;
    admit_write(&state.objects, user, target.resource, None, &applied)?;
    state
        .objects
        .create(target.resource, applied, &settled(query, caller))
        .await
}

async fn change(
    state: &ServerState,
    target: &Target,
    query: &Query,
    caller: &Arc<Caller>,
    config: &Value,
) -> Made {
    let user = caller.user();
    let change = |old: &Object| {
        let part = target.subresource.as_str();
        admit_part(&state.objects, user, target.resource, part, &old.value)?;
        let mut value = merged(state, target, query, Some(&old.value), config)?;
        admit_write(
            &state.objects,
            user,
            target.resource,
            Some(&old.value),
            &value,
        )?;
        for field in ["resourceVersion", "uid"] {
            if let Some(given) = config["metadata"][field].as_str() {
                value["metadata"][field] = given.into();
            }
        }
        Ok(value)
    };
    let (namespace, name) = (target.namespace.as_str(), target.name.as_str());
    let objects = &state.objects;
    objects
        .modify(
            target.resource,
            namespace,
            name,
            part(target),
            &settled(query, caller),
            change,
        )
        .await
}

/// The configuration laid over what is there, in the form in which objects are kept.
fn merged(
    state: &ServerState,
    target: &Target,
    query: &Query,
    live: Option<&Value>,
    config: &Value,
) -> Result<Value, Status> {
    let writer = Writer {
        manager: &query.field_manager,
        subresource: &target.subresource,
        now: state.objects.now(),
    };
    let applied = ownership::apply(target.resource, live, config, writer, query.force)?;
    let managed = applied.value["metadata"]["managedFields"].clone();
    let read = target
        .resource
        .read(applied.value, FieldValidation::Ignore, Vec::new())?;
    let mut value = read.value;
    if let Value::Object(metadata) = &mut value["metadata"] {
        metadata.insert("managedFields".into(), managed);
    } else {
        value["metadata"] = Value::Object(Map::new());
    }
    Ok(value)
}
