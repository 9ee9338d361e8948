//! What a process has besides its namespaces and files: privileges, limits, priorities, labels.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC};
use rustix::io::Errno;

use crate::capabilities::Chosen;
use crate::command::Command;
use crate::error::{Error, Result};
use crate::fds::{FdTable, Lasts};
use crate::label::Label;
use crate::personality::Personality;
use crate::rlimit::Limited;
use crate::scheduling::Scheduling;
use crate::securebits::SecureBits;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) chosen: Chosen,
    pub(crate) privileges: Privileges,
    pub(crate) securebits: SecureBits,
    pub(crate) user_namespaces: UserNamespaces,
    pub(crate) oom_score_adj: Option<i16>,
    pub(crate) umask: Option<u32>,
    pub(crate) limits: Vec<Limited>,
    pub(crate) scheduling: Scheduling,
    pub(crate) personality: Option<Personality>,
    pub(crate) labels: Vec<Label>,
    #[cfg(feature = "landlock")]
    pub(crate) landlock: Option<crate::landlock::Landlock>,
}

/// Whether execve(2) can give privileges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Privileges {
    /// No: no_new_privs is set.
    #[default]
    NoneNew,
    /// Set-user-ID programs and files with capabilities do.
    New,
}

/// Whether the program can make user namespaces, as far as this crate has a say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum UserNamespaces {
    #[default]
    AsTheKernelHasIt,
    Denied,
}

impl Command {
    /// Lets set-user-ID programs and files with capabilities give the program privileges: no_new_privs, which is set otherwise,
    /// is not. Never more than the bounding set, but a caller without privileges cannot reduce that, so it is an error
    /// unless the set is [`Capabilities::ALL`](crate::Capabilities::ALL).
    #[doc(alias = "PR_SET_NO_NEW_PRIVS")]
    pub fn allow_new_privileges(mut self) -> Self {
        self.attributes.privileges = Privileges::New;
        self
    }

    /// Denies the program user namespaces, by 0 as its own one's `max_user_namespaces`: making one is `ENOSPC`.
    ///
    /// Only in a user namespace of its own, and only without `CAP_SYS_RESOURCE`, which could take it back: else
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput).
    #[doc(alias = "disable_userns")]
    pub fn deny_user_namespaces(mut self) -> Self {
        self.attributes.user_namespaces = UserNamespaces::Denied;
        self
    }

    /// How willingly the OOM killer takes it, from -1000, which is never, to 1000: instead of the caller's value. Less than
    /// the lowest that the caller may have needs `CAP_SYS_RESOURCE` in the initial user namespace, so it cannot be had in a user
    /// namespace of its own.
    pub fn oom_score_adj(mut self, value: i16) -> Self {
        self.attributes.oom_score_adj = Some(value);
        self
    }

    /// The file mode bits that it creates files without: 0o022 unless set.
    pub fn umask(mut self, mask: u32) -> Self {
        self.attributes.umask = Some(mask);
        self
    }
}

impl Attributes {
    pub(crate) fn validate(&self, command: &Command) -> Result<()> {
        self.chosen
            .validate(command.capabilities, self.privileges)?;
        self.validate_user_namespaces(command)?;
        if let Some(value) = self
            .oom_score_adj
            .filter(|value| !(-1000..=1000).contains(value))
        {
            let reason = "is not from -1000 to 1000";
            return Err(Error::invalid("oom_score_adj", value, reason));
        }
        if let Some(mask) = self.umask.filter(|mask| mask & !0o777 != 0) {
            let reason = "is not from 0 to 0o777";
            return Err(Error::invalid("umask", format!("{mask:#o}"), reason));
        }
        self.limits.iter().try_for_each(Limited::validate)?;
        self.labels.iter().try_for_each(Label::validate)?;
        #[cfg(feature = "landlock")]
        if let Some(landlock) = &self.landlock {
            landlock.validate()?;
        }
        self.scheduling.validate()
    }

