//! Tables of disks and images, and one store.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::*;

const NOW: u64 = 1_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// `id arrived used layer:bytes...`, times in seconds before now.
fn stock(lines: &[&str]) -> Vec<Stocked> {
    let one = |line: &&str| {
        let mut words = line.split(' ');
        let id = words.next().unwrap_or_default().to_owned();
        let mut time = || at(NOW - words.next().unwrap().parse::<u64>().unwrap());
        let (arrived, used) = (time(), time());
        let layer = |word: &str| {
            let (name, bytes) = word.split_once(':').unwrap();
            (PathBuf::from(name), bytes.parse().unwrap())
        };
        Stocked {
            id,
            arrived,
            used,
            layers: words.map(layer).collect(),
        }
    };
    lines.iter().map(one).collect()
}

fn check(
    options: &ImageGcOptions,
    images: &[&str],
    in_use: &str,
    wanted: u64,
    expect: (&str, u64),
) {
    let set = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let expect = Doomed {
        ids: set(expect.0),
        bytes: expect.1,
    };
    let found = doomed(options, &stock(images), &set(in_use), wanted, at(NOW));
    assert_eq!(found, expect, "{images:?}, {in_use:?}, {wanted}");
}

#[test]
fn a_disk_above_the_high_threshold_is_brought_below_the_low_one() {
    let options = ImageGcOptions::default();
    let disk = |free| Disk {
        bytes: 1000,
        bytes_free: free,
        ..Disk::default()
    };
    for (free, wanted) in [(1000, 0), (151, 0), (150, 50), (10, 190), (0, 200)] {
        assert_eq!(options.wanted(disk(free)), wanted, "{free} free");
    }
    assert_eq!(options.wanted(Disk::default()), 0, "one that can't be read");
    let never = ImageGcOptions {
        high: 100,
        ..options
    };
    assert_eq!(never.wanted(disk(0)), 0);
}

#[test]
fn the_least_recently_used_goes_first_and_no_more_than_needed() {
    let options = ImageGcOptions::default();
    let images = ["a 900 300 1:10", "b 900 500 2:10", "c 900 400 3:10"];
    check(&options, &images, "", 0, ("", 0));
    check(&options, &images, "", 5, ("b", 10));
    check(&options, &images, "", 11, ("b c", 20));
    check(&options, &images, "b", 11, ("a c", 20));
    check(&options, &images, "", u64::MAX, ("a b c", 30));
    check(&options, &images, "a b c", u64::MAX, ("", 0));
    // Of equal ones that which came first.
    check(
        &options,
        &["a 800 500 1:10", "b 900 500 2:10"],
        "",
        5,
        ("b", 10),
    );
}

#[test]
fn the_young_stay_and_the_old_go_by_themselves() {
    let options = ImageGcOptions::default();
    let images = ["young 119 119 1:10", "grown 120 120 2:10"];
    check(&options, &images, "", u64::MAX, ("grown", 10));
    let aging = ImageGcOptions {
        max_age: Duration::from_secs(3600),
        ..options
    };
    let images = ["a 9000 3601 1:10", "b 9000 3600 2:10", "c 9000 8000 3:10"];
    check(&aging, &images, "c", 0, ("a", 10));
    // What went for its age counts.
    check(&aging, &images, "c", 10, ("a", 10));
    check(&aging, &images, "c", 11, ("a b", 20));
}

#[test]
fn a_shared_layer_comes_free_with_its_last_image() {
    let options = ImageGcOptions::default();
    let images = ["a 900 500 base:100 1:10", "b 900 400 base:100 2:10 2:10"];
    check(&options, &images, "", 10, ("a", 10));
    check(&options, &images, "", 11, ("a b", 120));
    check(&options, &images, "b", 11, ("a", 10));
}

#[test]
fn thresholds_that_make_no_sense_are_refused() {
    let check = |high, low, max| {
        let options = ImageGcOptions {
            high,
            low,
            max_age: Duration::from_secs(max),
            ..ImageGcOptions::default()
        };
        options.check()
    };
    assert_eq!(check(85, 80, 0), Ok(()));
    assert_eq!(check(100, 99, 121), Ok(()));
    for (high, low, max, word) in [
        (101, 80, 0, "percentage"),
        (80, 80, 0, "must be below"),
        (85, 80, 120, "--image-minimum-gc-age"),
    ] {
        let error = check(high, low, max).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn what_could_not_be_freed_is_told() {
    let freed = |bytes| {
        Ok(GcReport {
            bytes,
            ..GcReport::default()
        })
    };
    assert_eq!(fault(10, &freed(10)), None);
    let (reason, message) = fault(10, &freed(3)).unwrap();
    assert_eq!(reason, "FreeDiskSpaceFailed");
    assert!(
        message.contains("free 10 bytes, but only found 3 bytes"),
        "{message}"
    );
    assert_eq!(fault(0, &Err(ImageError::Busy)).unwrap().0, "ImageGCFailed");
}

/// An image of one layer with one file, as an OCI layout.
fn layout(root: &std::path::Path, content: &str) -> PathBuf {
    let root = root.join(content);
    let blobs = root.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let hex = format!("{:x}", Sha256::digest(bytes));
        std::fs::write(blobs.join(&hex), bytes).unwrap();
        json!({"digest": format!("sha256:{hex}"), "size": bytes.len()})
    };
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let file = tar.append_data(&mut header, "file", content.as_bytes());
    file.unwrap();
    let typed = |kind: &str, mut blob: serde_json::Value| {
        blob["mediaType"] = format!("application/vnd.oci.image.{kind}").into();
        blob
    };
    let layer = typed("layer.v1.tar", put(&tar.into_inner().unwrap()));
    let rootfs = json!({"type": "layers", "diff_ids": [layer["digest"]]});
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": rootfs});
    let config = typed("config.v1+json", put(config.to_string().as_bytes()));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [layer],
    });
    let manifest = typed("manifest.v1+json", put(manifest.to_string().as_bytes()));
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(root.join("index.json"), index.to_string()).unwrap();
    std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    root
}

#[tokio::test]
async fn a_store_keeps_what_containers_have_whatever_it_is_called() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path().join("store")).unwrap();
    for (content, name) in [("old", "app:1"), ("new", "app:1"), ("other", "other:1")] {
        let layout = layout(dir.path(), content);
        store.import(layout, Some(name)).await.unwrap();
    }
    let left = |store: &ImageStore| {
        let read = |image: &waggle_runtime::images::Image| {
            std::fs::read_to_string(image.layers[0].join("file")).unwrap()
        };
        let mut all: Vec<String> = store.list().unwrap().iter().map(read).collect();
        all.sort();
        all
    };
    assert_eq!(left(&store), ["new", "old", "other"]);
    let images = store.list().unwrap();
    let old = images.iter().find(|image| image.names.is_empty()).unwrap();
    let used = |names: &[&str], layers: &[&Vec<PathBuf>]| ImagesInUse {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        layers: layers.iter().map(|&list| list.clone()).collect(),
    };
    let mut options = ImageGcOptions::default();
    sweep(&store, &options, used(&[], &[]), u64::MAX).unwrap();
    assert_eq!(left(&store).len(), 3, "they just came");
    options.min_age = Duration::ZERO;
    let in_use = used(&["app:1", "no such:name"], &[&old.layers]);
    sweep(&store, &options, in_use, u64::MAX).unwrap();
    assert_eq!(left(&store), ["new", "old"]);
    let report = sweep(&store, &options, used(&["app:1"], &[]), 1).unwrap();
    assert_eq!((report.bytes, left(&store)), (3, vec!["new".to_owned()]));
}
