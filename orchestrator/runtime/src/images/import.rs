//! Takes images from files: an OCI layout folder, a tar of one, or a docker archive.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use nix::fcntl::{FlockArg, OFlag, OpenHow, ResolveFlag, openat2};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::{ImageError, Result};
use super::{ImageStore, Record, hex_of, normalise, parse_config, sha256, unpack};

/// Annotation of a manifest in an OCI layout that carries its name or tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation under which containerd's tools write the whole name.
const FULL_NAME: &str = "io.containerd.image.name";
/// Metadata larger than this is none, bytes.
const MAX_METADATA: u64 = 16 << 20;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Deserialize, Clone)]
struct Platform {
    architecture: String,
    os: String,
}

/// A manifest or a nested index.
#[derive(Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// A row of a docker archive's manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerRow {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image that was found: where its parts are.
struct Found {
    name: Option<String>,
    manifest_digest: Option<String>,
    config: PathBuf,
    /// Path and, where known, digest of each layer as stored.
    layers: Vec<(PathBuf, Option<String>)>,
}

pub(super) fn import(store: &ImageStore, path: &Path, name: Option<&str>) -> Result<Vec<String>> {
    let _adding = store.lock(FlockArg::LockShared)?;
    let source = Source { path };
    if path.is_dir() {
        return source.folder(store, path, name);
    }
    let scratch = store.scratch();
    fs::create_dir(&scratch).map_err(|e| ImageError::store("create", &scratch, e))?;
    let result = source
        .extract(&scratch)
        .and_then(|()| source.folder(store, &scratch, name));
    // tmp is emptied at the next start anyway.
    let _ = fs::remove_dir_all(&scratch);
    result
}

/// What is being imported, for error texts and default names.
struct Source<'a> {
    path: &'a Path,
}

impl Source<'_> {
    fn failed(&self, reason: impl Into<String>) -> ImageError {
        ImageError::Import {
            path: self.path.to_owned(),
            reason: reason.into(),
        }
    }

    /// Unpacks an archive file into a folder, by the same careful code that unpacks layers.
    fn extract(&self, into: &Path) -> Result<()> {
        let file = File::open(self.path).map_err(|e| self.failed(e.to_string()))?;
        let reader =
            unpack::decompress(BufReader::new(file)).map_err(|e| self.failed(e.to_string()))?;
        unpack::unpack(reader, into).map_err(|e| self.failed(e.to_string()))?;
        Ok(())
    }

    fn folder(&self, store: &ImageStore, dir: &Path, name: Option<&str>) -> Result<Vec<String>> {
        let tree = Tree {
            source: self,
            root: File::open(dir).map_err(|e| self.failed(e.to_string()))?,
        };
        let mut found = if tree.has("manifest.json") {
            tree.docker()?
        } else if tree.has("index.json") {
            tree.layout()?
        } else {
            return Err(self.failed(
                "it has neither index.json nor manifest.json: no OCI layout, no docker archive",
            ));
        };
        match (name, found.as_mut_slice()) {
            (_, []) => {
                return Err(self.failed(format!("it has no image for {}", std::env::consts::ARCH)));
            }
            (Some(name), [one]) => one.name = Some(name.to_owned()),
            (Some(_), more) => {
                let reason = format!("a name was given, but it has {} images", more.len());
                return Err(self.failed(reason));
            }
            (None, _) => {}
        }
        let mut names = Vec::new();
        for image in found {
            let name = image
                .name
                .clone()
                .ok_or_else(|| self.failed("it doesn't name its image: give a name"))?;
            let name = normalise(&name)?;
            self.add(store, &tree, &image, &name)?;
            names.push(name);
        }
        names.dedup();
        Ok(names)
    }

    fn add(&self, store: &ImageStore, tree: &Tree<'_>, image: &Found, name: &str) -> Result<()> {
        let bytes = tree.read(&image.config)?;
        let (config, diff_ids) = parse_config(name, &bytes)?;
        if diff_ids.len() != image.layers.len() {
            return Err(self.failed(format!(
                "image {name}: {} layers, but its configuration has {}",
                image.layers.len(),
                diff_ids.len()
            )));
        }
        let mut layers = Vec::new();
        for ((path, digest), diff_id) in image.layers.iter().zip(&diff_ids) {
            layers.push(match store.existing_layer(diff_id) {
                Some(layer) => layer,
                None => store.add_layer(
                    name,
                    digest.as_deref(),
                    diff_id,
                    BufReader::new(tree.open(path)?),
                )?,
            });
        }
        let record = Record {
            id: sha256(&bytes),
            manifest_digest: image.manifest_digest.clone(),
            layers,
            config,
        };
        store.publish(&record, &[name.to_owned()])
    }

    /// A name from a layout's annotation: a whole reference, or a tag of what the folder or file is called.
    fn name_of(&self, annotations: &HashMap<String, String>) -> Option<String> {
        if let Some(full) = annotations.get(FULL_NAME) {
            return Some(full.clone());
        }
        let text = annotations.get(REF_NAME)?;
        if text.contains('/') || text.contains(':') {
            return Some(text.clone());
        }
        let file = self.path.file_name()?.to_str()?;
        let stem = file.split_once(".tar").map_or(file, |(stem, _)| stem);
        Some(format!("{}:{text}", stem.to_lowercase()))
    }
}

