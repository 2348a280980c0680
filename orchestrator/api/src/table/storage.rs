//! Columns of PersistentVolumes, their claims, and StorageClasses.

use serde_json::Value;

use super::{Cell, Column, age, name};
use crate::walk::{has, list, text};

const CLASS: Column = Column::text("StorageClass", "Class of the storage.");
const ATTRIBUTES: Column = Column::text("VolumeAttributesClass", "Class of its attributes.");
const MODE: Column = Column::text("VolumeMode", "Filesystem or Block.").wide();
const CAPACITY: Column = Column::text("Capacity", "How much it holds.");
const ACCESS: Column = Column::text("Access Modes", "Who may mount it at once.");

/// `RWO,ROX`.
fn modes(object: &Value, path: &[&str]) -> String {
    let short = |mode: &Value| match mode.as_str().unwrap_or_default() {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    list(object, path)
        .iter()
        .map(short)
        .collect::<Vec<_>>()
        .join(",")
}

fn unset(text: &str) -> Cell {
    if text.is_empty() {
        "<unset>".into()
    } else {
        text.into()
    }
}

fn phase(object: &Value) -> Cell {
    if has(object, &["metadata", "deletionTimestamp"]) {
        "Terminating".into()
    } else {
        text(object, &["status", "phase"]).into()
    }
}

/// Columns of a PersistentVolume.
pub const PERSISTENT_VOLUME: &[Column] = &[
    Column::NAME,
    CAPACITY,
    ACCESS,
    Column::text("Reclaim Policy", "What becomes of it after its claim."),
    Column::text("Status", "Available, Bound, Released or Failed."),
    Column::text("Claim", "Whose it is."),
    CLASS,
    ATTRIBUTES,
    Column::text("Reason", "Why it is in this state."),
    Column::AGE,
    MODE,
];

/// Cells of a PersistentVolume.
pub fn persistent_volume(object: &Value, now: i64) -> Vec<Cell> {
    let claim = match (
        text(object, &["spec", "claimRef", "namespace"]),
        text(object, &["spec", "claimRef", "name"]),
    ) {
        (_, "") => String::new(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![
        name(object),
        text(object, &["spec", "capacity", "storage"]).into(),
        modes(object, &["spec", "accessModes"]).into(),
        text(object, &["spec", "persistentVolumeReclaimPolicy"]).into(),
        phase(object),
        claim.into(),
        text(object, &["spec", "storageClassName"]).into(),
        unset(text(object, &["spec", "volumeAttributesClassName"])),
        text(object, &["status", "reason"]).into(),
        age(object, now),
        unset(text(object, &["spec", "volumeMode"])),
    ]
}

/// Columns of a PersistentVolumeClaim.
pub const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    Column::NAME,
    Column::text("Status", "Pending, Bound or Lost."),
    Column::text("Volume", "What it got."),
    CAPACITY,
    ACCESS,
    CLASS,
    ATTRIBUTES,
    Column::AGE,
    MODE,
];

/// Cells of a PersistentVolumeClaim.
pub fn persistent_volume_claim(object: &Value, now: i64) -> Vec<Cell> {
    let bound = !text(object, &["spec", "volumeName"]).is_empty();
    let capacity = if bound {
        text(object, &["status", "capacity", "storage"])
    } else {
        ""
    };
    let access = if bound {
        modes(object, &["status", "accessModes"])
    } else {
        String::new()
    };
    vec![
        name(object),
        phase(object),
        text(object, &["spec", "volumeName"]).into(),
        capacity.into(),
        access.into(),
        text(object, &["spec", "storageClassName"]).into(),
        unset(text(object, &["spec", "volumeAttributesClassName"])),
        age(object, now),
        unset(text(object, &["spec", "volumeMode"])),
    ]
}

/// Columns of a StorageClass.
pub const STORAGE_CLASS: &[Column] = &[
    Column::NAME,
    Column::text("Provisioner", "Who makes its volumes."),
    Column::text("ReclaimPolicy", "What becomes of a volume after its claim."),
    Column::text("VolumeBindingMode", "When a claim gets its volume."),
    Column::text("AllowVolumeExpansion", "Whether claims may grow."),
    Column::AGE,
];

/// Cells of a StorageClass.
pub fn storage_class(object: &Value, now: i64) -> Vec<Cell> {
    let default = text(
        object,
        &[
            "metadata",
            "annotations",
            "storageclass.kubernetes.io/is-default-class",
        ],
    ) == "true";
    let name = text(object, &["metadata", "name"]);
    let grows = object["allowVolumeExpansion"] == true;
    vec![
        if default {
            format!("{name} (default)").into()
        } else {
            name.into()
        },
        text(object, &["provisioner"]).into(),
        text(object, &["reclaimPolicy"]).into(),
        text(object, &["volumeBindingMode"]).into(),
        if grows { "true" } else { "false" }.into(),
        age(object, now),
    ]
}
