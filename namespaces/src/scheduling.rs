//! When and where the program runs: sched_setattr(2), setpriority(2), ioprio_set(2), sched_setaffinity(2).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::command::Command;
use crate::error::{Error, Result};

/// A scheduling policy, as of sched(7), with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduler {
    policy: Policy,
    reset_on_fork: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Other,
    Batch,
    Idle,
    Fifo(u32),
    RoundRobin(u32),
    Deadline {
        runtime: Duration,
        deadline: Duration,
        period: Duration,
    },
}

impl Scheduler {
    /// `SCHED_OTHER`: time is shared by nice value.
    #[must_use]
    pub const fn other() -> Self {
        Self::of(Policy::Other)
    }

    /// `SCHED_BATCH`: the same, for what is not interactive.
    #[must_use]
    pub const fn batch() -> Self {
        Self::of(Policy::Batch)
    }

    /// `SCHED_IDLE`: when nobody else wants to run.
    #[must_use]
    pub const fn idle() -> Self {
        Self::of(Policy::Idle)
    }

    /// `SCHED_FIFO` of a real-time priority from 1 to 99: until it blocks or yields.
    #[must_use]
    pub const fn fifo(priority: u32) -> Self {
        Self::of(Policy::Fifo(priority))
    }

    /// `SCHED_RR` of a real-time priority from 1 to 99: for a slice of time.
    #[must_use]
    pub const fn round_robin(priority: u32) -> Self {
        Self::of(Policy::RoundRobin(priority))
    }

    /// `SCHED_DEADLINE`: `runtime` in each `period`, done `deadline` after its start. Its processes cannot fork unless
    /// [`reset_on_fork`](Self::reset_on_fork).
    #[must_use]
    pub const fn deadline(runtime: Duration, deadline: Duration, period: Duration) -> Self {
        Self::of(Policy::Deadline {
            runtime,
            deadline,
            period,
        })
    }

    /// Processes and threads that it makes have `SCHED_OTHER` and no negative nice value.
    #[doc(alias = "SCHED_FLAG_RESET_ON_FORK")]
    #[must_use]
    pub const fn reset_on_fork(mut self) -> Self {
        self.reset_on_fork = true;
        self
    }

    const fn of(policy: Policy) -> Self {
        Scheduler {
            policy,
            reset_on_fork: false,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.policy {
            Policy::Other => "SCHED_OTHER",
            Policy::Batch => "SCHED_BATCH",
            Policy::Idle => "SCHED_IDLE",
            Policy::Fifo(_) => "SCHED_FIFO",
            Policy::RoundRobin(_) => "SCHED_RR",
            Policy::Deadline { .. } => "SCHED_DEADLINE",
        }
    }

    /// A struct sched_attr: size and policy, flags, nice value and priority, then runtime, deadline and period in
    /// nanoseconds.
    pub(crate) fn words(&self, nice: i32) -> [u64; 6] {
        const SIZE: u64 = 48;
        const RESET_ON_FORK: u64 = 1;
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (number, priority, times) = match self.policy {
            Policy::Other => (libc::SCHED_OTHER, 0, [0; 3]),
            Policy::Batch => (libc::SCHED_BATCH, 0, [0; 3]),
            Policy::Idle => (libc::SCHED_IDLE, 0, [0; 3]),
            Policy::Fifo(priority) => (libc::SCHED_FIFO, priority, [0; 3]),
            Policy::RoundRobin(priority) => (libc::SCHED_RR, priority, [0; 3]),
            Policy::Deadline {
                runtime,
                deadline,
                period,
            } => (6, 0, [runtime, deadline, period].map(nanoseconds)),
        };
        let flags = if self.reset_on_fork { RESET_ON_FORK } else { 0 };
        let nice = u64::from(u32::from_ne_bytes(nice.to_ne_bytes()));
        let number = u64::from(number.unsigned_abs());
        [
            SIZE | number << 32,
            flags,
            nice | u64::from(priority) << 32,
            times[0],
            times[1],
            times[2],
        ]
    }

    fn validate(&self) -> Result<()> {
        let refuse = |value: String, reason| Err(Error::invalid(self.name(), value, reason));
        match self.policy {
            Policy::Fifo(priority) | Policy::RoundRobin(priority)
                if !(1..=99).contains(&priority) =>
            {
                refuse(priority.to_string(), "is no priority from 1 to 99")
            }
            Policy::Deadline {
                runtime,
                deadline,
                period,
            } if runtime > deadline || deadline > period || runtime < SHORTEST => refuse(
                format!("{runtime:?}, {deadline:?}, {period:?}"),
                "is not 1024 ns <= runtime <= deadline <= period",
            ),
            _ => Ok(()),
        }
    }
}

/// What the kernel counts in.
const SHORTEST: Duration = Duration::from_nanos(1024);

/// How its input and output are ordered, as of ioprio_set(2). Only some schedulers of disks look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoPriority {
    class: u64,
    level: u64,
}

