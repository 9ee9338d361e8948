//! What can be wrong with a layer.

use std::io;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Inner, Shown};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("apply layer: entry {}: {why}", Shown(entry))]
    Entry { entry: PathBuf, why: String },
    #[error("apply layer: at byte {at} of the tar stream: {why}")]
    Stream { at: u64, why: &'static str },
    #[error("apply layer: {format} stream: {why}")]
    Compressed { format: &'static str, why: String },
    #[error("apply layer: entry {}: {why}", Shown(entry))]
    Unsafe { entry: PathBuf, why: &'static str },
    #[error("apply layer: more than {limit} {what}")]
    Limit { what: &'static str, limit: u64 },
    #[error("apply layer: {what} is {found}, not {expected} as expected")]
    Mismatch {
        what: &'static str,
        expected: Digest,
        found: Digest,
    },
    #[error("apply layer: {what} is not supported")]
    Unsupported { what: &'static str },
    #[error(
        "apply layer: entry {}: {what} {id} is not in the map of ids",
        Shown(entry)
    )]
    Unmapped {
        entry: PathBuf,
        what: &'static str,
        id: u32,
    },
    #[error("apply layer to {}: the directory is not empty", Shown(target))]
    NotEmpty { target: PathBuf },
    #[error("apply layer: read: {error}")]
    Read { error: io::Error },
}

impl Failure {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Failure::Entry { .. } | Failure::Stream { .. } | Failure::Compressed { .. } => {
                ErrorKind::Malformed
            }
            Failure::Unsafe { .. } => ErrorKind::UnsafePath,
            Failure::Limit { .. } => ErrorKind::LimitExceeded,
            Failure::Mismatch { .. } => ErrorKind::DigestMismatch,
            Failure::Unsupported { .. } => ErrorKind::Unsupported,
            Failure::Unmapped { .. } => ErrorKind::InvalidInput,
            Failure::NotEmpty { .. } => ErrorKind::AlreadyExists,
            Failure::Read { .. } => ErrorKind::Os,
        }
    }

    pub(crate) fn raw_os_error(&self) -> Option<i32> {
        match self {
            Failure::Read { error } => error.raw_os_error(),
            _ => None,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Inner::Apply(failure).into()
    }
}
