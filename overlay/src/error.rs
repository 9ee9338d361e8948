//! What can go wrong, as one line that stands alone in a log.

use std::fmt::{self, Write};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno as Raw;

use crate::apply::Failure;
use crate::diff::Problem;
use crate::overlay::MAX_LAYERS;
use crate::store::Fault;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an overlay could not be made or taken away: what was being done, to what, and the kernel's reason.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

/// A coarse reason, to decide on. The details are in the [`Error`]'s text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The kernel lacks a feature.
    Unsupported,
    /// A capability is missing, or a user namespace may not do this.
    PermissionDenied,
    /// A directory does not exist.
    NotFound,
    /// Something of that name is there already.
    AlreadyExists,
    /// In use by another mount.
    Busy,
    /// What was asked for cannot be mounted.
    InvalidInput,
    /// The upper is of a volatile mount, and was not synced since: see [`Overlay::clean_volatile`](crate::Overlay::clean_volatile).
    Unsynced,
    /// The kernel's answer, or a layer, could not be read.
    Malformed,
    /// A layer reaches outside of its directory.
    UnsafePath,
    /// A layer is more than its [`Limits`](crate::Limits), or than a [`Diff`](crate::Diff) is to write.
    LimitExceeded,
    /// A layer is not the one that was expected.
    DigestMismatch,
    /// Any other errno: see [`Error::raw_os_error`].
    Os,
}

impl Error {
    /// The reason, coarsely.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &*self.0 {
            Inner::Apply(failure) => failure.kind(),
            Inner::NoUserXattrs { .. }
            | Inner::NoFileTypes { .. }
            | Inner::Unsupported { .. }
            | Inner::Dropped { .. }
            | Inner::RedirectedLayer { .. } => ErrorKind::Unsupported,
            Inner::NoDigest { .. }
            | Inner::NoLayers
            | Inner::TooManyLayers { .. }
            | Inner::ScratchSize
            | Inner::OptionsTooLong { .. }
            | Inner::SplitUpper { .. }
            | Inner::NestedWork { .. }
            | Inner::ReadOnlyUpper { .. }
            | Inner::NoOverlay
            | Inner::Overlapping { .. } => ErrorKind::InvalidInput,
            Inner::NotEmpty { .. } => ErrorKind::AlreadyExists,
            Inner::UpperInUse { .. } => ErrorKind::Busy,
            Inner::Unsynced { .. } => ErrorKind::Unsynced,
            Inner::NotInTable { .. } | Inner::LayersLost { .. } => ErrorKind::Malformed,
            Inner::UnclonableLayer { .. } | Inner::HiddenMarks { .. } => {
                ErrorKind::PermissionDenied
            }
            Inner::Sys { errno, .. } | Inner::Refused { errno, .. } => errno.kind(),
            Inner::CameUpReadOnly { .. } => ErrorKind::Os,
            Inner::Diff(problem) => problem.kind(),
            Inner::Store(fault) => fault.kind(),
        }
    }

    /// The kernel's errno, where there was one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match &*self.0 {
            Inner::Sys { errno, .. }
            | Inner::Refused { errno, .. }
            | Inner::UnclonableLayer { errno, .. }
            | Inner::NoUserXattrs { errno, .. } => Some(errno.0),
            Inner::Apply(failure) => failure.raw_os_error(),
            Inner::CameUpReadOnly { .. } | Inner::ReadOnlyUpper { .. } => {
                Some(Raw::ROFS.raw_os_error())
            }
            Inner::UpperInUse { errno, .. } => Some(errno.0),
            Inner::Unsupported { errno, .. } => errno.map(|errno| errno.0),
            _ => None,
        }
    }

    /// For `map_err` after the system call `op` on `path`.
    pub(crate) fn sys<E: Into<Errno>>(op: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
        move |errno| {
            Error::from(Inner::Sys {
                op,
                path: path.to_owned(),
                errno: errno.into(),
            })
        }
    }

    /// Whether the step `op` failed with a bare errno.
    pub(crate) fn is_of(&self, step: &str) -> bool {
        matches!(&*self.0, Inner::Sys { op, .. } if *op == step)
    }

    /// Whether it is the kernel that cannot, or may not, stack these directories: a copy can take the place of the overlay.
    pub(crate) fn is_of_overlayfs(&self) -> bool {
        const STEPS: [&str; 6] = [
            "mount",
            "fsopen",
            "lowerdir+",
            "upperdir",
            "workdir",
            "fsmount",
        ];
        match &*self.0 {
            Inner::TooManyLayers { .. } | Inner::CameUpReadOnly { .. } => true,
            Inner::UnclonableLayer { .. } | Inner::Dropped { .. } => false,
            Inner::Sys { op, .. } | Inner::Refused { op, .. } if STEPS.contains(op) => {
                self.kind() != ErrorKind::Busy
            }
            _ => matches!(
                self.kind(),
                ErrorKind::Unsupported | ErrorKind::PermissionDenied
            ),
        }
    }

    /// The same with a reason, where the kernel gave none.
    pub(crate) fn because(self, reason: &str) -> Error {
        match *self.0 {
            Inner::Sys { op, path, errno } => Error::from(Inner::Refused {
                op,
                path,
                errno,
                reason: reason.to_owned(),
            }),
            inner => Error::from(inner),
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Inner::Diff(problem).into()
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Inner::Store(fault).into()
    }
}

