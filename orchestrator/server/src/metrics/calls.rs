//! Requests to the API, counted: how many, how they were answered, how long it took, and the watches that go on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures::StreamExt as _;
use waggle_api::RESOURCES;
use waggle_api::access::Action;

use super::text::{Family, Kind, number};

/// Upper bounds of the histogram's buckets, seconds.
const BOUNDS: [f64; 8] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// What a request is counted as.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    verb: String,
    group: String,
    resource: String,
    subresource: String,
}

impl Call {
    /// What is no resource is counted without a name, so that nobody can make up metrics.
    pub(crate) fn of(action: &Action) -> Self {
        let known = RESOURCES
            .iter()
            .any(|one| one.plural == action.resource && one.group == action.group);
        let name = |text: &str| {
            if known {
                text.to_owned()
            } else {
                String::new()
            }
        };
        Self {
            verb: action.verb.to_ascii_uppercase(),
            group: name(&action.group),
            resource: name(&action.resource),
            subresource: name(match action.subresource.as_str() {
                "status"
                | "scale"
                | "log"
                | "exec"
                | "attach"
                | "portforward"
                | "proxy"
                | "binding"
                | "eviction"
                | "token"
                | "metrics"
                | "finalize"
                | "ephemeralcontainers"
                | "resize" => &action.subresource,
                _ => "",
            }),
        }
    }

    fn labels(&self) -> [(&str, &str); 4] {
        [
            ("verb", &self.verb),
            ("group", &self.group),
            ("resource", &self.resource),
            ("subresource", &self.subresource),
        ]
    }
}

#[derive(Debug, Default)]
struct Took {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    seconds: f64,
}

#[derive(Debug, Default)]
struct Counted {
    answered: BTreeMap<(Call, u16), u64>,
    took: BTreeMap<Call, Took>,
    /// Watches that go on.
    watches: BTreeMap<Call, u64>,
}

/// Every request so far. Cloning shares it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Calls(Arc<Mutex<Counted>>);

/// A watch that goes on until this is dropped.
struct Watching {
    calls: Calls,
    call: Call,
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(count) = self.calls.lock().watches.get_mut(&self.call) {
            *count = count.saturating_sub(1);
        }
    }
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a request was answered. The answer to a watch counts it for as long as it is read.
    pub(crate) fn answered(&self, call: Call, took: Duration, response: Response) -> Response {
        let mut counted = self.lock();
        let key = (call.clone(), response.status().as_u16());
        *counted.answered.entry(key).or_default() += 1;
        if call.verb == "WATCH" && response.status().is_success() {
            *counted.watches.entry(call.clone()).or_default() += 1;
            drop(counted);
            let watching = Watching {
                calls: self.clone(),
                call,
            };
            return response.map(|body| {
                let body = body.into_data_stream().map(move |part| {
                    let _ = &watching;
                    part
                });
                Body::from_stream(body)
            });
        }
        let seconds = took.as_secs_f64();
        let entry = counted.took.entry(call).or_default();
        entry.count += 1;
        entry.seconds += seconds;
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            entry.buckets[bucket] += 1;
        }
        response
    }

    /// All of it.
    pub(super) fn families(&self) -> [Family; 3] {
        let counted = self.lock();
        let mut answered = Family::new(
            "apiserver_request_total",
            "Requests to the API, by what was asked and the code of the answer.",
            Kind::Counter,
        );
        for ((call, code), count) in &counted.answered {
            let code = code.to_string();
            let [verb, group, resource, subresource] = call.labels();
            let labels = [("code", code.as_str()), verb, group, resource, subresource];
            answered.add(&labels, number(*count));
        }
        let mut took = Family::new(
            "apiserver_request_duration_seconds",
            "Time until a request was answered, but for watches, seconds.",
            Kind::Histogram,
        );
        for (call, one) in &counted.took {
            let [verb, group, resource, subresource] = call.labels();
            let mut below = 0;
            for (bound, count) in BOUNDS.iter().zip(one.buckets) {
                below += count;
                let bound = bound.to_string();
                let labels = [verb, group, resource, subresource, ("le", bound.as_str())];
                took.add_part("_bucket", &labels, number(below));
            }
            let labels = [verb, group, resource, subresource, ("le", "+Inf")];
            took.add_part("_bucket", &labels, number(one.count));
            took.add_part("_sum", &call.labels(), one.seconds);
            took.add_part("_count", &call.labels(), number(one.count));
        }
        let mut watches = Family::new(
            "apiserver_longrunning_requests",
            "Watches that go on, by resource.",
            Kind::Gauge,
        );
        for (call, count) in &counted.watches {
            watches.add(&call.labels(), number(*count));
        }
        [answered, took, watches]
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::render;
    use super::*;

    fn call(path: &str, watch: bool) -> Call {
        let uri = path.parse().unwrap();
        Call::of(&crate::auth::action_of(&http::Method::GET, &uri, watch))
    }

    #[tokio::test]
    async fn requests_are_counted_and_watches_while_they_are_read() {
        let calls = Calls::default();
        let answer = || Response::new(Body::from("x"));
        let pod = "/api/v1/namespaces/shop/pods/web";
        for took in [0.004, 0.2, 60.0] {
            let took = Duration::from_secs_f64(took);
            drop(calls.answered(call(pod, false), took, answer()));
        }
        let watch = calls.answered(call("/api/v1/pods", true), Duration::ZERO, answer());
        let text = render(&calls.families());
        let labels = r#"verb="GET",group="",resource="pods",subresource="""#;
        for line in [
            format!("apiserver_request_total{{code=\"200\",{labels}}} 3"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"0.005\"}} 1"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"10\"}} 2"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 3"),
            format!("apiserver_request_duration_seconds_count{{{labels}}} 3"),
            "apiserver_longrunning_requests{verb=\"WATCH\",group=\"\",resource=\"pods\",subresource=\"\"} 1".into(),
        ] {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        drop(watch);
        let text = render(&calls.families());
        let ended = r#"apiserver_longrunning_requests{verb="WATCH",group="",resource="pods",subresource=""} 0"#;
        assert!(text.contains(ended), "{text}");
    }

    #[test]
    fn what_nobody_knows_makes_no_metric_of_its_own() {
        let unknown = call("/apis/example.com/v1/namespaces/x/hives/y/made-up", false);
        assert_eq!(
            unknown.labels().map(|(_, value)| value),
            ["GET", "", "", ""]
        );
    }
}
