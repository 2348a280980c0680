//! `waggle rollout`: status, restart, history and undo of Deployments.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::age::parse_duration;
use crate::connect::{Api, Globals, refused_with, with_query};
use crate::get::put;
use crate::kinds::{Kind, Kinds};
use crate::logs::selector_of;
use crate::tab;

/// Arguments of `rollout`.
#[derive(Debug, clap::Args)]
pub struct RolloutArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Wait until the rollout has ended
    Status {
        /// TYPE NAME or TYPE/NAME
        #[arg(required = true)]
        what: Vec<String>,
        /// Wait; false shows the state and ends
        #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
        watch: bool,
        /// How long to wait
        #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
        timeout: Option<Duration>,
    },
    /// Replace every pod, a few at a time
    Restart {
        /// TYPE NAME... or TYPE/NAME...
        #[arg(required = true)]
        what: Vec<String>,
    },
    /// Show the revisions
    History {
        /// TYPE NAME or TYPE/NAME
        #[arg(required = true)]
        what: Vec<String>,
    },
    /// Go back to an earlier revision
    Undo {
        /// TYPE NAME or TYPE/NAME
        #[arg(required = true)]
        what: Vec<String>,
        /// Revision; 0 for the one before
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        to_revision: u64,
    },
}

const REVISION: &str = "deployment.kubernetes.io/revision";

