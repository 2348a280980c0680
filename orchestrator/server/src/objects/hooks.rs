//! Asking admission webhooks about a write: mutating ones in order, each of what the one before made of the object, then
//! the validating ones all at once. Which of them are asked, and what their answers mean, is `waggle-api`'s to say; how
//! they are reached is the business of whoever takes the [`WebhookCall`]s.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use waggle_api::admission::condition;
use waggle_api::admission::webhook::{self, Answer, OWN_GROUP, Operation};
use waggle_api::ownership;
use waggle_api::patch::Patch;
use waggle_api::{Part, Resource, Status, find};

use super::passage::Passage;
use super::{Caller, Object, Objects, Ownership, WriteOptions};

/// How long a webhook may take when its configuration says nothing.
const PATIENCE: u64 = 10;

/// A review for a webhook. Dropping `answer` unanswered counts as a webhook that can't be reached.
#[derive(Debug)]
pub struct WebhookCall {
    /// `clientConfig` of the webhook.
    pub config: Value,
    /// The AdmissionReview, encoded.
    pub review: Vec<u8>,
    /// How long the answer may take.
    pub within: Duration,
    /// For the body of the answer, or why there is none.
    pub answer: oneshot::Sender<Result<Vec<u8>, String>>,
}

/// A request that changes no object of its own: an eviction, a token, a stream.
pub(crate) struct Errand<'a> {
    /// Whose subresource it goes to, and which.
    pub(crate) resource: &'static Resource,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) operation: Operation,
    /// What is sent; its kind is put in.
    pub(crate) object: Value,
    pub(crate) dry_run: bool,
    pub(crate) caller: Option<Arc<Caller>>,
}

