//! What names cost: queries a second and CPU time of the server for each, by dnsperf; what containers cost in memory; how
//! long a name takes while an upstream is dead; and how many containers come and go. Beside it the floor, a bare echo of datagrams in batches, and other
//! servers on the same loopback.
//!
//! `cargo bench --bench dns [-- --quick] [local|forward|many|churn]`, as root, with dnsperf; peers are aardvark-dns, unbound and
//! dnsmasq. A line for each: `row <id> <who> min=<n> p50=<n> unit=<u>`. Of queries a second, min is the worst round.
//! All of it is in a network and a mount namespace of its own.
#![allow(clippy::print_stdout, reason = "this is what it is for")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

mod churn;
mod client;
mod echo;
mod forward;
mod local;
mod many;
mod peers;
mod sys;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use cofferdam_testkit::{NetNs, in_mount_namespace};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let all = !["local", "forward", "many", "churn"].into_iter().any(has);
    let quick = has("--quick");
    in_world(|world| {
        if all || has("local") {
            local::rows(world, quick);
        }
        if all || has("forward") {
            forward::rows(world, quick);
        }
        if all || has("many") {
            many::rows(quick);
        }
        if all || has("churn") {
            churn::rows(quick);
        }
    });
}

/// Where everything happens: a loopback, and a directory for files.
struct World {
    netns: NetNs,
    files: PathBuf,
}

/// Runs `work` in a mount namespace of its own, in which /etc/resolv.conf names the upstream of [`forward`], and /run is
/// empty: servers that are peers look there.
fn in_world(work: impl FnOnce(&World) + Send) {
    in_mount_namespace(|| {
        let files = PathBuf::from("/run");
        let none = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &files, "tmpfs", none, None).unwrap();
        let resolv_conf = files.join("resolv.conf");
        fs::write(
            &resolv_conf,
            format!("nameserver {}\n", forward::UPSTREAM.ip()),
        )
        .unwrap();
        rustix::mount::mount_bind(&resolv_conf, "/etc/resolv.conf").unwrap();
        let netns = NetNs::new();
        work(&World { netns, files });
    });
}

/// What one server did in all rounds.
#[derive(Default)]
struct Samples {
    qps: Vec<f64>,
    cpu: Vec<f64>,
}

fn row(id: &str, who: &str, unit: &str, samples: &mut [f64]) {
    samples.sort_by(f64::total_cmp);
    let Some(min) = samples.first() else {
        println!("row {id} {who} absent");
        return;
    };
    let p50 = samples[samples.len() / 2];
    println!("row {id} {who} min={min:.0} p50={p50:.0} unit={unit}");
}

fn rest() {
    std::thread::sleep(Duration::from_millis(100));
}
