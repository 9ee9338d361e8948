//! Why a diff could not be made, besides errnos.

use std::io;
use std::path::PathBuf;

use crate::error::{ErrorKind, Shown};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error(
        "read marks of {}: trusted.* xattrs are hidden from a process without CAP_SYS_ADMIN in the initial user namespace",
        Shown(upper)
    )]
    HiddenMarks { upper: PathBuf },
    #[error(
        "diff {}: {mark} is on it, so that its content is elsewhere (it was mounted with {option})",
        Shown(path)
    )]
    Elsewhere {
        path: PathBuf,
        mark: &'static str,
        option: &'static str,
    },
    #[error(
        "diff {}: {length} bytes of path, but {limit} are the most",
        Shown(path)
    )]
    LongPath {
        path: PathBuf,
        length: usize,
        limit: usize,
    },
    #[error("diff {}: xattrs of over {limit} bytes", Shown(path))]
    ManyXattrs { path: PathBuf, limit: usize },
    #[error(
        "write {} to a layer: names that begin with .wh. are whiteouts there",
        Shown(path)
    )]
    WhiteoutName { path: PathBuf },
    #[error("write {} to a layer: {what} {id} has no id in the layer", Shown(path))]
    UnmappedId {
        path: PathBuf,
        what: &'static str,
        id: u32,
    },
    #[error(
        "write {} to a layer: with its {size} bytes there are more than {limit}",
        Shown(path)
    )]
    TooLarge {
        path: PathBuf,
        size: u64,
        limit: u64,
    },
    #[error("read {}: it changed meanwhile", Shown(path))]
    Changed { path: PathBuf },
    #[error("write layer, at {}: {error}", Shown(path))]
    Writer { path: PathBuf, error: io::Error },
    #[error("commit to {}: it is not empty", Shown(path))]
    NotEmpty { path: PathBuf },
}

impl Problem {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Problem::HiddenMarks { .. } => ErrorKind::PermissionDenied,
            Problem::Elsewhere { .. } => ErrorKind::Unsupported,
            Problem::Changed { .. } => ErrorKind::Busy,
            Problem::NotEmpty { .. } => ErrorKind::AlreadyExists,
            Problem::TooLarge { .. } => ErrorKind::LimitExceeded,
            Problem::Writer { .. } => ErrorKind::Os,
            Problem::LongPath { .. }
            | Problem::ManyXattrs { .. }
            | Problem::WhiteoutName { .. }
            | Problem::UnmappedId { .. } => ErrorKind::InvalidInput,
        }
    }
}
