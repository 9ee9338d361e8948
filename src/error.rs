//! What can go wrong, and in which step.

use std::io;
use std::path::Path;

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something could not be done with a container or a network.
///
/// Its `Display` is one line that stands alone in a log: whose step failed, and what the mechanism says of it. The
/// mechanism's own error is the [`source`](std::error::Error::source).
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
    /// A program, path, address or process does not exist.
    NotFound,
    /// The name, port or address is taken.
    AlreadyExists,
    /// It is in use.
    Busy,
    /// The configuration cannot be right; nothing was done.
    InvalidInput,
    /// It was not done in time.
    TimedOut,
    /// A program has ended, and nobody can say how: its status went to somebody else.
    StatusLost,
    /// A pool has nothing left to give.
    Exhausted,
    /// Anything else.
    Os,
}

#[derive(Debug, thiserror::Error)]
enum Inner {
    #[error("{subject}: {step}: {source}")]
    Namespaces {
        subject: String,
        step: &'static str,
        source: cofferdam_namespaces::Error,
    },
    #[error("{subject}: {step}: {source}")]
    Cgroups {
        subject: String,
        step: &'static str,
        source: cofferdam_cgroups::Error,
    },
    #[error("{subject}: {step}: {source}")]
    Netbridge {
        subject: String,
        step: &'static str,
        source: cofferdam_netbridge::Error,
    },
    #[error("{subject}: {step}: {source}")]
    Overlay {
        subject: String,
        step: &'static str,
        source: cofferdam_overlay::Error,
    },
    #[error("{subject}: {step}: {source}")]
    Portmap {
        subject: String,
        step: &'static str,
        source: cofferdam_portmap::Error,
    },
    #[error("{subject}: {step}: {source}")]
    Dns {
        subject: String,
        step: &'static str,
        source: cofferdam_dns::Error,
    },
    #[error("{subject}: {step}: {source}")]
    Io {
        subject: String,
        step: &'static str,
        source: io::Error,
    },
    #[error("{subject}: {item} {value:?}: {reason}")]
    Invalid {
        subject: String,
        item: &'static str,
        value: String,
        reason: &'static str,
    },
    #[error("{subject}: {reason}")]
    Busy {
        subject: String,
        reason: &'static str,
    },
    #[error("{subject}: {reason}")]
    Gone {
        subject: String,
        reason: &'static str,
    },
    #[error("{subject}: {what}: {reason}")]
    Lacks {
        subject: String,
        what: &'static str,
        reason: &'static str,
    },
}

impl Error {
    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &*self.0 {
            Inner::Namespaces { source, .. } => namespaces(source.kind()),
            Inner::Cgroups { source, .. } => cgroups(source.kind()),
            Inner::Netbridge { source, .. } => netbridge(source.kind()),
            Inner::Overlay { source, .. } => overlay(source.kind()),
            Inner::Portmap { source, .. } => portmap(source.kind()),
            Inner::Dns { source, .. } => dns(source.kind()),
            Inner::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                io::ErrorKind::AddrInUse => ErrorKind::Busy,
                io::ErrorKind::TimedOut => ErrorKind::TimedOut,
                _ => ErrorKind::Os,
            },
            Inner::Invalid { .. } => ErrorKind::InvalidInput,
            Inner::Busy { .. } => ErrorKind::Busy,
            Inner::Gone { .. } => ErrorKind::NotFound,
            Inner::Lacks { .. } => ErrorKind::Unsupported,
        }
    }

    /// The errno behind it, where there is one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match &*self.0 {
            Inner::Namespaces { source, .. } => source.raw_os_error(),
            Inner::Cgroups { source, .. } => source.raw_os_error(),
            Inner::Netbridge { source, .. } => source.raw_os_error(),
            Inner::Overlay { source, .. } => source.raw_os_error(),
            Inner::Portmap { source, .. } => source.raw_os_error(),
            Inner::Dns { source, .. } => source.raw_os_error(),
            Inner::Io { source, .. } => source.raw_os_error(),
            Inner::Invalid { .. }
            | Inner::Busy { .. }
            | Inner::Gone { .. }
            | Inner::Lacks { .. } => None,
        }
    }

    pub(crate) fn invalid(
        subject: &Subject,
        item: &'static str,
        value: impl ToString,
        reason: &'static str,
    ) -> Self {
        let (subject, value) = (subject.0.clone(), value.to_string());
        Error(Box::new(Inner::Invalid {
            subject,
            item,
            value,
            reason,
        }))
    }

    pub(crate) fn busy(subject: &Subject, reason: &'static str) -> Self {
        Error(Box::new(Inner::Busy {
            subject: subject.0.clone(),
            reason,
        }))
    }

    /// Whether the rules have that already.
    pub(crate) fn is_taken_in_rules(&self) -> bool {
        matches!(*self.0, Inner::Portmap { .. }) && self.kind() == ErrorKind::AlreadyExists
    }

    /// What is to be worked on is no more.
    pub(crate) fn gone(subject: &Subject, reason: &'static str) -> Self {
        let subject = subject.0.clone();
        Error(Box::new(Inner::Gone { subject, reason }))
    }

    /// It was started without what this takes.
    pub(crate) fn lacks(subject: &Subject, what: &'static str, reason: &'static str) -> Self {
        let subject = subject.0.clone();
        Error(Box::new(Inner::Lacks {
            subject,
            what,
            reason,
        }))
    }
}

