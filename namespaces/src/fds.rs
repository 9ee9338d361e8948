//! Which fd becomes which number in the child, and the calls that make it so.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use crate::program::{Arg, Program, call};

/// Fds the child is to find at 0, 1, 2 and so on, without a gap.
#[derive(Debug, Default)]
pub(crate) struct FdTable {
    sources: Vec<RawFd>,
    close_at_exec: Vec<bool>,
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
    /// The number that `fd` will have. It must stay open until the child has been cloned.
    pub(crate) fn add(&mut self, fd: impl AsFd, lasts: Lasts) -> i32 {
        let number = self.first_free();
        self.sources.push(fd.as_fd().as_raw_fd());
        self.close_at_exec.push(lasts == Lasts::UntilExec);
        number
    }

    /// A number whose fd, which lasts until execve(2), is given later by [`fill`](Self::fill).
    pub(crate) fn reserve(&mut self) -> i32 {
        let number = self.first_free();
        self.sources.push(-1);
        self.close_at_exec.push(true);
        number
    }

    pub(crate) fn fill(&mut self, number: i32, fd: impl AsFd) {
        if let Some(source) = usize::try_from(number)
            .ok()
            .and_then(|at| self.sources.get_mut(at))
        {
            *source = fd.as_fd().as_raw_fd();
        }
    }

    /// The number after the last.
    pub(crate) fn first_free(&self) -> i32 {
        i32::try_from(self.sources.len()).unwrap_or(i32::MAX)
    }

    /// Appends what moves every fd to its number and closes all others.
    pub(crate) fn compile(&self, program: &mut Program) {
        let step = "move a file descriptor";
        for (from, to) in moves(&self.sources) {
            let close = usize::try_from(to)
                .ok()
                .and_then(|to| self.close_at_exec.get(to));
            let close = close.copied().unwrap_or(true);
            if from == to {
                let flag = Arg::flags(if close { libc::FD_CLOEXEC } else { 0 });
                let args = [Arg::fd(from), Arg::flags(libc::F_SETFD), flag];
                program.op(call!(SYS_fcntl), args, step);
            } else {
                let flag = Arg::flags(if close { libc::O_CLOEXEC } else { 0 });
                program.op(call!(SYS_dup3), [Arg::fd(from), Arg::fd(to), flag], step);
            }
        }
        let args = [
            Arg::fd(self.first_free()),
            Arg::Int(u32::MAX.into()),
            Arg::Int(0),
        ];
        program.op(call!(SYS_close_range), args, "close the caller's fds");
    }
}

/// Moves that bring `sources[n]` to `n`, in an order in which none overwrites an fd that is still to be moved.
fn moves(sources: &[RawFd]) -> Vec<(RawFd, RawFd)> {
    let mut pending: Vec<_> = sources.iter().copied().zip(0..).collect();
    let mut done = Vec::with_capacity(pending.len() + 1);
    let highest = sources.iter().copied().max().unwrap_or(0);
    let mut spare = pending.len().try_into().unwrap_or(RawFd::MAX);
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
        while spare <= highest && sources.contains(&spare) {
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

    /// What a table of fds named by themselves looks like after the moves.
    fn apply(sources: &[RawFd]) -> Vec<RawFd> {
        let mut table: BTreeMap<RawFd, RawFd> = sources.iter().map(|&fd| (fd, fd)).collect();
        for (from, to) in moves(sources) {
            let moved = table[&from];
            table.insert(to, moved);
        }
        (0..)
            .take(sources.len())
            .map(|number| table[&number])
            .collect()
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
            assert_eq!(apply(sources), sources, "{:?}", moves(sources));
        }
    }

    #[test]
    fn every_permutation_of_six_arrives() {
        let mut order = vec![0, 1, 2, 3, 4, 5];
        let mut counters = [0; 6];
        let mut at = 0;
        while at < 6 {
            assert_eq!(apply(&order), order);
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
}
