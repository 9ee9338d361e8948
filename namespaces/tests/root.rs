//! Programs started on the real kernel. The program is this test binary itself: it needs no other on the machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use cofferdam_namespaces::{
    Capabilities, Command, ErrorKind, IdMap, Mount, Namespace, Namespaces, RootFs, Seccomp, Stdio,
    User,
};
use cofferdam_testkit::{Need, have, in_mount_namespace, refuse_syscall};
use support::{
    DOCKER, PAYLOAD, Scratch, alone, answer, caller, children, common, field, inside, output,
    own_state, refused, rooted, tmpfs_on, until,
};

/// Not a test of its own: what runs inside.
#[test]
fn payload() {
    answer(|verb, rest| match verb {
        "embed" => {
            for _ in 0..30 {
                let directory = fs::File::open(rest).unwrap();
                // Most are killed for lack of memory: before their program, or in it.
                let started = inside("exit 0").cgroup(directory.into()).spawn();
                let _status = started.map(|mut child| child.wait());
            }
            Ok("survived".into())
        }
        "become" => {
            let command = inside("cwd").namespaces(Namespaces::none());
            let same = output(command.clone());
            Ok(format!(
                "{same} {}",
                refused(command.user(User::id(1234, 1234)))
            ))
        }
        "odd" => {
            let directory = std::env::current_dir().map_err(|error| error.to_string());
            directory.map(|path| format!("{:?} {path:?}", std::env::var_os("ODD")))
        }
        "outside" => Ok(["/", "/..", "/../..", "/data", "/data/.."]
            .map(seen)
            .concat()),
        "cwd" => std::env::current_dir()
            .map_err(|e| e.to_string())
            .map(|d| d.display().to_string()),
        "env" => Ok(std::env::vars()
            .map(|(n, v)| format!("{n}={v}\n"))
            .collect()),
        "echo" => std::io::read_to_string(std::io::stdin()).map_err(|error| error.to_string()),
        _ => common(verb, rest),
    });
}

/// The names in a directory and in those below it that the host's temporary ones could be.
fn seen(path: &str) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let below = fs::read_dir(entry.path()).into_iter().flatten().flatten();
        text += &format!("{}\n", entry.path().display())
            .replace("/../", "/")
            .replace("/..", "");
        for inner in below {
            text += &format!(
                "/{}/{}\n",
                entry.file_name().to_string_lossy(),
                inner.file_name().to_string_lossy()
            );
        }
    }
    text
}

#[test]
fn namespaces_are_its_own_and_the_rest_is_shared() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let link = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
    for (namespace, name) in [
        (Namespace::Pid, "pid"),
        (Namespace::Mount, "mnt"),
        (Namespace::Uts, "uts"),
        (Namespace::Ipc, "ipc"),
        (Namespace::Net, "net"),
        (Namespace::Cgroup, "cgroup"),
    ] {
        let only = Namespaces::none().with(namespace);
        let child = inside("sleep").namespaces(only).spawn().unwrap();
        for other in ["pid", "mnt", "uts", "ipc", "net", "cgroup", "user"] {
            let its = fs::read_link(format!("/proc/{}/ns/{other}", child.pid())).unwrap();
            assert_eq!(
                its != link(other),
                other == name,
                "{other} with {namespace:?}"
            );
        }
    }
}

#[test]
fn the_program_is_pid_1_with_its_host_name() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    assert_eq!(output(rooted("read /proc/sys/kernel/hostname")), "box\n");
    let status = output(rooted("read /proc/1/status"));
    assert!(status.contains("NSpid:\t1\n"), "{status}");
}

#[test]
fn the_host_name_is_set_without_a_root_too() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let name = output(inside("read /proc/sys/kernel/hostname").hostname("rootless"));
    assert_eq!(name, "rootless\n");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_ne!(host, "rootless\n");
}

#[test]
fn strings_need_not_be_utf_8() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    use std::os::unix::ffi::OsStringExt;
    let odd = std::ffi::OsString::from_vec(b"odd\xff".to_vec());
    let path = Path::new("/mnt").join(&odd);
    let command = inside("odd").root(RootFs::directory("/"));
    let command = command
        .mount(Mount::tmpfs("/mnt", 1 << 20))
        .mount(Mount::tmpfs(&path, 4096));
    let text = output(command.env("ODD", &odd).workdir(&path));
    assert_eq!(text, format!("{:?} {:?}", Some(&odd), path));
}

