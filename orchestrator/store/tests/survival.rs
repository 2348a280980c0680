//! What the embedded store survives, tried on real processes and a real full disk: kill -9 in the middle of commits,
//! and a file system with no space left. Each test starts this test program again as its victim.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use waggle_store::{EmbeddedStore, Error, Expect, Revision, Store, Write};

/// Tells a victim what to do, and where.
const ROLE: &str = "WAGGLE_STORE_TEST_ROLE";
const FILE: &str = "WAGGLE_STORE_TEST_FILE";

fn put(key: String, expect: Expect, value: Vec<u8>) -> Write {
    Write {
        key,
        expect,
        value: Some(Bytes::from(value)),
    }
}

fn victim(role: &str, test: &str, file: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(FILE, file);
    command
}

fn role() -> Option<(String, PathBuf)> {
    Some((
        std::env::var(ROLE).ok()?,
        PathBuf::from(std::env::var_os(FILE)?),
    ))
}

/// How many writers there are at once, each with keys of its own.
const WRITERS: u64 = 4;
/// Keys of a writer.
const KEYS: u64 = 24;
/// Kills of a usual run; `cargo xtask test crashes` asks for thousands.
const KILLS: u64 = 12;

/// A number that looks like any other, always the same for the same two.
fn mixed(a: u64, b: u64) -> u64 {
    let mut mixed = (a << 32 | b).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 32
}

/// What a writer's transaction of this number does: the key, and the length of its value unless it is deleted.
fn step(writer: u64, number: u64) -> (String, Option<usize>) {
    let random = mixed(writer, number);
    let length = if random.is_multiple_of(97) {
        300_000
    } else {
        (random >> 8) % 3000
    };
    let key = format!("/{writer}/{:02}", (random >> 20) % KEYS);
    let kept = !(random >> 40).is_multiple_of(4);
    (key, kept.then_some(usize::try_from(length).unwrap()))
}

/// Bytes that say of which transaction they are.
fn content(number: u64, length: usize) -> Vec<u8> {
    number
        .to_le_bytes()
        .into_iter()
        .cycle()
        .take(length)
        .collect()
}

/// One writer's transactions, one after the other: each notes its number and changes one key.
async fn write_for_ever(store: &EmbeddedStore, writer: u64) {
    let note = format!("/notes/{writer}");
    let noted = store.get(&note).await.unwrap();
    let last = noted.map_or(0, |entry| {
        u64::from_le_bytes(entry.value[..].try_into().unwrap())
    });
    for number in last + 1.. {
        let (key, length) = step(writer, number);
        let there = store.get(&key).await.unwrap();
        let mut writes = vec![put(
            note.clone(),
            if number == 1 {
                Expect::Absent
            } else {
                Expect::Present
            },
            number.to_le_bytes().to_vec(),
        )];
        let expect = there
            .as_ref()
            .map_or(Expect::Absent, |entry| Expect::Modified(entry.modified));
        match length {
            Some(length) => writes.push(put(key, expect, content(number, length))),
            None if there.is_some() => writes.push(Write {
                key,
                expect,
                value: None,
            }),
            None => {}
        }
        let revision = store.commit(writes).await.unwrap();
        println!("acknowledged {writer} {number}");
        if number.is_multiple_of(40) {
            store
                .compact(Revision(revision.0.saturating_sub(20)))
                .await
                .unwrap();
        }
    }
}

/// Lets the victim work for a while after its first word, which it says before it makes or opens its store, and kills it:
/// what it acknowledged last, by writer.
fn killed_after(mut child: Child, work: Duration) -> BTreeMap<u64, u64> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = BTreeMap::new();
    let mut hear = |line: String| {
        let mut words = line.split("acknowledged ").nth(1)?.split(' ');
        let mut number = || words.next()?.trim().parse::<u64>().ok();
        said.insert(number()?, number()?)
    };
    let mut killer = None;
    while let Some(Ok(line)) = lines.next() {
        hear(line);
        killer.get_or_insert_with(|| {
            std::thread::spawn(move || {
                std::thread::sleep(work);
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)
            })
        });
    }
    killer
        .expect("the victim wrote nothing")
        .join()
        .unwrap()
        .unwrap();
    child.wait().unwrap();
    said
}

