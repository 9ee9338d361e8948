//! From a [`Command`] to the [`Program`] that sets it up, in the order in which the kernel wants it.

mod filesystem;

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::command::Command;
use crate::namespace::Namespace;
use crate::program::{Arg, Program, Word, call};

use libc::{EACCES, EINVAL, ENOENT, ENOTDIR};

/// What the program finds ready when it starts, by fd number in the child.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    /// The root, where there is one.
    pub(crate) root: Option<Tree>,
    /// One for each bind mount, in order.
    pub(crate) binds: Vec<Bind>,
    /// Open `cgroup.procs`.
    pub(crate) procs: Vec<i32>,
    /// The network namespace to join.
    pub(crate) net: Option<i32>,
    /// Where failures are written.
    pub(crate) error_fd: i32,
    /// How `/dev` gets its devices.
    pub(crate) devices: Devices,
    /// The capabilities the program can make use of while it sets up.
    pub(crate) permitted: u64,
    /// The signals the caller ignores, the first in bit 0.
    pub(crate) ignored_signals: u64,
    /// Whether setgroups(2) is denied, for ever, in the user namespace it runs in: its groups stay the caller's.
    pub(crate) setgroups_denied: bool,
}

/// A tree of mounts to be attached.
#[derive(Clone, Debug)]
pub(crate) enum Tree<F = i32> {
    /// A detached mount, ready to be moved.
    Detached(F),
    /// A path of the host that only the child has the right to clone.
    Path(PathBuf),
}

/// A bind mount's tree and kind of target.
#[derive(Clone, Debug)]
pub(crate) struct Bind {
    pub(crate) tree: Tree,
    pub(crate) kind: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    File,
    Directory,
}

/// How `/dev` gets its devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Devices {
    /// mknod(2), which only the initial user namespace allows.
    #[default]
    Mknod,
    /// Bind mounts of the host's.
    Bind,
}

/// The whole of the second stage.
pub(crate) fn compile(command: &Command, prepared: &Prepared) -> Program {
    let mut compiler = Compiler {
        program: Program::default(),
        command,
        prepared,
    };
    compiler.protect();
    compiler.join();
    if let Some(root) = &prepared.root {
        compiler.filesystem(root);
    } else if command.namespaces.has(Namespace::Mount) {
        compiler.make_private("/");
    }
    compiler.set_hostname();
    compiler.identity();
    compiler.exec();
    compiler.program
}

/// What an op is for.
type Step = Cow<'static, str>;

struct Compiler<'c> {
    program: Program,
    command: &'c Command,
    prepared: &'c Prepared,
}