/// Of whom an error speaks: `container web`, `network app`.
#[derive(Clone, Debug)]
pub(crate) struct Subject(String);

impl Subject {
    pub(crate) fn container(name: &str) -> Self {
        Subject(format!("container {name}"))
    }

    pub(crate) fn network(name: &str) -> Self {
        Subject(format!("network {name}"))
    }

    pub(crate) fn runtime(path: &Path) -> Self {
        Subject(format!("runtime directory: {}", path.display()))
    }

    pub(crate) fn volumes(path: &Path) -> Self {
        Subject(format!("volumes {}", path.display()))
    }

    /// For `map_err`: this step failed.
    pub(crate) fn failed<E: Mechanism>(&self, step: &'static str) -> impl FnOnce(E) -> Error {
        let subject = self.0.clone();
        move |source| Error(Box::new(source.wrap(subject, step)))
    }
}

/// An error of a mechanism crate.
pub(crate) trait Mechanism: Sized {
    #[expect(private_interfaces, reason = "Inner stays behind Error")]
    fn wrap(self, subject: String, step: &'static str) -> Inner;
}

macro_rules! mechanism {
    ($error:ty, $variant:ident $(, $convert:ident, $kind:ty, [$($same:ident),*])?) => {
        impl Mechanism for $error {
            #[expect(private_interfaces, reason = "Inner stays behind Error")]
            fn wrap(self, subject: String, step: &'static str) -> Inner {
                Inner::$variant { subject, step, source: self }
            }
        }

        $(fn $convert(kind: $kind) -> ErrorKind {
            match kind {
                $(<$kind>::$same => ErrorKind::$same,)*
                _ => ErrorKind::Os,
            }
        })?
    };
}
mechanism!(
    cofferdam_namespaces::Error,
    Namespaces,
    namespaces,
    cofferdam_namespaces::ErrorKind,
    [
        Unsupported,
        PermissionDenied,
        NotFound,
        AlreadyExists,
        Busy,
        InvalidInput,
        TimedOut,
        StatusLost
    ]
);
mechanism!(
    cofferdam_cgroups::Error,
    Cgroups,
    cgroups,
    cofferdam_cgroups::ErrorKind,
    [
        Unsupported,
        PermissionDenied,
        NotFound,
        AlreadyExists,
        Busy,
        InvalidInput
    ]
);
mechanism!(
    cofferdam_netbridge::Error,
    Netbridge,
    netbridge,
    cofferdam_netbridge::ErrorKind,
    [
        Unsupported,
        PermissionDenied,
        NotFound,
        AlreadyExists,
        Busy,
        InvalidInput,
        Exhausted
    ]
);
mechanism!(
    cofferdam_overlay::Error,
    Overlay,
    overlay,
    cofferdam_overlay::ErrorKind,
    [
        Unsupported,
        PermissionDenied,
        NotFound,
        AlreadyExists,
        Busy,
        InvalidInput
    ]
);
mechanism!(
    cofferdam_portmap::Error,
    Portmap,
    portmap,
    cofferdam_portmap::ErrorKind,
    [
        Unsupported,
        PermissionDenied,
        NotFound,
        AlreadyExists,
        Busy,
        InvalidInput
    ]
);
mechanism!(
    cofferdam_dns::Error,
    Dns,
    dns,
    cofferdam_dns::ErrorKind,
    [
        Unsupported,
        PermissionDenied,
        NotFound,
        AlreadyExists,
        Busy,
        InvalidInput
    ]
);
mechanism!(io::Error, Io);

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
            ErrorKind::Exhausted | ErrorKind::StatusLost | ErrorKind::Os => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
