//! What every store must do, as one suite over the trait. Each case gets a fresh, empty store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;

use crate::{Batch, Change, Error, Expect, Revision, Store, Watch, Write};

/// Runs every case; `fresh` gives an empty store and whatever must live as long as it.
pub(crate) async fn run<G>(fresh: impl AsyncFn() -> (Arc<dyn Store>, G)) {
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$({
            let (store, _guard) = fresh().await;
            $case(store).await;
        })*};
    }
    cases!(
        entries_know_when_they_were_made_and_changed,
        a_transaction_is_all_or_nothing,
        ranges_are_ordered_and_paged,
        ranges_show_the_past,
        a_watch_replays_then_follows,
        a_watch_sees_only_its_prefix_and_groups_by_transaction,
        writers_at_once_lose_nothing_and_watchers_see_each_once,
        compaction_ends_the_past_but_keeps_the_present,
        the_future_is_refused,
        a_watch_comes_to_every_revision,
        long_ranges_and_large_values_are_whole,
    );
}

fn put(key: &str, expect: Expect, value: &str) -> Write {
    Write {
        key: key.to_owned(),
        expect,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    }
}

fn remove(key: &str, expect: Expect) -> Write {
    Write {
        key: key.to_owned(),
        expect,
        value: None,
    }
}

async fn item(watch: &mut Watch) -> Batch {
    let item = tokio::time::timeout(Duration::from_secs(10), watch.next()).await;
    item.expect("the watch says nothing")
        .expect("the watch ended")
        .expect("the watch failed")
}

async fn next(watch: &mut Watch) -> Vec<Change> {
    loop {
        let Batch { revision, changes } = item(watch).await;
        assert!(changes.iter().all(|change| change.revision == revision));
        if !changes.is_empty() {
            return changes;
        }
    }
}

fn keys(entries: &[crate::Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.key.as_str()).collect()
}

async fn entries_know_when_they_were_made_and_changed(store: Arc<dyn Store>) {
    assert_eq!(store.get("/a").await.unwrap(), None);
    let made = store
        .commit(vec![put("/a", Expect::Absent, "1")])
        .await
        .unwrap();
    let changed = store
        .commit(vec![put("/a", Expect::Modified(made), "2")])
        .await
        .unwrap();
    assert_eq!(
        (changed, store.revision().await.unwrap()),
        (Revision(made.0 + 1), changed)
    );
    let entry = store.get("/a").await.unwrap().unwrap();
    assert_eq!(
        (entry.created, entry.modified, &entry.value[..]),
        (made, changed, &b"2"[..])
    );
    store
        .commit(vec![remove("/a", Expect::Present)])
        .await
        .unwrap();
    assert_eq!(store.get("/a").await.unwrap(), None);
    let again = store
        .commit(vec![put("/a", Expect::Absent, "3")])
        .await
        .unwrap();
    assert_eq!(store.get("/a").await.unwrap().unwrap().created, again);
}

async fn a_transaction_is_all_or_nothing(store: Arc<dyn Store>) {
    let made = store
        .commit(vec![put("/a", Expect::Absent, "1")])
        .await
        .unwrap();
    for (bad, found) in [
        (put("/a", Expect::Absent, "x"), Some(made)),
        (
            put("/a", Expect::Modified(Revision(made.0 + 7)), "x"),
            Some(made),
        ),
        (put("/none", Expect::Present, "x"), None),
        (remove("/none", Expect::Modified(made)), None),
    ] {
        let error = store
            .commit(vec![put("/b", Expect::Absent, "x"), bad.clone()])
            .await
            .unwrap_err();
        match error {
            Error::Conflict {
                key, found: seen, ..
            } => assert_eq!((key, seen), (bad.key, found)),
            other => panic!("{other}"),
        }
        assert_eq!(store.get("/b").await.unwrap(), None);
    }
    let twice = vec![
        put("/b", Expect::Absent, "1"),
        put("/b", Expect::Absent, "2"),
    ];
    assert!(matches!(
        store.commit(twice).await,
        Err(Error::Twice { .. })
    ));
    assert_eq!(store.revision().await.unwrap(), made);
}

async fn ranges_are_ordered_and_paged(store: Arc<dyn Store>) {
    for key in ["/p/c", "/p/a", "/pp", "/p/b", "/o", "/q"] {
        store
            .commit(vec![put(key, Expect::Absent, key)])
            .await
            .unwrap();
    }
    let all = store.range("/p/", None, 0, None).await.unwrap();
    assert_eq!(
        (keys(&all.entries), all.more),
        (vec!["/p/a", "/p/b", "/p/c"], false)
    );
    let first = store.range("/p/", None, 2, None).await.unwrap();
    assert_eq!(
        (keys(&first.entries), first.more),
        (vec!["/p/a", "/p/b"], true)
    );
    let rest = store
        .range("/p/", Some("/p/b"), 2, Some(first.revision))
        .await
        .unwrap();
    assert_eq!((keys(&rest.entries), rest.more), (vec!["/p/c"], false));
    let exact = store.range("/p/", None, 3, None).await.unwrap();
    assert_eq!((exact.entries.len(), exact.more), (3, false));
}

