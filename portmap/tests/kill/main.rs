//! A process that is killed between any two system calls of publish, and what a reconcile after it finds.

#![expect(
    clippy::unwrap_used,
    reason = "fixtures panic where they cannot do their work"
)]

mod sys;
#[allow(dead_code, reason = "other tests share it")]
#[path = "../world/mod.rs"]
mod world;

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use cofferdam_portmap::{NetworkSpec, PortMapping, Portmap, Ruleset};
use cofferdam_testkit::{Need, NetNs, have, is_emulated};
use sys::Stop;
use world::{WEB, elements, rules, tables};

const TABLE: &str = "cofferdam";
const STEPPED: &str = "COFFERDAM_PORTMAP_STEPPED";

fn ports() -> Vec<PortMapping> {
    ["8080:80", "127.0.0.1:8081:80", "53:53/udp"]
        .map(|text| PortMapping::of_spec(&text.parse().unwrap(), WEB.into()).unwrap())
        .to_vec()
}

fn network() -> NetworkSpec {
    NetworkSpec::new("br0")
        .unwrap()
        .subnet("10.1.0.0/24".parse().unwrap())
}

fn declared() -> Ruleset {
    let mut ruleset = Ruleset::new(TABLE).unwrap();
    ruleset.network(network()).unwrap();
    for port in ports() {
        ruleset.publish(port).unwrap();
    }
    ruleset
}

/// What the child does: not a test, unless it is started by one.
#[test]
fn publish_when_told() {
    if env::var_os(STEPPED).is_none() {
        return;
    }
    let portmap = Portmap::open(TABLE).unwrap();
    let thread = rustix::thread::gettid().as_raw_nonzero();
    let line = format!("\nthread {thread}\n");
    let mut out = std::io::stdout();
    out.write_all(line.as_bytes()).unwrap();
    out.flush().unwrap();
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let published = portmap.publish_all(ports()).unwrap();
    published.persist();
    portmap.network(network()).unwrap().persist();
    std::process::exit(0);
}

/// Starts the child in the namespace, and stops it where it waits to be told.
fn stopped(netns: &NetNs) -> (Child, i32) {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "publish_when_told", "--nocapture"])
        .env(STEPPED, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = netns.run(|| command.spawn()).unwrap();
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let thread = lines
        .map(|line| line.unwrap())
        .find_map(|line| line.strip_prefix("thread ")?.parse().ok())
        .unwrap();
    sys::seize(thread).unwrap();
    assert_eq!(sys::wait(thread).unwrap(), Stop::Other);
    (child, thread)
}

/// Kills a child at the `step`th beginning or end of a system call. False if it had ended before.
fn killed_at(netns: &NetNs, step: usize) -> bool {
    let (mut child, thread) = stopped(netns);
    child.stdin.as_mut().unwrap().write_all(b"!").unwrap();
    let mut seen = 0;
    let alive = loop {
        if seen == step {
            break true;
        }
        sys::go_on(thread).unwrap();
        match sys::wait(thread).unwrap() {
            Stop::Syscall => seen += 1,
            Stop::Other => {}
            Stop::Ended => break false,
        }
    };
    if alive {
        child.kill().unwrap();
        // Its process is not over before its tracer has heard of it.
        while sys::wait(thread).unwrap() != Stop::Ended {}
    }
    child.wait().unwrap();
    alive
}

/// That the kernel has what is declared, once, and nothing is left of who was killed.
fn check(netns: &NetNs, portmap: &Portmap, step: usize) {
    assert_eq!(portmap.list().unwrap(), declared(), "step {step}");
    assert_eq!(rules(netns), 28, "step {step}");
    for (set, count) in [
        ("ports4_any", 2),
        ("ports4", 1),
        ("bridges", 1),
        ("open", 1),
    ] {
        assert_eq!(elements(netns, TABLE, set), count, "{set}, step {step}");
    }
    assert_eq!(tables(netns), [TABLE], "step {step}");
    netns.run(|| {
        TcpListener::bind("0.0.0.0:8080").unwrap();
        TcpListener::bind("127.0.0.1:8081").unwrap();
    });
}

#[test]
fn killed_between_any_two_calls_of_publish_it_is_all_there_after_a_reconcile() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    let stride = if is_emulated() { 4 } else { 1 };
    let (mut nothing, mut ports, mut all) = (0, 0, 0);
    let mut steps = (0..).step_by(stride);
    let last = loop {
        let step = steps.next().unwrap();
        if !killed_at(&netns, step) {
            break step;
        }
        // All of a call, or nothing of it.
        let found = portmap.list().unwrap();
        match (found.ports().count(), found.networks().count()) {
            (0, 0) => nothing += 1,
            (3, 0) => ports += 1,
            (3, 1) => all += 1,
            other => panic!("step {step}: {other:?} ports and networks"),
        }
        let repaired = portmap.reconcile(&declared()).unwrap();
        assert_eq!(repaired.removed, 0);
        check(&netns, &portmap, step);
        assert!(portmap.reconcile(&declared()).unwrap().is_nothing());
        portmap.delete_table().unwrap();
    };
    assert!(
        nothing > 0 && ports > 0 && all > 0,
        "{nothing}, {ports}, {all}"
    );
    assert!(last > 20, "{last} steps only");
    // What it published and nobody declares goes, too.
    portmap.reconcile(&Ruleset::new(TABLE).unwrap()).unwrap();
    assert_eq!(tables(&netns), [""; 0]);
}
