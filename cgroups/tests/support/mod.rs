//! What the root tests share: cgroups whose end is checked, and tests that go on in a process of their own.
#![allow(dead_code, reason = "not every test binary uses all of it")]

use std::env;
use std::path::PathBuf;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_cgroups::{Cgroup, CgroupName, Hierarchy, Limits, Mode};
use cofferdam_testkit::{Need, have};

/// What tests name their cgroups with. At its end nothing may be left of them.
pub(crate) struct Scene {
    pub(crate) hierarchy: Hierarchy,
    pub(crate) prefix: String,
    next: AtomicU32,
}

impl Scene {
    pub(crate) fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        Scene {
            hierarchy: Hierarchy::detect().unwrap(),
            prefix: format!("cofferdam-{}-{number}-", process::id()),
            next: AtomicU32::new(1),
        }
    }

    pub(crate) fn name(&self) -> CgroupName {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        CgroupName::new(format!("{}{number}", self.prefix)).unwrap()
    }

    pub(crate) fn create(&self, limits: Limits) -> Cgroup {
        self.hierarchy.create(&self.name(), &limits).unwrap()
    }

    pub(crate) fn left(&self) -> Vec<PathBuf> {
        self.hierarchy.find(&self.prefix).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let left = self.left();
        for path in &left {
            let cgroup = self.hierarchy.open([path]).unwrap();
            cgroup.kill().unwrap();
            cgroup.remove().unwrap();
        }
        assert!(thread::panicking() || left.is_empty(), "left: {left:?}");
    }
}

/// Whether the machine has these controllers in v2.
pub(crate) fn unified(controllers: &[&'static str]) -> bool {
    let needs: Vec<_> = controllers
        .iter()
        .map(|name| Need::Cgroup2Controller(name))
        .collect();
    have(&[Need::Root, Need::Cgroup2]) && have(&needs)
}

pub(crate) fn is_unified() -> bool {
    Hierarchy::detect().is_ok_and(|found| found.mode() == Mode::Unified)
}

/// Root, and on this machine's kind of hierarchy these controllers.
pub(crate) fn have_controllers(names: &[&'static str]) -> bool {
    let unified = is_unified();
    let on = |name| match unified {
        true => Need::Cgroup2Controller(name),
        false => Need::Cgroup1Controller(name),
    };
    have(&[Need::Root]) && names.iter().all(|name| have(&[on(name)]))
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The test `name` alone in a process of its own, with an argument; there [`argument`] gives it.
pub(crate) fn alone(name: &str, argument: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ARGUMENT, argument);
    command
}

/// Runs it to a good end.
pub(crate) fn succeeds_alone(name: &str, argument: &str) {
    let output = alone(name, argument).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "alone: {text}");
    assert!(text.contains("1 passed"), "alone: {text}");
}

pub(crate) fn argument() -> Option<String> {
    env::var(ARGUMENT).ok()
}

const ARGUMENT: &str = "COFFERDAM_CGROUPS_ALONE";

/// The name of the test it is called in. The thread has not got it where tests run one after the other.
#[allow(unused_macros, reason = "not every test binary uses it")]
macro_rules! this_test {
    () => {{
        fn here() {}
        let path = std::any::type_name_of_val(&here);
        path.split("::").nth(1).unwrap()
    }};
}
#[allow(unused_imports, reason = "not every test binary uses it")]
pub(crate) use this_test;
