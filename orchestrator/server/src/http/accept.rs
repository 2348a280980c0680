//! In which form an answer is wanted: the objects themselves, a Table, or their metadata only.

use http::HeaderMap;
use http::header::ACCEPT;
use waggle_api::Status;
use waggle_api::discovery::Aggregated;

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Objects.
    Plain,
    /// meta.k8s.io Table.
    Table,
    /// PartialObjectMetadata.
    Metadata,
}

/// The first form in the Accept header that can be given.
///
/// # Errors
/// 406 when there is none, protobuf only for example.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, Status> {
    let mut any = false;
    for header in headers.get_all(ACCEPT) {
        for part in header.to_str().unwrap_or_default().split(',') {
            any = true;
            if let Some(form) = form_of(part) {
                return Ok(form);
            }
        }
    }
    if any {
        Err(Status::not_acceptable(&["application/json"]))
    } else {
        Ok(Form::Plain)
    }
}

fn form_of(part: &str) -> Option<Form> {
    let mut words = part.split(';').map(str::trim);
    if !matches!(
        words.next()?,
        "application/json" | "*/*" | "application/*" | ""
    ) {
        return None;
    }
    let parameters: Vec<(&str, &str)> = words.filter_map(|word| word.split_once('=')).collect();
    let of = |name: &str| {
        parameters
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| *value)
    };
    match (of("as"), of("g"), of("v")) {
        (None, ..) => Some(Form::Plain),
        (Some("Table"), Some("meta.k8s.io"), Some("v1" | "v1beta1")) => Some(Form::Table),
        (
            Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
            Some("meta.k8s.io"),
            Some("v1" | "v1beta1"),
        ) => Some(Form::Metadata),
        _ => None,
    }
}

/// The aggregated form of discovery that is wanted, if any.
pub(super) fn aggregated(headers: &HeaderMap) -> Option<Aggregated> {
    let values = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).find_map(|part| {
        let words: Vec<&str> = part.split(';').map(str::trim).collect();
        if !words.contains(&"g=apidiscovery.k8s.io") {
            return None;
        }
        words.iter().find_map(|word| match *word {
            "v=v2" => Some(Aggregated::V2),
            "v=v2beta1" => Some(Aggregated::V2Beta1),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_can_be_given_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;\
                       g=meta.k8s.io,application/json";
        for (accept, expect) in [
            (kubectl, Some(Form::Table)),
            ("application/json", Some(Form::Plain)),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Some(Form::Plain),
            ),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some(Form::Metadata),
            ),
            (
                "application/json;as=Table;g=other;v=v1, */*",
                Some(Form::Plain),
            ),
            ("application/vnd.kubernetes.protobuf", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            assert_eq!(form(&headers).ok(), expect, "{accept}");
        }
        assert_eq!(form(&HeaderMap::new()).unwrap(), Form::Plain);
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_answered(parts in proptest::collection::vec(0..PARTS.len(), 0..12), bytes in proptest::collection::vec(32u8..127, 0..60)) {
            let words: Vec<&str> = parts.iter().map(|part| PARTS[*part]).collect();
            for value in [words.concat().into_bytes(), bytes, words.join(",").repeat(500).into_bytes()] {
                let mut headers = HeaderMap::new();
                headers.insert(ACCEPT, http::HeaderValue::from_bytes(&value).unwrap());
                let _ = form(&headers);
                let _ = aggregated(&headers);
            }
        }
    }

    const PARTS: [&str; 14] = [
        "application/json",
        "*/*",
        ";",
        ",",
        " ",
        "as=Table",
        "as=PartialObjectMetadata",
        "g=meta.k8s.io",
        "v=v1",
        "=",
        "q=0.9",
        "v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList",
        "\t",
        "application/vnd.kubernetes.protobuf",
    ];
}
