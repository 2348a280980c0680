//! The image store of a node: names, images and unpacked layers in one folder. Where images come from: `pull`,
//! `import`; how a layer becomes a folder: `unpack`.
//!
//! ```text
//! DIR/names/<escaped name>      the image's id
//! DIR/images/<id>.json          configuration and layers
//! DIR/layers/<diff id>/         an unpacked layer, complete as soon as it is there
//! DIR/sizes/<diff id>          bytes in it
//! DIR/used/<id>                 empty; its time is when the image was last used
//! DIR/tmp/                      work in progress; emptied when nobody works
//! DIR/lock                      shared while images are added, exclusive while garbage is collected
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

mod error;
mod garbage;
mod import;
mod layers;
mod pull;
mod unpack;

pub use error::ImageError;
use error::Result;
pub use garbage::Stocked;
pub use pull::{Credentials, LayerState, PullOptions, PullProgress};

/// Digest of an image's configuration, `sha256:…`.
pub type ImageId = String;

/// An image that is here, ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Every normalised name that it has here.
    pub names: Vec<String>,
    /// Digest of the manifest that it was pulled with, when it was pulled.
    pub manifest_digest: Option<String>,
    /// Unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// Size of the unpacked layers, bytes.
    pub size: u64,
    /// What it says about how to run it.
    pub config: ImageConfig,
}

/// The part of an image's configuration that matters for running it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory; empty for `/`.
    pub working_dir: String,
    /// `user`, `uid`, `user:group`, `uid:gid`; empty for root. See [`crate::users::resolve`].
    pub user: String,
    /// Signal that asks it to end, `SIGTERM` or a number.
    pub stop_signal: Option<String>,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Paths that want a volume.
    pub volumes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// What a collection of garbage did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Removed images.
    pub images: Vec<ImageId>,
    /// How many layers went.
    pub layers: usize,
    /// Bytes that came free.
    pub bytes: u64,
}

/// The file of an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    id: ImageId,
    manifest_digest: Option<String>,
    layers: Vec<Layer>,
    config: ImageConfig,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Layer {
    /// Hex of the digest of the unpacked tar.
    diff: String,
    bytes: u64,
}

/// The images of a node. Clones share their state; several processes may use one folder.
#[derive(Clone, Debug)]
pub struct ImageStore {
    dir: Arc<PathBuf>,
    /// One task at a time unpacks a layer.
    unpacking: Arc<Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>>,
}

