//! A certificate's subject as it is encoded (X.501 names in DER): the library that makes certificates can't say one
//! attribute several times, as a client in several groups has to.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, SigningKey as _};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::Subject;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const BIT_STRING: u8 = 0x03;
/// 2.5.4.3.
const COMMON_NAME: [u8; 3] = [0x55, 4, 3];
/// 2.5.4.10.
const ORGANIZATION: [u8; 3] = [0x55, 4, 10];

/// The certificate with this subject in place of its own, signed anew by `key`, which signed it before.
///
/// # Errors
/// One sentence for what is no certificate.
pub(super) fn with_subject(
    certificate: &[u8],
    subject: &Subject,
    key: &KeyPair,
) -> Result<Vec<u8>, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let cut = || "the certificate can't be read".to_owned();
    let signed = content(certificate).ok_or_else(cut)?;
    let (to_be_signed, rest) = first(signed).ok_or_else(cut)?;
    let (algorithm, _) = first(rest).ok_or_else(cut)?;
    let inner = content(to_be_signed).ok_or_else(cut)?;
    // Both are parts of `certificate`.
    let old = parsed.subject().as_raw();
    let begin = (old.as_ptr() as usize).checked_sub(inner.as_ptr() as usize);
    let begin = begin.ok_or_else(cut)?;
    let before = inner.get(..begin).ok_or_else(cut)?;
    let after = inner.get(begin + old.len()..).ok_or_else(cut)?;
    let made = [before, &name(subject), after].concat();
    let to_be_signed = value(SEQUENCE, &made);
    let signature = key.sign(&to_be_signed).map_err(|error| error.to_string())?;
    let signature = value(BIT_STRING, &[&[0], signature.as_slice()].concat());
    Ok(value(
        SEQUENCE,
        &[to_be_signed.as_slice(), algorithm, &signature].concat(),
    ))
}

/// In PEM.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn name(subject: &Subject) -> Vec<u8> {
    let groups = subject.groups.iter();
    let groups = groups.flat_map(|group| attribute(ORGANIZATION, group));
    let all = groups.chain(attribute(COMMON_NAME, &subject.name));
    value(SEQUENCE, &all.collect::<Vec<u8>>())
}

fn attribute(kind: [u8; 3], text: &str) -> Vec<u8> {
    let pair = [
        value(OBJECT_IDENTIFIER, &kind),
        value(UTF8_STRING, text.as_bytes()),
    ];
    value(SET, &value(SEQUENCE, &pair.concat()))
}

fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(length) if length < 0x80 => out.push(length),
        _ => {
            let length = content.len().to_be_bytes();
            let zeros = length.iter().take_while(|byte| **byte == 0).count();
            let length = &length[zeros..];
            // At most eight bytes.
            out.push(0x80 | u8::try_from(length.len()).unwrap_or(0));
            out.extend(length);
        }
    }
    out.extend(content);
    out
}

/// The first value, as a whole, and what follows it.
fn first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, length) = extent(bytes)?;
    bytes.split_at_checked(header.checked_add(length)?)
}

/// What is in the first value.
fn content(bytes: &[u8]) -> Option<&[u8]> {
    let (header, length) = extent(bytes)?;
    bytes.get(header..header.checked_add(length)?)
}

/// Lengths of the first value's header and content.
fn extent(bytes: &[u8]) -> Option<(usize, usize)> {
    let length = *bytes.get(1)?;
    if length < 0x80 {
        return Some((2, length.into()));
    }
    let count = usize::from(length & 0x7f);
    let bytes = bytes.get(2..2 + count).filter(|_| count <= 4)?;
    let length = bytes
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte));
    Some((2 + count, length))
}
