//! Finds the kubeconfig and talks to the API: raw JSON, Tables, watches and streams. Knows no kind and prints nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use futures::{AsyncBufRead, AsyncBufReadExt, Stream, StreamExt};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

/// Options that every client verb takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Globals {
    /// Kubeconfig file; else of $WAGGLE_CLUSTER, $KUBECONFIG, of the cluster on this machine, ~/.kube/config
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME", help_heading = "Connection")]
    pub context: Option<String>,
    /// Namespace; else the context's, else `default`
    #[arg(
        short,
        long,
        global = true,
        value_name = "NAME",
        help_heading = "Connection"
    )]
    pub namespace: Option<String>,
}

/// What the server answered when it refused.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    /// HTTP status.
    pub(crate) code: u16,
    /// `NotFound`, `Conflict`, ...
    pub(crate) reason: String,
    /// What a person should read, causes included.
    pub(crate) message: String,
}

/// Whether an error is the server's refusal with this HTTP status.
pub(crate) fn refused_with(error: &anyhow::Error, code: u16) -> bool {
    error
        .downcast_ref::<Refusal>()
        .is_some_and(|refusal| refusal.code == code)
}

/// Accept header for Tables, with the plain object as the second choice.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const JSON: &str = "application/json";

/// A connection to a cluster.
#[derive(Clone)]
pub(crate) struct Api {
    client: kube::Client,
    /// Where it is, for messages.
    server: String,
    /// Namespace to use when none is named.
    pub(crate) namespace: String,
}

/// Where clusters of this machine keep their state: $WAGGLE_HOME, else ~/.waggle.
pub(crate) fn waggle_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("WAGGLE_HOME").filter(|home| !home.is_empty()) {
        return std::path::absolute(PathBuf::from(home))
            .context("cannot make $WAGGLE_HOME absolute");
    }
    let home = std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| "/root".into());
    Ok(PathBuf::from(home).join(".waggle"))
}

/// The kubeconfig to use: the first that is named, else the first that exists.
pub(crate) fn kubeconfig_path(globals: &Globals) -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = &globals.kubeconfig {
        return Ok(path.clone());
    }
    let home = waggle_home()?;
    if let Some(cluster) = variable("WAGGLE_CLUSTER") {
        let path = home.join(&cluster).join("kubeconfig");
        if !path.exists() {
            bail!(
                "the cluster {} of $WAGGLE_CLUSTER does not run: start it with `waggle dev up`",
                cluster.display()
            );
        }
        return Ok(path);
    }
    if let Some(list) = variable("KUBECONFIG") {
        let paths: Vec<PathBuf> = std::env::split_paths(&list)
            .filter(|path| !path.as_os_str().is_empty())
            .collect();
        if let Some(path) = paths.iter().find(|path| path.exists()).or(paths.first()) {
            return Ok(path.clone());
        }
    }
    let mut candidates = vec![home.join("local/kubeconfig")];
    candidates.extend(other_cluster(&home));
    candidates.extend(variable("HOME").map(|user| Path::new(&user).join(".kube/config")));
    candidates.into_iter().find(|path| path.exists()).ok_or_else(|| {
        anyhow!(
            "no kubeconfig found: start a cluster with `waggle dev up`, or name a file with --kubeconfig or $KUBECONFIG \
             (looked in {} and ~/.kube/config)",
            home.join("local/kubeconfig").display()
        )
    })
}

/// The kubeconfig of another cluster below `home`, if there is exactly one.
fn other_cluster(home: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(home)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("kubeconfig")))
        .filter(|path| path.exists())
        .collect();
    if found.len() == 1 { found.pop() } else { None }
}

impl Api {
    /// Connects as the options say. No request is made yet.
    pub(crate) async fn connect(globals: &Globals) -> Result<Self> {
        let path = kubeconfig_path(globals)?;
        let mut api = Self::from_file(&path, globals.context.clone()).await?;
        if let Some(namespace) = &globals.namespace {
            api.namespace.clone_from(namespace);
        }
        Ok(api)
    }

