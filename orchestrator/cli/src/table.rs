//! Prints the server's Table (meta.k8s.io/v1) as kubectl does. Pure: a Table in, text out.

use serde_json::Value;

/// What to show of a Table.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TableStyle<'a> {
    /// Columns that the server marks as less important too.
    pub(crate) wide: bool,
    /// A first column with each row's Namespace.
    pub(crate) namespace: bool,
    /// Written before each name, `pod/`.
    pub(crate) prefix: &'a str,
    /// No header line.
    pub(crate) no_headers: bool,
    /// A last column with each row's labels.
    pub(crate) labels: bool,
}

/// Prints tables of one kind, one after another: widths never shrink, so that a watch stays aligned.
#[derive(Debug, Default)]
pub(crate) struct TablePrinter {
    widths: Vec<usize>,
    header_done: bool,
    columns: Vec<Value>,
}

const MIN_WIDTH: usize = 6;
const PADDING: usize = 3;

impl TablePrinter {
    /// The table as text. The header comes once.
    pub(crate) fn render(&mut self, table: &Value, style: TableStyle<'_>) -> String {
        if let Some(columns) = table["columnDefinitions"]
            .as_array()
            .filter(|c| !c.is_empty())
        {
            self.columns.clone_from(columns);
        }
        let shown: Vec<usize> = (0..self.columns.len())
            .filter(|&i| style.wide || self.columns[i]["priority"].as_i64().unwrap_or(0) == 0)
            .collect();
        let mut lines = Vec::new();
        if !self.header_done && !style.no_headers {
            lines.push(header(&self.columns, &shown, style));
        }
        self.header_done = true;
        for row in table["rows"].as_array().into_iter().flatten() {
            lines.push(cells(row, &shown, style));
        }
        self.write(&lines)
    }

    fn write(&mut self, lines: &[Vec<String>]) -> String {
        for line in lines {
            for (index, cell) in line.iter().enumerate() {
                let width = (cell.chars().count() + PADDING).max(MIN_WIDTH);
                match self.widths.get_mut(index) {
                    Some(known) => *known = width.max(*known),
                    None => self.widths.push(width),
                }
            }
        }
        let mut out = String::new();
        for line in lines {
            let last = line.len().saturating_sub(1);
            for (index, cell) in line.iter().enumerate() {
                out.push_str(cell);
                if index < last {
                    out.extend(std::iter::repeat_n(
                        ' ',
                        self.widths[index] - cell.chars().count(),
                    ));
                }
            }
            out.push('\n');
        }
        out
    }
}

fn header(columns: &[Value], shown: &[usize], style: TableStyle<'_>) -> Vec<String> {
    let mut line = Vec::new();
    if style.namespace {
        line.push("NAMESPACE".to_owned());
    }
    line.extend(shown.iter().map(|&i| {
        columns[i]["name"]
            .as_str()
            .unwrap_or_default()
            .to_uppercase()
    }));
    if style.labels {
        line.push("LABELS".to_owned());
    }
    line
}

fn cells(row: &Value, shown: &[usize], style: TableStyle<'_>) -> Vec<String> {
    let metadata = &row["object"]["metadata"];
    let mut line = Vec::new();
    if style.namespace {
        line.push(
            metadata["namespace"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        );
    }
    for (position, &index) in shown.iter().enumerate() {
        let text = cell_text(&row["cells"][index]);
        line.push(if position == 0 {
            format!("{}{text}", style.prefix)
        } else {
            text
        });
    }
    if style.labels {
        line.push(labels_text(&metadata["labels"]));
    }
    line
}

fn cell_text(cell: &Value) -> String {
    match cell {
        Value::String(text) => text.replace(['\n', '\r'], " "),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

/// `a=b,c=d`, or `<none>`.
pub(crate) fn labels_text(labels: &Value) -> String {
    let pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pods() -> Value {
        json!({
            "columnDefinitions": [
                {"name": "Name", "priority": 0}, {"name": "Ready", "priority": 0},
                {"name": "Restarts", "priority": 0}, {"name": "Age", "priority": 0}, {"name": "IP", "priority": 1}],
            "rows": [
                {"cells": ["user-center-1", "1/1", 0, "5s", "10.244.0.2"],
                 "object": {"metadata": {"namespace": "shop", "labels": {"app": "user-center"}}}},
                {"cells": ["redis", "0/1", 12, "10m", null], "object": {"metadata": {"namespace": "shop"}}}]
        })
    }

    fn check(style: TableStyle<'_>, expect: &str) {
        assert_eq!(TablePrinter::default().render(&pods(), style), expect);
    }

    #[test]
    fn a_table_reads_like_kubectl() {
        check(
            TableStyle::default(),
            "NAME            READY   RESTARTS   AGE\nuser-center-1   1/1     0          5s\nredis           0/1     12         10m\n",
        );
    }

    #[test]
    fn wide_namespace_prefix_and_labels_add_to_it() {
        check(
            TableStyle {
                wide: true,
                namespace: true,
                prefix: "pod/",
                labels: true,
                no_headers: false,
            },
            "NAMESPACE   NAME                READY   RESTARTS   AGE   IP           LABELS\n\
             shop        pod/user-center-1   1/1     0          5s    10.244.0.2   app=user-center\n\
             shop        pod/redis           0/1     12         10m   <none>       <none>\n",
        );
    }

    #[test]
    fn a_watch_keeps_its_widths_and_prints_one_header() {
        let mut printer = TablePrinter::default();
        printer.render(&pods(), TableStyle::default());
        let later =
            json!({"columnDefinitions": null, "rows": [{"cells": ["a", "1/1", 0, "1s", ""]}]});
        assert_eq!(
            printer.render(&later, TableStyle::default()),
            "a               1/1     0          1s\n"
        );
    }
}
