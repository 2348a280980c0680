//! Jobs and CronJobs.

use serde_json::Value;

use super::workload::{contained_template, required_selector};
use super::{at_least, meta, names, one_of};
use crate::Fault;
use crate::schedule::{Schedule, time_zone};
use crate::selector::LabelSelector;
use crate::walk::{at, has, list, number, text};

/// Most indexes of an Indexed Job whose failures are counted one by one.
const MOST_INDEXES: i64 = 100_000;
/// A CronJob's Jobs get 11 more characters.
const CRON_NAME: usize = 52;

/// Faults of a Job.
pub(crate) fn job(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("Job", value, old, &mut out);
    spec(at(value, &["spec"]), "spec", &mut out);
    if !has(value, &["spec"]) {
        return out;
    }
    let selector = required_selector(value, &mut out);
    let labels = at(value, &["spec", "template", "metadata", "labels"]);
    if selector.is_some_and(|selector: LabelSelector| !selector.matches(labels)) {
        let detail = "`selector` does not match template `labels`";
        out.push(Fault::invalid(
            "spec.template.metadata.labels",
            labels.clone(),
            detail,
        ));
    }
    if let Some(old) = old {
        changes(value, old, &mut out);
    }
    out
}

/// Faults of a CronJob.
pub(crate) fn cron_job(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("CronJob", value, old, &mut out);
    if text(value, &["metadata", "name"]).len() > CRON_NAME {
        out.push(Fault::too_long("metadata.name", CRON_NAME));
    }
    if !has(value, &["spec"]) {
        out.push(Fault::required("spec", ""));
        return out;
    }
    let schedule = text(value, &["spec", "schedule"]);
    if schedule.is_empty() {
        out.push(Fault::required("spec.schedule", ""));
    } else if let Err(why) = Schedule::parse(schedule) {
        out.push(Fault::invalid("spec.schedule", schedule, why));
    }
    if let Some(zone) = at(value, &["spec", "timeZone"]).as_str() {
        if zone.is_empty() {
            out.push(Fault::invalid(
                "spec.timeZone",
                zone,
                "timeZone must be nil or non-empty string",
            ));
        } else if let Err(why) = time_zone(zone) {
            out.push(Fault::invalid("spec.timeZone", zone, why));
        }
    }
    one_of(
        at(value, &["spec", "concurrencyPolicy"]),
        &["Allow", "Forbid", "Replace"],
        "spec.concurrencyPolicy",
        &mut out,
    );
    for field in [
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ] {
        at_least(
            at(value, &["spec", field]),
            0,
            &format!("spec.{field}"),
            &mut out,
        );
    }
    let job = at(value, &["spec", "jobTemplate"]);
    meta::labels_and_annotations(job, "spec.jobTemplate.metadata", &mut out);
    spec(at(job, &["spec"]), "spec.jobTemplate.spec", &mut out);
    for field in ["selector", "manualSelector"] {
        let given = at(job, &["spec", field]);
        if !given.is_null() && given != false {
            let detail = "will be auto-generated: leave it out";
            out.push(Fault::forbidden(
                format!("spec.jobTemplate.spec.{field}"),
                detail,
            ));
        }
    }
    out
}

fn spec(spec: &Value, path: &str, out: &mut Vec<Fault>) {
    if spec.is_null() {
        out.push(Fault::required(path, ""));
        return;
    }
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
        "ttlSecondsAfterFinished",
    ] {
        at_least(&spec[field], 0, &format!("{path}.{field}"), out);
    }
    let modes = ["NonIndexed", "Indexed"];
    one_of(
        &spec["completionMode"],
        &modes,
        &format!("{path}.completionMode"),
        out,
    );
    indexed(spec, path, out);
    let replacements = ["TerminatingOrFailed", "Failed"];
    let place = format!("{path}.podReplacementPolicy");
    one_of(&spec["podReplacementPolicy"], &replacements, &place, out);
    contained_template(&spec["template"], &format!("{path}.template"), out);
    let restart = &spec["template"]["spec"]["restartPolicy"];
    let place = format!("{path}.template.spec.restartPolicy");
    match restart.as_str() {
        None | Some("OnFailure" | "Never") => {}
        Some("" | "Always") => {
            out.push(Fault::required(
                place,
                "valid values: \"OnFailure\", \"Never\"",
            ));
        }
        Some(_) => out.push(Fault::not_supported(
            place,
            restart.clone(),
            &["OnFailure", "Never"],
        )),
    }
    if has(spec, &["podFailurePolicy"]) {
        failure_policy(spec, path, out);
    }
    if has(spec, &["successPolicy"]) {
        success_policy(spec, path, out);
    }
}