async fn ranges_show_the_past(store: Arc<dyn Store>) {
    let first = store
        .commit(vec![
            put("/a", Expect::Absent, "1"),
            put("/b", Expect::Absent, "1"),
        ])
        .await
        .unwrap();
    let second = store
        .commit(vec![
            put("/a", Expect::Present, "2"),
            remove("/b", Expect::Present),
        ])
        .await
        .unwrap();
    store
        .commit(vec![
            put("/c", Expect::Absent, "3"),
            remove("/a", Expect::Present),
        ])
        .await
        .unwrap();
    let past = store.range("/", None, 0, Some(first)).await.unwrap();
    assert_eq!(
        (keys(&past.entries), past.revision),
        (vec!["/a", "/b"], first)
    );
    let later = store.range("/", None, 0, Some(second)).await.unwrap();
    assert_eq!(keys(&later.entries), vec!["/a"]);
    assert_eq!(
        (&later.entries[0].value[..], later.entries[0].created),
        (&b"2"[..], first)
    );
    let paged = store.range("/", None, 1, Some(first)).await.unwrap();
    assert_eq!((keys(&paged.entries), paged.more), (vec!["/a"], true));
    let rest = store.range("/", Some("/a"), 1, Some(first)).await.unwrap();
    assert_eq!((keys(&rest.entries), rest.more), (vec!["/b"], false));
}

async fn a_watch_replays_then_follows(store: Arc<dyn Store>) {
    let first = store
        .commit(vec![put("/a", Expect::Absent, "1")])
        .await
        .unwrap();
    let second = store
        .commit(vec![put("/a", Expect::Present, "2")])
        .await
        .unwrap();
    let mut watch = store.watch("/", first).await.unwrap();
    let third = store
        .commit(vec![remove("/a", Expect::Present)])
        .await
        .unwrap();
    let seen = next(&mut watch).await;
    assert_eq!(
        (seen.len(), seen[0].revision, seen[0].previous.as_deref()),
        (1, second, Some(&b"1"[..]))
    );
    assert_eq!(
        seen[0].entry.as_ref().map(|entry| &entry.value[..]),
        Some(&b"2"[..])
    );
    let seen = next(&mut watch).await;
    assert_eq!((seen[0].revision, seen[0].entry.is_none()), (third, true));
    assert_eq!(seen[0].previous.as_deref(), Some(&b"2"[..]));
    let fourth = store
        .commit(vec![put("/a", Expect::Absent, "4")])
        .await
        .unwrap();
    let seen = next(&mut watch).await;
    assert_eq!((seen[0].revision, seen[0].previous.clone()), (fourth, None));
}

async fn a_watch_sees_only_its_prefix_and_groups_by_transaction(store: Arc<dyn Store>) {
    let mut live = store.watch("/p/", Revision(0)).await.unwrap();
    store
        .commit(vec![put("/q/x", Expect::Absent, "1")])
        .await
        .unwrap();
    let both = vec![
        put("/p/a", Expect::Absent, "1"),
        put("/q/y", Expect::Absent, "1"),
        put("/p/b", Expect::Absent, "1"),
    ];
    let revision = store.commit(both).await.unwrap();
    let mut replayed = store.watch("/p/", Revision(0)).await.unwrap();
    for watch in [&mut live, &mut replayed] {
        let seen = next(watch).await;
        assert!(seen.iter().all(|change| change.revision == revision));
        assert_eq!(
            seen.iter()
                .map(|change| change.key.as_str())
                .collect::<Vec<_>>(),
            ["/p/a", "/p/b"]
        );
    }
}

