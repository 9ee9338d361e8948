//! How a program runs: its init, its terminal, its fds, and the ways a start takes where the usual one is refused.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use cofferdam_namespaces::{
    CgroupEntry, CloneCall, Command, ErrorKind, IdMap, MountOrigin, Namespace, Namespaces, RootFs,
    Session, Spawned, Stdio, StubFile, Terminal,
};
use cofferdam_testkit::{Need, have, refuse_syscall};
use support::{answer, common, inside, output, refused, rooted, said, stat_of, until};

#[test]
fn payload() {
    answer(|verb, rest| match verb {
        "fds" => Ok(fds()),
        "session" => {
            // By procfs: a session led from outside of this pid namespace is 0, which no type of a pid has room for.
            let stat = stat_of("self");
            Ok((stat[5] == stat[0]).to_string())
        }
        "start" => {
            let mut child = inside("read /proc/self/status").spawn().unwrap();
            let applied = child.applied().clone();
            let status = said(&child.output().unwrap().stdout).unwrap();
            Ok(format!("{applied:?} {}", status.contains("NSpid:\t1\n")))
        }
        "memfd_noexec" => {
            fs::write("/proc/sys/vm/memfd_noexec", "2").map_err(|error| error.to_string())?;
            let child = inside("cwd").namespaces(Namespaces::none()).spawn();
            let child = child.map_err(|error| error.to_string())?;
            Ok(format!("{:?}", child.applied().stub))
        }
        _ => common(verb, rest),
    });
}

/// Every fd above the streams with what is in it, but for the one that lists them.
fn fds() -> String {
    let mut text = String::new();
    for number in 3..2000 {
        if let Ok(target) = fs::read_link(format!("/proc/self/fd/{number}")) {
            text += &format!("{number} {}\n", target.display());
        }
    }
    text
}

fn shell(script: &str) -> Command {
    Command::new("/bin/sh")
        .args(["-c", script])
        .root(RootFs::directory("/"))
        .stdout(Stdio::piped())
}

fn stdout(command: &Command) -> String {
    let output = command.spawn().unwrap().output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_init_reaps_whoever_ends_and_exits_as_its_program() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for code in [0, 7, 255] {
        let mut child = rooted(&format!("exit {code}")).init(true).spawn().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
    let mut child = rooted("abort").init(true).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 6));
    assert_eq!(stdout(&shell("echo $$").init(true)), "2\n");
    // A grandchild whose parent has ended is the init's, which reaps it.
    let script = "(sh -c 'echo $$ > /dev/shm/pid' &) ; sleep 0.2; \
                  test -d /proc/$(cat /dev/shm/pid) && echo there || echo gone";
    assert_eq!(stdout(&shell(script).init(true)), "gone\n");
    let error = refused(inside("").namespaces(Namespaces::none()).init(true));
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn an_init_forwards_every_signal_and_is_small() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let mut child = shell("trap 'echo TERM' TERM; echo ready; while :; do sleep 0.01; done")
        .init(true)
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut bytes = [0; 6];
    out.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"ready\n");
    let status = fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
    assert!(status.starts_with("Name:\tcofferdam-init\n"), "{status}");
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = memory.unwrap().split_whitespace().next().unwrap();
    assert!(kib.parse::<u32>().unwrap() <= 64, "{kib} KiB");
    let fds = fs::read_dir(format!("/proc/{}/fd", child.pid())).unwrap();
    assert_eq!(fds.count(), 0, "it holds nothing open");
    assert!(!child.is_deaf_to(15));
    child.signal(15).unwrap();
    let mut bytes = [0; 5];
    out.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"TERM\n");
    child.signal(2).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 2));
}

#[test]
fn a_failing_program_under_an_init_is_an_error_of_the_start() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let error = refused(Command::new("/nowhere").init(true));
    assert!(
        error.to_string().contains("execve /nowhere: ENOENT"),
        "{error}"
    );
}

#[test]
fn fds_arrive_under_their_numbers_and_no_others() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let open = |path: &str| File::open(path).unwrap();
    let leaked = open("/");
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    for init in [false, true] {
        let command = rooted("fds")
            .init(init)
            .fd(3, open("/proc"))
            .fd(7, open("/sys"))
            .fd(1000, open("/dev"))
            .fd(7, open("/"));
        assert_eq!(output(command), "3 /proc\n7 /\n1000 /dev\n");
    }
    for number in [-1, 0, 2, 1024] {
        let error = refused(rooted("fds").fd(number, open("/")));
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}

#[test]
fn a_session_is_its_own_unless_asked_for() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let command = inside("session").namespaces(Namespaces::none());
    assert_eq!(output(command.clone()), "true");
    assert_eq!(output(command.session(Session::Inherit)), "false");
}

