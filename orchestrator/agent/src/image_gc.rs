//! Which images go when the disk that holds them fills up, as kubelet decides it, and when one was not used for long; and who
//! looks and removes. Under pressure (`pressure`) all that nobody uses goes, by the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use waggle_runtime::images::{GcReport, ImageError, ImageId, ImageStore, Stocked};

use crate::machine::Disk;
use crate::node::Node;
use crate::pods::table::{ImagesInUse, Table};

/// Between two looks. Images count as used at the time of the look.
const PERIOD: Duration = Duration::from_secs(60);

/// When images that nobody uses go. The default is kubelet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageGcOptions {
    /// Percent of the disk in use from which on images go; at 100 they never do for that.
    pub high: u8,
    /// Percent of the disk in use at which that is enough.
    pub low: u8,
    /// One that came less than so long ago stays: its pod may be on its way.
    pub min_age: Duration,
    /// One that was not used for longer goes, however empty the disk is; zero is never.
    pub max_age: Duration,
}

impl Default for ImageGcOptions {
    fn default() -> Self {
        Self {
            high: 85,
            low: 80,
            min_age: Duration::from_secs(120),
            max_age: Duration::ZERO,
        }
    }
}

impl ImageGcOptions {
    /// Refuses thresholds that make no sense.
    ///
    /// # Errors
    /// Names them.
    pub fn check(&self) -> Result<(), String> {
        let Self { high, low, .. } = *self;
        if high > 100 {
            return Err(format!(
                "--image-gc-high-threshold is a percentage, not {high}"
            ));
        }
        if low >= high {
            return Err(format!(
                "--image-gc-low-threshold {low} must be below --image-gc-high-threshold {high}"
            ));
        }
        if !self.max_age.is_zero() && self.max_age <= self.min_age {
            let why = "--image-maximum-gc-age must be above --image-minimum-gc-age";
            return Err(why.to_owned());
        }
        Ok(())
    }

    /// Bytes that must come free.
    fn wanted(&self, disk: Disk) -> u64 {
        if self.high >= 100 || disk.bytes == 0 {
            return 0;
        }
        let share = |percent: u8| disk.bytes / 100 * u64::from(percent);
        let used = disk.bytes.saturating_sub(disk.bytes_free);
        match used >= share(self.high) {
            true => used.saturating_sub(share(self.low)),
            false => 0,
        }
    }
}

/// What goes, and what comes free by that.
#[derive(Debug, Default, PartialEq, Eq)]
struct Doomed {
    ids: BTreeSet<ImageId>,
    bytes: u64,
}

/// Who goes: those that nobody used for too long, then the one that was not used for longest, until `wanted` bytes come free.
fn doomed(
    options: &ImageGcOptions,
    stock: &[Stocked],
    in_use: &BTreeSet<ImageId>,
    wanted: u64,
    now: SystemTime,
) -> Doomed {
    // A time to come is a clock that was set back: no reason to keep an image for ever, nor to take it for old.
    let age = |time: SystemTime| now.duration_since(time).ok();
    let may_go = |image: &&Stocked| {
        !in_use.contains(&image.id) && age(image.arrived).is_none_or(|age| age >= options.min_age)
    };
    let mut idle: Vec<&Stocked> = stock.iter().filter(may_go).collect();
    idle.sort_by_key(|image| (image.used, image.arrived, &image.id));
    // A layer comes free with the last image that has it.
    let mut sharers: BTreeMap<&PathBuf, usize> = BTreeMap::new();
    for image in stock {
        let own: BTreeSet<&PathBuf> = image.layers.iter().map(|(path, _)| path).collect();
        for path in own {
            *sharers.entry(path).or_default() += 1;
        }
    }
    let mut all = Doomed::default();
    for image in idle {
        let unused = age(image.used).unwrap_or_default();
        let too_old = !options.max_age.is_zero() && unused > options.max_age;
        if !too_old && all.bytes >= wanted {
            continue;
        }
        let own: BTreeMap<&PathBuf, u64> = image.layers.iter().map(|(p, n)| (p, *n)).collect();
        for (path, bytes) in own {
            if let Some(count) = sharers.get_mut(path) {
                *count -= 1;
                all.bytes += if *count == 0 { bytes } else { 0 };
            }
        }
        all.ids.insert(image.id.clone());
    }
    all
}