impl ImageStore {
    /// Opens or makes a store.
    pub fn open(dir: impl Into<PathBuf>) -> Result<ImageStore> {
        let dir = dir.into();
        for sub in ["names", "images", "layers", "sizes", "used", "tmp"] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).map_err(|e| ImageError::store("create", &path, e))?;
        }
        let store = ImageStore {
            dir: Arc::new(dir),
            unpacking: Arc::default(),
        };
        // What a killed process left; unless somebody is at work right now.
        if let Ok(_alone) = store.lock(FlockArg::LockExclusiveNonblock) {
            let tmp = store.dir.join("tmp");
            fs::remove_dir_all(&tmp).map_err(|e| ImageError::store("empty", &tmp, e))?;
            fs::create_dir_all(&tmp).map_err(|e| ImageError::store("create", &tmp, e))?;
        }
        Ok(store)
    }

    /// Takes an image from a registry unless it is here with the registry's current content. `progress` is called
    /// from several tasks.
    pub async fn pull(
        &self,
        reference: &str,
        options: &PullOptions,
        progress: impl Fn(PullProgress) + Send + Sync,
    ) -> Result<Image> {
        pull::pull(self, reference, options, &progress).await
    }

    /// Takes images from an OCI layout folder, or from a tar of one, or from a docker archive, compressed or not. Gives
    /// the names under which they are known now. `name` replaces the name that the file says, when it holds one image.
    pub async fn import(&self, path: impl AsRef<Path>, name: Option<&str>) -> Result<Vec<String>> {
        let (store, path, name) = (
            self.clone(),
            path.as_ref().to_owned(),
            name.map(str::to_owned),
        );
        let shown = path.clone();
        tokio::task::spawn_blocking(move || import::import(&store, &path, name.as_deref()))
            .await
            .map_err(|e| ImageError::Import {
                path: shown,
                reason: e.to_string(),
            })?
    }

    /// Finds an image by name (normalised first, so `redis:7` will do), by name and digest, or by id.
    pub fn resolve(&self, reference: &str) -> Result<Option<Image>> {
        if is_digest(reference) {
            return self.load(reference);
        }
        let wanted = parse(reference)?;
        if let Some(digest) = wanted.digest() {
            return Ok(self.list()?.into_iter().find(|image| {
                image.id == digest || image.manifest_digest.as_deref() == Some(digest)
            }));
        }
        let path = self.name_path(&wanted.whole());
        match fs::read_to_string(&path) {
            Ok(id) => self.load(id.trim()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(ImageError::store("read", &path, e)),
        }
    }

    /// Every image.
    pub fn list(&self) -> Result<Vec<Image>> {
        let names = self.names()?;
        let dir = self.dir.join("images");
        let mut images = Vec::new();
        for entry in entries(&dir)? {
            if let Some(record) = read_record(&entry)? {
                images.push(self.image(record, &names));
            }
        }
        images.sort_by(|a, b| (&a.names, &a.id).cmp(&(&b.names, &b.id)));
        Ok(images)
    }

    fn lock(&self, how: FlockArg) -> Result<Flock<File>> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| ImageError::store("open", &path, e))?;
        Flock::lock(file, how).map_err(|(_, errno)| ImageError::store("lock", &path, errno))
    }

    /// A fresh path in `tmp`.
    fn scratch(&self) -> PathBuf {
        self.dir
            .join("tmp")
            .join(uuid::Uuid::new_v4().simple().to_string())
    }

    fn layer_path(&self, diff: &str) -> PathBuf {
        self.dir.join("layers").join(diff)
    }

    fn record_path(&self, id: &str) -> PathBuf {
        self.dir
            .join("images")
            .join(format!("{}.json", id.trim_start_matches("sha256:")))
    }

    fn name_path(&self, name: &str) -> PathBuf {
        self.dir.join("names").join(escape(name))
    }

    /// Name to id.
    fn names(&self) -> Result<BTreeMap<String, ImageId>> {
        let mut names = BTreeMap::new();
        for path in entries(&self.dir.join("names"))? {
            let name = unescape(
                path.file_name()
                    .and_then(|n| n.to_str())
                    .unwrap_or_default(),
            );
            match fs::read_to_string(&path) {
                Ok(id) => names.insert(name, id.trim().to_owned()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(ImageError::store("read", &path, e)),
            };
        }
        Ok(names)
    }

    fn load(&self, id: &str) -> Result<Option<Image>> {
        match read_record(&self.record_path(id))? {
            Some(record) => Ok(Some(self.image(record, &self.names()?))),
            None => Ok(None),
        }
    }

    fn image(&self, record: Record, names: &BTreeMap<String, ImageId>) -> Image {
        Image {
            names: names
                .iter()
                .filter(|(_, id)| **id == record.id)
                .map(|(name, _)| name.clone())
                .collect(),
            manifest_digest: record.manifest_digest,
            layers: record
                .layers
                .iter()
                .map(|l| self.layer_path(&l.diff))
                .collect(),
            size: record.layers.iter().map(|l| l.bytes).sum(),
            config: record.config,
            id: record.id,
        }
    }

    /// Makes an image known, after its layers are here.
    fn publish(&self, record: &Record, names: &[String]) -> Result<()> {
        let text = serde_json::to_vec_pretty(record).map_err(|e| ImageError::Malformed {
            image: record.id.clone(),
            reason: e.to_string(),
        })?;
        self.write(&self.record_path(&record.id), &text)?;
        for name in names {
            self.write(&self.name_path(name), record.id.as_bytes())?;
        }
        Ok(())
    }

    /// Whole file or nothing, also across a power cut.
    fn write(&self, path: &Path, content: &[u8]) -> Result<()> {
        let temporary = self.scratch();
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            io::Write::write_all(&mut file, content)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
        };
        write().map_err(|e| ImageError::store("write", path, e))
    }
}