/// The folder with the parts. Links in it lead nowhere else.
struct Tree<'a> {
    source: &'a Source<'a>,
    root: File,
}

impl Tree<'_> {
    fn open(&self, path: &Path) -> Result<File> {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.root, path, how).map(File::from).map_err(|e| {
            self.source
                .failed(format!("{}: {}", path.display(), e.desc()))
        })
    }

    fn has(&self, path: &str) -> bool {
        self.open(Path::new(path)).is_ok()
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(path)?
            .take(MAX_METADATA)
            .read_to_end(&mut bytes)
            .map_err(|e| self.source.failed(format!("{}: {e}", path.display())))?;
        Ok(bytes)
    }

    fn json<T: DeserializeOwned>(&self, path: &Path) -> Result<T> {
        serde_json::from_slice(&self.read(path)?)
            .map_err(|e| self.source.failed(format!("{}: {e}", path.display())))
    }

    fn docker(&self) -> Result<Vec<Found>> {
        let rows: Vec<DockerRow> = self.json(Path::new("manifest.json"))?;
        let mut found = Vec::new();
        for row in rows {
            let tags = row.repo_tags.filter(|tags| !tags.is_empty());
            let names = tags.map_or(vec![None], |tags| tags.into_iter().map(Some).collect());
            for name in names {
                found.push(Found {
                    name,
                    manifest_digest: None,
                    config: row.config.clone().into(),
                    layers: row
                        .layers
                        .iter()
                        .map(|l| (PathBuf::from(l), None))
                        .collect(),
                });
            }
        }
        Ok(found)
    }

    fn layout(&self) -> Result<Vec<Found>> {
        let index: Index = self.json(Path::new("index.json"))?;
        let mut found = Vec::new();
        for descriptor in &index.manifests {
            let name = self.source.name_of(&descriptor.annotations);
            if let Some(image) = self.manifest(descriptor, name, 0)? {
                found.push(image);
            }
        }
        Ok(found)
    }

    /// Follows nested indexes to the manifest for this machine.
    fn manifest(
        &self,
        descriptor: &Descriptor,
        name: Option<String>,
        depth: usize,
    ) -> Result<Option<Found>> {
        let manifest: Manifest =
            serde_json::from_slice(&self.blob(&descriptor.digest)?).map_err(|e| {
                self.source
                    .failed(format!("manifest {}: {e}", descriptor.digest))
            })?;
        let Some(config) = manifest.config else {
            if depth > 3 {
                return Err(self.source.failed("its indexes are nested too deeply"));
            }
            let ours = manifest
                .manifests
                .iter()
                .find(|d| d.platform.as_ref().is_none_or(Platform::is_ours));
            return ours.map_or(Ok(None), |inner| self.manifest(inner, name, depth + 1));
        };
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            layers.push((self.blob_path(&layer.digest)?, Some(layer.digest.clone())));
        }
        self.blob(&config.digest)?;
        Ok(Some(Found {
            name,
            manifest_digest: Some(descriptor.digest.clone()),
            config: self.blob_path(&config.digest)?,
            layers,
        }))
    }

    fn blob_path(&self, digest: &str) -> Result<PathBuf> {
        let hex = hex_of(digest).ok_or_else(|| {
            self.source
                .failed(format!("digest {digest:?} is not sha256"))
        })?;
        Ok(Path::new("blobs/sha256").join(hex))
    }

    /// A small blob, checked.
    fn blob(&self, digest: &str) -> Result<Vec<u8>> {
        let bytes = self.read(&self.blob_path(digest)?)?;
        let actual = sha256(&bytes);
        if actual == digest {
            Ok(bytes)
        } else {
            Err(ImageError::Digest {
                image: self.source.path.display().to_string(),
                what: "a blob".into(),
                expected: digest.to_owned(),
                actual,
            })
        }
    }
}

impl Platform {
    fn is_ours(&self) -> bool {
        let ours = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        self.os == "linux" && self.architecture == ours
    }
}
