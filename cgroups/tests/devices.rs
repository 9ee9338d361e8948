//! Device policies in the real kernel: what is denied fails with EPERM, and what is replaced has no gap.
#![expect(clippy::unwrap_used, reason = "helpers of tests unwrap as well")]

mod support;

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{self, Stdio};

use cofferdam_cgroups::{Cgroup, DeviceRule, Devices, ErrorKind, Hierarchy, Limits, Mode};
use cofferdam_testkit::{Need, Snapshot, have, in_mount_namespace, refuse_syscall};
use rustix::mount::UnmountFlags;
use support::{Scene, alone, argument, this_test};

fn rules(devices: Devices, rules: &[&str]) -> Devices {
    devices.rules(rules.iter().map(|rule| rule.parse::<DeviceRule>().unwrap()))
}

/// What a process in the cgroup may open: a line each of path and `r`, `w` or `rw`.
///
/// The processes are the test itself once more: it goes into the cgroup and answers what it is asked.
struct Inside {
    child: process::Child,
}

impl Inside {
    fn new(test: &str, cgroup: &Cgroup) -> Self {
        let paths: Vec<_> = cgroup.paths().map(|path| path.to_str().unwrap()).collect();
        let child = alone(test, &paths.join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut inside = Inside { child };
        inside.until('!');
        cgroup.add(inside.child.id()).unwrap();
        inside
    }

    fn may(&mut self, question: &str) -> bool {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{question}").unwrap();
        match self.until_one_of(&['+', '-', '?']) {
            '?' => panic!("{question}: another error"),
            answer => answer == '+',
        }
    }

    fn until(&mut self, one: char) {
        self.until_one_of(&[one]);
    }

    /// What the test harness prints comes before.
    fn until_one_of(&mut self, these: &[char]) -> char {
        let stdout = self.child.stdout.as_mut().unwrap();
        loop {
            let mut byte = [0];
            stdout.read_exact(&mut byte).unwrap();
            if byte[0] == b'@' {
                stdout.read_exact(&mut byte).unwrap();
                assert!(these.contains(&char::from(byte[0])));
                return char::from(byte[0]);
            }
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ended = self.child.wait().is_ok();
    }
}

/// The other side of [`Inside`], if this process is it.
fn answers() -> bool {
    if argument().is_none() {
        return false;
    }
    let say = |answer: &str| {
        let mut stdout = io::stdout();
        stdout.write_all(answer.as_bytes()).unwrap();
        stdout.flush().unwrap();
    };
    say("@!");
    for question in io::stdin().lines() {
        let question = question.unwrap();
        let (path, mode) = question.split_once(' ').unwrap();
        let opened = OpenOptions::new()
            .read(mode.contains('r'))
            .write(mode.contains('w'))
            .open(path);
        say(match opened {
            Ok(_) => "@+",
            Err(error) if error.raw_os_error() == Some(1) => "@-",
            Err(_) => "@?",
        });
    }
    true
}

fn here() -> bool {
    have(&[Need::Root, Need::Cgroup2])
}

#[test]
fn a_device_that_no_rule_allows_cannot_be_opened() {
    if answers() || !here() {
        return;
    }
    let scene = Scene::new();
    let policy = rules(Devices::deny_all(), &["c 1:3 rw", "c 1:5 r"]);
    let cgroup = scene.create(Limits::new().devices(policy));
    // By eBPF, on a hybrid machine too.
    assert_eq!(cgroup.paths().count(), 1);
    let mut inside = Inside::new(this_test!(), &cgroup);
    for (question, may) in [
        ("/dev/null rw", true),
        ("/dev/zero r", true),
        ("/dev/zero w", false),
        ("/dev/zero rw", false),
        ("/dev/random r", false),
        ("/dev/full r", false),
    ] {
        assert_eq!(inside.may(question), may, "{question}");
    }
    drop(inside);
    // It is the cgroup's, not this process's.
    assert!(OpenOptions::new().read(true).open("/dev/full").is_ok());
    cgroup.remove().unwrap();
}

#[test]
fn a_policy_is_replaced_again_and_again_and_only_one_is_attached() {
    if answers() || !here() {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    let mut inside = Inside::new(this_test!(), &cgroup);
    assert!(inside.may("/dev/full r"));
    // More than the 64 programs that a cgroup can have.
    for _ in 0..70 {
        cgroup.set_devices(&Devices::deny_all()).unwrap();
    }
    assert!(!inside.may("/dev/full r"));
    cgroup.set_devices(&Devices::docker_default()).unwrap();
    assert!(inside.may("/dev/full r"));
    cgroup
        .set_devices(&rules(Devices::allow_all(), &["deny c 1:7 w"]))
        .unwrap();
    assert!(inside.may("/dev/full r"));
    assert!(!inside.may("/dev/full rw"));
    drop(inside);
    // One that another process takes up is replaced all the same.
    let paths = cgroup.persist();
    let again = scene.hierarchy.open(paths).unwrap();
    again.set_devices(&Devices::allow_all()).unwrap();
    let mut inside = Inside::new(this_test!(), &again);
    assert!(inside.may("/dev/full rw"));
    drop(inside);
    again.remove().unwrap();
}

#[test]
fn a_child_cgroup_has_no_more_than_its_parent() {
    if answers() || !here() {
        return;
    }
    let scene = Scene::new();
    let outer =
        scene.create(Limits::new().devices(rules(Devices::allow_all(), &["deny c 1:7 rwm"])));
    let name = outer.path().file_name().unwrap();
    let parent = Path::new("/").join(name);
    let limits = Limits::new().devices(Devices::allow_all());
    let inner = scene
        .hierarchy
        .create_in(parent, &scene.name(), &limits)
        .unwrap();
    let mut inside = Inside::new(this_test!(), &inner);
    assert!(!inside.may("/dev/full r"));
    assert!(inside.may("/dev/zero r"));
    drop(inside);
    inner.remove().unwrap();
    outer.remove().unwrap();
}

#[test]
fn the_verifier_takes_the_longest_policy() {
    if answers() || !here() {
        return;
    }
    let scene = Scene::new();
    let kinds = ["allow c", "deny b", "deny c", "allow b"];
    let accesses = ["r", "w", "rw", "m", "wm"];
    let longest = (0..400_usize).map(|n| {
        let text = format!("{} {}:{} {}", kinds[n % 4], n % 7, n, accesses[n % 5]);
        text.parse().unwrap()
    });
    let policy = Devices::deny_all().rules(longest);
    let cgroup = scene.create(Limits::new().devices(policy));
    cgroup.remove().unwrap();
}

#[test]
fn a_policy_that_cannot_be_is_refused_before_any_change() {
    if answers() || !have(&[Need::Root]) {
        return;
    }
    let scene = Scene::new();
    let bad = DeviceRule::allow(
        cofferdam_cgroups::DeviceKind::Char,
        4096,
        None,
        cofferdam_cgroups::DeviceAccess::ALL,
    );
    let policy = Devices::deny_all().rule(bad);
    let error = scene
        .hierarchy
        .create(&scene.name(), &Limits::new().devices(policy.clone()))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(scene.left().is_empty());
    let cgroup = scene.create(Limits::new());
    let error = cgroup.set_devices(&policy).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    cgroup.remove().unwrap();
}

#[test]
fn without_bpf_the_v1_hierarchy_applies_it_or_nothing_is_made() {
    if answers() || !here() {
        return;
    }
    let scene = Scene::new();
    let limits = Limits::new().devices(rules(Devices::deny_all(), &["c 1:3 rw", "c *:* m"]));
    let made = std::thread::scope(|scope| {
        let refused = || {
            refuse_syscall(libc::SYS_bpf);
            scene.hierarchy.create(&scene.name(), &limits)
        };
        scope.spawn(refused).join().unwrap()
    });
    if !have(&[Need::Cgroup1Controller("devices")]) {
        let error = made.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("limit devices"), "{error}");
        assert!(scene.left().is_empty());
        return;
    }
    let cgroup = made.unwrap();
    assert_eq!(cgroup.paths().count(), 2);
    let list = cgroup
        .paths()
        .find_map(|path| fs::read_to_string(path.join("devices.list")).ok());
    let list = list.unwrap();
    assert_eq!(list, "c 1:3 rwm\nc *:* m\n");
    let mut inside = Inside::new(this_test!(), &cgroup);
    assert!(inside.may("/dev/null rw"));
    assert!(!inside.may("/dev/zero r"));
    drop(inside);
    cgroup.remove().unwrap();
}

#[test]
fn on_v1_alone_files_are_written_and_written_again() {
    if answers() || !have(&[Need::Root, Need::Cgroup1Controller("devices")]) {
        return;
    }
    in_mount_namespace(|| {
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        for line in mounts.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            if fields[2] == "cgroup2" {
                rustix::mount::unmount(fields[1], UnmountFlags::DETACH).unwrap();
            }
        }
        let scene = Scene::new();
        assert_eq!(scene.hierarchy.mode(), Mode::V1);
        let cgroup = scene.create(Limits::new().devices(Devices::docker_default()));
        let mut inside = Inside::new(this_test!(), &cgroup);
        assert!(inside.may("/dev/full rw"));
        cgroup
            .set_devices(&rules(Devices::allow_all(), &["deny c 1:7 w"]))
            .unwrap();
        assert!(inside.may("/dev/full r"));
        assert!(!inside.may("/dev/full w"));
        cgroup.set_devices(&Devices::deny_all()).unwrap();
        assert!(!inside.may("/dev/full r"));
        drop(inside);
        cgroup.remove().unwrap();
    });
}

#[test]
fn without_the_capability_it_is_named_and_nothing_is_made() {
    if !here() {
        return;
    }
    if argument().is_none() {
        support::succeeds_alone(this_test!(), "");
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    let nobody = rustix::process::Uid::from_raw(65534);
    let denied = std::thread::scope(|scope| {
        let attempt = || {
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            cgroup.set_devices(&Devices::deny_all()).unwrap_err()
        };
        scope.spawn(attempt).join().unwrap()
    });
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    let text = denied.to_string();
    assert!(text.contains("EPERM") && text.contains("CAP_BPF"), "{text}");
    cgroup.remove().unwrap();
}

#[test]
fn no_fd_is_left() {
    if !here() {
        return;
    }
    if argument().is_none() {
        support::succeeds_alone(this_test!(), "");
        return;
    }
    let before = Snapshot::take().fds;
    {
        let scene = Scene::new();
        let cgroup = scene.create(Limits::new().devices(Devices::docker_default()));
        cgroup.set_devices(&Devices::deny_all()).unwrap();
        cgroup.set_devices(&Devices::allow_all()).unwrap();
        let during = Snapshot::take().fds;
        assert!(!during.iter().any(|fd| fd.contains("bpf")), "{during:?}");
        cgroup.remove().unwrap();
        let _again = Hierarchy::detect().unwrap();
    }
    assert_eq!(Snapshot::take().fds, before);
}