fn indexed(spec: &Value, path: &str, out: &mut Vec<Fault>) {
    let is_indexed = text(spec, &["completionMode"]) == "Indexed";
    if !is_indexed {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            if has(spec, &[field]) {
                let detail = "requires indexed completion mode";
                out.push(Fault::invalid(
                    format!("{path}.{field}"),
                    spec[field].clone(),
                    detail,
                ));
            }
        }
        return;
    }
    let Some(completions) = number(spec, &["completions"]) else {
        let detail = "when completion mode is Indexed, completions must be set";
        out.push(Fault::required(format!("{path}.completions"), detail));
        return;
    };
    if has(spec, &["maxFailedIndexes"]) && !has(spec, &["backoffLimitPerIndex"]) {
        let detail = "when maxFailedIndexes is specified, backoffLimitPerIndex is required";
        out.push(Fault::required(
            format!("{path}.backoffLimitPerIndex"),
            detail,
        ));
    }
    if has(spec, &["backoffLimitPerIndex"]) && completions > MOST_INDEXES {
        let detail = format!(
            "must be less than or equal to {MOST_INDEXES} when backoffLimitPerIndex is set"
        );
        out.push(Fault::invalid(
            format!("{path}.completions"),
            completions,
            detail,
        ));
    }
    if number(spec, &["maxFailedIndexes"]).is_some_and(|most| most > completions) {
        let detail = "must be less than or equal to completions";
        out.push(Fault::invalid(
            format!("{path}.maxFailedIndexes"),
            spec["maxFailedIndexes"].clone(),
            detail,
        ));
    }
}

fn failure_policy(spec: &Value, path: &str, out: &mut Vec<Fault>) {
    if text(spec, &["template", "spec", "restartPolicy"]) != "Never" {
        let detail = "only \"Never\" is supported when podFailurePolicy is specified";
        out.push(Fault::invalid(
            format!("{path}.template.spec.restartPolicy"),
            spec["template"]["spec"]["restartPolicy"].clone(),
            detail,
        ));
    }
    for (index, rule) in list(spec, &["podFailurePolicy", "rules"])
        .iter()
        .enumerate()
    {
        let path = format!("{path}.podFailurePolicy.rules[{index}]");
        let actions = ["Count", "FailIndex", "FailJob", "Ignore"];
        let place = format!("{path}.action");
        match text(rule, &["action"]) {
            "" => out.push(Fault::required(
                place,
                "valid values: Count, FailIndex, FailJob, Ignore",
            )),
            "FailIndex" if !has(spec, &["backoffLimitPerIndex"]) => {
                let detail = "requires the backoffLimitPerIndex to be set";
                out.push(Fault::invalid(place, "FailIndex", detail));
            }
            _ => one_of(&rule["action"], &actions, &place, out),
        }
        let (codes, conditions) = (has(rule, &["onExitCodes"]), has(rule, &["onPodConditions"]));
        if codes == conditions {
            let detail = "specify one of OnExitCodes and OnPodConditions";
            out.push(Fault::invalid(path.clone(), rule.clone(), detail));
        }
        if codes {
            exit_codes(&rule["onExitCodes"], &format!("{path}.onExitCodes"), out);
        }
    }
}

fn exit_codes(codes: &Value, path: &str, out: &mut Vec<Fault>) {
    let place = format!("{path}.operator");
    if text(codes, &["operator"]).is_empty() {
        out.push(Fault::required(place, "valid values: In, NotIn"));
    } else {
        one_of(&codes["operator"], &["In", "NotIn"], &place, out);
    }
    let values = list(codes, &["values"]);
    if values.is_empty() {
        out.push(Fault::invalid(
            format!("{path}.values"),
            codes["values"].clone(),
            "at least one value is required",
        ));
    }
    if values.len() > 255 {
        out.push(Fault::too_many(format!("{path}.values"), values.len(), 255));
    }
    if codes["operator"] == "In" && values.iter().any(|code| *code == 0) {
        let detail = "must not be 0 for the In operator";
        out.push(Fault::invalid(format!("{path}.values"), 0, detail));
    }
}

fn success_policy(spec: &Value, path: &str, out: &mut Vec<Fault>) {
    let rules = list(spec, &["successPolicy", "rules"]);
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        out.push(Fault::required(
            format!("{path}.successPolicy.rules"),
            detail,
        ));
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("{path}.successPolicy.rules[{index}]");
        let (count, indexes) = (&rule["succeededCount"], text(rule, &["succeededIndexes"]));
        if count.is_null() && indexes.is_empty() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            out.push(Fault::required(path.clone(), detail));
        }
        at_least(count, 1, &format!("{path}.succeededCount"), out);
        if !indexes.is_empty() && parse_indexes(indexes).is_none() {
            let detail = "must be numbers and ranges in order, such as 1,3-5";
            out.push(Fault::invalid(
                format!("{path}.succeededIndexes"),
                indexes,
                detail,
            ));
        }
    }
}