impl Compiler<'_> {
    /// Nobody in a namespace that is joined can look into this process from now on.
    fn protect(&mut self) {
        self.prctl(libc::PR_SET_DUMPABLE, &[0], "clear the dumpable flag");
        self.program.op(call!(SYS_umask), [Arg::Int(0)], "umask 0");
    }

    fn join(&mut self) {
        if self.command.owns_user_namespace() {
            self.become_root();
        }
        for &fd in &self.prepared.procs {
            let zero = self.program.string("0");
            let args = [Arg::fd(fd), zero, Arg::Int(1)];
            self.program
                .op(call!(SYS_write), args, "enter the cgroup")
                .at_least(1);
        }
        if self.command.namespaces.has(Namespace::Cgroup) {
            let flag = Arg::flags(libc::CLONE_NEWCGROUP);
            self.program
                .op(call!(SYS_unshare), [flag], "unshare the cgroup namespace");
        }
        if let Some(fd) = self.prepared.net {
            let args = [Arg::fd(fd), Arg::flags(libc::CLONE_NEWNET)];
            self.program
                .op(call!(SYS_setns), args, "join the network namespace");
        }
        if self.command.namespaces.has(Namespace::Net) {
            self.loopback_up();
        }
        self.program.op(call!(SYS_setsid), [], "start a session");
    }

    fn loopback_up(&mut self) {
        let step = "set the loopback up";
        let kind = Arg::flags(libc::SOCK_DGRAM | libc::SOCK_CLOEXEC);
        let args = [Arg::flags(libc::AF_INET), kind, Arg::Int(0)];
        let socket = self.program.op(call!(SYS_socket), args, step).keep();
        // A struct ifreq: 16 bytes of name, then the flags.
        let name = u64::from_ne_bytes(*b"lo\0\0\0\0\0\0");
        let flags = u64::from((libc::IFF_UP | libc::IFF_RUNNING).unsigned_abs());
        let request = self.program.words(&[name, 0, flags, 0, 0].map(Word::Int));
        let args = [socket, Arg::Int(libc::SIOCSIFFLAGS), request];
        self.program.op(call!(SYS_ioctl), args, step);
    }

    fn set_hostname(&mut self) {
        let Some(name) = &self.command.hostname else {
            return;
        };
        let text = self.program.string(name.as_bytes());
        let args = [text, Arg::Int(name.len() as u64)];
        self.program
            .op(call!(SYS_sethostname), args, "set the host name");
    }

    /// Stage one kept all capabilities over its execveat(2) as ambient ones.
    fn become_root(&mut self) {
        let zero = Arg::Int(0);
        if !self.prepared.setgroups_denied {
            self.program
                .op(call!(SYS_setgroups), [zero, Arg::NULL], "drop groups");
        }
        let step = "become root of the user namespace";
        self.program.op(call!(SYS_setresgid), [zero; 3], step);
        self.program.op(call!(SYS_setresuid), [zero; 3], step);
        self.prctl(libc::PR_CAP_AMBIENT, &[4], "clear ambient capabilities");
        self.prctl(libc::PR_SET_DUMPABLE, &[0], "clear the dumpable flag");
    }

    /// no_new_privs, the bounding set, ids, and no capability but what execve(2) gives root of the bounding set.
    fn identity(&mut self) {
        self.prctl(libc::PR_SET_NO_NEW_PRIVS, &[1], "set no_new_privs");
        // Without a capability to begin with there is none to drop, and no_new_privs keeps it so.
        let privileged = self.prepared.permitted != 0;
        if privileged {
            self.drop_bounding_set();
        }
        if privileged && !self.prepared.setgroups_denied {
            let args = [Arg::Int(0), Arg::NULL];
            self.program.op(call!(SYS_setgroups), args, "drop groups");
        }
        if let Some((uid, gid)) = self.command.user {
            let step = format!("become user {uid}:{gid}");
            let (uid, gid) = (Arg::Int(uid.into()), Arg::Int(gid.into()));
            self.program
                .op(call!(SYS_setresgid), [gid; 3], step.clone());
            self.program.op(call!(SYS_setresuid), [uid; 3], step);
        }
        if privileged {
            self.set_capabilities();
        }
    }

    fn drop_bounding_set(&mut self) {
        let allowed = self.command.capabilities.bits();
        // Unknown ones are EINVAL: what a future kernel knows is dropped as well.
        for capability in (0..64).filter(|capability| allowed & (1 << capability) == 0) {
            let call = [Arg::flags(libc::PR_CAPBSET_DROP), Arg::Int(capability)];
            let step = format!("drop capability {capability} from the bounding set");
            self.program
                .op(call!(SYS_prctl), call, step)
                .tolerate(&[EINVAL]);
        }
    }

    /// Effective and permitted are what the bounding set leaves, which execve(2) needs under no_new_privs; inheritable is
    /// empty (CVE-2022-24769).
    fn set_capabilities(&mut self) {
        let root = self.command.user.is_none_or(|(uid, _)| uid == 0);
        let kept = if root {
            self.command.capabilities.bits() & self.prepared.permitted
        } else {
            0
        };
        let (low, high) = (kept & 0xffff_ffff, kept >> 32);
        // A __user_cap_header_struct of version 3 for this thread, and two __user_cap_data_structs of three u32 each.
        let header = self.program.words(&[Word::Int(0x2008_0522)]);
        let data = [low | low << 32, high << 32, high].map(Word::Int);
        let data = self.program.words(&data);
        self.program
            .op(call!(SYS_capset), [header, data], "set capabilities");
    }

    fn exec(&mut self) {
        self.program
            .op(call!(SYS_umask), [Arg::Int(0o022)], "umask 022");
        self.enter_workdir();
        self.signals();
        let args = [Arg::Int(3), Arg::Int(u32::MAX.into()), Arg::Int(4)];
        self.program
            .op(call!(SYS_close_range), args, "close fds at exec");
        let strings = [self.command.program.as_os_str()].into_iter();
        let strings = strings.chain(self.command.args.iter().map(OsString::as_os_str));
        let argv: Vec<_> = strings.map(OsStrExt::as_bytes).collect();
        let argv = self.program.string_array(argv);
        let env: Vec<_> = self
            .command
            .env
            .iter()
            .map(|(n, v)| variable(n, v))
            .collect();
        let envp = self.program.string_array(env.iter().map(Vec::as_slice));
        self.say_ready();
        let candidates = self.candidates();
        for (index, path) in candidates.iter().enumerate() {
            let text = self.program.string(path.as_os_str().as_bytes());
            let step = format!("execve {}", self.command.name().display());
            let op = self.program.op(call!(SYS_execve), [text, argv, envp], step);
            if index + 1 < candidates.len() {
                op.tolerate(&[ENOENT, EACCES, ENOTDIR]);
            }
        }
    }

    /// Eight zero bytes: from here on an end without a failure is the program's own.
    fn say_ready(&mut self) {
        let zeros = self.program.words(&[Word::Int(0)]);
        let args = [Arg::fd(self.prepared.error_fd), zeros, Arg::Int(8)];
        self.program
            .op(call!(SYS_write), args, "say that all is set up")
            .at_least(8);
    }

    /// Default dispositions, then no signal blocked.
    fn signals(&mut self) {
        let none = self.program.words(&[Word::Int(0); 4]);
        // clone3(2) has taken away the handlers; what the caller ignores, the child would too.
        for signal in
            (1..=64).filter(|signal| self.prepared.ignored_signals & 1 << (signal - 1) != 0)
        {
            let args = [Arg::flags(signal), none, Arg::NULL, Arg::Int(8)];
            self.program
                .op(call!(SYS_rt_sigaction), args, "reset signals");
        }
        let args = [Arg::flags(libc::SIG_SETMASK), none, Arg::NULL, Arg::Int(8)];
        self.program
            .op(call!(SYS_rt_sigprocmask), args, "unblock signals");
    }

    /// Where the program may be.
    fn candidates(&self) -> Vec<PathBuf> {
        let program = self.command.name();
        if program.as_os_str().as_bytes().contains(&b'/') {
            return vec![program.to_owned()];
        }
        let path = self.command.env.iter().find(|(name, _)| name == "PATH");
        let path = path.map_or(&b""[..], |(_, value)| value.as_bytes());
        let directories = path
            .split(|&byte| byte == b':')
            .map(|directory| PathBuf::from(OsString::from_vec(directory.to_vec())).join(program));
        directories.collect()
    }

    fn prctl(&mut self, option: i32, args: &[u64], step: &'static str) {
        let mut all = [Arg::Int(0); 5];
        all[0] = Arg::flags(option);
        for (position, &value) in args.iter().enumerate() {
            all[position + 1] = Arg::Int(value);
        }
        self.program.op(call!(SYS_prctl), all, step);
    }
}

