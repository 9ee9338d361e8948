//! What can go wrong, in one line each.

use std::borrow::Cow;
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
    /// The program has ended, and nobody can say how: `SIGCHLD` is ignored in this process, or something else in it waits
    /// for all children, on a kernel before 6.15.
    StatusLost,
    /// Any other errno.
    Os,
}

#[derive(Debug, thiserror::Error)]
enum Inner {
    #[error("start {}: {step}: {errno}{}", program.display(), Hint(*hint))]
    Step {
        program: PathBuf,
        step: String,
        errno: Errno,
        hint: Option<&'static str>,
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
    #[error("{feature} of {} is not supported: {hint}", path.display())]
    UnsupportedOn {
        feature: &'static str,
        path: PathBuf,
        hint: &'static str,
    },
    #[error("{place}: {what}")]
    Missing { place: String, what: String },
    #[error("start {}: {helper} did not write the id map: {said}", program.display())]
    Helper {
        program: PathBuf,
        helper: &'static str,
        said: String,
    },
    #[error(
        "wait for process {pid}: its status is lost: SIGCHLD is ignored, or something else in this process took it"
    )]
    StatusLost { pid: u32 },
    #[error("{feature} is not supported: {hint}")]
    Unsupported {
        feature: Cow<'static, str>,
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
            Inner::Unsupported { .. } | Inner::UnsupportedOn { .. } => ErrorKind::Unsupported,
            Inner::Missing { .. } => ErrorKind::NotFound,
            Inner::Helper { .. } => ErrorKind::PermissionDenied,
            Inner::StatusLost { .. } => ErrorKind::StatusLost,
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
            Inner::StatusLost { .. } => Some(libc::ECHILD),
            Inner::Invalid { .. }
            | Inner::Missing { .. }
            | Inner::Helper { .. }
            | Inner::Ended { .. }
            | Inner::TimedOut { .. }
            | Inner::Unsupported { .. }
            | Inner::UnsupportedOn { .. } => None,
        }
    }

    pub(crate) fn step(program: &Path, step: &str, errno: i32) -> Self {
        let (program, step) = (program.to_owned(), step.to_owned());
        Self::from(Inner::Step {
            program,
            step,
            errno: Errno(errno),
            hint: None,
        })
    }

    /// Says what it may come from, where it is a failed step or call.
    pub(crate) fn with_hint(mut self, reason: &'static str) -> Self {
        if let Inner::Step { hint, .. } = &mut *self.0 {
            hint.get_or_insert(reason);
        }
        self
    }

    /// Whether the program was not found, or may not be executed: all was set up by then.
    pub(crate) fn is_of_the_program(&self) -> bool {
        matches!(&*self.0, Inner::Step { step, .. } if step.starts_with("execve "))
    }

    /// `place`, such as a file, lacks something.
    pub(crate) fn missing(place: String, what: String) -> Self {
        Self::from(Inner::Missing { place, what })
    }

    pub(crate) fn helper(program: &Path, helper: &'static str, said: String) -> Self {
        let program = program.to_owned();
        Self::from(Inner::Helper {
            program,
            helper,
            said,
        })
    }

    pub(crate) fn status_lost(pid: u32) -> Self {
        Self::from(Inner::StatusLost { pid })
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

    pub(crate) fn unsupported(feature: impl Into<Cow<'static, str>>, hint: &'static str) -> Self {
        let feature = feature.into();
        Self::from(Inner::Unsupported { feature, hint })
    }

    pub(crate) fn unsupported_on(feature: &'static str, path: &Path, hint: &'static str) -> Self {
        let path = path.to_owned();
        Self::from(Inner::UnsupportedOn {
            feature,
            path,
            hint,
        })
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
            ErrorKind::StatusLost | ErrorKind::Os => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// What follows an errno, if anything does.
struct Hint(Option<&'static str>);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
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
            libc::ENOMSG => "ENOMSG",
            libc::ERANGE => "ERANGE",
            libc::EDQUOT => "EDQUOT",
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
