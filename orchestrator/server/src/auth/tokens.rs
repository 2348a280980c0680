//! Tokens of ServiceAccounts: JSON web tokens (RFC 7519) signed with the cluster's own key (ES256), valid for a time,
//! for an audience, and for as long as the account and the pod that they are bound to are there.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use waggle_api::access::User;
use waggle_api::{Status, find};

use crate::objects::Objects;

/// Who issues the tokens, and the audience that the API itself is.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Signs tokens and knows its own.
pub struct Tokens {
    key: EcdsaKeyPair,
    key_id: String,
    random: SystemRandom,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// An object by name and uid.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
}

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct TokenGrant {
    /// The account's namespace.
    pub namespace: String,
    /// The account.
    pub account: Bound,
    /// The pod that it is for, if it is for one.
    pub pod: Option<Bound>,
    /// Who is to take it; the API when empty.
    pub audiences: Vec<String>,
    /// For how long, from `now`.
    pub seconds: i64,
    /// Now.
    pub now: Timestamp,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Audiences.
    pub aud: Vec<String>,
    /// Until when, seconds since the epoch.
    pub exp: i64,
    /// Since when it exists.
    pub iat: i64,
    /// Issuer.
    pub iss: String,
    /// Its own id.
    pub jti: String,
    /// Objects that it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub objects: BoundObjects,
    /// Since when it is valid.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

/// Objects that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundObjects {
    /// Of all of them.
    pub namespace: String,
    /// The account.
    pub serviceaccount: Bound,
    /// The pod, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Bound>,
}

impl Tokens {
    /// Signs with a P-256 key (PKCS#8, DER).
    ///
    /// # Errors
    /// Why the key can't be used.
    pub fn new(key: &[u8]) -> Result<Self, String> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key, &random)
            .map_err(|error| error.to_string())?;
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.public_key().as_ref()));
        Ok(Self {
            key,
            key_id,
            random,
        })
    }

    /// A token.
    ///
    /// # Errors
    /// 500 when it can't be signed.
    pub fn issue(&self, grant: &TokenGrant) -> Result<String, Status> {
        let start = grant.now.as_second();
        let audiences = if grant.audiences.is_empty() {
            vec![ISSUER.to_owned()]
        } else {
            grant.audiences.clone()
        };
        let user = User::service_account(&grant.namespace, &grant.account.name, "");
        let claims = Claims {
            aud: audiences,
            exp: start.saturating_add(grant.seconds),
            iat: start,
            iss: ISSUER.to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            objects: BoundObjects {
                namespace: grant.namespace.clone(),
                serviceaccount: grant.account.clone(),
                pod: grant.pod.clone(),
            },
            nbf: start,
            sub: user.name,
        };
        let head = json!({"alg": "ES256", "kid": self.key_id}).to_string();
        let body = serde_json::to_string(&claims).map_err(Status::internal)?;
        let text = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(head),
            URL_SAFE_NO_PAD.encode(body)
        );
        let signature = self
            .key
            .sign(&self.random, text.as_bytes())
            .map_err(|_| Status::internal("the token can't be signed"))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// What a token says, if this cluster signed it, it is valid now, and it is for one of `audiences`.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn verify(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Claims, String> {
        let wrong = || "the bearer token is wrong".to_owned();
        let (text, signature) = token.rsplit_once('.').ok_or_else(wrong)?;
        let (head, body) = text.split_once('.').ok_or_else(wrong)?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong());
        let head: serde_json::Value =
            serde_json::from_slice(&decode(head)?).map_err(|_| wrong())?;
        if head["alg"] != "ES256" {
            return Err(wrong());
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(text.as_bytes(), &decode(signature)?)
            .map_err(|_| wrong())?;
        let claims: Claims = serde_json::from_slice(&decode(body)?).map_err(|_| wrong())?;
        let now = now.as_second();
        if now >= claims.exp {
            return Err("the bearer token has expired".to_owned());
        }
        if now < claims.nbf || claims.iss != ISSUER {
            return Err(wrong());
        }
        if !claims.aud.iter().any(|one| audiences.contains(one)) {
            return Err(format!(
                "the bearer token is for {:?}, not for {audiences:?}",
                claims.aud
            ));
        }
        Ok(claims)
    }
}

