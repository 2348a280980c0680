//! Reads manifests: splits a text into YAML documents, decodes each, and says where and how a broken one is mended.
//! Pure but for [`collect`], which reads files, folders and standard input.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// One object of a manifest and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Document {
    /// File name as given, or `standard input`.
    pub(crate) file: String,
    /// Line of the document's first line, from 1.
    pub(crate) line: usize,
    /// Its number within the file, from 1.
    pub(crate) number: usize,
    /// The object.
    pub(crate) object: Value,
}

impl Document {
    /// `shop.yaml:12 (document 2, Deployment user-center)`.
    pub(crate) fn place(&self) -> String {
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        format!(
            "{}:{} (document {}, {} {})",
            self.file,
            self.line,
            self.number,
            text(&self.object["kind"]),
            text(&self.object["metadata"]["name"])
        )
    }
}

/// Reads every manifest that the paths name. All faults are given, not only the first.
pub(crate) fn collect(paths: &[PathBuf], recursive: bool) -> Result<Vec<Document>, Vec<String>> {
    let (mut documents, mut faults) = (Vec::new(), Vec::new());
    for path in paths {
        for (name, text) in texts(path, recursive, &mut faults) {
            let (found, broken) = parse(&name, &text);
            documents.extend(found);
            faults.extend(broken);
        }
    }
    if faults.is_empty() && documents.is_empty() {
        let names: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        faults.push(format!("{}: no object in it", names.join(", ")));
    }
    if faults.is_empty() {
        Ok(documents)
    } else {
        Err(faults)
    }
}

fn texts(path: &Path, recursive: bool, faults: &mut Vec<String>) -> Vec<(String, String)> {
    if path == Path::new("-") {
        let mut text = String::new();
        return match std::io::stdin().read_to_string(&mut text) {
            Ok(_) => vec![("standard input".to_owned(), text)],
            Err(error) => {
                faults.push(format!("cannot read standard input: {error}"));
                Vec::new()
            }
        };
    }
    let files = if path.is_dir() {
        manifests_in(path, recursive, faults)
    } else {
        vec![path.to_owned()]
    };
    let mut read = Vec::new();
    for file in files {
        match std::fs::read_to_string(&file) {
            Ok(text) => read.push((file.display().to_string(), text)),
            Err(error) => faults.push(format!("{}: cannot read: {error}", file.display())),
        }
    }
    read
}

fn manifests_in(folder: &Path, recursive: bool, faults: &mut Vec<String>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            for path in entries.flatten().map(|entry| entry.path()) {
                let wanted = path
                    .extension()
                    .is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
                if path.is_dir() && recursive {
                    files.extend(manifests_in(&path, true, faults));
                } else if wanted && path.is_file() {
                    files.push(path);
                }
            }
        }
        Err(error) => faults.push(format!("{}: cannot list: {error}", folder.display())),
    }
    files.sort();
    files
}

/// Decodes every document of a text; a `List` is taken apart.
pub(crate) fn parse(file: &str, text: &str) -> (Vec<Document>, Vec<String>) {
    let (mut documents, mut faults) = (Vec::new(), Vec::new());
    for (index, (first_line, part)) in split(text).into_iter().enumerate() {
        let number = index + 1;
        let value = match decode(part) {
            Ok(value) => value,
            Err(error) => {
                faults.push(describe_fault(file, number, first_line, part, &error));
                continue;
            }
        };
        for object in objects(value) {
            let document = Document {
                file: file.to_owned(),
                line: first_line,
                number,
                object,
            };
            match shape_faults(&document.object) {
                found if found.is_empty() => documents.push(document),
                found => faults.extend(
                    found
                        .iter()
                        .map(|fault| format!("{}: {fault}", document.place())),
                ),
            }
        }
    }
    (documents, faults)
}

/// Parts of a text between `---` lines, with the number of each part's first line of content. Empty parts are left out.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let bare = line.trim_end();
        if bare == "---" || bare.starts_with("--- ") {
            parts.push((start_line, &text[start..offset]));
            start = offset + if bare == "---" { line.len() } else { 4 };
            start_line = if bare == "---" { index + 2 } else { index + 1 };
        }
        offset += line.len();
    }
    parts.push((start_line, &text[start..]));
    parts.retain(|(_, part)| {
        part.lines()
            .any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    });
    parts.into_iter().map(skip_leading).collect()
}

