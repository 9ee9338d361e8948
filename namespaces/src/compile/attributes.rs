//! Limits, priorities and labels.
//!
//! What is written goes through the caller's procfs, opened by the caller: the child's root, and whatever is mounted in it, has
//! no part in it.

use super::{Compiler, Step};
use crate::attributes::UserNamespaces;
use crate::label::Label;
use crate::program::{Arg, Word, call};
use crate::rlimit::{Limited, Rlimit};
use crate::scheduling::Scheduling;

const NO_XDEV: u64 = 0x1;
const NO_MAGICLINKS: u64 = 0x2;
const BENEATH: u64 = 0x8;

impl Compiler<'_> {
    /// Before the dumpable flag is cleared, with which a caller that is not root would lose the right to. The memory it is an
    /// attribute of is the stub's own.
    pub(super) fn set_oom_score_adj(&mut self) {
        if let Some(value) = self.command.attributes.oom_score_adj {
            let step = format!("set oom_score_adj to {value}");
            let value = value.to_string();
            self.write_proc("thread-self/oom_score_adj", value.as_bytes(), step);
        }
    }

    /// Needs capabilities, so it comes before they are dropped; it changes no credentials.
    pub(super) fn attributes(&mut self) {
        let attributes = &self.command.attributes;
        if attributes.user_namespaces == UserNamespaces::Denied {
            let step = "deny user namespaces";
            self.write_proc("sys/user/max_user_namespaces", b"0", step);
        }
        self.limits();
        self.scheduling(&attributes.scheduling);
        if let Some(personality) = attributes.personality {
            let args = [Arg::Int(personality.bits())];
            self.program
                .op(call!(SYS_personality), args, "set the personality");
        }
        for label in &attributes.labels {
            self.label(label);
        }
    }

    /// The file is opened and written with the same credentials, as the kernel wants it.
    fn label(&mut self, label: &Label) {
        let step = format!("set the {} {:?}", label.item(), label.name);
        self.write_proc(label.file(), &label.text(), step);
    }

    fn limits(&mut self) {
        let (soft, hard) = self.prepared.attributes.open_files;
        for limited in &self.command.attributes.limits {
            if limited.limit != Rlimit::Nofile {
                self.limit(limited, limited.soft, limited.hard);
            } else if limited.hard > hard {
                // The rest of it waits for the last fd; to raise the hard limit later there would be no privilege.
                self.limit(limited, soft, limited.hard);
            }
        }
    }

    /// Once no more fds are opened: there may be less than are open now.
    pub(super) fn limit_open_files(&mut self) {
        let limits = self.command.attributes.limits.iter();
        let mut limits = limits.filter(|limited| limited.limit == Rlimit::Nofile);
        if let Some(limited) = limits.next() {
            self.limit(limited, limited.soft, limited.hard);
        }
    }

    fn limit(&mut self, limited: &Limited, soft: u64, hard: u64) {
        let limits = self.program.words(&[soft, hard].map(Word::Int));
        let number = Arg::Int(limited.limit.number());
        let args = [Arg::Int(0), number, limits, Arg::NULL];
        let step = format!("set {limited}");
        self.program.op(call!(SYS_prlimit64), args, step);
    }

    fn scheduling(&mut self, asked: &Scheduling) {
        const THIS: Arg = Arg::Int(0);
        if let Some(cpus) = &asked.cpus {
            let mask: Vec<_> = Scheduling::mask(cpus).into_iter().map(Word::Int).collect();
            let size = Arg::Int(8 * mask.len() as u64);
            let args = [THIS, size, self.program.words(&mask)];
            self.program
                .op(call!(SYS_sched_setaffinity), args, "set the cpu affinity");
        }
        if let Some(scheduler) = &asked.scheduler {
            let nice = asked.nice.unwrap_or(self.prepared.attributes.nice);
            let words = self.program.words(&scheduler.words(nice).map(Word::Int));
            let args = [THIS, words, Arg::Int(0)];
            let step = format!("set the scheduler {}", scheduler.name());
            self.program.op(call!(SYS_sched_setattr), args, step);
        }
        if let Some(nice) = asked.nice {
            let args = [Arg::flags(libc::PRIO_PROCESS as i32), THIS, Arg::fd(nice)];
            let step = format!("set the nice value {nice}");
            self.program.op(call!(SYS_setpriority), args, step);
        }
        if let Some(io) = asked.io {
            const IOPRIO_WHO_PROCESS: Arg = Arg::Int(1);
            let args = [IOPRIO_WHO_PROCESS, THIS, Arg::Int(io.number())];
            self.program
                .op(call!(SYS_ioprio_set), args, "set the io priority");
        }
    }

    pub(super) fn set_umask(&mut self) {
        let mask = self.command.attributes.umask.unwrap_or(0o022);
        let step = format!("umask {mask:03o}");
        self.program
            .op(call!(SYS_umask), [Arg::Int(mask.into())], step);
    }

    /// To a file of the caller's procfs, and of no other mount.
    fn write_proc(&mut self, path: &str, text: &[u8], step: impl Into<Step>) {
        let step = step.into();
        let proc = Arg::fd(self.prepared.attributes.proc.unwrap_or(-1));
        let flags = u64::from((libc::O_WRONLY | libc::O_CLOEXEC).unsigned_abs());
        let resolve = NO_XDEV | NO_MAGICLINKS | BENEATH;
        let how = self.program.words(&[flags, 0, resolve].map(Word::Int));
        let args = [proc, self.program.string(path), how, Arg::Int(24)];
        let file = self
            .program
            .op(call!(SYS_openat2), args, step.clone())
            .keep();
        let length = text.len();
        let args = [file, self.program.string(text), Arg::Int(length as u64)];
        self.program
            .op(call!(SYS_write), args, step.clone())
            .at_least(i32::try_from(length).unwrap_or(i32::MAX));
        self.program.op(call!(SYS_close), [file], step);
    }
}

