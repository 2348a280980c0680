//! Questions about access, answered and forgotten: access reviews, token reviews, who am I; and tokens for
//! ServiceAccounts.

use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use waggle_api::access::{self, Action, User};
use waggle_api::admission::webhook::Operation;
use waggle_api::{Fault, Status, find};

use super::answer::{json as document, refusal};
use super::input;
use super::write::caller_of;
use crate::auth::{self, Bound, ISSUER, Stored, TokenGrant, decide};
use crate::objects::{Errand, Objects};
use crate::run::ServerState;

/// Seconds that a token is valid when nobody says, and at least.
const TOKEN_SECONDS: i64 = 3600;
const SHORTEST_TOKEN: i64 = 600;
/// And at most.
const LONGEST_TOKEN: i64 = 24 * 3600;

type Answer = Result<Value, Status>;

fn respond(answer: Answer) -> Response {
    match answer {
        Ok(value) => document(StatusCode::CREATED, &value),
        Err(status) => refusal(&status),
    }
}

/// The body, and who sent it.
async fn read(request: Request) -> Result<(Value, User), Status> {
    let user = caller_of(&request).user().cloned();
    let (mut body, _) = input::value(request).await?;
    if body.is_null() {
        body = json!({});
    }
    if !body.is_object() {
        return Err(Status::bad_request("the body of the request is no object"));
    }
    Ok((body, user.unwrap_or_default()))
}

/// POST of a selfsubjectaccessreview.
pub(super) async fn self_access(State(state): State<ServerState>, request: Request) -> Response {
    let answer = async {
        let (body, user) = read(request).await?;
        access_review(&state.objects, body, "SelfSubjectAccessReview", &user)
    };
    respond(answer.await)
}

/// POST of a subjectaccessreview.
pub(super) async fn subject_access(State(state): State<ServerState>, request: Request) -> Response {
    let answer = async {
        let (body, _) = read(request).await?;
        let user = subject(&body);
        access_review(&state.objects, body, "SubjectAccessReview", &user)
    };
    respond(answer.await)
}

/// POST of a localsubjectaccessreview.
pub(super) async fn local_access(
    State(state): State<ServerState>,
    Path(namespace): Path<String>,
    request: Request,
) -> Response {
    let answer = async {
        let (body, _) = read(request).await?;
        if body["spec"]["resourceAttributes"]["namespace"] != namespace.as_str() {
            let message = "spec.resourceAttributes.namespace must be the namespace of the request";
            return Err(Status::bad_request(message));
        }
        let user = subject(&body);
        access_review(&state.objects, body, "LocalSubjectAccessReview", &user)
    };
    respond(answer.await)
}

