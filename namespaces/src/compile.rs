//! From a [`Command`] to the [`Program`] that sets it up, in the order in which the kernel wants it.

mod attributes;
mod filesystem;
mod identity;
mod ids;
#[cfg(feature = "landlock")]
mod landlock;
mod seccomp;
mod terminal;

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::attributes::{Found, Privileges};
use crate::command::{Command, Session};
use crate::fds::gaps;
use crate::namespace::Namespace;
use crate::plan::Plan;
use crate::program::{Arg, Program, Word, call};
use crate::sources::{Devices, Sources};
use crate::stage1::Message;

pub(crate) use ids::Ids;

use libc::{EACCES, ENOENT, ENOTDIR};

/// What the program finds ready when it starts, by fd number in the child.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    /// What is mounted from the host.
    pub(crate) sources: Sources,
    /// Open `cgroup.procs`.
    pub(crate) procs: Vec<i32>,
    /// Namespaces to join, in this order.
    pub(crate) joins: Vec<Join>,
    /// In which steps it gets its own.
    pub(crate) plan: Plan,
    /// The socket to the caller, where there is something to say on it.
    pub(crate) socket: i32,
    /// The pipe that says the id map is written, where the stub waits for that.
    pub(crate) maps: Option<i32>,
    /// The program's end of a terminal, where the stub does not open it.
    pub(crate) slave: Option<i32>,
    /// The pipe that ends with the caller, where the program is to.
    pub(crate) lifeline: Option<i32>,
    /// Fds of the program's own, beside its streams.
    pub(crate) fds: Vec<i32>,
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
    /// What the attributes of the process need of the caller.
    pub(crate) attributes: Found,
    /// Who the program runs as, where that is said.
    pub(crate) ids: Option<Ids>,
}

/// A namespace of another's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Join {
    pub(crate) fd: i32,
    pub(crate) flags: i32,
}

/// The whole of the second stage.
pub(crate) fn compile(command: &Command, prepared: &Prepared) -> Program {
    let mut compiler = Compiler {
        program: Program::with_room(),
        command,
        prepared,
        slave: prepared.slave.map(Arg::fd),
    };
    compiler.set_oom_score_adj();
    compiler.protect();
    compiler.join();
    compiler.filesystem();
    compiler.set_hostname();
    compiler.set_domainname();
    compiler.connect_terminal();
    compiler.identity();
    compiler.exec();
    compiler.program
}

/// What an op is for.
type Step = Cow<'static, str>;

pub(crate) struct Compiler<'c> {
    pub(crate) program: Program,
    pub(crate) command: &'c Command,
    prepared: &'c Prepared,
    /// The program's end of its terminal.
    slave: Option<Arg>,
}

