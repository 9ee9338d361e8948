//! Who a program runs as.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use cofferdam_namespaces::{Command, ErrorKind, IdMap, RootFs, User};
use cofferdam_testkit::{Need, have};

use crate::support::{Scratch, is_emulated, output, refused, rooted};

/// The payload: what setgroups(2) says to one that would give up its groups.
pub(crate) fn drop_groups() -> String {
    let outcome = rustix::thread::set_thread_groups(&[]);
    format!("{:?}", outcome.map_err(|error| error.raw_os_error()))
}

#[test]
fn cve_2014_8989_groups_cannot_be_given_up_with_a_map_of_ones_own() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for init in [false, true] {
        let mapped = |what: &str| rooted(what).init(init).id_map(IdMap::current_user());
        assert_eq!(output(mapped("read /proc/self/setgroups")), "deny\n");
        assert_eq!(output(mapped("drop-groups")), "Err(1)");
    }
}

#[test]
fn cve_2026_30892_a_user_that_is_not_understood_is_nobody_and_never_root() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    // What cannot even be a name is refused where it is parsed, which has a test of its own.
    // What could be a name is one, in a root that knows none of them, or says nothing a number is made of.
    let root = Scratch::new("users");
    fs::create_dir(root.0.join("etc")).unwrap();
    fs::write(
        root.0.join("etc/passwd"),
        "odd:x:0x0:0::/:\nempty:x::::/:\n",
    )
    .unwrap();
    for user in [
        "abc",
        "0x10",
        "1000:abc",
        "1000:0x10",
        "0.0",
        "odd",
        "empty",
    ] {
        let command = Command::new("/nothing").root(RootFs::directory(&root.0));
        let error = refused(command.user(user.parse().unwrap()));
        let kinds = [ErrorKind::NotFound, ErrorKind::InvalidInput];
        let of_exec = error.to_string().contains("execve");
        assert!(kinds.contains(&error.kind()) && !of_exec, "{user}: {error}");
    }
    // To setresuid(2) this one means "as before".
    for user in [User::id(u32::MAX, 1), User::id(1, u32::MAX)] {
        assert_eq!(
            refused(rooted("").user(user)).kind(),
            ErrorKind::InvalidInput
        );
    }
}

#[test]
fn cve_2019_14271_names_are_looked_up_without_code_or_patience_of_the_callers() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let root = Scratch::new("accounts");
    fs::create_dir(root.0.join("etc")).unwrap();
    // As large as it says, and nothing on the disk.
    let passwd = File::create(root.0.join("etc/passwd")).unwrap();
    passwd.set_len(1 << 30).unwrap();
    let command = Command::new("/nothing").root(RootFs::directory(&root.0));
    let command = command.user("app".parse().unwrap());
    let took = |_| {
        let start = Instant::now();
        let error = refused(command.clone());
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains("larger than 16 MiB"), "{error}");
        start.elapsed()
    };
    // The best of some, as others are busy too; an emulated machine is given ten times as long.
    let limit = Duration::from_millis(if is_emulated() { 1000 } else { 100 });
    let best = (0..10).map(took).min().unwrap();
    assert!(best < limit, "{best:?}");
    // No library of the root's is loaded for a name: there are none, and it is found.
    fs::write(root.0.join("etc/passwd"), "app:x:1000:1000::/:\n").unwrap();
    fs::write(root.0.join("etc/nsswitch.conf"), "passwd: evil\n").unwrap();
    let error = refused(command);
    assert!(error.to_string().contains("execve /nothing"), "{error}");
}
