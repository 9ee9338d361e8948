//! How long it takes to connect containers and to disconnect them. Beside it the floor, the same requests to the kernel
//! with nothing around them; and netavark, where it is installed.
//!
//! `cargo bench --bench netbridge [-- --quick]`, as root. A line for each: `row <id> <who> min=<n> p50=<n> unit=<u>`.
#![allow(clippy::print_stdout, reason = "this is what it is for")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

mod attach;
mod floor;
mod netavark;
mod teardown;

use std::time::Duration;

use cofferdam::netbridge::NetNs;

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let many = if quick { 100 } else { 500 };
    let world = NetNs::new().unwrap();
    let rows = || {
        attach::rows(if quick { 20 } else { 100 }, many);
        netavark::rows(if quick { 5 } else { 20 });
        teardown::rows(if quick { 1 } else { 3 }, many);
    };
    world.run(rows).unwrap();
}

/// An id, who does it, and how it is done once.
type Side<'s> = (&'s str, &'s str, &'s mut dyn FnMut() -> Duration);

/// A row for each side, measured in turns.
fn in_turns(rounds: usize, sides: &mut [Side<'_>]) {
    let mut times = vec![Vec::new(); sides.len()];
    for round in 0..rounds {
        for turn in 0..sides.len() {
            // Whoever goes next finds the other's leftovers: everybody comes first in some round.
            let side = (turn + round) % sides.len();
            // The kernel is still taking down what the one before left.
            std::thread::sleep(Duration::from_millis(30));
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

/// A row of something that is counted.
fn count_row(id: &str, who: &str, mut counts: Vec<u32>) {
    counts.sort_unstable();
    let (min, middle) = (counts[0], counts[counts.len() / 2]);
    println!("row {id} {who} min={min} p50={middle} unit=count");
}