/// Ranges of `1,3-5`, in order; `None` when it is something else.
fn parse_indexes(text: &str) -> Option<Vec<(i64, i64)>> {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        let after = ranges.last().map_or(-1, |range| range.1);
        if first <= after || last < first {
            return None;
        }
        ranges.push((first, last));
    }
    Some(ranges)
}

fn changes(value: &Value, old: &Value, out: &mut Vec<Fault>) {
    for field in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "successPolicy",
        "managedBy",
    ] {
        meta::immutable(value, old, &["spec", field], out);
    }
    let elastic = text(value, &["spec", "completionMode"]) == "Indexed"
        && value["spec"]["completions"] == value["spec"]["parallelism"]
        && has(value, &["spec", "completions"]);
    if !elastic {
        meta::immutable(value, old, &["spec", "completions"], out);
    }
    // Where the pods of a suspended Job go may still be changed.
    if directionless(value, old) != directionless(old, old) {
        out.push(Fault::invalid(
            "spec.template",
            value["spec"]["template"].clone(),
            "field is immutable",
        ));
    }
}

/// The template without what may be changed while the Job is suspended and has not started.
fn directionless(value: &Value, old: &Value) -> Value {
    let mut template = value["spec"]["template"].clone();
    let idle = at(old, &["spec", "suspend"]) == true && !has(old, &["status", "startTime"]);
    if idle {
        for field in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
            crate::walk::remove(&mut template, &["spec"], field);
        }
        for field in ["annotations", "labels"] {
            crate::walk::remove(&mut template, &["metadata"], field);
        }
    }
    template
}

/// A fault when `text` at `path` is no name of an object.
pub(super) fn object_name(text: &str, path: &str, out: &mut Vec<Fault>) {
    if text.is_empty() {
        out.push(Fault::required(path, ""));
    } else if let Some(rule) = names::subdomain(text) {
        out.push(Fault::invalid(path, text, rule));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, with};
    use super::*;
    use crate::{Part, lookup_name, prepare_update};
    use serde_json::json;

    fn job() -> Value {
        json!({
            "metadata": {"name": "j", "namespace": "n", "uid": "u1"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a:1"}]}}},
        })
    }

    #[test]
    fn a_job_is_completed_and_judged() {
        let row = lookup_name("job").unwrap();
        let mut made = job();
        (row.defaults)(&mut made);
        assert_eq!(made["spec"]["completions"], 1);
        assert_eq!(made["spec"]["backoffLimit"], 6);
        let labels = &made["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels["batch.kubernetes.io/job-name"], "j");
        assert_eq!(
            made["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"],
            "u1"
        );
        let mut again = made.clone();
        (row.defaults)(&mut again);
        assert_eq!(made, again);
        let good = job();
        check(
            "job",
            &good,
            "/spec/template/spec/restartPolicy",
            json!("Always"),
            &[
                "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ],
        );
        check("job", &good, "/spec/completionMode", json!("Indexed"), &[]);
        check(
            "job",
            &good,
            "/spec/successPolicy",
            json!({"rules": [{"succeededIndexes": "3-1"}]}),
            &[
                "spec.successPolicy: Invalid value: {\"rules\":[{\"succeededIndexes\":\"3-1\"}]}: requires indexed completion mode",
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"3-1\": must be numbers and ranges in order, such as 1,3-5",
            ],
        );
        let rule = json!({"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [0]}}]});
        check(
            "job",
            &good,
            "/spec/podFailurePolicy",
            rule,
            &[
                "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: 0: must not be 0 for the In operator",
            ],
        );
    }

    #[test]
    fn a_jobs_template_is_fixed() {
        let row = lookup_name("job").unwrap();
        let mut old = job();
        (row.defaults)(&mut old);
        let image = with(&old, "/spec/template/spec/containers/0/image", json!("a:2"));
        let refused = prepare_update(row, &old, image, Part::Main).unwrap_err();
        assert!(refused.to_string().contains("spec.template"), "{refused}");
        let more = with(&old, "/spec/parallelism", json!(5));
        assert!(prepare_update(row, &old, more, Part::Main).is_ok());
    }

    #[test]
    fn a_cron_jobs_schedule_and_zone_are_read() {
        let good = json!({"metadata": {"name": "c", "namespace": "n"},
            "spec": {"schedule": "*/5 * * * *", "timeZone": "Europe/Berlin", "jobTemplate": {"spec": job()["spec"]}}});
        check(
            "cj",
            &good,
            "/spec/schedule",
            json!("* * *"),
            &["spec.schedule: Invalid value: \"* * *\": expected exactly 5 fields, found 3: * * *"],
        );
        check(
            "cj",
            &good,
            "/spec/timeZone",
            json!("Mars/Olympus"),
            &["spec.timeZone: Invalid value: \"Mars/Olympus\": unknown time zone Mars/Olympus"],
        );
        check(
            "cj",
            &good,
            "/spec/concurrencyPolicy",
            json!("Maybe"),
            &[
                "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
            ],
        );
    }
}
