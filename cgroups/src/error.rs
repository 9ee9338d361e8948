//! What can go wrong, said in one line.

mod text;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a cgroup operation failed: what was being done, to which path, and the errno with its name.
#[derive(Debug)]
pub struct Error(Box<Inner>);

/// What sort of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The machine or its kernel cannot do this: no cgroup mount, no such controller.
    Unsupported,
    /// The caller may not write there, or the cgroup filesystem is mounted read-only.
    PermissionDenied,
    /// The cgroup, its parent or the process does not exist (any more).
    NotFound,
    /// A cgroup of this name exists in one of the hierarchies.
    AlreadyExists,
    /// Processes or cgroups are in the way.
    Busy,
    /// A cgroup above takes no more inside it: `cgroup.max.depth` or `cgroup.max.descendants`.
    LimitReached,
    /// The caller's value cannot be used.
    InvalidInput,
    /// The kernel said something this crate does not understand.
    Malformed,
    /// Another errno: see [`Error::raw_os_error`].
    Os,
}

#[derive(Debug)]
enum Inner {
    Sys {
        op: &'static str,
        path: PathBuf,
        errno: Errno,
    },
    Write {
        path: PathBuf,
        value: String,
        errno: Errno,
    },
    Parse {
        path: PathBuf,
        line: String,
    },
    NotCgroupfs {
        path: PathBuf,
    },
    NoHierarchy,
    Limit {
        limit: &'static str,
        value: String,
        reason: &'static str,
    },
    Name {
        name: String,
        reason: &'static str,
    },
    Path {
        path: PathBuf,
        reason: &'static str,
    },
    NoController {
        limit: &'static str,
        controller: &'static str,
    },
    Unsayable {
        limit: &'static str,
        reason: &'static str,
    },
    Device {
        path: PathBuf,
        reason: String,
    },
    Partition {
        path: PathBuf,
        asked: String,
        reason: String,
    },
    NotEnabled {
        limit: &'static str,
        controller: &'static str,
        path: PathBuf,
    },
    Outside {
        path: PathBuf,
        value: String,
        errno: Errno,
    },
    NotGiven {
        limit: &'static str,
        controller: &'static str,
        path: PathBuf,
    },
    Update {
        path: PathBuf,
        cause: Error,
        undone: Vec<PathBuf>,
        stuck: Vec<Error>,
    },
    KernelThread {
        path: PathBuf,
        pid: u32,
    },
    Type {
        op: String,
        path: PathBuf,
        kind: String,
        errno: Errno,
    },
    NoFile {
        limit: &'static str,
        path: PathBuf,
    },
    NoMemory {
        path: PathBuf,
    },
    NotPassedOn {
        level: PathBuf,
        controllers: String,
    },
    Populated {
        level: PathBuf,
        controllers: String,
    },
    Threaded {
        level: PathBuf,
        kind: String,
    },
    Bpf {
        op: &'static str,
        path: PathBuf,
        errno: Errno,
    },
    NoDevices,
    Explained {
        error: Error,
        more: String,
    },
    NoCgroup {
        path: PathBuf,
    },
    NoV2,
    OutOfSight {
        path: PathBuf,
    },
    NotDelegable {
        path: PathBuf,
    },
    Occupied {
        path: PathBuf,
        who: String,
    },
    InTheWay {
        path: PathBuf,
    },
    #[cfg(feature = "systemd")]
    Systemd {
        place: String,
        text: String,
        kind: ErrorKind,
    },
    NoDeviceRule {
        rule: String,
        reason: &'static str,
    },
    Remaining {
        path: PathBuf,
        waited: Duration,
    },
    Unkilled {
        path: PathBuf,
        waited: Duration,
    },
    Gone {
        path: PathBuf,
    },
    Lacks {
        op: &'static str,
        path: PathBuf,
        reason: &'static str,
    },
    WriteExplained {
        path: PathBuf,
        value: String,
        errno: Errno,
        reason: &'static str,
    },
    Unfrozen {
        path: PathBuf,
        waited: Duration,
        outcome: &'static str,
    },
}

