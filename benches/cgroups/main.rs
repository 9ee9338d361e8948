//! How long the work with a cgroup takes. Beside it the floor, raw calls on the same kernel files and no others; and
//! cgroups-rs, doing the same.
//!
//! `cargo bench --bench cgroups [-- --quick]`, as root. A line for each: `row <id> <who> min=<n> p50=<n> unit=<u>`.
#![allow(clippy::print_stdout, reason = "this is what it is for")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

/// An allocator that counts.
mod counting {
    pub(crate) mod sys;
}
mod create;
mod start;
mod stats;
mod sys;

use std::time::Duration;

#[global_allocator]
static COUNTING: counting::sys::Counting = counting::sys::Counting;

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    stats::rows(if quick { 200 } else { 2000 });
    create::rows(if quick { 50 } else { 500 }, if quick { 15 } else { 100 });
    start::rows(if quick { 20 } else { 150 });
}

/// An id, who does it, and how it is done once.
type Side<'s> = (&'s str, &'s str, &'s mut dyn FnMut() -> Duration);

/// A row for each side, measured in turns, with a pause before each turn.
fn in_turns(rounds: usize, pause: Duration, sides: &mut [Side<'_>]) {
    let mut times = vec![Vec::new(); sides.len()];
    for round in 0..rounds {
        for turn in 0..sides.len() {
            // Whoever goes next finds the other's leftovers: everybody comes first in some round.
            let side = (turn + round) % sides.len();
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            times[side].push(sides[side].2());
        }
    }
    for ((id, who, _), times) in sides.iter().zip(times) {
        row(id, who, times);
    }
}

fn row(id: &str, who: &str, mut times: Vec<Duration>) {
    times.sort();
    let micros = |at: usize| times[at].as_secs_f64() * 1e6;
    let (min, middle) = (micros(0), micros(times.len() / 2));
    println!("row {id} {who} min={min:.2} p50={middle:.2} unit=us");
}

/// A row of something that is counted once.
fn count_row(id: &str, who: &str, count: u64) {
    println!("row {id} {who} min={count} p50={count} unit=count");
}