/// Runs it.
pub(crate) async fn run(args: RolloutArgs, globals: &Globals) -> Result<ExitCode> {
    let api = Api::connect(globals).await?;
    let kinds = Kinds::discover(&api).await?;
    let (Action::Status { what, .. }
    | Action::Restart { what }
    | Action::History { what }
    | Action::Undo { what, .. }) = &args.action;
    for target in kinds.targets(what)? {
        let (kind, name) = match &target.name {
            Some(name)
                if matches!(
                    target.kind.kind.as_str(),
                    "Deployment" | "StatefulSet" | "DaemonSet"
                ) =>
            {
                (target.kind, name.as_str())
            }
            Some(_) => bail!("a {} has no rollout", target.kind.kind),
            None => bail!("name the {}", target.kind.kind),
        };
        match &args.action {
            Action::Status { watch, timeout, .. } => {
                let waiting = status(&api, kind, name, *watch);
                match timeout {
                    Some(limit) => {
                        tokio::time::timeout(*limit, waiting)
                            .await
                            .unwrap_or_else(|_| {
                                Err(anyhow!(
                                    "{name} has not been rolled out after {} s",
                                    limit.as_secs()
                                ))
                            })?
                    }
                    None => waiting.await?,
                }
            }
            Action::Restart { .. } => restart(&api, kind, name).await?,
            Action::History { .. } => history(&api, kind, name).await?,
            Action::Undo { to_revision, .. } => undo(&api, kind, name, *to_revision).await?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    Done(String),
    Waiting(String),
    Failed(String),
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// What a Deployment's status says.
fn progress(object: &Value) -> Progress {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let (spec, status) = (&object["spec"], &object["status"]);
    if number(&object["metadata"]["generation"]) > number(&status["observedGeneration"]) {
        return Progress::Waiting(
            "Waiting for deployment spec update to be observed...".to_owned(),
        );
    }
    let late = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded");
    if late {
        return Progress::Failed(format!(
            "deployment {name:?} exceeded its progress deadline"
        ));
    }
    let (updated, total, available) = (
        number(&status["updatedReplicas"]),
        number(&status["replicas"]),
        number(&status["availableReplicas"]),
    );
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    let wait = |what: String| {
        Progress::Waiting(format!(
            "Waiting for deployment {name:?} rollout to finish: {what}..."
        ))
    };
    if updated < wanted {
        wait(format!(
            "{updated} out of {wanted} new replicas have been updated"
        ))
    } else if total > updated {
        wait(format!(
            "{} old replicas are pending termination",
            total - updated
        ))
    } else if available < updated {
        wait(format!(
            "{available} of {updated} updated replicas are available"
        ))
    } else {
        Progress::Done(format!("deployment {name:?} successfully rolled out"))
    }
}

/// What a StatefulSet's or DaemonSet's status says.
fn set_progress(object: &Value) -> Progress {
    let (name, kind) = (
        object["metadata"]["name"].as_str().unwrap_or_default(),
        object["kind"].as_str().unwrap_or("set"),
    );
    let status = &object["status"];
    let (wanted, updated, ready) = if kind == "DaemonSet" {
        let of = |field: &str| number(&status[field]);
        (
            of("desiredNumberScheduled"),
            of("updatedNumberScheduled"),
            of("numberAvailable"),
        )
    } else {
        let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
        (
            wanted,
            number(&status["updatedReplicas"]),
            number(&status["readyReplicas"]),
        )
    };
    if number(&object["metadata"]["generation"]) > number(&status["observedGeneration"]) {
        Progress::Waiting(format!(
            "Waiting for {} spec update to be observed...",
            kind.to_lowercase()
        ))
    } else if updated < wanted || ready < wanted {
        Progress::Waiting(format!(
            "Waiting for {name:?}: {updated} of {wanted} updated, {ready} ready..."
        ))
    } else {
        Progress::Done(format!(
            "{} {name:?} successfully rolled out",
            kind.to_lowercase()
        ))
    }
}

async fn status(api: &Api, kind: &Kind, name: &str, watch: bool) -> Result<()> {
    let mut said = String::new();
    loop {
        let mut object = api.get(&kind.object(&api.namespace, name)).await?;
        let version = object["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if report(kind, &mut object, &mut said)? || !watch {
            return Ok(());
        }
        let query = [
            ("watch", "true".to_owned()),
            ("fieldSelector", format!("metadata.name={name}")),
            ("resourceVersion", version),
            ("timeoutSeconds", "300".to_owned()),
        ];
        let path = with_query(&kind.collection(Some(&api.namespace)), &query);
        let mut events = match api.watch(&path, false).await {
            Ok(events) => events,
            Err(error) if refused_with(&error, 410) => continue,
            Err(error) => return Err(error),
        };
        while let Some(Ok(mut event)) = events.next().await {
            if event["type"] == "DELETED" {
                bail!("{} {name:?} was deleted", kind.singular);
            }
            if event["type"] != "BOOKMARK" && report(kind, &mut event["object"], &mut said)? {
                return Ok(());
            }
        }
    }
}

/// Prints the state if it is new; true when the rollout is done.
fn report(kind: &Kind, object: &mut Value, said: &mut String) -> Result<bool> {
    object["kind"] = kind.kind.as_str().into();
    let progress = if kind.kind == "Deployment" {
        progress(object)
    } else {
        set_progress(object)
    };
    let (text, done) = match progress {
        Progress::Failed(why) => bail!("{why}"),
        Progress::Done(text) => (text, true),
        Progress::Waiting(text) => (text, false),
    };
    if *said != text {
        put(&format!("{text}\n"))?;
        *said = text;
    }
    Ok(done)
}

async fn restart(api: &Api, kind: &Kind, name: &str) -> Result<()> {
    let now = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}}});
    api.merge_patch(&kind.object(&api.namespace, name), &patch)
        .await?;
    put(&format!("{}/{name} restarted\n", kind.qualified()))
}

/// A Deployment's ReplicaSets with their revisions, oldest first.
async fn revisions(api: &Api, kind: &Kind, name: &str) -> Result<(Value, Vec<(u64, Value)>)> {
    if kind.kind != "Deployment" {
        bail!("history and undo work on Deployments");
    }
    let deployment = api.get(&kind.object(&api.namespace, name)).await?;
    let selector = selector_of(&deployment).ok_or_else(|| anyhow!("{name} selects no pods"))?;
    let path = format!("/apis/apps/v1/namespaces/{}/replicasets", api.namespace);
    let mut list = api
        .list(&with_query(&path, &[("labelSelector", selector)]))
        .await?;
    let sets = list["items"]
        .as_array_mut()
        .map(std::mem::take)
        .unwrap_or_default();
    let owned = sets.into_iter().filter(|set| {
        let owners = set["metadata"]["ownerReferences"].as_array();
        owners
            .into_iter()
            .flatten()
            .any(|owner| owner["uid"] == deployment["metadata"]["uid"])
    });
    let mut revisions: Vec<(u64, Value)> = owned
        .filter_map(|set| {
            Some((
                set["metadata"]["annotations"][REVISION]
                    .as_str()?
                    .parse()
                    .ok()?,
                set,
            ))
        })
        .collect();
    revisions.sort_by_key(|(revision, _)| *revision);
    Ok((deployment, revisions))
}

