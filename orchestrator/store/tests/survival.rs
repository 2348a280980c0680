//! What the embedded store survives, tried on real processes and a real full disk: kill -9 in the middle of commits,
//! and a file system with no space left. Each test starts this test program again as its victim.

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

/// Writes pairs of keys for ever; prints each number once it is acknowledged.
async fn write_for_ever(file: &Path) {
    let store = EmbeddedStore::open(file).unwrap();
    let start = store.revision().await.unwrap().0;
    for number in start + 1.. {
        let value = vec![u8::try_from(number % 251).unwrap(); 2000];
        let pair = ["a", "b"].map(|side| {
            put(
                format!("/{side}/{number:08}"),
                Expect::Absent,
                value.clone(),
            )
        });
        let revision = store.commit(pair.into()).await.unwrap();
        assert_eq!(revision, Revision(number));
        println!("acknowledged {number}");
    }
}

/// Kills the victim after `some` acknowledgements; the last number that it acknowledged.
fn kill_after(mut child: Child, some: usize) -> u64 {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut numbers = lines.map_while(Result::ok).filter_map(|line| {
        line.split("acknowledged ")
            .nth(1)
            .and_then(|number| number.trim().parse::<u64>().ok())
    });
    let mut last = 0;
    for number in numbers.by_ref().take(some) {
        last = number;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it still said before it died counts as well.
    numbers.last().unwrap_or(last)
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_to_kill_9() {
    if let Some((_, file)) = role() {
        return write_for_ever(&file).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.redb");
    let test = "nothing_acknowledged_is_lost_to_kill_9";
    for round in 1..=4usize {
        let child = victim("writer", test, &file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let acknowledged = kill_after(child, 10 * round);
        assert!(acknowledged > 0, "the victim wrote nothing");
        let store = EmbeddedStore::open(&file).unwrap();
        let revision = store.revision().await.unwrap().0;
        // One more may have been durable without having been said.
        assert!(
            revision == acknowledged || revision == acknowledged + 1,
            "{revision} after {acknowledged}"
        );
        for side in ["/a/", "/b/"] {
            let page = store.range(side, None, 0, None).await.unwrap();
            assert_eq!(
                page.entries.len() as u64,
                revision,
                "half a transaction, or a lost one"
            );
            for (entry, number) in page.entries.iter().zip(1u64..) {
                assert_eq!(entry.modified, Revision(number));
                assert!(
                    entry
                        .value
                        .iter()
                        .all(|&byte| u64::from(byte) == number % 251)
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