const EAGAIN: i32 = rustix::io::Errno::AGAIN.raw_os_error();

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error {
    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &*self.0 {
            Inner::Update { cause, .. } => cause.kind(),
            Inner::Explained { error, .. } => error.kind(),
            #[cfg(feature = "systemd")]
            Inner::Systemd { kind, .. } => *kind,
            Inner::Sys {
                op: "mkdir",
                errno: Errno(EAGAIN),
                ..
            } => ErrorKind::LimitReached,
            Inner::Sys { errno, .. }
            | Inner::Write { errno, .. }
            | Inner::Bpf { errno, .. }
            | Inner::WriteExplained { errno, .. } => errno.kind(),
            Inner::Gone { .. } => ErrorKind::NotFound,
            Inner::Lacks { .. } => ErrorKind::Unsupported,
            Inner::Unfrozen { .. } => ErrorKind::Busy,
            Inner::Parse { .. } => ErrorKind::Malformed,
            Inner::Limit { .. }
            | Inner::Name { .. }
            | Inner::Path { .. }
            | Inner::Device { .. }
            | Inner::Partition { .. }
            | Inner::Outside { .. }
            | Inner::KernelThread { .. } => ErrorKind::InvalidInput,
            Inner::NotCgroupfs { .. }
            | Inner::NoHierarchy
            | Inner::NoController { .. }
            | Inner::NotGiven { .. }
            | Inner::Unsayable { .. }
            | Inner::NotEnabled { .. }
            | Inner::Type { .. }
            | Inner::NoFile { .. }
            | Inner::NoMemory { .. }
            | Inner::NoCgroup { .. }
            | Inner::NoV2
            | Inner::OutOfSight { .. }
            | Inner::NotDelegable { .. }
            | Inner::NoDevices
            | Inner::NoDeviceRule { .. }
            | Inner::NotPassedOn { .. }
            | Inner::Threaded { .. } => ErrorKind::Unsupported,
            Inner::Populated { .. }
            | Inner::Occupied { .. }
            | Inner::InTheWay { .. }
            | Inner::Remaining { .. }
            | Inner::Unkilled { .. } => ErrorKind::Busy,
        }
    }

    /// The errno, where a system call failed.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match &*self.0 {
            Inner::Explained { error, .. } => error.raw_os_error(),
            Inner::KernelThread { .. } => Some(rustix::io::Errno::INVAL.raw_os_error()),
            Inner::Update { cause, .. } => cause.raw_os_error(),
            Inner::Sys { errno, .. }
            | Inner::Write { errno, .. }
            | Inner::Type { errno, .. }
            | Inner::Bpf { errno, .. }
            | Inner::Outside { errno, .. }
            | Inner::WriteExplained { errno, .. } => Some(errno.0),
            _ => None,
        }
    }

    /// Why the kernel declared a partition invalid, in its own words:
    /// [`Limits::cpuset_partition`](crate::Limits::cpuset_partition).
    #[must_use]
    pub fn partition_reason(&self) -> Option<&str> {
        match &*self.0 {
            Inner::Partition { reason, .. } => Some(reason),
            Inner::Update { cause, .. } => cause.partition_reason(),
            _ => None,
        }
    }

    /// The files a failed [`Cgroup::update`](crate::Cgroup::update) had written and written back; and why others could
    /// not be written back, and have the new value. Both empty for other errors.
    #[must_use]
    pub fn undone(&self) -> (&[PathBuf], &[Error]) {
        match &*self.0 {
            Inner::Update { undone, stuck, .. } => (undone, stuck),
            _ => (&[], &[]),
        }
    }

    pub(crate) fn sys(op: &'static str, path: &Path, errno: rustix::io::Errno) -> Self {
        Self::new(Inner::Sys {
            op,
            path: path.to_owned(),
            errno: Errno(errno.raw_os_error()),
        })
    }

    pub(crate) fn write(path: PathBuf, value: &str, errno: rustix::io::Errno) -> Self {
        Self::new(Inner::Write {
            path,
            value: value.to_owned(),
            errno: Errno(errno.raw_os_error()),
        })
    }

    pub(crate) fn parse(path: &Path, line: &[u8]) -> Self {
        Self::new(Inner::Parse {
            path: path.to_owned(),
            line: String::from_utf8_lossy(line).into_owned(),
        })
    }

    pub(crate) fn not_cgroupfs(path: &Path) -> Self {
        Self::new(Inner::NotCgroupfs {
            path: path.to_owned(),
        })
    }

    pub(crate) fn no_hierarchy() -> Self {
        Self::new(Inner::NoHierarchy)
    }

    pub(crate) fn limit(
        limit: &'static str,
        value: impl fmt::Display,
        reason: &'static str,
    ) -> Self {
        Self::new(Inner::Limit {
            limit,
            value: value.to_string(),
            reason,
        })
    }

    pub(crate) fn name(name: &str, reason: &'static str) -> Self {
        Self::new(Inner::Name {
            name: name.to_owned(),
            reason,
        })
    }

    pub(crate) fn path(path: &Path, reason: &'static str) -> Self {
        Self::new(Inner::Path {
            path: path.to_owned(),
            reason,
        })
    }

    pub(crate) fn no_controller(limit: &'static str, controller: &'static str) -> Self {
        Self::new(Inner::NoController { limit, controller })
    }

    pub(crate) fn not_given(limit: &'static str, controller: &'static str, path: &Path) -> Self {
        Self::new(Inner::NotGiven {
            limit,
            controller,
            path: path.to_owned(),
        })
    }

    pub(crate) fn outside(path: PathBuf, value: &str, errno: rustix::io::Errno) -> Self {
        Self::new(Inner::Outside {
            path,
            value: value.to_owned(),
            errno: Errno(errno.raw_os_error()),
        })
    }

    pub(crate) fn unsayable(limit: &'static str, reason: &'static str) -> Self {
        Self::new(Inner::Unsayable { limit, reason })
    }

    pub(crate) fn device(path: &Path, reason: String) -> Self {
        let path = path.to_owned();
        Self::new(Inner::Device { path, reason })
    }

    pub(crate) fn partition(path: PathBuf, asked: &str, reason: &str) -> Self {
        let (asked, reason) = (asked.to_owned(), reason.to_owned());
        Self::new(Inner::Partition {
            path,
            asked,
            reason,
        })
    }

    pub(crate) fn not_enabled(limit: &'static str, controller: &'static str, path: &Path) -> Self {
        let path = path.to_owned();
        Self::new(Inner::NotEnabled {
            limit,
            controller,
            path,
        })
    }

    pub(crate) fn update(
        path: &Path,
        cause: Error,
        undone: Vec<PathBuf>,
        stuck: Vec<Error>,
    ) -> Self {
        let path = path.to_owned();
        Self::new(Inner::Update {
            path,
            cause,
            undone,
            stuck,
        })
    }

    pub(crate) fn kernel_thread(path: PathBuf, pid: u32) -> Self {
        Self::new(Inner::KernelThread { path, pid })
    }

    pub(crate) fn of_type(
        op: String,
        path: PathBuf,
        kind: String,
        errno: rustix::io::Errno,
    ) -> Self {
        Self::new(Inner::Type {
            op,
            path,
            kind,
            errno: Errno(errno.raw_os_error()),
        })
    }

    pub(crate) fn no_file(limit: &'static str, path: PathBuf) -> Self {
        Self::new(Inner::NoFile { limit, path })
    }

    pub(crate) fn no_memory(path: &Path) -> Self {
        Self::new(Inner::NoMemory {
            path: path.to_owned(),
        })
    }

    pub(crate) fn not_passed_on(level: &Path, controllers: String) -> Self {
        Self::new(Inner::NotPassedOn {
            level: level.to_owned(),
            controllers,
        })
    }

    pub(crate) fn populated(level: &Path, controllers: String) -> Self {
        Self::new(Inner::Populated {
            level: level.to_owned(),
            controllers,
        })
    }

    pub(crate) fn threaded(level: &Path, kind: String) -> Self {
        Self::new(Inner::Threaded {
            level: level.to_owned(),
            kind,
        })
    }

    /// The path a system call failed on.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &*self.0 {
            Inner::Sys { path, .. } | Inner::Write { path, .. } => Some(path),
            _ => None,
        }
    }

    /// Whether it is for lack of fds or memory, which says nothing of what it was about.
    pub(crate) fn is_shortage(&self) -> bool {
        use rustix::io::Errno as E;
        [E::MFILE, E::NFILE, E::NOMEM]
            .iter()
            .any(|errno| self.raw_os_error() == Some(errno.raw_os_error()))
    }

    pub(crate) fn is_not_passed_on(&self) -> bool {
        matches!(&*self.0, Inner::NotPassedOn { .. })
    }

    /// The same error with more after it.
    pub(crate) fn explained(self, more: String) -> Self {
        Self::new(Inner::Explained { error: self, more })
    }

    pub(crate) fn no_cgroup(path: &Path) -> Self {
        Self::new(Inner::NoCgroup {
            path: path.to_owned(),
        })
    }

    pub(crate) fn no_v2() -> Self {
        Self::new(Inner::NoV2)
    }

    pub(crate) fn out_of_sight(path: &Path) -> Self {
        Self::new(Inner::OutOfSight {
            path: path.to_owned(),
        })
    }

    pub(crate) fn not_delegable(path: &Path) -> Self {
        Self::new(Inner::NotDelegable {
            path: path.to_owned(),
        })
    }

    pub(crate) fn occupied(path: &Path, who: &str) -> Self {
        Self::new(Inner::Occupied {
            path: path.to_owned(),
            who: who.to_owned(),
        })
    }

    pub(crate) fn in_the_way(path: &Path) -> Self {
        Self::new(Inner::InTheWay {
            path: path.to_owned(),
        })
    }

    #[cfg(feature = "systemd")]
    pub(crate) fn systemd(place: &str, text: &str, kind: ErrorKind) -> Self {
        Self::new(Inner::Systemd {
            place: place.to_owned(),
            text: text.to_owned(),
            kind,
        })
    }

    pub(crate) fn bpf(op: &'static str, path: &Path, errno: rustix::io::Errno) -> Self {
        Self::new(Inner::Bpf {
            op,
            path: path.to_owned(),
            errno: Errno(errno.raw_os_error()),
        })
    }

    pub(crate) fn no_devices() -> Self {
        Self::new(Inner::NoDevices)
    }

    pub(crate) fn no_device_rule(rule: impl fmt::Display, reason: &'static str) -> Self {
        Self::new(Inner::NoDeviceRule {
            rule: rule.to_string(),
            reason,
        })
    }

    pub(crate) fn remaining(path: &Path, waited: Duration) -> Self {
        Self::new(Inner::Remaining {
            path: path.to_owned(),
            waited,
        })
    }

    pub(crate) fn unkilled(path: &Path, waited: Duration) -> Self {
        Self::new(Inner::Unkilled {
            path: path.to_owned(),
            waited,
        })
    }

    pub(crate) fn gone(path: &Path) -> Self {
        Self::new(Inner::Gone {
            path: path.to_owned(),
        })
    }

    /// What the machine cannot do with this file or cgroup, and why.
    pub(crate) fn lacks(op: &'static str, path: PathBuf, reason: &'static str) -> Self {
        Self::new(Inner::Lacks { op, path, reason })
    }

    /// A write whose errno says too little.
    pub(crate) fn write_explained(
        path: &Path,
        value: &str,
        errno: rustix::io::Errno,
        reason: &'static str,
    ) -> Self {
        Self::new(Inner::WriteExplained {
            path: path.to_owned(),
            value: value.to_owned(),
            errno: Errno(errno.raw_os_error()),
            reason,
        })
    }

    pub(crate) fn unfrozen(path: &Path, waited: Duration, thawed: bool) -> Self {
        Self::new(Inner::Unfrozen {
            path: path.to_owned(),
            waited,
            outcome: match thawed {
                true => "so it was thawed again",
                false => "and it goes on freezing, as was asked before",
            },
        })
    }

    fn new(inner: Inner) -> Self {
        Error(Box::new(inner))
    }
}

