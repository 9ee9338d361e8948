//! Which system calls a program can make.

mod bpf;
mod filter;
mod profile;
mod syscalls;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt::{self, Write};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use crate::capabilities::Capabilities;
use crate::command::Command;
use crate::error::{Error, Result};

pub use bpf::Instruction;
pub use filter::{Action, Condition, Filter, Rule, Syscall};
pub use syscalls::Arch;

use filter::Machine;

impl Command {
    /// The system calls it can make, instead of those of Docker's default profile.
    ///
    /// The filter is put into force by seccomp(2), after all else: it has to allow execve(2), write(2) and exit_group(2), and
    /// nothing more of what a start takes. With [`allow_new_privileges`](Self::allow_new_privileges) it comes before the change of
    /// ids and capabilities, takes `CAP_SYS_ADMIN`, and has to allow the calls for these too.
    #[doc(alias = "SECCOMP_SET_MODE_FILTER")]
    pub fn seccomp(mut self, seccomp: impl Into<Seccomp>) -> Self {
        self.seccomp = seccomp.into();
        self
    }
}

/// A system call filter: Docker's default, one of one's own, or none.
///
/// It holds for the program and all that it executes and forks, for ever. It is compiled once, into code that finds what is
/// to be done with a call by a binary search, and kept: clones share it.
///
/// ```no_run
/// use cofferdam_namespaces::{Command, Condition, Filter, Rule, Action};
///
/// let no_sockets_but_unix = Rule::new("socket", Action::Errno(libc::EAFNOSUPPORT))
///     .when(Condition::not_equal(0, 1).low());
/// let filter = Filter::docker_default().deny("ptrace").allow("keyctl").rule(no_sockets_but_unix);
/// let child = Command::new("/bin/app").seccomp(filter).spawn()?;
/// # Ok::<(), cofferdam_namespaces::Error>(())
/// ```
#[derive(Clone)]
pub struct Seccomp {
    kind: Kind,
    compiled: Arc<Mutex<Vec<Compiled>>>,
}

/// What came of a filter.
#[derive(Clone)]
struct Compiled {
    /// The capabilities that it was compiled for, those that matter.
    key: u64,
    code: Code,
    /// A call that a start takes and it does not allow.
    refused: Option<&'static str>,
    /// Whether it allows what comes before that too.
    early: bool,
}

type Code = Arc<[Instruction]>;

#[derive(Clone)]
enum Kind {
    Unconfined,
    Filter(Arc<Filter>),
    Raw(Code),
}

/// What a start takes once its filter is in force.
const TAKEN_BY_EXECVE: &[&str] = &["execve", "write", "exit_group"];

/// What else it takes where the filter is loaded while it waits for the caller.
const TAKEN_BEFORE: &[&str] = &["read", "setsid", "rt_sigprocmask", "close_range"];

/// How many capability sets a filter is kept for.
const KEPT: usize = 8;

impl Seccomp {
    /// Docker's default profile, which every [`Command`] has unless told otherwise.
    ///
    /// What it does not know fails with `EPERM`, what is newer than it with `ENOSYS`. It allows some calls only to programs that
    /// may have the capability for them. Without `CAP_SYS_ADMIN` there are no new namespaces; clone3(2) fails with `ENOSYS`, so
    /// that libc goes on with clone(2), whose flags can be looked at. Among what it refuses to all are io_uring, keyctl(2),
    /// userfaultfd(2), and sockets of the domains `AF_ALG` and `AF_VSOCK` by socket(2); 32-bit programs of x86 can still make
    /// those by socketcall(2), as under Docker. Calls of architectures that the machine does not run end the process.
    ///
    /// One thing is added to Docker's: ioctl(2) with `TIOCSTI` or `TIOCLINUX` fails with `EPERM`, as they type into the
    /// terminal of whoever started the program.
    #[must_use]
    pub fn docker_default() -> Self {
        static DEFAULT: LazyLock<Seccomp> = LazyLock::new(|| Filter::docker_default().into());
        DEFAULT.clone()
    }

    /// No filter: every system call that the program's capabilities and namespaces leave it.
    #[must_use]
    pub fn unconfined() -> Self {
        Self::new(Kind::Unconfined)
    }

    /// These very instructions, at most 4096. Whether they make a filter is for the kernel to say, when a program is started;
    /// whether they allow what a start still takes (execve, write, exit_group), and look at the architecture, is the caller's to
    /// know.
    #[must_use]
    pub fn raw(instructions: impl IntoIterator<Item = Instruction>) -> Self {
        Self::new(Kind::Raw(instructions.into_iter().collect()))
    }