fn texts(value: &Value) -> Vec<String> {
    let all = value.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Of whom a review asks.
fn subject(body: &Value) -> User {
    User {
        name: body["spec"]["user"].as_str().unwrap_or_default().to_owned(),
        uid: body["spec"]["uid"].as_str().unwrap_or_default().to_owned(),
        groups: texts(&body["spec"]["groups"]),
        extra: Vec::new(),
    }
}

fn access_review(objects: &Objects, mut body: Value, kind: &str, user: &User) -> Answer {
    let spec = &body["spec"];
    let (object, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if object.is_null() == path.is_null() {
        let message =
            "spec: exactly one of resourceAttributes and nonResourceAttributes must be specified";
        return Err(Status::bad_request(message));
    }
    if kind != "SelfSubjectAccessReview" && user.name.is_empty() && user.groups.is_empty() {
        return Err(Status::bad_request(
            "spec.user: at least one of user or groups must be specified",
        ));
    }
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let action = if object.is_null() {
        Action {
            verb: text(path, "verb"),
            path: text(path, "path"),
            ..Action::default()
        }
    } else {
        Action {
            verb: text(object, "verb"),
            group: text(object, "group"),
            resource: text(object, "resource"),
            subresource: text(object, "subresource"),
            namespace: text(object, "namespace"),
            name: text(object, "name"),
            field_selector: text(&object["fieldSelector"], "rawSelector"),
            ..Action::default()
        }
    };
    let reason = decide(objects, user, &action);
    body["status"] = match reason {
        Some(reason) => json!({"allowed": true, "reason": reason}),
        None => json!({"allowed": false}),
    };
    Ok(named(body, "authorization.k8s.io/v1", kind))
}

fn named(mut body: Value, api_version: &str, kind: &str) -> Value {
    body["apiVersion"] = api_version.into();
    body["kind"] = kind.into();
    if body["metadata"].is_null() {
        body["metadata"] = json!({});
    }
    body
}

/// POST of a selfsubjectrulesreview.
pub(super) async fn self_rules(State(state): State<ServerState>, request: Request) -> Response {
    let answer = async {
        let (mut body, user) = read(request).await?;
        let namespace = body["spec"]["namespace"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if namespace.is_empty() {
            return Err(Status::bad_request(
                "spec.namespace: no namespace on request",
            ));
        }
        let (mut objects, mut paths) = (Vec::new(), Vec::new());
        for grant in access::grants(&user, &namespace, &Stored(&state.objects)) {
            for rule in grant.rules {
                if rule["nonResourceURLs"].is_array() {
                    paths.push(rule);
                } else {
                    objects.push(rule);
                }
            }
        }
        body["status"] =
            json!({"resourceRules": objects, "nonResourceRules": paths, "incomplete": false});
        Ok(named(
            body,
            "authorization.k8s.io/v1",
            "SelfSubjectRulesReview",
        ))
    };
    respond(answer.await)
}

/// POST of a tokenreview.
pub(super) async fn token(State(state): State<ServerState>, request: Request) -> Response {
    let answer = async {
        let (mut body, _) = read(request).await?;
        let mut audiences = texts(&body["spec"]["audiences"]);
        if audiences.is_empty() {
            audiences.push(ISSUER.to_owned());
        }
        let token = body["spec"]["token"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        body["status"] = match auth::user_of_token(&state.pki, &state.objects, &token, &audiences) {
            Ok(user) => {
                json!({"authenticated": true, "user": user.to_value(), "audiences": audiences})
            }
            Err(error) => json!({"authenticated": false, "error": error, "user": {}}),
        };
        Ok(named(body, "authentication.k8s.io/v1", "TokenReview"))
    };
    respond(answer.await)
}

/// POST of a selfsubjectreview.
pub(super) async fn who_am_i(request: Request) -> Response {
    let answer = async {
        let (mut body, user) = read(request).await?;
        body["status"] = json!({"userInfo": user.to_value()});
        Ok(named(body, "authentication.k8s.io/v1", "SelfSubjectReview"))
    };
    respond(answer.await)
}

/// POST of a TokenRequest to a ServiceAccount.
pub(super) async fn account_token(
    State(state): State<ServerState>,
    Path((namespace, name)): Path<(String, String)>,
    request: Request,
) -> Response {
    let answer = async {
        let caller = caller_of(&request);
        let (body, _) = read(request).await?;
        let accounts = find("", "v1", "serviceaccounts").ok_or_else(Status::unknown_path)?;
        let errand = Errand {
            resource: accounts,
            subresource: "token",
            namespace: &namespace,
            name: &name,
            operation: Operation::Create,
            object: body.clone(),
            dry_run: false,
            caller: Some(caller),
        };
        state.objects.errand(errand).await?;
        issue(&state, &namespace, &name, body)
    };
    respond(answer.await)
}

fn issue(state: &ServerState, namespace: &str, name: &str, mut body: Value) -> Answer {
    let core = |plural: &str| find("", "v1", plural).ok_or_else(Status::unknown_path);
    let accounts = core("serviceaccounts")?;
    let account = state
        .objects
        .get(accounts, namespace, name)
        .ok_or_else(|| Status::not_found(accounts, name))?;
    let seconds = body["spec"]["expirationSeconds"]
        .as_i64()
        .unwrap_or(TOKEN_SECONDS);
    if seconds < SHORTEST_TOKEN {
        let detail = "may not specify a duration less than 10 minutes";
        let fault = Fault::invalid("spec.expirationSeconds", seconds, detail);
        return Err(Status::failure(
            422,
            "Invalid",
            format!("TokenRequest {name:?} is invalid: {fault}"),
        ));
    }
    let seconds = seconds.min(LONGEST_TOKEN);
    let pod = bound_pod(state, namespace, &body["spec"]["boundObjectRef"])?;
    let now = state.objects.now();
    let mut audiences = texts(&body["spec"]["audiences"]);
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let grant = TokenGrant {
        namespace: namespace.to_owned(),
        account: Bound {
            name: name.to_owned(),
            uid: account.uid.clone(),
        },
        pod,
        audiences: audiences.clone(),
        seconds,
        now,
    };
    let token = state.pki.tokens().issue(&grant)?;
    let ends = jiff::Timestamp::from_second(now.as_second().saturating_add(seconds)).unwrap_or(now);
    body["metadata"] = json!({"name": name, "namespace": namespace,
        "creationTimestamp": waggle_api::life::time_text(now)});
    body["spec"]["audiences"] = json!(audiences);
    body["spec"]["expirationSeconds"] = seconds.into();
    body["status"] =
        json!({"token": token, "expirationTimestamp": waggle_api::life::time_text(ends)});
    Ok(named(body, "authentication.k8s.io/v1", "TokenRequest"))
}

/// The pod that a token is to be bound to.
fn bound_pod(
    state: &ServerState,
    namespace: &str,
    reference: &Value,
) -> Result<Option<Bound>, Status> {
    if reference.is_null() {
        return Ok(None);
    }
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    if text("kind") != "Pod" {
        let message = "spec.boundObjectRef.kind: only a Pod can be named";
        return Err(Status::bad_request(message));
    }
    let pods = find("", "v1", "pods").ok_or_else(Status::unknown_path)?;
    let pod = state
        .objects
        .get(pods, namespace, text("name"))
        .ok_or_else(|| Status::not_found(pods, text("name")))?;
    if !text("uid").is_empty() && text("uid") != pod.uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record ({})",
            text("uid"),
            pod.uid
        );
        return Err(Status::conflict(pods, &pod.name, &why));
    }
    Ok(Some(Bound {
        name: pod.name.clone(),
        uid: pod.uid.clone(),
    }))
}
