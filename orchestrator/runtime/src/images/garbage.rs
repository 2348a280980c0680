//! Removes images, and what no image needs any more.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use nix::fcntl::FlockArg;

use super::error::{ImageError, Result};
use super::{
    GcReport, ImageId, ImageStore, Layer, entries, is_digest, parse, read_record, remove_file,
};

/// An image, as whoever chooses what goes sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stocked {
    /// Its id.
    pub id: ImageId,
    /// When it came, or came again.
    pub arrived: SystemTime,
    /// When it was last marked as used; when it came if it never was.
    pub used: SystemTime,
    /// Unpacked layers and their bytes, lowest first; images share them.
    pub layers: Vec<(PathBuf, u64)>,
}

impl ImageStore {
    /// Removes a name; the image itself goes with its last name. Its layers go when garbage is collected. `false` when
    /// there was no such image.
    pub fn remove(&self, reference: &str) -> Result<bool> {
        let Some(image) = self.resolve(reference)? else {
            return Ok(false);
        };
        let names: Vec<String> = if is_digest(reference) {
            image.names.clone()
        } else {
            vec![parse(reference)?.whole()]
        };
        for name in &names {
            remove_file(&self.name_path(name))?;
        }
        if image.names.iter().all(|name| names.contains(name)) {
            remove_file(&self.record_path(&image.id))?;
            remove_file(&self.used_path(&image.id))?;
        }
        Ok(true)
    }

    /// Remembers that somebody uses these images now.
    pub fn mark_used(&self, ids: &BTreeSet<ImageId>) -> Result<()> {
        for path in ids.iter().map(|id| self.used_path(id)) {
            fs::write(&path, b"").map_err(|e| ImageError::store("write", &path, e))?;
        }
        Ok(())
    }

    /// Removes the images that `choose` names out of all, and every layer that no image has and that is not in `held`
    /// (paths, as in [`super::Image::layers`]). Nobody adds images meanwhile.
    pub fn gc(
        &self,
        held: &BTreeSet<PathBuf>,
        choose: impl FnOnce(&[Stocked]) -> BTreeSet<ImageId>,
    ) -> Result<GcReport> {
        let _alone = self
            .lock(FlockArg::LockExclusiveNonblock)
            .map_err(|e| match e {
                ImageError::Store { source, .. } if source.kind() == io::ErrorKind::WouldBlock => {
                    ImageError::Busy
                }
                other => other,
            })?;
        let mut report = GcReport::default();
        let stock = self.stock()?;
        let doomed = choose(&stock);
        let mut sizes = HashMap::new();
        let mut needed = held.clone();
        for image in stock {
            sizes.extend(image.layers.iter().cloned());
            if !doomed.contains(&image.id) {
                needed.extend(image.layers.into_iter().map(|(path, _)| path));
                continue;
            }
            remove_file(&self.record_path(&image.id))?;
            remove_file(&self.used_path(&image.id))?;
            report.images.push(image.id);
        }
        for (name, id) in self.names()? {
            if !self.record_path(&id).exists() {
                remove_file(&self.name_path(&name))?;
            }
        }
        for layer in entries(&self.dir.join("layers"))? {
            if needed.contains(&layer) {
                continue;
            }
            // Out of the way first, so that no half of it is ever taken for the whole.
            let dead = self.scratch();
            fs::rename(&layer, &dead).map_err(|e| ImageError::store("rename", &layer, e))?;
            fs::remove_dir_all(&dead).map_err(|e| ImageError::store("remove", &dead, e))?;
            report.layers += 1;
            report.bytes += sizes.get(&layer).copied().unwrap_or(0);
        }
        Ok(report)
    }

    fn stock(&self) -> Result<Vec<Stocked>> {
        let mut stock = Vec::new();
        for path in entries(&self.dir.join("images"))? {
            let Some(record) = read_record(&path)? else {
                continue;
            };
            let arrived = fs::metadata(&path)
                .and_then(|file| file.modified())
                .map_err(|e| ImageError::store("read", &path, e))?;
            let used = fs::metadata(self.used_path(&record.id)).and_then(|file| file.modified());
            let layer = |layer: &Layer| (self.layer_path(&layer.diff), layer.bytes);
            stock.push(Stocked {
                arrived,
                used: used.map_or(arrived, |used| used.max(arrived)),
                layers: record.layers.iter().map(layer).collect(),
                id: record.id,
            });
        }
        Ok(stock)
    }

    /// Says by its time when the image was last used.
    fn used_path(&self, id: &str) -> PathBuf {
        self.dir.join("used").join(id.trim_start_matches("sha256:"))
    }
}
