//! Reads an EncryptionConfiguration (apiserver.config.k8s.io/v1), and makes one for a server that keeps its own key.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore as _;
use ring::aead::{AES_128_GCM, AES_256_GCM, LessSafeKey, UnboundKey};
use serde_json::Value;

use super::{Encryption, Key, Provider, Rule};
use crate::pki;

/// What is wrong with an encryption configuration.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// It can't be read.
    #[error("can't read the encryption configuration {path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: std::io::Error,
    },
    /// It says what can't be.
    #[error("encryption configuration {path}: {cause}")]
    Wrong {
        /// The file.
        path: String,
        /// The field, and what it may be.
        cause: String,
    },
    /// A key of one server's own, and a store of several.
    #[error(
        "--secrets-encryption makes a key of this server's own, and servers over an etcd need the same one: give each of \
         them the same file by --encryption-provider-config"
    )]
    Several,
    /// A key can't be made.
    #[error(transparent)]
    Key(#[from] pki::PkiError),
}

impl Encryption {
    /// From a file.
    ///
    /// # Errors
    /// [`EncryptionError`]: the file, the field, and what it may be.
    pub fn read(path: &Path) -> Result<Self, EncryptionError> {
        let text = std::fs::read_to_string(path).map_err(|cause| EncryptionError::File {
            path: path.to_owned(),
            cause,
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// From a file of the server's own, which is made with a fresh key when it is missing. Secrets are encrypted by it.
    ///
    /// # Errors
    /// As [`Encryption::read`], and when the file can't be made.
    pub fn own(path: &Path) -> Result<Self, EncryptionError> {
        if pki::read(path)?.is_none() {
            let mut secret = [0; 32];
            rand::rng().fill_bytes(&mut secret);
            let text = format!(
                "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
                 providers:\n  - aesgcm:\n      keys:\n      - name: key1\n        secret: {}\n  - identity: {{}}\n",
                STANDARD.encode(secret)
            );
            pki::write(path, text.as_bytes(), 0o600)?;
        }
        Self::read(path)
    }

    pub(super) fn parse(text: &str, source: &str) -> Result<Self, EncryptionError> {
        let wrong = |cause: String| EncryptionError::Wrong {
            path: source.to_owned(),
            cause,
        };
        let value: Value = serde_yaml_ng::from_str(text).map_err(|e| wrong(e.to_string()))?;
        for (field, expect) in [
            ("apiVersion", "apiserver.config.k8s.io/v1"),
            ("kind", "EncryptionConfiguration"),
        ] {
            if value[field] != expect {
                return Err(wrong(format!("{field}: must be {expect}")));
            }
        }
        let rules = items(&value, "resources").enumerate().map(|(at, rule)| {
            Rule::parse(rule).map_err(|cause| wrong(format!("resources[{at}].{cause}")))
        });
        let rules: Vec<Rule> = rules.collect::<Result<_, _>>()?;
        if rules.is_empty() {
            return Err(wrong("resources: must name at least one".to_owned()));
        }
        Ok(Self {
            rules,
            source: source.to_owned(),
        })
    }
}

fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

impl Rule {
    fn parse(value: &Value) -> Result<Self, String> {
        let names = items(value, "resources").filter_map(Value::as_str);
        let resources: Vec<String> = names.map(str::to_owned).collect();
        if resources.is_empty() {
            return Err("resources: must name at least one, such as secrets".to_owned());
        }
        let providers = items(value, "providers").enumerate().map(|(at, one)| {
            Provider::parse(one).map_err(|cause| format!("providers[{at}]{cause}"))
        });
        let providers: Vec<Provider> = providers.collect::<Result<_, _>>()?;
        if providers.is_empty() {
            return Err("providers: must name at least one: aesgcm, identity".to_owned());
        }
        Ok(Self {
            resources,
            providers,
        })
    }
}

impl Provider {
    fn parse(value: &Value) -> Result<Self, String> {
        let entries = value.as_object().ok_or(": must be an object")?;
        let mut entries = entries.iter();
        let (Some((name, settings)), None) = (entries.next(), entries.next()) else {
            return Err(": must have one field, the provider's name".to_owned());
        };
        match name.as_str() {
            "identity" => Ok(Self::Identity),
            "aesgcm" => {
                let keys = items(settings, "keys").enumerate().map(|(at, key)| {
                    Key::parse(key).map_err(|cause| format!(".aesgcm.keys[{at}].{cause}"))
                });
                let keys: Vec<Key> = keys.collect::<Result<_, _>>()?;
                if keys.is_empty() {
                    return Err(".aesgcm.keys: must have at least one".to_owned());
                }
                Ok(Self::AesGcm(keys))
            }
            other => Err(format!(
                ".{other}: this server does not have that provider: use aesgcm or identity"
            )),
        }
    }
}

impl Key {
    fn parse(value: &Value) -> Result<Self, String> {
        let name = value["name"].as_str().unwrap_or_default();
        if name.is_empty() || name.contains(':') {
            return Err("name: must be given, without a colon".to_owned());
        }
        let secret = value["secret"].as_str().unwrap_or_default();
        let secret = STANDARD
            .decode(secret)
            .map_err(|_| "secret: must be base64".to_owned())?;
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            length => {
                return Err(format!(
                    "secret: must be 16 or 32 bytes in base64, is {length}: head -c 32 /dev/urandom | base64"
                ));
            }
        };
        let key =
            UnboundKey::new(algorithm, &secret).map_err(|_| "secret: is no key".to_owned())?;
        Ok(Self {
            name: name.to_owned(),
            key: LessSafeKey::new(key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        let with = |rest: &str| {
            format!(
                "{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, {rest}}}"
            )
        };
        let of = |provider: &str| {
            with(&format!(
                "resources: [{{resources: [secrets], providers: [{provider}]}}]"
            ))
        };
        for (text, expect) in [
            (
                "{kind: EncryptionConfiguration}".to_owned(),
                "apiVersion: must be",
            ),
            (with("resources: []"), "resources: must name"),
            (
                with("resources: [{providers: [{identity: {}}]}]"),
                "resources[0].resources: must name",
            ),
            (of(""), "resources[0].providers: must name"),
            (
                of("{secretbox: {}}"),
                "providers[0].secretbox: this server does not",
            ),
            (
                of("{aesgcm: {keys: []}}"),
                "providers[0].aesgcm.keys: must have",
            ),
            (
                of("{identity: {}}, {aesgcm: {keys: [{name: a, secret: MTIz}]}}"),
                "providers[1].aesgcm.keys[0].secret: must be 16 or 32 bytes in base64, is 3",
            ),
            (
                of("{aesgcm: {keys: [{name: 'a:b', secret: MTIz}]}}"),
                "keys[0].name: must be given",
            ),
            ("[".to_owned(), "encryption configuration keys.yaml"),
        ] {
            let error = Encryption::parse(&text, "keys.yaml")
                .unwrap_err()
                .to_string();
            assert!(error.contains(expect), "{text}: {error}");
        }
    }

    #[test]
    fn a_server_makes_its_own_key_once() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encryption.yaml");
        Encryption::own(&path).unwrap();
        let first = std::fs::read(&path).unwrap();
        Encryption::own(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