async fn writers_at_once_lose_nothing_and_watchers_see_each_once(store: Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 200;
    let start = store.revision().await.unwrap();
    let early = store.watch("/", start).await.unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for number in 0..EACH {
                    let key = format!("/{writer}/{number}");
                    store
                        .commit(vec![put(&key, Expect::Absent, "v")])
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    // One that starts in the middle of it all, and one that starts when all is done.
    let middle = store.watch("/", start).await.unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    let late = store.watch("/", start).await.unwrap();
    for mut watch in [early, middle, late] {
        for expected in 1..=WRITERS * EACH {
            let seen = next(&mut watch).await;
            assert_eq!(
                (seen.len(), seen[0].revision),
                (1, Revision(start.0 + expected))
            );
        }
    }
    assert_eq!(
        store.range("/", None, 0, None).await.unwrap().entries.len() as u64,
        WRITERS * EACH
    );
}

async fn compaction_ends_the_past_but_keeps_the_present(store: Arc<dyn Store>) {
    let first = store
        .commit(vec![
            put("/a", Expect::Absent, "1"),
            put("/b", Expect::Absent, "1"),
        ])
        .await
        .unwrap();
    let second = store
        .commit(vec![
            put("/a", Expect::Present, "2"),
            remove("/b", Expect::Present),
        ])
        .await
        .unwrap();
    let third = store
        .commit(vec![put("/a", Expect::Present, "3")])
        .await
        .unwrap();
    store.compact(second).await.unwrap();
    assert!(matches!(
        store.range("/", None, 0, Some(first)).await,
        Err(Error::Compacted { .. })
    ));
    assert!(matches!(
        store.watch("/", first).await.err(),
        Some(Error::Compacted { .. })
    ));
    let page = store.range("/", None, 0, Some(second)).await.unwrap();
    assert_eq!(
        (keys(&page.entries), &page.entries[0].value[..]),
        (vec!["/a"], &b"2"[..])
    );
    let mut watch = store.watch("/", second).await.unwrap();
    let seen = next(&mut watch).await;
    assert_eq!(
        (seen[0].revision, seen[0].previous.as_deref()),
        (third, Some(&b"2"[..]))
    );
    store.compact(third).await.unwrap();
    store.compact(first).await.unwrap();
    assert_eq!(store.get("/a").await.unwrap().unwrap().created, first);
    assert!(matches!(
        store.watch("/", second).await.err(),
        Some(Error::Compacted { .. })
    ));
}

async fn the_future_is_refused(store: Arc<dyn Store>) {
    let now = store
        .commit(vec![put("/a", Expect::Absent, "1")])
        .await
        .unwrap();
    let future = Revision(now.0 + 1);
    assert!(matches!(
        store.range("/", None, 0, Some(future)).await,
        Err(Error::Future { .. })
    ));
    assert!(matches!(
        store.watch("/", future).await.err(),
        Some(Error::Future { .. })
    ));
    assert!(matches!(
        store.compact(future).await,
        Err(Error::Future { .. })
    ));
}

async fn a_watch_comes_to_every_revision(store: Arc<dyn Store>) {
    let mut watch = store.watch("/p/", Revision(0)).await.unwrap();
    store
        .commit(vec![put("/p/a", Expect::Absent, "1")])
        .await
        .unwrap();
    assert_eq!(next(&mut watch).await.len(), 1);
    let elsewhere = store
        .commit(vec![put("/q/a", Expect::Absent, "1")])
        .await
        .unwrap();
    let said = item(&mut watch).await;
    assert_eq!((said.revision, said.changes.len()), (elsewhere, 0));
    let now = store.revision().await.unwrap();
    store.advance().await.unwrap();
    let mut late = store.watch("/p/", Revision(0)).await.unwrap();
    assert_eq!(next(&mut late).await.len(), 1);
    while item(&mut late).await.revision < now {}
}

async fn long_ranges_and_large_values_are_whole(store: Arc<dyn Store>) {
    const COUNT: usize = 1234;
    let large = "x".repeat(1 << 20);
    let keys: Vec<String> = (0..COUNT).map(|number| format!("/l/{number:06}")).collect();
    for chunk in keys.chunks(store.largest_transaction().min(100)) {
        let writes = chunk.iter().map(|key| put(key, Expect::Absent, key));
        store.commit(writes.collect()).await.unwrap();
    }
    for key in ["/l/large1", "/l/large2", "/l/large3"] {
        store
            .commit(vec![put(key, Expect::Absent, &large)])
            .await
            .unwrap();
    }
    let page = store.range("/l/", None, 0, None).await.unwrap();
    assert_eq!((page.entries.len(), page.more), (COUNT + 3, false));
    assert!(page.entries.is_sorted_by(|a, b| a.key < b.key));
    assert_eq!(page.entries[COUNT + 2].value.len(), large.len());
    let most = store.range("/l/", None, COUNT + 2, None).await.unwrap();
    assert_eq!((most.entries.len(), most.more), (COUNT + 2, true));
    let mut watch = store.watch("/l/", Revision(0)).await.unwrap();
    let mut seen = 0;
    while seen < COUNT + 3 {
        seen += next(&mut watch).await.len();
    }
}
