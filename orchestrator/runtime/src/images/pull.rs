//! Takes images from registries: manifest, configuration, then all layers that are missing, several at a time, each
//! hashed and unpacked while it arrives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use nix::fcntl::FlockArg;
use oci_client::client::{ClientConfig, ClientProtocol};
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

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Registries (`host:port`) that are spoken to without TLS, beside `localhost` and `127.0.0.0/8`.
    pub insecure_registries: Vec<String>,
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
    let auth = match &options.credentials {
        Some(c) => RegistryAuth::Basic(c.username.clone(), c.password.clone()),
        None => RegistryAuth::Anonymous,
    };
    let client = Client::new(ClientConfig {
        protocol: protocol(&reference, options),
        connect_timeout: Some(Duration::from_secs(20)),
        read_timeout: Some(Duration::from_secs(60)),
        user_agent: concat!("waggle/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    });
    let pull = Pull {
        store,
        client,
        name: reference.whole(),
        reference,
        progress,
    };
    pull.run(&auth).await
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
    if local || listed {
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
        let stream = self
            .client
            .pull_blob_stream(&self.reference, descriptor)
            .await
            .map_err(|e| self.failed(e))?;
        let done = AtomicU64::new(0);
        let counted = stream.stream.inspect_ok(|bytes| {
            let now = done.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
            tell(LayerState::Fetching { done: now, total });
        });
        let layer = self.unpack(counted, descriptor, diff_id).await?;
        tell(LayerState::Done);
        Ok(layer)
    }

    /// Feeds what arrives to a blocking thread that unpacks.
    async fn unpack(
        &self,
        bytes: impl futures::Stream<Item = std::io::Result<bytes::Bytes>>,
        descriptor: &OciDescriptor,
        diff_id: &str,
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
        let mut bytes = std::pin::pin!(bytes);
        while let Some(chunk) = bytes.next().await {
            // A receiver that is gone has failed, and tells below.
            if sender.send(chunk).await.is_err() {
                break;
            }
        }
        drop(sender);
        unpacking
            .await
            .map_err(|e| self.malformed(format!("unpacking broke off: {e}")))?
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
