//! Volumes of a pod as folders on the node, and what a container's mounts of them come to. Made before a container
//! starts; made again without harm.

mod payload;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath,
    ServiceAccountTokenProjection, Volume,
};
use nix::mount::{MsFlags, mount};
use waggle_runtime::mount_table::{self, Mounted};
use waggle_runtime::spec::MountSpec;

use self::payload::{Content, inside, open_to};
use super::desired::Desired;
use super::env::{
    BadReference, Surroundings, config_map, expand, field_value, resource_value, secret,
};
use super::tokens::{TokenKey, Tokens};

/// Who made a PersistentVolume, and that it was the cluster itself.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const OURS: &str = "waggle.dev/local-path";

/// Why a volume can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeFault {
    /// A reference leads nowhere, or its kind is not known here.
    #[error("volume {volume:?}: {why}")]
    Unusable { volume: String, why: String },
    /// The node's file system.
    #[error("volume {volume:?}: cannot {operation} {path}: {source}", path = path.display())]
    File {
        volume: String,
        operation: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// A container's mount.
    #[error("mount {path:?}: {why}")]
    Mount { path: String, why: String },
}

/// Makes the pod's volumes below `folder`; where each one is.
pub(crate) fn prepare(
    pod: &Desired,
    folder: &Path,
    around: &Surroundings<'_>,
    tokens: &Tokens,
) -> Result<BTreeMap<String, PathBuf>, VolumeFault> {
    let volumes = pod
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default();
    let mut places = BTreeMap::new();
    for volume in volumes {
        places.insert(
            volume.name.clone(),
            one(pod, volume, &folder.join(&volume.name), around, tokens)?,
        );
    }
    Ok(places)
}

fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|m| m.dev()).ok();
    path.parent()
        .is_some_and(|parent| device(path) != device(parent))
}

fn one(
    pod: &Desired,
    volume: &Volume,
    place: &Path,
    around: &Surroundings<'_>,
    tokens: &Tokens,
) -> Result<PathBuf, VolumeFault> {
    let unusable = |why: String| VolumeFault::Unusable {
        volume: volume.name.clone(),
        why,
    };
    let file = |operation: &'static str, path: &Path| {
        let (volume, path) = (volume.name.clone(), path.to_owned());
        move |source| VolumeFault::File {
            volume,
            operation,
            path,
            source,
        }
    };
    if let Some(host) = &volume.host_path {
        return host_path(host).map_err(unusable);
    }
    let group = fs_group(pod);
    if let Some(source) = &volume.persistent_volume_claim {
        return claimed(pod, &source.claim_name, group).map_err(unusable);
    }
    if let Some(empty) = &volume.empty_dir {
        std::fs::create_dir_all(place).map_err(file("make", place))?;
        if empty.medium.as_deref() == Some("Memory") && !is_mount_point(place) {
            let limit = empty
                .size_limit
                .as_ref()
                .and_then(|q| q.0.parse::<waggle_model::Bytes>().ok());
            let size = limit.map_or_else(
                || "mode=0777".to_owned(),
                |b| format!("mode=0777,size={}", b.0),
            );
            mount_memory(place, &size).map_err(file("mount a tmpfs at", place))?;
        }
        open_to(place, 0o777, group).map_err(file("open", place))?;
        return Ok(place.to_owned());
    }
    let contents = contents(pod, volume, around, tokens)
        .ok_or_else(|| unusable("its kind is not supported by this version".to_owned()))?
        .map_err(|error| unusable(error.to_string()))?;
    if is_secret(volume) {
        std::fs::create_dir_all(place).map_err(file("make", place))?;
        if !is_mount_point(place) {
            mount_memory(place, "mode=0755").map_err(file("mount a tmpfs at", place))?;
        }
    }
    payload::write(place, &contents, group).map_err(file("write", place))?;
    Ok(place.to_owned())
}

