//! Objects of custom kinds in another version than they are stored in, when a webhook converts between the versions. What
//! it is sent and what its answer means is `waggle-api`'s to say.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use tokio::sync::oneshot;
use waggle_api::custom::conversion;
use waggle_api::{Resource, Status};

use super::{Object, Objects, WebhookCall};

/// How long a conversion may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Parts of one list that a webhook converts at a time.
const AT_ONCE: usize = 4;

impl Objects {
    /// The objects in the form of a version in which their kind is served.
    ///
    /// # Errors
    /// 500 when a webhook has to convert some and does not.
    pub(crate) async fn converted(
        &self,
        objects: Vec<Arc<Object>>,
        resource: &'static Resource,
    ) -> Result<Vec<Arc<Object>>, Status> {
        if resource.converter().is_none() {
            return Ok(objects.into_iter().map(|one| one.shown(resource)).collect());
        }
        let wanted = resource.api_version();
        let other =
            |object: &Arc<Object>| object.value.glance(|value| value["apiVersion"] != *wanted);
        let others: Vec<Arc<Object>> = objects.iter().filter(|one| other(one)).cloned().collect();
        let values: Vec<&Value> = others.iter().map(|one| &*one.value).collect();
        let mut made = self.convert(resource, &values).await?.into_iter();
        let mut all = Vec::with_capacity(objects.len());
        for object in objects {
            if !other(&object) {
                all.push(object.shown(resource));
            } else if let Some(value) = made.next() {
                let value = resource.formed(&value);
                all.push(Arc::new(Object::new(resource, value, object.revision)));
            }
        }
        Ok(all)
    }

    /// One object as [`Objects::converted`] makes it.
    ///
    /// # Errors
    /// As [`Objects::converted`].
    pub(crate) async fn converted_one(
        &self,
        object: &Arc<Object>,
        resource: &'static Resource,
    ) -> Result<Arc<Object>, Status> {
        let made = self.converted(vec![Arc::clone(object)], resource).await?;
        Ok(made
            .into_iter()
            .next()
            .unwrap_or_else(|| Arc::clone(object)))
    }

    /// What is to be stored, in the version that is stored.
    ///
    /// # Errors
    /// As [`Objects::converted`].
    pub(super) async fn to_be_stored(
        &self,
        resource: &'static Resource,
        value: Value,
    ) -> Result<Value, Status> {
        let stored = resource.stored();
        if stored.converter().is_none() || value["apiVersion"] == *stored.api_version() {
            return Ok(value);
        }
        let made = self.convert(stored, &[&value]).await?.pop();
        Ok(made.map_or(value, |made| stored.formed(&made)))
    }

    /// The values as the webhook makes them in the version of `resource`; many are asked for in parts.
    pub(super) async fn convert(
        &self,
        resource: &'static Resource,
        values: &[&Value],
    ) -> Result<Vec<Value>, Status> {
        let Some(converter) = resource.converter() else {
            return Ok(Vec::new());
        };
        let sizes = values.iter().map(|value| value.to_string().len());
        let mut rest = values;
        let mut parts = Vec::new();
        for count in conversion::batches(sizes) {
            let (part, after) = rest.split_at(count);
            parts.push(self.convert_part(resource, &converter["clientConfig"], part));
            rest = after;
        }
        stream::iter(parts).buffered(AT_ONCE).try_concat().await
    }

    async fn convert_part(
        &self,
        resource: &'static Resource,
        config: &Value,
        values: &[&Value],
    ) -> Result<Vec<Value>, Status> {
        let failed = |why: String| {
            let (version, kind) = (resource.api_version(), resource.kind);
            Status::internal(format!(
                "conversion webhook for {version}, Kind={kind} failed: {why}"
            ))
        };
        let uid = uuid::Uuid::new_v4().to_string();
        let review = conversion::review(values, &resource.api_version(), &uid);
        let (answer, answered) = oneshot::channel();
        let call = WebhookCall {
            config: config.clone(),
            review: review.to_string().into_bytes(),
            within: PATIENCE,
            answer,
        };
        let ended = || failed("this server calls no webhooks now".to_owned());
        let calls = self.calls.get().ok_or_else(ended)?;
        calls.send(call).await.map_err(|_| ended())?;
        let body = match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(body)) => body.map_err(failed)?,
            Ok(Err(_)) => return Err(ended()),
            Err(_) => return Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
        };
        conversion::converted(&review, &body).map_err(failed)
    }
}
