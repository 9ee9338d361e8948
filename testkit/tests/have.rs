//! What a test hears of a need that is not met. Each case is this binary once more, with an environment of its own.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::env;
use std::process::{Command, Output};

use cofferdam_testkit::{Need, have};

const PROBE: &str = "COFFERDAM_TESTKIT_PROBE";

/// Not a test by itself: what the others run.
#[test]
fn probe() {
    let need = match env::var(PROBE).as_deref() {
        Ok("promised") => Need::Filesystem("nosuchfs"),
        Ok("never promised") => Need::Cgroup1Controller("nosuchcontroller"),
        Ok("met") => Need::Filesystem("proc"),
        _ => return,
    };
    assert_eq!(
        have(&[Need::Filesystem("proc"), need]),
        need == Need::Filesystem("proc")
    );
}

fn probed(case: &str, strict: bool) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "probe"]).env(PROBE, case);
    command.env("COFFERDAM_STRICT", if strict { "1" } else { "0" });
    command.output().unwrap()
}

#[test]
fn a_skip_is_seen_though_the_test_passes() {
    let output = probed("promised", false);
    assert!(output.status.success());
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(printed, "SKIP probe: needs Filesystem(\"nosuchfs\")\n");
}

#[test]
fn a_strict_run_fails_where_it_would_skip_what_was_promised() {
    let output = probed("promised", true);
    assert!(!output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains("probe needs Filesystem(\"nosuchfs\")"),
        "{printed}"
    );
    assert!(probed("never promised", true).status.success());
}

#[test]
fn what_is_there_skips_nothing() {
    let output = probed("met", true);
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