/// Where the volume is that a claim is bound to. A folder that this cluster made the volume of is made when it is used
/// first.
fn claimed(pod: &Desired, claim: &str, group: Option<u32>) -> Result<PathBuf, String> {
    let volume = pod.volumes.get(claim);
    let volume = volume.ok_or_else(|| format!("persistentvolumeclaim {claim:?} is not bound"))?;
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let spec = volume.spec.clone().unwrap_or_default();
    if let Some(host) = &spec.host_path {
        return host_path(host);
    }
    let Some(local) = &spec.local else {
        return Err(format!(
            "persistentvolume {name:?} is of a kind that this node can't mount"
        ));
    };
    let path = PathBuf::from(&local.path);
    let annotations = volume.metadata.annotations.as_ref();
    let ours = annotations.is_some_and(|all| all.get(PROVISIONED_BY).is_some_and(|by| by == OURS));
    if ours && !path.exists() {
        std::fs::create_dir_all(&path)
            .and_then(|()| open_to(&path, 0o777, None))
            .map_err(|error| format!("cannot make {}: {error}", path.display()))?;
    }
    if !path.exists() {
        return Err(format!(
            "persistentvolume {name:?}: {} does not exist on this node",
            path.display()
        ));
    }
    if let Some(group) = group {
        open_to(&path, 0o775, Some(group)).map_err(|error| error.to_string())?;
    }
    Ok(path)
}

/// What must not reach a disk.
fn is_secret(volume: &Volume) -> bool {
    let projected = volume.projected.as_ref();
    let mut sources = projected
        .into_iter()
        .flat_map(|p| p.sources.iter().flatten());
    volume.secret.is_some()
        || sources.any(|s| s.secret.is_some() || s.service_account_token.is_some())
}

fn mount_memory(place: &Path, options: &str) -> std::io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), place, Some("tmpfs"), flags, Some(options))?;
    Ok(())
}

fn fs_group(pod: &Desired) -> Option<u32> {
    let context = pod.pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

fn host_path(host: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&host.path);
    let found = std::fs::metadata(&path).ok();
    let fault = |what: &str| Err(format!("host path {:?} is no {what}", host.path));
    match (host.type_.as_deref().unwrap_or_default(), found) {
        ("DirectoryOrCreate", None) => std::fs::create_dir_all(&path)
            .map_err(|error| format!("cannot make host path {:?}: {error}", host.path))?,
        ("FileOrCreate", None) => std::fs::write(&path, b"")
            .map_err(|error| format!("cannot make host path {:?}: {error}", host.path))?,
        (_, None) => return Err(format!("host path {:?} does not exist", host.path)),
        ("Directory" | "DirectoryOrCreate", Some(found)) if !found.is_dir() => {
            return fault("folder");
        }
        ("File" | "FileOrCreate", Some(found)) if !found.is_file() => return fault("file"),
        _ => {}
    }
    Ok(path)
}

/// Files of a volume that is made from data; `None` for kinds that are not.
fn contents(
    pod: &Desired,
    volume: &Volume,
    around: &Surroundings<'_>,
    tokens: &Tokens,
) -> Option<Result<Vec<Content>, BadReference>> {
    let mode = |mode: Option<i32>| mode.unwrap_or(0o644).cast_unsigned();
    if let Some(source) = &volume.config_map {
        let optional = source.optional == Some(true);
        let items = source.items.as_deref();
        return Some(from_config_map(
            pod,
            &source.name,
            optional,
            items,
            mode(source.default_mode),
        ));
    }
    if let Some(source) = &volume.secret {
        let optional = source.optional == Some(true);
        let name = source.secret_name.as_deref().unwrap_or_default();
        return Some(from_secret(
            pod,
            name,
            optional,
            source.items.as_deref(),
            mode(source.default_mode),
        ));
    }
    if let Some(source) = &volume.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        return Some(from_downward(pod, items, mode(source.default_mode), around));
    }
    let projected = volume.projected.as_ref()?;
    let mode = mode(projected.default_mode);
    let mut all = Vec::new();
    for source in projected.sources.iter().flatten() {
        let part = if let Some(map) = &source.config_map {
            from_config_map(
                pod,
                &map.name,
                map.optional == Some(true),
                map.items.as_deref(),
                mode,
            )
        } else if let Some(secret) = &source.secret {
            from_secret(
                pod,
                &secret.name,
                secret.optional == Some(true),
                secret.items.as_deref(),
                mode,
            )
        } else if let Some(downward) = &source.downward_api {
            from_downward(
                pod,
                downward.items.as_deref().unwrap_or_default(),
                mode,
                around,
            )
        } else if let Some(token) = &source.service_account_token {
            from_token(token, tokens, mode)
        } else {
            let why = "projects a source that is not supported by this version";
            Err(BadReference(why.to_owned()))
        };
        match part {
            Ok(part) => all.extend(part),
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok(all))
}