    /// The instructions for a program with these capabilities, for those who load them themselves or want to see them. None
    /// if there is no filter.
    ///
    /// # Errors
    /// `InvalidInput` for a system call that is not known, for a condition that cannot be, for an errno out of range, and for what
    /// comes to more than 4096 instructions. `Unsupported` on machines other than x86_64 and aarch64.
    pub fn instructions(&self, capabilities: Capabilities) -> Result<Vec<Instruction>> {
        let code = self.code(capabilities)?;
        Ok(code.map_or_else(Vec::new, |code| code.to_vec()))
    }

    /// The same as text, one instruction a line, each with its number.
    ///
    /// # Errors
    /// As for [`instructions`](Self::instructions).
    pub fn disassemble(&self, capabilities: Capabilities) -> Result<String> {
        let mut text = String::new();
        for (number, instruction) in self.instructions(capabilities)?.iter().enumerate() {
            // Writing to a String does not fail.
            let _written = writeln!(text, "{number:4} {instruction}").is_ok();
        }
        Ok(text)
    }

    /// Waits for signals and children, and passes signals on.
    pub(crate) fn of_init() -> Self {
        static OF_INIT: LazyLock<Seccomp> = LazyLock::new(|| {
            let calls = [
                "rt_sigtimedwait",
                "wait4",
                "kill",
                "exit_group",
                "restart_syscall",
                // Of the pipe that ends with the caller.
                "read",
                // What is left to do before it, and to say if that fails.
                "close_range",
                "write",
            ];
            let nothing = Filter::new(Action::Errno(libc::EPERM));
            calls.into_iter().fold(nothing, Filter::allow).into()
        });
        OF_INIT.clone()
    }

    /// Checks what can be checked without the kernel.
    pub(crate) fn validate(&self, capabilities: Capabilities) -> Result<()> {
        let Kind::Filter(filter) = &self.kind else {
            return self.code(capabilities).map(|_| ());
        };
        match self.compiled(filter, capabilities)?.refused {
            None => Ok(()),
            Some(name) => {
                let reason = "is not allowed by the seccomp filter, but a start takes it";
                Err(Error::invalid("system call", name, reason))
            }
        }
    }

    /// Whether the filter can be in force a little earlier than at the very end.
    pub(crate) fn can_be_early(&self, capabilities: Capabilities) -> bool {
        match &self.kind {
            Kind::Unconfined | Kind::Raw(_) => false,
            Kind::Filter(filter) => {
                let compiled = self.compiled(filter, capabilities);
                compiled.is_ok_and(|compiled| compiled.early && compiled.refused.is_none())
            }
        }
    }

    /// Whether it is sure to keep the program from all keyrings.
    pub(crate) fn denies_keys(&self) -> bool {
        match &self.kind {
            Kind::Unconfined | Kind::Raw(_) => false,
            Kind::Filter(filter) => {
                Machine::this().is_ok_and(|machine| filter.denies_keys(machine))
            }
        }
    }

    /// The instructions, if there is a filter.
    pub(crate) fn code(&self, capabilities: Capabilities) -> Result<Option<Code>> {
        match &self.kind {
            Kind::Unconfined => Ok(None),
            Kind::Raw(code) if code.is_empty() || code.len() > bpf::MOST => {
                let reason = "is no number of instructions from 1 to 4096";
                Err(Error::invalid("seccomp filter", code.len(), reason))
            }
            Kind::Raw(code) => Ok(Some(code.clone())),
            Kind::Filter(filter) => {
                let compiled = self.compiled(filter, capabilities)?;
                Ok(Some(compiled.code))
            }
        }
    }

    fn compiled(&self, filter: &Filter, capabilities: Capabilities) -> Result<Compiled> {
        let key = capabilities.bits() & profile::capabilities_that_matter();
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = compiled.iter().find(|known| known.key == key) {
            return Ok(known.clone());
        }
        let machine = Machine::this()?;
        let new = Compiled {
            key,
            code: filter.compile(machine, capabilities)?.into(),
            refused: filter.refuses(TAKEN_BY_EXECVE, machine, capabilities),
            early: filter
                .refuses(TAKEN_BEFORE, machine, capabilities)
                .is_none(),
        };
        if compiled.len() == KEPT {
            compiled.remove(0);
        }
        compiled.push(new.clone());
        Ok(new)
    }

    fn new(kind: Kind) -> Self {
        Seccomp {
            kind,
            compiled: Arc::default(),
        }
    }
}

/// Docker's default profile.
impl Default for Seccomp {
    fn default() -> Self {
        Self::docker_default()
    }
}

impl From<Filter> for Seccomp {
    fn from(filter: Filter) -> Self {
        Self::new(Kind::Filter(filter.into()))
    }
}

impl fmt::Debug for Seccomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Unconfined => f.write_str("Unconfined"),
            Kind::Filter(filter) => filter.fmt(f),
            Kind::Raw(code) => write!(f, "Raw({} instructions)", code.len()),
        }
    }
}
