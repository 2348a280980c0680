//! Removes images, and what no image needs any more.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::FlockArg;

use super::error::{ImageError, Result};
use super::{GcReport, ImageId, ImageStore, entries, is_digest, parse, read_record, remove_file};

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
        }
        Ok(true)
    }

    /// Removes every image but those in `keep` and those that came less than `min_age` ago, whose users may be on their
    /// way; and every layer that no image has.
    pub fn gc(&self, keep: &BTreeSet<ImageId>, min_age: Duration) -> Result<GcReport> {
        let _alone = self
            .lock(FlockArg::LockExclusiveNonblock)
            .map_err(|e| match e {
                ImageError::Store { source, .. } if source.kind() == io::ErrorKind::WouldBlock => {
                    ImageError::Busy
                }
                other => other,
            })?;
        let mut report = GcReport::default();
        let mut used = BTreeSet::new();
        let mut stay = keep.clone();
        let mut sizes = HashMap::new();
        for image in entries(&self.dir.join("images"))? {
            let Some(record) = read_record(&image)? else {
                continue;
            };
            sizes.extend(record.layers.iter().map(|l| (l.diff.clone(), l.bytes)));
            if keep.contains(&record.id) || is_younger(&image, min_age)? {
                stay.insert(record.id);
                used.extend(record.layers.into_iter().map(|l| l.diff));
            } else {
                remove_file(&image)?;
                report.images.push(record.id);
            }
        }
        for (name, id) in self.names()? {
            if !stay.contains(&id) {
                remove_file(&self.name_path(&name))?;
            }
        }
        for layer in entries(&self.dir.join("layers"))? {
            let diff = layer
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default()
                .to_owned();
            if !used.contains(&diff) {
                // Out of the way first, so that no half of it is ever taken for the whole.
                let dead = self.scratch();
                fs::rename(&layer, &dead).map_err(|e| ImageError::store("rename", &layer, e))?;
                fs::remove_dir_all(&dead).map_err(|e| ImageError::store("remove", &dead, e))?;
                report.layers += 1;
                report.bytes += sizes.get(&diff).copied().unwrap_or(0);
            }
        }
        Ok(report)
    }
}

/// Whether an image's file was written less than so long ago.
fn is_younger(image: &Path, min_age: Duration) -> Result<bool> {
    let written = fs::metadata(image).and_then(|metadata| metadata.modified());
    let written = written.map_err(|e| ImageError::store("read", image, e))?;
    // A time to come is a clock that was set back: no reason to keep it for ever.
    Ok(written.elapsed().is_ok_and(|age| age < min_age))
}
