//! `waggle get`: lists and single objects as tables, JSON, YAML or names, and watches.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::connect::{Api, Globals, refused_with, with_query};
use crate::kinds::{Kind, Kinds, Target};
use crate::table::{TablePrinter, TableStyle};

/// Arguments of `get`.
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// TYPE[,TYPE...] [NAME...] or TYPE/NAME...
    #[arg(required = true)]
    what: Vec<String>,
    /// In all Namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Label selector, `app=shop,tier!=db`
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Field selector, `spec.nodeName=node1`
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    /// Go on showing changes
    #[arg(short, long)]
    watch: bool,
    /// Show changes only, not what is there already
    #[arg(long)]
    watch_only: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Table, hide_default_value = true)]
    output: Output,
    /// No header line
    #[arg(long)]
    no_headers: bool,
    /// A last column with the labels
    #[arg(long)]
    show_labels: bool,
    /// No error when a named object is not there
    #[arg(long)]
    ignore_not_found: bool,
}

/// How objects are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Table.
    Table,
    /// Table with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// `kind/name`, one a line.
    Name,
}

/// Runs it.
pub(crate) async fn run(args: GetArgs, globals: &Globals) -> Result<ExitCode> {
    let api = Api::connect(globals).await?;
    let kinds = Kinds::discover(&api).await?;
    let targets = kinds.targets(&args.what)?;
    let named = targets.iter().any(|target| target.name.is_some());
    if named && (args.selector.is_some() || args.field_selector.is_some()) {
        bail!("a name and a selector exclude each other");
    }
    if named && args.all_namespaces {
        bail!("a name can't be looked up in all Namespaces: give its Namespace with -n");
    }
    if args.watch || args.watch_only {
        let [target] = targets.as_slice() else {
            bail!("a watch shows one kind: name one")
        };
        return watch(&api, target, &args).await;
    }
    match args.output {
        Output::Table | Output::Wide => tables(&api, &targets, &args).await,
        _ => objects(&api, &targets, &args).await,
    }
}

fn query(args: &GetArgs) -> Vec<(&'static str, String)> {
    let mut query = Vec::new();
    if let Some(selector) = &args.selector {
        query.push(("labelSelector", selector.clone()));
    }
    if let Some(selector) = &args.field_selector {
        query.push(("fieldSelector", selector.clone()));
    }
    query
}

fn collection(api: &Api, kind: &Kind, args: &GetArgs) -> String {
    let namespace = if args.all_namespaces {
        None
    } else {
        Some(api.namespace.as_str())
    };
    with_query(&kind.collection(namespace), &query(args))
}

/// Prints an error without ending: the other targets are still shown.
fn report(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

/// Stdout that may be a closed pipe: `waggle get pods | head` is no error.
pub(crate) fn put(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

fn style<'a>(args: &GetArgs, kind: &Kind, prefix: &'a str) -> TableStyle<'a> {
    TableStyle {
        wide: args.output == Output::Wide,
        namespace: args.all_namespaces && kind.namespaced,
        prefix,
        no_headers: args.no_headers,
        labels: args.show_labels,
    }
}

