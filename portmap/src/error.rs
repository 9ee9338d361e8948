//! What can go wrong, as one line each.

use std::fmt;
use std::io;

/// What this crate's calls return.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed: one line with what was being done, to what, and the kernel's errno and words.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

/// The kind of an [`Error`], to decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The kernel or this version of the crate lacks it.
    Unsupported,
    /// A capability is missing, or something is read-only.
    PermissionDenied,
    /// What was named is not there, such as the host address to publish on.
    NotFound,
    /// The port, bridge or subnet is in the table already, or the table of that name is somebody else's.
    AlreadyExists,
    /// Another process owns the table by `NFT_TABLE_F_OWNER`: nobody else can change it.
    Owned,
    /// A socket of the host has the port, or others changed the ruleset too often meanwhile.
    Busy,
    /// Every host port that may be chosen is taken.
    Exhausted,
    /// An argument is wrong in itself.
    InvalidInput,
    /// The kernel answered something unexpected, or somebody changed the table's sets: then
    /// [`Portmap::reconcile`](crate::Portmap::reconcile) makes it whole.
    Malformed,
    /// Any other errno.
    Os,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Inner {
    #[error("port {spec:?}: {part} {value:?}: {reason}")]
    Port {
        spec: String,
        part: &'static str,
        value: String,
        reason: &'static str,
    },
    #[error("{what} {value:?}: {reason}")]
    Input {
        what: &'static str,
        value: String,
        reason: &'static str,
    },
    #[error("{doing}: {what} is not supported")]
    Unsupported { doing: String, what: &'static str },
    #[error("publish {port}: the kernel leads nothing from ::1 to a container, only a proxy does")]
    Loopback { port: String },
    #[error("{doing}: {by} is there already")]
    Taken { doing: String, by: String },
    #[error("{doing}: table inet {table} is owned by another socket (netlink port {owner})")]
    Owned {
        doing: String,
        table: String,
        owner: u32,
    },
    #[error("{doing}: the table was changed by others in each of {tries} tries")]
    Contended { doing: String, tries: u32 },
    #[error("{doing}: no free port from {first} to {last} in {tries} tries")]
    Exhausted {
        doing: String,
        first: u16,
        last: u16,
        tries: usize,
    },
    #[error("{doing}: {step}: unexpected answer: {what}")]
    Answer {
        doing: String,
        step: String,
        what: String,
    },
    #[error("{doing}: not for {what}")]
    NoWayIn { doing: String, what: &'static str },
    #[cfg(feature = "iptables")]
    #[error("no {names} in {place}")]
    NoProgram { names: String, place: String },
    #[cfg(feature = "iptables")]
    #[error("{doing}: {}: {ended}: {said}", program.display())]
    Program {
        doing: String,
        program: std::path::PathBuf,
        ended: String,
        said: String,
    },
    #[error("{doing}: {step}: {errno}{note}")]
    Os {
        doing: String,
        step: String,
        errno: Errno,
        note: Note,
        kind: ErrorKind,
    },
}

impl Error {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &*self.0 {
            Inner::Port { .. } | Inner::Input { .. } => ErrorKind::InvalidInput,
            Inner::Unsupported { .. } | Inner::Loopback { .. } => ErrorKind::Unsupported,
            Inner::Taken { .. } => ErrorKind::AlreadyExists,
            Inner::Contended { .. } => ErrorKind::Busy,
            Inner::Owned { .. } => ErrorKind::Owned,
            Inner::Exhausted { .. } => ErrorKind::Exhausted,
            Inner::Answer { .. } => ErrorKind::Malformed,
            Inner::NoWayIn { .. } => ErrorKind::Unsupported,
            #[cfg(feature = "iptables")]
            Inner::NoProgram { .. } => ErrorKind::NotFound,
            #[cfg(feature = "iptables")]
            Inner::Program { said, .. } => match said.contains("Permission denied") {
                true => ErrorKind::PermissionDenied,
                false => ErrorKind::Os,
            },
            Inner::Os { kind, .. } => *kind,
        }
    }

    /// The errno behind it, if a system call or the kernel's answer gave one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match &*self.0 {
            Inner::Os { errno, .. } => Some(errno.0),
            _ => None,
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
            ErrorKind::Owned => io::ErrorKind::PermissionDenied,
            ErrorKind::Busy => io::ErrorKind::ResourceBusy,
            ErrorKind::Exhausted => io::ErrorKind::AddrInUse,
            ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
            ErrorKind::Malformed => io::ErrorKind::InvalidData,
            ErrorKind::Os => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// A failed step, before it is known what it was a step of.
#[derive(Debug)]
pub(crate) enum Failure {
    Os {
        step: String,
        errno: Errno,
        note: Note,
        kind: ErrorKind,
    },
    Answer {
        step: String,
        what: String,
    },
    /// A program that did not succeed, with what it said.
    #[cfg(feature = "iptables")]
    Program {
        program: std::path::PathBuf,
        ended: String,
        said: String,
    },
}

impl Failure {
    /// A failed system call.
    pub(crate) fn call(step: impl fmt::Display, error: &io::Error) -> Self {
        let errno = Errno(error.raw_os_error().unwrap_or(libc::EIO));
        Failure::Os {
            step: step.to_string(),
            errno,
            note: Note::None,
            kind: errno.kind(),
        }
    }

    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Failure::Os { errno, .. } => Some(errno.0),
            #[cfg(feature = "iptables")]
            Failure::Program { .. } => None,
            Failure::Answer { .. } => None,
        }
    }

    /// The same errno, as an error of another kind.
    pub(crate) fn of_kind(mut self, as_kind: ErrorKind) -> Self {
        if let Failure::Os { kind, .. } = &mut self {
            *kind = as_kind;
        }
        self
    }

    /// The same of another step.
    pub(crate) fn at(mut self, of: impl fmt::Display) -> Self {
        if let Failure::Os { step, .. } = &mut self {
            *step = of.to_string();
        }
        self
    }

    pub(crate) fn with_note(mut self, words: &'static str) -> Self {
        if let Failure::Os { note, .. } = &mut self {
            *note = Note::Ours(words);
        }
        self
    }

    pub(crate) fn during(self, doing: impl fmt::Display) -> Error {
        let doing = doing.to_string();
        match self {
            Failure::Os {
                step,
                errno,
                note,
                kind,
            } => Inner::Os {
                doing,
                step,
                errno,
                note,
                kind,
            },
            Failure::Answer { step, what } => Inner::Answer { doing, step, what },
            #[cfg(feature = "iptables")]
            Failure::Program {
                program,
                ended,
                said,
            } => Inner::Program {
                doing,
                program,
                ended,
                said,
            },
        }
        .into()
    }
}

