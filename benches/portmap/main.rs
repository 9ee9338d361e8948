//! What published ports cost: to publish and unpublish them, and the first packet of each flow to one.
//!
//! `cargo bench --bench portmap [-- --quick] [publish|flow]`; needs `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`. A line for each:
//! `row <id> <who> min=<n> p50=<n> unit=us`. All of it is in network namespaces of the bench's own.
//!
//! `floor` is nf_tables' own work: transactions that were encoded before the clock ran, for a table of one map and one rule.
//! `netavark` is a whole `netavark setup` or `teardown` with that many ports, bridge and veth included: it has no smaller step. Its
//! time grows with more than the number of ports, so that its rows are of 100 where ours are of 1,000 and 10,000.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints its figures and stops where it cannot measure"
)]

mod floor;
mod flow;
mod netavark;
mod publish;
mod raw;

use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let all = !["publish", "flow"].into_iter().any(has);
    let quick = has("--quick");
    if all || has("publish") {
        publish::rows(quick);
    }
    if all || has("flow") {
        flow::rows(quick);
    }
}

fn row(id: &str, who: &str, mut samples: Vec<Duration>) {
    samples.sort();
    let us = |sample: Duration| sample.as_secs_f64() * 1e6;
    let (min, p50) = (us(samples[0]), us(samples[samples.len() / 2]));
    println!("row {id} {who} min={min:.1} p50={p50:.1} unit=us");
}
