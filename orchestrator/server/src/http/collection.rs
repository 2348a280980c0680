//! Reading many objects: selectors, pages, and lists of the past.

use std::sync::Arc;

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use waggle_api::selector::{FieldSelector, LabelSelector};
use waggle_api::{ListMeta, Resource, Status, table};

use super::accept::{Form, form};
use super::answer;
use super::query::Query;
use super::read::{at_least, revision};
use super::target::Target;
use crate::objects::{Listing, Object};
use crate::run::ServerState;

/// Which objects of a kind are meant.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    resource: &'static Resource,
    namespace: Option<String>,
    /// The only one, for a request that names it.
    name: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub(super) fn new(target: &Target, query: &Query) -> Result<Self, Status> {
        Ok(Self {
            resource: target.resource,
            namespace: target.in_namespace().map(str::to_owned),
            name: (!target.name.is_empty()).then(|| target.name.clone()),
            labels: LabelSelector::parse(&query.label_selector)?,
            fields: FieldSelector::parse(target.resource, &query.field_selector)?,
        })
    }

    pub(super) fn takes(&self, object: &Object) -> bool {
        self.namespace
            .as_ref()
            .is_none_or(|namespace| *namespace == object.namespace)
            && self.name.as_ref().is_none_or(|name| *name == object.name)
            && self.labels.matches_object(&object.value)
            && (self.fields.is_empty() || self.fields.matches(&self.resource.show(&object.value)))
    }

    fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

/// A place in a list: its revision and the last key that was given.
struct Place {
    revision: u64,
    after: String,
}

impl Place {
    fn token(&self) -> String {
        URL_SAFE_NO_PAD
            .encode(json!({"v": 1, "rv": self.revision, "after": self.after}).to_string())
    }

    fn parse(token: &str) -> Result<Self, Status> {
        let read = || {
            let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
            let value: Value = serde_json::from_slice(&bytes).ok()?;
            Some(Self {
                revision: value["rv"].as_u64()?,
                after: value["after"].as_str()?.to_owned(),
            })
        };
        read().ok_or_else(|| {
            Status::bad_request("continue: the token is not one that this server gave")
        })
    }
}

/// GET of a collection.
pub(super) async fn list(
    state: &ServerState,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response, Status> {
    let form = form(headers)?;
    let selection = Selection::new(target, query)?;
    let include = query.include_object.parse()?;
    let (listing, after) = source(state, target, query).await?;
    let (objects, metadata) = page(&listing, &selection, query.limit, after.as_deref());
    let shown = objects.iter().map(|object| object.shown(target.resource));
    let objects: Vec<Arc<Object>> = shown.collect();
    let now = state.objects.now().as_second();
    let values = || objects.iter().map(|object| &object.value);
    Ok(match form {
        Form::Plain => answer::bytes(
            StatusCode::OK,
            "application/json",
            plain(target, &objects, &metadata),
        ),
        Form::Table => {
            let table = table::document(target.resource, values(), now, include, &metadata, true);
            answer::json(StatusCode::OK, &table)
        }
        Form::Metadata => answer::json(StatusCode::OK, &table::partial_list(values(), &metadata)),
    })
}

/// What to list from, and the key after which to start.
async fn source(
    state: &ServerState,
    target: &Target,
    query: &Query,
) -> Result<(Listing, Option<String>), Status> {
    let (resource, namespace) = (target.resource, target.in_namespace());
    if !query.continue_token.is_empty() {
        let place = Place::parse(&query.continue_token)?;
        let listing = state
            .objects
            .list_at(resource, namespace, place.revision)
            .await?;
        return Ok((listing, Some(place.after)));
    }
    match (
        query.resource_version_match.as_str(),
        revision(&query.resource_version)?,
    ) {
        ("Exact", Some(revision)) => {
            state.objects.seen(revision).await?;
            Ok((
                state.objects.list_at(resource, namespace, revision).await?,
                None,
            ))
        }
        ("Exact", None) => Err(Status::bad_request(
            "resourceVersionMatch: Exact needs a resourceVersion",
        )),
        ("" | "NotOlderThan", _) => {
            at_least(state, &query.resource_version).await?;
            Ok((state.objects.list(resource, namespace), None))
        }
        (other, _) => Err(Status::bad_request(format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
        ))),
    }
}

fn page(
    listing: &Listing,
    selection: &Selection,
    limit: usize,
    after: Option<&str>,
) -> (Vec<Arc<Object>>, ListMeta) {
    let mut metadata = ListMeta {
        resource_version: listing.revision.to_string(),
        ..ListMeta::default()
    };
    let start = after.map_or(0, |after| {
        listing
            .objects
            .partition_point(|object| object.key().as_str() <= after)
    });
    let rest = &listing.objects[start..];
    if limit == 0 {
        return (
            rest.iter()
                .filter(|object| selection.takes(object))
                .cloned()
                .collect(),
            metadata,
        );
    }
    let mut matching = rest
        .iter()
        .enumerate()
        .filter(|(_, object)| selection.takes(object));
    let taken: Vec<(usize, &Arc<Object>)> = matching.by_ref().take(limit).collect();
    if let (Some((last, object)), true) = (taken.last(), matching.next().is_some()) {
        metadata.continue_token = Place {
            revision: listing.revision,
            after: object.key(),
        }
        .token();
        let left = rest.len() - last - 1;
        metadata.remaining_item_count = selection
            .is_everything()
            .then(|| i64::try_from(left).unwrap_or(i64::MAX));
    }
    (
        taken
            .into_iter()
            .map(|(_, object)| Arc::clone(object))
            .collect(),
        metadata,
    )
}

/// The list document, from the objects' own bytes.
fn plain(target: &Target, objects: &[Arc<Object>], metadata: &ListMeta) -> Bytes {
    let head = json!({
        "kind": target.resource.list_kind(), "apiVersion": target.resource.api_version(), "metadata": metadata,
    });
    let mut text = head.to_string().into_bytes();
    text.pop();
    text.extend_from_slice(b",\"items\":[");
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        text.extend_from_slice(&object.bytes);
    }
    text.extend_from_slice(b"]}\n");
    Bytes::from(text)
}