/// What stands after an errno: the kernel's extended ack, or what we know about the cause.
#[derive(Debug)]
pub(crate) enum Note {
    None,
    Kernel(String),
    Ours(&'static str),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::None => Ok(()),
            Note::Kernel(text) => write!(f, " ({text})"),
            Note::Ours(text) => write!(f, " ({text})"),
        }
    }
}

/// An errno that prints as `NAME: text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl Errno {
    pub(crate) fn kind(self) -> ErrorKind {
        match self.0 {
            libc::EPERM | libc::EACCES | libc::EROFS => ErrorKind::PermissionDenied,
            libc::EINVAL => ErrorKind::InvalidInput,
            libc::ENOENT | libc::EADDRNOTAVAIL => ErrorKind::NotFound,
            libc::EEXIST => ErrorKind::AlreadyExists,
            libc::EBUSY | libc::EADDRINUSE => ErrorKind::Busy,
            libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ENOSYS => {
                ErrorKind::Unsupported
            }
            _ => ErrorKind::Os,
        }
    }

    fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            libc::EPERM => "EPERM",
            libc::ENOENT => "ENOENT",
            libc::EINTR => "EINTR",
            libc::EIO => "EIO",
            libc::EAGAIN => "EAGAIN",
            libc::ENOMEM => "ENOMEM",
            libc::ECONNREFUSED => "ECONNREFUSED",
            libc::EACCES => "EACCES",
            libc::EBUSY => "EBUSY",
            libc::EEXIST => "EEXIST",
            libc::EINVAL => "EINVAL",
            libc::ENFILE => "ENFILE",
            libc::EMFILE => "EMFILE",
            libc::ENOSPC => "ENOSPC",
            libc::ERANGE => "ERANGE",
            libc::EROFS => "EROFS",
            libc::ENOTEMPTY => "ENOTEMPTY",
            libc::ERESTART => "ERESTART",
            libc::EMSGSIZE => "EMSGSIZE",
            libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            libc::EAFNOSUPPORT => "EAFNOSUPPORT",
            libc::EADDRINUSE => "EADDRINUSE",
            libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
            libc::ENOBUFS => "ENOBUFS",
            libc::ENOSYS => "ENOSYS",
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
    fn an_os_error_is_one_line_with_errno_name_and_the_kernels_words() {
        let failure = Failure::Os {
            step: "add element ports4".to_owned(),
            errno: Errno(libc::EEXIST),
            note: Note::Kernel("Element already exists".to_owned()),
            kind: ErrorKind::AlreadyExists,
        };
        let error = failure.during("publish 8080:80/tcp to 10.0.0.2");
        assert_eq!(
            error.to_string(),
            "publish 8080:80/tcp to 10.0.0.2: add element ports4: EEXIST: File exists (Element already exists)"
        );
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn an_errno_has_the_kind_it_has_in_the_other_crates() {
        for (errno, kind) in [
            (libc::EINVAL, ErrorKind::InvalidInput),
            (libc::EROFS, ErrorKind::PermissionDenied),
            (libc::EPERM, ErrorKind::PermissionDenied),
            (libc::EACCES, ErrorKind::PermissionDenied),
            (libc::EADDRINUSE, ErrorKind::Busy),
            (libc::EIO, ErrorKind::Os),
        ] {
            assert_eq!(Errno(errno).kind(), kind, "{}", Errno(errno));
        }
        assert!(Errno(libc::EROFS).to_string().starts_with("EROFS: "));
    }

    #[test]
    fn an_errno_without_a_name_here_shows_its_number() {
        assert_eq!(
            Errno(libc::EXDEV).to_string(),
            "errno 18: Invalid cross-device link"
        );
    }
}
