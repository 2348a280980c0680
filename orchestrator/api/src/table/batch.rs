//! Columns of Jobs and CronJobs.

use serde_json::Value;

use super::workload::{CONTAINERS, IMAGES, SELECTOR, template};
use super::{Cell, Column, age, name};
use crate::table::age::{duration, since};
use crate::walk::{at, list, number, text};

/// Columns of a Job.
pub const JOB: &[Column] = &[
    Column::NAME,
    Column::text("Status", "Running, Suspended, or how it ended."),
    Column::text("Completions", "Pods that succeeded, of wanted ones."),
    Column::text(
        "Duration",
        "From its start to its completion, or until now.",
    ),
    Column::AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// Cells of a Job.
pub fn job(object: &Value, now: i64) -> Vec<Cell> {
    let done = number(object, &["status", "succeeded"]).unwrap_or(0);
    let parallelism = number(object, &["spec", "parallelism"]).unwrap_or(0);
    let completions = match number(object, &["spec", "completions"]) {
        Some(wanted) => format!("{done}/{wanted}"),
        None if parallelism > 1 => format!("{done}/1 of {parallelism}"),
        None => format!("{done}/1"),
    };
    let mut cells = vec![
        name(object),
        job_status(object).into(),
        completions.into(),
        lasted(object, now).into(),
        age(object, now),
    ];
    cells.extend(template(object, &["spec"]));
    cells
}

fn job_status(object: &Value) -> &'static str {
    let is = |kind: &str| {
        let rows = list(object, &["status", "conditions"]);
        rows.iter()
            .any(|row| row["type"] == kind && row["status"] == "True")
    };
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if !at(object, &["metadata", "deletionTimestamp"]).is_null() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn lasted(object: &Value, now: i64) -> String {
    let moment = |field| text(object, &["status", field]).parse::<jiff::Timestamp>();
    match (moment("startTime"), moment("completionTime")) {
        (Err(_), _) => String::new(),
        (Ok(start), Ok(end)) => duration(end.as_second() - start.as_second()),
        (Ok(start), Err(_)) => duration(now - start.as_second()),
    }
}

/// Columns of a CronJob.
pub const CRON_JOB: &[Column] = &[
    Column::NAME,
    Column::text("Schedule", "When it runs, in cron's format."),
    Column::text("Timezone", "Time zone of the schedule."),
    Column::text("Suspend", "No new Jobs are made."),
    Column::number("Active", "Jobs that run."),
    Column::text("Last Schedule", "Time since a Job was last made."),
    Column::AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// Cells of a CronJob.
pub fn cron_job(object: &Value, now: i64) -> Vec<Cell> {
    let suspended = at(object, &["spec", "suspend"]) == true;
    let active = list(object, &["status", "active"]).len();
    let last = match text(object, &["status", "lastScheduleTime"]) {
        "" => "<none>".to_owned(),
        moment => since(moment, now),
    };
    let mut cells = vec![
        name(object),
        text(object, &["spec", "schedule"]).into(),
        Cell::or_none(text(object, &["spec", "timeZone"])),
        if suspended { "True" } else { "False" }.into(),
        i64::try_from(active).unwrap_or(i64::MAX).into(),
        last.into(),
        age(object, now),
    ];
    cells.extend(template(object, &["spec", "jobTemplate", "spec"]));
    cells
}
