//! Which namespaces a program gets of its own, and which it shares with whom.

use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::{Error, Result};

/// A kind of namespace, as in namespaces(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Namespace {
    /// Process ids: the program is pid 1 of its own tree, which ends with it.
    #[doc(alias = "CLONE_NEWPID")]
    Pid,
    /// Mounts. Needed for a root of one's own.
    #[doc(alias = "CLONE_NEWNS")]
    Mount,
    /// Host name and domain name.
    #[doc(alias = "CLONE_NEWUTS")]
    Uts,
    /// System V IPC and POSIX message queues.
    #[doc(alias = "CLONE_NEWIPC")]
    Ipc,
    /// Network devices, addresses, routes, ports, abstract sockets.
    #[doc(alias = "CLONE_NEWNET")]
    Net,
    /// User and group ids and capabilities; see [`IdMap`](crate::IdMap).
    #[doc(alias = "CLONE_NEWUSER")]
    User,
    /// The root of the cgroup tree as the program sees it: the cgroup it starts in.
    #[doc(alias = "CLONE_NEWCGROUP")]
    Cgroup,
    /// The clocks that count from boot; see [`Namespaces::clock_offset`].
    #[doc(alias = "CLONE_NEWTIME")]
    Time,
}

impl Namespace {
    pub(crate) const ALL: [Namespace; 8] = [
        Namespace::User,
        Namespace::Pid,
        Namespace::Mount,
        Namespace::Uts,
        Namespace::Ipc,
        Namespace::Net,
        Namespace::Cgroup,
        Namespace::Time,
    ];

    pub(crate) fn clone_flag(self) -> i32 {
        match self {
            Namespace::Pid => libc::CLONE_NEWPID,
            Namespace::Mount => libc::CLONE_NEWNS,
            Namespace::Uts => libc::CLONE_NEWUTS,
            Namespace::Ipc => libc::CLONE_NEWIPC,
            Namespace::Net => libc::CLONE_NEWNET,
            Namespace::User => libc::CLONE_NEWUSER,
            Namespace::Cgroup => libc::CLONE_NEWCGROUP,
            Namespace::Time => libc::CLONE_NEWTIME,
        }
    }

    /// Its name below `/proc/<pid>/ns`.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Namespace::Pid => "pid",
            Namespace::Mount => "mnt",
            Namespace::Uts => "uts",
            Namespace::Ipc => "ipc",
            Namespace::Net => "net",
            Namespace::User => "user",
            Namespace::Cgroup => "cgroup",
            Namespace::Time => "time",
        }
    }
}

/// A clock that a time namespace can shift.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Clock {
    /// `CLOCK_MONOTONIC`, and its coarse and raw variants.
    #[doc(alias = "CLOCK_MONOTONIC")]
    Monotonic,
    /// `CLOCK_BOOTTIME`, and its alarm variant: what `/proc/uptime` shows.
    #[doc(alias = "CLOCK_BOOTTIME")]
    Boottime,
}

/// The namespaces a program gets of its own, and those it shares with another process. [`Default`] is a container's: all of
/// its own but the user and the time namespace.
#[derive(Clone, Debug)]
pub struct Namespaces {
    own: i32,
    joined: Vec<Joined>,
    offsets: Vec<(Clock, i64, u32)>,
}

/// A namespace that exists already, or several of one process.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) flags: i32,
}

impl Namespaces {
    /// None: the program shares all with the caller.
    #[must_use]
    pub fn none() -> Self {
        Namespaces {
            own: 0,
            joined: Vec::new(),
            offsets: Vec::new(),
        }
    }

