//! Reading many objects: selectors, pages, and lists of the past.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use waggle_api::selector::{FieldSelector, LabelSelector};
use waggle_api::{ListMeta, Resource, Status, table};

use super::accept::{Form, form};
use super::answer;
use super::document::Document;
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
            && self.labels.matches_by(|key| object.label(key))
            && (self.fields.is_empty() || self.has_fields(object))
    }

    fn has_fields(&self, object: &Object) -> bool {
        if std::ptr::eq(self.resource, object.resource) {
            let (namespace, name) = (&object.namespace, &object.name);
            let found = object.fields();
            return (self.fields).matches_values(self.resource, namespace, name, found);
        }
        let shown = |value: &Value| self.fields.matches(&self.resource.show(value));
        object.value.glance(shown)
    }

    /// Namespace and name of the only object that can be meant, when there is only one.
    pub(super) fn only(&self) -> Option<(&str, &str)> {
        let name = self
            .name
            .as_deref()
            .or(self.fields.value_of("metadata.name"))?;
        let namespace = self.namespace.as_deref();
        let namespace = namespace.or((!self.resource.namespaced).then_some(""))?;
        Some((namespace, name))
    }

    fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

/// A place in a list: its revision and the last key that was given.
struct Place {
    /// `None`: whatever there is when the rest is asked for.
    revision: Option<u64>,
    after: String,
}

/// What Kubernetes says to whoever comes back too late for the rest of a list.
const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list \
    without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
    Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted \
    between the time the first chunk was returned and now may show up in the list.";

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
                revision: match &value["rv"] {
                    Value::Null => None,
                    revision => Some(revision.as_u64()?),
                },
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
    check(query)?;
    let (listing, after) = source(state, target, query).await?;
    let (objects, metadata) = page(&listing, &selection, query.limit, after.as_deref());
    let objects = state.objects.converted(objects, target.resource).await?;
    let now = state.objects.now().as_second();
    let values = || objects.iter().map(|object| &*object.value);
    Ok(match form {
        Form::Plain => answer::body(
            StatusCode::OK,
            "application/json",
            Body::new(Document::new(target.resource, objects, &metadata)),
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
        return rest(state, target, Place::parse(&query.continue_token)?).await;
    }
    let asked = revision(&query.resource_version)?;
    // A part of a list of some revision is one of just that revision, unless the client says otherwise.
    let exact = match query.resource_version_match.as_str() {
        "" => query.limit > 0,
        how => how == "Exact",
    };
    let Some(revision) = asked.filter(|_| exact) else {
        at_least(state, &query.resource_version).await?;
        return Ok((state.objects.list(resource, namespace), None));
    };
    state.objects.seen(revision).await?;
    let listing = state.objects.list_at(resource, namespace, revision).await?;
    Ok((listing, None))
}

/// Refuses what a list can't be asked for, in Kubernetes' words.
fn check(query: &Query) -> Result<(), Status> {
    let invalid = |fault: &str| {
        let message = format!("ListOptions is invalid: {fault}");
        Err(Status::failure(422, "Invalid", message))
    };
    let (version, how) = (&query.resource_version, &query.resource_version_match);
    if query.send_initial_events.is_some() {
        return invalid("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list");
    }
    if !query.continue_token.is_empty() && !matches!(version.as_str(), "" | "0") {
        return Err(Status::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    match how.as_str() {
        "" => Ok(()),
        "Exact" | "NotOlderThan" if version.is_empty() => invalid(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        "Exact" | "NotOlderThan" if !query.continue_token.is_empty() => invalid(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
        ),
        "Exact" if version == "0" => invalid(
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        "Exact" | "NotOlderThan" => Ok(()),
        other => invalid(&format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
        )),
    }
}

/// What to list the rest of a list from.
async fn rest(
    state: &ServerState,
    target: &Target,
    place: Place,
) -> Result<(Listing, Option<String>), Status> {
    let (resource, namespace) = (target.resource, target.in_namespace());
    let Some(revision) = place.revision else {
        return Ok((state.objects.list(resource, namespace), Some(place.after)));
    };
    match state.objects.list_at(resource, namespace, revision).await {
        Ok(listing) => Ok((listing, Some(place.after))),
        Err(status) if status.code == 410 => Err(Status {
            continue_token: Place {
                revision: None,
                ..place
            }
            .token(),
            ..Status::expired(INCONSISTENT)
        }),
        Err(status) => Err(status),
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
            revision: Some(listing.revision),
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

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_continue_token_is_answered(
            text in "[ -~é]{0,60}",
            field in "[\"{}:,0-9a-z.e+-]{0,40}",
            at in 0usize..80,
            byte in proptest::prelude::any::<u8>(),
        ) {
            let given = Place { revision: Some(7), after: "/registry/core/pods/a/b".into() }.token();
            let mut spoilt = given.clone().into_bytes();
            let at = at % spoilt.len();
            spoilt[at] = byte;
            let inner = URL_SAFE_NO_PAD.encode(format!("{{\"v\":1,\"rv\":{field},\"after\":\"{field}\"}}"));
            for token in [text, String::from_utf8_lossy(&spoilt).into_owned(), inner, given.repeat(1000)] {
                let _ = Place::parse(&token);
            }
            assert!(Place::parse(&given).is_ok());
        }
    }
}