#[test]
fn a_network_namespace_of_its_own_has_its_loopback_up() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let routes = output(rooted("read /proc/net/fib_trie"));
    assert!(routes.contains("127.0.0.1"), "{routes}");
    let links = output(rooted("read /proc/net/dev"));
    assert!(!links.contains("eth0"), "{links}");
}

#[test]
fn capabilities_are_dockers_and_none_is_inheritable() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let mask = |status: &str, name: &str| u64::from_str_radix(&field(status, name), 16).unwrap();
    let status = output(rooted("read /proc/thread-self/status"));
    for (name, expected) in [
        ("CapInh", 0),
        ("CapAmb", 0),
        ("CapPrm", DOCKER),
        ("CapEff", DOCKER),
        ("CapBnd", DOCKER),
        ("NoNewPrivs", 1),
        ("SigBlk", 0),
        ("SigIgn", 0x1000), // Rust's runtime ignores SIGPIPE
    ] {
        assert_eq!(mask(&status, name), expected, "{name}");
    }
    let status = output(rooted("read /proc/thread-self/status").capabilities(Capabilities::NONE));
    assert_eq!(mask(&status, "CapBnd"), 0);
    assert_eq!(mask(&status, "CapPrm"), 0);
}

#[test]
fn a_user_has_no_capabilities_and_no_groups() {
    if !have(&[Need::Root]) {
        return;
    }
    let status = output(rooted("read /proc/self/status").user(User::id(1000, 1001)));
    assert!(
        status.contains("Uid:\t1000\t1000\t1000\t1000\n"),
        "{status}"
    );
    assert!(
        status.contains("Gid:\t1001\t1001\t1001\t1001\n"),
        "{status}"
    );
    assert!(status.contains("Groups:\t \n"), "{status}");
    assert!(status.contains("CapPrm:\t0000000000000000\n"), "{status}");
}

#[test]
fn a_user_namespace_makes_it_root_inside_and_nobody_outside() {
    if !have(&[Need::Root]) {
        return;
    }
    let map = output(rooted("read /proc/self/uid_map").id_map(IdMap::range(200_000, 1000)));
    assert_eq!(
        map.split_whitespace().collect::<Vec<_>>(),
        ["0", "200000", "1000"]
    );
    let child = rooted("sleep")
        .id_map(IdMap::range(200_000, 1000))
        .spawn()
        .unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
    assert!(status.contains("Uid:\t200000\t200000"), "{status}");
    assert!(status.contains("CapAmb:\t0000000000000000"), "{status}");
}

#[test]
fn the_single_id_map_needs_no_privilege() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let status = output(rooted("read /proc/self/status").id_map(IdMap::current_user()));
    assert!(status.contains("Uid:\t0\t0\t0\t0\n"), "{status}");
    let setgroups = output(rooted("read /proc/self/setgroups").id_map(IdMap::current_user()));
    assert_eq!(setgroups, "deny\n");
}

#[test]
fn dev_proc_and_sys_are_a_containers() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let names = output(rooted("list /dev"));
    let expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(names, expected);
    assert_eq!(output(rooted("write /dev/null")), "done");
    assert_eq!(output(rooted("read /proc/timer_list")).len(), 0, "masked");
    for path in ["/proc/sys/kernel/core_pattern", "/sys/kernel/profiling"] {
        let refused = output(rooted(&format!("write {path}")));
        assert!(
            refused.starts_with("error: Read-only") || refused.contains("denied"),
            "{path}: {refused}"
        );
    }
}

#[test]
fn nothing_of_the_host_is_mounted_but_the_root() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let root = Scratch::new("alone");
    let root = RootFs::directory(&root.0);
    let mounts = output(alone("read /proc/self/mountinfo", root));
    let targets: Vec<_> = mounts
        .lines()
        .map(|line| line.split(' ').nth(4).unwrap())
        .collect();
    assert_eq!(
        targets.iter().filter(|target| **target == "/").count(),
        1,
        "{targets:?}"
    );
    let known = [
        "/", "/dev", "/lib", "/lib64", "/proc", "/sys", "/test", "/usr",
    ];
    let known = |target: &str| {
        known
            .iter()
            .any(|k| target == *k || target.starts_with(&format!("{k}/")))
    };
    assert!(targets.iter().all(|target| known(target)), "{targets:?}");
}