#[cfg(test)]
mod tests {
    use crate::attributes::Found;
    use crate::compile::{Ids, Prepared, compile};
    use crate::{Command, IdMap, Rlimit, SecureBits};

    /// Positions of the steps in the program.
    fn positions<const N: usize>(command: &Command, steps: [&str; N]) -> [usize; N] {
        let attributes = Found {
            open_files: (1024, 4096),
            ..Found::default()
        };
        let prepared = Prepared {
            permitted: u64::MAX,
            attributes,
            ids: command.user.as_ref().map(|_| Ids {
                uid: 1000,
                gid: 1000,
                groups: Vec::new(),
                explicit: false,
            }),
            ..Prepared::default()
        };
        let text = compile(command, &prepared).to_string();
        let at = |step: &str| text.lines().position(|line| line.ends_with(step));
        steps.map(|step| at(step).unwrap_or_else(|| panic!("{step} in {text}")))
    }

    #[test]
    fn what_needs_privileges_comes_before_they_are_dropped() {
        let command = Command::new("/bin/app")
            .id_map(IdMap::current_user())
            .user(crate::user::User::id(1000, 1000))
            .deny_user_namespaces()
            .oom_score_adj(5)
            .rlimit(Rlimit::Core, 0, 1)
            .rlimit(Rlimit::Nofile, 3, 3)
            .nice(3)
            .apparmor_profile("strict")
            .securebits(SecureBits::NO_CAP_AMBIENT_RAISE)
            .ambient("kill".parse().unwrap());
        let steps = [
            "# set oom_score_adj to 5",
            "# clear the dumpable flag",
            "# deny user namespaces",
            "# set RLIMIT_CORE 0:1",
            "# set the nice value 3",
            "# set the AppArmor profile \"strict\"",
            "# set no_new_privs",
            "# drop capability 21 from the bounding set",
            "# keep capabilities",
            "# become user 1000:1000",
            "# set capabilities: permitted ALL, inheritable CAP_KILL",
            "# raise CAP_KILL as an ambient capability",
            "# set the securebits",
            "# set capabilities: permitted CAP_KILL, inheritable CAP_KILL",
            "# enter the workdir /",
            "# set RLIMIT_NOFILE 3:3",
        ];
        let positions = positions(&command, steps);
        assert!(positions.is_sorted(), "{positions:?}");
    }
    #[test]
    fn open_files_are_limited_at_the_end_but_raised_while_there_are_privileges() {
        let limited = |hard| Command::new("/bin/app").rlimit(Rlimit::Nofile, 3, hard);
        let steps = ["# set RLIMIT_NOFILE 3:4096", "# enter the workdir /"];
        assert!(!positions(&limited(4096), steps).is_sorted());
        let steps = ["# set RLIMIT_NOFILE 3:4097", "# set no_new_privs"];
        assert!(positions(&limited(4097), steps).is_sorted());
    }
}