    fn validate_user_namespaces(&self, command: &Command) -> Result<()> {
        if self.user_namespaces == UserNamespaces::AsTheKernelHasIt {
            return Ok(());
        }
        let refuse = |reason| Err(Error::invalid("user namespaces", "denied", reason));
        if !command.owns_user_namespace() {
            return refuse("needs a user namespace of its own");
        }
        if command
            .capabilities
            .contains(caps::Capability::CAP_SYS_RESOURCE)
        {
            return refuse("could be taken back with CAP_SYS_RESOURCE");
        }
        Ok(())
    }

    fn needs_proc(&self) -> bool {
        self.oom_score_adj.is_some()
            || !self.labels.is_empty()
            || self.user_namespaces == UserNamespaces::Denied
    }
}

/// What the caller opens and looks up for it.
#[derive(Debug)]
pub(crate) struct Held {
    proc: Option<OwnedFd>,
    nice: i32,
    open_files: (u64, u64),
    #[cfg(feature = "landlock")]
    landlock: Option<crate::landlock::Ready>,
}

/// The same, as the program finds it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// The root of the caller's procfs.
    pub(crate) proc: Option<i32>,
    /// The caller's nice value.
    pub(crate) nice: i32,
    /// The caller's soft and hard `RLIMIT_NOFILE`.
    pub(crate) open_files: (u64, u64),
    /// A ruleset without its paths, and what it enforces.
    #[cfg(feature = "landlock")]
    pub(crate) landlock: Option<(Option<i32>, crate::landlock::Enforced)>,
}

impl Held {
    pub(crate) fn prepare(attributes: &Attributes) -> Result<Self> {
        attributes.labels.iter().try_for_each(Label::check)?;
        if attributes.scheduling.cpus.is_some() {
            // Without sysfs the kernel decides alone.
            let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
            attributes.scheduling.check(&online)?;
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let number = |value: Option<u64>| value.unwrap_or(crate::Rlimit::INFINITY);
        Ok(Held {
            proc: attributes.needs_proc().then(open_proc).transpose()?,
            nice: rustix::process::getpriority_process(None).map_err(Error::sys("getpriority"))?,
            open_files: (number(limit.current), number(limit.maximum)),
            #[cfg(feature = "landlock")]
            landlock: attributes
                .landlock
                .as_ref()
                .map(crate::landlock::Landlock::prepare)
                .transpose()?,
        })
    }

    pub(crate) fn add_to(&self, fds: &mut FdTable) -> Found {
        Found {
            proc: self.proc.as_ref().map(|fd| fds.add(fd, Lasts::PastExec)),
            nice: self.nice,
            open_files: self.open_files,
            #[cfg(feature = "landlock")]
            landlock: self.landlock.as_ref().map(|ready| {
                let ruleset = ready.ruleset.as_ref();
                let number = ruleset.map(|fd| fds.add(fd, Lasts::PastExec));
                (number, ready.enforced)
            }),
        }
    }
}

/// The root of the caller's procfs: what is written through it goes to the kernel, whatever the child's root has at `/proc`.
fn open_proc() -> Result<OwnedFd> {
    let path = std::path::Path::new("/proc");
    let failed = Error::path("open", path);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || {
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let (filesystem, inode) = (
            rustix::fs::fstatfs(&fd)?.f_type,
            rustix::fs::fstat(&fd)?.st_ino,
        );
        // PROC_ROOT_INO: not a directory of procfs that stands there in its place.
        if filesystem != PROC_SUPER_MAGIC || inode != 1 {
            return Err(Errno::NODEV);
        }
        Ok(fd)
    };
    open().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::Capabilities;
    use crate::idmap::IdMap;

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |command: Command| command.validate().unwrap_err().to_string();
        let command = || Command::new("a");
        assert_eq!(
            refused(command().oom_score_adj(1001)),
            "oom_score_adj \"1001\": is not from -1000 to 1000"
        );
        assert_eq!(
            refused(command().umask(0o1777)),
            "umask \"0o1777\": is not from 0 to 0o777"
        );
        let denied = command().deny_user_namespaces();
        assert!(refused(denied.clone()).contains("of its own"));
        let denied = denied.id_map(IdMap::current_user());
        denied.validate().unwrap();
        assert!(refused(denied.capabilities(Capabilities::ALL)).contains("CAP_SYS_RESOURCE"));
    }

    #[test]
    fn proc_is_the_kernels() {
        open_proc().unwrap();
    }
}