#[test]
fn mounts_are_what_was_asked_for() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = Scratch::with_file("mounts", "of the host");
    let file = host.join("file");
    let path = host.0.display();
    let bound = |what: &str| {
        rooted(what)
            .mount(Mount::tmpfs("/mnt", 1 << 20))
            .mount(Mount::bind(&host.0, "/mnt/a/b"))
            .mount(Mount::bind(&host.0, "/mnt/ro").read_only())
            .mount(Mount::bind(&file, "/mnt/file"))
            .mount(Mount::file("/mnt/etc/secret", b"a\0b".as_slice()).mode(0o400))
            .mount(Mount::file("/mnt/empty", ""))
    };
    assert_eq!(output(bound("read /mnt/a/b/file")), "of the host");
    assert_eq!(output(bound("read /mnt/file")), "of the host");
    assert_eq!(output(bound("read /mnt/etc/secret")), "a\0b");
    assert_eq!(output(bound("read /mnt/empty")), "");
    assert!(output(bound("write /mnt/ro/file")).starts_with("error: Read-only"));
    assert_eq!(output(bound("write /mnt/a/b/new")), "done");
    assert_eq!(
        fs::read_to_string(host.join("new")).unwrap(),
        "written",
        "{path}"
    );
    assert_eq!(
        output(bound("list /dev")).split(' ').count(),
        14,
        "no helper file is left in /dev"
    );
}

#[test]
fn a_read_only_bind_is_read_only_all_the_way_down() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = Scratch::new("recursive");
    let below = host.join("below");
    fs::create_dir(&below).unwrap();
    in_mount_namespace(|| {
        tmpfs_on(&below);
        let command =
            rooted("write /mnt/below/file").mount(Mount::bind(&host.0, "/mnt").read_only());
        assert!(output(command).starts_with("error: Read-only"));
        let command = rooted("write /mnt/below/file").mount(Mount::bind(&host.0, "/mnt"));
        assert_eq!(output(command), "done");
    });
}

#[test]
fn a_link_in_the_root_never_leads_to_the_host() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let victim = Scratch::new("victim");
    let absolute = victim.0.display().to_string();
    // By an absolute path, over the root's own parent, and to the host's root itself.
    let links = [
        absolute.clone(),
        format!("/..{absolute}"),
        format!("../../..{absolute}"),
        "/".into(),
        "/..".into(),
    ];
    for (index, link) in links.iter().enumerate() {
        let root = Scratch::new(&format!("linked-{index}"));
        std::os::unix::fs::symlink(link, root.join("data")).unwrap();
        let mounts = [
            Mount::file("/data/file", "x"),
            Mount::file("/data", "x"),
            Mount::tmpfs("/data/dir", 4096),
            Mount::tmpfs("/data", 4096),
            Mount::bind(&root.0, "/data/dir/deeper"),
            Mount::bind(&root.0, "/data"),
        ];
        for mount in mounts {
            // Whether the link leads somewhere inside or nowhere: of the host nothing is seen or made.
            let looked = looks_outside(&root, mount.clone());
            assert!(
                !looked.contains(&absolute),
                "{link} with {mount:?}: {looked}"
            );
            let made = fs::read_dir(&victim.0).unwrap().count();
            assert_eq!(made, 0, "{link} with {mount:?} made something on the host");
        }
    }
    for name in ["proc", "dev", "sys"] {
        let root = Scratch::new(&format!("link-{name}"));
        std::os::unix::fs::symlink(&victim.0, root.join(name)).unwrap();
        let error = refused(Command::new("/nothing").root(RootFs::directory(&root.0)));
        assert_eq!(error.raw_os_error(), Some(libc_eloop()), "{error}");
        assert!(error.to_string().contains(&format!("/{name}")), "{error}");
    }
    assert_eq!(fs::read_dir(&victim.0).unwrap().count(), 0);
}

