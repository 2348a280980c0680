//! ServiceAccount tokens that a pod's volumes project: asked for over the session's connection, renewed long before they
//! end. While no server answers the old ones stay.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use waggle_wire::v1;
use waggle_wire::v1::node_client::NodeClient;

use super::desired::Desired;
use super::observed::SECOND;
use crate::clock;
use crate::node::Node;

/// Seconds that a token lives when its volume does not say.
const DEFAULT_SECONDS: i64 = 3600;
/// Between two attempts to renew, nanoseconds.
const RETRY: i64 = 10 * SECOND;
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What makes one token another than the next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenKey {
    /// Empty for the API itself.
    pub(crate) audience: String,
    pub(crate) seconds: i64,
}

impl TokenKey {
    /// Of a projected source.
    pub(crate) fn of(source: &k8s_openapi::api::core::v1::ServiceAccountTokenProjection) -> Self {
        Self {
            audience: source.audience.clone().unwrap_or_default(),
            seconds: source.expiration_seconds.unwrap_or(DEFAULT_SECONDS),
        }
    }
}

#[derive(Debug, Clone)]
struct Held {
    text: String,
    /// Nanoseconds since the epoch.
    renew_at: i64,
}

/// The tokens of one pod.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    held: BTreeMap<TokenKey, Held>,
    retry_at: i64,
}

impl Tokens {
    /// The token, if it is here.
    pub(crate) fn get(&self, key: &TokenKey) -> Option<&str> {
        self.held.get(key).map(|held| held.text.as_str())
    }

    /// When to renew, nanoseconds since the epoch; `None` for a pod that mounts none.
    pub(crate) fn due(&self, pod: &Desired) -> Option<i64> {
        let times = wanted(pod)
            .into_iter()
            .map(|(key, ..)| self.held.get(&key).map_or(0, |held| held.renew_at));
        times.min().map(|at| at.max(self.retry_at))
    }

    /// Asks for what is missing or old. What can't be had anew stays as it is in the pod's `volumes`.
    ///
    /// # Errors
    /// Why a token that the pod has never had can't be had.
    pub(crate) async fn renew(
        &mut self,
        node: &Node,
        pod: &Desired,
        volumes: &Path,
    ) -> Result<(), String> {
        for (key, volume, path) in wanted(pod) {
            let now = clock::now();
            if self.held.get(&key).is_some_and(|held| held.renew_at > now) {
                continue;
            }
            match ask(node, pod, &key).await {
                Ok(reply) => {
                    let renew_at = now + reply.seconds * SECOND / 5 * 4;
                    let text = reply.token;
                    self.held.insert(key, Held { text, renew_at });
                }
                Err(why) => {
                    self.retry_at = now + RETRY;
                    if self.held.contains_key(&key) {
                        continue;
                    }
                    let kept = std::fs::read_to_string(volumes.join(volume).join(path));
                    let Ok(text) = kept else { return Err(why) };
                    let renew_at = self.retry_at;
                    self.held.insert(key, Held { text, renew_at });
                }
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn with(key: TokenKey, text: &str) -> Self {
        let (text, renew_at) = (text.to_owned(), i64::MAX);
        Self {
            held: BTreeMap::from([(key, Held { text, renew_at })]),
            retry_at: 0,
        }
    }
}

/// Every token that a volume projects: which, in which volume, at which path.
fn wanted(pod: &Desired) -> Vec<(TokenKey, &str, &str)> {
    let volumes = pod.pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let mut all = Vec::new();
    for volume in volumes.into_iter().flatten() {
        let projected = volume.projected.as_ref();
        let sources = projected.and_then(|projected| projected.sources.as_ref());
        for source in sources.into_iter().flatten() {
            if let Some(token) = &source.service_account_token {
                all.push((
                    TokenKey::of(token),
                    volume.name.as_str(),
                    token.path.as_str(),
                ));
            }
        }
    }
    all
}

async fn ask(node: &Node, pod: &Desired, key: &TokenKey) -> Result<v1::TokenReply, String> {
    let channel = node.server.borrow().clone();
    let channel = channel.ok_or("no server can be asked for the ServiceAccount's token now")?;
    let request = v1::TokenRequest {
        pod: Some(v1::PodRef {
            namespace: pod.key.namespace.clone(),
            name: pod.key.name.clone(),
            uid: pod.key.uid.clone(),
        }),
        audience: key.audience.clone(),
        seconds: key.seconds,
    };
    let mut client = NodeClient::new(channel);
    let refused = |why: &str| format!("no token for the pod's ServiceAccount: {why}");
    match tokio::time::timeout(PATIENCE, client.token(request)).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(refused(status.message())),
        Err(_) => Err(refused("the server does not answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixture::pod;

    #[test]
    fn a_pod_renews_what_it_mounts() {
        let plain = pod(r#"{"containers":[]}"#);
        assert_eq!(Tokens::default().due(&plain), None);
        let mounts = pod(
            r#"{"containers":[],"volumes":[{"name":"v","projected":{"sources":[
            {"serviceAccountToken":{"path":"t","audience":"vault","expirationSeconds":600}}]}}]}"#,
        );
        assert_eq!(
            Tokens::default().due(&mounts),
            Some(0),
            "what it lacks, at once"
        );
        let key = TokenKey {
            audience: "vault".into(),
            seconds: 600,
        };
        let mut tokens = Tokens::with(key, "x");
        assert_eq!(tokens.due(&mounts), Some(i64::MAX));
        tokens.held.values_mut().for_each(|held| held.renew_at = 7);
        tokens.retry_at = 9;
        assert_eq!(tokens.due(&mounts), Some(9));
    }
}
