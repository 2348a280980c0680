//! The Kubernetes API over HTTPS. Requests to objects of any kind go one way (`objects`), whatever the kind; the rest is
//! discovery, documents, health, metrics, and the streams of pods, which live next door.

mod accept;
mod answer;
mod apply;
mod backup;
mod binding;
mod collection;
mod components;
mod compress;
mod connect;
mod delete;
mod document;
mod documents;
mod eviction;
mod explanation;
pub(crate) mod input;
mod query;
mod read;
mod reviews;
mod serve;
mod target;
#[cfg(test)]
mod tests;
mod watch;
mod write;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use http::Method;
use waggle_api::Status;
use waggle_api::access::Action;

use crate::auth::{self, PeerCertificate};
use crate::flow;
use crate::forward::{self, Forwarder};
use crate::metrics::Call;
use crate::objects::Caller;
use crate::run::ServerState;
use crate::streams::Streams;
use answer::refusal;
use query::Query;
use target::Target;

pub use answer::status_response;
pub(crate) use serve::{Callers, serve};

/// Everything that the API answers to.
pub fn router(state: ServerState) -> Router {
    let own = discovery()
        .route("/livez", get(documents::alive))
        .route("/livez/{check}", get(documents::alive))
        .route("/healthz", get(documents::ready))
        .route("/readyz", get(documents::ready))
        .route("/readyz/{check}", get(documents::ready))
        .route("/backup", get(backup::backup))
        .route("/openapi/v2", get(documents::openapi_v2))
        .route("/openapi/v3", get(documents::openapi_v3))
        .route("/openapi/v3/{*path}", get(documents::openapi_v3_group))
        .route(
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            post(reviews::who_am_i),
        )
        .route(
            "/apis/authentication.k8s.io/v1/tokenreviews",
            post(reviews::token),
        )
        .route(
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            post(reviews::self_access),
        )
        .route(
            "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
            post(reviews::self_rules),
        )
        .route(
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            post(reviews::subject_access),
        )
        .route(
            "/apis/authorization.k8s.io/v1/namespaces/{namespace}/localsubjectaccessreviews",
            post(reviews::local_access),
        )
        .route(
            "/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
            post(reviews::account_token),
        )
        .route("/api/v1/componentstatuses", get(components::list))
        .route("/api/v1/componentstatuses/{name}", get(components::get))
        .route(
            "/apis/waggle.dev/v1/namespaces/{namespace}/schedulingexplanations/{name}",
            get(explanation::get),
        )
        .route(
            "/api/v1/namespaces/{namespace}/pods/{name}/binding",
            post(binding::of_pod),
        )
        .route(
            "/api/v1/namespaces/{namespace}/bindings",
            post(binding::by_body),
        )
        .route(
            "/api/v1/namespaces/{namespace}/pods/{name}/eviction",
            post(eviction::create),
        )
        .fallback(objects)
        .with_state(state.clone());
    let metrics =
        crate::usage::router(Arc::clone(&state.usage)).merge(crate::metrics::router(state.clone()));
    let streams = crate::streams::router(Streams {
        objects: Arc::clone(&state.objects),
        leading: state.leading.clone(),
    });
    let all = metrics
        .merge(streams)
        .merge(own)
        .method_not_allowed_fallback(not_allowed);
    all.layer(middleware::from_fn_with_state(state, guard))
        .layer(middleware::from_fn(compress::compress))
        .layer(middleware::map_response(async |response| {
            flow::release(response)
        }))
}

/// What the server is and has. Libraries that were generated from Kubernetes' documents ask with a slash at the end.
fn discovery() -> Router<ServerState> {
    let paths = [
        ("/version", get(documents::version)),
        ("/api", get(documents::core_versions)),
        ("/apis", get(documents::groups)),
        ("/api/v1", get(documents::core_resources)),
        ("/apis/{group}", get(documents::group)),
        ("/apis/{group}/{version}", get(documents::resources)),
    ];
    paths
        .into_iter()
        .fold(Router::new(), |router, (path, serve)| {
            router
                .route(path, serve.clone())
                .route(&format!("{path}/"), serve)
        })
}

async fn not_allowed() -> Response {
    refusal(&Status::method_not_allowed())
}

