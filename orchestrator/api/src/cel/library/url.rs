//! URLs, read as Go's `ParseRequestURI` reads them: absolute, or a path from the root.

use std::collections::{BTreeMap, HashMap};

use cel::Env;
use cel::common::types::{CelList, CelMap, CelMapKey, CelString, Type};
use cel::common::value::{CowVal, Val};

use super::super::functions::URL;
use super::{Declared, Function, Named, Own, STRING_TYPE, error, own, string, truth, words};

static URL_TYPE: Type = Type::new_unspecified_type(URL);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Url {
    scheme: String,
    /// With the port, if there is one.
    host: String,
    path: String,
    query: String,
}

impl Named for Url {
    fn kind() -> &'static Type {
        &URL_TYPE
    }
}

impl Url {
    fn parse(text: &str) -> Option<Self> {
        let unfit = |one: char| one.is_control() || one == ' ';
        if text.is_empty() || text.contains(unfit) {
            return None;
        }
        let (rest, query) = text.split_once('?').unwrap_or((text, ""));
        let (scheme, rest) = if rest.starts_with('/') {
            ("", rest)
        } else {
            let (scheme, rest) = rest.split_once(':')?;
            let sound = |one: char| one.is_ascii_alphanumeric() || matches!(one, '+' | '-' | '.');
            if !scheme.starts_with(|one: char| one.is_ascii_alphabetic())
                || !scheme.chars().all(sound)
            {
                return None;
            }
            (scheme, rest)
        };
        let (host, path) = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let sound = decoded(path).is_some() && sound_host(host);
        sound.then(|| Self {
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
        })
    }

    /// The host's name, and its port if it has one.
    fn host_and_port(&self) -> (&str, &str) {
        if let Some(inside) = self.host.strip_prefix('[') {
            let (name, rest) = inside.split_once(']').unwrap_or((inside, ""));
            return (name, rest.strip_prefix(':').unwrap_or(""));
        }
        self.host.rsplit_once(':').unwrap_or((&self.host, ""))
    }

    /// Every name with its values, in order.
    fn parameters(&self) -> BTreeMap<String, Vec<String>> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for part in self.query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let plain = |text: &str| decoded(&text.replace('+', " "));
            if let (Some(name), Some(value)) = (plain(name), plain(value)) {
                all.entry(name).or_default().push(value);
            }
        }
        all
    }
}

fn sound_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(inside) => match inside.split_once(']') {
            Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("", rest),
            _ => return false,
        },
        None => host.find(':').map_or((host, ""), |at| host.split_at(at)),
    };
    let digits = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|one| one.bytes().all(|one| one.is_ascii_digit()));
    digits && !name.contains(['<', '>', '"', '\\', '^', '`', '{', '|', '}', '[', ']'])
}

/// Without `%20` and the like; none for one that says no byte.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let value = digit()? * 16 + digit()?;
            out.push(u8::try_from(value).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

pub(super) fn register(env: &mut Env) -> Declared {
    env.add_overload("url", "string_to_url", vec![STRING_TYPE], |arguments| {
        let given = string(&arguments, 0)?;
        let why = || {
            error(format!(
                "URL parse error during conversion from string: {given:?}"
            ))
        };
        Ok(CowVal::owned(Own(Url::parse(given).ok_or_else(why)?)))
    })?;
    env.add_overload("isURL", "is_url", vec![STRING_TYPE], |arguments| {
        truth(Url::parse(string(&arguments, 0)?).is_some())
    })?;
    let parts: [(&str, Function); 6] = [
        ("getScheme", |all| {
            words(own::<Url>(&all, 0)?.scheme.as_str())
        }),
        ("getHost", |all| words(own::<Url>(&all, 0)?.host.as_str())),
        ("getHostname", |all| {
            words(own::<Url>(&all, 0)?.host_and_port().0)
        }),
        ("getPort", |all| {
            words(own::<Url>(&all, 0)?.host_and_port().1)
        }),
        ("getEscapedPath", |all| {
            words(own::<Url>(&all, 0)?.path.as_str())
        }),
        ("getQuery", |all| {
            let parameters = own::<Url>(&all, 0)?.parameters();
            let text = |one: String| -> Box<dyn Val> { Box::new(CelString::from(one)) };
            let entry = |(name, values): (String, Vec<String>)| {
                let values: Vec<_> = values.into_iter().map(text).collect();
                let list: Box<dyn Val> = Box::new(CelList::from(values));
                (CelMapKey::from(name), list)
            };
            let entries: HashMap<_, _> = parameters.into_iter().map(entry).collect();
            Ok(CowVal::owned(CelMap::from(entries)))
        }),
    ];
    for (name, function) in parts {
        env.add_member_overload(name, name, URL_TYPE.to_owned(), vec![], function)?;
    }
    Ok(())
}