/// What is mounted in a container of this root and this mount, or why it did not start.
fn looks_outside(root: &Scratch, mount: Mount) -> String {
    let command = alone("outside", RootFs::directory(&root.0));
    match command.mount(mount).spawn() {
        Err(error) => format!("{:?}", error.kind()),
        Ok(mut child) => String::from_utf8(child.output().unwrap().stdout).unwrap(),
    }
}

#[test]
fn what_is_mounted_over_dev_cannot_take_off_the_masks() {
    if !have(&[Need::Root]) {
        return;
    }
    let (root, volume) = (Scratch::new("over-dev"), Scratch::new("nulls"));
    fs::create_dir(root.join("dev")).unwrap();
    std::os::unix::fs::symlink("/dev", root.join("data")).unwrap();
    std::os::unix::fs::symlink("/proc/sys/kernel/core_pattern", volume.join("null")).unwrap();
    for mount in [
        Mount::tmpfs("/data", 1 << 20),
        Mount::bind(&volume.0, "/data"),
        Mount::bind(&volume.0, "/dev/deep"),
    ] {
        let command = |what: &str| alone(what, RootFs::directory(&root.0)).mount(mount.clone());
        let run = |what: &str| output(command(what));
        assert_eq!(run("read /proc/timer_list"), "", "masked");
        let mounts = run("read /proc/self/mountinfo");
        assert!(!mounts.contains("core_pattern"), "{mounts}");
        assert!(run("write /proc/sys/kernel/core_pattern").starts_with("error"));
    }
}

#[test]
fn a_read_only_root_is_that_all_the_way_down_and_is_left_as_it_is() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = Scratch::new("read-only");
    fs::write(host.join("test"), "").unwrap();
    for name in ["proc", "sys", "dev", "below", "lib", "lib64", "usr"] {
        fs::create_dir(host.join(name)).unwrap();
    }
    let names = || fs::read_dir(&host.0).unwrap().count();
    let before = names();
    in_mount_namespace(|| {
        tmpfs_on(host.join("below"));
        let root = || RootFs::directory(&host.0).read_only();
        let command = |what: &str| alone(what, root());
        assert!(output(command("write /file")).starts_with("error: Read-only"));
        assert!(output(command("write /below/file")).starts_with("error: Read-only"));
        let error = refused(command("cwd").mount(Mount::tmpfs("/missing", 4096)));
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::ROFS.raw_os_error()),
            "{error}"
        );
    });
    assert_eq!(names(), before);
}

#[test]
fn ids_are_never_root_by_mistake() {
    if !have(&[Need::Root]) {
        return;
    }
    // The order of calls does not matter, and a map is not lost.
    let mapped = rooted("read /proc/self/uid_map")
        .id_map(IdMap::range(200_000, 1000))
        .namespaces(Namespaces::default());
    assert_eq!(output(mapped).split_whitespace().nth(1), Some("200000"));
    // Without capget(2) nothing is known of privileges: no start, rather than one with all of them.
    let error = std::thread::spawn(|| {
        refuse_syscall(libc::SYS_capget);
        refused(rooted("read /proc/self/status").user(User::id(1000, 1000)))
    });
    let error = error.join().unwrap();
    assert!(error.to_string().contains("capget"), "{error}");
    // A caller without privilege cannot become somebody else, and is told.
    let unconfined = rooted("become").seccomp(Seccomp::unconfined());
    let line = output(unconfined.user(User::id(1000, 1000)));
    assert!(line.contains("become user 1234:1234: EPERM"), "{line}");
}

#[test]
fn lack_of_memory_in_the_cgroup_never_kills_the_caller() {
    if !have(&[Need::Root, Need::Cgroup2Controller("memory")]) {
        return;
    }
    let root = Path::new("/sys/fs/cgroup");
    fs::write(root.join("cgroup.subtree_control"), "+memory").unwrap();
    let cgroup = root.join(format!("cofferdam-ns-{}-small", std::process::id()));
    fs::create_dir(&cgroup).unwrap();
    fs::write(cgroup.join("memory.max"), "131072").unwrap();
    // The caller is another process: this one has to tell of its end.
    let embedder = caller(&format!("embed {}", cgroup.display()))
        .output()
        .unwrap();
    let events = fs::read_to_string(cgroup.join("memory.events")).unwrap();
    fs::remove_dir(&cgroup).unwrap();
    let said = String::from_utf8_lossy(&embedder.stdout);
    assert!(
        said.contains("<<<survived>>>"),
        "{}: {said}",
        embedder.status
    );
    assert!(
        !events.contains("oom_kill 0\n"),
        "the limit was never hit: {events}"
    );
}