fn variable(name: &OsString, value: &OsString) -> Vec<u8> {
    [name.as_bytes(), b"=", value.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{Mount, RootFs};
    use crate::namespace::Namespaces;

    fn lines(command: &Command) -> Vec<String> {
        let root = command.root.is_some().then_some(Tree::Detached(5));
        let prepared = Prepared {
            root,
            permitted: u64::MAX,
            ..Prepared::default()
        };
        let text = compile(command, &prepared).to_string();
        text.lines().map(|line| line[4..].to_owned()).collect()
    }

    fn position(lines: &[String], what: &str) -> usize {
        lines
            .iter()
            .position(|line| line.contains(what))
            .unwrap_or_else(|| panic!("{what} in {lines:#?}"))
    }

    #[test]
    fn a_bare_program_touches_no_mount() {
        let lines = lines(&Command::new("/bin/true").namespaces(Namespaces::none()));
        assert!(
            lines.iter().all(|line| !line.contains("mount")),
            "{lines:#?}"
        );
        assert!(lines.last().unwrap().starts_with("execve(\"/bin/true\""));
    }

    #[test]
    fn the_host_is_gone_before_the_program_can_run_and_no_proc_is_there_when_targets_are_resolved()
    {
        let command = Command::new("/bin/app")
            .root(RootFs::directory("/srv"))
            .mount(Mount::tmpfs("/tmp", 4096));
        let lines = lines(&command);
        let order = [
            "# make a proc for /proc",
            "pivot_root",
            "umount2(\".\", 2)",
            "# mount tmpfs on /tmp",
            "# mount on /dev",
            "# mount on /proc",
            "# mask /proc/kcore",
            "# set no_new_privs",
            "# drop capability 21 ",
            "# set capabilities",
            "# enter the workdir",
            "close_range(3, 0xffffffff, 4)",
            "execve(",
        ];
        let positions = order.map(|what| position(&lines, what));
        assert!(positions.is_sorted(), "{positions:?} in {lines:#?}");
    }

    #[test]
    fn a_name_without_a_slash_is_tried_along_the_path() {
        let command = Command::new("app")
            .env("PATH", "/a:/b")
            .namespaces(Namespaces::none());
        let lines = lines(&command);
        let tried: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with("execve"))
            .collect();
        assert_eq!(tried.len(), 2);
        assert!(
            tried[0].starts_with("execve(\"/a/app\"") && tried[1].starts_with("execve(\"/b/app\"")
        );
    }
}
