//! Query parameters that the API understands.

use http::Uri;
use waggle_api::{FieldValidation, Propagation, Status};

/// What a request's query says.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) label_selector: String,
    pub(super) field_selector: String,
    /// 0 for all.
    pub(super) limit: usize,
    pub(super) continue_token: String,
    /// As given; empty and `0` have meanings of their own.
    pub(super) resource_version: String,
    pub(super) resource_version_match: String,
    pub(super) watch: bool,
    pub(super) bookmarks: bool,
    pub(super) send_initial_events: Option<bool>,
    pub(super) timeout_seconds: Option<u64>,
    pub(super) field_validation: FieldValidation,
    pub(super) dry_run: bool,
    pub(super) include_object: String,
    pub(super) grace_period_seconds: Option<i64>,
    pub(super) propagation_policy: Option<Propagation>,
    pub(super) orphan_dependents: Option<bool>,
    /// Empty when the request names none.
    pub(super) field_manager: String,
    pub(super) force: bool,
}

impl Query {
    /// # Errors
    /// 400 naming the parameter that can't be read.
    pub(super) fn parse(uri: &Uri) -> Result<Self, Status> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| Status::bad_request(format!("the query can't be read: {error}")))?;
        let mut query = Self::default();
        for (name, value) in pairs.0 {
            query.take(&name, value)?;
        }
        Ok(query)
    }

    /// Asks for what is there now, wherever it was written.
    pub(super) fn is_newest(&self) -> bool {
        self.resource_version.is_empty() && self.continue_token.is_empty()
    }

    /// A watch that first tells what there is.
    pub(super) fn begins_with_all(&self) -> bool {
        let nowhere = matches!(self.resource_version.as_str(), "" | "0");
        self.send_initial_events.unwrap_or(nowhere)
    }

    /// No selector leaves objects out.
    pub(super) fn selects_all(&self) -> bool {
        self.label_selector.is_empty() && self.field_selector.is_empty()
    }

    fn take(&mut self, name: &str, value: String) -> Result<(), Status> {
        match name {
            "labelSelector" => self.label_selector = value,
            "fieldSelector" => self.field_selector = value,
            "limit" if !value.is_empty() => {
                self.limit = number::<i64>(name, &value)?.try_into().unwrap_or(0)
            }
            "continue" => self.continue_token = value,
            "resourceVersion" => self.resource_version = value,
            "resourceVersionMatch" => self.resource_version_match = value,
            "watch" => self.watch = flag(&value),
            "allowWatchBookmarks" => self.bookmarks = flag(&value),
            "sendInitialEvents" => self.send_initial_events = Some(flag(&value)),
            "timeoutSeconds" if !value.is_empty() => {
                self.timeout_seconds = Some(number(name, &value)?)
            }
            "fieldValidation" => self.field_validation = value.parse()?,
            "dryRun" => self.dry_run = dry_run(&value)?,
            "includeObject" => self.include_object = value,
            "gracePeriodSeconds" if !value.is_empty() => {
                self.grace_period_seconds = Some(number(name, &value)?)
            }
            "propagationPolicy" if !value.is_empty() => {
                self.propagation_policy = Some(propagation(&value)?)
            }
            "fieldManager" => self.field_manager = field_manager(value)?,
            "force" => self.force = flag(&value),
            "orphanDependents" => self.orphan_dependents = Some(flag(&value)),
            _ => {}
        }
        Ok(())
    }
}

/// As Kubernetes reads booleans of a query: `watch` alone means true.
pub(super) fn flag(value: &str) -> bool {
    !matches!(value, "false" | "0")
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Status> {
    value.parse().map_err(|_| {
        Status::bad_request(format!(
            "{name}: Invalid value: {value:?}: must be a whole number"
        ))
    })
}

fn dry_run(value: &str) -> Result<bool, Status> {
    match value {
        "" => Ok(false),
        "All" => Ok(true),
        _ => Err(Status::bad_request(format!(
            "dryRun: Unsupported value: {value:?}: supported values: \"All\""
        ))),
    }
}

fn field_manager(value: String) -> Result<String, Status> {
    if value.len() <= 128 && value.chars().all(|letter| !letter.is_control()) {
        return Ok(value);
    }
    Err(Status::bad_request(format!(
        "fieldManager: Invalid value: {value:?}: must be at most 128 printable characters"
    )))
}

fn propagation(value: &str) -> Result<Propagation, Status> {
    match value {
        "Background" => Ok(Propagation::Background),
        "Foreground" => Ok(Propagation::Foreground),
        "Orphan" => Ok(Propagation::Orphan),
        _ => Err(Status::bad_request(format!(
            "propagationPolicy: Unsupported value: {value:?}: supported values: \"Background\", \"Foreground\", \
             \"Orphan\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Query, Status> {
        Query::parse(&format!("/api/v1/pods?{query}").parse().unwrap())
    }

    #[test]
    fn parameters_are_read() {
        let query =
            parse("watch=1&labelSelector=a%3Db&limit=500&timeoutSeconds=7&dryRun=All&unknown=x")
                .unwrap();
        assert!(query.watch && query.dry_run);
        assert_eq!(
            (
                query.label_selector.as_str(),
                query.limit,
                query.timeout_seconds
            ),
            ("a=b", 500, Some(7))
        );
        assert!(!parse("watch=false").unwrap().watch);
    }

    #[test]
    fn what_can_not_be_read_is_named() {
        for bad in [
            "limit=x",
            "timeoutSeconds=-1",
            "dryRun=Some",
            "fieldValidation=Maybe",
            "propagationPolicy=x",
        ] {
            let status = parse(bad).unwrap_err();
            assert_eq!(status.code, 400);
            assert!(
                status.message.contains(bad.split('=').next().unwrap()),
                "{}",
                status.message
            );
        }
    }
}
