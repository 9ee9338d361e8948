//! What can go wrong, in one line each.

use std::fmt;
use std::io;

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong: one line that says what was being done, to what, and the errno with the kernel's own words where
/// it gave any.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

/// The kinds of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The kernel, or this crate, cannot do it.
    Unsupported,
    /// `CAP_NET_ADMIN` over the network namespace is missing, or `/proc/sys` is read-only.
    PermissionDenied,
    /// A link, namespace or address is not there.
    NotFound,
    /// The name, address or route is taken.
    AlreadyExists,
    /// What was asked for changes too fast, or is in use.
    Busy,
    /// An argument cannot be right.
    InvalidInput,
    /// The kernel's answer cannot be read.
    Malformed,
    /// No address or subnet is left.
    Exhausted,
    /// Any other refusal of the kernel.
    Os,
}

#[derive(Debug, thiserror::Error)]
enum Inner {
    #[error("{what}: {errno}")]
    Sys { what: String, errno: Errno },
    #[error("{what}: {errno} ({text})")]
    ExtendedAck {
        what: String,
        errno: Errno,
        text: String,
    },
    #[error("{what}: {why}")]
    Plain {
        kind: ErrorKind,
        what: String,
        why: String,
    },
}

impl Error {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &*self.0 {
            Inner::Sys { errno, .. } | Inner::ExtendedAck { errno, .. } => errno.kind(),
            Inner::Plain { kind, .. } => *kind,
        }
    }

    /// The errno, where a syscall or a netlink request failed.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match &*self.0 {
            Inner::Sys { errno, .. } | Inner::ExtendedAck { errno, .. } => Some(errno.0),
            Inner::Plain { .. } => None,
        }
    }

    /// A failed call: `what` says what was being done, and to what.
    pub(crate) fn sys(what: impl Into<String>, errno: impl Into<Errno>) -> Self {
        let (what, errno) = (what.into(), errno.into());
        Error(Box::new(Inner::Sys { what, errno }))
    }

    /// A refused netlink request, with the text of the extended ack.
    pub(crate) fn refused(what: String, errno: i32, text: Option<String>) -> Self {
        let errno = Errno(errno);
        Error(Box::new(match text {
            Some(text) => Inner::ExtendedAck { what, errno, text },
            None => Inner::Sys { what, errno },
        }))
    }

    /// Adds what the caller may do, behind the kernel's own words.
    pub(crate) fn advised(self, advice: &str) -> Self {
        Error(Box::new(match *self.0 {
            Inner::Sys { what, errno } => Inner::ExtendedAck {
                what,
                errno,
                text: advice.to_owned(),
            },
            Inner::ExtendedAck { what, errno, text } => Inner::ExtendedAck {
                what,
                errno,
                text: format!("{text}; {advice}"),
            },
            plain @ Inner::Plain { .. } => plain,
        }))
    }

    pub(crate) fn plain(kind: ErrorKind, what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Error(Box::new(Inner::Plain {
            kind,
            what: what.to_string(),
            why: why.to_string(),
        }))
    }

    pub(crate) fn invalid(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Error::plain(ErrorKind::InvalidInput, what, why)
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
            ErrorKind::Malformed => io::ErrorKind::InvalidData,
            ErrorKind::Exhausted => io::ErrorKind::AddrNotAvailable,
            ErrorKind::Os => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// An errno that prints as `NAME: text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(i32);

impl Errno {
    fn kind(self) -> ErrorKind {
        match self.0 {
            libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::ENOSYS | libc::ENOPROTOOPT => {
                ErrorKind::Unsupported
            }
            libc::EPERM | libc::EACCES | libc::EROFS => ErrorKind::PermissionDenied,
            libc::ENOENT | libc::ENODEV | libc::ESRCH => ErrorKind::NotFound,
            libc::EEXIST | libc::EADDRINUSE => ErrorKind::AlreadyExists,
            libc::EBUSY | libc::EAGAIN => ErrorKind::Busy,
            libc::EINVAL | libc::ERANGE | libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::EBADF => {
                ErrorKind::InvalidInput
            }
            _ => ErrorKind::Os,
        }
    }

    fn name(self) -> Option<(&'static str, &'static str)> {
        Some(match self.0 {
            libc::EACCES => ("EACCES", "Permission denied"),
            libc::EADDRINUSE => ("EADDRINUSE", "Address already in use"),
            libc::EADDRNOTAVAIL => ("EADDRNOTAVAIL", "Cannot assign requested address"),
            libc::EAFNOSUPPORT => ("EAFNOSUPPORT", "Address family not supported by protocol"),
            libc::EAGAIN => ("EAGAIN", "Resource temporarily unavailable"),
            libc::EBADF => ("EBADF", "Bad file descriptor"),
            libc::EBUSY => ("EBUSY", "Device or resource busy"),
            libc::EEXIST => ("EEXIST", "File exists"),
            libc::EINVAL => ("EINVAL", "Invalid argument"),
            libc::EMFILE => ("EMFILE", "Too many open files"),
            libc::ENETDOWN => ("ENETDOWN", "Network is down"),
            libc::ENETUNREACH => ("ENETUNREACH", "Network is unreachable"),
            libc::ENFILE => ("ENFILE", "Too many open files in system"),
            libc::ENOBUFS => ("ENOBUFS", "No buffer space available"),
            libc::ENODEV => ("ENODEV", "No such device"),
            libc::ENOENT => ("ENOENT", "No such file or directory"),
            libc::ENOMEM => ("ENOMEM", "Cannot allocate memory"),
            libc::ENOPROTOOPT => ("ENOPROTOOPT", "Protocol not available"),
            libc::ENOSPC => ("ENOSPC", "No space left on device"),
            libc::ENOSYS => ("ENOSYS", "Function not implemented"),
            libc::EOPNOTSUPP => ("EOPNOTSUPP", "Operation not supported"),
            libc::EPERM => ("EPERM", "Operation not permitted"),
            libc::ERANGE => ("ERANGE", "Numerical result out of range"),
            libc::EROFS => ("EROFS", "Read-only file system"),
            libc::ESRCH => ("ESRCH", "No such process"),
            libc::EUSERS => ("EUSERS", "Too many users"),
            libc::EXFULL => ("EXFULL", "Exchange full"),
            _ => return None,
        })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some((name, text)) => write!(f, "{name}: {text}"),
            None => write!(
                f,
                "errno {}: {}",
                self.0,
                io::Error::from_raw_os_error(self.0)
            ),
        }
    }
}