/// The first kernel with a controller that is young.
fn since(controller: &str) -> &'static str {
    match controller {
        "dmem" => "; Linux 6.14 is the first that can have it",
        "misc" => "; Linux 5.13 is the first that can have it",
        _ => "",
    }
}

fn type_remedy(kind: &str) -> &'static str {
    match kind {
        "domain invalid" => "; make it threaded, or choose one outside of the threaded subtree",
        "threaded" => "; only threads of processes in its domain can be moved there",
        "domain" => {
            "; its parent has to be able to hold threads: no controllers of domains enabled there"
        }
        _ => "",
    }
}

/// The end of the line about an update that failed.
struct Undoing<'a>(&'a [PathBuf], &'a [Error]);

impl fmt::Display for Undoing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, path) in self.0.iter().enumerate() {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            write!(
                f,
                "{}{file}",
                if at == 0 { "; written back: " } else { ", " }
            )?;
        }
        for error in self.1 {
            write!(f, "; not written back: {error}")?;
        }
        Ok(())
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
            ErrorKind::LimitReached => io::ErrorKind::QuotaExceeded,
            ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
            ErrorKind::Malformed => io::ErrorKind::InvalidData,
            ErrorKind::Os => error.raw_os_error().map_or(io::ErrorKind::Other, |errno| {
                io::Error::from_raw_os_error(errno).kind()
            }),
        };
        io::Error::new(kind, error)
    }
}

