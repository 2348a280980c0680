//! Ends one container: preStop hook, the stop signal, the grace period, SIGKILL. Goes on in the background; the pod
//! hears of the end from the supervisor.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use nix::sys::signal::Signal;
use tokio::task::AbortHandle;

use super::desired::Desired;
use super::hooks;
use crate::node::Node;

/// Between two attempts when the supervisor does not answer.
const RETRY: Duration = Duration::from_millis(500);
/// What a hook that used up the grace period leaves for SIGTERM, as in Kubernetes.
const LAST_GRACE: Duration = Duration::from_secs(2);

/// The ending of a container, while it goes on.
#[derive(Debug)]
pub(crate) struct Stopper {
    task: AbortHandle,
}

impl Stopper {
    /// Begins. `hook` is false when an earlier stopper has seen to the hook.
    pub(crate) fn start(
        node: &Arc<Node>,
        pod: &Arc<Desired>,
        container: Container,
        grace: i64,
        signal: Option<String>,
        hook: bool,
    ) -> Self {
        let (node, pod) = (Arc::clone(node), Arc::clone(pod));
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let task = tokio::spawn(async move {
            let begun = tokio::time::Instant::now();
            if hook && !grace.is_zero() {
                let ran = tokio::time::timeout(grace, pre_stop(&node, &pod, &container)).await;
                if let Err(why) = ran.unwrap_or_else(|_| Err("the grace period is over".to_owned()))
                {
                    let text =
                        format!("PreStop hook of container {} failed: {why}", container.name);
                    node.recorder
                        .warning(&pod, &container.name, "FailedPreStopHook", text);
                }
            }
            let left = grace.saturating_sub(begun.elapsed());
            let left = if grace.is_zero() {
                left
            } else {
                left.max(LAST_GRACE.min(grace))
            };
            if !left.is_zero() {
                send(&node, &pod, &container.name, stop_signal(signal.as_deref())).await;
                tokio::time::sleep(left).await;
            }
            send(&node, &pod, &container.name, Signal::SIGKILL as i32).await;
        });
        Self {
            task: task.abort_handle(),
        }
    }

    pub(crate) fn abort(&self) {
        self.task.abort();
    }
}

/// Signals until the supervisor has taken it.
async fn send(node: &Node, pod: &Desired, container: &str, signal: i32) {
    while let Err(error) = node
        .containers
        .client()
        .await
        .signal_container(&pod.key.uid, container, signal)
        .await
    {
        if error.kind().is_some() {
            tracing::warn!(pod = %pod.key, container, %error, "a signal can't be sent");
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The container's or image's stop signal, by name or number; SIGTERM when neither names one.
fn stop_signal(text: Option<&str>) -> i32 {
    let text = text.unwrap_or_default();
    let named = |name: &str| name.parse::<Signal>().ok().map(|signal| signal as i32);
    let number = text.parse().ok().filter(|number| (1..65).contains(number));
    number
        .or_else(|| named(text))
        .or_else(|| named(&format!("SIG{text}")))
        .unwrap_or(Signal::SIGTERM as i32)
}

async fn pre_stop(node: &Node, pod: &Desired, container: &Container) -> Result<(), String> {
    let Some(hook) = container
        .lifecycle
        .as_ref()
        .and_then(|life| life.pre_stop.as_ref())
    else {
        return Ok(());
    };
    hooks::run(node, pod, container, hook).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_have_names_and_numbers() {
        for (text, number) in [
            (None, 15),
            (Some("SIGQUIT"), 3),
            (Some("USR1"), 10),
            (Some("9"), 9),
            (Some("x"), 15),
            (Some("99"), 15),
        ] {
            assert_eq!(stop_signal(text), number, "{text:?}");
        }
    }
}
