//! What can go wrong, in one line each.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a program was not started, or not waited for.
///
/// Its `Display` is one line that stands alone in a log: what was being done, to what, errno with its name.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The kernel or the machine lacks what was asked for.
    Unsupported,
    /// A capability, a file mode or a security module stands against it.
    PermissionDenied,
    /// A program, path, user or process does not exist.
    NotFound,
    /// It is there already.
    AlreadyExists,
    /// It is in use.
    Busy,
    /// The configuration cannot be right; nothing was done.
    InvalidInput,
    /// The start did not finish before its deadline; the child was killed.
    TimedOut,
    /// Any other errno.
    Os,
}

#[derive(Debug, thiserror::Error)]
enum Inner {
    #[error("start {}: {step}: {errno}", program.display())]
    Step {
        program: PathBuf,
        step: String,
        errno: Errno,
    },
    #[error("{op} {}: {errno}", path.display())]
    Path {
        op: &'static str,
        path: PathBuf,
        errno: Errno,
    },
    #[error("{op}: {errno}")]
    Sys { op: &'static str, errno: Errno },
    #[error("{item} \"{value}\": {reason}")]
    Invalid {
        item: &'static str,
        value: String,
        reason: &'static str,
    },
    #[error("start {}: {ended} before its program ran", program.display())]
    Ended { program: PathBuf, ended: String },
    #[error("start {}: not done after {after:?}, killed", program.display())]
    TimedOut { program: PathBuf, after: Duration },
    #[error("{feature} is not supported: {hint}")]
    Unsupported {
        feature: &'static str,
        hint: &'static str,
    },
}

impl Error {
    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &*self.0 {
            Inner::Invalid { .. } => ErrorKind::InvalidInput,
            Inner::TimedOut { .. } => ErrorKind::TimedOut,
            Inner::Ended { .. } => ErrorKind::Os,
            Inner::Unsupported { .. } => ErrorKind::Unsupported,
            Inner::Step { errno, .. } | Inner::Path { errno, .. } | Inner::Sys { errno, .. } => {
                errno.kind()
            }
        }
    }

    /// The errno behind it, where there is one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match &*self.0 {
            Inner::Step { errno, .. } | Inner::Path { errno, .. } | Inner::Sys { errno, .. } => {
                Some(errno.0)
            }
            Inner::Invalid { .. }
            | Inner::Ended { .. }
            | Inner::TimedOut { .. }
            | Inner::Unsupported { .. } => None,
        }
    }

    pub(crate) fn step(program: &Path, step: &str, errno: i32) -> Self {
        let (program, step) = (program.to_owned(), step.to_owned());
        Self::from(Inner::Step {
            program,
            step,
            errno: Errno(errno),
        })
    }

    pub(crate) fn ended(program: &Path, status: Option<ExitStatus>) -> Self {
        let ended = status.map_or_else(
            || "the child went".to_owned(),
            |status| format!("the child ended ({status})"),
        );
        Self::from(Inner::Ended {
            program: program.to_owned(),
            ended,
        })
    }

    pub(crate) fn timed_out(program: &Path, after: Duration) -> Self {
        Self::from(Inner::TimedOut {
            program: program.to_owned(),
            after,
        })
    }

    pub(crate) fn invalid(
        item: &'static str,
        value: impl fmt::Debug,
        reason: &'static str,
    ) -> Self {
        let value = format!("{value:?}");
        let value = value
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .unwrap_or(&value)
            .to_owned();
        Self::from(Inner::Invalid {
            item,
            value,
            reason,
        })
    }

    pub(crate) fn unsupported(feature: &'static str, hint: &'static str) -> Self {
        Self::from(Inner::Unsupported { feature, hint })
    }

    /// For `map_err`: `op` failed on `path`.
    pub(crate) fn path<E: Into<io::Error>>(
        op: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |error| {
            Self::from(Inner::Path {
                op,
                path: path.to_owned(),
                errno: Errno::of(error),
            })
        }
    }

    /// For `map_err`: `op` failed.
    pub(crate) fn sys<E: Into<io::Error>>(op: &'static str) -> impl FnOnce(E) -> Self {
        move |error| {
            Self::from(Inner::Sys {
                op,
                errno: Errno::of(error),
            })
        }
    }
}

impl From<Inner> for Error {
    fn from(inner: Inner) -> Self {
        Error(Box::new(inner))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::Busy => io::ErrorKind::ResourceBusy,
            ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
            ErrorKind::TimedOut => io::ErrorKind::TimedOut,
            ErrorKind::Os => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// An errno that prints as `ENOENT: No such file or directory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Errno(i32);

impl Errno {
    fn of(error: impl Into<io::Error>) -> Self {
        Errno(error.into().raw_os_error().unwrap_or(libc::EIO))
    }

    fn kind(self) -> ErrorKind {
        match self.0 {
            libc::ENOSYS | libc::EOPNOTSUPP | libc::ENODEV => ErrorKind::Unsupported,
            libc::EPERM | libc::EACCES => ErrorKind::PermissionDenied,
            libc::ENOENT | libc::ESRCH | libc::ECHILD => ErrorKind::NotFound,
            libc::EEXIST => ErrorKind::AlreadyExists,
            libc::EBUSY | libc::ETXTBSY => ErrorKind::Busy,
            libc::EINVAL | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG | libc::E2BIG => {
                ErrorKind::InvalidInput
            }
            _ => ErrorKind::Os,
        }
    }

    fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            libc::EPERM => "EPERM",
            libc::ENOENT => "ENOENT",
            libc::ESRCH => "ESRCH",
            libc::EINTR => "EINTR",
            libc::EIO => "EIO",
            libc::ENXIO => "ENXIO",
            libc::E2BIG => "E2BIG",
            libc::ENOEXEC => "ENOEXEC",
            libc::EBADF => "EBADF",
            libc::ECHILD => "ECHILD",
            libc::EAGAIN => "EAGAIN",
            libc::ENOMEM => "ENOMEM",
            libc::EACCES => "EACCES",
            libc::EFAULT => "EFAULT",
            libc::EBUSY => "EBUSY",
            libc::EEXIST => "EEXIST",
            libc::EXDEV => "EXDEV",
            libc::ENODEV => "ENODEV",
            libc::ENOTDIR => "ENOTDIR",
            libc::EISDIR => "EISDIR",
            libc::EINVAL => "EINVAL",
            libc::ENFILE => "ENFILE",
            libc::EMFILE => "EMFILE",
            libc::ETXTBSY => "ETXTBSY",
            libc::ENOSPC => "ENOSPC",
            libc::EROFS => "EROFS",
            libc::ENAMETOOLONG => "ENAMETOOLONG",
            libc::ENOSYS => "ENOSYS",
            libc::ELOOP => "ELOOP",
            libc::EOVERFLOW => "EOVERFLOW",
            libc::EUSERS => "EUSERS",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            libc::ETIMEDOUT => "ETIMEDOUT",
            _ => return None,
        })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        match self.name() {
            Some(name) => write!(f, "{name}: {text}"),
            None => write!(f, "errno {}: {text}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_one_line_with_program_step_and_errno() {
        let error = Error::step(Path::new("/bin/app"), "mount proc on /proc", libc::EPERM);
        assert_eq!(
            error.to_string(),
            "start /bin/app: mount proc on /proc: EPERM: Operation not permitted"
        );
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert_eq!(
            io::Error::from(error).kind(),
            io::ErrorKind::PermissionDenied
        );
    }

    #[test]
    fn an_errno_without_a_name_still_prints() {
        assert_eq!(Errno(libc::EXFULL).to_string(), "errno 54: Exchange full");
    }
}
