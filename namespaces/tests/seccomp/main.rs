//! System call filters on the real kernel. The program is this test binary itself: it makes the calls and prints what it got.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;
mod sys;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use cofferdam_namespaces::{
    Action, Capabilities, Capability, Command, Condition, ErrorKind, Filter, IdMap, Instruction,
    Rule, Seccomp, Stdio, User,
};
use cofferdam_testkit::{Need, have};
use libc::{EACCES, EFAULT, EINVAL, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM, ESRCH};
use support::{answer, common, inside, output, refused, said};

const STATUS: &str = "read /proc/self/status";

const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;

/// Not a test of its own: what runs inside.
#[test]
fn payload() {
    answer(|verb, rest| {
        Ok(match verb {
            "calls" => table(&CALLS.map(|(name, call, ..)| (name, call()))),
            "calls-of-x86" => calls_of_x86(),
            "namespaces" => table(&[
                (
                    "unshare",
                    sys::call(libc::SYS_unshare, [NEWUSER, 0, 0, 0, 0, 0]),
                ),
                ("clone", sys::fork(libc::CLONE_NEWUSER)),
                ("clone of a uts", sys::fork(libc::CLONE_NEWUTS)),
            ]),
            "threads" => threads(),
            "getppid" => table(&[("getppid", sys::call(libc::SYS_getppid, [0; 6]))]),
            "getpriority" => table(&["3", "4", "5", "6"].map(|who| {
                let args = [0, who.parse::<u64>().unwrap() | 7 << 32, 0, 0, 0, 0];
                (who, sys::call(libc::SYS_getpriority, args))
            })),
            _ => return common(verb, rest),
        })
    });
}

fn table(results: &[(&str, i64)]) -> String {
    results
        .iter()
        .map(|(name, result)| format!("{name}={result}\n"))
        .collect()
}

const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;

