//! Restrictions that the program cannot take off: landlock(7).

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

pub use landlock::{ABI as LandlockAbi, AccessFs, AccessNet, BitFlags, Scope};
use landlock::{
    Access, CompatLevel, Compatible, NetPort, Ruleset, RulesetAttr, RulesetCreatedAttr,
};
use rustix::io::Errno;

use crate::command::Command;
use crate::error::{Error, Result};
use crate::sys;

/// Rights on files, ports and other processes that the program keeps: of what is *handled* all is denied but what is *allowed*.
/// A plain value, enforced by [`Command::landlock`].
///
/// ```
/// use cofferdam_namespaces::{AccessFs, AccessNet, BitFlags, Command, Landlock, LandlockAbi};
///
/// let read = AccessFs::from_read(LandlockAbi::V1);
/// let write = AccessFs::from_write(LandlockAbi::V1);
/// let command = Command::new("/bin/server").landlock(
///     Landlock::new()
///         .handle(read | write)
///         .allow("/", read) // the program itself is read and executed too
///         .allow("/tmp", read | write)
///         .handle_net(AccessNet::BindTcp)
///         .allow_bind(8080),
/// );
/// command.validate()?;
/// # Ok::<(), cofferdam_namespaces::Error>(())
/// ```
///
/// What the kernel does not know of it is [`Unsupported`](crate::ErrorKind::Unsupported), by name, unless
/// [`best_effort`](Self::best_effort) is asked for.
#[derive(Clone, Debug, Default)]
#[must_use = "a Landlock does nothing until a Command has it"]
pub struct Landlock {
    fs: BitFlags<AccessFs>,
    net: BitFlags<AccessNet>,
    scope: BitFlags<Scope>,
    paths: Vec<(PathBuf, BitFlags<AccessFs>)>,
    ports: Vec<(u16, AccessNet)>,
    effort: Effort,
}

/// What to do without a right that the kernel does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Effort {
    #[default]
    All,
    Best,
}

/// What the kernel denies, but for what is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enforced {
    /// The version of Landlock that the kernel has, 0 for none.
    pub abi: i32,
    /// Rights on files.
    pub fs: BitFlags<AccessFs>,
    /// Rights on ports.
    pub net: BitFlags<AccessNet>,
    /// Processes outside.
    pub scope: BitFlags<Scope>,
}

impl Enforced {
    /// Whether nothing is denied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fs.is_empty() && self.net.is_empty() && self.scope.is_empty()
    }
}

impl Landlock {
    /// Handles nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Denies these rights on all files but those that are allowed.
    #[doc(alias = "handled_access_fs")]
    pub fn handle(mut self, rights: impl Into<BitFlags<AccessFs>>) -> Self {
        self.fs |= rights.into();
        self
    }

    /// Denies these rights on all ports but those that are allowed. Since Linux 6.7.
    #[doc(alias = "handled_access_net")]
    pub fn handle_net(mut self, rights: impl Into<BitFlags<AccessNet>>) -> Self {
        self.net |= rights.into();
        self
    }

    /// Denies signals to processes outside, or their abstract unix sockets. Since Linux 6.12.
    #[doc(alias = "scoped")]
    pub fn scope(mut self, scope: impl Into<BitFlags<Scope>>) -> Self {
        self.scope |= scope.into();
        self
    }

    /// Allows handled rights on what is at `path` and beneath, as it is inside when the program starts. It has to be there.
    /// Of a file the rights that only directories have are left out.
    #[doc(alias = "LANDLOCK_RULE_PATH_BENEATH")]
    pub fn allow(
        mut self,
        path: impl Into<PathBuf>,
        rights: impl Into<BitFlags<AccessFs>>,
    ) -> Self {
        self.paths.push((path.into(), rights.into()));
        self
    }

    /// Allows it to bind TCP sockets to this port, where that is handled. 0 is a port that the kernel picks.
    #[doc(alias = "LANDLOCK_RULE_NET_PORT")]
    pub fn allow_bind(mut self, port: u16) -> Self {
        self.ports.push((port, AccessNet::BindTcp));
        self
    }