impl From<Inner> for Error {
    fn from(inner: Inner) -> Self {
        Error(Box::new(inner))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match (error.raw_os_error(), error.kind()) {
            (_, ErrorKind::PermissionDenied) => io::ErrorKind::PermissionDenied,
            (_, ErrorKind::InvalidInput) => io::ErrorKind::InvalidInput,
            (_, ErrorKind::Unsupported) => io::ErrorKind::Unsupported,
            (_, ErrorKind::Malformed | ErrorKind::DigestMismatch) => io::ErrorKind::InvalidData,
            (Some(errno), _) => io::Error::from_raw_os_error(errno).kind(),
            (None, ErrorKind::NotFound) => io::ErrorKind::NotFound,
            (None, ErrorKind::AlreadyExists) => io::ErrorKind::AlreadyExists,
            (None, ErrorKind::Busy) => io::ErrorKind::ResourceBusy,
            (None, _) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// What the public [`Error`] holds.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Inner {
    #[error(transparent)]
    Apply(Failure),
    #[error("{op} {}: {errno}", Shown(path))]
    Sys {
        op: &'static str,
        path: PathBuf,
        errno: Errno,
    },
    #[error("{op} {}: {errno} ({reason})", Shown(path))]
    Refused {
        op: &'static str,
        path: PathBuf,
        errno: Errno,
        reason: String,
    },
    #[error("mount overlay: no layers given")]
    NoLayers,
    #[error("mount overlay of {count} layers: overlayfs takes at most {MAX_LAYERS}")]
    TooManyLayers { count: usize },
    #[error("scratch upper of 0 bytes: tmpfs takes that for no limit")]
    ScratchSize,
    #[error("mount overlay by mount(2): {length} bytes of options, but the kernel takes {limit}")]
    OptionsTooLong { length: usize, limit: usize },
    #[error(
        "upperdir {} and workdir {} must be on the same mount",
        Shown(upper),
        Shown(work)
    )]
    SplitUpper { upper: PathBuf, work: PathBuf },
    #[error(
        "clone the mount of layer {}: {errno} (mounts below it are locked in this user namespace, or it is of another mount namespace)",
        Shown(path)
    )]
    UnclonableLayer { path: PathBuf, errno: Errno },
    #[error(
        "mount overlay with workdir {}: it came up read-only, because work could not be made in it",
        Shown(work)
    )]
    CameUpReadOnly { work: PathBuf },
    #[error(
        "{} takes no user.* xattrs, which overlayfs needs in a user namespace (tmpfs: Linux 6.6): {errno}",
        Shown(path)
    )]
    NoUserXattrs { path: PathBuf, errno: Errno },
    #[error(
        "upperdir {}: its filesystem lists files without their type (d_type), which overlayfs needs",
        Shown(path)
    )]
    NoFileTypes { path: PathBuf },
    #[error(
        "{feature} of {}: this kernel does not have it (Linux {since}){}",
        Shown(path),
        Because(errno)
    )]
    Unsupported {
        feature: &'static str,
        path: PathBuf,
        since: &'static str,
        errno: Option<Errno>,
    },
    #[error(
        "mount {} with {option}={value}: the kernel took it, but it is not in force",
        Shown(path)
    )]
    Dropped {
        option: &'static str,
        value: &'static str,
        path: PathBuf,
    },
    #[error(
        "upperdir {}: {errno} (it or its workdir is in use by another overlay)",
        Shown(upper)
    )]
    UpperInUse { upper: PathBuf, errno: Errno },
    #[error(
        "upperdir {} was of a volatile mount, and may not be on the disk: throw it away, or if the machine was not restarted since, sync it by Overlay::clean_volatile (workdir {})",
        Shown(upper),
        Shown(work)
    )]
    Unsynced { upper: PathBuf, work: PathBuf },
    #[error(
        "upperdir {} and workdir {} must not be inside each other",
        Shown(upper),
        Shown(work)
    )]
    NestedWork { upper: PathBuf, work: PathBuf },
    #[error("upperdir {}: its filesystem is mounted read-only", Shown(path))]
    ReadOnlyUpper { path: PathBuf },
    #[error(
        "{what} {} and layer {} must not be inside each other",
        Shown(path),
        Shown(layer)
    )]
    Overlapping {
        what: &'static str,
        path: PathBuf,
        layer: PathBuf,
    },
    #[error("read back {}: it is not in the mount table", Shown(path))]
    NotInTable { path: PathBuf },
    #[error(
        "mount {}: {asked} layers were given, but {mounted} mounted",
        Shown(path)
    )]
    LayersLost {
        path: PathBuf,
        asked: usize,
        mounted: usize,
    },
    #[error(
        "copy layer {}: its marks are trusted.* xattrs, which are hidden without CAP_SYS_ADMIN in the initial user namespace",
        Shown(path)
    )]
    HiddenMarks { path: PathBuf },
    #[error("read back a copy of layers: it is no overlay")]
    NoOverlay,
    #[error("copy layers to {}: the directory is not empty", Shown(path))]
    NotEmpty { path: PathBuf },
    #[error(
        "copy {} of layer {}: its {mark} names another place",
        Shown(path),
        Shown(layer)
    )]
    RedirectedLayer {
        path: PathBuf,
        layer: PathBuf,
        mark: &'static str,
    },
    #[error("{text:?} is no digest: sha256: and 64 lower-case hexadecimal digits")]
    NoDigest { text: String },
    #[error(transparent)]
    Diff(#[from] Problem),
    #[error(transparent)]
    Store(#[from] Fault),
}

/// An errno at the end of a line, if there is one.
struct Because<'a>(&'a Option<Errno>);

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .as_ref()
            .map_or(Ok(()), |errno| write!(f, ": {errno}"))
    }
}

