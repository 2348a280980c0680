//! Objects encrypted at rest, as Kubernetes' EncryptionConfiguration says: which kinds, by which keys. The first provider
//! of a kind writes, all of them read. What is written looks as Kubernetes' own: `k8s:enc:aesgcm:v1:<key>:`, a nonce of 96
//! bits and AES-GCM's output, bound to the object's place in the store.
//!
//! Semantics: <https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/>. How the store is kept so is `store`'s.

mod configuration;
mod store;

use std::fmt;

use bytes::Bytes;
use rand::RngCore as _;
use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};

pub use configuration::EncryptionError;
pub(crate) use store::{Sealed, rewrite};

const PREFIX: &[u8] = b"k8s:enc:";
const AES_GCM: &str = "aesgcm:v1:";
/// Keys of the cluster itself, in its store beside the objects; kept as Secrets are.
const CLUSTER_KEYS: &str = "/keys/";

/// Which kinds are encrypted, and by which keys. The default encrypts nothing.
#[derive(Debug, Default)]
pub struct Encryption {
    rules: Vec<Rule>,
    /// Where the keys are said, for people.
    source: String,
}

#[derive(Debug)]
struct Rule {
    /// `secrets`, `deployments.apps`, `*.apps`, `*.` (core) or `*.*`.
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Debug)]
enum Provider {
    Identity,
    AesGcm(Vec<Key>),
}

struct Key {
    name: String,
    key: LessSafeKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Encryption {
    /// A value as it is stored at `key`.
    fn seal(&self, key: &str, value: Bytes) -> Result<Bytes, String> {
        match self.writer(key) {
            Some(writer) => writer.seal(key, &value),
            None => Ok(value),
        }
    }

    /// A value as it was before it was stored at `key`.
    fn open(&self, key: &str, stored: Bytes) -> Result<Bytes, String> {
        let Some(sealed) = stored.strip_prefix(PREFIX) else {
            return Ok(stored);
        };
        let (name, sealed) = named(sealed)
            .ok_or("it is encrypted in a way that this server doesn't know (it knows aesgcm:v1)")?;
        // Whatever kind a key is meant for now: what was written by it can be read by it.
        let providers = self.rules.iter().flat_map(|rule| &rule.providers);
        let keys = providers.flat_map(Provider::keys);
        let mut fitting = keys.filter(|one| one.name == name).peekable();
        if fitting.peek().is_none() {
            let source = match self.source.as_str() {
                "" => "this server is given none: start it with --encryption-provider-config",
                source => source,
            };
            return Err(format!(
                "it is encrypted by key {name:?} (aesgcm), and {source}{}",
                if self.source.is_empty() {
                    ""
                } else {
                    " has no such key: add it"
                }
            ));
        }
        fitting
            .find_map(|one| one.open(key, sealed))
            .map(Bytes::from)
            .ok_or_else(|| {
                format!(
                    "it is encrypted by a key {name:?} (aesgcm) that differs from the one of this name in {}, or it is \
                     damaged: give the key that it was written by",
                    self.source
                )
            })
    }

    /// Whether a value that is stored so at `key` would be stored otherwise today.
    fn is_stale(&self, key: &str, stored: &[u8]) -> bool {
        let written = stored
            .strip_prefix(PREFIX)
            .and_then(|sealed| Some(named(sealed)?.0));
        written != self.writer(key).map(|key| key.name.as_str())
    }

    /// The key by which values at `key` are written.
    fn writer(&self, key: &str) -> Option<&Key> {
        let (group, plural) = resource_of(key)?;
        let rule = self.rules.iter().find(|rule| rule.takes(group, plural))?;
        rule.providers.first()?.keys().first()
    }
}

impl Rule {
    fn takes(&self, group: &str, plural: &str) -> bool {
        self.resources.iter().any(|wanted| {
            let (name, of) = wanted.split_once('.').unwrap_or((wanted, ""));
            (name == "*" || name == plural) && (of == "*" || of == group)
        })
    }
}

impl Provider {
    fn keys(&self) -> &[Key] {
        match self {
            Self::Identity => &[],
            Self::AesGcm(keys) => keys,
        }
    }
}

impl Key {
    fn seal(&self, place: &str, value: &[u8]) -> Result<Bytes, String> {
        let mut nonce = [0; NONCE_LEN];
        rand::rng().fill_bytes(&mut nonce);
        let mut sealed = value.to_vec();
        let sealing = self.key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(place.as_bytes()),
            &mut sealed,
        );
        sealing.map_err(|_| "it is too large to be encrypted".to_owned())?;
        let head = [PREFIX, AES_GCM.as_bytes(), self.name.as_bytes(), b":"];
        Ok([&head.concat(), &nonce[..], &sealed].concat().into())
    }

