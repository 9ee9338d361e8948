//! How long the kernel takes to load the default filter. The floor is a filter of one instruction.

use std::time::Duration;

use cofferdam::namespaces::{Capabilities, Instruction, Seccomp};

use crate::{row, sys};

/// Each load is on a thread of its own, for a filter stays as long as its thread.
pub(crate) fn rows(rounds: usize) {
    let capabilities = Capabilities::docker_default();
    let default = Seccomp::docker_default();
    let ours = default.instructions(capabilities).unwrap();
    let one = |filter: &[Instruction]| -> Duration {
        std::thread::scope(|scope| scope.spawn(|| sys::load_filter(filter)).join()).unwrap()
    };
    // BPF_RET | BPF_K, SECCOMP_RET_ALLOW
    let floor = [Instruction {
        code: 6,
        jt: 0,
        jf: 0,
        k: 0x7fff_0000,
    }];
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        times[0].push(one(&ours));
        times[1].push(one(&floor));
    }
    for (who, times) in ["ours", "floor"].iter().zip(times) {
        row("seccomp/load", who, times);
    }
}
