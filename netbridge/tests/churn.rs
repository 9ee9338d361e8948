//! Many attach and detach at once while another process makes and deletes links: alone in its binary, as it is busy.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use cofferdam_netbridge::{Attachment, Bridge, Inspect, NetNs, Pools, Port, links};
use cofferdam_testkit::{Need, have, turns};

/// Tells the re-executed test binary that it is the process that churns.
const CHURN: &str = "COFFERDAM_TEST_CHURN";

#[test]
fn two_hundred_at_once_fail_for_no_reason_and_every_thread_stays_where_it_is() {
    if std::env::var_os(CHURN).is_some() {
        return churn();
    }
    if !have(&[Need::Namespaces]) {
        return;
    }
    cofferdam_testkit::NetNs::new().run(|| {
        let world = NetNs::of_caller().unwrap();
        let subnet = "10.5.0.1/16".parse().unwrap();
        let bridge = Bridge::builder("br0".parse().unwrap()).address(subnet);
        let bridge = bridge.create().unwrap();
        let before = links().unwrap().len();
        let churning = Churning::start();
        let (total, next) = (turns(200, 24), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let here = NetNs::new().unwrap();
                    here.run(|| {
                        let mut attached = Vec::new();
                        while let Some(n) =
                            Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < total)
                        {
                            attached.extend(cycle(&bridge, &world, &here, n));
                        }
                        detach(&bridge, &here, attached);
                    })
                    .unwrap();
                });
            }
        });
        let made = churning.stop();
        assert!(
            made > turns(20, 4),
            "the other process made only {made} links"
        );
        assert_eq!(links().unwrap().len(), before);
    });
}

/// One attach, questions, a panic inside, and of every fourth a detach, which takes the kernel a while; `here` is where the
/// thread is, `world` where the bridge is.
fn cycle(bridge: &Bridge, world: &NetNs, here: &NetNs, n: usize) -> Option<(NetNs, Port)> {
    let netns = NetNs::new().unwrap();
    let address = format!("10.5.{}.{}/16", n / 200 + 1, n % 200 + 1);
    let attachment = Attachment::new(address.parse().unwrap());
    let port = bridge.attach(&netns, attachment).unwrap();
    // Dumps, while links come and go.
    let mut inspect = Inspect::of(world).unwrap();
    let listed = inspect.links().unwrap();
    assert!(listed.iter().any(|link| link.index == port.index()));
    world.run(|| Pools::default().pick("app").unwrap()).unwrap();
    let inside = AssertUnwindSafe(|| netns.run(|| std::panic::panic_any(n)));
    let panic = catch_unwind(inside).unwrap_err();
    assert_eq!(*panic.downcast::<usize>().unwrap(), n);
    assert_eq!(identity(&NetNs::of_caller().unwrap()), identity(here));
    match n % 12 {
        0 => port.remove().unwrap(),
        4 => bridge.detach_all([port]).unwrap(),
        8 => drop(port),
        _ => return Some((netns, port)),
    }
    assert_eq!(netns.run(|| links().unwrap().len()).unwrap(), 1);
    assert_eq!(identity(&NetNs::of_caller().unwrap()), identity(here));
    None
}

/// All the others of a thread at once.
fn detach(bridge: &Bridge, here: &NetNs, attached: Vec<(NetNs, Port)>) {
    let (namespaces, ports): (Vec<_>, Vec<_>) = attached.into_iter().unzip();
    bridge.detach_all(ports).unwrap();
    for netns in namespaces {
        assert_eq!(netns.run(|| links().unwrap().len()).unwrap(), 1);
    }
    assert_eq!(identity(&NetNs::of_caller().unwrap()), identity(here));
}

fn identity(netns: &NetNs) -> (u64, u64) {
    let stat = rustix::fs::fstat(netns.as_fd()).unwrap();
    (stat.st_dev, stat.st_ino)
}

/// The other process, which works in the network namespace of the thread that starts it.
struct Churning(Child);

impl Churning {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("two_hundred_at_once_fail_for_no_reason_and_every_thread_stays_where_it_is")
            .env(CHURN, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It says when it has begun.
        let stdout = child.stdout.as_mut().unwrap();
        let mut byte = [0];
        while byte != *b"!" {
            stdout.read_exact(&mut byte).unwrap();
        }
        Churning(child)
    }

    /// How many links it made.
    fn stop(mut self) -> usize {
        drop(self.0.stdin.take());
        let mut said = String::new();
        let stdout = self.0.stdout.as_mut().unwrap();
        stdout.read_to_string(&mut said).unwrap();
        assert!(self.0.wait().unwrap().success(), "{said}");
        let made = said.split('=').nth(1).unwrap();
        let digits: String = made.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    }
}

/// Makes and deletes links, addresses and routes until its input ends.
fn churn() {
    let mut stdout = std::io::stdout();
    stdout.write_all(b"!").unwrap();
    stdout.flush().unwrap();
    let done = thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()).unwrap());
    let mut made = 0;
    while !done.is_finished() {
        for n in 0..4 {
            let name = format!("churn{n}").parse().unwrap();
            let address = format!("10.{}.0.1/24", 100 + n).parse().unwrap();
            let bridge = Bridge::builder(name).address(address).create().unwrap();
            let netns = NetNs::new().unwrap();
            let inside = format!("10.{}.0.2/24", 100 + n).parse().unwrap();
            let port = bridge.attach(&netns, Attachment::new(inside)).unwrap();
            bridge.detach_all([port]).unwrap();
            made += 2;
        }
    }
    stdout
        .write_all(format!("made={made}\n").as_bytes())
        .unwrap();
}
