//! `/dev`.

use super::{Compiler, F_EMPTY};
use crate::mount::STANDARD;
use crate::namespace::Namespace;
use crate::program::{Arg, call};

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

impl Compiler<'_> {
    pub(super) fn fill_dev(&mut self, dev: Arg, hosts: &[Arg], shm_size: u64) {
        for (index, (name, device)) in STANDARD.into_iter().enumerate() {
            let step = format!("make /dev/{name}");
            let text = self.program.string(name);
            let (kind, number) = match hosts.get(index) {
                None => (device.type_bits(), device.number()),
                Some(_) => (libc::S_IFREG, 0),
            };
            let args = [dev, text, Arg::Int((kind | 0o666).into()), Arg::Int(number)];
            self.program.op(call!(SYS_mknodat), args, step.clone());
            if let Some(&node) = hosts.get(index) {
                let empty = self.program.string("");
                let args = [node, empty, dev, text, Arg::flags(F_EMPTY)];
                self.program.op(call!(SYS_move_mount), args, step);
            }
        }
        for (name, target) in LINKS {
            let (target, link) = (self.program.string(target), self.program.string(name));
            let args = [target, dev, link];
            self.program
                .op(call!(SYS_symlinkat), args, format!("make /dev/{name}"));
        }
        self.device_filesystems(dev, shm_size);
    }

    /// Mounted on directories of the tmpfs just made, where nothing of the root can be in the way.
    fn device_filesystems(&mut self, dev: Arg, shm_size: u64) {
        let pts = self.devpts_options();
        let pts = pts.iter().map(|(key, value)| format!(",{key}={value}"));
        let pts = format!("newinstance{}", pts.collect::<String>());
        let shm = format!("mode=1777,size={shm_size}");
        let (nodev, noexec) = (libc::MS_NODEV, libc::MS_NOEXEC);
        let rows = [
            ("pts", "devpts", noexec, pts.as_str()),
            ("shm", "tmpfs", noexec | nodev, &shm),
            ("mqueue", "mqueue", noexec | nodev, ""),
        ];
        self.program.op(call!(SYS_fchdir), [dev], "enter /dev");
        let owns_ipc = self.command.namespaces.has(Namespace::Ipc);
        for (name, filesystem, flags, data) in rows {
            if name == "mqueue" && !owns_ipc {
                continue;
            }
            let step = format!("mount {filesystem} on /dev/{name}");
            let target = self.program.string(name);
            let args = [dev, target, Arg::Int(0o755)];
            self.program.op(call!(SYS_mkdirat), args, step.clone());
            self.classic_mount(target, filesystem, libc::MS_NOSUID | flags, data, step);
        }
    }
}
