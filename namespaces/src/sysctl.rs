//! Kernel parameters of a program's own namespaces.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use libc::O_WRONLY;

use crate::command::Command;
use crate::compile::Compiler;
use crate::error::{Error, Result};
use crate::namespace::{Joined, Namespace};
use crate::program::{Arg, call};
use crate::sys;

/// Those of kernel.* that an IPC namespace has for itself.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// A kernel parameter and its value.
#[derive(Clone, Debug)]
pub(crate) struct Sysctl {
    name: String,
    value: String,
}

impl Command {
    /// Sets a kernel parameter of one of its own namespaces, as sysctl(8) names it: `net.ipv4.ip_unprivileged_port_start`.
    ///
    /// Only those that a namespace has for itself: `net.*`, of a network namespace that is its own or
    /// [joined](crate::Namespaces::join) but not the caller's; `fs.mqueue.*`, `kernel.shm*`, `kernel.msg*` and `kernel.sem` of
    /// an IPC namespace; `kernel.domainname` of a UTS namespace; `user.*` of a user namespace. They are written to a procfs
    /// that nobody else sees, before the program's is made read-only. A value is at most 4095 bytes.
    #[doc(alias = "/proc/sys")]
    pub fn sysctl(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        self.sysctls.retain(|other| other.name != name);
        self.sysctls.push(Sysctl { name, value });
        self
    }

    /// The NIS domain name in its UTS namespace, at most 64 bytes.
    #[doc(alias = "setdomainname")]
    pub fn domainname(mut self, name: impl Into<OsString>) -> Self {
        self.domainname = Some(name.into());
        self
    }
}

/// Refuses what is not of a namespace of its own.
pub(crate) fn validate(command: &Command) -> Result<()> {
    if let Some(name) = &command.domainname {
        let refuse = |reason| Err(Error::invalid("domainname", name, reason));
        if !command.namespaces.has(Namespace::Uts) {
            return refuse("needs a UTS namespace");
        }
        if name.len() > 64 || name.as_bytes().contains(&0) {
            return refuse("is longer than 64 bytes or has a NUL");
        }
    }
    command
        .sysctls
        .iter()
        .try_for_each(|sysctl| sysctl.validate(command))
}

/// Refuses to write to the caller's network namespace, should that be the one that is joined.
pub(crate) fn check_joined(command: &Command) -> Result<()> {
    let Some(sysctl) = command.sysctls.iter().find(|sysctl| sysctl.is_net()) else {
        return Ok(());
    };
    let path = "/proc/thread-self/ns/net";
    let own = rustix::fs::stat(path).map_err(Error::sys("stat of the network namespace"))?;
    let net = libc::CLONE_NEWNET;
    for joined in command.namespaces.joined() {
        if joined.flags & net != 0 && identity(joined)? == (own.st_dev, own.st_ino) {
            let reason = "would be set in the caller's own network namespace";
            return Err(Error::invalid("sysctl", &sysctl.name, reason));
        }
    }
    Ok(())
}

/// Of the network namespace behind an fd, or of the one that the process behind a pidfd is in.
fn identity(joined: &Joined) -> Result<(u64, u64)> {
    const STEP: &str = "stat of a network namespace that is joined";
    let fd = joined.fd.as_fd();
    let stat = match sys::pid_of(fd) {
        Ok(pid) => {
            let stat = rustix::fs::stat(format!("/proc/{pid}/ns/net"));
            // Still there: the number has meant it all the time.
            sys::pid_of(fd)?;
            stat
        }
        Err(_) => rustix::fs::fstat(fd),
    };
    stat.map(|stat| (stat.st_dev, stat.st_ino))
        .map_err(Error::sys(STEP))
}

impl Sysctl {
    fn is_net(&self) -> bool {
        self.name.starts_with("net.")
    }

