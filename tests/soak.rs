//! The soak of the example, for some seconds. Alone in its binary, as it counts what the process has.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what it has done")]

#[path = "../examples/soak/run/mod.rs"]
mod run;

use cofferdam_testkit::{Need, have, turns};

#[test]
fn random_operations_of_many_threads_have_no_error_without_an_explanation() {
    if !have(&[Need::Root, Need::Namespaces, Need::Filesystem("overlay")]) {
        return;
    }
    let settings = run::Settings {
        seconds: turns(8, 3) as u64,
        ..run::Settings::default()
    };
    run::soak(&settings).unwrap();
}