impl IoPriority {
    /// Before all others, at a level from 0, the first, to 7. Needs `CAP_SYS_NICE` or `CAP_SYS_ADMIN` in the initial user
    /// namespace.
    #[must_use]
    pub const fn real_time(level: u8) -> Self {
        Self::of(1, level)
    }

    /// What everybody has, at a level from 0, the first, to 7.
    #[must_use]
    pub const fn best_effort(level: u8) -> Self {
        Self::of(2, level)
    }

    /// When nobody else uses the disk.
    #[must_use]
    pub const fn idle() -> Self {
        Self::of(3, 0)
    }

    const fn of(class: u64, level: u8) -> Self {
        IoPriority {
            class,
            level: level as u64,
        }
    }

    pub(crate) fn number(self) -> u64 {
        self.class << 13 | self.level
    }
}

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scheduling {
    pub(crate) nice: Option<i32>,
    pub(crate) scheduler: Option<Scheduler>,
    pub(crate) io: Option<IoPriority>,
    pub(crate) cpus: Option<BTreeSet<u32>>,
}

impl Scheduling {
    /// More than any kernel is made for.
    const CPUS: u32 = 1 << 16;

    pub(crate) fn validate(&self) -> Result<()> {
        if let Some(nice) = self.nice.filter(|nice| !(-20..=19).contains(nice)) {
            return Err(Error::invalid("nice value", nice, "is not from -20 to 19"));
        }
        if let Some(scheduler) = &self.scheduler {
            scheduler.validate()?;
        }
        if let Some(io) = self.io.filter(|io| io.level > 7) {
            let reason = "is no level from 0 to 7";
            return Err(Error::invalid("io priority", io.level, reason));
        }
        let Some(cpus) = &self.cpus else {
            return Ok(());
        };
        match cpus.last() {
            None => Err(Error::invalid("cpu affinity", "", "has no CPU")),
            Some(&last) if last >= Self::CPUS => Err(no_cpu(last)),
            Some(_) => Ok(()),
        }
    }

    /// The kernel passes over CPUs that are not there; here they are refused.
    pub(crate) fn check(&self, online: &str) -> Result<()> {
        let online: Vec<_> = online.trim().split(',').filter_map(range).collect();
        let Some(cpus) = self.cpus.as_ref().filter(|_| !online.is_empty()) else {
            return Ok(());
        };
        let there = |cpu: &u32| online.iter().any(|range| range.contains(cpu));
        match cpus.iter().find(|cpu| !there(cpu)) {
            Some(&missing) => Err(no_cpu(missing)),
            None => Ok(()),
        }
    }

    /// The set as sched_setaffinity(2) takes it.
    pub(crate) fn mask(cpus: &BTreeSet<u32>) -> Vec<u64> {
        let last = cpus.last().copied().unwrap_or(0);
        let mut mask = vec![0; last as usize / 64 + 1];
        for &cpu in cpus {
            mask[cpu as usize / 64] |= 1 << (cpu % 64);
        }
        mask
    }
}