    fn validate(&self, command: &Command) -> Result<()> {
        let refuse = |reason| Err(Error::invalid("sysctl", &self.name, reason));
        if self.name.split('.').any(str::is_empty) || self.name.contains(['/', '\0']) {
            return refuse("is no name of one");
        }
        if self.value.contains('\0') || self.value.is_empty() || self.value.len() > 4095 {
            return refuse("has a value that is empty, too long or has a NUL");
        }
        let owns = |namespace| command.namespaces.has(namespace);
        let name = self.name.as_str();
        let (own, reason) = if self.is_net() {
            (
                command.namespaces.differs(Namespace::Net),
                "needs a network namespace",
            )
        } else if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
            (owns(Namespace::Ipc), "needs an IPC namespace")
        } else if name == "kernel.domainname" {
            (owns(Namespace::Uts), "needs a UTS namespace")
        } else if name.starts_with("user.") {
            (command.owns_user_namespace(), "needs a user namespace")
        } else {
            (false, "is the whole machine's")
        };
        if own { Ok(()) } else { refuse(reason) }
    }

    /// Its path in a procfs.
    fn path(&self) -> String {
        format!("sys/{}", self.name.replace('.', "/"))
    }
}

impl Compiler<'_> {
    /// Writes them to `proc`, which is not attached anywhere: nothing of the root can be in the way (CVE-2025-52881).
    pub(crate) fn sysctls(&mut self, proc: Option<Arg>) {
        let command = self.command;
        if command.sysctls.is_empty() {
            return;
        }
        let proc = proc.unwrap_or_else(|| self.private_proc());
        for sysctl in &command.sysctls {
            let step = format!("set the sysctl {}", sysctl.name);
            let [path, how] = self.how(OsStr::new(&sysctl.path()), O_WRONLY, IN_THIS_MOUNT);
            let args = [proc, path, how, Arg::Int(24)];
            let file = self
                .program
                .op(call!(SYS_openat2), args, step.clone())
                .keep();
            self.write(file, sysctl.value.as_bytes(), &step);
            self.close(file);
        }
    }

    pub(crate) fn set_domainname(&mut self) {
        let Some(name) = &self.command.domainname else {
            return;
        };
        let text = self.program.string(name.as_bytes());
        let args = [text, Arg::Int(name.len() as u64)];
        self.program
            .op(call!(SYS_setdomainname), args, "set the domain name");
    }
}

/// `RESOLVE_NO_XDEV`, `NO_MAGICLINKS`, `NO_SYMLINKS` and `BENEATH`.
const IN_THIS_MOUNT: u64 = 0x1 | 0x2 | 0x4 | 0x8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idmap::IdMap;
    use crate::namespace::Namespaces;

    fn check(name: &str, value: &str, namespaces: Namespaces) -> Result<()> {
        let command = Command::new("a").namespaces(namespaces);
        command.sysctl(name, value).validate()
    }

    #[test]
    fn only_those_of_a_namespace_can_be_set() {
        for name in [
            "net.ipv4.ip_forward",
            "kernel.shmmax",
            "kernel.sem",
            "fs.mqueue.msg_max",
            "kernel.domainname",
        ] {
            check(name, "1", Namespaces::default()).expect(name);
            check(name, "1", Namespaces::none()).expect_err(name);
        }
        for name in [
            "kernel.core_pattern",
            "kernel.hostname",
            "kernel.shm_next_id",
            "vm.swappiness",
            "user.max_user_namespaces",
            "network.x",
            "fs.mqueue",
            "",
            "net",
            "net.",
            ".net",
            "net..x",
            "net.../x",
            "net.ipv4/../../kernel.x",
            "net.a\0b",
        ] {
            check(name, "1", Namespaces::default()).expect_err(name);
        }
        let command = Command::new("a").id_map(IdMap::range(0, 1));
        let command = command.sysctl("user.max_user_namespaces", "0");
        command.validate().expect("its own user namespace");
    }

    #[test]
    fn values_and_domain_names_fit() {
        for value in ["", "a\0b", &"x".repeat(4096)] {
            check("kernel.sem", value, Namespaces::default()).expect_err(value);
        }
        let named = |name: &str| Command::new("a").domainname(name);
        named("example").validate().expect("allowed");
        named("a\0b").validate().expect_err("a NUL");
        named(&"x".repeat(65)).validate().expect_err("too long");
        let shared = named("example").namespaces(Namespaces::none());
        shared.validate().expect_err("the host's");
    }
}