/// Reads until `end` has come.
fn read_to(terminal: &mut Terminal, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let mut byte = [0];
        terminal.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

/// Reads until the other end is closed.
fn all(terminal: &mut Terminal) -> String {
    let mut text = String::new();
    terminal.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_terminal_of_the_containers_own_is_its_console() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let script = "test -t 0 && test -t 1 && echo terminal; stty size; readlink /proc/self/fd/0; \
                  echo /dev/pts/*; test -c /dev/console && echo typed > /dev/console; \
                  echo tty > /dev/tty; read line; echo got $line";
    for ids in [None, Some(IdMap::current_user())] {
        let mut command = Command::new("/bin/sh")
            .args(["-c", script])
            .root(RootFs::directory("/"))
            .terminal(24, 81);
        if let Some(ids) = ids {
            command = command.id_map(ids);
        }
        let mut child = command.spawn().unwrap();
        let mut terminal = child.terminal.take().unwrap();
        // Once it waits for a line: before that, the echo could come in between.
        let text = read_to(&mut terminal, "\r\ntty\r\n").replace("\r\n", "\n");
        assert_eq!(
            text,
            "terminal\n24 81\n/dev/pts/0\n/dev/pts/0 /dev/pts/ptmx\ntyped\ntty\n"
        );
        terminal.write_all(b"hello\n").unwrap();
        assert_eq!(all(&mut terminal).trim_end(), "hello\r\ngot hello");
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_terminal_is_resized_and_hangs_up() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let script = "trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.01; done";
    let mut child = Command::new("/bin/sh")
        .args(["-c", script])
        .root(RootFs::directory("/"))
        .terminal(24, 80)
        .init(true)
        .spawn()
        .unwrap();
    let mut terminal = child.terminal.take().unwrap();
    let mut bytes = [0; 7];
    terminal.read_exact(&mut bytes).unwrap();
    terminal.resize(30, 100).unwrap();
    // What is written just before a terminal hangs up may be cut off.
    assert_eq!(all(&mut terminal).trim_end(), "30 100");
    assert_eq!(child.wait().unwrap().code(), Some(3));

    let mut child = rooted("sleep").terminal(24, 80).init(true).spawn().unwrap();
    drop(child.terminal.take());
    let status = child.wait_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(status.unwrap().code(), Some(128 + 1), "SIGHUP");
}

#[test]
fn who_enters_has_a_terminal_of_that_container() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for ids in [None, Some(IdMap::current_user())] {
        let mut command = rooted("sleep");
        if let Some(ids) = ids {
            command = command.id_map(ids);
        }
        let target = command.spawn().unwrap();
        let mut child = Command::new("/bin/sh")
            .args(["-c", "readlink /proc/self/fd/0; stty size; echo /dev/pts/*"])
            .terminal(25, 82)
            .stderr(Stdio::null())
            .enter(&target)
            .unwrap();
        let text = all(&mut child.terminal.take().unwrap());
        assert_eq!(
            text.trim_end(),
            "/dev/pts/0\r\n25 82\r\n/dev/pts/0 /dev/pts/ptmx"
        );
    }
    let mut child = Command::new("/bin/sh")
        .args(["-c", "test -t 0 && test -t 2 && echo yes"])
        .namespaces(Namespaces::none())
        .stdout(Stdio::piped())
        .terminal(24, 80)
        .spawn()
        .unwrap();
    assert_eq!(child.output().unwrap().stdout, b"yes\n");
}

#[test]
fn cve_2025_52565_a_terminal_is_never_what_a_container_puts_in_its_place() {
    if !have(&[Need::Root]) {
        return;
    }
    for script in [
        "ln -s /proc/sys/kernel/core_pattern /mnt/ptmx",
        "mkfifo /mnt/ptmx",
        "echo x > /mnt/ptmx",
        "mknod /mnt/ptmx c 5 2",
        "mknod /mnt/ptmx c 1 3",
    ] {
        // A mount over /dev/pts made from inside.
        let capabilities = cofferdam_namespaces::Capabilities::default()
            .with(cofferdam_namespaces::Capability::CAP_SYS_ADMIN);
        let script = format!(
            "mount -t tmpfs tmpfs /mnt && {script} && mount --bind /mnt /dev/pts && echo ready && sleep 1000"
        );
        let mut target = shell(&script).capabilities(capabilities).spawn().unwrap();
        let mut bytes = [0; 6];
        target
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut bytes)
            .unwrap();
        let command = inside("sleep").stdout(Stdio::null()).terminal(24, 80);
        let error = command.enter(&target).unwrap_err();
        assert!(error.to_string().contains("ptmx"), "{script}: {error}");
    }
}

#[test]
fn without_clone3_clone_takes_its_place() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    // The caller's filter is the program's too, so the program is one that starts no thread.
    let thread = std::thread::spawn(|| {
        refuse_syscall(435);
        let mut child = shell("echo $$; hostname").hostname("old").spawn().unwrap();
        assert_eq!(child.applied().clone, CloneCall::Clone);
        assert_eq!(child.applied().cgroup, CgroupEntry::None);
        let output = child.output().unwrap();
        assert_eq!(output.stdout, b"1\nold\n");
        let mut child = shell("id -u")
            .id_map(IdMap::current_user())
            .spawn()
            .unwrap();
        assert_eq!(child.output().unwrap().stdout, b"0\n");
        let target = shell("sleep 1000").spawn().unwrap();
        let mut child = shell("echo in").enter_without_root(&target);
        assert_eq!(child.output().unwrap().stdout, b"in\n");
    });
    thread.join().unwrap();
}

