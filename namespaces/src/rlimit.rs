//! What one process can use: setrlimit(2).

use std::fmt;
use std::str::FromStr;

use crate::command::Command;
use crate::error::{Error, Result};

/// A limit of the program and of each process it makes, under its name in setrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Rlimit {
    /// Size of the address space, in bytes.
    As,
    /// Size of a core dump, in bytes.
    Core,
    /// CPU time, in seconds.
    Cpu,
    /// Size of the data segment, in bytes.
    Data,
    /// Size of a file it makes, in bytes.
    Fsize,
    /// File locks; the kernel counts none since 2.4.25.
    Locks,
    /// Locked memory, in bytes.
    Memlock,
    /// POSIX message queues of the user, in bytes.
    Msgqueue,
    /// 20 minus the lowest nice value it can give itself.
    Nice,
    /// One more than the highest number of an fd.
    Nofile,
    /// Processes and threads of the user. The initial user namespace's root has as many as it wants.
    Nproc,
    /// Resident memory, in bytes; the kernel counts none since 2.4.30.
    Rss,
    /// The highest real-time priority it can give itself.
    Rtprio,
    /// CPU time under a real-time policy without a blocking call, in microseconds.
    Rttime,
    /// Pending signals of the user.
    Sigpending,
    /// Size of the main thread's stack, in bytes.
    Stack,
}

impl Rlimit {
    /// No limit.
    #[doc(alias = "RLIM_INFINITY")]
    pub const INFINITY: u64 = u64::MAX;

    /// All sixteen.
    pub const ALL: [Self; 16] = [
        Rlimit::As,
        Rlimit::Core,
        Rlimit::Cpu,
        Rlimit::Data,
        Rlimit::Fsize,
        Rlimit::Locks,
        Rlimit::Memlock,
        Rlimit::Msgqueue,
        Rlimit::Nice,
        Rlimit::Nofile,
        Rlimit::Nproc,
        Rlimit::Rss,
        Rlimit::Rtprio,
        Rlimit::Rttime,
        Rlimit::Sigpending,
        Rlimit::Stack,
    ];

    /// Its constant's name, as `RLIMIT_NOFILE`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.constant().0
    }

    pub(crate) fn number(self) -> u64 {
        self.constant().1.into()
    }

    fn constant(self) -> (&'static str, u32) {
        macro_rules! constant {
            ($name:ident) => {
                (stringify!($name), libc::$name as u32)
            };
        }
        match self {
            Rlimit::As => constant!(RLIMIT_AS),
            Rlimit::Core => constant!(RLIMIT_CORE),
            Rlimit::Cpu => constant!(RLIMIT_CPU),
            Rlimit::Data => constant!(RLIMIT_DATA),
            Rlimit::Fsize => constant!(RLIMIT_FSIZE),
            Rlimit::Locks => constant!(RLIMIT_LOCKS),
            Rlimit::Memlock => constant!(RLIMIT_MEMLOCK),
            Rlimit::Msgqueue => constant!(RLIMIT_MSGQUEUE),
            Rlimit::Nice => constant!(RLIMIT_NICE),
            Rlimit::Nofile => constant!(RLIMIT_NOFILE),
            Rlimit::Nproc => constant!(RLIMIT_NPROC),
            Rlimit::Rss => constant!(RLIMIT_RSS),
            Rlimit::Rtprio => constant!(RLIMIT_RTPRIO),
            Rlimit::Rttime => constant!(RLIMIT_RTTIME),
            Rlimit::Sigpending => constant!(RLIMIT_SIGPENDING),
            Rlimit::Stack => constant!(RLIMIT_STACK),
        }
    }
}

impl fmt::Display for Rlimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `RLIMIT_NOFILE` or `nofile`, in any case.
impl FromStr for Rlimit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is = |limit: &Self| {
            let name = limit.name();
            text.eq_ignore_ascii_case(name)
                || text.eq_ignore_ascii_case(name.trim_start_matches("RLIMIT_"))
        };
        let known = Self::ALL.into_iter().find(is);
        known.ok_or_else(|| Error::invalid("resource limit", text, "is unknown"))
    }
}

/// A soft and a hard limit that were asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limited {
    pub(crate) limit: Rlimit,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

impl Limited {
    pub(crate) fn validate(&self) -> Result<()> {
        if self.soft <= self.hard {
            return Ok(());
        }
        let reason = "has a soft limit above its hard limit";
        Err(Error::invalid("resource limit", self.to_string(), reason))
    }
}

/// As in `RLIMIT_NOFILE 1024:4096`.
impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value| match value {
            Rlimit::INFINITY => "infinity".to_owned(),
            value => value.to_string(),
        };
        write!(f, "{} {}:{}", self.limit, text(self.soft), text(self.hard))
    }
}

impl Command {
    /// Limits what the program can use, by prlimit(2): until it changes it, to `soft`, which it can raise up to `hard`. What
    /// is not limited is as the caller's.
    ///
    /// A hard limit above the caller's needs `CAP_SYS_RESOURCE` in the initial user namespace, so it cannot be had in
    /// a user namespace of its own.
    #[doc(alias = "setrlimit")]
    pub fn rlimit(mut self, limit: Rlimit, soft: u64, hard: u64) -> Self {
        let limits = &mut self.attributes.limits;
        limits.retain(|other| other.limit != limit);
        limits.push(Limited { limit, soft, hard });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_with_and_without_their_prefix() {
        for limit in Rlimit::ALL {
            assert_eq!(limit.name().parse::<Rlimit>().unwrap(), limit);
            let short = limit.name()["RLIMIT_".len()..].to_lowercase();
            assert_eq!(short.parse::<Rlimit>().unwrap(), limit);
        }
        let error = "nofiles".parse::<Rlimit>().unwrap_err();
        assert_eq!(error.to_string(), "resource limit \"nofiles\": is unknown");
    }

    #[test]
    fn all_sixteen_of_the_kernels_are_there() {
        let mut numbers: Vec<_> = Rlimit::ALL.iter().map(|limit| limit.number()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn soft_is_at_most_hard_and_the_last_one_counts() {
        let command = Command::new("a").rlimit(Rlimit::Nofile, 2, 1);
        let error = command.validate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "resource limit \"RLIMIT_NOFILE 2:1\": has a soft limit above its hard limit"
        );
        let command = command.rlimit(Rlimit::Nofile, 1, Rlimit::INFINITY);
        command.validate().unwrap();
        assert_eq!(command.attributes.limits.len(), 1);
    }
}