impl From<i32> for Errno {
    fn from(raw: i32) -> Self {
        Errno(raw)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Errno(errno.raw_os_error())
    }
}

impl From<io::Error> for Errno {
    /// std's calls on files and threads always carry an errno; without one it is `EIO`.
    fn from(error: io::Error) -> Self {
        Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_the_errno_and_the_kernels_words() {
        let error = Error::refused(
            "add route".into(),
            libc::ENETUNREACH,
            Some("Nexthop has invalid gateway".into()),
        );
        assert_eq!(
            error.to_string(),
            "add route: ENETUNREACH: Network is unreachable (Nexthop has invalid gateway)"
        );
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH));
    }

    #[test]
    fn advice_stands_behind_the_kernels_words() {
        let bare = Error::sys("attach", libc::EBUSY).advised("take another");
        let line = "attach: EBUSY: Device or resource busy (take another)";
        assert_eq!(bare.to_string(), line);
        assert_eq!(bare.raw_os_error(), Some(libc::EBUSY));
        let said = Error::refused("attach".into(), libc::EINVAL, Some("no".into()));
        let line = "attach: EINVAL: Invalid argument (no; take another)";
        assert_eq!(said.advised("take another").to_string(), line);
    }

    #[test]
    fn an_unnamed_errno_prints_its_number() {
        let line = Error::sys("setns", libc::EXDEV).to_string();
        assert!(line.starts_with("setns: errno 18: "), "{line}");
    }

    #[test]
    fn an_io_error_keeps_kind_and_line() {
        let error = io::Error::from(Error::sys("create bridge br0", libc::EEXIST));
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(error.to_string(), "create bridge br0: EEXIST: File exists");
    }
}
