//! Watches of one object, and objects that are kept as text alone.

use super::*;

async fn update(objects: &Arc<Objects>, name: &str, data: &str) {
    let (kind, value) = (kind("cm"), config(name, data));
    objects
        .update(kind, value, Part::Main, &STORED)
        .await
        .unwrap();
}

async fn create(objects: &Arc<Objects>, name: &str) -> Arc<Object> {
    let (kind, value) = (kind("cm"), config(name, "0"));
    objects.create(kind, value, &STORED).await.unwrap()
}

#[tokio::test]
async fn a_watch_of_one_object_tells_of_it_alone() {
    let Fixture { objects, .. } = fixture().await;
    let made = create(&objects, "a").await;
    create(&objects, "b").await;
    update(&objects, "a", "1").await;
    // It begins in the past, where others' events are as well.
    let one = |after| objects.watch_one(kind("cm"), "default", "a", after);
    let mut first = one(made.revision - 1).unwrap();
    update(&objects, "b", "1").await;
    update(&objects, "a", "2").await;
    let mut second = one(made.revision).unwrap();
    objects
        .delete(kind("cm"), "default", "a", &deletion(None))
        .await
        .unwrap();
    create(&objects, "a").await;
    let mut all = objects.watch(kind("cm"), made.revision - 1).unwrap();
    let mut expected = Vec::new();
    while let Some(Some(event)) = all.next().now_or_never() {
        let event = event.unwrap();
        if event.object.name == "a" {
            expected.push((event.object.revision, event.kind));
        }
    }
    assert_eq!(expected.len(), 5);
    for (watch, expected) in [(&mut first, &expected[..]), (&mut second, &expected[1..])] {
        let mut seen = Vec::new();
        while let Some(Some(event)) = watch.next().now_or_never() {
            let event = event.unwrap();
            seen.push((event.object.revision, event.kind));
        }
        assert_eq!(seen, expected);
    }
    assert_eq!(objects.cache.watched_by_name(kind("cm")), 1);
    drop((first, second));
    assert_eq!(objects.cache.watched_by_name(kind("cm")), 0);
    // One that is too late leaves nothing behind either.
    objects.cache.reload(objects.store.as_ref()).await.unwrap();
    assert_eq!(one(made.revision).err().unwrap().code, 410);
    assert_eq!(objects.cache.watched_by_name(kind("cm")), 0);
}

#[tokio::test]
async fn a_watch_of_one_object_is_told_of_a_gap() {
    let Fixture { objects, .. } = fixture().await;
    let made = create(&objects, "a").await;
    let mut events = objects
        .watch_one(kind("cm"), "default", "a", made.revision)
        .unwrap();
    assert!(events.next().now_or_never().is_none());
    objects.cache.reload(objects.store.as_ref()).await.unwrap();
    assert_eq!(next_fault(&mut events).await.code, 410);
    assert!(events.next().await.is_none());
}

async fn next_fault(events: &mut Events) -> Status {
    let item = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
    item.expect("the watch says nothing")
        .expect("it ended")
        .unwrap_err()
}

#[tokio::test]
async fn what_nobody_looks_at_is_kept_as_text_alone() {
    let Fixture { objects, .. } = fixture().await;
    objects.cooler.abort();
    let made = create(&objects, "a").await;
    update(&objects, "a", "1").await;
    let get = || objects.get(kind("cm"), "default", "a").unwrap();
    let whole = get().value.clone();
    // Looked at just now, so the first round leaves it.
    objects.cache.cool(Duration::ZERO).await;
    assert!(get().value.is_there());
    objects.cache.cool(Duration::ZERO).await;
    let cold = get();
    assert!(!cold.value.is_there(), "still decoded");
    assert_eq!(cold.value.glance(Value::clone), whole);
    assert!(!cold.value.is_there(), "a glance leaves nothing");
    drop(cold.shown(cold.resource));
    assert!(!cold.value.is_there(), "nor does a list, or a watch");
    let mut events = objects.watch(kind("cm"), made.revision).unwrap();
    let event = next(&mut events).await;
    assert!(
        !event.object.value.is_there() && !event.previous.is_some_and(|old| old.value.is_there())
    );
    assert_eq!(
        (event.object.revision, &event.object.bytes),
        (cold.revision, &cold.bytes)
    );
    // Whoever looks has it, and changes go on from there.
    assert_eq!(cold.value["data"]["x"], "1");
    assert!(get().value.is_there());
    update(&objects, "a", "2").await;
    assert_eq!(get().value["data"]["x"], "2");
}

#[tokio::test]
async fn what_was_written_is_soon_kept_as_text_alone_everywhere() {
    let Fixture { objects, .. } = fixture().await;
    objects.cooler.abort();
    let start = *objects.changed().borrow();
    let mut one = objects
        .watch_one(kind("cm"), "default", "a", start)
        .unwrap();
    assert!(ready_now(&mut one).is_none());
    let made = create(&objects, "a").await;
    update(&objects, "a", "1").await;
    drop(made);
    let mut rounds = std::collections::HashMap::new();
    for _ in 0..2 {
        objects.cache.cool_written(&mut rounds);
    }
    let get = || objects.get(kind("cm"), "default", "a").unwrap();
    assert!(!get().value.is_there());
    let all = objects.watch(kind("cm"), start).unwrap();
    for mut events in [one, all] {
        for _ in 0..2 {
            let event = next(&mut events).await;
            let both = std::iter::once(&event.object).chain(&event.previous);
            assert!(!both.into_iter().any(|object| object.value.is_there()));
        }
    }
    // One that is looked at, or changed again, stays.
    update(&objects, "a", "2").await;
    objects.cache.cool_written(&mut rounds);
    assert_eq!(get().value["data"]["x"], "2");
    objects.cache.cool_written(&mut rounds);
    assert!(get().value.is_there());
    objects.cache.cool_written(&mut rounds);
    assert!(get().value.is_there(), "the slow round's");
}

#[tokio::test]
async fn what_is_there_is_had_when_the_task_should_yield() {
    let Fixture { objects, .. } = fixture().await;
    let mut events = objects
        .watch(kind("cm"), *objects.changed().borrow())
        .unwrap();
    assert!(ready_now(&mut events).is_none());
    create(&objects, "a").await;
    while tokio::task::coop::has_budget_remaining() {
        tokio::task::consume_budget().await;
    }
    let event = ready_now(&mut events).unwrap().unwrap().unwrap();
    assert_eq!(event.object.name, "a");
}
