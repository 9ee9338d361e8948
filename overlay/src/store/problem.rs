//! What can be wrong with a store or an image, besides errnos.

use std::path::PathBuf;

use crate::digest::Digest;
use crate::error::{ErrorKind, Shown};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("open store {}: it is neither a store nor empty", Shown(path))]
    NoStore { path: PathBuf },
    #[error(
        "open store {}: its layout is {found:?}, not {expected:?}",
        Shown(path)
    )]
    Version {
        path: PathBuf,
        found: String,
        expected: String,
    },
    #[error(
        "open store: trusted.overlay xattrs for marks in a user namespace, where nobody sees them"
    )]
    TrustedMarks,
    #[error("open store: ids of {what}: {why}")]
    Ranges { what: &'static str, why: String },
    #[error("apply layer: one below it failed")]
    NothingBelow,
    #[error(
        "open store {}: its mode is {mode:o}, so that others can enter it: it must be 700",
        Shown(path)
    )]
    OpenToOthers { path: PathBuf, mode: u32 },
    #[error(
        "open store {}: it belongs to user {owner}, not to the caller",
        Shown(path)
    )]
    Foreign { path: PathBuf, owner: u32 },
    #[error("{}: {why}", Shown(path))]
    Malformed { path: PathBuf, why: String },
    #[error("{}: over {limit} bytes", Shown(path))]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("store {}: layer {chain} is not of it, but of another", Shown(path))]
    ForeignLayer { path: PathBuf, chain: Digest },
    #[error("store {}: it has no layer {chain}", Shown(path))]
    NoLayer { path: PathBuf, chain: Digest },
    #[error("store {}: nothing is kept as {name:?} in it", Shown(path))]
    NoPin { path: PathBuf, name: String },
    #[error("store {}: {name:?} is already kept in it", Shown(path))]
    PinExists { path: PathBuf, name: String },
    #[error(
        "keep in a store: {name:?} is no name to keep something by: 1 to 200 of letters, digits and . _ - : @ /"
    )]
    BadName { name: String },
    #[error(
        "volume {name:?}: its name is not 1 to 128 of letters, digits and . _ -, beginning with a letter or digit"
    )]
    BadVolumeName { name: String },
    #[error("remove volume {name:?} of {}: it is in use", Shown(path))]
    VolumeInUse { path: PathBuf, name: String },
    #[error("volume {name:?}: {} has none of this name", Shown(path))]
    NoVolume { path: PathBuf, name: String },
    #[error(
        "open volumes {}: it is neither a store of volumes nor empty",
        Shown(path)
    )]
    NoVolumes { path: PathBuf },
    #[cfg(feature = "images")]
    #[error("{}: its sha256 is {found}, not {expected}", Shown(path))]
    Digest {
        path: PathBuf,
        found: Digest,
        expected: Digest,
    },
    #[cfg(feature = "images")]
    #[error("{}: no image of {wanted}", Shown(path))]
    NoImage { path: PathBuf, wanted: String },
}

impl Fault {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Fault::OpenToOthers { .. } | Fault::Foreign { .. } => ErrorKind::PermissionDenied,
            Fault::NoLayer { .. } | Fault::NoPin { .. } | Fault::NoVolume { .. } => {
                ErrorKind::NotFound
            }
            Fault::BadVolumeName { .. } | Fault::NoVolumes { .. } => ErrorKind::InvalidInput,
            Fault::VolumeInUse { .. } => ErrorKind::Busy,
            Fault::PinExists { .. } => ErrorKind::AlreadyExists,
            Fault::NoStore { .. } | Fault::BadName { .. } | Fault::ForeignLayer { .. } => {
                ErrorKind::InvalidInput
            }
            Fault::Ranges { .. } => ErrorKind::InvalidInput,
            // Only the lowest error of a stack is told: this is never it.
            Fault::NothingBelow => ErrorKind::NotFound,
            Fault::TrustedMarks | Fault::Version { .. } => ErrorKind::Unsupported,
            Fault::Malformed { .. } | Fault::TooLarge { .. } => ErrorKind::Malformed,
            #[cfg(feature = "images")]
            Fault::Digest { .. } => ErrorKind::Malformed,
            #[cfg(feature = "images")]
            Fault::NoImage { .. } => ErrorKind::NotFound,
        }
    }
}