fn from_token(
    source: &ServiceAccountTokenProjection,
    tokens: &Tokens,
    mode: u32,
) -> Result<Vec<Content>, BadReference> {
    let text = tokens
        .get(&TokenKey::of(source))
        .ok_or_else(|| BadReference(format!("the token for {:?} is not here yet", source.path)))?;
    Ok(vec![Content {
        path: source.path.clone(),
        data: text.as_bytes().to_vec(),
        mode,
    }])
}

fn from_config_map(
    pod: &Desired,
    name: &str,
    optional: bool,
    items: Option<&[KeyToPath]>,
    mode: u32,
) -> Result<Vec<Content>, BadReference> {
    let text = config_map(pod, name, optional)?.unwrap_or_default();
    let binary = pod
        .config_maps
        .get(name)
        .and_then(|map| map.binary_data.clone())
        .unwrap_or_default();
    let text = text
        .into_iter()
        .map(|(key, value)| (key, value.into_bytes()));
    let data: BTreeMap<String, Vec<u8>> = text
        .chain(binary.into_iter().map(|(k, v)| (k, v.0)))
        .collect();
    select(&data, items, mode, optional, name)
}

fn from_secret(
    pod: &Desired,
    name: &str,
    optional: bool,
    items: Option<&[KeyToPath]>,
    mode: u32,
) -> Result<Vec<Content>, BadReference> {
    let data = secret(pod, name, optional)?.unwrap_or_default();
    select(&data, items, mode, optional, name)
}

fn select(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
    name: &str,
) -> Result<Vec<Content>, BadReference> {
    let Some(items) = items else {
        let all = data.iter().map(|(key, data)| Content {
            path: key.clone(),
            data: data.clone(),
            mode,
        });
        return Ok(all.collect());
    };
    let mut chosen = Vec::new();
    for item in items {
        match data.get(&item.key) {
            Some(data) => chosen.push(Content {
                path: item.path.clone(),
                data: data.clone(),
                mode: item.mode.map_or(mode, i32::cast_unsigned),
            }),
            None if optional => {}
            None => return Err(BadReference(format!("{name:?} has no key {:?}", item.key))),
        }
    }
    Ok(chosen)
}

fn from_downward(
    pod: &Desired,
    items: &[DownwardAPIVolumeFile],
    mode: u32,
    around: &Surroundings<'_>,
) -> Result<Vec<Content>, BadReference> {
    let mut files = Vec::new();
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            field_value(pod, &field.field_path, around)?
        } else if let Some(resource) = &item.resource_field_ref {
            let name = resource.container_name.as_deref().unwrap_or_default();
            let container = pod
                .all_containers()
                .find(|c| c.name == name)
                .ok_or_else(|| BadReference(format!("pod has no container {name:?}")))?;
            let divisor = resource.divisor.as_ref().map_or("1", |q| q.0.as_str());
            resource_value(container, &resource.resource, divisor, around)?
        } else {
            String::new()
        };
        let mode = item.mode.map_or(mode, i32::cast_unsigned);
        files.push(Content {
            path: item.path.clone(),
            data: text.into_bytes(),
            mode,
        });
    }
    Ok(files)
}