/// An errno that prints its name and text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Errno(i32);

impl Errno {
    fn kind(self) -> ErrorKind {
        use rustix::io::Errno as E;
        match E::from_raw_os_error(self.0) {
            E::ACCESS | E::PERM | E::ROFS => ErrorKind::PermissionDenied,
            E::NOENT | E::NODEV | E::SRCH => ErrorKind::NotFound,
            E::EXIST => ErrorKind::AlreadyExists,
            E::BUSY => ErrorKind::Busy,
            E::INVAL | E::RANGE | E::NAMETOOLONG => ErrorKind::InvalidInput,
            E::NOSYS | E::OPNOTSUPP => ErrorKind::Unsupported,
            _ => ErrorKind::Os,
        }
    }

    /// What a denial asks for.
    fn remedy(self) -> &'static str {
        match rustix::io::Errno::from_raw_os_error(self.0) {
            rustix::io::Errno::ROFS => "; it needs a cgroup mount that is not read-only",
            _ if self.kind() == ErrorKind::PermissionDenied => {
                "; it needs root in the initial user namespace, or a parent cgroup delegated to this user"
            }
            _ => "",
        }
    }

    /// What bpf(2) asks for.
    fn bpf_remedy(self) -> &'static str {
        if self.kind() == ErrorKind::PermissionDenied {
            return "; it needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN, in the initial user namespace";
        }
        ""
    }

    /// Name and text of those that cgroupfs gives.
    fn known(self) -> Option<(&'static str, &'static str)> {
        use rustix::io::Errno as E;
        Some(match E::from_raw_os_error(self.0) {
            E::PERM => ("EPERM", "Operation not permitted"),
            E::NOENT => ("ENOENT", "No such file or directory"),
            E::SRCH => ("ESRCH", "No such process"),
            E::INTR => ("EINTR", "Interrupted system call"),
            E::IO => ("EIO", "Input/output error"),
            E::AGAIN => ("EAGAIN", "Resource temporarily unavailable"),
            E::NOMEM => ("ENOMEM", "Cannot allocate memory"),
            E::ACCESS => ("EACCES", "Permission denied"),
            E::BUSY => ("EBUSY", "Device or resource busy"),
            E::EXIST => ("EEXIST", "File exists"),
            E::XDEV => ("EXDEV", "Invalid cross-device link"),
            E::NODEV => ("ENODEV", "No such device"),
            E::TIMEDOUT => ("ETIMEDOUT", "Connection timed out"),
            E::CONNREFUSED => ("ECONNREFUSED", "Connection refused"),
            E::NOTDIR => ("ENOTDIR", "Not a directory"),
            E::INVAL => ("EINVAL", "Invalid argument"),
            E::NFILE => ("ENFILE", "Too many open files in system"),
            E::MFILE => ("EMFILE", "Too many open files"),
            E::NOSPC => ("ENOSPC", "No space left on device"),
            E::ROFS => ("EROFS", "Read-only file system"),
            E::RANGE => ("ERANGE", "Numerical result out of range"),
            E::NAMETOOLONG => ("ENAMETOOLONG", "File name too long"),
            E::NOSYS => ("ENOSYS", "Function not implemented"),
            E::LOOP => ("ELOOP", "Too many levels of symbolic links"),
            E::OPNOTSUPP => ("EOPNOTSUPP", "Operation not supported"),
            _ => return None,
        })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some((name, text)) => write!(f, "{name}: {text}"),
            None => {
                let text = io::Error::from_raw_os_error(self.0).to_string();
                let text = text.split(" (os error").next().unwrap_or_default();
                write!(f, "errno {}: {text}", self.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno as E;

    #[test]
    fn an_error_is_one_line_with_the_name_of_its_errno() {
        let error = Error::sys("mkdir", Path::new("/sys/fs/cgroup/a"), E::NOENT);
        assert_eq!(
            error.to_string(),
            "mkdir /sys/fs/cgroup/a: ENOENT: No such file or directory"
        );
        let error = Error::write("/sys/fs/cgroup/a/pids.max".into(), "5\n", E::INVAL);
        assert_eq!(
            error.to_string(),
            "write \"5\\n\" to /sys/fs/cgroup/a/pids.max: EINVAL: Invalid argument"
        );
        let error = Error::sys("mkdir", Path::new("/a"), E::DQUOT);
        assert_eq!(
            error.to_string(),
            "mkdir /a: errno 122: Disk quota exceeded"
        );
    }

    #[test]
    fn kinds_and_errnos_survive_in_an_io_error() {
        let table = [
            (E::ROFS, io::ErrorKind::PermissionDenied),
            (E::SRCH, io::ErrorKind::NotFound),
            (E::BUSY, io::ErrorKind::ResourceBusy),
            (E::OPNOTSUPP, io::ErrorKind::Unsupported),
            (E::NOSPC, io::ErrorKind::StorageFull),
        ];
        for (errno, kind) in table {
            let error = Error::sys("mkdir", Path::new("/a"), errno);
            assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()));
            let text = error.to_string();
            let io = io::Error::from(error);
            assert_eq!((io.kind(), io.to_string()), (kind, text));
        }
    }

    #[test]
    fn a_denial_says_what_is_missing() {
        let text = Error::sys("mkdir", Path::new("/a"), E::ACCESS).to_string();
        assert!(text.starts_with("mkdir /a: EACCES: Permission denied; it needs root"));
        let text = Error::write("/a/pids.max".into(), "1", E::ACCESS).to_string();
        assert!(
            text.starts_with("write \"1\" to /a/pids.max: EACCES: Permission denied; it needs")
        );
    }
}
