//! Containers that outlive their handle.

use std::time::Duration;

use cofferdam::{ErrorKind, Reference, Running, reap_in};
use cofferdam_testkit::{Need, have};

use crate::{Dir, UNTIL_TOLD, runs, shell};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn drop_kills_and_leaves_no_record() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let dir = Dir::new("drop");
    let web = shell("web", UNTIL_TOLD)
        .runtime_dir(&dir.0)
        .start()
        .unwrap();
    let pid = web.pid();
    assert!(runs(pid));
    assert_eq!(dir.records().len(), 1);
    drop(web);
    assert!(!runs(pid));
    assert!(dir.records().is_empty());
}

#[test]
fn a_start_that_fails_leaves_no_record() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let dir = Dir::new("fails");
    let web = shell("web", "true").command("/no/such").runtime_dir(&dir.0);
    assert_eq!(web.start().unwrap_err().kind(), ErrorKind::NotFound);
    assert!(dir.records().is_empty());
}

#[test]
fn a_runtime_directory_that_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    if !have(&[Need::Namespaces]) {
        return;
    }
    let dir = Dir::new("open");
    std::fs::create_dir(&dir.0).unwrap();
    std::fs::set_permissions(&dir.0, std::fs::Permissions::from_mode(0o777)).unwrap();
    let web = shell("web", "true").runtime_dir(&dir.0);
    let error = web.start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains("only the caller"), "{error}");
    assert_eq!(
        reap_in(&dir.0).unwrap_err().kind(),
        ErrorKind::PermissionDenied
    );
}

#[test]
fn a_detached_container_lives_on_until_it_is_attached_to() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let dir = Dir::new("detach");
    let web = shell("web", UNTIL_TOLD)
        .runtime_dir(&dir.0)
        .start()
        .unwrap();
    let pid = web.pid();
    let text = web.detach().unwrap().to_string();
    assert!(runs(pid));
    assert!(reap_in(&dir.0).unwrap().removed.is_empty());
    assert!(runs(pid), "reap leaves what is to live on");

    let reference: Reference = text.parse().unwrap();
    let web = Running::attach(&reference).unwrap();
    assert_eq!((web.pid(), web.name()), (pid, "web"));
    let error = Running::attach(&reference).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    let output = web.exec("sh").args(["-c", "echo inside"]).output().unwrap();
    assert_eq!(output.stdout, b"inside\n");
    assert_eq!(web.stop(SOON).unwrap().code(), Some(7));
    let error = Running::attach(&reference).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[test]
fn a_reference_of_another_process_touches_nothing() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let dir = Dir::new("forged");
    let web = shell("web", UNTIL_TOLD)
        .runtime_dir(&dir.0)
        .start()
        .unwrap();
    let pid = web.pid();
    let reference = web.detach().unwrap();
    let text = reference.to_string();
    let words: Vec<_> = text.splitn(5, ' ').collect();
    let started: u64 = words[2].parse().unwrap();
    let forged = [
        // Its pid was another's, or is; it was started at another time; the machine was started since.
        format!(
            "{} {} {} {} {}",
            words[0],
            std::process::id(),
            words[2],
            words[3],
            words[4]
        ),
        format!(
            "{} {} {} {} {}",
            words[0],
            words[1],
            started + 1,
            words[3],
            words[4]
        ),
        format!(
            "{} {} {} {} {}",
            words[0], words[1], words[2], "another-boot", words[4]
        ),
        format!("{}x", text),
    ];
    for forged in forged {
        let error = Running::attach(&forged.parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{forged}: {error}");
        assert!(runs(pid));
    }
    let web = Running::attach(&reference).unwrap();
    drop(web);
    assert!(!runs(pid));
}

#[test]
fn what_a_detached_container_leaves_at_its_end_is_reaped() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let dir = Dir::new("ended");
    let web = shell("web", "sleep 0.2")
        .runtime_dir(&dir.0)
        .start()
        .unwrap();
    let pid = web.pid();
    let reference = web.detach().unwrap();
    while runs(pid) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let error = Running::attach(&reference).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let reaped = reap_in(&dir.0).unwrap();
    assert!(reaped.failed.is_empty(), "{:?}", reaped.failed);
    assert!(!reaped.removed.is_empty());
    assert!(dir.records().is_empty());
}
