//! Objects over a real embedded store.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use waggle_api::lookup_name;
use waggle_plan::Propagation;
use waggle_store::EmbeddedStore;

use super::*;

mod node_ports;
mod watching;

const STORED: WriteOptions = WriteOptions::STORED;
const DRY: WriteOptions = WriteOptions {
    dry_run: true,
    ..WriteOptions::STORED
};

struct Fixture {
    objects: Arc<Objects>,
    folder: tempfile::TempDir,
}

async fn objects_in(folder: &tempfile::TempDir) -> Arc<Objects> {
    let path = folder.path().join("store.redb");
    // The pump of objects that were just dropped may hold the file for another moment.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let store = loop {
        match EmbeddedStore::open(&path) {
            Err(waggle_store::Error::InUse { .. }) if std::time::Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            opened => break opened.unwrap(),
        }
    };
    let store: Arc<dyn Store> = Arc::new(store);
    let clock: Clock = Arc::new(|| jiff::Timestamp::from_second(1_800_000_000).unwrap());
    Objects::open(store, clock).await.unwrap()
}

async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let objects = objects_in(&folder).await;
    objects
        .bootstrap([10, 96, 0, 1].into(), "172.30.0.1:6443".parse().unwrap())
        .await
        .unwrap();
    Fixture { objects, folder }
}

fn kind(name: &str) -> &'static Resource {
    lookup_name(name).unwrap()
}

fn config(name: &str, data: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"},
        "data": {"x": data}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": "shop/web:1"}]}})
}

fn service(name: &str, address: Option<&str>) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": address, "ports": [{"port": 80, "protocol": "TCP"}], "selector": {"app": name}}})
}

fn deletion(grace: Option<i64>) -> DeleteOptions {
    DeleteOptions {
        grace_period_seconds: grace,
        ..DeleteOptions::default()
    }
}

async fn next(events: &mut Events) -> ObjectEvent {
    let item = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
    item.expect("the watch says nothing")
        .expect("the watch ended")
        .expect("the watch failed")
}

#[tokio::test]
async fn writers_read_what_they_wrote() {
    let Fixture { objects, .. } = fixture().await;
    let kind = kind("cm");
    let made = objects
        .create(kind, config("a", "1"), &STORED)
        .await
        .unwrap();
    assert_eq!(
        made.value["metadata"]["resourceVersion"],
        made.revision.to_string()
    );
    assert_eq!(
        serde_json::from_slice::<Value>(&made.bytes).unwrap(),
        made.value
    );
    assert_eq!(
        objects.get(kind, "default", "a").unwrap().revision,
        made.revision
    );
    let mut value = made.value.clone();
    value["data"]["x"] = "2".into();
    let changed = objects
        .update(kind, value.clone(), Part::Main, &STORED)
        .await
        .unwrap();
    assert!(changed.revision > made.revision && changed.uid == made.uid);
    // The old resourceVersion is still in `value`.
    let status = objects
        .update(kind, value, Part::Main, &STORED)
        .await
        .unwrap_err();
    assert!(status.is_conflict(), "{status}");
    // Writing the same again changes nothing.
    let same = objects
        .update(kind, changed.value.clone(), Part::Main, &STORED)
        .await
        .unwrap();
    assert_eq!(same.revision, changed.revision);
    let status = objects
        .create(kind, config("a", "1"), &STORED)
        .await
        .unwrap_err();
    assert!(status.is_already_exists(), "{status}");
}

