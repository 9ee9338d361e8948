//! What a security module confines the program by, from its execve(2) on.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::command::Command;
use crate::error::{Error, Result};

/// A label of SELinux or a profile of AppArmor.
#[derive(Clone, Debug)]
pub(crate) struct Label {
    pub(crate) module: Module,
    pub(crate) name: OsString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Module {
    Selinux,
    AppArmor,
}

impl Label {
    /// Where it is written to, in procfs.
    pub(crate) fn file(&self) -> &'static str {
        match self.module {
            Module::Selinux => "thread-self/attr/exec",
            Module::AppArmor => "thread-self/attr/apparmor/exec",
        }
    }

    /// What is written there.
    pub(crate) fn text(&self) -> Vec<u8> {
        let name = self.name.as_bytes();
        match self.module {
            Module::Selinux => name.to_vec(),
            Module::AppArmor => [b"exec ", name].concat(),
        }
    }

    pub(crate) fn item(&self) -> &'static str {
        match self.module {
            Module::Selinux => "SELinux label",
            Module::AppArmor => "AppArmor profile",
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let name = self.name.as_bytes();
        if name.is_empty() || name.iter().any(u8::is_ascii_control) {
            let reason = "is empty or has a control character in it";
            return Err(Error::invalid(self.item(), &self.name, reason));
        }
        // A page is all that procfs takes.
        if name.len() > 4000 {
            let reason = "is longer than 4000 bytes";
            return Err(Error::invalid(self.item(), &self.name, reason));
        }
        Ok(())
    }

    /// Whether the module is there and switched on.
    pub(crate) fn check(&self) -> Result<()> {
        match self.module {
            Module::Selinux if !selinux_enabled() => Err(Error::unsupported(
                "an SELinux label",
                "SELinux is not enabled in this kernel",
            )),
            Module::AppArmor if !apparmor_enabled() => Err(Error::unsupported(
                "an AppArmor profile",
                "AppArmor is not enabled in this kernel",
            )),
            _ => Ok(()),
        }
    }
}

/// The kernel registers selinuxfs only where SELinux is enabled.
fn selinux_enabled() -> bool {
    fs::read_to_string("/proc/filesystems")
        .is_ok_and(|list| list.split_whitespace().any(|word| word == "selinuxfs"))
}

/// A kernel without it has no such file, and one in which it is switched off has nothing to say there.
fn apparmor_enabled() -> bool {
    fs::read("/proc/thread-self/attr/apparmor/current").is_ok()
}

impl Command {
    /// The SELinux label it has from its execve(2) on, as `system_u:system_r:container_t:s0:c1,c2`. Without SELinux that is
    /// [`Unsupported`](crate::ErrorKind::Unsupported); a label that the policy does not know or allow is an error that names it.
    ///
    /// It is written through a procfs of the host's, where nothing of the root can stand in for it (CVE-2019-16884,
    /// CVE-2025-52881).
    #[doc(alias = "setexeccon")]
    pub fn selinux_label(self, label: impl AsRef<OsStr>) -> Self {
        self.label(Module::Selinux, label.as_ref())
    }

    /// The AppArmor profile it has from its execve(2) on. Without AppArmor that is
    /// [`Unsupported`](crate::ErrorKind::Unsupported); a profile that is not loaded is an error that names it.
    ///
    /// Written as [`selinux_label`](Self::selinux_label) is.
    #[doc(alias = "aa_change_onexec")]
    pub fn apparmor_profile(self, profile: impl AsRef<OsStr>) -> Self {
        self.label(Module::AppArmor, profile.as_ref())
    }

    fn label(mut self, module: Module, name: &OsStr) -> Self {
        let labels = &mut self.attributes.labels;
        labels.retain(|label| label.module != module);
        let name = name.to_owned();
        labels.push(Label { module, name });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_one_line() {
        for bad in ["", "a\0b", "a\nexec b"] {
            let error = Command::new("a")
                .apparmor_profile(bad)
                .validate()
                .unwrap_err();
            assert!(error.to_string().starts_with("AppArmor profile"), "{error}");
        }
        let command = Command::new("a").selinux_label("a").selinux_label("b");
        assert_eq!(command.attributes.labels.len(), 1);
        assert_eq!(command.attributes.labels[0].text(), b"b");
        let command = command.apparmor_profile("unconfined");
        assert_eq!(command.attributes.labels[1].text(), b"exec unconfined");
    }
}
