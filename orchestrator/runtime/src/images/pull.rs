//! Takes images from registries: manifest, configuration, then all layers that are missing, several at a time, each
//! hashed and unpacked while it arrives.

use std::path::PathBuf;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use nix::fcntl::FlockArg;
use oci_client::client::{
    BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol,
};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use tokio::sync::mpsc;

use super::error::{ImageError, Result};
use super::{Image, ImageStore, Layer, Record, hex_of, parse, parse_config, sha256};

/// Layers that are fetched at the same time.
const PARALLEL: usize = 4;
/// A configuration larger than this is none, bytes.
const MAX_CONFIG: i64 = 8 << 20;

/// How often a layer is taken up again without a byte having come, and how long is waited before the first time.
const RESUMES: u32 = 5;
const RESUME_PAUSE: Duration = Duration::from_millis(200);

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Registries (`host:port`) that are spoken to without TLS, beside `localhost` and `127.0.0.0/8`.
    pub insecure_registries: Vec<String>,
    /// Folder with what is known of registries, each in a folder of its name (`host:port`): `ca.crt`, certificates (PEM)
    /// that are trusted beside the system's, and `mirrors`, registries that are asked before it, one a line.
    pub registries: Option<PathBuf>,
    /// For the registry of the image.
    pub credentials: Option<Credentials>,
}

/// Who we are to a registry.
#[derive(Clone)]
pub struct Credentials {
    /// User.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// How far a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// Digest of the layer as the registry has it.
    pub layer: String,
    /// What happens to it.
    pub state: LayerState,
}

/// What happens to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// It was here already.
    Exists,
    /// It is being fetched and unpacked.
    Fetching {
        /// Bytes that have come.
        done: u64,
        /// Bytes of the whole layer.
        total: u64,
    },
    /// It is here.
    Done,
}

/// What arrives of a blob.
type Chunks = BoxStream<'static, std::io::Result<bytes::Bytes>>;

/// One pull.
struct Pull<'a, P> {
    store: &'a ImageStore,
    client: Client,
    reference: Reference,
    name: String,
    progress: &'a P,
}

pub(super) async fn pull<P: Fn(PullProgress) + Send + Sync>(
    store: &ImageStore,
    reference: &str,
    options: &PullOptions,
    progress: &P,
) -> Result<Image> {
    let reference = parse(reference)?;
    let lock_store = store.clone();
    // Waits while garbage is collected.
    let _adding = tokio::task::spawn_blocking(move || lock_store.lock(FlockArg::LockShared))
        .await
        .map_err(|e| ImageError::store("lock", &store.dir, std::io::Error::other(e)))??;
    let name = reference.whole();
    for mirror in mirrors(&reference, options)? {
        let mut there = reference.clone();
        there.set_mirror_registry(mirror.clone());
        let pull = Pull {
            store,
            client: client(&there, options)?,
            name: name.clone(),
            reference: there,
            progress,
        };
        // Credentials are for the registry itself.
        match pull.run(&RegistryAuth::Anonymous).await {
            Ok(image) => return Ok(image),
            Err(error) => tracing::info!(image = name, mirror, %error, "not from this mirror"),
        }
    }
    let auth = match &options.credentials {
        Some(c) => RegistryAuth::Basic(c.username.clone(), c.password.clone()),
        None => RegistryAuth::Anonymous,
    };
    let pull = Pull {
        store,
        client: client(&reference, options)?,
        name,
        reference,
        progress,
    };
    pull.run(&auth).await
}

fn client(reference: &Reference, options: &PullOptions) -> Result<Client> {
    let known = known(options, reference.resolve_registry(), "ca.crt")?;
    let certificates = known.map(|data| Certificate {
        encoding: CertificateEncoding::Pem,
        data: data.into_bytes(),
    });
    Ok(Client::new(ClientConfig {
        protocol: protocol(reference, options),
        connect_timeout: Some(Duration::from_secs(20)),
        read_timeout: Some(Duration::from_secs(60)),
        user_agent: concat!("waggle/", env!("CARGO_PKG_VERSION")),
        extra_root_certificates: certificates.into_iter().collect(),
        ..ClientConfig::default()
    }))
}

/// Registries to ask before the image's own.
fn mirrors(reference: &Reference, options: &PullOptions) -> Result<Vec<String>> {
    let text = known(options, reference.registry(), "mirrors")?.unwrap_or_default();
    let lines = text.lines().map(str::trim);
    let named = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(named.map(str::to_owned).collect())
}

/// What is known of a registry under a name.
fn known(options: &PullOptions, registry: &str, name: &str) -> Result<Option<String>> {
    let Some(folder) = &options.registries else {
        return Ok(None);
    };
    let path = folder.join(registry.replace('/', "_")).join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImageError::store("read", &path, error)),
    }
}