/// The model of one writer's keys after this many transactions.
fn modelled(writer: u64, last: u64) -> BTreeMap<String, (u64, usize)> {
    let mut model = BTreeMap::new();
    for number in 1..=last {
        match step(writer, number) {
            (key, Some(length)) => drop(model.insert(key, (number, length))),
            (key, None) => drop(model.remove(&key)),
        }
    }
    model
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_to_kill_9() {
    if let Some((_, file)) = role() {
        let store = EmbeddedStore::open(&file).unwrap();
        let writers = (0..WRITERS).map(|writer| write_for_ever(&store, writer));
        futures::future::join_all(writers).await;
        return;
    }
    let kills = std::env::var("WAGGLE_STORE_KILLS");
    let kills = kills.map_or(KILLS, |kills| kills.parse().unwrap());
    let mut folder = tempfile::tempdir().unwrap();
    let test = "nothing_acknowledged_is_lost_to_kill_9";
    for kill in 0..kills {
        // A new one every now and then, so that the making of a store is killed as well.
        if kill.is_multiple_of(6) {
            folder = tempfile::tempdir().unwrap();
        }
        let file = folder.path().join("store.redb");
        let child = victim("writer", test, &file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let work = Duration::from_micros(mixed(kill, 7) % 40_000);
        let acknowledged = killed_after(child, work);
        let store = EmbeddedStore::open(&file).unwrap();
        for writer in 0..WRITERS {
            let noted = store.get(&format!("/notes/{writer}")).await.unwrap();
            let last = noted.map_or(0, |entry| {
                u64::from_le_bytes(entry.value[..].try_into().unwrap())
            });
            // One more may have been durable without having been said. Who said nothing this time may have said so before.
            if let Some(&said) = acknowledged.get(&writer) {
                assert!(
                    last == said || last == said + 1,
                    "kill {kill}: {last} after {said}"
                );
            }
            let page = store
                .range(&format!("/{writer}/"), None, 0, None)
                .await
                .unwrap();
            let model = modelled(writer, last);
            let keys: Vec<&String> = page.entries.iter().map(|entry| &entry.key).collect();
            assert_eq!(
                keys,
                model.keys().collect::<Vec<_>>(),
                "kill {kill}: half a transaction, or a lost one"
            );
            for (entry, (number, length)) in page.entries.iter().zip(model.values()) {
                assert!(
                    entry.value == content(*number, *length),
                    "kill {kill}: {} is another's",
                    entry.key
                );
            }
        }
    }
}

/// On a small file system: writes until it is full, sees that nothing is half applied and that reading goes on, makes
/// room, goes on writing.
async fn fill_the_disk(file: &Path) {
    let ballast = file.with_file_name("ballast");
    std::fs::write(&ballast, vec![1; 6 << 20]).unwrap();
    let store = EmbeddedStore::open(file).unwrap();
    let mut last = 0u64;
    let error = loop {
        let number = last + 1;
        let pair = ["a", "b"].map(|side| {
            put(
                format!("/{side}/{number:08}"),
                Expect::Absent,
                vec![7; 64 << 10],
            )
        });
        match store.commit(pair.into()).await {
            Ok(revision) => last = revision.0,
            Err(error) => break error,
        }
        assert!(last < 10_000, "the file system never got full");
    };
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert!(
        error.to_string().contains(file.to_str().unwrap()),
        "{error}"
    );
    assert!(last > 0, "full before the first commit");
    whole(&store, last).await;
    let again = store
        .commit(vec![put(
            "/a/more".into(),
            Expect::Absent,
            vec![7; 1 << 20],
        )])
        .await
        .unwrap_err();
    assert!(matches!(again, Error::Full { .. }), "{again}");
    whole(&store, last).await;
    std::fs::remove_file(&ballast).unwrap();
    for number in last + 1..=last + 5 {
        let pair = ["a", "b"].map(|side| {
            put(
                format!("/{side}/{number:08}"),
                Expect::Absent,
                vec![7; 64 << 10],
            )
        });
        assert_eq!(store.commit(pair.into()).await.unwrap(), Revision(number));
    }
    whole(&store, last + 5).await;
    drop(store);
    whole(&EmbeddedStore::open(file).unwrap(), last + 5).await;
    println!("survived");
}

async fn whole(store: &EmbeddedStore, revision: u64) {
    assert_eq!(store.revision().await.unwrap(), Revision(revision));
    for side in ["/a/", "/b/"] {
        assert_eq!(
            store
                .range(side, None, 0, None)
                .await
                .unwrap()
                .entries
                .len() as u64,
            revision
        );
    }
}

fn output(mut command: Command) -> String {
    let started = Instant::now();
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "it took too long: {text}"
    );
    text
}

#[tokio::test]
async fn a_full_disk_is_an_answer_and_not_the_end() {
    let test = "a_full_disk_is_an_answer_and_not_the_end";
    match role() {
        // In a mount namespace of its own: a small file system where the store goes.
        Some((role, file)) if role == "mount" => {
            let folder = file.parent().unwrap();
            let mount = Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=12m", "wgt-store"])
                .arg(folder)
                .status();
            assert!(mount.unwrap().success());
            let said = output(victim("fill", test, &file));
            assert!(said.contains("survived"), "{said}");
            println!("survived");
        }
        Some((_, file)) => fill_the_disk(&file).await,
        None => {
            let folder = tempfile::tempdir().unwrap();
            let inner = victim("mount", test, &folder.path().join("store.redb"));
            let mut unshare = Command::new("unshare");
            // As root plainly; otherwise as root of a user namespace of our own.
            if !nix::unistd::geteuid().is_root() {
                unshare.args(["--user", "--map-root-user"]);
            }
            unshare
                .args(["--mount", "--propagation", "private"])
                .arg(inner.get_program())
                .args(inner.get_args());
            for (name, value) in inner.get_envs() {
                unshare.env(name, value.unwrap());
            }
            let said = output(unshare);
            assert!(said.contains("survived"), "{said}");
        }
    }
}

/// The writes fail in the middle of a commit here, where the full disk above is mostly seen beforehand.
#[tokio::test]
async fn a_write_that_fails_half_way_is_undone() {
    let test = "a_write_that_fails_half_way_is_undone";
    let Some((_, file)) = role() else {
        let folder = tempfile::tempdir().unwrap();
        let said = output(victim("limit", test, &folder.path().join("store.redb")));
        assert!(said.contains("survived"), "{said}");
        return;
    };
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // A write over the limit gets EFBIG once the signal that comes with it is held back, in every thread made from here.
    let held = nix::sys::signal::SigSet::from_iter([nix::sys::signal::Signal::SIGXFSZ]);
    held.thread_block().unwrap();
    let store = EmbeddedStore::open(&file).unwrap();
    let first = put("/a/1".into(), Expect::Absent, vec![1; 1000]);
    assert_eq!(store.commit(vec![first]).await.unwrap(), Revision(1));
    let (soft, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    let size = std::fs::metadata(&file).unwrap().len();
    setrlimit(Resource::RLIMIT_FSIZE, size + (64 << 10), hard).unwrap();
    let large = || put("/a/2".into(), Expect::Absent, vec![2; 4 << 20]);
    let error = store.commit(vec![large()]).await.unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert_eq!(store.get("/a/2").await.unwrap(), None);
    assert_eq!(
        store.get("/a/1").await.unwrap().unwrap().modified,
        Revision(1)
    );
    setrlimit(Resource::RLIMIT_FSIZE, soft, hard).unwrap();
    assert_eq!(store.commit(vec![large()]).await.unwrap(), Revision(2));
    assert_eq!(
        store.get("/a/2").await.unwrap().unwrap().value.len(),
        4 << 20
    );
    println!("survived");
}
