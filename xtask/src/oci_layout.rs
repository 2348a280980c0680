//! Writes an OCI image layout (<https://github.com/opencontainers/image-spec>): layers from folders, one config and one
//! manifest an image, several images in one index.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A layout being written.
pub(crate) struct Layout {
    folder: PathBuf,
    manifests: Vec<Value>,
}

/// A layer in the layout.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    descriptor: Value,
    diff_id: String,
}

impl Layout {
    /// An empty layout in a new folder.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder.join("blobs/sha256"))
            .with_context(|| format!("create {}", folder.display()))?;
        fs::write(
            folder.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        Ok(Self {
            folder: folder.to_owned(),
            manifests: Vec::new(),
        })
    }

    /// A gzipped layer of everything below `tree`, with its modes, owned by root, with fixed times so that the same tree
    /// makes the same digest.
    pub(crate) fn layer(&mut self, tree: &Path) -> Result<Layer> {
        let mut tar = tar::Builder::new(Vec::new());
        tar.follow_symlinks(false);
        append(&mut tar, tree, tree).with_context(|| format!("archive {}", tree.display()))?;
        let plain = tar.into_inner()?;
        let diff_id = digest(&plain);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&plain)?;
        let descriptor = self.blob(
            "application/vnd.oci.image.layer.v1.tar+gzip",
            &gzip.finish()?,
        )?;
        Ok(Layer {
            descriptor,
            diff_id,
        })
    }

    /// An image of these layers. `config` is the `config` object of the image: Env, Entrypoint, Cmd, User...
    pub(crate) fn image(&mut self, name: &str, layers: &[Layer], config: &Value) -> Result<()> {
        let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
        let config = json!({"architecture": architecture(), "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = self.blob(
            "application/vnd.oci.image.config.v1+json",
            &serde_json::to_vec(&config)?,
        )?;
        let descriptors: Vec<_> = layers.iter().map(|layer| &layer.descriptor).collect();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": descriptors});
        let mut descriptor = self.blob(kind, &serde_json::to_vec(&manifest)?)?;
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.manifests.push(descriptor);
        Ok(())
    }

    /// Writes the index; the layout is complete.
    pub(crate) fn finish(self) -> Result<()> {
        let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": self.manifests});
        Ok(fs::write(
            self.folder.join("index.json"),
            serde_json::to_vec_pretty(&index)?,
        )?)
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let digest = digest(bytes);
        let name = digest.trim_start_matches("sha256:");
        fs::write(self.folder.join("blobs/sha256").join(name), bytes)?;
        Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
    }
}

fn append(tar: &mut tar::Builder<Vec<u8>>, root: &Path, folder: &Path) -> Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = path.strip_prefix(root)?;
        let about = entry.metadata()?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata_in_mode(&about, tar::HeaderMode::Deterministic);
        // That mode makes 755 of a /tmp that is everybody's.
        header.set_mode(about.permissions().mode() & 0o7777);
        if about.is_dir() {
            tar.append_data(&mut header, name, std::io::empty())?;
            append(tar, root, &path)?;
        } else if about.is_symlink() {
            tar.append_link(&mut header, name, fs::read_link(&path)?)?;
        } else {
            tar.append_data(&mut header, name, File::open(&path)?)?;
        }
    }
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!(
        "sha256:{}",
        hash.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    )
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
