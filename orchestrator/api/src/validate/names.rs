//! Which texts are names, label keys and values, and what is said of those that aren't. `None` means good.

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case letters, digits, '-' or '.', and \
                         start and end with a letter or digit (such as 'example.com')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case letters, digits or '-', and start and end \
                     with a letter or digit (such as 'my-name' or '123-abc')";
const DNS_1035: &str = "a DNS-1035 label must consist of lower case letters, digits or '-', start with a letter, and \
                        end with a letter or digit (such as 'my-name' or 'abc-123')";
const QUALIFIED: &str = "name part must consist of letters, digits, '-', '_' or '.', and start and end with a letter or \
                         digit (such as 'MyName' or 'my.name'), after an optional DNS subdomain and '/' (such as \
                         'example.com/MyName')";
const VALUE: &str = "a valid label must be empty or consist of letters, digits, '-', '_' or '.', and start and end with \
                     a letter or digit (such as 'MyValue' or 'my_value')";
const TOO_LONG_63: &str = "must be no more than 63 bytes";
const TOO_LONG_253: &str = "must be no more than 253 bytes";

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn hyphenated(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edges = bytes
        .first()
        .zip(bytes.last())
        .is_some_and(|(&first, &last)| lower(first) && lower(last));
    edges && bytes.iter().all(|&byte| lower(byte) || byte == b'-')
}

/// `a.b-c.d`, up to 253 bytes.
pub(crate) fn subdomain(text: &str) -> Option<&'static str> {
    if text.len() > 253 {
        Some(TOO_LONG_253)
    } else if !text.split('.').all(hyphenated) {
        Some(SUBDOMAIN)
    } else {
        None
    }
}

/// What may stand between two slashes of a path, up to 253 bytes: names of roles.
pub(crate) fn path_segment(text: &str) -> Option<&'static str> {
    if text.len() > 253 {
        Some(TOO_LONG_253)
    } else if matches!(text, "." | "..") || text.contains(['/', '%']) {
        Some("may not be '.' or '..' and may not contain '/' or '%'")
    } else {
        None
    }
}

/// `a-b`, up to 63 bytes.
pub(crate) fn label(text: &str) -> Option<&'static str> {
    if text.len() > 63 {
        Some(TOO_LONG_63)
    } else if !hyphenated(text) {
        Some(LABEL)
    } else {
        None
    }
}

/// `a-b` with a letter first, up to 63 bytes.
pub(crate) fn dns_1035(text: &str) -> Option<&'static str> {
    if text.len() > 63 {
        Some(TOO_LONG_63)
    } else if !hyphenated(text) || text.starts_with(|first: char| first.is_ascii_digit()) {
        Some(DNS_1035)
    } else {
        None
    }
}

fn loose(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: &u8| byte.is_ascii_alphanumeric();
    bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// Key of a label, annotation, finalizer, extended resource: `name` or `example.com/name`.
pub(crate) fn qualified_name(text: &str) -> Option<&'static str> {
    let name = match text.split_once('/') {
        Some((prefix, name)) => {
            if subdomain(prefix).is_some() {
                return Some(QUALIFIED);
            }
            name
        }
        None => text,
    };
    if name.len() > 63 {
        Some("name part must be no more than 63 bytes")
    } else if !loose(name) {
        Some(QUALIFIED)
    } else {
        None
    }
}

/// Value of a label.
pub(crate) fn label_value(text: &str) -> Option<&'static str> {
    if text.len() > 63 {
        Some(TOO_LONG_63)
    } else if !text.is_empty() && !loose(text) {
        Some(VALUE)
    } else {
        None
    }
}

/// Name of a port: up to 15 lower case letters, digits and single hyphens, with a letter.
pub(crate) fn port_name(text: &str) -> Option<&'static str> {
    if text.len() > 15 {
        Some("must be no more than 15 characters")
    } else if !hyphenated(text) || text.contains("--") {
        Some(
            "must contain only lower case letters, digits and single '-', and start and end with a letter or digit",
        )
    } else if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        Some("must contain at least one letter (a-z)")
    } else {
        None
    }
}

/// Name of an environment variable.
pub(crate) fn variable(text: &str) -> Option<&'static str> {
    let good = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ')
        && !text.contains('=');
    (!good).then_some("a valid environment variable name must consist only of printable ASCII characters other than '='")
}

/// Key of a ConfigMap or Secret.
pub(crate) fn data_key(text: &str) -> Option<&'static str> {
    let good = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if text.len() > 253 {
        Some(TOO_LONG_253)
    } else if text.is_empty() || !good {
        Some(
            "a valid config key must consist of letters, digits, '-', '_' or '.' (such as 'key.name' or 'KEY_NAME')",
        )
    } else if text == "." || text == ".." || text.starts_with("..") {
        Some("must not be '.' or start with '..'")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&str) -> Option<&'static str>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(rule(text), None, "{text:?}");
        }
        for text in bad {
            assert!(rule(text).is_some(), "{text:?}");
        }
    }

    #[test]
    fn names_are_kubernetes_names() {
        let (long, longer) = ("a".repeat(64), "a".repeat(254));
        check(
            subdomain,
            &["a", "a.b", "1-2.c"],
            &["", "A", "a..b", "-a", "a_b", &longer],
        );
        check(label, &["a", "1a-b"], &["", "a.b", "a-", &long]);
        check(dns_1035, &["a1"], &["1a", "", "a.b"]);
        check(
            qualified_name,
            &["a", "A_b.c", "example.com/A"],
            &["", "a/b/c", "/a", "a/", "-a", "E.com/a", &long],
        );
        check(label_value, &["", "a", "A_b.c"], &["-a", "a b", &long]);
        check(
            port_name,
            &["http", "a1"],
            &["", "80", "a--b", "Http", "abcdefghijklmnop"],
        );
        check(variable, &["A", "a.b-c", "A B"], &["A=B", "ä"]);
        check(
            data_key,
            &["a.conf", "A_b-c"],
            &["", "..", "..a", "a/b", &longer],
        );
    }
}
