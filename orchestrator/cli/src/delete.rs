//! `waggle delete`: by manifest, by name or by selector; waits until the objects are gone.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::age::parse_duration;
use crate::apply::{documents, identify};
use crate::connect::{Api, Globals, refused_with, with_query};
use crate::get::put;
use crate::kinds::{Kind, Kinds};

/// Arguments of `delete`.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// TYPE NAME... or TYPE/NAME...
    what: Vec<String>,
    /// Manifest file, folder, or - for standard input: deletes the objects that are in it
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with = "what")]
    files: Vec<PathBuf>,
    /// Look into subfolders too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Label selector
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// All objects of the kind in the Namespace
    #[arg(long)]
    all: bool,
    /// Seconds that a pod gets to end by itself
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<i64>,
    /// At once: --grace-period 0
    #[arg(long)]
    force: bool,
    /// No error when an object is not there
    #[arg(long)]
    ignore_not_found: bool,
    /// Wait until the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    wait: bool,
    /// How long to wait
    #[arg(long, value_parser = parse_duration, default_value = "5m", value_name = "DURATION")]
    timeout: Duration,
}

/// One object to delete.
struct Doomed<'a> {
    kind: &'a Kind,
    namespace: String,
    name: String,
}

/// Runs it.
pub(crate) async fn run(args: DeleteArgs, globals: &Globals) -> Result<ExitCode> {
    if args.files.is_empty() && args.what.is_empty() {
        bail!("name what to delete: -f FILE, TYPE NAME or TYPE/NAME");
    }
    let documents = if args.files.is_empty() {
        Vec::new()
    } else {
        documents::collect(&args.files, args.recursive)
            .map_err(|faults| anyhow!("nothing was deleted:\n  {}", faults.join("\n  ")))?
    };
    let api = Api::connect(globals).await?;
    let kinds = Kinds::discover(&api).await?;
    let doomed = if args.files.is_empty() {
        by_words(&api, &kinds, &args).await?
    } else {
        let items = identify(&documents, &kinds, &api.namespace)
            .map_err(|faults| anyhow!("nothing was deleted:\n  {}", faults.join("\n  ")))?;
        // Backwards: what was made last goes first, and a Namespace after what is in it.
        items
            .iter()
            .rev()
            .map(|i| Doomed {
                kind: i.kind,
                namespace: i.namespace.clone(),
                name: i.name.clone(),
            })
            .collect()
    };
    let ignore_missing = args.ignore_not_found || args.all || args.selector.is_some();
    delete_all(&api, &doomed, &args, ignore_missing).await
}

async fn by_words<'a>(api: &Api, kinds: &'a Kinds, args: &DeleteArgs) -> Result<Vec<Doomed<'a>>> {
    let mut doomed = Vec::new();
    for target in kinds.targets(&args.what)? {
        let one = |name: String| Doomed {
            kind: target.kind,
            namespace: api.namespace.clone(),
            name,
        };
        if let Some(name) = target.name {
            doomed.push(one(name));
            continue;
        }
        if !args.all && args.selector.is_none() {
            bail!(
                "name the {} to delete, or give --selector or --all",
                target.kind.plural
            );
        }
        let query: Vec<_> = args
            .selector
            .iter()
            .map(|selector| ("labelSelector", selector.clone()))
            .collect();
        let list = api
            .list(&with_query(
                &target.kind.collection(Some(&api.namespace)),
                &query,
            ))
            .await?;
        for item in list["items"].as_array().into_iter().flatten() {
            doomed.push(one(item["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned()));
        }
    }
    if doomed.is_empty() {
        eprintln!("No resources found");
    }
    Ok(doomed)
}

async fn delete_all(
    api: &Api,
    doomed: &[Doomed<'_>],
    args: &DeleteArgs,
    ignore_missing: bool,
) -> Result<ExitCode> {
    let grace = if args.force {
        Some(args.grace_period.unwrap_or(0))
    } else {
        args.grace_period
    };
    let mut options =
        json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    if let Some(seconds) = grace {
        options["gracePeriodSeconds"] = seconds.into();
    }
    let (mut going, mut failed) = (Vec::new(), false);
    for one in doomed {
        let path = one.kind.object(&one.namespace, &one.name);
        match api.delete(&path, &options).await {
            Ok(answer) => {
                let how = if args.force {
                    "force deleted"
                } else {
                    "deleted"
                };
                put(&format!(
                    "{} \"{}\" {how}\n",
                    one.kind.qualified(),
                    one.name
                ))?;
                going.push((one, uid_of(&answer)));
            }
            Err(error) if ignore_missing && refused_with(&error, 404) => {}
            Err(error) => {
                eprintln!("error: {error:#}");
                failed = true;
            }
        }
    }
    if args.wait {
        let all = async {
            for (one, uid) in &going {
                wait_until_gone(api, one.kind, &one.namespace, &one.name, uid.as_deref()).await?;
            }
            Ok(())
        };
        tokio::time::timeout(args.timeout, all)
            .await
            .unwrap_or_else(|_| {
                Err(anyhow!(
                    "not everything is gone after {} s",
                    args.timeout.as_secs()
                ))
            })?;
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The UID of what was deleted: from the object itself, or from a Status.
fn uid_of(answer: &Value) -> Option<String> {
    let uid = answer["metadata"]["uid"]
        .as_str()
        .or(answer["details"]["uid"].as_str())?;
    Some(uid.to_owned())
}

/// Waits until no object of that name, or one with another UID, is there.
pub(crate) async fn wait_until_gone(
    api: &Api,
    kind: &Kind,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
) -> Result<()> {
    loop {
        let Some(object) = api.find(&kind.object(namespace, name)).await? else {
            return Ok(());
        };
        if uid.is_some_and(|uid| object["metadata"]["uid"] != uid) {
            return Ok(());
        }
        let version = object["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let path = with_query(
            &kind.collection(Some(namespace)),
            &[
                ("watch", "true".to_owned()),
                ("fieldSelector", format!("metadata.name={name}")),
                ("resourceVersion", version),
                ("timeoutSeconds", "60".to_owned()),
            ],
        );
        let mut events = match api.watch(&path, false).await {
            Ok(events) => events,
            Err(error) if refused_with(&error, 410) => continue,
            Err(error) => return Err(error),
        };
        // However the watch ends, the loop looks again.
        while let Some(Ok(event)) = events.next().await {
            if event["type"] == "DELETED" {
                break;
            }
        }
    }
}