/// Moves the start to the first line that is neither blank nor a comment, so that messages point at content.
fn skip_leading((line, part): (usize, &str)) -> (usize, &str) {
    let mut skipped = (0, 0);
    for text in part.split_inclusive('\n') {
        let bare = text.trim();
        if !bare.is_empty() && !bare.starts_with('#') {
            break;
        }
        skipped = (skipped.0 + 1, skipped.1 + text.len());
    }
    (line + skipped.0, &part[skipped.1..])
}

fn decode(text: &str) -> Result<Value, serde_yaml_ng::Error> {
    // Through YAML's own value first: it refuses a key that comes twice, which JSON's would swallow.
    let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(text)?;
    serde_yaml_ng::from_value(value)
}

fn objects(value: Value) -> Vec<Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Object(mut map)
            if map
                .get("kind")
                .and_then(Value::as_str)
                .is_some_and(|kind| kind.ends_with("List")) =>
        {
            match map.remove("items") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            }
        }
        other => vec![other],
    }
}

/// What every object must have before the server is asked about it.
fn shape_faults(object: &Value) -> Vec<String> {
    if !object.is_object() {
        return vec!["is no object: start it with `apiVersion:`".to_owned()];
    }
    let mut faults = Vec::new();
    for (field, example) in [("apiVersion", "v1"), ("kind", "Pod")] {
        if object[field].as_str().is_none_or(str::is_empty) {
            faults.push(format!(
                "{field} is missing: add, for example, `{field}: {example}`"
            ));
        }
    }
    let metadata = &object["metadata"];
    let named = metadata["name"]
        .as_str()
        .is_some_and(|name| !name.is_empty());
    if !named && metadata["generateName"].as_str().is_some() {
        faults.push("metadata.generateName can't be applied: give it a metadata.name".to_owned());
    } else if !named {
        faults.push("metadata.name is missing: add `metadata:` with `name:`".to_owned());
    }
    faults
}

fn describe_fault(
    file: &str,
    number: usize,
    first_line: usize,
    part: &str,
    error: &serde_yaml_ng::Error,
) -> String {
    let (line, column) = error
        .location()
        .map_or((1, 1), |place| (place.line(), place.column()));
    let message = error.to_string();
    let reason = message.split(" at line ").next().unwrap_or(&message);
    let (line, column) = second_of_two(reason, part, line).map_or((line, column), |line| (line, 1));
    let text = part.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let shown = if text.trim().is_empty() {
        String::new()
    } else {
        format!("\n    {}", text.trim_end())
    };
    format!(
        "{file}, line {}, column {column} (document {number}): broken YAML: {reason}; {}{shown}",
        first_line + line.saturating_sub(1),
        mend(reason, part, line)
    )
}

/// Line of the second of two equal keys; the parser only knows where their mapping begins.
fn second_of_two(reason: &str, part: &str, mapping: usize) -> Option<usize> {
    let key = reason
        .split_once("duplicate entry with key \"")?
        .1
        .strip_suffix('"')?;
    let mut same = part
        .lines()
        .enumerate()
        .skip(mapping.saturating_sub(1))
        .filter(|(_, text)| {
            let text = text
                .trim_start()
                .trim_start_matches("- ")
                .trim_start_matches(['"', '\'']);
            text.strip_prefix(key)
                .is_some_and(|rest| rest.trim_start_matches(['"', '\'']).starts_with(':'))
        })
        .map(|(index, text)| (index + 1, text.replacen("- ", "  ", 1)))
        .map(|(line, text)| (line, text.len() - text.trim_start().len()));
    let (_, indent) = same.next()?;
    same.find(|(_, other)| *other == indent)
        .map(|(line, _)| line)
}