async fn tables(api: &Api, targets: &[Target<'_>], args: &GetArgs) -> Result<ExitCode> {
    let mut groups: Vec<(&Kind, Vec<&str>)> = Vec::new();
    for target in targets {
        match groups.last_mut().filter(|(kind, _)| *kind == target.kind) {
            Some((_, names)) => names.extend(target.name.as_deref()),
            None => groups.push((target.kind, target.name.as_deref().into_iter().collect())),
        }
    }
    let many = groups.len() > 1;
    let (mut shown, mut failed) = (0, false);
    for (kind, names) in groups {
        let prefix = if many {
            format!("{}/", kind.qualified())
        } else {
            String::new()
        };
        let (text, missing) = table_of(api, kind, &names, args, style(args, kind, &prefix)).await?;
        failed |= missing;
        if !text.is_empty() {
            put(&if shown > 0 { format!("\n{text}") } else { text })?;
            shown += 1;
        }
    }
    if shown == 0
        && !failed
        && !(args.ignore_not_found && targets.iter().any(|target| target.name.is_some()))
    {
        let scoped = targets.iter().any(|target| target.kind.namespaced) && !args.all_namespaces;
        if scoped {
            eprintln!("No resources found in {} namespace.", api.namespace);
        } else {
            eprintln!("No resources found");
        }
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The table of one kind, empty when it has no rows, and whether a name was missing.
async fn table_of(
    api: &Api,
    kind: &Kind,
    names: &[&str],
    args: &GetArgs,
    style: TableStyle<'_>,
) -> Result<(String, bool)> {
    let mut printer = TablePrinter::default();
    if names.is_empty() {
        let table = api.table_pages(&collection(api, kind, args)).await?;
        let empty = table["rows"].as_array().is_none_or(Vec::is_empty);
        return Ok((
            if empty {
                String::new()
            } else {
                printer.render(&table, style)
            },
            false,
        ));
    }
    let (mut whole, mut failed) = (Value::Null, false);
    for name in names {
        match api.table(&kind.object(&api.namespace, name)).await {
            Ok(mut table) if whole.is_null() => whole = table.take(),
            Ok(mut table) => {
                if let (Some(rows), Some(more)) =
                    (whole["rows"].as_array_mut(), table["rows"].as_array_mut())
                {
                    rows.append(more);
                }
            }
            Err(error) if args.ignore_not_found && refused_with(&error, 404) => {}
            Err(error) => {
                report(&error);
                failed = true;
            }
        }
    }
    Ok((
        if whole.is_null() {
            String::new()
        } else {
            printer.render(&whole, style)
        },
        failed,
    ))
}

async fn objects(api: &Api, targets: &[Target<'_>], args: &GetArgs) -> Result<ExitCode> {
    let (mut items, mut failed) = (Vec::new(), false);
    for target in targets {
        let Some(name) = &target.name else {
            let mut list = api.list(&collection(api, target.kind, args)).await?;
            for mut item in list["items"]
                .as_array_mut()
                .map(std::mem::take)
                .unwrap_or_default()
            {
                item["apiVersion"] = target.kind.api_version().into();
                item["kind"] = target.kind.kind.as_str().into();
                items.push((target.kind, item));
            }
            continue;
        };
        match api.get(&target.kind.object(&api.namespace, name)).await {
            Ok(item) => items.push((target.kind, item)),
            Err(error) if args.ignore_not_found && refused_with(&error, 404) => {}
            Err(error) => {
                report(&error);
                failed = true;
            }
        }
    }
    let single = matches!(targets, [Target { name: Some(_), .. }]);
    if !(single && items.is_empty()) {
        put(&print_objects(items, args.output, single)?)?;
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn print_objects(items: Vec<(&Kind, Value)>, output: Output, single: bool) -> Result<String> {
    if output == Output::Name {
        return Ok(items
            .iter()
            .map(|(kind, item)| {
                format!(
                    "{}/{}\n",
                    kind.qualified(),
                    item["metadata"]["name"].as_str().unwrap_or_default()
                )
            })
            .collect());
    }
    let mut objects: Vec<Value> = items
        .into_iter()
        .map(|(_, item)| without_managed_fields(item))
        .collect();
    let whole = if single {
        objects.pop().unwrap_or_default()
    } else {
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": objects})
    };
    encode(&whole, output)
}

/// An object as JSON or YAML text.
pub(crate) fn encode(value: &Value, output: Output) -> Result<String> {
    Ok(match output {
        Output::Yaml => serde_yaml_ng::to_string(value)?,
        _ => serde_json::to_string_pretty(value)? + "\n",
    })
}

fn without_managed_fields(mut item: Value) -> Value {
    if let Some(metadata) = item["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    item
}

/// Shows what is there, then every change, until interrupted or the server ends it for good.
async fn watch(api: &Api, target: &Target<'_>, args: &GetArgs) -> Result<ExitCode> {
    let mut query = query(args);
    if let Some(name) = &target.name {
        query.push(("fieldSelector", format!("metadata.name={name}")));
    }
    let namespace = if args.all_namespaces {
        None
    } else {
        Some(api.namespace.as_str())
    };
    let path = target.kind.collection(namespace);
    let mut screen = Screen {
        printer: TablePrinter::default(),
        kind: target.kind,
        args,
    };
    let mut first = !args.watch_only;
    loop {
        let list_path = with_query(&path, &query);
        let list = if screen.tabular() {
            api.table_pages(&list_path).await?
        } else {
            api.list(&list_path).await?
        };
        if std::mem::take(&mut first) {
            screen.show_list(&list)?;
        }
        let mut version = list["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if follow(api, &path, &query, &mut version, &mut screen).await? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

struct Screen<'a> {
    printer: TablePrinter,
    kind: &'a Kind,
    args: &'a GetArgs,
}

impl Screen<'_> {
    fn tabular(&self) -> bool {
        matches!(self.args.output, Output::Table | Output::Wide)
    }

    fn show_list(&mut self, list: &Value) -> Result<()> {
        if self.tabular() {
            if list["rows"].as_array().is_none_or(Vec::is_empty) {
                return Ok(());
            }
            return self.show(list);
        }
        for item in list["items"].as_array().into_iter().flatten() {
            let mut item = item.clone();
            item["apiVersion"] = self.kind.api_version().into();
            item["kind"] = self.kind.kind.as_str().into();
            self.show(&item)?;
        }
        Ok(())
    }

    fn show(&mut self, object: &Value) -> Result<()> {
        if self.tabular() {
            let style = style(self.args, self.kind, "");
            return put(&self.printer.render(object, style));
        }
        let separator = if self.args.output == Output::Yaml {
            "---\n"
        } else {
            ""
        };
        put(&format!(
            "{separator}{}",
            print_objects(vec![(self.kind, object.clone())], self.args.output, true)?
        ))
    }
}

/// Follows from `version`; true to end, false when the server no longer has that version.
async fn follow(
    api: &Api,
    path: &str,
    query: &[(&str, String)],
    version: &mut String,
    screen: &mut Screen<'_>,
) -> Result<bool> {
    loop {
        let mut watch = query.to_vec();
        watch.extend([
            ("watch", "true".to_owned()),
            ("allowWatchBookmarks", "true".to_owned()),
            ("resourceVersion", version.clone()),
        ]);
        let mut events = api
            .watch(&with_query(path, &watch), screen.tabular())
            .await?;
        while let Some(event) = events.next().await {
            let event = match event {
                Err(error) if refused_with(&error, 410) => return Ok(false),
                Err(error) if error.downcast_ref::<crate::connect::Refusal>().is_none() => break,
                other => other?,
            };
            if let Some(seen) = revision_of(&event["object"]) {
                seen.clone_into(version);
            }
            if event["type"] != "BOOKMARK" {
                screen.show(&event["object"])?;
            }
        }
    }
}

fn revision_of(object: &Value) -> Option<&str> {
    let row = object["rows"].as_array().and_then(|rows| rows.last());
    let row_version = row.and_then(|row| row["object"]["metadata"]["resourceVersion"].as_str());
    row_version
        .or(object["metadata"]["resourceVersion"].as_str())
        .filter(|version| !version.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_lists_are_printed_as_kubectl_does() {
        let kinds = crate::kinds::tests::sample();
        let deploy = kinds.find("deploy").unwrap();
        let item = json!({"metadata": {"name": "x", "managedFields": [1]}});
        assert_eq!(
            print_objects(vec![(deploy, item.clone())], Output::Name, false).unwrap(),
            "deployment.apps/x\n"
        );
        let yaml = print_objects(vec![(deploy, item.clone())], Output::Yaml, true).unwrap();
        assert_eq!(yaml, "metadata:\n  name: x\n");
        let list: Value = serde_json::from_str(
            &print_objects(vec![(deploy, item)], Output::Json, false).unwrap(),
        )
        .unwrap();
        assert_eq!(
            (
                list["kind"].as_str(),
                list["items"][0]["metadata"]["name"].as_str()
            ),
            (Some("List"), Some("x"))
        );
    }

    #[test]
    fn a_watch_resumes_after_the_last_row() {
        let table = json!({"metadata": {"resourceVersion": "5"}, "rows": [{"object": {"metadata": {"resourceVersion": "7"}}}]});
        assert_eq!(revision_of(&table), Some("7"));
        assert_eq!(
            revision_of(&json!({"metadata": {"resourceVersion": "9"}})),
            Some("9")
        );
        assert_eq!(revision_of(&json!({})), None);
    }
}