fn protocol(reference: &Reference, options: &PullOptions) -> ClientProtocol {
    let registry = reference.resolve_registry();
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let local = host == "localhost"
        || host
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    let listed = options
        .insecure_registries
        .iter()
        .any(|r| r == registry || r == reference.registry());
    let secured = known(options, registry, "ca.crt").is_ok_and(|found| found.is_some());
    if listed || (local && !secured) {
        ClientProtocol::Http
    } else {
        ClientProtocol::Https
    }
}

impl<P: Fn(PullProgress) + Send + Sync> Pull<'_, P> {
    async fn run(&self, auth: &RegistryAuth) -> Result<Image> {
        let (manifest, manifest_digest) = self
            .client
            .pull_image_manifest(&self.reference, auth)
            .await
            .map_err(|e| self.failed(e))?;
        let config = self.config(&manifest.config).await?;
        let id = manifest.config.digest.clone();
        let (config, diff_ids) = parse_config(&self.name, &config)?;
        if diff_ids.len() != manifest.layers.len() {
            return Err(self.malformed(format!(
                "its manifest has {} layers, its configuration {}",
                manifest.layers.len(),
                diff_ids.len()
            )));
        }
        // Made beforehand: a closure inside the stream would keep the whole future from being sent between threads.
        let fetches: Vec<_> = manifest
            .layers
            .iter()
            .zip(&diff_ids)
            .map(|(descriptor, diff_id)| self.layer(descriptor, diff_id))
            .collect();
        let layers: Vec<Layer> = futures::stream::iter(fetches)
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        let record = Record {
            id,
            manifest_digest: Some(manifest_digest),
            layers,
            config,
        };
        let names = if self.reference.tag().is_some() {
            vec![self.tagged()]
        } else {
            Vec::new()
        };
        self.store.publish(&record, &names)?;
        Ok(self.store.image(record, &self.store.names()?))
    }

    /// The name without a digest, under which `resolve` finds it by tag.
    fn tagged(&self) -> String {
        match self.reference.digest() {
            Some(digest) => self.name.trim_end_matches(&format!("@{digest}")).to_owned(),
            None => self.name.clone(),
        }
    }

    async fn config(&self, descriptor: &OciDescriptor) -> Result<Vec<u8>> {
        if hex_of(&descriptor.digest).is_none() || descriptor.size > MAX_CONFIG {
            return Err(self.malformed(format!(
                "its configuration {} can't be used",
                descriptor.digest
            )));
        }
        let mut bytes = Vec::new();
        self.client
            .pull_blob(&self.reference, descriptor, &mut bytes)
            .await
            .map_err(|e| self.failed(e))?;
        let actual = sha256(&bytes);
        if actual != descriptor.digest {
            return Err(ImageError::Digest {
                image: self.name.clone(),
                what: "its configuration".into(),
                expected: descriptor.digest.clone(),
                actual,
            });
        }
        Ok(bytes)
    }

    async fn layer(&self, descriptor: &OciDescriptor, diff_id: &str) -> Result<Layer> {
        let turn = self.store.turn(diff_id);
        let _turn = turn.lock().await;
        let tell = |state| {
            (self.progress)(PullProgress {
                layer: descriptor.digest.clone(),
                state,
            })
        };
        if let Some(layer) = self.store.existing_layer(diff_id) {
            tell(LayerState::Exists);
            return Ok(layer);
        }
        let total = u64::try_from(descriptor.size).unwrap_or(0);
        tell(LayerState::Fetching { done: 0, total });
        let layer = self
            .unpack(descriptor, diff_id, &|done| {
                tell(LayerState::Fetching { done, total })
            })
            .await?;
        tell(LayerState::Done);
        Ok(layer)
    }

    /// Feeds what arrives to a blocking thread that unpacks.
    async fn unpack(
        &self,
        descriptor: &OciDescriptor,
        diff_id: &str,
        arrived: &(impl Fn(u64) + Sync),
    ) -> Result<Layer> {
        let (sender, receiver) = mpsc::channel::<std::io::Result<bytes::Bytes>>(32);
        let (store, name) = (self.store.clone(), self.name.clone());
        let (digest, diff_id) = (descriptor.digest.clone(), diff_id.to_owned());
        let unpacking = tokio::task::spawn_blocking(move || {
            store.add_layer(
                &name,
                Some(&digest),
                &diff_id,
                Arriving {
                    receiver,
                    chunk: bytes::Bytes::new(),
                },
            )
        });
        let fetched = self.fetch(descriptor, &sender, arrived).await;
        if let Err(error) = &fetched {
            // A receiver that is gone has failed, and tells below.
            let told = std::io::Error::other(error.to_string());
            drop(sender.send(Err(told)).await);
        }
        drop(sender);
        let unpacked = unpacking
            .await
            .map_err(|e| self.malformed(format!("unpacking broke off: {e}")))?;
        fetched.and(unpacked)
    }

    /// Fetches a blob, and takes it up again where it broke off. Its digest is checked by who unpacks it.
    async fn fetch(
        &self,
        descriptor: &OciDescriptor,
        sender: &mpsc::Sender<std::io::Result<bytes::Bytes>>,
        arrived: &(impl Fn(u64) + Sync),
    ) -> Result<()> {
        let total = u64::try_from(descriptor.size).unwrap_or(0);
        let (mut done, mut tries) = (0_u64, 0_u32);
        loop {
            let before = done;
            let broken = match self.open(descriptor, done).await {
                Ok((mut stream, mut skip)) => loop {
                    let mut chunk = match stream.next().await {
                        Some(Ok(chunk)) => chunk,
                        Some(Err(_)) | None if done >= total => return Ok(()),
                        Some(Err(error)) => break error.to_string(),
                        None => break format!("it ended after {done} of {total} bytes"),
                    };
                    let passed = skip.min(chunk.len() as u64);
                    skip -= passed;
                    chunk = chunk.split_off(usize::try_from(passed).unwrap_or(chunk.len()));
                    done += chunk.len() as u64;
                    arrived(done);
                    if sender.send(Ok(chunk)).await.is_err() {
                        return Ok(());
                    }
                },
                // The first answer says what is wrong; later ones may come from a registry that is being restarted.
                Err(error) if done == 0 => return Err(self.failed(error)),
                Err(error) => chain(&error),
            };
            tries = if done > before { 0 } else { tries + 1 };
            if tries > RESUMES {
                return Err(ImageError::Registry {
                    reference: self.name.clone(),
                    registry: self.reference.registry().to_owned(),
                    reason: format!("layer {} broke off: {broken}", descriptor.digest),
                });
            }
            tracing::info!(
                image = self.name,
                layer = descriptor.digest,
                done,
                total,
                broken,
                "a layer is taken up again"
            );
            tokio::time::sleep(RESUME_PAUSE * 2_u32.pow(tries)).await;
        }
    }

    /// The bytes of a blob from an offset on, and how many of them are from before it: not every registry skips.
    async fn open(
        &self,
        descriptor: &OciDescriptor,
        offset: u64,
    ) -> std::result::Result<(Chunks, u64), OciDistributionError> {
        if offset == 0 {
            let whole = self.client.pull_blob_stream(&self.reference, descriptor);
            return Ok((whole.await?.stream, 0));
        }
        let rest = self
            .client
            .pull_blob_stream_partial(&self.reference, descriptor, offset, None)
            .await?;
        Ok(match rest {
            BlobResponse::Full(whole) => (whole.stream, offset),
            BlobResponse::Partial(rest) => (rest.stream, 0),
        })
    }

    fn malformed(&self, reason: String) -> ImageError {
        ImageError::Malformed {
            image: self.name.clone(),
            reason,
        }
    }

    fn failed(&self, error: OciDistributionError) -> ImageError {
        let (reference, registry) = (self.name.clone(), self.reference.registry().to_owned());
        match error {
            OciDistributionError::ImageManifestNotFoundError(_)
            | OciDistributionError::ServerError { code: 404, .. } => ImageError::NotFound {
                reference,
                registry,
            },
            OciDistributionError::RegistryError { ref envelope, .. }
                if envelope.errors.iter().any(|e| {
                    matches!(
                        e.code,
                        OciErrorCode::ManifestUnknown
                            | OciErrorCode::NameUnknown
                            | OciErrorCode::NotFound
                    )
                }) =>
            {
                ImageError::NotFound {
                    reference,
                    registry,
                }
            }
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_) => ImageError::Unauthorized {
                reference,
                registry,
            },
            OciDistributionError::RegistryError { ref envelope, .. }
                if envelope.errors.iter().any(|e| {
                    matches!(e.code, OciErrorCode::Unauthorized | OciErrorCode::Denied)
                }) =>
            {
                ImageError::Unauthorized {
                    reference,
                    registry,
                }
            }
            other => ImageError::Registry {
                reference,
                registry,
                reason: chain(&other),
            },
        }
    }
}

/// The blocking end of a download.
struct Arriving {
    receiver: mpsc::Receiver<std::io::Result<bytes::Bytes>>,
    chunk: bytes::Bytes,
}

impl std::io::Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.chunk.len());
        buffer[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}

/// An error with its causes; the cause is what tells a refused connection from a wrong certificate.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