/// The mounts of `container`, given where the volumes are and its environment.
pub(crate) fn mounts(
    container: &Container,
    places: &BTreeMap<String, PathBuf>,
    env: &[String],
    pod: &Desired,
) -> Result<Vec<MountSpec>, VolumeFault> {
    let mut mounts = Vec::new();
    let volumes = pod
        .pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let read_only: Vec<&str> = volumes
        .filter(|volume| {
            let claim = volume.persistent_volume_claim.as_ref();
            claim.and_then(|claim| claim.read_only) == Some(true)
        })
        .map(|volume| volume.name.as_str())
        .collect();
    for wanted in container.volume_mounts.iter().flatten() {
        let fault = |why: String| VolumeFault::Mount {
            path: wanted.mount_path.clone(),
            why,
        };
        let place = places
            .get(&wanted.name)
            .ok_or_else(|| fault(format!("the pod has no volume {:?}", wanted.name)))?;
        let lookup = |name: &str| {
            env.iter()
                .rev()
                .find_map(|pair| pair.split_once('=').filter(|(k, _)| *k == name))
                .map(|(_, v)| v.to_owned())
        };
        let sub = match (&wanted.sub_path, &wanted.sub_path_expr) {
            (Some(sub), _) if !sub.is_empty() => Some(sub.clone()),
            (_, Some(expression)) if !expression.is_empty() => Some(expand(expression, &lookup)),
            _ => None,
        };
        let source = match sub {
            Some(sub) => below(place, &sub).map_err(fault)?,
            None => place.clone(),
        };
        let sends_mounts = wanted.mount_propagation.as_deref() == Some("Bidirectional");
        if sends_mounts {
            let table = mount_table::read().map_err(|error| fault(error.to_string()))?;
            must_be_shared(&table, &source).map_err(fault)?;
        }
        mounts.push(MountSpec {
            source: Some(source),
            target: wanted.mount_path.clone(),
            read_only: wanted.read_only == Some(true) || read_only.contains(&wanted.name.as_str()),
            tmpfs_bytes: None,
            receives_mounts: wanted.mount_propagation.as_deref() == Some("HostToContainer"),
            sends_mounts,
            recursive: matches!(
                wanted.recursive_read_only.as_deref(),
                Some("Enabled" | "IfPossible")
            ),
        });
    }
    Ok(mounts)
}

/// What a container mounts reaches the node (`Bidirectional`) only where the node's own mount is shared.
fn must_be_shared(table: &[Mounted], source: &Path) -> Result<(), String> {
    let real = source
        .canonicalize()
        .map_err(|error| format!("{}: {error}", source.display()))?;
    match mount_table::holding(table, &real) {
        Some(mount) if !mount.shared => Err(format!(
            "path {:?} is mounted on {:?} but it is not a shared mount: mountPropagation Bidirectional needs one \
             (mount --make-shared)",
            real, mount.target
        )),
        _ => Ok(()),
    }
}

/// `sub` below a volume; made as a folder when missing, refused when it leads out through a link.
fn below(place: &Path, sub: &str) -> Result<PathBuf, String> {
    let relative = inside(sub).ok_or_else(|| format!("subPath {sub:?} leads out of the volume"))?;
    let path = place.join(relative);
    if std::fs::symlink_metadata(&path).is_err() {
        std::fs::create_dir_all(&path)
            .map_err(|error| format!("cannot make subPath {sub:?}: {error}"))?;
    }
    let real = path
        .canonicalize()
        .map_err(|error| format!("subPath {sub:?}: {error}"))?;
    let root = place
        .canonicalize()
        .map_err(|error| format!("volume: {error}"))?;
    if real.starts_with(root) {
        Ok(real)
    } else {
        Err(format!("subPath {sub:?} leads out of the volume"))
    }
}

#[cfg(test)]
mod tests;