    /// Connects with one kubeconfig file.
    pub(crate) async fn from_file(path: &Path, context: Option<String>) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(path)
            .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
        let options = KubeConfigOptions {
            context,
            ..KubeConfigOptions::default()
        };
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .with_context(|| format!("cannot use the kubeconfig {}", path.display()))?;
        config.connect_timeout = Some(std::time::Duration::from_secs(10));
        let (server, namespace) = (
            config.cluster_url.to_string(),
            config.default_namespace.clone(),
        );
        let client = kube::Client::try_from(config).with_context(|| {
            format!(
                "cannot use the credentials of the kubeconfig {}",
                path.display()
            )
        })?;
        Ok(Self {
            client,
            server: server.trim_end_matches('/').to_owned(),
            namespace,
        })
    }

    /// The underlying client, for exec.
    pub(crate) fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// Address of the API.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// GET as JSON.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.request(Method::GET, path, JSON, None).await
    }

    /// Asks whether the API is ready to serve.
    pub(crate) async fn ready(&self) -> Result<()> {
        let request = Request::builder().uri("/readyz").body(Vec::new())?;
        self.client
            .request_text(request)
            .await
            .map(drop)
            .map_err(|error| self.explain(error))
    }

    /// GET as JSON; `None` when there is no such object.
    pub(crate) async fn find(&self, path: &str) -> Result<Option<Value>> {
        match self.get(path).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if refused_with(&error, 404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// GET with a chosen Accept header.
    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Result<Value> {
        self.request(Method::GET, path, accept, None).await
    }

    /// GET as a Table.
    pub(crate) async fn table(&self, path: &str) -> Result<Value> {
        self.request(Method::GET, path, TABLE, None).await
    }

    /// POST of a new object.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.request(Method::POST, path, JSON, Some((JSON, object)))
            .await
    }

    /// JSON merge patch (RFC 7386).
    pub(crate) async fn merge_patch(&self, path: &str, patch: &Value) -> Result<Value> {
        self.request(
            Method::PATCH,
            path,
            JSON,
            Some(("application/merge-patch+json", patch)),
        )
        .await
    }

    /// DELETE with its options.
    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Result<Value> {
        self.request(Method::DELETE, path, JSON, Some((JSON, options)))
            .await
    }

    /// A list with all its pages put together.
    pub(crate) async fn list(&self, path: &str) -> Result<Value> {
        self.pages(path, JSON, "items").await
    }

    /// A list as a Table with all its pages put together.
    pub(crate) async fn table_pages(&self, path: &str) -> Result<Value> {
        self.pages(path, TABLE, "rows").await
    }

    async fn pages(&self, path: &str, accept: &str, field: &str) -> Result<Value> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let first = format!("{path}{separator}limit=500");
        let mut whole = self.get_as(&first, accept).await?;
        while let Some(token) = whole["metadata"]["continue"]
            .as_str()
            .filter(|token| !token.is_empty())
            .map(escape)
        {
            let mut page = self
                .get_as(&format!("{first}&continue={token}"), accept)
                .await?;
            if let (Some(all), Some(more)) =
                (whole[field].as_array_mut(), page[field].as_array_mut())
            {
                all.append(more);
            }
            whole["metadata"] = page["metadata"].take();
        }
        Ok(whole)
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Value> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::ACCEPT, accept);
        let bytes = match body {
            Some((content_type, value)) => {
                request = request.header(http::header::CONTENT_TYPE, content_type);
                serde_json::to_vec(value)?
            }
            None => Vec::new(),
        };
        let request = request
            .body(bytes)
            .with_context(|| format!("cannot make a request for {path}"))?;
        self.client
            .request(request)
            .await
            .map_err(|error| self.explain(error))
    }

    /// A response body as it comes.
    pub(crate) async fn stream(
        &self,
        path: &str,
        accept: &str,
    ) -> Result<impl AsyncBufRead + use<>> {
        let request = Request::builder()
            .uri(path)
            .header(http::header::ACCEPT, accept)
            .body(Vec::new())?;
        self.client
            .request_stream(request)
            .await
            .map_err(|error| self.explain(error))
    }

    /// Watch events, decoded. `table` asks for Tables instead of objects.
    pub(crate) async fn watch(
        &self,
        path: &str,
        table: bool,
    ) -> Result<impl Stream<Item = Result<Value>> + use<>> {
        let body = self.stream(path, if table { TABLE } else { JSON }).await?;
        Ok(Box::pin(body).lines().map(|line| {
            let line = line.context("the watch broke off")?;
            let event: Value = serde_json::from_str(&line)
                .context("the server sent a watch event that is no JSON")?;
            if event["type"] == "ERROR" {
                return Err(refusal(&event["object"]).into());
            }
            Ok(event)
        }))
    }

    /// A client error in words, with the server's address when it can't be reached.
    pub(crate) fn explain(&self, error: kube::Error) -> anyhow::Error {
        match error {
            kube::Error::Api(status) => match serde_json::to_value(&*status) {
                Ok(value) => refusal(&value).into(),
                Err(_) => anyhow!("{}", status.message),
            },
            kube::Error::Service(source) => {
                anyhow!(
                    "cannot reach the API at {}: {}",
                    self.server,
                    deepest(source.as_ref())
                )
            }
            kube::Error::HyperError(source) => anyhow!(
                "cannot reach the API at {}: {}",
                self.server,
                deepest(&source)
            ),
            other => {
                anyhow::Error::new(other).context(format!("request to {} failed", self.server))
            }
        }
    }
}

