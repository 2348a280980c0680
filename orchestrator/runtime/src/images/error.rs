//! What can go wrong with images: which image, which registry or file, and why.

use std::path::{Path, PathBuf};

/// Failure of an image operation.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The text is no image reference.
    #[error("image reference {reference:?} is invalid: {reason}")]
    BadReference {
        /// As given.
        reference: String,
        /// Cause.
        reason: String,
    },
    /// The registry has no such image.
    #[error("image {reference} doesn't exist in registry {registry}")]
    NotFound {
        /// Normalised.
        reference: String,
        /// Host and port.
        registry: String,
    },
    /// The registry wants other credentials.
    #[error(
        "registry {registry} refuses access to image {reference}: wrong or missing credentials, or no such image"
    )]
    Unauthorized {
        /// Normalised.
        reference: String,
        /// Host and port.
        registry: String,
    },
    /// The registry can't be reached, or answers what can't be understood.
    #[error("pull image {reference} from registry {registry}: {reason}")]
    Registry {
        /// Normalised.
        reference: String,
        /// Host and port.
        registry: String,
        /// Cause.
        reason: String,
    },
    /// What came is not what was promised.
    #[error("image {image}: {what} has digest {actual} instead of {expected}")]
    Digest {
        /// Which image.
        image: String,
        /// Layer or configuration.
        what: String,
        /// Promised.
        expected: String,
        /// Computed.
        actual: String,
    },
    /// A layer can't be unpacked.
    #[error("image {image}: layer {layer}: {reason}")]
    Layer {
        /// Which image.
        image: String,
        /// Digest of the layer.
        layer: String,
        /// Cause.
        reason: String,
    },
    /// An image's metadata makes no sense.
    #[error("image {image}: {reason}")]
    Malformed {
        /// Which image.
        image: String,
        /// Cause.
        reason: String,
    },
    /// A file or folder is no image.
    #[error("import {}: {reason}", path.display())]
    Import {
        /// Given path.
        path: PathBuf,
        /// Cause.
        reason: String,
    },
    /// The store's own files failed.
    #[error("image store: {operation} {}: {source}", path.display())]
    Store {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Another pull or import is at work; garbage is collected another time.
    #[error("image store: images are being added, garbage can't be collected now")]
    Busy,
}

impl ImageError {
    pub(crate) fn store(
        operation: &'static str,
        path: &Path,
        source: impl Into<std::io::Error>,
    ) -> Self {
        ImageError::Store {
            operation,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// Whether another try can't help until somebody changes something (a bad name, a missing image, credentials).
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(
            self,
            ImageError::BadReference { .. }
                | ImageError::NotFound { .. }
                | ImageError::Unauthorized { .. }
        )
    }
}

/// Short form.
pub(crate) type Result<T> = std::result::Result<T, ImageError>;