    /// Allows it to connect TCP sockets to this port, where that is handled.
    pub fn allow_connect(mut self, port: u16) -> Self {
        self.ports.push((port, AccessNet::ConnectTcp));
        self
    }

    /// Leaves out what the kernel does not know, down to all of it.
    pub fn best_effort(mut self) -> Self {
        self.effort = Effort::Best;
        self
    }

    /// What a kernel with this version of Landlock would enforce.
    #[must_use]
    pub fn enforced_by(&self, abi: LandlockAbi) -> Enforced {
        Enforced {
            abi: abi as i32,
            fs: self.fs & AccessFs::from_all(abi),
            net: self.net & AccessNet::from_all(abi),
            scope: self.scope & Scope::from_all(abi),
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.fs.is_empty() && self.net.is_empty() && self.scope.is_empty() {
            return Err(Error::invalid("landlock", "", "handles nothing"));
        }
        for (path, rights) in &self.paths {
            let refuse = |reason| Err(Error::invalid("landlock path", path, reason));
            if !path.is_absolute() {
                return refuse("is not absolute");
            }
            if path.as_os_str().as_bytes().contains(&0) {
                return refuse("has a NUL byte in it");
            }
            if path.components().any(|one| one == Component::ParentDir) {
                return refuse("has a .. in it");
            }
            if rights.is_empty() {
                return refuse("is allowed nothing");
            }
            if !self.fs.contains(*rights) {
                return refuse("is allowed what is not handled");
            }
        }
        match self
            .ports
            .iter()
            .find(|(_, right)| !self.net.contains(*right))
        {
            Some((port, right)) => {
                let value = format!("{right:?} {port}");
                Err(Error::invalid(
                    "landlock port",
                    value,
                    "is allowed what is not handled",
                ))
            }
            None => Ok(()),
        }
    }

    /// Paths with the rights that this kernel knows of them: for anything, and for what is no directory.
    pub(crate) fn rules(&self, enforced: &Enforced) -> impl Iterator<Item = (&Path, [u64; 2])> {
        let file = AccessFs::from_file(LandlockAbi::V9);
        let known = enforced.fs;
        self.paths.iter().map(move |(path, rights)| {
            let rights = *rights & known;
            (path.as_path(), [rights.bits(), (rights & file).bits()])
        })
    }

    /// Makes the ruleset, with its ports.
    pub(crate) fn prepare(&self) -> Result<Ready> {
        let version = match sys::landlock_abi() {
            Ok(version) => version,
            Err(Errno::NOSYS | Errno::OPNOTSUPP) => 0,
            Err(errno) => return Err(Error::sys("landlock_create_ruleset")(errno)),
        };
        let mut enforced = self.enforced_by(LandlockAbi::from(version));
        enforced.abi = version;
        self.check(&enforced)?;
        let ruleset = self.create(&enforced)?;
        Ok(Ready { ruleset, enforced })
    }

    /// Fails with the names of what the kernel does not know.
    fn check(&self, enforced: &Enforced) -> Result<()> {
        if self.effort == Effort::Best {
            return Ok(());
        }
        let fs = (self.fs & !enforced.fs)
            .iter()
            .map(|one| format!("{one:?}"));
        let net = (self.net & !enforced.net).iter();
        let scope = (self.scope & !enforced.scope).iter();
        let others = net.map(|one| format!("{one:?}"));
        let others = others.chain(scope.map(|one| format!("{one:?}")));
        let missing: Vec<_> = fs.chain(others).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let feature = format!("landlock of {}", missing.join(", "));
        let hint = match enforced.abi {
            0 => "Landlock is not enabled in this kernel (`lsm=landlock,...`, Linux 5.13)",
            _ => "this kernel's Landlock is too old",
        };
        Err(Error::unsupported(feature, hint))
    }

    fn create(&self, enforced: &Enforced) -> Result<Option<OwnedFd>> {
        if enforced.is_empty() {
            return Ok(None);
        }
        let make = || {
            // Only what the kernel is known to have is asked for, and then it is asked for in earnest.
            let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
            if !enforced.fs.is_empty() {
                ruleset = ruleset.handle_access(enforced.fs)?;
            }
            if !enforced.net.is_empty() {
                ruleset = ruleset.handle_access(enforced.net)?;
            }
            if !enforced.scope.is_empty() {
                ruleset = ruleset.scope(enforced.scope)?;
            }
            let mut created = ruleset.create()?;
            for &(port, right) in &self.ports {
                if enforced.net.contains(right) {
                    created = created.add_rule(NetPort::new(port, right))?;
                }
            }
            Ok(created)
        };
        let created = make().map_err(|error: landlock::RulesetError| {
            let errno = errno_of(&error).unwrap_or(libc::EIO);
            Error::sys("make the landlock ruleset")(Errno::from_raw_os_error(errno))
        })?;
        let fd: Option<OwnedFd> = created.into();
        // Without an fd nothing would be enforced.
        fd.map(Some)
            .ok_or_else(|| Error::sys("make the landlock ruleset")(Errno::NOSYS))
    }
}

/// The errno at the end of a chain of errors.
fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.raw_os_error();
        }
        next = error.source();
    }
    None
}

