//! Volumes made in a temporary folder.

use waggle_model::network::NetworkState;

use std::os::unix::fs::PermissionsExt as _;

use waggle_runtime::mount_table::unmount_below;

use super::*;
use crate::pods::fixture::pod;

fn prepared(spec: &str, folder: &Path) -> Result<BTreeMap<String, PathBuf>, VolumeFault> {
    let mut pod = pod(spec);
    let map = r#"{"metadata":{"name":"m"},"data":{"a":"1","b":"2"}}"#;
    pod.config_maps
        .insert("m".into(), serde_json::from_str(map).unwrap());
    let state = NetworkState::default();
    let around = Surroundings {
        node: "node1",
        hosts: "172.30.0.11".parse().unwrap(),
        node_cpu: 2000,
        node_memory: 1 << 30,
        services: &state,
        api: None,
    };
    let key = TokenKey {
        audience: "vault".into(),
        seconds: 600,
    };
    prepare(&pod, folder, &around, &Tokens::with(key, "secret"))
}

#[test]
fn data_becomes_files_and_stale_files_go() {
    let folder = tempfile::tempdir().unwrap();
    let spec = r#"{"volumes":[{"name":"v","configMap":{"name":"m","items":[{"key":"a","path":"x/y","mode":256}]}}]}"#;
    let place = prepared(
        r#"{"volumes":[{"name":"v","configMap":{"name":"m"}}]}"#,
        folder.path(),
    )
    .unwrap()["v"]
        .clone();
    assert_eq!(std::fs::read_to_string(place.join("b")).unwrap(), "2");
    prepared(spec, folder.path()).unwrap();
    assert_eq!(std::fs::read_to_string(place.join("x/y")).unwrap(), "1");
    assert_eq!(
        std::fs::metadata(place.join("x/y"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o400
    );
    assert!(!place.join("a").exists() && !place.join("b").exists());
    let down = r#"{"volumes":[{"name":"d","downwardAPI":{"items":[{"path":"labels","fieldRef":{"fieldPath":"metadata.labels"}}]}}]}"#;
    let place = prepared(down, folder.path()).unwrap()["d"].clone();
    assert_eq!(
        std::fs::read_to_string(place.join("labels")).unwrap(),
        "app=\"web\""
    );
}

#[test]
fn data_changes_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let content = |path: &str, data: &str| Content {
        path: path.into(),
        data: data.into(),
        mode: 0o644,
    };
    let write = |contents: &[Content]| payload::write(folder.path(), contents, None).unwrap();
    let data = || std::fs::read_link(folder.path().join("..data")).unwrap();
    write(&[content("a", "1"), content("x/y", "1")]);
    let first = data();
    // Who has a version open keeps the whole of it until it is replaced; nothing changes for nothing.
    write(&[content("a", "1"), content("x/y", "1")]);
    assert_eq!(data(), first);
    write(&[content("a", "2"), content("x/z", "2")]);
    assert_ne!(data(), first);
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).ok();
    assert_eq!(read("a").as_deref(), Some("2"));
    assert_eq!(read("x/z").as_deref(), Some("2"));
    assert_eq!(read("x/y"), None);
    assert!(!folder.path().join(first).exists());
    // Its names are links through the one that is swapped.
    let link = std::fs::read_link(folder.path().join("a")).unwrap();
    assert_eq!(link, Path::new("..data/a"));
    write(&[]);
    assert_eq!(read("a"), None);
    assert!(std::fs::symlink_metadata(folder.path().join("a")).is_err());
}

#[test]
fn what_can_not_be_had_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (volume, part) in [
        (
            r#"{"name":"v","configMap":{"name":"no"}}"#,
            "volume \"v\": configmap \"no\" not found",
        ),
        (
            r#"{"name":"v","configMap":{"name":"m","items":[{"key":"z","path":"z"}]}}"#,
            "no key \"z\"",
        ),
        (
            r#"{"name":"v","configMap":{"name":"m","items":[{"key":"a","path":"../z"}]}}"#,
            "leads out",
        ),
        (
            r#"{"name":"v","hostPath":{"path":"/no/such/place"}}"#,
            "does not exist",
        ),
        (
            r#"{"name":"v","projected":{"sources":[{"serviceAccountToken":{"path":"t"}}]}}"#,
            "the token for \"t\"",
        ),
        (
            r#"{"name":"v","nfs":{"server":"s","path":"/p"}}"#,
            "not supported",
        ),
    ] {
        let error = prepared(&format!(r#"{{"volumes":[{volume}]}}"#), folder.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_sub_path_stays_inside() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc", folder.path().join("out")).unwrap();
    assert_eq!(
        below(folder.path(), "a/b").unwrap(),
        folder.path().canonicalize().unwrap().join("a/b")
    );
    for sub in ["../x", "/etc", "out", ""] {
        assert!(below(folder.path(), sub).is_err(), "{sub}");
    }
}

#[test]
fn a_token_lies_beside_other_sources_in_memory() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let place = prepared(
        r#"{"volumes":[{"name":"v","projected":{"sources":[
            {"serviceAccountToken":{"path":"token","audience":"vault","expirationSeconds":600}},
            {"configMap":{"name":"m"}},
            {"downwardAPI":{"items":[{"path":"namespace","fieldRef":{"fieldPath":"metadata.namespace"}}]}}]}}]}"#,
        folder.path(),
    )
    .unwrap()["v"]
        .clone();
    let read = |name: &str| std::fs::read_to_string(place.join(name)).unwrap();
    assert_eq!(
        (
            read("token").as_str(),
            read("a").as_str(),
            read("namespace").as_str()
        ),
        ("secret", "1", "shop")
    );
    let mounted = is_mount_point(&place);
    unmount_below(folder.path()).unwrap();
    assert!(mounted, "a token must not reach a disk");
}

#[test]
fn mounts_are_sent_from_shared_sources_only() {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().canonicalize().unwrap();
    let table = |shared: bool| {
        let one = |target: &Path, shared| Mounted {
            target: target.to_owned(),
            kind: "tmpfs".to_owned(),
            shared,
        };
        [one(Path::new("/"), !shared), one(&real, shared)]
    };
    let place = folder.path().join("below");
    std::fs::create_dir(&place).unwrap();
    assert_eq!(must_be_shared(&table(true), &place), Ok(()));
    let why = must_be_shared(&table(false), &place).unwrap_err();
    let expect = format!("is mounted on {real:?} but it is not a shared mount");
    assert!(why.contains(&expect), "{why}");
}