/// A path on one line, whatever bytes it has.
pub(crate) struct Shown<'a>(pub(crate) &'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.to_string_lossy().chars() {
            if letter.is_control() {
                write!(f, "{}", letter.escape_default())?;
            } else {
                f.write_char(letter)?;
            }
        }
        Ok(())
    }
}

/// An errno that shows its name and its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl Errno {
    fn kind(self) -> ErrorKind {
        match Raw::from_raw_os_error(self.0) {
            Raw::NOENT => ErrorKind::NotFound,
            Raw::PERM | Raw::ACCESS => ErrorKind::PermissionDenied,
            Raw::EXIST => ErrorKind::AlreadyExists,
            Raw::BUSY => ErrorKind::Busy,
            Raw::INVAL | Raw::NOTDIR | Raw::NAMETOOLONG | Raw::LOOP => ErrorKind::InvalidInput,
            Raw::NOSYS | Raw::OPNOTSUPP | Raw::NODEV => ErrorKind::Unsupported,
            _ => ErrorKind::Os,
        }
    }
}

impl From<Raw> for Errno {
    fn from(errno: Raw) -> Self {
        Errno(errno.raw_os_error())
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        // Only an error without an errno (an inner NUL byte) takes the default.
        Errno(error.raw_os_error().unwrap_or(Raw::INVAL.raw_os_error()))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let full = io::Error::from_raw_os_error(self.0).to_string();
        let text = full.split(" (os error").next().unwrap_or_default();
        match NAMES
            .iter()
            .find(|(errno, _)| errno.raw_os_error() == self.0)
        {
            Some((_, name)) => write!(f, "{name}: {text}"),
            None => write!(f, "errno {}: {text}", self.0),
        }
    }
}