async fn history(api: &Api, kind: &Kind, name: &str) -> Result<()> {
    let (_, revisions) = revisions(api, kind, name).await?;
    let mut table = String::from("REVISION\tIMAGES\tCHANGE-CAUSE\n");
    for (revision, set) in revisions {
        let containers = set["spec"]["template"]["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten();
        let images: Vec<&str> = containers
            .filter_map(|container| container["image"].as_str())
            .collect();
        let cause = set["metadata"]["annotations"]["kubernetes.io/change-cause"]
            .as_str()
            .unwrap_or("<none>");
        table.push_str(&format!("{revision}\t{}\t{cause}\n", images.join(",")));
    }
    put(&format!(
        "{}/{name}\n{}",
        kind.qualified(),
        tab::align(&table, 6, 2)
    ))
}

async fn undo(api: &Api, kind: &Kind, name: &str, to_revision: u64) -> Result<()> {
    let (deployment, revisions) = revisions(api, kind, name).await?;
    let set = choose_revision(&revisions, to_revision).ok_or_else(|| match to_revision {
        0 => anyhow!("{name} has no earlier revision"),
        wanted => anyhow!("{name} has no revision {wanted}; `waggle rollout history` lists them"),
    })?;
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove("pod-template-hash");
    }
    let version = deployment["metadata"]["resourceVersion"].clone();
    let mut patch = crate::apply::difference(&deployment["spec"]["template"], &template);
    if patch.as_object().is_some_and(serde_json::Map::is_empty) {
        return put(&format!(
            "{}/{name} skipped rollback (it is at that revision already)\n",
            kind.qualified()
        ));
    }
    patch = json!({"metadata": {"resourceVersion": version}, "spec": {"template": patch}});
    api.merge_patch(&kind.object(&api.namespace, name), &patch)
        .await?;
    put(&format!("{}/{name} rolled back\n", kind.qualified()))
}

/// The ReplicaSet of a revision; 0 for the one before the newest.
fn choose_revision(revisions: &[(u64, Value)], wanted: u64) -> Option<&Value> {
    if wanted == 0 {
        return revisions
            .len()
            .checked_sub(2)
            .map(|index| &revisions[index].1);
    }
    revisions
        .iter()
        .find(|(revision, _)| *revision == wanted)
        .map(|(_, set)| set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(observed: i64, updated: i64, total: i64, available: i64) -> Value {
        json!({"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3},
            "status": {"observedGeneration": observed, "updatedReplicas": updated, "replicas": total, "availableReplicas": available}})
    }

    #[test]
    fn progress_reads_like_kubectl() {
        let wait = |what: &str| {
            Progress::Waiting(format!(
                "Waiting for deployment \"web\" rollout to finish: {what}..."
            ))
        };
        for (object, expect) in [
            (
                deployment(1, 3, 3, 3),
                Progress::Waiting(
                    "Waiting for deployment spec update to be observed...".to_owned(),
                ),
            ),
            (
                deployment(2, 1, 4, 3),
                wait("1 out of 3 new replicas have been updated"),
            ),
            (
                deployment(2, 3, 4, 3),
                wait("1 old replicas are pending termination"),
            ),
            (
                deployment(2, 3, 3, 2),
                wait("2 of 3 updated replicas are available"),
            ),
            (
                deployment(2, 3, 3, 3),
                Progress::Done("deployment \"web\" successfully rolled out".to_owned()),
            ),
        ] {
            assert_eq!(progress(&object), expect);
        }
        let mut late = deployment(2, 1, 4, 3);
        late["status"]["conditions"] =
            json!([{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]);
        assert!(matches!(progress(&late), Progress::Failed(_)));
    }

    #[test]
    fn undo_goes_to_the_one_before_or_the_named_one() {
        let revisions = [(1, json!("a")), (3, json!("b")), (4, json!("c"))];
        assert_eq!(choose_revision(&revisions, 0), Some(&json!("b")));
        assert_eq!(choose_revision(&revisions, 1), Some(&json!("a")));
        assert_eq!(choose_revision(&revisions, 2), None);
        assert_eq!(choose_revision(&revisions[..1], 0), None);
    }
}