    fn open(&self, place: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self
            .key
            .open_in_place(nonce, Aad::from(place.as_bytes()), &mut plain);
        let length = opened.ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

/// The key's name and what follows it.
fn named(sealed: &[u8]) -> Option<(&str, &[u8])> {
    let rest = sealed.strip_prefix(AES_GCM.as_bytes())?;
    let end = rest.iter().position(|byte| *byte == b':')?;
    Some((std::str::from_utf8(&rest[..end]).ok()?, &rest[end + 1..]))
}

/// Group and plural of what is stored at a key.
fn resource_of(key: &str) -> Option<(&str, &str)> {
    if key.starts_with(CLUSTER_KEYS) {
        return Some(("", "secrets"));
    }
    let mut parts = key.strip_prefix("/registry/")?.split('/');
    let (group, plural) = (parts.next()?, parts.next()?);
    Some((if group == "core" { "" } else { group }, plural))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "/registry/core/secrets/shop/card";

    fn configured(providers: &str) -> Encryption {
        let text = format!(
            "{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: \
             [{{resources: [secrets, '*.apps'], providers: [{providers}]}}]}}"
        );
        Encryption::parse(&text, "keys.yaml").unwrap()
    }

    const ONE: &str =
        "{aesgcm: {keys: [{name: one, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}}";
    const TWO: &str = "{aesgcm: {keys: [{name: two, secret: ZmVkY2JhOTg3NjU0MzIxMA==}]}}";
    const IDENTITY: &str = "{identity: {}}";

    #[test]
    fn what_is_sealed_opens_at_its_own_place_by_its_own_key() {
        let one = configured(&format!("{ONE}, {IDENTITY}"));
        let plain = Bytes::from_static(b"{\"data\":{\"pin\":\"MTIzNA==\"}}");
        let sealed = one.seal(SECRET, plain.clone()).unwrap();
        assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:one:"));
        assert!(!sealed.windows(6).any(|part| part == b"MTIzNA"));
        assert_ne!(sealed, one.seal(SECRET, plain.clone()).unwrap());
        assert_eq!(one.open(SECRET, sealed.clone()).unwrap(), plain);
        let elsewhere = one.open("/registry/core/secrets/shop/other", sealed.clone());
        assert!(elsewhere.unwrap_err().contains("damaged"));
        let both = configured(&format!("{TWO}, {ONE}"));
        assert_eq!(both.open(SECRET, sealed.clone()).unwrap(), plain);
        assert!(both.is_stale(SECRET, &sealed) && !one.is_stale(SECRET, &sealed));
        let error = configured(TWO).open(SECRET, sealed.clone()).unwrap_err();
        assert!(
            error.contains("\"one\"") && error.contains("keys.yaml"),
            "{error}"
        );
        let error = Encryption::default().open(SECRET, sealed).unwrap_err();
        assert!(error.contains("--encryption-provider-config"), "{error}");
        let same = TWO.replace("two", "one");
        let sealed = one.seal(SECRET, plain).unwrap();
        let error = configured(&same).open(SECRET, sealed).unwrap_err();
        assert!(error.contains("differs"), "{error}");
    }

    #[test]
    fn only_what_is_named_is_sealed() {
        let encryption = configured(&format!("{ONE}, {IDENTITY}"));
        let plain = Bytes::from_static(b"x");
        for (key, expect) in [
            (SECRET, true),
            ("/keys/ca.key", true),
            ("/registry/apps/deployments/shop/web", true),
            ("/registry/core/configmaps/shop/web", false),
            ("/registry/example.com/secrets/shop/x", false),
            ("/unfinished-restore", false),
        ] {
            let sealed = encryption.seal(key, plain.clone()).unwrap();
            assert_eq!(sealed != plain, expect, "{key}");
        }
        let identity = configured(&format!("{IDENTITY}, {ONE}"));
        assert_eq!(identity.seal(SECRET, plain.clone()).unwrap(), plain);
        let sealed = encryption.seal(SECRET, plain).unwrap();
        assert!(identity.is_stale(SECRET, &sealed));
    }
}