#[test]
fn who_is_killed_during_the_start_was_not_started() {
    if !have(&[Need::Root]) {
        return;
    }
    // A full pipe in place of a cgroup.procs holds the child back until it is killed.
    let (_read, write) = full_pipe();
    let command = inside("sleep")
        .hostname("killed-at-its-start")
        .cgroup_procs(write);
    let starter = std::thread::spawn(move || refused(command));
    let mut stub = None;
    until("a stub waits", || {
        stub = waiting_stub();
        stub.is_some()
    });
    rustix::process::kill_process(stub.unwrap(), rustix::process::Signal::KILL).unwrap();
    let line = starter.join().unwrap().to_string();
    assert!(
        line.contains("before its program ran") && line.contains("signal: 9"),
        "{line}"
    );
}

/// A pipe that nothing more can be written to. How much it holds depends on the size of a page.
fn full_pipe() -> (std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let size = rustix::pipe::fcntl_getpipe_size(&write).unwrap();
    assert_eq!(rustix::io::write(&write, &vec![0; size]).unwrap(), size);
    (read, write)
}

/// A child of this process that is still the stub, with a full pipe to write to.
fn waiting_stub() -> Option<rustix::process::Pid> {
    let is_stub = |pid: &i32| {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        let writes = call.starts_with(&format!("{} ", libc::SYS_write));
        exe.to_string_lossy().contains("cofferdam-stub") && writes
    };
    children()
        .into_iter()
        .find(is_stub)
        .and_then(rustix::process::Pid::from_raw)
}

fn libc_eloop() -> i32 {
    rustix::io::Errno::LOOP.raw_os_error()
}

#[test]
fn errors_name_the_item_and_leave_no_process() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let cases = [
        (
            rooted("").root(RootFs::directory("/nowhere")),
            ErrorKind::NotFound,
            "open the root /nowhere: ENOENT",
        ),
        (
            rooted("").root(RootFs::directory("/proc/self/status")),
            ErrorKind::InvalidInput,
            "ENOTDIR",
        ),
        (
            rooted("").mount(Mount::bind("/nowhere", "/mnt")),
            ErrorKind::NotFound,
            "mount source /nowhere",
        ),
        (
            rooted("").workdir("/nowhere"),
            ErrorKind::NotFound,
            "enter the workdir /nowhere: ENOENT",
        ),
        (
            rooted("").workdir("/proc/self/fd/3"),
            ErrorKind::InvalidInput,
            "ELOOP",
        ),
        (
            rooted("").workdir("/proc/1/root"),
            ErrorKind::InvalidInput,
            "ELOOP",
        ),
        (
            Command::new("/nowhere"),
            ErrorKind::NotFound,
            "start /nowhere: execve /nowhere: ENOENT",
        ),
        (
            Command::new("nowhere"),
            ErrorKind::NotFound,
            "start nowhere: execve nowhere: ENOENT",
        ),
        (
            Command::new("/"),
            ErrorKind::PermissionDenied,
            "execve /: EACCES",
        ),
    ];
    for (command, kind, text) in cases {
        let error = refused(command);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn streams_environment_and_workdir_arrive() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let mut child = inside("echo").stdin(Stdio::piped()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all("čau".as_bytes())
        .unwrap();
    let out = child.output().unwrap();
    assert!(String::from_utf8(out.stdout).unwrap().contains("<<<čau>>>"));
    assert_eq!(output(rooted("cwd").workdir("/dev/shm")), "/dev/shm");
    let env = output(inside("env").env("A", "b"));
    let mut names: Vec<_> = env
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(n, _)| n)
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["A", PAYLOAD, "PATH"]);
}

