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

/// The form in the Accept header that can be given and is wanted most; of equal ones the first.
///
/// # Errors
/// 406 when there is none, protobuf only for example.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, Status> {
    let ranges = ranges(headers);
    if ranges.is_empty() {
        return Ok(Form::Plain);
    }
    ranges
        .iter()
        .find_map(Range::form)
        .ok_or_else(|| Status::not_acceptable(&["application/json"]))
}

/// A media range of an Accept header.
struct Range<'a> {
    /// `application/json`, `*/*`.
    name: &'a str,
    /// Parameters, but `q`.
    parameters: Vec<(&'a str, &'a str)>,
    /// How much it is wanted, 0 to 1.
    quality: f32,
}

/// The ranges of all Accept headers, those that are wanted most first; among those a type comes before any type, and any
/// type of a sort before any at all.
fn ranges(headers: &HeaderMap) -> Vec<Range<'_>> {
    let values = headers.get_all(ACCEPT).iter();
    let parts = values.flat_map(|value| value.to_str().unwrap_or_default().split(','));
    let mut ranges: Vec<Range<'_>> = parts.map(Range::read).collect();
    ranges.sort_by(|one, other| {
        let broad = |range: &Range<'_>| match range.name {
            "" | "*" | "*/*" => 2,
            name if name.ends_with("/*") => 1,
            _ => 0,
        };
        let by_quality = other.quality.total_cmp(&one.quality);
        by_quality.then_with(|| broad(one).cmp(&broad(other)))
    });
    ranges
}

impl<'a> Range<'a> {
    fn read(text: &'a str) -> Self {
        let mut words = text.split(';').map(str::trim);
        let name = words.next().unwrap_or_default();
        let pairs = words.filter_map(|word| word.split_once('='));
        let pairs = pairs.map(|(key, value)| (key.trim(), value.trim()));
        let (qualities, parameters): (Vec<_>, Vec<_>) = pairs.partition(|(key, _)| *key == "q");
        let given = qualities.first().map(|(_, text)| text.parse());
        Self {
            name,
            parameters,
            quality: match given {
                None => 1.0,
                Some(Ok(quality)) if (0.0..=1.0).contains(&quality) => quality,
                // What can't be read, or means nothing, is not wanted much.
                Some(_) => 0.0,
            },
        }
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        let found = self.parameters.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| *value)
    }

    fn form(&self) -> Option<Form> {
        if !matches!(
            self.name,
            "application/json" | "*/*" | "*" | "application/*" | ""
        ) {
            return None;
        }
        let part = |name| self.parameter(name);
        match (part("as"), part("g"), part("v")) {
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

    /// Of discovery.
    fn aggregated(&self) -> Option<Aggregated> {
        if self.parameter("g") != Some("apidiscovery.k8s.io") {
            return None;
        }
        match self.parameter("v") {
            Some("v2") => Some(Aggregated::V2),
            Some("v2beta1") => Some(Aggregated::V2Beta1),
            _ => None,
        }
    }
}

/// The aggregated form of discovery that is wanted, unless the plain one is wanted more.
pub(super) fn aggregated(headers: &HeaderMap) -> Option<Aggregated> {
    for range in ranges(headers) {
        match range.aggregated() {
            None if range.form() == Some(Form::Plain) => return None,
            None => {}
            form => return form,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_that_is_wanted_most_wins() {
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
            (
                "application/json;q=0.1, application/json;as=Table;g=meta.k8s.io;v=v1;q=0.9",
                Some(Form::Table),
            ),
            (
                "application/json;as=Table;g=meta.k8s.io;v=v1;q=0.5,application/vnd.kubernetes.protobuf,*/*;q=0.8",
                Some(Form::Plain),
            ),
            (
                "*/*,application/json;as=Table;g=meta.k8s.io;v=v1",
                Some(Form::Table),
            ),
            (
                "text/html, image/gif, *; q=.2, */*; q=.2",
                Some(Form::Plain),
            ),
            ("application/json;q=often", Some(Form::Plain)),
            ("a**", None),
            ("application/**", None),
            ("text/*", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            assert_eq!(form(&headers).ok(), expect, "{accept}");
        }
        assert_eq!(form(&HeaderMap::new()).unwrap(), Form::Plain);
    }

    #[test]
    fn discovery_is_aggregated_when_that_is_wanted_most() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        for (accept, expect) in [
            (format!("{v2},application/json;q=0.9"), true),
            (format!("application/json;q=0.9,{v2}"), true),
            (format!("application/json,{v2};q=0.5"), false),
            ("application/json".to_owned(), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            let aggregated = aggregated(&headers);
            assert_eq!(aggregated == Some(Aggregated::V2), expect, "{accept}");
        }
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
