//! What can go wrong, in one line each.

use std::fmt;
use std::io;
use std::net::SocketAddr;

/// A failure of this crate. Its text is one line that stands alone in a log.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// What sort of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The kernel lacks what is needed.
    Unsupported,
    /// The kernel refused for want of a privilege.
    PermissionDenied,
    /// Something that should be there is not, such as a server that has ended.
    NotFound,
    /// Something is there already, such as another socket on the address.
    AlreadyExists,
    /// Something is in use or used up.
    Busy,
    /// The caller's value cannot be used.
    InvalidInput,
    /// Text or bytes from elsewhere do not parse.
    Malformed,
    /// Any other failure of a system call.
    Os,
}

#[derive(Debug, thiserror::Error)]
enum Inner {
    #[error("{op} {object}: {errno}")]
    Sys {
        op: &'static str,
        object: String,
        errno: Errno,
    },
    #[error("{what} {text:?}: {why}")]
    Invalid {
        what: &'static str,
        text: String,
        why: &'static str,
    },
    #[error("{op}: the dns server has ended")]
    Ended { op: &'static str },
}

impl Error {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &*self.0 {
            Inner::Sys { errno, .. } => errno.kind(),
            Inner::Invalid { .. } => ErrorKind::InvalidInput,
            Inner::Ended { .. } => ErrorKind::NotFound,
        }
    }

    /// The errno, where a system call failed.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match &*self.0 {
            Inner::Sys { errno, .. } => Some(errno.0),
            Inner::Invalid { .. } | Inner::Ended { .. } => None,
        }
    }

    pub(crate) fn sys<E: Into<io::Error>>(
        op: &'static str,
        object: impl fmt::Display,
    ) -> impl FnOnce(E) -> Error {
        let object = object.to_string();
        move |error| {
            let errno = Errno(error.into().raw_os_error().unwrap_or(0));
            Error(Box::new(Inner::Sys { op, object, errno }))
        }
    }

    pub(crate) fn name(text: &str, why: &'static str) -> Error {
        Error::invalid("name", text.to_owned(), why)
    }

    pub(crate) fn option(text: &str, why: &'static str) -> Error {
        Error::invalid("resolv.conf option", text.to_owned(), why)
    }

    pub(crate) fn upstream(address: SocketAddr, why: &'static str) -> Error {
        Error::invalid("upstream", address.to_string(), why)
    }

    pub(crate) fn extra_host(text: &str, why: &'static str) -> Error {
        Error::invalid("extra host", text.to_owned(), why)
    }

    pub(crate) fn workers(count: usize) -> Error {
        Error::invalid("workers", count.to_string(), "is more than 64")
    }

    pub(crate) fn socket(address: SocketAddr, why: &'static str) -> Error {
        Error::invalid("socket", address.to_string(), why)
    }

    pub(crate) fn ended(op: &'static str) -> Error {
        Error(Box::new(Inner::Ended { op }))
    }

    fn invalid(what: &'static str, text: String, why: &'static str) -> Error {
        Error(Box::new(Inner::Invalid { what, text, why }))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match (error.raw_os_error(), error.kind()) {
            (Some(errno), _) => io::Error::from_raw_os_error(errno).kind(),
            (None, ErrorKind::NotFound) => io::ErrorKind::NotFound,
            (None, _) => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}

/// An errno that shows its name and its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Errno(i32);

impl Errno {
    fn kind(self) -> ErrorKind {
        use rustix::io::Errno as E;
        match E::from_raw_os_error(self.0) {
            E::PERM | E::ACCESS => ErrorKind::PermissionDenied,
            E::NOENT => ErrorKind::NotFound,
            E::EXIST | E::ADDRINUSE => ErrorKind::AlreadyExists,
            E::BUSY | E::MFILE | E::NFILE | E::NOSPC | E::NOMEM | E::AGAIN => ErrorKind::Busy,
            E::NOSYS | E::OPNOTSUPP | E::AFNOSUPPORT | E::PROTONOSUPPORT => ErrorKind::Unsupported,
            E::INVAL => ErrorKind::InvalidInput,
            _ => ErrorKind::Os,
        }
    }

    fn name(self) -> Option<&'static str> {
        use rustix::io::Errno as E;
        Some(match E::from_raw_os_error(self.0) {
            E::PERM => "EPERM",
            E::NOENT => "ENOENT",
            E::INTR => "EINTR",
            E::BADF => "EBADF",
            E::AGAIN => "EAGAIN",
            E::NOMEM => "ENOMEM",
            E::ACCESS => "EACCES",
            E::BUSY => "EBUSY",
            E::EXIST => "EEXIST",
            E::INVAL => "EINVAL",
            E::NFILE => "ENFILE",
            E::MFILE => "EMFILE",
            E::NOSPC => "ENOSPC",
            E::NOSYS => "ENOSYS",
            E::NOTSOCK => "ENOTSOCK",
            E::OPNOTSUPP => "EOPNOTSUPP",
            E::AFNOSUPPORT => "EAFNOSUPPORT",
            E::PROTONOSUPPORT => "EPROTONOSUPPORT",
            E::ADDRINUSE => "EADDRINUSE",
            E::ADDRNOTAVAIL => "EADDRNOTAVAIL",
            E::NETUNREACH => "ENETUNREACH",
            E::HOSTUNREACH => "EHOSTUNREACH",
            E::CONNREFUSED => "ECONNREFUSED",
            _ => return None,
        })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(name) = self.name() else {
            return write!(f, "errno {}", self.0);
        };
        let text = io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        write!(f, "{name}: {text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_was_done_to_what_and_the_errno_by_name() {
        let error = Error::sys("bind", "127.0.0.11:53")(io::Error::from_raw_os_error(98));
        assert_eq!(
            error.to_string(),
            "bind 127.0.0.11:53: EADDRINUSE: Address already in use"
        );
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(error.raw_os_error(), Some(98));
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn an_uncommon_errno_shows_its_number() {
        assert_eq!(Errno(121).to_string(), "errno 121");
    }
}