/// A call, what it returns under the default, and what without a filter, where that is the same on every machine: arguments are
/// wrong in a way that the kernel tells before it asks for privileges.
type Row = (&'static str, fn() -> i64, i32, Option<i32>);

const CALLS: [Row; 22] = [
    (
        "clone3",
        || sys::call(libc::SYS_clone3, [0; 6]),
        ENOSYS,
        Some(EINVAL),
    ),
    (
        "io_uring_setup",
        || sys::call(libc::SYS_io_uring_setup, [1, 1, 0, 0, 0, 0]),
        EPERM,
        None,
    ),
    (
        "io_uring_enter",
        || sys::call(libc::SYS_io_uring_enter, [0; 6]),
        EPERM,
        None,
    ),
    (
        "keyctl",
        || sys::call(libc::SYS_keyctl, [9999, 0, 0, 0, 0, 0]),
        EPERM,
        Some(EOPNOTSUPP),
    ),
    (
        "bpf",
        || sys::call(libc::SYS_bpf, [0, 1, 8, 0, 0, 0]),
        EPERM,
        None,
    ),
    (
        "perf_event_open",
        || sys::call(libc::SYS_perf_event_open, [1, 0, 0, 0, 0, 0]),
        EPERM,
        Some(EFAULT),
    ),
    (
        "userfaultfd",
        || sys::call(libc::SYS_userfaultfd, [0x1001, 0, 0, 0, 0, 0]),
        EPERM,
        None,
    ),
    (
        "mount",
        || sys::call(libc::SYS_mount, [1, 1, 1, 0, 0, 0]),
        EPERM,
        Some(EFAULT),
    ),
    (
        "fsopen",
        || sys::call(libc::SYS_fsopen, [1, 0, 0, 0, 0, 0]),
        EPERM,
        None,
    ),
    (
        "open_by_handle_at",
        || sys::call(libc::SYS_open_by_handle_at, [99, 1, 0, 0, 0, 0]),
        EPERM,
        None,
    ),
    ("TIOCSTI", || ioctl(TIOCSTI), EPERM, Some(ENOTTY)),
    (
        "TIOCSTI with a high bit",
        || ioctl(TIOCSTI | 1 << 32),
        EPERM,
        Some(ENOTTY),
    ),
    (
        "TIOCSTI with all high bits",
        || ioctl(TIOCSTI | 0xffff_ffff << 32),
        EPERM,
        Some(ENOTTY),
    ),
    ("TIOCLINUX", || ioctl(TIOCLINUX), EPERM, Some(ENOTTY)),
    (
        "TIOCLINUX with a high bit",
        || ioctl(TIOCLINUX | 1 << 63),
        EPERM,
        Some(ENOTTY),
    ),
    (
        "TIOCGWINSZ",
        || ioctl(libc::TIOCGWINSZ),
        ENOTTY,
        Some(ENOTTY),
    ),
    (
        "personality",
        || sys::call(libc::SYS_personality, [0x4_0000, 0, 0, 0, 0, 0]),
        EPERM,
        Some(0),
    ),
    (
        "personality as it is",
        || sys::call(libc::SYS_personality, [0, 0, 0, 0, 0, 0]).min(0),
        0,
        Some(0),
    ),
    (
        "socket of a vm",
        || sys::call(libc::SYS_socket, [40, 1, 0, 0, 0, 0]),
        EPERM,
        None,
    ),
    (
        "socket of a vm with a high bit",
        || sys::call(libc::SYS_socket, [40 | 1 << 32, 1, 0, 0, 0, 0]),
        EPERM,
        None,
    ),
    (
        "ptrace",
        || sys::call(libc::SYS_ptrace, [17, 0, 0, 0, 0, 0]),
        ESRCH,
        Some(ESRCH),
    ),
    (
        "a call to come",
        || sys::call(4000, [0; 6]),
        ENOSYS,
        Some(ENOSYS),
    ),
];

/// On the standard input, which is `/dev/null`.
fn ioctl(request: u64) -> i64 {
    sys::call(libc::SYS_ioctl, [0, request, 1, 0, 0, 0])
}

/// By the numbers that 32-bit programs of x86 have. 310 is process_vm_readv(2) on x86_64, which is allowed there.
#[cfg(target_arch = "x86_64")]
fn calls_of_x86() -> String {
    table(&[
        ("getpid", sys::call_of_x86(20, [0; 3]).min(1)),
        ("mount", sys::call_of_x86(21, [1; 3])),
        ("ioctl", sys::call_of_x86(54, [0, TIOCSTI as u32, 1])),
        ("unshare", sys::call_of_x86(310, [1, 0, 0])),
        ("keyctl", sys::call_of_x86(288, [9999, 0, 0])),
        ("clone3", sys::call_of_x86(435, [0; 3])),
        ("personality", sys::call_of_x86(136, [0x4_0000, 0, 0])),
    ])
}

#[cfg(not(target_arch = "x86_64"))]
fn calls_of_x86() -> String {
    String::new()
}

fn threads() -> String {
    let threads: Vec<_> = (0..8u64)
        .map(|number| std::thread::spawn(move || vec![number; 100_000].iter().sum::<u64>()))
        .collect();
    let sum: u64 = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .sum();
    let listener = std::net::TcpListener::bind("127.0.0.1:0")
        .map(|_| "listens")
        .unwrap_or("no socket");
    let child = std::process::Command::new("/proc/self/exe")
        .arg("--list")
        .output()
        .unwrap();
    format!("{sum} {listener} {}", child.status)
}

fn run(command: &Command) -> (String, ExitStatus) {
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{error}"));
    let output = child.output().unwrap();
    (said(&output.stdout).unwrap_or_default(), output.status)
}

/// What each call of `text` returned.
fn results(text: &str) -> BTreeMap<&str, i64> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .map(|(name, result)| (name, result.parse().unwrap()))
        .collect()
}

#[test]
fn the_default_refuses_what_dockers_does_and_typing_into_the_terminal() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let (filtered, free) = (
        output(inside("calls")),
        inside("calls").seccomp(Seccomp::unconfined()),
    );
    let free = output(free);
    let (filtered, free) = (results(&filtered), results(&free));
    for (name, _, with, without) in CALLS {
        assert_eq!(filtered[name], -i64::from(with), "{name} under the default");
        if let Some(without) = without {
            assert_eq!(free[name], -i64::from(without), "{name} without a filter");
        }
    }
}

