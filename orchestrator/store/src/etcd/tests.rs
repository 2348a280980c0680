//! The store over real etcd members, with TLS: the conformance suite, members that die, elections.

mod testbed;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;

use super::{Bid, EtcdOptions, EtcdStore, Term};
use crate::{Error, Expect, Revision, Store, Write};
use testbed::Testbed;

fn put(key: &str, expect: Expect, value: &str) -> Write {
    Write {
        key: key.to_owned(),
        expect,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    }
}

async fn opened(options: &EtcdOptions) -> EtcdStore {
    EtcdStore::open(options).await.unwrap()
}

/// Two stores over one etcd, of which the first leads.
async fn one_of_two_leads(testbed: &Testbed) -> (EtcdStore, EtcdStore, Term) {
    let one = opened(&testbed.options()).await;
    let two = opened(&testbed.options()).await;
    let Bid::Won(term) = one.stand("https://one").await.unwrap() else {
        panic!("nobody else stood")
    };
    (one, two, term)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_does_what_every_store_must() {
    crate::conformance::run(async || {
        let testbed = Testbed::start(1);
        let store: Arc<dyn Store> = Arc::new(opened(&testbed.options()).await);
        (store, testbed)
    })
    .await;
}

/// Creates numbered keys until told to stop; answers how many were acknowledged.
async fn write_until(store: EtcdStore, stop: Arc<AtomicBool>) -> Vec<(String, Revision)> {
    let mut acknowledged = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let key = format!("/k/{:06}", acknowledged.len());
        let revision = store.commit(vec![put(&key, Expect::Absent, "v")]).await;
        acknowledged.push((key, revision.unwrap()));
    }
    acknowledged
}

/// Which member leads, by asking each for its own status.
async fn raft_leader(testbed: &Testbed, members: usize) -> usize {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        for number in 0..members {
            let members = super::Members::open(&testbed.only(number)).await.unwrap();
            let mut maintenance = members.current().0.maintenance_client();
            let asked = tokio::time::timeout(Duration::from_secs(2), maintenance.status());
            if let Ok(Ok(status)) = asked.await
                && let Some(header) = status.header()
                && status.leader() != 0
                && header.member_id() == status.leader()
            {
                return number;
            }
        }
        assert!(Instant::now() < until, "no member leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_members_loses_nothing_and_repeats_nothing() {
    let mut testbed = Testbed::start(3);
    let store = opened(&testbed.options()).await;
    let start = store.revision().await.unwrap();
    let mut watch = store.watch("/k/", start).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_until(store.clone(), Arc::clone(&stop)));
    let seen_until =
        async |watch: &mut crate::Watch, seen: &mut Vec<(String, Revision)>, count: usize| {
            while seen.len() < count {
                let batch = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
                let batch = batch.expect("the watch stands still").unwrap().unwrap();
                seen.extend(
                    batch
                        .changes
                        .into_iter()
                        .map(|change| (change.key, change.revision)),
                );
            }
        };
    let mut seen = Vec::new();
    seen_until(&mut watch, &mut seen, 20).await;
    for _ in 0..2 {
        let leader = raft_leader(&testbed, 3).await;
        testbed.kill(leader);
        let count = seen.len() + 40;
        seen_until(&mut watch, &mut seen, count).await;
        testbed.run(leader);
        let count = seen.len() + 20;
        seen_until(&mut watch, &mut seen, count).await;
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = writer.await.unwrap();
    seen_until(&mut watch, &mut seen, acknowledged.len()).await;
    assert_eq!(seen, acknowledged, "a gap, a duplicate or another order");
    let page = store.range("/k/", None, 0, None).await.unwrap();
    assert_eq!(page.entries.len(), acknowledged.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_compaction_overtook_says_so() {
    let mut testbed = Testbed::start(1);
    let store = opened(&testbed.options()).await;
    let mut watch = store.watch("/", Revision(0)).await.unwrap();
    // Nothing is read from it until the member that it hangs on is gone, and what it should read with it.
    store
        .commit(vec![put("/a", Expect::Absent, "1")])
        .await
        .unwrap();
    testbed.kill(0);
    testbed.run(0);
    let mut last = Revision(0);
    for number in 0..5 {
        last = store
            .commit(vec![put(
                "/b",
                if number == 0 {
                    Expect::Absent
                } else {
                    Expect::Present
                },
                "1",
            )])
            .await
            .unwrap();
    }
    store.compact(last).await.unwrap();
    let error = loop {
        match watch.next().await.expect("it ended without a word") {
            Ok(batch) => assert!(batch.revision < last),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Compacted { .. }), "{error}");
    assert!(watch.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_and_a_deposed_one_writes_nothing() {
    let testbed = Testbed::start(1);
    let (one, two, term) = one_of_two_leads(&testbed).await;
    assert!(
        matches!(two.stand("https://two").await.unwrap(), Bid::Lost(leader) if leader == "https://one")
    );
    let made = one
        .commit(vec![put("/a", Expect::Absent, "1")])
        .await
        .unwrap();
    let refused = two
        .commit(vec![put("/a", Expect::Modified(made), "2")])
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::NotLeading), "{refused}");
    // Its lease ends behind its back, as after a long pause.
    one.revoke(term.lease).await;
    let refused = one
        .commit(vec![put("/a", Expect::Modified(made), "2")])
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::NotLeading), "{refused}");
    let Bid::Won(second) = two.stand("https://two").await.unwrap() else {
        panic!("the first has been deposed")
    };
    let refused = one
        .commit(vec![put("/a", Expect::Modified(made), "2")])
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::NotLeading), "{refused}");
    two.commit(vec![put("/a", Expect::Modified(made), "2")])
        .await
        .unwrap();
    let over = tokio::time::timeout(Duration::from_secs(10), term.over());
    over.await.expect("the first never hears of its end");
    second.resign().await;
    assert_eq!(one.leader().await.unwrap(), None);
    assert!(matches!(
        one.stand("https://one").await.unwrap(),
        Bid::Won(_)
    ));
}

#[tokio::test]
async fn a_leader_without_a_moment_to_spare_leads_on() {
    let testbed = Testbed::start(1);
    let (one, two, term) = one_of_two_leads(&testbed).await;
    // Nothing else gets the runtime for longer than a lease lasts.
    std::thread::sleep(Duration::from_secs(10));
    assert!(
        matches!(two.stand("https://two").await.unwrap(), Bid::Lost(leader) if leader == "https://one")
    );
    one.commit(vec![put("/a", Expect::Absent, "1")])
        .await
        .unwrap();
    drop(term);
}

#[tokio::test]
async fn members_that_are_not_there_are_named() {
    let options = EtcdOptions {
        endpoints: vec!["http://127.0.0.1:1".to_owned()],
        tls: None,
    };
    let opened = tokio::time::timeout(Duration::from_secs(30), EtcdStore::open(&options)).await;
    let error = opened.unwrap().unwrap_err();
    assert!(error.to_string().contains("http://127.0.0.1:1"), "{error}");
}