trait Enter {
    fn enter_without_root(self, target: &Spawned) -> Spawned;
}

impl Enter for Command {
    fn enter_without_root(self, target: &Spawned) -> Spawned {
        let command = Command::new("/bin/sh").args(["-c", "echo in"]);
        command.stdout(Stdio::piped()).enter(target).unwrap()
    }
}

#[test]
fn without_clone3_a_cgroup_is_entered_by_a_write() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let root = line.unwrap().split(' ').nth(4).unwrap();
    let cgroup = Path::new(root).join(format!("cofferdam-ns-{}-old", std::process::id()));
    fs::create_dir(&cgroup).unwrap();
    let directory = File::open(&cgroup).unwrap();
    let own = format!("/{}\n", cgroup.file_name().unwrap().to_string_lossy());
    let thread = std::thread::spawn(move || {
        let born = directory.try_clone().unwrap();
        let command = |fd: File| {
            shell("cat /proc/self/cgroup; sleep 1000")
                .namespaces(Namespaces::default().without(Namespace::Cgroup))
                .cgroup(fd.into())
        };
        for (fd, expected) in [(born, CgroupEntry::Born), (directory, CgroupEntry::Written)] {
            if expected == CgroupEntry::Written {
                refuse_syscall(435);
            }
            let child = command(fd).spawn().unwrap();
            assert_eq!(child.applied().cgroup, expected);
            let its = fs::read_to_string(format!("/proc/{}/cgroup", child.pid())).unwrap();
            let its = its.lines().find(|line| line.starts_with("0::")).unwrap();
            assert!(format!("{its}\n").ends_with(&own), "{its}");
        }
    });
    let outcome = thread.join();
    fs::remove_dir(&cgroup).unwrap();
    outcome.unwrap();
}

#[test]
fn without_an_executable_memfd_the_stub_is_a_file() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let thread = std::thread::spawn(|| {
        let memfd_create = if cfg!(target_arch = "x86_64") {
            319
        } else {
            279
        };
        refuse_syscall(memfd_create);
        let mut child = rooted("read /proc/self/exe").spawn().unwrap();
        assert_eq!(child.applied().stub, StubFile::Tmpfs);
        child.wait().unwrap();
        refuse_syscall(430); // fsopen
        let mut child = inside("session").spawn().unwrap();
        assert_eq!(child.applied().stub, StubFile::Unnamed);
        assert_eq!(said(&child.output().unwrap().stdout).unwrap(), "true");
    });
    thread.join().unwrap();
    // As the sysctl has it, which is one of a pid namespace's.
    if Path::new("/proc/sys/vm/memfd_noexec").exists() && have(&[Need::Root]) {
        let capabilities = cofferdam_namespaces::Capabilities::default()
            .with(cofferdam_namespaces::Capability::CAP_SYS_ADMIN);
        let said = output(inside("memfd_noexec").capabilities(capabilities));
        assert!(said.contains("Tmpfs"), "{said}");
    }
}

#[test]
fn mounts_come_from_where_it_is_said() {
    if !have(&[Need::Root]) {
        return;
    }
    let origin = |command: Command| command.spawn().unwrap().applied().mounts;
    assert_eq!(origin(rooted("sleep")), MountOrigin::Minimal);
    assert_eq!(origin(inside("sleep")), MountOrigin::Caller);
    let ids = IdMap::current_user();
    assert_eq!(origin(rooted("sleep").id_map(ids)), MountOrigin::Caller);
    let none = Namespaces::none();
    assert_eq!(
        origin(inside("sleep").namespaces(none)),
        MountOrigin::Shared
    );
}

#[test]
fn a_program_prints_what_the_child_will_do() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let program = rooted("sleep").init(true).program_of_start().unwrap();
    let text = program.to_string();
    for part in ["pivot_root", "clone(17, ", "reap($", "execve("] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(text.lines().count(), program.len());
    let signal = rooted("sleep").spawn().unwrap();
    signal.kill().unwrap();
    until("it has ended", || signal.try_wait().unwrap().is_some());
    assert_eq!(signal.try_wait().unwrap().unwrap().signal(), Some(9));
}

#[test]
fn an_init_is_in_no_session_of_the_callers() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let group_and_session = |pid: u32| stat_of(pid)[4..6].to_vec();
    let start = |session| rooted("sleep").init(true).session(session).spawn().unwrap();
    let child = start(Session::New);
    let its = child.pid().to_string();
    assert_eq!(group_and_session(child.pid()), [its.clone(), its]);
    assert_eq!(
        output(rooted("session").init(true)),
        "true",
        "and leads its own"
    );
    let child = start(Session::Inherit);
    assert_eq!(
        group_and_session(child.pid()),
        group_and_session(std::process::id())
    );
}