#[test]
fn new_namespaces_are_refused_unless_the_capability_is_there() {
    if !have(&[Need::Root]) {
        return;
    }
    let text = output(inside("namespaces"));
    for (name, result) in results(&text) {
        assert_eq!(result, -i64::from(EPERM), "{name} under the default");
    }
    let free = output(inside("namespaces").seccomp(Seccomp::unconfined()));
    let made = results(&free);
    assert!(
        made["unshare"] == 0 || made["clone"] > 0,
        "without a filter: {free}"
    );
    let admin = Capabilities::docker_default().with(Capability::CAP_SYS_ADMIN);
    let text = output(inside("namespaces").capabilities(admin));
    assert!(results(&text)["clone of a uts"] > 0, "{text}");
    let text = output(inside("calls").capabilities(admin));
    let calls = results(&text);
    assert_eq!(calls["clone3"], -i64::from(EINVAL));
    assert_eq!(calls["mount"], -i64::from(EFAULT));
    assert_eq!(calls["keyctl"], -i64::from(EPERM));
    assert_eq!(calls["TIOCSTI"], -i64::from(EPERM));
}

#[test]
fn calls_of_32_bit_programs_are_filtered_by_their_own_numbers() {
    if !have(&[Need::Namespaces]) || cfg!(not(target_arch = "x86_64")) {
        return;
    }
    let (free, status) = run(&inside("calls-of-x86").seccomp(Seccomp::unconfined()));
    if status.signal() == Some(libc::SIGSEGV) {
        eprintln!("SKIP: this kernel runs no 32-bit programs");
        return;
    }
    let filtered = output(inside("calls-of-x86"));
    let (free, filtered) = (results(&free), results(&filtered));
    for (name, with, without) in [
        ("getpid", 1, 1),
        ("mount", -EPERM, -EFAULT),
        ("ioctl", -EPERM, -ENOTTY),
        ("unshare", -EPERM, -EINVAL),
        ("keyctl", -EPERM, -EOPNOTSUPP),
        ("clone3", -ENOSYS, -EINVAL),
        ("personality", -EPERM, 0),
    ] {
        assert_eq!(filtered[name], i64::from(with), "{name} under the default");
        assert_eq!(free[name], i64::from(without), "{name} without a filter");
    }
    let (text, status) =
        run(&inside("calls-of-x86").seccomp(Filter::docker_default().native_only()));
    assert_eq!(status.signal(), Some(libc::SIGSYS), "{text}");
}

#[test]
fn ordinary_programs_run_under_the_default() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    assert_eq!(
        output(inside("threads")),
        "2800000 no socket exit status: 0".replace("no socket", "listens")
    );
    if !Path::new("/bin/sh").exists() {
        eprintln!("no /bin/sh to try");
        return;
    }
    let shell = Command::new("/bin/sh").args([
        "-c",
        "(echo a b; exit 3) | while read x y; do echo $y; done",
    ]);
    let output = shell
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
        .output()
        .unwrap();
    assert_eq!(
        (output.stdout.as_slice(), output.status.code()),
        (b"b\n".as_slice(), Some(0))
    );
}

#[test]
fn the_kernel_says_that_there_is_a_filter() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let has = |command: Command, line: &str| {
        let status = output(command);
        assert!(
            status.lines().any(|other| other == line),
            "{line} in {status}"
        );
    };
    has(inside(STATUS), "Seccomp:\t2");
    has(inside(STATUS), "NoNewPrivs:\t1");
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .find(|line| line.starts_with("Seccomp:"))
        .unwrap();
    has(inside(STATUS).seccomp(Seccomp::unconfined()), own);
}

#[test]
fn it_needs_no_privilege_of_the_program() {
    if !have(&[Need::Root]) {
        return;
    }
    for command in [
        inside(STATUS).user(User::id(1234, 1234)),
        inside(STATUS).capabilities(Capabilities::NONE),
        inside(STATUS).id_map(IdMap::range(200_000, 65536)),
    ] {
        assert!(output(command).contains("Seccomp:\t2\n"));
    }
}

#[test]
fn a_program_that_cannot_be_executed_is_still_an_error_of_execve() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let few = ["execve", "write", "exit_group"];
    for seccomp in [
        Seccomp::docker_default(),
        Filter::new(Action::KillProcess).allow_all(few).into(),
        Filter::new(Action::Errno(ENOSYS))
            .native_only()
            .allow_all(few)
            .into(),
    ] {
        let command = |program: &str| Command::new(program).seccomp(seccomp.clone());
        let error = refused(command("/no/such/program"));
        let text =
            "start /no/such/program: execve /no/such/program: ENOENT: No such file or directory";
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::NotFound, text)
        );
        let error = refused(command("no-such-program").env("PATH", "/etc:/proc"));
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let error = refused(command("/proc/self/status"));
        assert_eq!(error.raw_os_error(), Some(EACCES), "{error}");
    }
}

