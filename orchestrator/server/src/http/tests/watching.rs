//! Watches against a model: clients with random selectors come, read, go and come back at random places, while others
//! write and the store forgets history. Whatever they saw must be what the store's own log says, once and in order.
//! And lists at revisions that are or are not kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use waggle_store::{Change, Revision, Watch};

use super::*;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const WRITERS: u64 = 3;
const CLIENTS: u64 = 4;
/// Watches of each client while others write.
const WATCHES: usize = 6;

/// What a client watches for.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    All,
    Label(&'static str),
    Name(&'static str),
}

impl Wanted {
    const ANY: [Self; 5] = [
        Self::All,
        Self::Label("web"),
        Self::Label("db"),
        Self::Name("a"),
        Self::Name("b"),
    ];

    fn query(self) -> String {
        match self {
            Self::All => String::new(),
            Self::Label(app) => format!("&labelSelector=app%3D{app}"),
            Self::Name(name) => format!("&fieldSelector=metadata.name%3D{name}"),
        }
    }

    fn takes(self, name: &str, app: &str) -> bool {
        match self {
            Self::All => true,
            Self::Label(wanted) => wanted == app,
            Self::Name(wanted) => wanted == name,
        }
    }
}

/// Revision, type, name.
type Seen = (u64, String, String);

/// One unbroken watch, as its client saw it.
#[derive(Debug)]
struct Record {
    wanted: Wanted,
    /// The state that it started from: everything up to here is in `initial`, or was not asked for.
    after: u64,
    /// Names that the watch itself began with, when it was asked to.
    initial: Option<BTreeSet<String>>,
    events: Vec<Seen>,
    /// Places that bookmarks told, with how many events were before each.
    bookmarks: Vec<(u64, usize)>,
}

/// What the store says happened: revision, name, app before, app after.
type Truth = Vec<(u64, String, Option<String>, Option<String>)>;

fn app_of(value: &[u8]) -> String {
    let value: Value = serde_json::from_slice(value).unwrap();
    value["metadata"]["labels"]["app"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// The log from its first change up to the revision that is told in the end.
async fn truth(mut log: Watch, mut end: watch::Receiver<u64>) -> Truth {
    let (mut truth, mut reached) = (Vec::new(), 0);
    while reached < *end.borrow_and_update() {
        let batch = tokio::select! {
            batch = log.next() => batch.unwrap().unwrap(),
            told = end.changed() => {
                told.unwrap();
                continue;
            }
        };
        reached = batch.revision.0;
        for Change {
            key,
            entry,
            previous,
            ..
        } in batch.changes
        {
            let name = key.rsplit('/').next().unwrap_or_default().to_owned();
            let after = entry.map(|entry| app_of(&entry.value));
            truth.push((
                batch.revision.0,
                name,
                previous.map(|value| app_of(&value)),
                after,
            ));
        }
    }
    truth
}

/// The event that a change is to whoever wants `wanted`.
fn event(wanted: Wanted, change: &(u64, String, Option<String>, Option<String>)) -> Option<Seen> {
    let (revision, name, before, after) = change;
    let takes = |app: &Option<String>| app.as_ref().is_some_and(|app| wanted.takes(name, app));
    let kind = match (takes(before), takes(after)) {
        (false, false) => return None,
        (false, true) => "ADDED",
        (true, true) => "MODIFIED",
        (true, false) => "DELETED",
    };
    Some((*revision, kind.to_owned(), name.clone()))
}

fn check(record: &Record, truth: &Truth, context: &str) {
    if let Some(initial) = &record.initial {
        let mut there = BTreeMap::new();
        for (_, name, _, after) in truth.iter().filter(|change| change.0 <= record.after) {
            there.insert(name.clone(), after.clone());
        }
        let there = there.into_iter().filter(|(name, app)| {
            app.as_ref()
                .is_some_and(|app| record.wanted.takes(name, app))
        });
        let there: BTreeSet<String> = there.map(|(name, _)| name).collect();
        assert_eq!(
            *initial, there,
            "{context}: the beginning at {}",
            record.after
        );
    }
    let after = truth.iter().filter(|change| change.0 > record.after);
    let expected: Vec<Seen> = after
        .filter_map(|change| event(record.wanted, change))
        .collect();
    let seen = &record.events;
    assert!(
        seen.len() <= expected.len() && *seen == expected[..seen.len()],
        "{context}: {:?} after {} saw\n{seen:?}\nof\n{expected:?}",
        record.wanted,
        record.after
    );
    for &(place, count) in &record.bookmarks {
        let due = expected.iter().filter(|event| event.0 <= place).count();
        assert!(
            count >= due,
            "{context}: a bookmark at {place} after {count} of {due} events"
        );
    }
}

fn number(value: &Value) -> u64 {
    value.as_str().unwrap().parse().unwrap()
}

/// Opens a watch from `after`, or from all there is.
async fn open(api: &Api, wanted: Wanted, after: Option<u64>) -> (Lines, Record) {
    let from = match after {
        Some(after) => format!("resourceVersion={after}&allowWatchBookmarks=true"),
        None => "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
            .to_owned(),
    };
    let mut lines = api.watch(&format!("{from}{}", wanted.query())).await;
    let mut record = Record {
        wanted,
        after: after.unwrap_or_default(),
        initial: None,
        events: Vec::new(),
        bookmarks: Vec::new(),
    };
    if after.is_none() {
        let mut initial = BTreeSet::new();
        loop {
            let event = lines.next().await.unwrap();
            let metadata = &event["object"]["metadata"];
            if event["type"] == "BOOKMARK" {
                assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
                record.after = number(&metadata["resourceVersion"]);
                break;
            }
            assert_eq!(event["type"], "ADDED");
            assert!(initial.insert(metadata["name"].as_str().unwrap().to_owned()));
        }
        record.initial = Some(initial);
    }
    (lines, record)
}

/// Reads until a bookmark is at `until`, or only `count` lines.
async fn read_on(lines: &mut Lines, record: &mut Record, count: usize, until: Option<u64>) -> u64 {
    let mut place = record.after;
    for _ in 0..count {
        let event = lines.next().await.unwrap();
        let metadata = &event["object"]["metadata"];
        place = number(&metadata["resourceVersion"]);
        match event["type"].as_str().unwrap() {
            "BOOKMARK" => record.bookmarks.push((place, record.events.len())),
            kind => record.events.push((
                place,
                kind.to_owned(),
                metadata["name"].as_str().unwrap().to_owned(),
            )),
        }
        if until.is_some_and(|until| place >= until) {
            break;
        }
    }
    place
}

/// Writes for as long as there are clients.
async fn write_much(api: Arc<Api>, mut random: StdRng, clients: Arc<AtomicU64>) {
    while clients.load(Ordering::SeqCst) > 0 {
        let name = *NAMES.choose(&mut random).unwrap();
        let app = *["web", "db"].choose(&mut random).unwrap();
        let path = format!("{CONFIGS}/{name}");
        match random.random_range(0..4) {
            0 => drop(api.delete(&path, &json!({})).await),
            1 => drop(api.post(CONFIGS, &config(name, app)).await),
            _ => {
                let change = json!({"metadata": {"labels": {"app": app}}, "data": {"x": random.random::<u32>().to_string()}});
                drop(
                    api.patch(&path, "application/merge-patch+json", &change)
                        .await,
                );
            }
        }
        if random.random_ratio(1, 20) {
            let now = api.store.revision().await.unwrap().0;
            let before = Revision(now.saturating_sub(random.random_range(0..10)));
            api.store.compact(before).await.unwrap();
        }
    }
}

/// What a client saw, what it watched for at last, and where it is with that.
type Visit = (Vec<Record>, Wanted, Option<u64>);

async fn one_client(api: Arc<Api>, mut random: StdRng, clients: Arc<AtomicU64>) -> Visit {
    let (mut records, mut place) = (Vec::new(), None);
    let mut wanted = Wanted::All;
    for _ in 0..WATCHES {
        // Back to where it was, or anew.
        if place.is_none() || random.random_ratio(1, 4) {
            wanted = *Wanted::ANY.choose(&mut random).unwrap();
            place = None;
        }
        let (mut lines, mut record) = open(&api, wanted, place).await;
        let count = random.random_range(1..12);
        place = Some(read_on(&mut lines, &mut record, count, None).await);
        records.push(record);
    }
    clients.fetch_sub(1, Ordering::SeqCst);
    (records, wanted, place)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_see_each_change_once_whatever_happens() {
    let seeds = std::env::var("WAGGLE_WATCH_SEEDS");
    let seeds: u64 = seeds.map_or(3, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let api = Arc::new(api().await);
        let start = api.store.revision().await.unwrap();
        let log = api.store.watch("/registry/core/configmaps/default/", start);
        let (tell_end, end) = watch::channel(u64::MAX);
        let truth = tokio::spawn(truth(log.await.unwrap(), end));
        let busy = Arc::new(AtomicU64::new(CLIENTS));
        let random = |part: u64| StdRng::seed_from_u64(seed * 100 + part);
        let mut writers = tokio::task::JoinSet::new();
        for part in 0..WRITERS {
            writers.spawn(write_much(
                Arc::clone(&api),
                random(part),
                Arc::clone(&busy),
            ));
        }
        let mut clients = tokio::task::JoinSet::new();
        for part in 10..10 + CLIENTS {
            clients.spawn(one_client(
                Arc::clone(&api),
                random(part),
                Arc::clone(&busy),
            ));
        }
        let visits = clients.join_all().await;
        writers.join_all().await;
        let end = api.store.revision().await.unwrap().0;
        tell_end.send_replace(end);
        let truth = truth.await.unwrap();
        for (mut records, wanted, place) in visits {
            // To the very end, so that nothing that was due is missing.
            let (mut lines, mut record) = open(&api, wanted, place).await;
            read_on(&mut lines, &mut record, usize::MAX, Some(end)).await;
            records.push(record);
            for record in &records {
                check(record, &truth, &format!("seed {seed}"));
            }
        }
    }
}

#[tokio::test]
async fn the_rest_of_a_list_that_is_forgotten_is_to_be_had_as_it_is_now() {
    let api = api().await;
    for name in ["a", "b", "c", "d"] {
        api.post(CONFIGS, &config(name, "web")).await;
    }
    let (_, first) = api.get(&format!("{CONFIGS}?limit=2")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    api.delete(&format!("{CONFIGS}/c"), &json!({})).await;
    api.post(CONFIGS, &config("e", "web")).await;
    let now = api.store.revision().await.unwrap();
    api.store.compact(now).await.unwrap();
    let (code, status) = api
        .get(&format!("{CONFIGS}?limit=2&continue={token}"))
        .await;
    assert_eq!(
        (code, &status["reason"]),
        (410, &json!("Expired")),
        "{status}"
    );
    let token = status["metadata"]["continue"].as_str().expect("no way on");
    let (code, rest) = api
        .get(&format!("{CONFIGS}?limit=2&continue={token}"))
        .await;
    assert_eq!((code, names(&rest).as_str()), (200, "de"));
    assert_eq!(rest["metadata"]["resourceVersion"], now.0.to_string());
}

#[tokio::test]
async fn resource_versions_mean_what_they_mean_in_kubernetes() {
    let api = api().await;
    let (_, made) = api.post(CONFIGS, &config("a", "web")).await;
    let then = made["metadata"]["resourceVersion"].as_str().unwrap();
    api.post(CONFIGS, &config("b", "web")).await;
    for (query, expect) in [
        ("", "ab"),
        ("resourceVersion=0", "ab"),
        (&*format!("resourceVersion={then}"), "ab"),
        (
            &*format!("resourceVersion={then}&resourceVersionMatch=NotOlderThan"),
            "ab",
        ),
        (
            &*format!("resourceVersion={then}&resourceVersionMatch=Exact"),
            "a",
        ),
        // A part of a list is of just that revision.
        (&*format!("resourceVersion={then}&limit=5"), "a"),
        (
            &*format!("resourceVersion={then}&limit=5&resourceVersionMatch=NotOlderThan"),
            "ab",
        ),
        ("resourceVersion=0&limit=5", "ab"),
    ] {
        let (code, list) = api.get(&format!("{CONFIGS}?{query}")).await;
        assert_eq!((code, names(&list).as_str()), (200, expect), "{query}");
    }
    for (query, expect) in [
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersionMatch=NotOlderThan", 422),
        ("resourceVersion=0&resourceVersionMatch=Exact", 422),
        ("resourceVersion=1&resourceVersionMatch=Never", 422),
        ("sendInitialEvents=true", 422),
        ("resourceVersion=x", 400),
    ] {
        let (code, status) = api.get(&format!("{CONFIGS}?{query}")).await;
        assert_eq!(
            (code, &status["kind"]),
            (expect, &json!("Status")),
            "{query}"
        );
    }
}