/// Makes what would be stored from an object in a version of its kind.
type Prepare<'a> = &'a (dyn Fn(&'static Resource, Value) -> Result<Value, Status> + Send + Sync);

/// What a webhook was asked, and what it said.
struct Asked {
    row: &'static Resource,
    /// The new object in the version of `row`; null when there is none.
    object: Value,
    answer: Answer,
}

/// A webhook, its configuration's name first in order.
struct Hook {
    configuration: Arc<Object>,
    index: usize,
}

impl Hook {
    fn spec(&self) -> &Value {
        &self.configuration.value["webhooks"][self.index]
    }

    fn name(&self) -> &str {
        self.spec()["name"].as_str().unwrap_or_default()
    }
}

impl Objects {
    /// From now on conversion webhooks are called, through whoever receives from `calls`.
    pub(crate) fn begin_to_call(&self, calls: mpsc::Sender<WebhookCall>) {
        // A server begins once in its life.
        let _ = self.calls.set(calls);
    }

    /// From now on admission webhooks are asked. Until then a server that starts makes its own objects without them.
    pub(crate) fn begin_to_ask(&self) {
        self.asks.store(true, Ordering::Release);
    }

    fn hooks(&self, passage: &Passage<'_>, plural: &str) -> Vec<Hook> {
        if !self.asks.load(Ordering::Acquire) || passage.resource.group == OWN_GROUP {
            return Vec::new();
        }
        let configurations =
            find(OWN_GROUP, "v1", plural).map(|kind| self.list(kind, None).objects);
        let hooks_of = |configuration: Arc<Object>| {
            let count = configuration.value["webhooks"]
                .as_array()
                .map_or(0, Vec::len);
            (0..count).map(move |index| Hook {
                configuration: Arc::clone(&configuration),
                index,
            })
        };
        configurations
            .into_iter()
            .flatten()
            .flat_map(hooks_of)
            .collect()
    }

    /// What the mutating webhooks make of `made`, which is to be stored; `prepare` makes what is to be stored of what
    /// they answer.
    ///
    /// # Errors
    /// A webhook's refusal, or 500 for one that has to answer and does not.
    pub(super) async fn mutated(
        &self,
        passage: &Passage<'_>,
        mut made: Value,
        prepare: Prepare<'_>,
    ) -> Result<Value, Status> {
        let hooks = self.hooks(passage, "mutatingwebhookconfigurations");
        let mut asked = Vec::new();
        for hook in &hooks {
            let before = made.clone();
            if let Some(changed) = self.mutate_by(hook, passage, &made, prepare).await? {
                made = changed;
            }
            asked.push(made != before);
        }
        // One that ran before another changed the object may want to see what became of it, once.
        for (index, hook) in hooks.iter().enumerate() {
            let changed_since = asked.iter().skip(index + 1).any(|changed| *changed);
            if changed_since
                && hook.spec()["reinvocationPolicy"] == "IfNeeded"
                && let Some(changed) = self.mutate_by(hook, passage, &made, prepare).await?
            {
                made = changed;
            }
        }
        Ok(made)
    }

    /// `None` when the webhook was not asked or changes nothing.
    async fn mutate_by(
        &self,
        hook: &Hook,
        passage: &Passage<'_>,
        made: &Value,
        prepare: Prepare<'_>,
    ) -> Result<Option<Value>, Status> {
        let Some(asked) = self.ask(hook, passage, Some(made)).await? else {
            return Ok(None);
        };
        let Some(patch) = asked.answer.patch else {
            return Ok(None);
        };
        let (row, object) = (asked.row, asked.object);
        let broken = |status: Status| {
            let name = hook.name();
            Status::internal(format!("patch of webhook {name:?}: {}", status.message))
        };
        let patch = Patch::parse("application/json-patch+json", &patch).map_err(broken)?;
        let patched = patch
            .apply(row, &passage.shown(row, &object))
            .map_err(broken)?;
        let taken = passage.taken(row, &object, patched)?;
        // What a webhook changes is nobody's: owners are as the request left them, or as the webhook says itself.
        let owners = ownership::after_admission(&made["metadata"]["managedFields"], &taken);
        if let (Err(why), Some(caller)) = (&owners, &passage.options.caller) {
            caller.warn(why.clone());
        }
        let owners = owners.unwrap_or_else(|_| made["metadata"]["managedFields"].clone());
        let mut new = if passage.needs_conversion(row) {
            let back = self.convert(passage.resource, &[&taken]).await?.pop();
            let back = back.map_or(taken, |back| passage.resource.formed(&back));
            prepare(passage.resource, back)?
        } else {
            prepare(row, taken)?
        };
        ownership::set(&mut new, owners);
        Ok(Some(new))
    }

    /// The objects, which are stored or in the version of the request, in the version of `row`.
    async fn in_version(
        &self,
        passage: &Passage<'_>,
        row: &'static Resource,
        objects: &[&Value],
    ) -> Result<Vec<Value>, Status> {
        if !passage.needs_conversion(row) {
            let shown = objects.iter().map(|one| row.show(one).into_owned());
            return Ok(shown.collect());
        }
        let made = self.convert(row, objects).await?;
        Ok(made.iter().map(|one| row.formed(one)).collect())
    }

    /// Asks the validating webhooks, and all webhooks about a deletion (`new` is `None`).
    ///
    /// # Errors
    /// The first refusal, or 500 for a webhook that has to answer and does not.
    pub(super) async fn validated(
        &self,
        passage: &Passage<'_>,
        new: Option<&Value>,
    ) -> Result<(), Status> {
        if new.is_none() {
            for hook in self.hooks(passage, "mutatingwebhookconfigurations") {
                let answer = self.ask(&hook, passage, None).await?;
                if answer.is_some_and(|asked| asked.answer.patch.is_some()) {
                    let name = hook.name();
                    let why = format!("webhook {name:?} changes an object that is to be deleted");
                    return Err(Status::internal(why));
                }
            }
        }
        let hooks = self.hooks(passage, "validatingwebhookconfigurations");
        let answers = join_all(hooks.iter().map(|hook| self.ask(hook, passage, new)));
        answers.await.into_iter().try_for_each(|one| one.map(drop))
    }

    /// Asks the webhooks about a request that changes no object of its own.
    ///
    /// # Errors
    /// As [`Objects::validated`]; 500 for a webhook that wants to change what is sent.
    pub(crate) async fn errand(&self, errand: Errand<'_>) -> Result<(), Status> {
        let options = WriteOptions {
            dry_run: errand.dry_run,
            ownership: Ownership::Client {
                manager: String::new(),
                subresource: errand.subresource.to_owned(),
            },
            caller: errand.caller,
        };
        let passage = Passage {
            about: Some((errand.namespace, errand.name)),
            operation: errand.operation,
            resource: errand.resource,
            part: Part::Main,
            old: None,
            options: &options,
        };
        let (group, version, kind) = webhook::sent_kind(errand.resource, errand.subresource);
        let slash = if group.is_empty() { "" } else { "/" };
        let mut object = errand.object;
        object["kind"] = kind.into();
        object["apiVersion"] = format!("{group}{slash}{version}").into();
        for hook in self.hooks(&passage, "mutatingwebhookconfigurations") {
            let answer = self.ask(&hook, &passage, Some(&object)).await?;
            if answer.is_some_and(|asked| asked.answer.patch.is_some()) {
                let why = format!(
                    "webhook {:?} changes what can't be changed: {kind}",
                    hook.name()
                );
                return Err(Status::internal(why));
            }
        }
        self.validated(&passage, Some(&object)).await
    }

    /// Asks one webhook, if it is about this request. `None` for one that was not asked, or that failed and may.
    async fn ask(
        &self,
        hook: &Hook,
        passage: &Passage<'_>,
        new: Option<&Value>,
    ) -> Result<Option<Asked>, Status> {
        let old = passage.old.map(|old| &*old.value);
        let Some(object) = new.or(old) else {
            return Ok(None);
        };
        let user = passage.user();
        let attempt = passage.attempt(object, &user);
        let Some(row) = webhook::asked_in(hook.spec(), &attempt, &self.equivalents(passage)) else {
            return Ok(None);
        };
        let name = hook.name();
        let both: Vec<&Value> = new.into_iter().chain(old).collect();
        let namespace = self.namespace_of(passage, object);
        match webhook::selects(hook.spec(), namespace.as_ref(), &both) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(why) => return Err(Status::internal(format!("webhook {name:?}: {why}"))),
        }
        let mut formed = self.in_version(passage, row, &both).await?.into_iter();
        let new = new.and_then(|_| formed.next());
        let old = old.and_then(|_| formed.next());
        let uid = uuid::Uuid::new_v4().to_string();
        let shown = |value| passage.shown(row, value);
        let (sent, before) = (new.as_ref().map(shown), old.as_ref().map(shown));
        let (sent, before) = (sent.as_deref(), before.as_deref());
        let review = webhook::review(hook.spec(), &attempt, row, &uid, sent, before);
        let met = review
            .as_ref()
            .map(|review| condition::hold(hook.spec(), review));
        match met {
            Ok(Ok(false)) => return Ok(None),
            Ok(Err(why)) if hook.spec()["failurePolicy"] == "Ignore" => {
                tracing::warn!(
                    webhook = name,
                    why,
                    "a webhook is not asked, as it asks for"
                );
                return Ok(None);
            }
            Ok(Err(why)) => return Err(Status::forbidden(row, attempt.name, &why)),
            Ok(Ok(true)) | Err(_) => {}
        }
        let effects = hook.spec()["sideEffects"].as_str().unwrap_or_default();
        if attempt.dry_run && !matches!(effects, "None" | "NoneOnDryRun") {
            let why = format!("admission webhook {name:?} does not support dry run");
            return Err(Status::bad_request(why));
        }
        let answered = match review {
            Ok(review) => self.call(hook, &review).await,
            Err(why) => Err(why),
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(why) if hook.spec()["failurePolicy"] == "Ignore" => {
                tracing::warn!(
                    webhook = name,
                    why,
                    "a webhook failed; it is ignored, as it asks for"
                );
                note(passage.options.caller.as_deref(), hook, "failed-open", &why);
                return Ok(None);
            }
            Err(why) => {
                return Err(Status::internal(format!(
                    "failed calling webhook {name:?}: {why}"
                )));
            }
        };
        if let Some(caller) = &passage.options.caller {
            answer
                .warnings
                .iter()
                .for_each(|text| caller.warn(text.clone()));
        }
        for (key, value) in &answer.annotations {
            note(passage.options.caller.as_deref(), hook, key, value);
        }
        match answer.refusal {
            Some(refusal) => Err(refusal),
            None => Ok(Some(Asked {
                row,
                object: new.unwrap_or_default(),
                answer,
            })),
        }
    }

    /// Other versions in which the kind is served.
    fn equivalents(&self, passage: &Passage<'_>) -> Vec<&'static Resource> {
        let (kinds, stored) = (self.kinds(), passage.resource.stored());
        let same = |row: &&'static Resource| {
            std::ptr::eq(row.stored(), stored) && !std::ptr::eq(*row, passage.resource)
        };
        kinds.served().filter(same).collect()
    }

    /// What a namespaceSelector looks at; `None` for what lives in no namespace.
    fn namespace_of(&self, passage: &Passage<'_>, object: &Value) -> Option<Value> {
        if passage.resource.kind == "Namespace" && passage.resource.group.is_empty() {
            return Some(object.clone());
        }
        let namespace = passage.namespace(object);
        let namespaces = find("", "v1", "namespaces").filter(|_| !namespace.is_empty())?;
        let found = self.get(namespaces, "", namespace);
        Some(found.map_or(Value::Null, |found| found.value.clone()))
    }

    async fn call(&self, hook: &Hook, review: &Value) -> Result<Answer, String> {
        let spec = hook.spec();
        let seconds = spec["timeoutSeconds"].as_u64().unwrap_or(PATIENCE);
        let within = Duration::from_secs(seconds);
        let (answer, answered) = oneshot::channel();
        let call = WebhookCall {
            config: spec["clientConfig"].clone(),
            review: serde_json::to_vec(review).map_err(|error| error.to_string())?,
            within,
            answer,
        };
        let ended = || "this server is about to end".to_owned();
        let calls = self.calls.get().ok_or_else(ended)?;
        calls.send(call).await.map_err(|_| ended())?;
        let body = match tokio::time::timeout(within, answered).await {
            Ok(Ok(body)) => body?,
            Ok(Err(_)) => return Err(ended()),
            Err(_) => return Err(format!("no answer within {seconds} s")),
        };
        Answer::read(hook.name(), review, &body)
    }
}

/// Notes something of a webhook for the audit log.
fn note(caller: Option<&Caller>, hook: &Hook, key: &str, value: &str) {
    if let Some(caller) = caller {
        caller.annotate(format!("{}/{key}", hook.name()), value.to_owned());
    }
}