#[test]
fn custom_filters_do_what_they_say() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let getppid = |filter: Filter| run(&inside("getppid").seccomp(filter));
    let start = Filter::docker_default;
    for (filter, errno) in [
        (start().deny("getppid"), EPERM),
        (start().errno("getppid", 99), 99),
        (start().deny(libc::SYS_getppid as u32), EPERM),
        (Filter::new(Action::Allow).errno("getppid", 4095), 4095),
        (start().deny("getppid").allow("getppid"), 0),
        (start().log("getppid"), 0),
    ] {
        let (text, status) = getppid(filter.clone());
        assert!(status.success(), "{status} under {filter:?}");
        assert_eq!(results(&text)["getppid"], -i64::from(errno), "{filter:?}");
    }
    let thread = Rule::new("getppid", Action::KillThread);
    for filter in [start().kill("getppid"), start().trap("getppid")] {
        let (text, status) = getppid(filter);
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{text}");
    }
    // The test's thread, and with it what was to end the process.
    let limited = inside("getppid")
        .seccomp(start().rule(thread))
        .spawn()
        .unwrap();
    let ended = limited
        .wait_timeout(std::time::Duration::from_secs(2))
        .unwrap();
    assert!(ended.is_none_or(|status| !status.success()), "{ended:?}");
}

#[test]
fn a_condition_on_an_argument_looks_at_all_of_it_or_at_the_low_half() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    // The payload sets high bits of the second argument.
    let rule = |condition| Rule::new("getpriority", Action::Errno(77)).when(condition);
    for (condition, refused) in [
        (Condition::equal(1, 5), ""),
        (Condition::equal(1, 5).low(), "5"),
        (Condition::equal(1, 7 << 32 | 5), "5"),
        (Condition::greater(1, 4).low(), "56"),
        (Condition::less(1, 7 << 32 | 4), "3"),
        (Condition::masked_equal(1, 4, 4), "456"),
        (Condition::not_equal(1, 4).low(), "356"),
    ] {
        let filter = Filter::docker_default().rule(rule(condition.clone()));
        let text = output(inside("getpriority").seccomp(filter));
        let hit = results(&text)
            .into_iter()
            .filter(|(_, result)| *result == -77);
        assert_eq!(
            hit.map(|(who, _)| who).collect::<String>(),
            refused,
            "{condition:?}"
        );
    }
}

fn raw(code: u32, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

#[test]
fn a_raw_program_is_loaded_as_it_is() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let program = [
        raw(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        raw(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_getppid as u32,
        ),
        raw(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | 88,
        ),
        raw(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let text = output(inside("getppid").seccomp(Seccomp::raw(program)));
    assert_eq!(results(&text)["getppid"], -88);
    // Not a filter: it does not end.
    let error = refused(Command::new("/bin/app").seccomp(Seccomp::raw([program[0]])));
    let text = "start /bin/app: load the seccomp filter: EINVAL: Invalid argument";
    assert_eq!(error.to_string(), text);
    // What others make of the default's instructions is the default.
    let same = Seccomp::docker_default()
        .instructions(Capabilities::docker_default())
        .unwrap();
    let text = output(inside("calls").seccomp(Seccomp::raw(same)));
    assert_eq!(results(&text)["keyctl"], -i64::from(EPERM));
}

#[test]
fn filters_of_the_largest_size_are_loaded() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    // Chains of comparisons, far longer than a jump of a byte.
    let values = (0..600).map(|value| Condition::equal(0, value << 31 | 1));
    let rules = values.map(|condition| Rule::new("getppid", Action::Errno(66)).when(condition));
    let filter = rules.fold(Filter::new(Action::Allow).deny("acct"), Filter::rule);
    let length = Seccomp::from(filter.clone())
        .instructions(Capabilities::NONE)
        .unwrap()
        .len();
    assert!((2000..=4096).contains(&length), "{length}");
    let text = output(inside("getppid").seccomp(filter));
    assert_eq!(results(&text)["getppid"], 0);
}

#[test]
fn a_filter_under_which_nothing_could_start_is_refused_before() {
    let error = refused(Command::new("/bin/app").seccomp(Filter::new(Action::Errno(EPERM))));
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(
        error.to_string().starts_with("system call \"execve\":"),
        "{error}"
    );
}
