//! PersistentVolumes, their claims, and StorageClasses.

use serde_json::Value;

use super::{meta, names, one_of, resources};
use crate::Fault;
use crate::walk::{at, has, list, members, remove, text};

const ACCESS_MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

/// Fields of a volume's spec that say where its data is.
const SOURCES: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

/// Faults of a PersistentVolume.
pub(crate) fn persistent_volume(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("PersistentVolume", value, old, &mut out);
    let spec = &value["spec"];
    access_modes(spec, &mut out);
    let capacity = text(spec, &["capacity", "storage"]);
    if capacity.is_empty() {
        out.push(Fault::required("spec.capacity", ""));
    } else {
        resources::quantity(capacity, false, "spec.capacity[storage]", &mut out);
    }
    let policies = ["Delete", "Recycle", "Retain"];
    let policy = "persistentVolumeReclaimPolicy";
    one_of(
        &spec[policy],
        &policies,
        &format!("spec.{policy}"),
        &mut out,
    );
    one_of(
        &spec["volumeMode"],
        &VOLUME_MODES,
        "spec.volumeMode",
        &mut out,
    );
    let given: Vec<&&str> = SOURCES
        .iter()
        .filter(|source| has(spec, &[source]))
        .collect();
    match given.as_slice() {
        [] => out.push(Fault::required("spec", "must specify a volume type")),
        [_] => {}
        [_, more @ ..] => {
            for source in more {
                let detail = "may not specify more than 1 volume type";
                out.push(Fault::forbidden(format!("spec.{source}"), detail));
            }
        }
    }
    for source in ["hostPath", "local"] {
        if has(spec, &[source]) {
            path(&spec[source], &format!("spec.{source}"), &mut out);
        }
    }
    if has(spec, &["local"]) && !has(spec, &["nodeAffinity", "required"]) {
        out.push(Fault::required(
            "spec.nodeAffinity",
            "Local volume requires node affinity",
        ));
    }
    if let Some(old) = old {
        for source in given {
            if spec[*source] != old["spec"][*source] {
                let detail = "spec.persistentvolumesource is immutable after creation";
                out.push(Fault::forbidden("spec.persistentvolumesource", detail));
            }
        }
    }
    out
}

fn path(source: &Value, at: &str, out: &mut Vec<Fault>) {
    let given = text(source, &["path"]);
    if given.is_empty() {
        out.push(Fault::required(format!("{at}.path"), ""));
    } else if given.split('/').any(|step| step == "..") {
        out.push(Fault::invalid(
            format!("{at}.path"),
            given,
            "must not contain '..'",
        ));
    }
}

fn access_modes(spec: &Value, out: &mut Vec<Fault>) {
    let modes = list(spec, &["accessModes"]);
    if modes.is_empty() {
        out.push(Fault::required(
            "spec.accessModes",
            "at least 1 access mode is required",
        ));
    }
    for (index, mode) in modes.iter().enumerate() {
        one_of(
            mode,
            &ACCESS_MODES,
            &format!("spec.accessModes[{index}]"),
            out,
        );
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let detail = "may not use ReadWriteOncePod with other access modes";
        out.push(Fault::forbidden("spec.accessModes", detail));
    }
}

/// Faults of a PersistentVolumeClaim.
pub(crate) fn persistent_volume_claim(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("PersistentVolumeClaim", value, old, &mut out);
    let spec = &value["spec"];
    access_modes(spec, &mut out);
    meta::selector(&spec["selector"], "spec.selector", &mut out);
    one_of(
        &spec["volumeMode"],
        &VOLUME_MODES,
        "spec.volumeMode",
        &mut out,
    );
    let asked = text(spec, &["resources", "requests", "storage"]);
    if asked.is_empty() {
        out.push(Fault::required("spec.resources[storage]", ""));
    } else {
        resources::quantity(asked, false, "spec.resources[storage]", &mut out);
    }
    let class = text(spec, &["storageClassName"]);
    if let Some(rule) = (!class.is_empty())
        .then(|| names::subdomain(class))
        .flatten()
    {
        out.push(Fault::invalid("spec.storageClassName", class, rule));
    }
    if let Some(old) = old {
        claim_changes(spec, &old["spec"], &mut out);
    }
    out
}

/// A claim may grow, and is bound once; everything else stays.
fn claim_changes(new: &Value, old: &Value, out: &mut Vec<Fault>) {
    let (mut left, mut right) = (new.clone(), old.clone());
    for spec in [&mut left, &mut right] {
        remove(spec, &["resources"], "requests");
        remove(spec, &[], "volumeAttributesClassName");
    }
    if text(old, &["volumeName"]).is_empty() {
        remove(&mut left, &[], "volumeName");
        remove(&mut right, &[], "volumeName");
    }
    if text(old, &["storageClassName"]).is_empty() && at(old, &["storageClassName"]).is_null() {
        remove(&mut left, &[], "storageClassName");
    }
    if left != right {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for \
                      bound claims";
        out.push(Fault::forbidden("spec", detail));
    }
    let amount = |spec: &Value| {
        text(spec, &["resources", "requests", "storage"])
            .parse::<waggle_model::Quantity>()
            .ok()
    };
    if let (Some(new), Some(old)) = (amount(new), amount(old))
        && new < old
    {
        let detail = "field can not be less than previous value";
        out.push(Fault::forbidden("spec.resources.requests.storage", detail));
    }
}

/// Faults of a StorageClass.
pub(crate) fn storage_class(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("StorageClass", value, old, &mut out);
    let provisioner = text(value, &["provisioner"]);
    if provisioner.is_empty() {
        out.push(Fault::required("provisioner", ""));
    } else if let Some(rule) = names::qualified_name(&provisioner.to_lowercase()) {
        out.push(Fault::invalid("provisioner", provisioner, rule));
    }
    one_of(
        &value["reclaimPolicy"],
        &["Delete", "Retain"],
        "reclaimPolicy",
        &mut out,
    );
    one_of(
        &value["volumeBindingMode"],
        &["Immediate", "WaitForFirstConsumer"],
        "volumeBindingMode",
        &mut out,
    );
    for (name, _) in members(value, &["parameters"]) {
        if name.is_empty() {
            out.push(Fault::invalid("parameters", "", "field must not be empty"));
        }
    }
    if let Some(old) = old {
        for field in [
            "parameters",
            "provisioner",
            "reclaimPolicy",
            "volumeBindingMode",
        ] {
            if value[field] != old[field] {
                out.push(Fault::forbidden(
                    field,
                    format!("updates to {field} are forbidden."),
                ));
            }
        }
    }
    out
}