/// A ruleset that waits for its paths, and what it will enforce.
#[derive(Debug)]
pub(crate) struct Ready {
    /// `None`: the kernel can enforce nothing of it, and that is enough.
    pub(crate) ruleset: Option<OwnedFd>,
    pub(crate) enforced: Enforced,
}

impl Command {
    /// Restricts the program by landlock_restrict_self(2), for ever and with all that it makes.
    #[cfg_attr(docsrs, doc(cfg(feature = "landlock")))]
    pub fn landlock(mut self, landlock: Landlock) -> Self {
        self.attributes.landlock = Some(landlock);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(landlock: Landlock) -> String {
        let command = Command::new("a").landlock(landlock);
        command.validate().unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let read = || Landlock::new().handle(AccessFs::ReadFile);
        assert_eq!(refused(Landlock::new()), "landlock \"\": handles nothing");
        for path in ["tmp", "/a/../b", "/a\0b"] {
            assert!(refused(read().allow(path, AccessFs::ReadFile)).contains("landlock path"));
        }
        assert!(refused(read().allow("/", BitFlags::EMPTY)).contains("nothing"));
        assert!(refused(read().allow("/", AccessFs::WriteFile)).contains("not handled"));
        assert_eq!(
            refused(read().allow_bind(80)),
            "landlock port \"BindTcp 80\": is allowed what is not handled"
        );
    }

    #[test]
    fn what_an_old_kernel_lacks_is_named() {
        let landlock = Landlock::new()
            .handle(AccessFs::ReadFile | AccessFs::Truncate)
            .handle_net(AccessNet::BindTcp)
            .scope(Scope::Signal);
        let enforced = landlock.enforced_by(LandlockAbi::V2);
        assert_eq!(enforced.fs, AccessFs::ReadFile);
        let error = landlock.check(&enforced).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
        assert_eq!(
            error.to_string(),
            "landlock of Truncate, BindTcp, Signal is not supported: this kernel's Landlock is too old"
        );
        let none = landlock.enforced_by(LandlockAbi::Unsupported);
        assert!(none.is_empty());
        let error = landlock.check(&none).unwrap_err();
        assert!(error.to_string().contains("lsm=landlock"), "{error}");
        landlock.best_effort().check(&none).unwrap();
    }

    #[test]
    fn a_file_is_allowed_only_what_files_have() {
        let rights = AccessFs::from_all(LandlockAbi::V3);
        let landlock = Landlock::new().handle(rights).allow("/a", rights);
        let enforced = landlock.enforced_by(LandlockAbi::V2);
        let rules: Vec<_> = landlock.rules(&enforced).collect();
        let all = AccessFs::from_all(LandlockAbi::V2).bits();
        let file = AccessFs::Execute | AccessFs::WriteFile | AccessFs::ReadFile;
        assert_eq!(rules, [(Path::new("/a"), [all, file.bits()])]);
    }
}
