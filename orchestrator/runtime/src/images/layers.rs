//! The layers of the store: each is unpacked once, checked against its digests, and complete as soon as it is there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};

use super::error::{ImageError, Result};
use super::{ImageStore, Layer, hex_of, unpack};

impl ImageStore {
    /// Unpacks a layer unless it is here: `reader` gives the blob as it was stored, compressed or not. Checks both
    /// digests. Blocks.
    pub(super) fn add_layer(
        &self,
        image: &str,
        blob: Option<&str>,
        diff_id: &str,
        reader: impl io::Read,
    ) -> Result<Layer> {
        let diff = hex_of(diff_id).ok_or_else(|| ImageError::Malformed {
            image: image.to_owned(),
            reason: format!("layer digest {diff_id:?} is not sha256"),
        })?;
        let scratch = self.scratch();
        let result = self
            .unpack_layer(image, blob, diff_id, reader, &scratch)
            .and_then(|bytes| {
                let target = self.layer_path(diff);
                fs::write(self.size_path(diff), bytes.to_string())
                    .map_err(|e| ImageError::store("write", &self.size_path(diff), e))?;
                match fs::rename(&scratch, &target) {
                    Ok(()) => {}
                    // Somebody else was faster with the same content.
                    Err(_) if target.is_dir() => {}
                    Err(e) => return Err(ImageError::store("rename", &target, e)),
                }
                Ok(Layer {
                    diff: diff.to_owned(),
                    bytes,
                })
            });
        if scratch.exists() {
            // The error that matters is the first one; tmp is emptied at the next start.
            let _ = fs::remove_dir_all(&scratch);
        }
        result
    }

    fn unpack_layer(
        &self,
        image: &str,
        blob: Option<&str>,
        diff_id: &str,
        reader: impl io::Read,
        scratch: &Path,
    ) -> Result<u64> {
        fs::create_dir(scratch).map_err(|e| ImageError::store("create", scratch, e))?;
        let layer = blob.unwrap_or(diff_id).to_owned();
        let failed = |reason: String| ImageError::Layer {
            image: image.to_owned(),
            layer: layer.clone(),
            reason,
        };
        let mut outer = unpack::Hashing::new(reader);
        let mut inner = unpack::Hashing::new(
            unpack::decompress(&mut outer).map_err(|e| failed(e.to_string()))?,
        );
        let bytes = unpack::unpack(&mut inner, scratch).map_err(|e| failed(e.to_string()))?;
        // What follows the end of the archive belongs to the digests too.
        io::copy(&mut inner, &mut io::sink()).map_err(|e| failed(e.to_string()))?;
        let actual = inner.digest();
        drop(inner);
        io::copy(&mut outer, &mut io::sink()).map_err(|e| failed(e.to_string()))?;
        let mismatch = |what: &str, expected: &str, actual: String| ImageError::Digest {
            image: image.to_owned(),
            what: what.to_owned(),
            expected: expected.to_owned(),
            actual,
        };
        if let Some(blob) = blob {
            let actual = outer.digest();
            if actual != blob {
                return Err(mismatch("a compressed layer", blob, actual));
            }
        }
        if actual != diff_id {
            return Err(mismatch("an unpacked layer", diff_id, actual));
        }
        let folder = File::open(scratch).map_err(|e| ImageError::store("open", scratch, e))?;
        nix::unistd::syncfs(&folder).map_err(|e| ImageError::store("sync", scratch, e))?;
        Ok(bytes)
    }

    /// Where the size of a layer is kept, for images that share it.
    fn size_path(&self, diff: &str) -> PathBuf {
        self.dir.join("sizes").join(diff)
    }

    /// A layer that is here already.
    pub(super) fn existing_layer(&self, diff_id: &str) -> Option<Layer> {
        let diff = hex_of(diff_id)?;
        if !self.layer_path(diff).is_dir() {
            return None;
        }
        let bytes = fs::read_to_string(self.size_path(diff))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        Some(Layer {
            diff: diff.to_owned(),
            bytes,
        })
    }

    /// The lock under which one task unpacks a layer.
    pub(super) fn turn(&self, diff_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut map = self
            .unpacking
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        map.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = map.get(diff_id).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        map.insert(diff_id.to_owned(), Arc::downgrade(&lock));
        lock
    }
}