/// Parses and normalises as docker does: `redis:7` is `docker.io/library/redis:7`.
pub fn normalise(reference: &str) -> Result<String> {
    Ok(parse(reference)?.whole())
}

fn parse(reference: &str) -> Result<oci_client::Reference> {
    reference
        .parse()
        .map_err(|e: oci_client::ParseError| ImageError::BadReference {
            reference: reference.to_owned(),
            reason: e.to_string(),
        })
}

/// The file of an image's configuration, as the OCI image specification has it, reduced to what we keep.
fn parse_config(image: &str, bytes: &[u8]) -> Result<(ImageConfig, Vec<String>)> {
    let file: oci_client::config::ConfigFile =
        serde_json::from_slice(bytes).map_err(|e| ImageError::Malformed {
            image: image.to_owned(),
            reason: format!("its configuration can't be read: {e}"),
        })?;
    let config = file.config.unwrap_or_default();
    let sorted = |set: Option<std::collections::HashSet<String>>| {
        let mut list: Vec<String> = set.unwrap_or_default().into_iter().collect();
        list.sort();
        list
    };
    let kept = ImageConfig {
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        env: config.env.unwrap_or_default(),
        working_dir: config.working_dir.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        stop_signal: config.stop_signal,
        exposed_ports: sorted(config.exposed_ports),
        volumes: sorted(config.volumes),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
    };
    Ok((kept, file.rootfs.diff_ids))
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

fn is_digest(text: &str) -> bool {
    hex_of(text).is_some()
}

/// The hex digits of a sha256 digest. Nothing else ever becomes a file name.
fn hex_of(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))).then_some(hex)
}

fn escape(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

fn unescape(file: &str) -> String {
    file.replace("%2F", "/").replace("%25", "%")
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = || {
        fs::read_dir(dir)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()
    };
    read().map_err(|e| ImageError::store("list", dir, e))
}

fn read_record(path: &Path) -> Result<Option<Record>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ImageError::store("read", path, e)),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| ImageError::store("understand", path, io::Error::other(e)))
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ImageError::store("remove", path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_normalised_as_docker_does() {
        for (given, expected) in [
            ("redis", "docker.io/library/redis:latest"),
            ("redis:7", "docker.io/library/redis:7"),
            ("team/app:1", "docker.io/team/app:1"),
            ("127.0.0.1:5000/a/b:1.0", "127.0.0.1:5000/a/b:1.0"),
            ("localhost/app", "localhost/app:latest"),
        ] {
            assert_eq!(normalise(given).unwrap(), expected, "{given}");
        }
        for bad in ["", "team/UPPER:1", "a b", "x:"] {
            assert!(
                matches!(normalise(bad), Err(ImageError::BadReference { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn names_survive_as_file_names() {
        for name in ["docker.io/library/redis:7", "a%2Fb/c", "%25"] {
            assert!(!escape(name).contains('/'));
            assert_eq!(unescape(&escape(name)), name);
        }
    }

    #[test]
    fn only_plain_sha256_digests_become_paths() {
        let good = format!("sha256:{}", "a".repeat(64));
        assert!(hex_of(&good).is_some());
        for bad in [
            "sha256:../../etc",
            "sha512:aa",
            &good[..70],
            &good.to_uppercase(),
        ] {
            assert!(hex_of(bad).is_none(), "{bad}");
        }
    }
}