/// Lets in who may; everybody else gets a Status.
async fn guard(State(state): State<ServerState>, mut request: Request, next: Next) -> Response {
    if let Some(forwarder) = state.leading.forwarder()
        && !state.leading.is_us()
    {
        match follow(&state, forwarder, request).await {
            Ok(response) => return response,
            Err(ours) => request = ours,
        }
    }
    let watch = Query::parse(request.uri()).is_ok_and(|query| query.watch);
    let action = auth::action_of(request.method(), request.uri(), watch);
    let (call, started) = (Call::of(&action), Instant::now());
    let response = answered(&state, request, &action, watch, next).await;
    let took = started.elapsed();
    state.metrics.calls.answered(call, took, response)
}

/// Answers a request, and notes in the audit log what its policy wants.
async fn answered(
    state: &ServerState,
    mut request: Request,
    action: &Action,
    watch: bool,
    next: Next,
) -> Response {
    let (caller, admitted) = admit(state, &mut request, action);
    let Some(log) = &state.audit else {
        return match admitted {
            Ok(()) => in_turn(state, &caller, action, watch, request, next).await,
            Err(status) => refusal(&status),
        };
    };
    let (goes_on, now) = (watch || is_stream(action), state.objects.now());
    // What streams has no body that ends.
    let reads = admitted.is_ok() && !goes_on;
    let record = match log.begin(&mut request, action, &caller, reads, now).await {
        Ok(record) => record,
        Err(status) => return refusal(&status),
    };
    let response = match admitted {
        Ok(()) => in_turn(state, &caller, action, watch, request, next).await,
        Err(status) => refusal(&status),
    };
    match record {
        Some(record) => {
            let now = state.objects.now();
            record.end(&caller, response, goes_on, now).await
        }
        None => response,
    }
}

/// Answers a request when it is its turn. What goes on until somebody ends it waits for nobody and holds up nobody; a
/// watch does until it has begun.
async fn in_turn(
    state: &ServerState,
    caller: &Arc<Caller>,
    action: &Action,
    watch: bool,
    request: Request,
    next: Next,
) -> Response {
    let flow = state.flow.flow(&state.objects, caller.user(), action);
    if is_stream(action) {
        let admitted = connect::admit(state, caller, action, request.uri()).await;
        let mut response = match admitted {
            Ok(()) => next.run(request).await,
            Err(status) => refusal(&status),
        };
        flow::tell(&mut response, &flow);
        return response;
    }
    let width = width(state, action, request.uri());
    let mut response = match state.flow.enter(&flow, width).await {
        Ok(seat) => {
            let mut response = next.run(request).await;
            if !watch {
                flow::keep(&mut response, seat);
            }
            response
        }
        Err(status) => refusal(&status),
    };
    flow::tell(&mut response, &flow);
    response
}

/// Seats that a request takes: more for one that reads many objects.
fn width(state: &ServerState, action: &Action, uri: &http::Uri) -> u32 {
    if !matches!(action.verb.as_str(), "list" | "watch" | "deletecollection") {
        return 1;
    }
    let kinds = state.objects.kinds();
    let (Some(target), Ok(query)) = (Target::parse(&kinds, uri.path()), Query::parse(uri)) else {
        return 1;
    };
    if query.watch && !query.begins_with_all() {
        return 1;
    }
    let most = waggle_api::flow::WIDEST as usize * waggle_api::flow::OBJECTS_A_SEAT;
    let stored = state
        .objects
        .count(target.resource, target.in_namespace(), most);
    let looks = match query.limit {
        limit if limit > 0 && query.selects_all() => limit.min(stored),
        _ => stored,
    };
    waggle_api::flow::width(looks)
}

/// Whether the answer may go on until somebody ends it.
fn is_stream(action: &Action) -> bool {
    let streams = ["attach", "exec", "log", "portforward", "proxy"];
    let carriers = ["pods", "services", "nodes"];
    carriers.contains(&action.resource.as_str()) && streams.contains(&action.subresource.as_str())
}