#[test]
fn big_arguments_and_files_arrive_whole() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let big = "x".repeat(3 << 20);
    let text = output(
        rooted("read /mnt/big")
            .mount(Mount::tmpfs("/mnt", 8 << 20))
            .mount(Mount::file("/mnt/big", big.clone())),
    );
    assert!(text == big, "{} bytes", text.len());
    let long = "y".repeat(100 << 10);
    let env = output(inside("env").env("LONG", long.clone()));
    assert!(env.contains(&format!("LONG={long}\n")));
    let error = refused(rooted("").mount(Mount::file("/mnt/big", vec![0; 9 << 20])));
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn the_only_fds_are_the_streams() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let leaked = fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    // 3 is the listing itself.
    assert_eq!(output(rooted("list /proc/self/fd")), "0 1 2 3");
}

#[test]
fn status_signal_and_timeouts_are_told_apart() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    assert_eq!(
        inside("exit 7").spawn().unwrap().wait().unwrap().code(),
        Some(7)
    );
    let child = inside("sleep").spawn().unwrap();
    let before = Instant::now();
    assert_eq!(child.wait_timeout(Duration::from_millis(50)).unwrap(), None);
    assert!(before.elapsed() >= Duration::from_millis(50));
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    let status = child
        .wait_timeout(Duration::from_secs(60))
        .unwrap()
        .unwrap();
    assert_eq!(status.signal(), Some(9));
    assert_eq!(child.try_wait().unwrap(), Some(status), "the status stays");
    child.kill().unwrap();
    assert_eq!(
        child.signal(999).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
}

#[test]
fn who_is_deaf_to_a_signal_is_known() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    const SIGTERM: i32 = 15;
    const SIGSEGV: i32 = 11;
    let child = inside("sleep").spawn().unwrap();
    // Rust's runtime handles SIGSEGV once it is up, and blocks all signals for moments before that.
    until("it handles SIGSEGV and not SIGTERM", || {
        !child.is_deaf_to(SIGSEGV) && child.is_deaf_to(SIGTERM)
    });
    child.signal(SIGTERM).unwrap();
    assert_eq!(child.wait_timeout(Duration::from_millis(50)).unwrap(), None);
    let child = inside("sleep")
        .namespaces(Namespaces::none())
        .spawn()
        .unwrap();
    assert!(!child.is_deaf_to(SIGTERM), "not a pid 1");
}

#[test]
fn dropping_it_kills_and_persist_does_not() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let child = inside("sleep").spawn().unwrap();
    let process = format!("/proc/{}", child.pid());
    drop(child);
    assert!(!Path::new(&process).exists());

    let child = inside("sleep").spawn().unwrap();
    let pidfd = std::os::fd::AsFd::as_fd(&child)
        .try_clone_to_owned()
        .unwrap();
    let pid = child.persist();
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert!(!state.contains(") Z "), "{state}");
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
    let id = rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd));
    rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED).unwrap();
}

#[test]
fn it_is_killed_when_the_start_takes_too_long() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    // A full pipe in place of a cgroup.procs: the child cannot go on.
    let (_read, write) = full_pipe();
    let before = Instant::now();
    let command = rooted("sleep")
        .cgroup_procs(write)
        .start_deadline(Duration::from_millis(200));
    let error = refused(command);
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    // Unless told otherwise it would be ten seconds.
    assert!(
        (200..9000).contains(&before.elapsed().as_millis()),
        "{:?}",
        before.elapsed()
    );
}

#[test]
fn a_kernel_without_the_calls_it_needs_is_unsupported() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    // Linux's numbers, the same on all architectures since 5.x.
    for (number, name) in [
        (437, "openat2"),
        (436, "close_range"),
        (442, "mount_setattr"),
    ] {
        let error = std::thread::spawn(move || {
            refuse_syscall(number);
            refused(rooted("cwd"))
        });
        let error = error.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}: {error}");
        assert!(error.to_string().contains("ENOSYS"), "{name}: {error}");
    }
}

#[test]
fn the_thread_that_started_it_can_end() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let child = std::thread::spawn(|| inside("sleep").spawn().unwrap())
        .join()
        .unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(child.try_wait().unwrap(), None);
}

#[test]
fn nothing_of_the_callers_process_changes() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let before = own_state();
    output(rooted("cwd"));
    output(rooted("cwd").id_map(IdMap::current_user()));
    refused(Command::new("/nowhere"));
    assert_eq!(own_state(), before);
}
