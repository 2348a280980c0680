//! `waggle config`: which kubeconfig is used.

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_yaml_ng::Value;

use crate::connect::{Globals, kubeconfig_path};

/// Arguments of `config`.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print the path of the kubeconfig
    Path,
    /// Print the kubeconfig itself, without keys, certificates, tokens and passwords
    View {
        /// Print it as it is, secrets included
        #[arg(long)]
        raw: bool,
    },
}

/// Runs it.
pub(crate) fn run(args: ConfigArgs, globals: &Globals) -> Result<ExitCode> {
    let path = kubeconfig_path(globals)?;
    match args.action {
        Action::Path => crate::get::put(&format!("{}\n", path.display()))?,
        Action::View { raw } => {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let text = if raw {
                text
            } else {
                without_secrets(&text).with_context(|| format!("cannot read {}", path.display()))?
            };
            crate::get::put(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn without_secrets(text: &str) -> Result<String> {
    let mut config: Value = serde_yaml_ng::from_str(text)?;
    redact(&mut config);
    Ok(serde_yaml_ng::to_string(&config)?)
}

/// Puts kubectl's words in the place of what must not be shown, at any depth.
fn redact(value: &mut Value) {
    match value {
        Value::Mapping(mapping) => {
            for (key, value) in mapping.iter_mut() {
                match key.as_str().and_then(placeholder) {
                    Some(_) if value.is_null() || value.as_str() == Some("") => {}
                    Some(words) => *value = words.into(),
                    None => redact(value),
                }
            }
        }
        Value::Sequence(values) => values.iter_mut().for_each(redact),
        Value::Tagged(tagged) => redact(&mut tagged.value),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What is shown instead of a field's value, if the value is not to be shown.
fn placeholder(field: &str) -> Option<&'static str> {
    match field {
        "certificate-authority-data" | "client-certificate-data" | "client-key-data" => {
            Some("DATA+OMITTED")
        }
        "token" | "password" | "id-token" | "access-token" | "refresh-token" | "client-secret" => {
            Some("REDACTED")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    const KUBECONFIG: &str = "apiVersion: v1
kind: Config
clusters:
- name: local
  cluster:
    server: https://127.0.0.1:6443
    certificate-authority-data: c2VjcmV0
users:
- name: admin
  user:
    client-certificate-data: c2VjcmV0
    client-key-data: c2VjcmV0
- name: other
  user:
    token: secret
    username: me
    password: 12345
- name: provider
  user:
    auth-provider:
      config:
        refresh-token: secret
";

    #[test]
    fn secrets_are_not_shown() {
        let shown = without_secrets(KUBECONFIG).unwrap();
        for secret in ["c2VjcmV0", "secret", "12345"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        for line in [
            "server: https://127.0.0.1:6443",
            "certificate-authority-data: DATA+OMITTED",
            "client-key-data: DATA+OMITTED",
            "token: REDACTED",
            "username: me",
            "password: REDACTED",
        ] {
            assert!(shown.contains(line), "{shown}");
        }
    }

    #[test]
    fn only_raw_shows_them() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            config: ConfigArgs,
        }
        let raw = |line: &[&str]| match Line::parse_from(line).config.action {
            Action::View { raw } => raw,
            Action::Path => unreachable!(),
        };
        assert!(!raw(&["config", "view"]));
        assert!(raw(&["config", "view", "--raw"]));
    }
}