/// The last cause, which is the one that says something: `Connection refused`, not `client error (Connect)`.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn refusal(status: &Value) -> Refusal {
    let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
    let (reason, mut message) = (text("reason"), text("message"));
    if message.is_empty() {
        message = format!("the server refused without saying why ({reason})");
    }
    for cause in status["details"]["causes"].as_array().into_iter().flatten() {
        let (field, why) = (
            cause["field"].as_str().unwrap_or_default(),
            cause["message"].as_str().unwrap_or_default(),
        );
        if !why.is_empty() && !message.contains(why) {
            message.push_str(&if field.is_empty() {
                format!("\n  {why}")
            } else {
                format!("\n  {field}: {why}")
            });
        }
    }
    let code = status["code"]
        .as_u64()
        .and_then(|code| u16::try_from(code).ok())
        .unwrap_or(0);
    Refusal {
        code,
        reason,
        message,
    }
}

/// Percent-encodes a query value.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte))
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Joins query parameters to a path.
pub(crate) fn with_query(path: &str, query: &[(&str, String)]) -> String {
    let pairs: Vec<String> = query
        .iter()
        .map(|(key, value)| format!("{key}={}", escape(value)))
        .collect();
    if pairs.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", pairs.join("&"))
    }
}

/// Refuses an empty or dangerous path segment before it becomes part of a URL.
pub(crate) fn check_segment<'a>(what: &str, text: &'a str) -> Result<&'a str> {
    if text.is_empty() || text.contains(['/', '%', '?', '#', ' ']) || text == "." || text == ".." {
        bail!("{text:?} is no {what}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn query_values_are_escaped() {
        assert_eq!(
            with_query(
                "/api/v1/pods",
                &[("labelSelector", "app in (a, b)".to_owned())]
            ),
            "/api/v1/pods?labelSelector=app%20in%20%28a%2C%20b%29"
        );
        assert_eq!(with_query("/x", &[]), "/x");
    }

    #[test]
    fn a_refusal_lists_every_cause_once() {
        let status = json!({
            "code": 422, "reason": "Invalid", "message": "Deployment \"x\" is invalid",
            "details": {"causes": [
                {"field": "spec.replicas", "message": "must be at least 0"},
                {"field": "spec.template.spec.containers[0].image", "message": "is required"}]}
        });
        let refusal = refusal(&status);
        assert_eq!((refusal.code, refusal.reason.as_str()), (422, "Invalid"));
        assert_eq!(
            refusal.message,
            "Deployment \"x\" is invalid\n  spec.replicas: must be at least 0\n  \
             spec.template.spec.containers[0].image: is required"
        );
    }

    #[test]
    fn a_name_can_not_leave_its_path_segment() {
        assert!(check_segment("name", "../secrets").is_err() && check_segment("name", "").is_err());
        assert_eq!(check_segment("name", "redis-0").unwrap(), "redis-0");
    }
}
