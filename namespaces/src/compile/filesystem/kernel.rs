//! Filesystems of the kernel's.

use super::{Compiler, Standard};
use crate::mount::{Access, Attributes, Kernel, Mount, NODEV, NOEXEC, NOSUID, RDONLY, RootFs};
use crate::program::{Arg, call};
use crate::sources::Devices;

/// A filesystem of the kernel's.
pub(super) struct Filesystem<'f> {
    pub(super) name: &'static str,
    pub(super) target: &'f str,
    pub(super) options: &'f [(&'static str, String)],
    pub(super) attributes: Attributes,
}

impl Compiler<'_> {
    pub(super) fn standard(&mut self, root: &RootFs) -> Standard {
        let proc = root.proc.as_ref().map(|proc| {
            self.fsmount(&Filesystem {
                name: "proc",
                target: "/proc",
                options: &proc.options(),
                attributes: Attributes::of(NOSUID | NODEV | NOEXEC),
            })
        });
        let hosts = self.take_sys();
        let sys = hosts.or_else(|| root.sys.map(|access| self.sysfs(access)));
        let dev = root.dev.map(|_| {
            let options = [("mode", "755".to_owned()), ("size", "65536k".to_owned())];
            self.fsmount(&Filesystem {
                name: "tmpfs",
                target: "/dev",
                options: &options,
                attributes: Attributes::of(NOSUID),
            })
        });
        Standard { proc, sys, dev }
    }

    fn sysfs(&mut self, access: Access) -> Arg {
        let attributes = Attributes::of(NOSUID | NODEV | NOEXEC);
        let attributes = match access {
            Access::ReadWrite => attributes,
            Access::ReadOnly => attributes.with(RDONLY),
        };
        self.fsmount(&Filesystem {
            name: "sysfs",
            target: "/sys",
            options: &[],
            attributes,
        })
    }

    /// One that was asked for.
    pub(super) fn kernel(&mut self, kernel: Kernel, mount: &Mount) -> Arg {
        let options = match kernel {
            Kernel::Devpts => self.devpts_options(),
            Kernel::Cgroup2 | Kernel::Mqueue => Vec::new(),
        };
        let options: Vec<_> = options
            .into_iter()
            .map(|(key, value)| (key, value.to_owned()))
            .collect();
        self.fsmount(&Filesystem {
            name: kernel.name(),
            target: &mount.target.to_string_lossy(),
            options: &options,
            attributes: mount.attributes,
        })
    }

    /// Group 5 is tty; a user namespace may not know it.
    pub(super) fn devpts_options(&self) -> Vec<(&'static str, &'static str)> {
        let mut options = vec![("ptmxmode", "0666"), ("mode", "0620")];
        if self.prepared.devices == Devices::Mknod {
            options.push(("gid", "5"));
        }
        options
    }

    /// A detached mount of a new instance.
    pub(super) fn fsmount(&mut self, filesystem: &Filesystem<'_>) -> Arg {
        const FSCONFIG_SET_STRING: u64 = 1;
        const FSCONFIG_CMD_CREATE: u64 = 6;
        let step = format!("make a {} for {}", filesystem.name, filesystem.target);
        let name = self.program.string(filesystem.name);
        let one = Arg::Int(1); // FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC
        let context = self
            .program
            .op(call!(SYS_fsopen), [name, one], step.clone())
            .keep();
        for (key, value) in filesystem.options {
            let (key, value) = (self.program.string(key), self.program.string(value));
            let args = [
                context,
                Arg::Int(FSCONFIG_SET_STRING),
                key,
                value,
                Arg::Int(0),
            ];
            self.program.op(call!(SYS_fsconfig), args, step.clone());
        }
        let args = [
            context,
            Arg::Int(FSCONFIG_CMD_CREATE),
            Arg::NULL,
            Arg::NULL,
            Arg::Int(0),
        ];
        self.program.op(call!(SYS_fsconfig), args, step.clone());
        let args = [context, one, Arg::Int(filesystem.attributes.to_set())];
        let mount = self.program.op(call!(SYS_fsmount), args, step).keep();
        self.close(context);
        mount
    }

    /// A procfs that nobody else sees.
    pub(crate) fn private_proc(&mut self) -> Arg {
        self.fsmount(&Filesystem {
            name: "proc",
            target: "sysctls",
            options: &[],
            attributes: Attributes::of(NOSUID | NODEV | NOEXEC),
        })
    }
}
