//! Which fd becomes which number in the child, and the calls that make it so.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use crate::program::{Arg, Program, call};

/// Fds the child is to find: the streams at 0, 1 and 2, those passed on at the numbers asked for, all others at the lowest
/// numbers that are free.
#[derive(Debug)]
pub(crate) struct FdTable {
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    source: RawFd,
    number: RawFd,
    lasts: Lasts,
}

/// Whether an fd is still there once the first execve(2) is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// It is.
    PastExec,
    /// It is not.
    UntilExec,
}

impl FdTable {
    /// With what the program itself is to have, streams included: fds and their numbers.
    pub(crate) fn new<'f, F: AsFd + 'f>(own: impl IntoIterator<Item = (&'f F, RawFd)>) -> Self {
        let own = own.into_iter().map(|(fd, number)| Entry {
            source: fd.as_fd().as_raw_fd(),
            number,
            lasts: Lasts::PastExec,
        });
        FdTable {
            entries: own.collect(),
        }
    }

    /// The number that `fd` will have. It must stay open until the child has been cloned.
    pub(crate) fn add(&mut self, fd: impl AsFd, lasts: Lasts) -> i32 {
        let number = self.reserve();
        self.fill(number, fd);
        if let Some(entry) = self.entries.last_mut() {
            entry.lasts = lasts;
        }
        number
    }

    /// A number whose fd, which lasts until execve(2), is given later by [`fill`](Self::fill).
    pub(crate) fn reserve(&mut self) -> i32 {
        let [number, _] = self.lowest_free();
        self.entries.push(Entry {
            source: -1,
            number,
            lasts: Lasts::UntilExec,
        });
        number
    }

    pub(crate) fn fill(&mut self, number: i32, fd: impl AsFd) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.number == number) {
            entry.source = fd.as_fd().as_raw_fd();
        }
    }

    /// The two lowest numbers that are free, which the child's next fds have.
    pub(crate) fn lowest_free(&self) -> [i32; 2] {
        let taken = |number: &i32| self.entries.iter().any(|entry| entry.number == *number);
        let mut free = (0..).filter(|number| !taken(number));
        [(); 2].map(|()| free.next().unwrap_or(RawFd::MAX))
    }

    /// Appends what moves every fd to its number and closes all others.
    pub(crate) fn compile(&self, program: &mut Program) {
        let step = "move a file descriptor";
        let wanted: Vec<_> = self.entries.iter().map(|e| (e.source, e.number)).collect();
        for (from, to) in moves(&wanted) {
            let entry = self.entries.iter().find(|entry| entry.number == to);
            let close = entry.is_none_or(|entry| entry.lasts == Lasts::UntilExec);
            if from == to {
                let flag = Arg::flags(if close { libc::FD_CLOEXEC } else { 0 });
                let args = [Arg::fd(from), Arg::flags(libc::F_SETFD), flag];
                program.op(call!(SYS_fcntl), args, step);
            } else {
                let flag = Arg::flags(if close { libc::O_CLOEXEC } else { 0 });
                program.op(call!(SYS_dup3), [Arg::fd(from), Arg::fd(to), flag], step);
            }
        }
        let numbers = self.entries.iter().map(|entry| entry.number);
        for (first, last) in gaps(0, numbers) {
            let args = [Arg::Int(first.into()), Arg::Int(last.into()), Arg::Int(0)];
            program.op(call!(SYS_close_range), args, "close the caller's fds");
        }
    }
}

/// The ranges of numbers from `start` on that are none of `numbers`, last ones included.
pub(crate) fn gaps(start: u32, numbers: impl IntoIterator<Item = RawFd>) -> Vec<(u32, u32)> {
    let mut numbers: Vec<_> = numbers
        .into_iter()
        .filter_map(|number| u32::try_from(number).ok())
        .collect();
    numbers.sort_unstable();
    let mut ranges = Vec::new();
    let mut next = start;
    for number in numbers.into_iter().filter(|&number| number >= start) {
        if number > next {
            ranges.push((next, number - 1));
        }
        next = number + 1;
    }
    ranges.push((next, u32::MAX));
    ranges
}

/// Moves that bring each first number to its second, in an order in which none overwrites an fd that is still to be moved.
fn moves(wanted: &[(RawFd, RawFd)]) -> Vec<(RawFd, RawFd)> {
    let mut pending = wanted.to_vec();
    let mut done = Vec::with_capacity(pending.len() + 1);
    let taken = |number| {
        wanted
            .iter()
            .any(|&(from, to)| from == number || to == number)
    };
    let mut spare = 0;
    while !pending.is_empty() {
        let needed = |number, but| {
            pending
                .iter()
                .enumerate()
                .any(|(at, &(from, _))| at != but && from == number)
        };
        let free = (0..pending.len()).find(|&at| !needed(pending[at].1, at));
        if let Some(at) = free {
            done.push(pending.swap_remove(at));
            continue;
        }
        // Only circles are left. The first one is opened by moving what its target number holds out of the way.
        while taken(spare) {
            spare += 1;
        }
        let blocked = pending[0].1;
        done.push((blocked, spare));
        for (from, _) in pending.iter_mut().filter(|(from, _)| *from == blocked) {
            *from = spare;
        }
        spare += 1;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// What a table of fds named by themselves looks like after the moves, at the numbers asked for.
    fn apply(wanted: &[(RawFd, RawFd)]) -> Vec<RawFd> {
        let mut table: BTreeMap<RawFd, RawFd> = wanted.iter().map(|&(fd, _)| (fd, fd)).collect();
        for (from, to) in moves(wanted) {
            let moved = table[&from];
            table.insert(to, moved);
        }
        wanted.iter().map(|(_, number)| table[number]).collect()
    }

    fn in_order(sources: &[RawFd]) -> Vec<(RawFd, RawFd)> {
        sources.iter().copied().zip(0..).collect()
    }

    #[test]
    fn every_fd_arrives_whatever_the_order() {
        let cases: [&[RawFd]; 8] = [
            &[],
            &[0, 1, 2],
            &[1, 0],
            &[1, 2, 0],
            &[7, 7, 7],
            &[1, 0, 3, 2, 5, 4],
            &[2, 2, 0, 4, 3],
            &[9, 3, 1, 0, 2, 17],
        ];
        for sources in cases {
            let wanted = in_order(sources);
            assert_eq!(apply(&wanted), sources, "{:?}", moves(&wanted));
        }
        let wanted = [(5, 0), (0, 9), (9, 5), (3, 100), (100, 3), (4, 4)];
        assert_eq!(apply(&wanted), [5, 0, 9, 3, 100, 4], "{:?}", moves(&wanted));
    }

    #[test]
    fn every_permutation_of_six_arrives() {
        let mut order = vec![0, 1, 2, 3, 4, 5];
        let mut counters = [0; 6];
        let mut at = 0;
        while at < 6 {
            assert_eq!(apply(&in_order(&order)), order);
            if counters[at] < at {
                order.swap(if at % 2 == 0 { 0 } else { counters[at] }, at);
                counters[at] += 1;
                at = 0;
            } else {
                counters[at] = 0;
                at += 1;
            }
        }
    }

    #[test]
    fn gaps_leave_out_what_is_in_use() {
        assert_eq!(gaps(0, [0, 1, 2]), [(3, u32::MAX)]);
        assert_eq!(gaps(3, [0, 1, 2]), [(3, u32::MAX)]);
        assert_eq!(gaps(3, [9, 2, 5]), [(3, 4), (6, 8), (10, u32::MAX)]);
    }
}