/// What to do about it.
fn mend(reason: &str, part: &str, line: usize) -> String {
    let nearby = part
        .lines()
        .enumerate()
        .skip(line.saturating_sub(2))
        .take(2);
    let tab = nearby
        .clone()
        .find(|(_, text)| text.trim_start_matches(' ').starts_with('\t'));
    if tab.is_some() {
        return "indent with spaces: YAML allows no tab there".to_owned();
    }
    let advice = match reason {
        r if r.contains("mapping values are not allowed") => {
            "put quotes around a value that contains `: `, or correct the indentation"
        }
        r if r.contains("did not find expected key") || r.contains("block mapping") => {
            "give this line the same indentation as its neighbours, or end what the line above opened"
        }
        r if r.contains("'-' indicator")
            || r.contains("block collection")
            || r.contains("block sequence") =>
        {
            "give each `- ` of the list the same indentation"
        }
        r if r.contains("could not find expected ':'") => {
            "write `key: value`; a colon or a space after it is missing"
        }
        r if r.contains("quoted scalar") || r.contains("unexpected end of stream") => {
            "close the quote that was opened"
        }
        r if r.contains("flow sequence") || r.contains("',' or ']'") => {
            "close the `[` or add the comma between its items"
        }
        r if r.contains("flow mapping") || r.contains("',' or '}'") => {
            "close the `{` or add the comma between its fields"
        }
        r if r.contains("duplicate entry") => "remove one of the two",
        r if r.contains("cannot start any token") => {
            "put quotes around a value that starts with `@`, `%` or a backquote"
        }
        r if r.contains("anchor") || r.contains("alias") => {
            "define the anchor with `&name` before `*name`, or quote the `*`"
        }
        _ => "correct the syntax at this place",
    };
    advice.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        parse("a.yaml", text).1
    }

    #[test]
    fn documents_are_split_and_counted() {
        let text = "# shop\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n# nothing\n---\n\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\ndata:\n  a: |\n    x\n";
        let (documents, faults) = parse("a.yaml", text);
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(
            documents.iter().map(Document::place).collect::<Vec<_>>(),
            [
                "a.yaml:3 (document 1, Namespace shop)",
                "a.yaml:10 (document 2, ConfigMap c)"
            ]
        );
        assert_eq!(documents[1].object["data"]["a"], "x\n");
    }

    #[test]
    fn a_list_is_taken_apart_and_json_is_yaml() {
        let text = r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}},{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"}}]}"#;
        assert_eq!(parse("a.json", text).0.len(), 2);
    }

    #[test]
    fn broken_yaml_names_line_column_and_mend() {
        for (text, place, mend) in [
            (
                "a: 1\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n   labels: b\n",
                "line 7, column 10 ",
                "indentation",
            ),
            (
                "kind: Pod\nmetadata:\n\tname: a\n",
                "line 3, column 1 ",
                "spaces",
            ),
            ("kind: Pod\nkind: Pod\n", "line 2, column 1 ", "remove one"),
            ("command: [a, b\nkind: Pod\n", "line 2, ", "close the `[`"),
            ("name: \"abc\nkind: Pod\n", "line ", "close the quote"),
            ("note: a: b\n", "line 1, column 8 ", "quotes"),
        ] {
            let found: Vec<String> = faults(text)
                .into_iter()
                .filter(|fault| fault.contains("broken YAML"))
                .collect();
            assert_eq!(found.len(), 1, "{text:?}: {found:?}");
            assert!(
                found[0].starts_with("a.yaml, ") && found[0].contains(place),
                "{text:?}: {found:?}"
            );
            assert!(found[0].contains(mend), "{text:?}: {found:?}");
        }
    }

    #[test]
    fn every_fault_of_every_document_is_listed() {
        let found = faults("kind: Pod\n---\napiVersion: v1\nmetadata: {name: x}\n---\njust text\n");
        assert_eq!(
            found,
            [
                "a.yaml:1 (document 1, Pod ?): apiVersion is missing: add, for example, `apiVersion: v1`",
                "a.yaml:1 (document 1, Pod ?): metadata.name is missing: add `metadata:` with `name:`",
                "a.yaml:3 (document 2, ? x): kind is missing: add, for example, `kind: Pod`",
                "a.yaml:6 (document 3, ? ?): is no object: start it with `apiVersion:`",
            ]
        );
    }

    #[test]
    fn files_and_folders_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let object =
            |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
        for (file, name) in [
            ("b.yaml", "b"),
            ("a.yml", "a"),
            ("c.txt", "c"),
            ("sub/d.yaml", "d"),
        ] {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, object(name)).unwrap();
        }
        let names = |recursive| {
            let found = collect(&[folder.path().to_owned()], recursive).unwrap();
            found
                .iter()
                .map(|d| d.object["metadata"]["name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(false), ["a", "b"]);
        assert_eq!(names(true), ["a", "b", "d"]);
        let missing = collect(&[folder.path().join("none.yaml")], false).unwrap_err();
        assert!(missing[0].contains("none.yaml: cannot read"), "{missing:?}");
    }
}