#[tokio::test]
async fn a_dry_run_leaves_nothing_behind() {
    let Fixture { objects, .. } = fixture().await;
    let before = *objects.changed().borrow();
    let made = objects
        .create(kind("svc"), service("web", None), &DRY)
        .await
        .unwrap();
    assert!(made.value["spec"]["clusterIP"].is_string());
    assert!(objects.get(kind("svc"), "default", "web").is_none());
    let options = DeleteOptions {
        dry_run: Some(vec!["All".into()]),
        ..DeleteOptions::default()
    };
    objects
        .delete(kind("ns"), "", "kube-node-lease", &options)
        .await
        .unwrap();
    assert!(
        objects
            .get(kind("ns"), "", "kube-node-lease")
            .unwrap()
            .value["metadata"]["deletionTimestamp"]
            .is_null()
    );
    assert_eq!(*objects.changed().borrow(), before);
    // The address that the dry run saw is free.
    let address = made.value["spec"]["clusterIP"].as_str().map(str::to_owned);
    objects
        .create(kind("svc"), service("web", address.as_deref()), &STORED)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_once_are_all_kept_and_a_watch_sees_each_once() {
    let Fixture { objects, .. } = fixture().await;
    let kind = kind("cm");
    let made = objects
        .create(kind, config("count", "0"), &STORED)
        .await
        .unwrap();
    let mut events = objects.watch(kind, made.revision).unwrap();
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let objects = Arc::clone(&objects);
            tokio::spawn(async move {
                for _ in 0..10 {
                    let count = |old: &Object| {
                        let number: u32 = old.value["data"]["x"].as_str().unwrap().parse().unwrap();
                        let mut value = old.value.clone();
                        value["data"]["x"] = (number + 1).to_string().into();
                        Ok(value)
                    };
                    // More contention than anybody meets: a conflict is an answer, not a loss.
                    while objects
                        .modify(kind, "default", "count", Part::Main, &STORED, count)
                        .await
                        .is_err()
                    {}
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for number in 1..=60 {
        let event = next(&mut events).await;
        assert_eq!(event.kind, EventKind::Modified);
        assert_eq!(event.object.value["data"]["x"], number.to_string());
        assert_eq!(
            event.previous.unwrap().value["data"]["x"],
            (number - 1).to_string()
        );
    }
    assert!(events.next().now_or_never().is_none());
}

#[tokio::test]
async fn a_watch_from_before_the_start_is_told_to_list_again() {
    let Fixture { objects, folder } = fixture().await;
    let made = objects
        .create(kind("cm"), config("a", "1"), &STORED)
        .await
        .unwrap();
    drop(objects);
    let objects = objects_in(&folder).await;
    assert_eq!(
        objects
            .watch(kind("cm"), made.revision - 1)
            .err()
            .unwrap()
            .code,
        410
    );
    let mut events = objects.watch(kind("cm"), made.revision).unwrap();
    objects
        .delete(kind("cm"), "default", "a", &deletion(None))
        .await
        .unwrap();
    let event = next(&mut events).await;
    assert_eq!(event.kind, EventKind::Deleted);
    assert!(event.object.revision > made.revision);
    assert_eq!(
        event.object.value["metadata"]["resourceVersion"],
        event.object.revision.to_string()
    );
}

#[tokio::test]
async fn a_watcher_that_falls_behind_the_ring_is_told_so() {
    let Fixture { objects, .. } = fixture().await;
    let made = objects
        .create(kind("cm"), config("a", "1"), &STORED)
        .await
        .unwrap();
    let mut events = objects.watch(kind("cm"), made.revision - 1).unwrap();
    assert_eq!(next(&mut events).await.object.name, "a");
    // More in one transaction than is kept.
    let value = Some(Bytes::from(config("x", "1").to_string()));
    let write = |number: usize| waggle_store::Write {
        key: kind("cm").key("default", &format!("x{number}")),
        expect: waggle_store::Expect::Absent,
        value: value.clone(),
    };
    let revision = objects
        .store
        .commit((0..ring::RING + 10).map(write).collect())
        .await
        .unwrap();
    objects.reached(revision.0).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap_err().code, 410);
    assert!(events.next().await.is_none());
    assert_eq!(
        objects.watch(kind("cm"), made.revision).err().unwrap().code,
        410
    );
    assert!(objects.watch(kind("cm"), revision.0).is_ok());
}

#[tokio::test]
async fn a_revision_of_no_object_is_reached() {
    let Fixture { objects, .. } = fixture().await;
    let write = waggle_store::Write {
        key: "/elsewhere/a".into(),
        expect: waggle_store::Expect::Absent,
        value: Some(Bytes::new()),
    };
    let revision = objects.store.commit(vec![write]).await.unwrap();
    let reached = tokio::time::timeout(Duration::from_secs(5), objects.reached(revision.0));
    reached.await.unwrap().unwrap();
    assert!(*objects.changed().borrow() >= revision.0);
}

#[tokio::test]
async fn after_a_gap_the_cache_is_read_anew_and_watchers_list_again() {
    let Fixture { objects, .. } = fixture().await;
    let made = objects
        .create(kind("cm"), config("a", "1"), &STORED)
        .await
        .unwrap();
    let mut events = objects.watch(kind("cm"), made.revision).unwrap();
    assert!(events.next().now_or_never().is_none());
    objects.cache.reload(objects.store.as_ref()).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap_err().code, 410);
    assert_eq!(objects.list(kind("cm"), None).objects.len(), 1);
    let now = *objects.changed().borrow();
    let mut events = objects.watch(kind("cm"), now).unwrap();
    objects
        .create(kind("cm"), config("b", "1"), &STORED)
        .await
        .unwrap();
    assert_eq!(next(&mut events).await.object.name, "b");
}

#[tokio::test]
async fn lists_show_the_past() {
    let Fixture { objects, .. } = fixture().await;
    let kind = kind("cm");
    let first = objects
        .create(kind, config("a", "1"), &STORED)
        .await
        .unwrap();
    objects
        .create(kind, config("b", "1"), &STORED)
        .await
        .unwrap();
    let past = objects
        .list_at(kind, Some("default"), first.revision)
        .await
        .unwrap();
    assert_eq!(
        past.objects
            .iter()
            .map(|object| object.name.as_str())
            .collect::<Vec<_>>(),
        ["a"]
    );
    assert_eq!(
        (past.revision, past.objects[0].revision),
        (first.revision, first.revision)
    );
    let now = *objects.changed().borrow();
    assert_eq!(
        objects
            .list_at(kind, None, now)
            .await
            .unwrap()
            .objects
            .len(),
        2
    );
    objects.compact(now).await.unwrap();
    assert_eq!(
        objects
            .list_at(kind, None, first.revision)
            .await
            .unwrap_err()
            .code,
        410
    );
}

#[tokio::test]
async fn objects_need_a_living_namespace() {
    let Fixture { objects, .. } = fixture().await;
    let mut value = config("a", "1");
    value["metadata"]["namespace"] = "nowhere".into();
    let status = objects
        .create(kind("cm"), value.clone(), &STORED)
        .await
        .unwrap_err();
    assert_eq!(
        (status.code, status.message.as_str()),
        (404, "namespaces \"nowhere\" not found")
    );
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "nowhere"}});
    objects
        .create(kind("ns"), namespace, &STORED)
        .await
        .unwrap();
    objects
        .create(kind("cm"), value.clone(), &STORED)
        .await
        .unwrap();
    let deleted = objects
        .delete(kind("ns"), "", "nowhere", &deletion(None))
        .await
        .unwrap();
    assert!(matches!(deleted, Deleted::Marked(_)));
    assert_eq!(deleted.object().value["status"]["phase"], "Terminating");
    value["metadata"]["name"] = "b".into();
    let status = objects
        .create(kind("cm"), value, &STORED)
        .await
        .unwrap_err();
    assert_eq!(status.code, 403, "{status}");
    let object = waggle_plan::ObjectRef {
        api_version: "v1".into(),
        kind: "Namespace".into(),
        name: "nowhere".into(),
        uid: deleted.object().uid.clone(),
        ..waggle_plan::ObjectRef::default()
    };
    let done = waggle_plan::Write::RemoveFinalizer {
        object,
        finalizer: "kubernetes".into(),
    };
    assert_eq!(objects.apply_plan(vec![done]).await, [Ok(())]);
    assert!(objects.get(kind("ns"), "", "nowhere").is_none());
}