impl Compiler<'_> {
    /// Nobody in a namespace that is joined can look into this process from now on.
    fn protect(&mut self) {
        self.prctl(libc::PR_SET_DUMPABLE, &[0], "clear the dumpable flag");
        self.program.op(call!(SYS_umask), [Arg::Int(0)], "umask 0");
    }

    /// Into its cgroups and namespaces, those of others first.
    fn join(&mut self) {
        let plan = &self.prepared.plan;
        if plan.at_clone & libc::CLONE_NEWUSER != 0 {
            self.become_root();
        }
        for &fd in &self.prepared.procs {
            let zero = self.program.string("0");
            let args = [Arg::fd(fd), zero, Arg::Int(1)];
            self.program
                .op(call!(SYS_write), args, "enter the cgroup")
                .at_least(1);
        }
        for join in &self.prepared.joins {
            if join.flags & libc::CLONE_NEWUSER != 0 {
                self.drop_own_groups();
            }
            self.setns(join.fd, join.flags);
        }
        if plan.late_user {
            self.unshare_user();
        }
        if plan.unshare & libc::CLONE_NEWTIME != 0 {
            self.shift_clocks();
        }
        if let Some(fd) = plan.minimal_mounts {
            let args = [Arg::fd(fd), Arg::flags(libc::CLONE_NEWNS)];
            let step = "enter the minimal mount namespace";
            self.program.op(call!(SYS_setns), args, step);
        }
        self.unshare(plan.unshare & !(libc::CLONE_NEWTIME | libc::CLONE_NEWUSER));
        if let (Some(flags), false) = (plan.second, plan.second_is_late) {
            self.second_process(flags);
        }
        if self.command.namespaces.has(Namespace::Net) {
            self.loopback_up();
        }
    }

    fn setns(&mut self, fd: i32, flags: i32) {
        let names: Vec<_> = Namespace::ALL
            .into_iter()
            .filter(|namespace| flags & namespace.clone_flag() != 0)
            .map(Namespace::file)
            .collect();
        let step = match names.as_slice() {
            [one] => format!("join the {one} namespace"),
            several => format!("join the {} namespaces", several.join(", ")),
        };
        let args = [Arg::fd(fd), Arg::flags(flags)];
        self.program.op(call!(SYS_setns), args, step);
        if flags & libc::CLONE_NEWUSER != 0 {
            // setns(2) has made it dumpable by root there.
            self.prctl(libc::PR_SET_DUMPABLE, &[0], "clear the dumpable flag");
            self.become_root();
        }
    }

    fn unshare(&mut self, flags: i32) {
        for namespace in Namespace::ALL {
            let flag = namespace.clone_flag();
            if flags & flag != 0 {
                let step = format!("unshare the {} namespace", namespace.file());
                self.program
                    .op(call!(SYS_unshare), [Arg::flags(flag)], step);
            }
        }
    }

    /// A user namespace that is made after others were joined, for which it would not have the right.
    fn unshare_user(&mut self) {
        self.drop_own_groups();
        self.unshare(libc::CLONE_NEWUSER);
        let step = "wait for the id map";
        let word = self.program.words(&[Word::Int(0)]);
        let socket = Arg::fd(self.prepared.socket);
        self.program
            .op(call!(SYS_write), [socket, word, Arg::Int(8)], step)
            .at_least(8);
        if let Some(maps) = self.prepared.maps {
            let args = [Arg::fd(maps), word, Arg::Int(1)];
            self.program.op(call!(SYS_read), args, step).at_least(1);
        }
        self.become_root();
    }

    /// While the caller's procfs is still seen, and before any process is in it.
    fn shift_clocks(&mut self) {
        self.unshare(libc::CLONE_NEWTIME);
        let offsets = self.command.namespaces.offsets();
        if offsets.is_empty() {
            return;
        }
        let step = format!("shift the clocks by {:?}", offsets.trim_end());
        let path = self.program.string("/proc/self/timens_offsets");
        let flags = Arg::flags(libc::O_WRONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW);
        let file = self
            .program
            .op(call!(SYS_openat), [Arg::CWD, path, flags], step.clone())
            .keep();
        let length = offsets.len();
        let text = self.program.string(offsets);
        let args = [file, text, Arg::Int(length as u64)];
        self.program
            .op(call!(SYS_write), args, step)
            .at_least(i32::try_from(length).unwrap_or(i32::MAX));
    }

    /// Who joins a pid namespace, or makes a time namespace, is not in it; its child is. That becomes the caller's, which is
    /// sent its pidfd, and goes on only once the caller has it: nobody runs whom the caller does not know.
    ///
    /// Nobody in a pid namespace that is joined can see the process before this, and none but the streams' fds are still of use
    /// after it.
    fn second_process(&mut self, flags: i32) {
        let step = "clone the process that is in the namespaces";
        // A group that the caller can wait for, should it never hear of this process.
        let args = [Arg::Int(0), Arg::Int(0)];
        self.program
            .op(call!(SYS_setpgid), args, "start a process group");
        let message = Message::new(&mut self.program);
        let mut flags = flags | libc::CLONE_PARENT;
        let shares_no_clock = self.prepared.plan.unshare & libc::CLONE_NEWTIME == 0;
        if flags & libc::CLONE_NEWPID != 0 && shares_no_clock {
            // In the same few pages: the child keeps no result of the clone, and the parent makes none after it. Never in a pid
            // namespace of others: who can trace the one there would have the other act for it outside.
            flags |= libc::CLONE_VM;
        }
        self.program
            .clone_process(flags, Some(message.fd), 2, step)
            .keep_in(message.number);
        message.send(&mut self.program, self.prepared.socket, step);
        self.program.op(call!(SYS_exit_group), [Arg::Int(0)], step);
        if self.filter_is_early() {
            // The caller takes as long to hear of it.
            self.load_seccomp();
        }
        let word = self.program.words(&[Word::Int(0)]);
        let args = [Arg::fd(self.prepared.socket), word, Arg::Int(8)];
        let step = "wait for the caller to know it";
        self.program.op(call!(SYS_read), args, step).at_least(1);
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
        self.drop_groups();
        let step = "become root of the user namespace";
        self.program.op(call!(SYS_setresgid), [zero; 3], step);
        self.program.op(call!(SYS_setresuid), [zero; 3], step);
        self.prctl(libc::PR_CAP_AMBIENT, &[4], "clear ambient capabilities");
        self.prctl(libc::PR_SET_DUMPABLE, &[0], "clear the dumpable flag");
    }

    /// Where the user namespace denies that for ever, they stay.
    fn drop_groups(&mut self) {
        if self.prepared.setgroups_denied {
            return;
        }
        let args = [Arg::Int(0), Arg::NULL];
        let op = self.program.op(call!(SYS_setgroups), args, "drop groups");
        if self.command.namespaces.joins(Namespace::User) {
            // With all capabilities in there, only that can be the reason.
            op.tolerate(&[libc::EPERM]);
        }
    }

    /// The caller's, by the caller's right, while it has one: the user namespace that comes next may deny setgroups(2) for ever.
    fn drop_own_groups(&mut self) {
        let args = [Arg::Int(0), Arg::NULL];
        let step = "drop the caller's groups";
        self.program
            .op(call!(SYS_setgroups), args, step)
            .tolerate(&[libc::EPERM]);
    }

    fn exec(&mut self) {
        // Another user id may have made it dumpable again, as fs.suid_dumpable says.
        self.prctl(libc::PR_SET_DUMPABLE, &[0], "clear the dumpable flag");
        self.set_umask();
        self.enter_workdir();
        self.limit_open_files();
        self.reset_signals();
        if let (Some(flags), true) = (self.prepared.plan.second, self.prepared.plan.second_is_late)
        {
            self.close_set_up();
            self.second_process(flags);
        }
        if self.command.has_init() {
            if self.command.session == Session::New {
                // The init has one too, and the program another, to be its leader.
                self.program.op(call!(SYS_setsid), [], "start a session");
            }
            self.become_init();
        }
        if self.command.session == Session::New {
            self.program.op(call!(SYS_setsid), [], "start a session");
        }
        self.control_terminal();
        self.unblock_signals();
        for (first, last) in gaps(3, self.prepared.fds.iter().copied()) {
            let args = [Arg::Int(first.into()), Arg::Int(last.into()), Arg::Int(4)];
            self.program
                .op(call!(SYS_close_range), args, "close fds at exec");
        }
        self.execve();
    }

    /// Closes what the set-up was done with, some of which leads to the host: the caller's procfs, files of cgroups. Whoever may
    /// trace in the pid namespace that is joined finds no more in the second process than that still needs.
    fn close_set_up(&mut self) {
        let slave = self.prepared.slave;
        let own = [self.prepared.error_fd, self.prepared.socket];
        let kept = self.prepared.fds.iter().copied().chain(own).chain(slave);
        for (first, last) in gaps(3, kept) {
            let args = [Arg::Int(first.into()), Arg::Int(last.into()), Arg::Int(0)];
            let step = "close the fds of the set-up";
            self.program.op(call!(SYS_close_range), args, step);
        }
    }

    /// The payload is a child of what becomes a reaper, with the same privileges and none of the fds.
    fn become_init(&mut self) {
        self.watch_caller();
        let step = "clone the program from its init";
        // Without no_new_privs a filter is in force already.
        let filtered = self.command.attributes.privileges == Privileges::NoneNew;
        let ranges = gaps(0, self.prepared.lifeline).len();
        let parents = 2 + u32::from(filtered) + u32::try_from(ranges).unwrap_or_default();
        let child = self
            .program
            .clone_process(libc::SIGCHLD, None, parents, step)
            .keep();
        let name = self.program.string("cofferdam-init");
        let args = [Arg::flags(libc::PR_SET_NAME), name];
        self.program.op(call!(SYS_prctl), args, "name the init");
        if filtered {
            self.load_init_filter();
        }
        let lifeline = self.prepared.lifeline;
        for (first, last) in gaps(0, lifeline) {
            let args = [Arg::Int(first.into()), Arg::Int(last.into()), Arg::Int(0)];
            self.program
                .op(call!(SYS_close_range), args, "close the fds of the init");
        }
        self.program.reap(child, lifeline);
    }

    /// Has the end of the caller's process be a `SIGIO` for this one, which is pid 1 of its namespace by now and stays the user it
    /// is. Should the caller be gone already, the start ends here.
    fn watch_caller(&mut self) {
        let Some(lifeline) = self.prepared.lifeline else {
            return;
        };
        let step = "watch the caller's process";
        let fd = Arg::fd(lifeline);
        let owner = [fd, Arg::flags(libc::F_SETOWN), Arg::Int(1)];
        self.program.op(call!(SYS_fcntl), owner, step);
        let signals = Arg::flags(libc::O_ASYNC | libc::O_NONBLOCK);
        let args = [fd, Arg::flags(libc::F_SETFL), signals];
        self.program.op(call!(SYS_fcntl), args, step);
        let byte = self.program.words(&[Word::Int(0)]);
        self.program
            .op(call!(SYS_read), [fd, byte, Arg::Int(1)], step)
            .at_least(1)
            .tolerate(&[libc::EAGAIN]);
    }

    /// Whether the filter is loaded while a late second process waits for the caller, which has it start sooner.
    fn filter_is_early(&self) -> bool {
        let command = self.command;
        self.prepared.plan.second_is_late
            && command.attributes.privileges == Privileges::NoneNew
            && command.terminal.is_none()
            && command.seccomp.can_be_early(command.capabilities)
    }

    fn execve(&mut self) {
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
        let is_loaded =
            self.command.attributes.privileges == Privileges::New || self.filter_is_early();
        if !is_loaded {
            self.load_seccomp();
        }
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

    /// execve(2) has taken away the handlers; what the caller ignores, the child would too.
    fn reset_signals(&mut self) {
        let none = self.program.words(&[Word::Int(0); 4]);
        for signal in
            (1..=64).filter(|signal| self.prepared.ignored_signals & 1 << (signal - 1) != 0)
        {
            let args = [Arg::flags(signal), none, Arg::NULL, Arg::Int(8)];
            self.program
                .op(call!(SYS_rt_sigaction), args, "reset signals");
        }
    }

    fn unblock_signals(&mut self) {
        let none = self.program.words(&[Word::Int(0)]);
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
    use crate::sources::{Opened, Tree};

    fn lines(command: &Command) -> Vec<String> {
        let root = command.root.is_some().then_some(Tree::Detached(5));
        let nothing = command.mounts.iter().map(|_| Opened::Nothing);
        let sources = Sources {
            root,
            mounts: nothing.collect(),
            ..Sources::default()
        };
        let prepared = Prepared {
            sources,
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
    fn who_dies_with_the_caller_has_an_init_that_keeps_nothing_but_the_pipe() {
        let command = Command::new("/bin/app").die_with_caller(true);
        let prepared = Prepared {
            lifeline: Some(7),
            ..Prepared::default()
        };
        let text = compile(&command, &prepared).to_string();
        let order = [
            "fcntl(7, 8, 1)  # watch the caller's process",
            "fcntl(7, 4, 0x2800)  # watch the caller's process",
            "read(7, &",
            "skip 5 in the child  # clone the program from its init",
            "# load the seccomp filter of the init",
            "close_range(0, 6, 0)  # close the fds of the init",
            "close_range(8, 0xffffffff, 0)  # close the fds of the init",
            "reap($2, &",
            "# start a session",
        ];
        let order = order.map(|what| text.rfind(what).unwrap_or_else(|| panic!("{what}: {text}")));
        assert!(order.is_sorted(), "{order:?}: {text}");
        let plain = compile(&Command::new("/bin/app"), &Prepared::default()).to_string();
        assert!(!plain.contains("reap("), "{plain}");
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
