//! Patterns as Kubernetes reads them (RE2, as Go has it), compiled by a library that reads some of them differently:
//! `\d`, `\w`, `\s` and `\b` are about ASCII, brackets hold no sets of sets, and `\Q..\E` is a text.
//!
//! Syntax: <https://github.com/google/re2/wiki/Syntax>.

use std::str::Chars;

use regex::{Regex, RegexBuilder};

/// Largest compiled pattern, in bytes.
const LARGEST: usize = 1 << 20;

/// The pattern, compiled within bounds.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn compile(given: &str) -> Result<Regex, String> {
    let failed = |why: &dyn std::fmt::Display| format!("error parsing regexp {given:?}: {why}");
    let translated = translated(given).map_err(|why| failed(&why))?;
    RegexBuilder::new(&translated)
        .size_limit(LARGEST)
        .build()
        .map_err(|why| failed(&why))
}

fn translated(given: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(given.len() + 16);
    let mut rest = given.chars();
    while let Some(letter) = rest.next() {
        match letter {
            '\\' if rest.as_str().starts_with('Q') => quoted(&mut rest, &mut out),
            '\\' => escape(&mut rest, false, &mut out),
            '[' => class(&mut rest, &mut out),
            '{' if !is_repeat(rest.as_str()) => out.push_str("\\{"),
            '(' => {
                if has_other_flags(rest.as_str()) {
                    return Err("invalid or unsupported Perl syntax");
                }
                out.push('(');
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

/// What stands between `\Q` and `\E`, or the end.
fn quoted(rest: &mut Chars<'_>, out: &mut String) {
    let text = rest.as_str().get(1..).unwrap_or_default();
    let (text, after) = text.split_once("\\E").unwrap_or((text, ""));
    out.push_str(&regex::escape(text));
    *rest = after.chars();
}

/// What follows a backslash.
fn escape(rest: &mut Chars<'_>, in_class: bool, out: &mut String) {
    let Some(letter) = rest.next() else {
        out.push('\\');
        return;
    };
    let items = match letter.to_ascii_lowercase() {
        'd' => "0-9",
        'w' => "0-9A-Za-z_",
        's' => "\\t\\n\\f\\r ",
        _ => "",
    };
    match letter {
        'd' | 'w' | 's' if in_class => out.push_str(items),
        'd' | 'w' | 's' => out.extend(["[", items, "]"]),
        'D' | 'W' | 'S' => out.extend(["[^", items, "]"]),
        'b' if !in_class => out.push_str("(?-u:\\b)"),
        'B' if !in_class => out.push_str("(?-u:\\B)"),
        other => {
            out.extend(['\\', other]);
            // `\p{Greek}`, `\x{10FFFF}`.
            if matches!(other, 'p' | 'P' | 'x')
                && let Some(end) = rest
                    .as_str()
                    .find('}')
                    .filter(|_| rest.as_str().starts_with('{'))
            {
                let (name, after) = rest.as_str().split_at(end + 1);
                out.push_str(name);
                *rest = after.chars();
            }
        }
    }
}

/// What follows an opening bracket, up to the one that closes it.
fn class(rest: &mut Chars<'_>, out: &mut String) {
    out.push('[');
    if rest.as_str().starts_with('^') {
        rest.next();
        out.push('^');
    }
    let mut first = true;
    let mut after_dash = false;
    while let Some(letter) = rest.next() {
        let dash = letter == '-' && !first && !after_dash;
        match letter {
            ']' if !first => {
                out.push(']');
                return;
            }
            '\\' => escape(rest, true, out),
            '[' if rest.as_str().starts_with(':') => named(rest, out),
            '-' if dash => out.push('-'),
            // They would mean sets of sets.
            '[' | ']' | '-' | '&' | '~' => out.extend(['\\', letter]),
            other => out.push(other),
        }
        (first, after_dash) = (false, dash);
    }
}

/// `[:alpha:]`, or a bracket that means itself.
fn named(rest: &mut Chars<'_>, out: &mut String) {
    let text = rest.as_str();
    match text.find(":]") {
        Some(end) if end > 0 => {
            let (name, after) = text.split_at(end + 2);
            out.extend(["[", name]);
            *rest = after.chars();
        }
        _ => out.push_str("\\["),
    }
}

/// Whether `{` begins a count: `3}`, `3,}`, `3,5}`.
fn is_repeat(rest: &str) -> bool {
    let Some((counts, _)) = rest.split_once('}') else {
        return false;
    };
    let (least, most) = counts.split_once(',').unwrap_or((counts, ""));
    let digits = |text: &str| text.bytes().all(|letter| letter.is_ascii_digit());
    !least.is_empty() && digits(least) && digits(most)
}

/// Whether `(` begins a group with flags that only the library knows.
fn has_other_flags(rest: &str) -> bool {
    let Some(flags) = rest.strip_prefix('?') else {
        return false;
    };
    let flags = flags.split([':', ')', '<', '=', '!']).next();
    flags.is_some_and(|flags| flags.contains(['x', 'u', 'R']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, text: &str, expect: bool) {
        let compiled = compile(pattern).unwrap_or_else(|why| panic!("{pattern}: {why}"));
        assert_eq!(compiled.is_match(text), expect, "{pattern} {text:?}");
    }

    #[test]
    fn classes_of_letters_are_ascii() {
        // Arabic-Indic and ASCII digits, a letter with an accent, a wide space.
        for (pattern, yes, no) in [
            (r"^\d$", "7", "\u{667}"),
            (r"^\D$", "\u{667}", "7"),
            (r"^\w$", "_", "é"),
            (r"^\W$", "é", "a"),
            (r"^\s$", "\t", "\u{2003}"),
            (r"^\S$", "\u{2003}", " "),
            (r"^[\d-]$", "-", "\u{667}"),
            (r"^[^\w]$", "é", "a"),
            (r"^[\Da]$", "a", "1"),
            (r"a\b", "aé", "ab"),
            (r"a\B", "ab", "aé"),
            (r"^.$", "é", "ab"),
            (r"^\p{L}$", "é", "1"),
        ] {
            check(pattern, yes, true);
            check(pattern, no, false);
        }
    }

    #[test]
    fn what_go_reads_otherwise_is_read_as_go_does() {
        for (pattern, yes, no) in [
            (r"^[[a]$", "[", "b"),
            (r"^[a&&b]$", "&", "c"),
            (r"^[a~~b]$", "~", "c"),
            (r"^[+--]$", ",", "a"),
            (r"^[--/]$", ".", "a"),
            (r"^[]a]$", "]", "b"),
            (r"^[^]a]$", "b", "]"),
            (r"^[a-]$", "-", "b"),
            (r"^[[:alpha:]_]$", "a", ":"),
            (r"^[[:^alpha:]]$", "1", "a"),
            (r"^\Qa.b\E$", "a.b", "axb"),
            (r"^\Qa\.b$", "a\\.b$", "a.b"),
            (r"^[\p{L}\x{37}]$", "7", "{"),
            (r"^a{2}$", "aa", "a"),
            (r"^a{b}$", "a{b}", "ab"),
            (r"^a{,2}$", "a{,2}", "aa"),
            (r"(?i)^AB$", "ab", "ac"),
            (r"^(?P<x>a)$", "a", "x"),
            (r"^(?:a|b)$", "b", "c"),
        ] {
            check(pattern, yes, true);
            check(pattern, no, false);
        }
        for broken in ["(", "[a", "(?x)a", "(?u:a)", "(?=a)", "\\", "[b-a]"] {
            assert!(compile(broken).is_err(), "{broken}");
        }
        assert!(compile("(((a{100}){100}){100}){100}").is_err());
    }
}