#[tokio::test]
async fn a_pod_goes_when_its_node_lets_it() {
    let Fixture { objects, .. } = fixture().await;
    let pods = kind("pod");
    objects.create(pods, pod("free"), &STORED).await.unwrap();
    let gone = objects
        .delete(pods, "default", "free", &deletion(None))
        .await
        .unwrap();
    assert!(matches!(gone, Deleted::Gone(_)));
    let bound = objects.create(pods, pod("bound"), &STORED).await.unwrap();
    objects
        .bind("default", "bound", &bound.uid, "node1")
        .await
        .unwrap();
    let marked = objects
        .delete(pods, "default", "bound", &deletion(None))
        .await
        .unwrap();
    assert!(matches!(marked, Deleted::Marked(_)));
    assert_eq!(
        marked.object().value["metadata"]["deletionGracePeriodSeconds"],
        30
    );
    let again = objects
        .delete(pods, "default", "bound", &deletion(None))
        .await
        .unwrap();
    assert_eq!(again.object().revision, marked.object().revision);
    let gone = objects
        .delete(pods, "default", "bound", &deletion(Some(0)))
        .await
        .unwrap();
    assert!(matches!(gone, Deleted::Gone(_)));
    assert!(
        objects
            .delete(pods, "default", "bound", &deletion(None))
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_taken() {
    let Fixture { objects, .. } = fixture().await;
    let kind = kind("cm");
    let mut value = config("held", "1");
    value["metadata"]["finalizers"] = json!(["example.com/one"]);
    objects.create(kind, value, &STORED).await.unwrap();
    let marked = objects
        .delete(kind, "default", "held", &deletion(None))
        .await
        .unwrap();
    assert!(matches!(marked, Deleted::Marked(_)));
    let mut value = marked.object().value.clone();
    value["metadata"]["finalizers"] = json!([]);
    objects
        .update(kind, value, Part::Main, &STORED)
        .await
        .unwrap();
    assert!(objects.get(kind, "default", "held").is_none());
}

#[tokio::test]
async fn preconditions_are_kept() {
    let Fixture { objects, .. } = fixture().await;
    objects
        .create(kind("cm"), config("a", "1"), &STORED)
        .await
        .unwrap();
    let preconditions = Some(waggle_api::life::Preconditions {
        uid: Some("other".into()),
        resource_version: None,
    });
    let options = DeleteOptions {
        preconditions,
        ..DeleteOptions::default()
    };
    let status = objects
        .delete(kind("cm"), "default", "a", &options)
        .await
        .unwrap_err();
    assert!(status.is_conflict(), "{status}");
    assert!(objects.get(kind("cm"), "default", "a").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_service_address_is_given_twice() {
    let Fixture { objects, folder } = fixture().await;
    let kind = kind("svc");
    let tasks: Vec<_> = (0..40)
        .map(|number| {
            let objects = Arc::clone(&objects);
            tokio::spawn(async move {
                objects
                    .create(kind, service(&format!("s{number}"), None), &STORED)
                    .await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let addresses = |objects: &Objects| {
        let services = objects.list(kind, None).objects;
        services
            .iter()
            .map(|one| one.value["spec"]["clusterIP"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mut all = addresses(&objects);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 41, "40 and the API's");
    assert!(
        !all.contains(&"10.96.0.10".to_owned()),
        "the DNS address is kept"
    );
    let taken = all.last().cloned().unwrap();
    let status = objects
        .create(kind, service("thief", Some(&taken)), &STORED)
        .await
        .unwrap_err();
    assert_eq!(status.code, 422, "{status}");
    let dns = objects
        .create(kind, service("dns", Some("10.96.0.10")), &STORED)
        .await
        .unwrap();
    assert_eq!(dns.value["spec"]["clusterIPs"], json!(["10.96.0.10"]));
    let headless = objects
        .create(kind, service("headless", Some("None")), &STORED)
        .await
        .unwrap();
    assert_eq!(headless.value["spec"]["clusterIP"], "None");
    let outside = objects
        .create(kind, service("outside", Some("10.97.0.1")), &STORED)
        .await
        .unwrap_err();
    assert_eq!(outside.code, 422, "{outside}");
    // A restart knows whose they are; a deletion frees.
    drop(objects);
    let objects = objects_in(&folder).await;
    let status = objects
        .create(kind, service("thief", Some(&taken)), &STORED)
        .await
        .unwrap_err();
    assert_eq!(status.code, 422, "{status}");
    let owner = objects
        .list(kind, None)
        .objects
        .iter()
        .find(|one| one.value["spec"]["clusterIP"] == *taken)
        .cloned();
    objects
        .delete(kind, "default", &owner.unwrap().name, &deletion(None))
        .await
        .unwrap();
    objects
        .create(kind, service("heir", Some(&taken)), &STORED)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_plan_is_committed_and_each_write_answered() {
    let Fixture { objects, .. } = fixture().await;
    let pods = kind("pod");
    let mut writes = Vec::new();
    for number in 0..4 {
        writes.push(waggle_plan::Write::Create(pod(&format!("p{number}"))));
    }
    writes.push(waggle_plan::Write::Create(pod("p0")));
    let answers = objects.apply_plan(writes).await;
    assert!(answers[..4].iter().all(Result::is_ok), "{answers:?}");
    assert!(answers[4].as_ref().unwrap_err().is_already_exists());
    let uid = |name: &str| objects.get(pods, "default", name).unwrap().uid.clone();
    let bind = |name: &str, uid: String| waggle_plan::Write::Bind {
        namespace: "default".into(),
        name: name.into(),
        uid,
        node: "node1".into(),
    };
    let before = *objects.changed().borrow();
    let answers = objects
        .apply_plan(vec![
            bind("p0", uid("p0")),
            bind("p1", uid("p1")),
            bind("p2", "other".into()),
        ])
        .await;
    assert!(
        answers[0].is_ok() && answers[1].is_ok() && answers[2].as_ref().unwrap_err().is_conflict(),
        "{answers:?}"
    );
    assert_eq!(*objects.changed().borrow(), before + 1, "one transaction");
    let bound = objects.get(pods, "default", "p1").unwrap();
    assert_eq!(bound.value["spec"]["nodeName"], "node1");
    let scheduled = &bound.value["status"]["conditions"][0];
    assert_eq!(
        (&scheduled["type"], &scheduled["status"]),
        (&json!("PodScheduled"), &json!("True"))
    );
    let again = objects.apply_plan(vec![bind("p1", uid("p1"))]).await;
    assert!(again[0].as_ref().unwrap_err().is_conflict());
    let delete = |name: &str, uid: String| waggle_plan::Write::Delete {
        api_version: "v1".into(),
        kind: "Pod".into(),
        namespace: "default".into(),
        name: name.into(),
        uid,
        grace_seconds: Some(0),
        propagation: Propagation::Background,
    };
    let answers = objects
        .apply_plan(vec![delete("p3", "other".into()), delete("p3", uid("p3"))])
        .await;
    assert!(
        answers[0].as_ref().unwrap_err().is_conflict() && answers[1].is_ok(),
        "{answers:?}"
    );
    assert!(objects.get(pods, "default", "p3").is_none());
}

#[tokio::test]
async fn names_are_generated_and_generations_counted() {
    let Fixture { objects, .. } = fixture().await;
    let mut value = pod("x");
    value["metadata"] = json!({"generateName": "web-", "namespace": "default"});
    let one = objects
        .create(kind("pod"), value.clone(), &STORED)
        .await
        .unwrap();
    let two = objects.create(kind("pod"), value, &STORED).await.unwrap();
    assert!(one.name.starts_with("web-") && one.name.len() == 9 && one.name != two.name);
    let status = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": one.name, "namespace": "default"},
        "spec": {"nodeName": "smuggled"}, "status": {"phase": "Running"}});
    let updated = objects
        .update(kind("pod"), status, Part::Status, &STORED)
        .await
        .unwrap();
    assert_eq!(updated.value["status"]["phase"], "Running");
    assert!(updated.value["spec"]["nodeName"].is_null());
}

#[tokio::test]
async fn bootstrapping_again_changes_nothing() {
    let Fixture { objects, folder } = fixture().await;
    let before = *objects.changed().borrow();
    drop(objects);
    let objects = objects_in(&folder).await;
    objects
        .bootstrap([10, 96, 0, 1].into(), "172.30.0.1:6443".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(*objects.changed().borrow(), before);
    objects
        .bootstrap([10, 96, 0, 1].into(), "172.30.0.2:6443".parse().unwrap())
        .await
        .unwrap();
    let slice = objects
        .get(kind("endpointslices"), "default", "kubernetes")
        .unwrap();
    assert_eq!(
        slice.value["endpoints"][0]["addresses"],
        json!(["172.30.0.2"])
    );
    let endpoints = objects.get(kind("endpoints"), "default", "kubernetes");
    assert_eq!(
        endpoints.unwrap().value["subsets"][0]["addresses"],
        json!([{"ip": "172.30.0.2"}])
    );
}