/// Whose token it is, if the account and the pod are still those that it was made for.
///
/// # Errors
/// What is gone.
pub fn account_of(objects: &Objects, claims: &Claims) -> Result<User, String> {
    let bound = &claims.objects;
    let there = |plural: &str, one: &Bound| {
        let kind = find("", "v1", plural);
        let found = kind.and_then(|kind| objects.get(kind, &bound.namespace, &one.name));
        found.is_some_and(|found| found.uid == one.uid)
    };
    if !there("serviceaccounts", &bound.serviceaccount) {
        return Err("the ServiceAccount of the bearer token is gone".to_owned());
    }
    let mut user = User::service_account(
        &bound.namespace,
        &bound.serviceaccount.name,
        &bound.serviceaccount.uid,
    );
    if let Some(pod) = &bound.pod {
        if !there("pods", pod) {
            return Err("the pod of the bearer token is gone".to_owned());
        }
        for (key, value) in [("pod-name", &pod.name), ("pod-uid", &pod.uid)] {
            user.extra.push((
                format!("authentication.kubernetes.io/{key}"),
                vec![value.clone()],
            ));
        }
    }
    user.extra.push((
        "authentication.kubernetes.io/credential-id".to_owned(),
        vec![format!("JTI={}", claims.jti)],
    ));
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        let key = rcgen::KeyPair::generate().unwrap();
        Tokens::new(&key.serialize_der()).unwrap()
    }

    fn grant(audiences: &[&str]) -> TokenGrant {
        TokenGrant {
            namespace: "shop".into(),
            account: Bound {
                name: "web".into(),
                uid: "u-1".into(),
            },
            pod: None,
            audiences: audiences.iter().map(|&one| one.into()).collect(),
            seconds: 600,
            now: Timestamp::from_second(1_000).unwrap(),
        }
    }

    #[test]
    fn a_token_is_known_while_it_is_valid_and_where_it_is_meant() {
        let tokens = tokens();
        let (api, vault) = ([ISSUER.to_owned()], ["vault".to_owned()]);
        let at = |second| Timestamp::from_second(second).unwrap();
        let token = tokens.issue(&grant(&[])).unwrap();
        let claims = tokens.verify(&token, &api, at(1_599)).unwrap();
        assert_eq!(claims.sub, "system:serviceaccount:shop:web");
        assert!(
            tokens
                .verify(&token, &api, at(1_600))
                .unwrap_err()
                .contains("expired")
        );
        assert!(tokens.verify(&token, &api, at(999)).is_err());
        assert!(tokens.verify(&token, &vault, at(1_000)).is_err());
        let other = tokens.issue(&grant(&["vault"])).unwrap();
        assert!(tokens.verify(&other, &vault, at(1_000)).is_ok());
        assert!(tokens.verify(&other, &api, at(1_000)).is_err());
    }

    #[test]
    fn what_somebody_else_signed_or_changed_is_refused() {
        let (ours, theirs) = (tokens(), tokens());
        let api = [ISSUER.to_owned()];
        let now = Timestamp::from_second(1_000).unwrap();
        let token = theirs.issue(&grant(&[])).unwrap();
        assert!(ours.verify(&token, &api, now).is_err());
        let token = ours.issue(&grant(&[])).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let body = URL_SAFE_NO_PAD.encode(
            String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap())
                .unwrap()
                .replace("web", "root"),
        );
        for broken in [
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{none}.{}.", parts[1]),
            format!("{}.{body}.{}", parts[0], parts[2]),
            "a.b.c".to_owned(),
            "..".to_owned(),
        ] {
            assert!(ours.verify(&broken, &api, now).is_err(), "{broken}");
        }
    }
}