/// On a server that follows: hands on what is the leader's to answer, and gives back what is answered here.
async fn follow(
    state: &ServerState,
    forwarder: &Forwarder,
    request: Request,
) -> Result<Response, Request> {
    let path = request.uri().path();
    if auth::is_open(path) {
        return Err(request);
    }
    let leaders = forward::is_leaders(&request);
    // What a client wrote through any server, it reads through any other.
    let newest = !leaders
        && (path.starts_with("/api/") || path.starts_with("/apis"))
        && Query::parse(request.uri()).is_ok_and(|query| query.is_newest());
    if newest && let Err(status) = state.objects.catch_up().await {
        return Ok(refusal(&status));
    }
    // By now a definition that was just made is known here.
    if leaders || needs_nodes(state, path) {
        let peer = request.extensions().get::<PeerCertificate>();
        let peer = peer.cloned().unwrap_or_default();
        if auth::is_server(&peer) {
            let why = "this server does not lead the cluster (any longer)";
            return Ok(refusal(&Status::unavailable(why)));
        }
        return match auth::authenticate(&state.pki, &state.objects, &peer, request.headers()) {
            Ok(user) => {
                forwarder
                    .forward(&state.leading, user.as_ref(), request)
                    .await
            }
            Err(status) => Ok(refusal(&status)),
        };
    }
    Err(request)
}

/// Whether a webhook behind a Service converts what is at this path: its pods are reached through their nodes, and nodes
/// speak with the leader. One with a URL is called by every server.
fn needs_nodes(state: &ServerState, path: &str) -> bool {
    let target = Target::parse(&state.objects.kinds(), path);
    let converter = target.and_then(|target| target.resource.converter());
    converter.is_some_and(|webhook| !webhook["clientConfig"]["url"].is_string())
}

/// Who asks, as the request carries them from here on, and whether they may.
fn admit(
    state: &ServerState,
    request: &mut Request,
    action: &Action,
) -> (Arc<Caller>, Result<(), Status>) {
    let known = known(state, request);
    let (caller, known) = match known {
        Ok(caller) => (Arc::new(caller), Ok(())),
        Err(status) => (Arc::default(), Err(status)),
    };
    request.extensions_mut().insert(Arc::clone(&caller));
    let allowed = known.and_then(|()| auth::authorize(&state.objects, caller.user(), action));
    let decision = if allowed.is_ok() { "allow" } else { "forbid" };
    caller.annotate("authorization.k8s.io/decision".into(), decision.into());
    let allowed = allowed.map(|why| caller.annotate("authorization.k8s.io/reason".into(), why));
    (caller, allowed)
}

fn known(state: &ServerState, request: &Request) -> Result<Caller, Status> {
    let peer = request.extensions().get::<PeerCertificate>();
    let peer = peer.cloned().unwrap_or_default();
    let objects = &state.objects;
    let sender = auth::authenticate(&state.pki, objects, &peer, request.headers())?;
    let user = auth::impersonate(objects, sender.clone(), request.headers())?;
    Query::parse(request.uri())?;
    Ok(if user == sender {
        Caller::new(user)
    } else {
        Caller::standing_in(user, sender)
    })
}

/// What Kubernetes calls this request.
fn verb_of(method: &Method, target: &Target, query: &Query) -> &'static str {
    let many = target.name.is_empty();
    match method.as_str() {
        "GET" if query.watch => "watch",
        "GET" if many => "list",
        "GET" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if many => "deletecollection",
        "DELETE" => "delete",
        _ => "get",
    }
}

/// A request to objects of some kind.
async fn objects(State(state): State<ServerState>, request: Request) -> Response {
    match dispatch(&state, request).await {
        Ok(response) => response,
        Err(status) => refusal(&status),
    }
}

async fn dispatch(state: &ServerState, request: Request) -> Result<Response, Status> {
    let kinds = state.objects.kinds();
    let target = Target::parse(&kinds, request.uri().path()).ok_or_else(Status::unknown_path)?;
    let query = Query::parse(request.uri())?;
    let method = request.method().clone();
    match (
        verb_of(&method, &target, &query),
        target.subresource.as_str(),
    ) {
        _ if !target.serves_subresource() => Err(Status::unknown_path()),
        _ if method == Method::HEAD || method == Method::OPTIONS => {
            Err(Status::method_not_allowed())
        }
        ("get", "scale") => read::scale(state, &target, &query, request.headers()).await,
        ("get", _) => read::get(state, &target, &query, request.headers()).await,
        ("list", _) => collection::list(state, &target, &query, request.headers()).await,
        ("watch", "") => watch::watch(state, &target, &query, request.headers()).await,
        ("create", "") => write::create(state, &target, &query, request).await,
        ("update", _) => write::update(state, &target, &query, request).await,
        ("patch", _) => write::patch(state, &target, &query, request).await,
        ("delete", "") => delete::one(state, &target, &query, request).await,
        ("deletecollection", "") => delete::many(state, &target, &query, request).await,
        _ => Err(Status::method_not_allowed()),
    }
}
