//! Parts of the kernel that no program needs, and containers have broken out by.

use cofferdam_namespaces::{Command, IdMap, Mount, RootFs, Seccomp, Stdio};
use cofferdam_testkit::{Need, have};

use crate::support::{self, inside, output, rooted};
use crate::sys;

const NEW_USER: libc::c_ulong = libc::CLONE_NEWUSER as libc::c_ulong;
const TIOCSTI: libc::c_ulong = 0x5412;
const TIOCLINUX: libc::c_ulong = 0x541c;

/// The payload: the errno of each call of a group, 0 for one that went well.
pub(crate) fn calls(group: &str) -> String {
    let call = |name: &str, number, args| format!("{name} {}", sys::errno_of(number, args));
    let answers = match group {
        "namespaces" => vec![
            call("unshare", libc::SYS_unshare, [NEW_USER, 0, 0]),
            format!(
                "clone {}",
                sys::errno_of_clone(NEW_USER | libc::SIGCHLD as libc::c_ulong)
            ),
            call("clone3", libc::SYS_clone3, [0, 0, 0]),
            call("setns", libc::SYS_setns, [libc::c_ulong::MAX, 0, 0]),
            call("fsopen", libc::SYS_fsopen, [0, 0, 0]),
            call("open_tree", libc::SYS_open_tree, [0, 0, 0]),
        ],
        "others" => vec![
            call("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0]),
            call(
                "io_uring_enter",
                libc::SYS_io_uring_enter,
                [libc::c_ulong::MAX, 0, 0],
            ),
            call(
                "io_uring_register",
                libc::SYS_io_uring_register,
                [libc::c_ulong::MAX, 0, 0],
            ),
            call("keyctl", libc::SYS_keyctl, [0, 0, 0]),
            call("add_key", libc::SYS_add_key, [0, 0, 0]),
            call("request_key", libc::SYS_request_key, [0, 0, 0]),
            call("bpf", libc::SYS_bpf, [0, 0, 0]),
            call("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0]),
            call("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0]),
        ],
        _ => vec![
            format!("sti {}", sys::errno_of_ioctl(TIOCSTI, b'x')),
            format!("sti {}", sys::errno_of_ioctl(TIOCSTI | 1 << 32, b'x')),
            // What is selected, and what shift states there are: both harmless.
            format!("linux {}", sys::errno_of_ioctl(TIOCLINUX, 6)),
        ],
    };
    answers.join(" ")
}

/// The programs that a container can have: its first, below an init, in a user namespace, and one that enters.
fn everywhere(what: &str) -> [String; 4] {
    let target = rooted("read /dev/stdin")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut entered = inside(what).enter(&target).unwrap();
    [
        output(rooted(what)),
        output(rooted(what).init(true)),
        output(rooted(what).id_map(IdMap::current_user())),
        support::said(&entered.output().unwrap().stdout).unwrap(),
    ]
}

#[test]
fn cve_2022_0185_no_user_namespace_and_no_mount_context() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for errnos in everywhere("calls namespaces") {
        // libc goes on with clone(2) where clone3(2) is ENOSYS.
        let expected = "unshare 1 clone 1 clone3 38 setns 1 fsopen 1 open_tree 1";
        assert_eq!(errnos, expected);
    }
    // It is the filter that says so: the kernel would say that it has threads, and that there are no arguments.
    let without = output(rooted("calls namespaces").seccomp(Seccomp::unconfined()));
    assert!(without.starts_with("unshare 22 "), "{without}");
    assert!(without.contains("clone3 22 setns 9 "), "{without}");
}

#[test]
fn cve_2022_29582_io_uring_and_other_ways_into_the_kernel_are_closed() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for errnos in everywhere("calls others") {
        let expected = "io_uring_setup 1 io_uring_enter 1 io_uring_register 1 keyctl 1 add_key 1 request_key 1 bpf 1 \
            perf_event_open 1 userfaultfd 1";
        assert_eq!(errnos, expected);
    }
}

/// What an embedder with a terminal starts: it is run as one, as the leader of that terminal's session.
pub(crate) fn embed(rest: &str) -> Result<String, String> {
    let command = inside(rest).namespaces(cofferdam_namespaces::Namespaces::none());
    let command = command.stdin(Stdio::inherit());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let output = child.output().map_err(|error| error.to_string())?;
    support::said(&output.stdout).ok_or_else(|| output.status.to_string())
}

#[test]
fn cve_2017_5226_the_callers_terminal_is_not_the_programs() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    // The program inherits the embedder's terminal as its input, and looks whether it controls it.
    let embedder = |what: &str| {
        let none = cofferdam_namespaces::Namespaces::none();
        let command = inside(&format!("embed {what}")).terminal(24, 80);
        output(command.namespaces(none).stdout(Stdio::piped()))
    };
    let stat = embedder("read /proc/self/stat");
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(fields[4], "0", "the controlling terminal in {stat}");
    assert_eq!(embedder("calls terminal"), "sti 1 sti 1 linux 1");
    // Nor can it type into one that it controls.
    let own = rooted("calls terminal")
        .terminal(24, 80)
        .stdout(Stdio::piped());
    assert_eq!(output(own), "sti 1 sti 1 linux 1");
}

#[test]
fn cve_2022_0492_no_release_agent_can_be_set() {
    if !have(&[Need::Root]) {
        return;
    }
    let script = "mkdir -p /mnt/cg; \
        for kind in 'cgroup -o rdma' 'cgroup -o memory' 'cgroup -o none,name=x' cgroup2; do \
            mount -t $kind none /mnt/cg 2>/dev/null && echo mounted $kind; \
        done; \
        unshare -UrmC mount -t cgroup -o rdma none /mnt/cg 2>/dev/null && echo unshared; \
        for file in $(find /sys/fs/cgroup -name release_agent 2>/dev/null); do \
            (echo /x > $file) 2>/dev/null && echo written; \
        done; echo end";
    let mut child = Command::new("/bin/sh")
        .args(["-c", script])
        .root(RootFs::directory("/"))
        .mount(Mount::tmpfs("/mnt", 1 << 20))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(child.output().unwrap().stdout, b"end\n");
}