    /// Those of the process behind this pidfd, where they are not the caller's own: what
    /// [`Command::enter`](crate::Command::enter) joins.
    ///
    /// # Errors
    /// `NotFound` if it has ended, `PermissionDenied` if its namespaces cannot be looked at, which needs the right to
    /// ptrace(2) it.
    pub fn of(process: impl AsFd) -> Result<Self> {
        let pidfd = process.as_fd();
        let duplicate = pidfd
            .try_clone_to_owned()
            .map_err(Error::sys("duplicate a pidfd"))?;
        let pid = crate::sys::pid_of(pidfd)?;
        let (its, ours) = (format!("/proc/{pid}/ns"), "/proc/thread-self/ns");
        let open = |path: &str| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = openat(CWD, path, flags, Mode::empty());
            opened.map_err(Error::path("open", path.as_ref()))
        };
        let (ours_in, its_in) = (open(ours)?, open(&its)?);
        let mut flags = 0;
        for namespace in Namespace::ALL {
            let name = namespace.file();
            // A kernel without time namespaces has no file of them.
            let Ok(our_one) = read_link(&ours_in, name) else {
                continue;
            };
            let its_one = read_link(&its_in, name).map_err(Error::path("look at", its.as_ref()))?;
            if its_one != our_one {
                flags |= namespace.clone_flag();
            }
        }
        // As long as it is there, the number has meant it all the time.
        crate::sys::send_signal(pidfd, 0).map_err(Error::sys("look for a process"))?;
        let mut namespaces = Self::none();
        if flags != 0 {
            let fd = Arc::new(duplicate);
            namespaces.joined.push(Joined { fd, flags });
        }
        Ok(namespaces)
    }

    /// Also this one.
    #[must_use]
    pub fn with(mut self, namespace: Namespace) -> Self {
        self = self.without(namespace);
        self.own |= namespace.clone_flag();
        self
    }

    /// Not this one: the program shares it with the caller.
    #[must_use]
    pub fn without(mut self, namespace: Namespace) -> Self {
        self.own &= !namespace.clone_flag();
        for joined in &mut self.joined {
            joined.flags &= !namespace.clone_flag();
        }
        self.joined.retain(|joined| joined.flags != 0);
        self
    }

    /// The one behind `fd` instead of a new one, entered by setns(2): `fd` is of a file like `/proc/<pid>/ns/net`, or the
    /// pidfd of a process that is in it.
    ///
    /// Who joins a pid namespace is a child of the caller, but not the first process there; it ends with that. With a
    /// [root](crate::Command::root) of its own it is set up there, with the caller's rights, as a procfs belongs to who makes it: nobody
    /// there must have `CAP_SYS_PTRACE` in the caller's user namespace, which is the right to take these. Without a root it appears
    /// there with no more rights than its program.
    #[must_use]
    #[doc(alias = "setns")]
    pub fn join(mut self, namespace: Namespace, fd: OwnedFd) -> Self {
        self = self.without(namespace);
        let (fd, flags) = (Arc::new(fd), namespace.clone_flag());
        self.joined.push(Joined { fd, flags });
        self
    }

    /// A time namespace of its own in which this clock shows so much more, or less where `seconds` is negative; the
    /// nanoseconds, less than 10⁹, are always more.
    #[must_use]
    #[doc(alias = "timens_offsets")]
    pub fn clock_offset(mut self, clock: Clock, seconds: i64, nanoseconds: u32) -> Self {
        self = self.with(Namespace::Time);
        self.offsets.retain(|(other, ..)| *other != clock);
        self.offsets.push((clock, seconds, nanoseconds));
        self
    }

    /// Whether it is one of its own.
    pub(crate) fn has(&self, namespace: Namespace) -> bool {
        self.own & namespace.clone_flag() != 0
    }

    /// Whether it is another's.
    pub(crate) fn joins(&self, namespace: Namespace) -> bool {
        let flag = namespace.clone_flag();
        self.joined.iter().any(|joined| joined.flags & flag != 0)
    }

    /// Whether it is not the caller's.
    pub(crate) fn differs(&self, namespace: Namespace) -> bool {
        self.has(namespace) || self.joins(namespace)
    }

    pub(crate) fn joined(&self) -> &[Joined] {
        &self.joined
    }

    pub(crate) fn own(&self) -> i32 {
        self.own
    }

    /// The clocks that are off, as the kernel reads them from `timens_offsets`.
    pub(crate) fn offsets(&self) -> String {
        let mut text = String::new();
        for (clock, seconds, nanoseconds) in &self.offsets {
            let clock = match clock {
                Clock::Monotonic => "monotonic",
                Clock::Boottime => "boottime",
            };
            // Writing to a String cannot fail.
            let _ok = writeln!(text, "{clock} {seconds} {nanoseconds}").is_ok();
        }
        text
    }

    pub(crate) fn validate(&self) -> Result<()> {
        match self.offsets.iter().find(|(.., nanos)| *nanos > 999_999_999) {
            None => Ok(()),
            Some((clock, _, nanos)) => {
                let value = format!("{clock:?} {nanos}");
                Err(Error::invalid(
                    "clock offset",
                    value,
                    "has more than 999999999 nanoseconds",
                ))
            }
        }
    }
}

/// Such as `net:[4026531840]`.
fn read_link(directory: &OwnedFd, name: &str) -> rustix::io::Result<[u8; 32]> {
    let mut link = [0; 32];
    rustix::fs::readlinkat_raw(directory, name, &mut link[..])?;
    Ok(link)
}

impl Default for Namespaces {
    fn default() -> Self {
        use Namespace::{Cgroup, Ipc, Mount, Net, Pid, Uts};
        [Pid, Mount, Uts, Ipc, Net, Cgroup]
            .into_iter()
            .fold(Self::none(), Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_a_namespace_counts() {
        let fd = || OwnedFd::from(std::fs::File::open("/dev/null").expect("null"));
        let namespaces = Namespaces::default().join(Namespace::Net, fd());
        assert!(namespaces.joins(Namespace::Net) && !namespaces.has(Namespace::Net));
        let namespaces = namespaces.with(Namespace::Net);
        assert!(!namespaces.joins(Namespace::Net) && namespaces.has(Namespace::Net));
        assert!(namespaces.joined().is_empty());
    }

    #[test]
    fn offsets_are_lines_of_clock_seconds_and_nanoseconds() {
        let namespaces = Namespaces::none()
            .clock_offset(Clock::Monotonic, 1, 0)
            .clock_offset(Clock::Boottime, -5, 7)
            .clock_offset(Clock::Monotonic, 86_400, 0);
        assert_eq!(namespaces.offsets(), "boottime -5 7\nmonotonic 86400 0\n");
        assert!(namespaces.validate().is_ok());
        let bad = Namespaces::none().clock_offset(Clock::Boottime, 0, 1_000_000_000);
        assert!(bad.validate().is_err());
    }
}
