//! The binary from outside: exit codes and the one line of an error. Nothing here needs a cluster.

use std::process::{Command, Output};

fn waggle(arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_waggle"))
        .args(arguments)
        .env_clear()
        .env("HOME", home.path())
        .output()
        .unwrap()
}

fn error_of(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_wrong_command_line_is_2() {
    for arguments in [
        &["gett", "pods"][..],
        &[],
        &["scale", "deployment/x"],
        &["dev", "up", "--nodes", "0"],
    ] {
        let output = waggle(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(
            !output.stderr.is_empty() && output.stdout.is_empty(),
            "{arguments:?}: {output:?}"
        );
    }
}

#[test]
fn an_error_is_1_and_one_line_that_says_what_to_do() {
    let output = waggle(&["get", "pods"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = error_of(&output);
    assert!(
        error.starts_with("error: no kubeconfig found") && error.contains("waggle dev up"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let config = "clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                  contexts: [{name: a, context: {cluster: a, user: a}}]\n\
                  users: [{name: a, user: {}}]\ncurrent-context: a\n";
    std::fs::write(&path, config).unwrap();
    let output = waggle(&["get", "pods", "--kubeconfig", &path.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = error_of(&output);
    assert!(
        error.contains("cannot reach the API at http://127.0.0.1:1: Connection refused"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn version_help_and_completion_are_0() {
    for (arguments, word) in [
        (&["--version"][..], "waggle 0"),
        (&["--help"], "Usage: waggle"),
        (&["version", "--client"], "Client Version: "),
        (&["completion", "bash"], "complete -F"),
        (&["completion", "zsh"], "#compdef waggle"),
        (&["completion", "fish"], "complete -c waggle"),
    ] {
        let output = waggle(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(word), "{arguments:?}: {text}");
    }
}

#[test]
fn hidden_parts_are_not_offered() {
    let text = String::from_utf8(waggle(&["--help"]).stdout).unwrap();
    assert!(
        !text.contains("supervisor") && !text.contains("worker"),
        "{text}"
    );
    let text = String::from_utf8(waggle(&["dev", "--help"]).stdout).unwrap();
    assert!(!text.contains("launch") && !text.contains("door"), "{text}");
}

#[test]
fn a_broken_manifest_is_refused_before_any_server_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.yaml");
    std::fs::write(&path, "kind: [Pod\nmetadata: {name: x}\n").unwrap();
    let output = waggle(&["apply", "-f", &path.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = error_of(&output);
    assert!(
        error.contains("broken.yaml, line 2, column ") && error.contains("nothing was changed"),
        "{error}"
    );
}