/// Ids of the images in use, and the layers that containers have.
fn resolve(
    store: &ImageStore,
    used: ImagesInUse,
) -> Result<(BTreeSet<ImageId>, BTreeSet<PathBuf>), ImageError> {
    let by_layers = |image: &&waggle_runtime::images::Image| used.layers.contains(&image.layers);
    let list = store.list()?;
    let mut ids: BTreeSet<ImageId> = list
        .iter()
        .filter(by_layers)
        .map(|image| image.id.clone())
        .collect();
    // A name that is none belongs to a pod that can't start.
    let named = used
        .names
        .iter()
        .filter_map(|name| store.resolve(name).ok());
    ids.extend(named.flatten().map(|image| image.id));
    Ok((ids, used.layers.into_iter().flatten().collect()))
}

/// Removes images until `wanted` bytes are free, or all that may go have gone. Marks those in use.
pub(crate) async fn collect(
    node: &Node,
    table: &Table,
    wanted: u64,
) -> Result<GcReport, ImageError> {
    let Some(used) = table.images_in_use() else {
        return Ok(GcReport::default());
    };
    let (store, options) = (node.images.clone(), node.image_gc);
    let work = tokio::task::spawn_blocking(move || sweep(&store, &options, used, wanted)).await;
    work.unwrap_or_else(|broken| {
        let source = std::io::Error::other(broken);
        Err(ImageError::Store {
            operation: "collect garbage of",
            path: node.folder.images(),
            source,
        })
    })
}

fn sweep(
    store: &ImageStore,
    options: &ImageGcOptions,
    used: ImagesInUse,
    wanted: u64,
) -> Result<GcReport, ImageError> {
    let (in_use, held) = resolve(store, used)?;
    store.mark_used(&in_use)?;
    // Nothing that pulls is held up by a look that finds nothing to do.
    if wanted == 0 && options.max_age.is_zero() {
        return Ok(GcReport::default());
    }
    let report = store.gc(&held, |stock| {
        doomed(options, stock, &in_use, wanted, SystemTime::now()).ids
    })?;
    if !report.images.is_empty() {
        let (images, bytes) = (report.images.len(), report.bytes);
        tracing::info!(images, bytes, "removed images that nobody uses");
    }
    Ok(report)
}

/// Looks for as long as it runs.
pub(crate) async fn run(node: Arc<Node>, table: Table) {
    let mut failed_before = false;
    loop {
        tokio::time::sleep(PERIOD).await;
        let wanted = node.image_gc.wanted(Disk::read(&node.folder.images()));
        let outcome = collect(&node, &table, wanted).await;
        let fault = fault(wanted, &outcome);
        if let Some((reason, message)) = &fault {
            tracing::warn!(reason, message, "images can't be removed");
            // One failure may be a pull that is under way.
            if failed_before {
                node.recorder.node(reason, message.clone());
            }
        }
        failed_before = fault.is_some();
    }
}

/// Why the disk is as full as before: an event's reason and message, as kubelet has them.
fn fault(wanted: u64, outcome: &Result<GcReport, ImageError>) -> Option<(&'static str, String)> {
    match outcome {
        Ok(report) if report.bytes >= wanted => None,
        Ok(report) => Some((
            "FreeDiskSpaceFailed",
            format!(
                "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {} \
                 bytes eligible to free.",
                report.bytes
            ),
        )),
        Err(error) => Some(("ImageGCFailed", error.to_string())),
    }
}

#[cfg(test)]
mod tests;