const NAMES: [(Raw, &str); 27] = [
    (Raw::ACCESS, "EACCES"),
    (Raw::AGAIN, "EAGAIN"),
    (Raw::BADF, "EBADF"),
    (Raw::BUSY, "EBUSY"),
    (Raw::DQUOT, "EDQUOT"),
    (Raw::EXIST, "EEXIST"),
    (Raw::INVAL, "EINVAL"),
    (Raw::IO, "EIO"),
    (Raw::LOOP, "ELOOP"),
    (Raw::MFILE, "EMFILE"),
    (Raw::NAMETOOLONG, "ENAMETOOLONG"),
    (Raw::NFILE, "ENFILE"),
    (Raw::NODEV, "ENODEV"),
    (Raw::NOENT, "ENOENT"),
    (Raw::NOMEM, "ENOMEM"),
    (Raw::NOSPC, "ENOSPC"),
    (Raw::NOSYS, "ENOSYS"),
    (Raw::NOTDIR, "ENOTDIR"),
    (Raw::NOTEMPTY, "ENOTEMPTY"),
    (Raw::OPNOTSUPP, "EOPNOTSUPP"),
    (Raw::OVERFLOW, "EOVERFLOW"),
    (Raw::PERM, "EPERM"),
    (Raw::ROFS, "EROFS"),
    (Raw::STALE, "ESTALE"),
    (Raw::TOOBIG, "E2BIG"),
    (Raw::USERS, "EUSERS"),
    (Raw::XDEV, "EXDEV"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_is_one_line_with_the_errnos_name() {
        let error = Error::sys("open layer", Path::new("/srv/gone"))(Raw::NOENT);
        assert_eq!(
            error.to_string(),
            "open layer /srv/gone: ENOENT: No such file or directory"
        );
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.raw_os_error(), Some(2));
    }

    #[test]
    fn a_path_with_a_line_break_is_shown_on_one_line() {
        let error = Error::sys("open layer", Path::new("/a\nb\u{e9}"))(Raw::NOENT);
        assert!(error.to_string().starts_with("open layer /a\\nb\u{e9}: "));
    }

    #[test]
    fn an_errno_without_a_name_shows_its_number() {
        assert_eq!(Errno(59).to_string(), "errno 59: Bad font file format");
    }

    #[test]
    fn an_io_error_keeps_kind_and_text() {
        let error = Error::sys("open layer", Path::new("/srv/file"))(Raw::NOTDIR);
        let text = error.to_string();
        let error = io::Error::from(error);
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn an_io_error_keeps_the_kind_without_an_errno_too() {
        let path = || PathBuf::from("/a");
        let kind = |error: Error| io::Error::from(error).kind();
        let chain = crate::Digest::of("");
        let gone = Error::from(Fault::NoLayer {
            path: path(),
            chain,
        });
        assert_eq!(kind(gone), io::ErrorKind::NotFound);
        let full = Error::from(Inner::NotEmpty { path: path() });
        assert_eq!(kind(full), io::ErrorKind::AlreadyExists);
        let changed = Error::from(Problem::Changed { path: path() });
        assert_eq!(kind(changed), io::ErrorKind::ResourceBusy);
        let damaged = Error::from(Failure::Stream { at: 0, why: "" });
        assert_eq!(kind(damaged), io::ErrorKind::InvalidData);
    }
}
