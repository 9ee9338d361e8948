//! Tests that run again as root of a user namespace.
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

use std::path::Path;
use std::process::Command;

use cofferdam_testkit::{Need, as_root_of_a_user_namespace, have, is_emulated, skip};
use rustix::fs::{XattrFlags, setxattr};

const VARIABLE: &str = "COFFERDAM_ROOTLESS";

/// Runs the test `name` of this binary as root of a user namespace with one id.
pub(crate) fn runs_there(name: &str) {
    if !have(&[Need::Namespaces, Need::Filesystem("overlay")]) {
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", name, "--nocapture"])
        .env(VARIABLE, "1");
    let output = as_root_of_a_user_namespace(&mut child).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{output:?}"
    );
}

/// Whether this is such a run: otherwise the test has nothing to do.
pub(crate) fn is_there() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Whether files at `path` can have marks of a user namespace; on tmpfs since Linux 6.6.
pub(crate) fn takes_user_marks(path: impl AsRef<Path>) -> bool {
    let takes = setxattr(path.as_ref(), "user.test", b"", XattrFlags::empty()).is_ok();
    if !takes {
        skip("user.* xattrs on tmpfs (Linux 6.6)", !is_emulated());
    }
    takes
}