fn no_cpu(cpu: u32) -> Error {
    Error::invalid("cpu affinity", cpu, "is no CPU that is online")
}

/// Of `3` or `0-7`.
fn range(text: &str) -> Option<std::ops::RangeInclusive<u32>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

impl Command {
    /// The nice value it starts with, from -20, which gets the most time, to 19, by setpriority(2). A lower one than the
    /// caller's needs `CAP_SYS_NICE` in the initial user namespace, or a `RLIMIT_NICE` that allows it.
    #[doc(alias = "setpriority")]
    pub fn nice(mut self, nice: i32) -> Self {
        self.attributes.scheduling.nice = Some(nice);
        self
    }

    /// The scheduling policy it starts with, by sched_setattr(2). Real-time policies need `CAP_SYS_NICE` in the initial
    /// user namespace, or a `RLIMIT_RTPRIO` that allows them.
    #[doc(alias = "sched_setscheduler")]
    pub fn scheduler(mut self, scheduler: Scheduler) -> Self {
        self.attributes.scheduling.scheduler = Some(scheduler);
        self
    }

    /// The priority of its input and output, by ioprio_set(2).
    #[doc(alias = "ioprio_set")]
    pub fn io_priority(mut self, priority: IoPriority) -> Self {
        self.attributes.scheduling.io = Some(priority);
        self
    }

    /// The CPUs it can run on, from 0, by sched_setaffinity(2). One that is not online is `InvalidInput`; of the others the
    /// kernel takes those that its cgroup's cpuset has too, and `EINVAL` says that it has none of them.
    #[doc(alias = "sched_setaffinity")]
    pub fn cpu_affinity(mut self, cpus: impl IntoIterator<Item = u32>) -> Self {
        self.attributes.scheduling.cpus = Some(cpus.into_iter().collect());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(command: Command) -> String {
        command.validate().unwrap_err().to_string()
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let command = || Command::new("a");
        assert_eq!(
            refused(command().nice(20)),
            "nice value \"20\": is not from -20 to 19"
        );
        assert_eq!(
            refused(command().scheduler(Scheduler::fifo(100))),
            "SCHED_FIFO \"100\": is no priority from 1 to 99"
        );
        assert!(refused(command().scheduler(Scheduler::round_robin(0))).contains("SCHED_RR"));
        let ms = Duration::from_millis;
        let late = Scheduler::deadline(ms(2), ms(1), ms(3));
        assert!(refused(command().scheduler(late)).contains("runtime <= deadline"));
        assert!(refused(command().io_priority(IoPriority::best_effort(8))).contains("0 to 7"));
        assert!(refused(command().cpu_affinity([])).contains("has no CPU"));
        assert!(refused(command().cpu_affinity([1 << 16])).contains("is no CPU"));
    }

    #[test]
    fn cpus_that_are_not_online_are_refused() {
        let scheduling = Scheduling {
            cpus: Some([0, 5].into()),
            ..Scheduling::default()
        };
        scheduling.check("0-3,5\n").unwrap();
        let error = scheduling.check("0-4\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cpu affinity \"5\": is no CPU that is online"
        );
    }

    #[test]
    fn the_structs_are_the_kernels() {
        assert_eq!(Scheduling::mask(&[0, 1, 65].into()), [3, 2]);
        let words = Scheduler::fifo(7).reset_on_fork().words(-1);
        assert_eq!(words, [48 | 1 << 32, 1, 0xffff_ffff | 7 << 32, 0, 0, 0]);
        let ms = Duration::from_millis;
        let words = Scheduler::deadline(ms(1), ms(2), ms(3)).words(0);
        assert_eq!(words, [48 | 6 << 32, 0, 0, 1_000_000, 2_000_000, 3_000_000]);
        assert_eq!(IoPriority::best_effort(3).number(), 2 << 13 | 3);
    }
}
