//! What containers have broken out by, one class a test. Each is named after the first, or best known, of its class, and fails
//! without what guards against it.
//!
//! | class | CVE | test | guard |
//! |---|---|---|---|
//! | 1 | 2019-5736 | `cve_2019_5736` | the stub is a sealed memfd in a memory of its own, and not dumpable |
//! | 2 | 2019-16884, 2019-19921, 2023-27561, 2023-28642 | `cve_2019_16884` | no target below `/proc`; `/proc`, `/sys`, `/dev` without links |
//! | 3 | 2021-30465 | `cve_2021_30465` | targets are resolved once the host is gone, one component after the other |
//! | 4 | 2024-21626 | `cve_2024_21626` | a workdir without magic links; fds closed at exec |
//! | 5 | 2024-45310 | `cve_2024_45310` | as 3 |
//! | 6 | 2025-31133 | `cve_2025_31133`, `mounts::a_null_of_the_host_that_is_none_is_never_used` | masks by fd, from a device that was made or checked |
//! | 7 | 2025-52565 | `process::cve_2025_52565` | the other end of a terminal by `TIOCGPTPEER`, of a devpts that was checked |
//! | 8 | 2025-52881 | `cve_2025_52881` | writes to a procfs of one's own, and to no mount in it |
//! | 9 | 2026-41579, 2026-47766 | `cve_2026_41579` | as 2 |
//! | 10 | 2022-29162, 2022-27650, 2022-24769 | `cve_2022_29162` | capset(2) with what was asked for as inheritable |
//! | 11 | 2016-9962 | `spy::cve_2016_9962` | not dumpable |
//! | 12 | 2022-0492 | `calls::cve_2022_0492` | no `CAP_SYS_ADMIN`, seccomp, a sysfs without cgroups |
//! | 13 | 2023-25809 | `cve_2023_25809` | the host's sysfs is read-only |
//! | 14 | 2017-5226 | `calls::cve_2017_5226` | a session of its own; seccomp |
//! | 15 | 2020-5291, 2016-3135 | `cve_2020_5291`, `privileges::user_namespaces_can_be_denied` | no_new_privs; seccomp |
//! | 16 | 2014-8989 | `ids::cve_2014_8989` | `deny` is written to `setgroups` first |
//! | 17 | 2026-30892 | `ids::cve_2026_30892` | users are parsed, or are an error |
//! | 18 | 2021-43784 | `cve_2021_43784` | lengths are checked; a write that is too short fails |
//! | 19 | 2022-0185, 2024-1086 | `calls::cve_2022_0185` | seccomp |
//! | 20 | 2022-29582 | `calls::cve_2022_29582` | seccomp |
//! | 21 | 2020-15257 | `cve_2020_15257` | a network namespace unless it is taken away |
//! | 22 | 2024-23651, 2024-23652, 2024-23653, 2024-1753, 2024-9407 | `cve_2024_23651` | `nofollow`: sources without links, by fd |
//! | 23 | 2019-18837 | `cve_2019_18837` | as 3; the root is opened once |
//! | 24 | 2025-24965 | `cve_2025_24965` | files are made beside the root and mounted |
//! | 25 | 2018-15664 | none | there is nothing here that copies to or from a container |
//! | 26 | 2021-41091 | `cve_2021_41091` | modes of what is made |
//! | 27 | 2019-14271 | `ids::cve_2019_14271` | names are looked up by reading a file of bounded size, by no code of the root |
//! | 28 | - | `spy::directories_and_fds_of_who_is_starting_are_out_of_reach` | not dumpable |
//!
//! Tests are named by how they begin. Those of other files are in `tests/mounts.rs`, `tests/privileges.rs` and `tests/process.rs`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod calls;
mod ids;
mod spy;
#[path = "../support/mod.rs"]
mod support;
mod sys;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use cofferdam_namespaces::{
    Command, ErrorKind, IdMap, Mount, Namespace, Namespaces, RootFs, Stdio, StubFile,
};
use cofferdam_testkit::{Need, have, in_mount_namespace};
use support::{
    Done, Scratch, alone, answer, answered, common, exchange, inside, names, output, refused,
    rooted, turns,
};

#[test]
fn payload() {
    answer(|verb, rest| match verb {
        "who" => {
            let accounts = fs::read_to_string("/etc/passwd").unwrap();
            let uid = rustix::process::geteuid().as_raw();
            Ok(format!("{uid} {}", accounts.split(':').nth(2).unwrap()))
        }
        "abstract" => Ok(abstract_socket(rest).map_or_else(|error| error, |()| "reached".into())),
        "embed" => calls::embed(rest),
        "overwrite" => Ok(overwrite()),
        "calls" => Ok(calls::calls(rest)),
        "drop-groups" => Ok(ids::drop_groups()),
        "spy" => spy::spy(rest),
        _ => common(verb, rest),
    });
}

/// A root with nothing of its own: the machine's programs are bound into it, and this one at `/test`.
fn bare(root: &Path, what: &str) -> Command {
    let command = alone(what, RootFs::directory(root));
    if Path::new("/bin").is_dir() {
        return command.mount(Mount::bind("/bin", "/bin").read_only());
    }
    command
}

/// What is in a directory that must stay as it is.
fn is_untouched(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().count() == 0
}

/// Tries to open the program of whoever is process 1 to be written, for as long as that runs.
fn overwrite() -> String {
    let mut tried = String::new();
    for path in ["/proc/1/exe", "/proc/self/exe"] {
        match OpenOptions::new().write(true).open(path) {
            Ok(_) => tried += &format!("{path} can be written; "),
            Err(error) => tried += &format!("{path}: {}; ", error.raw_os_error().unwrap_or(0)),
        }
    }
    tried
}

#[test]
fn cve_2019_5736_the_embedders_program_is_never_run_or_written() {
    if !have(&[Need::Root]) {
        return;
    }
    let root = Scratch::new("exe");
    // An entry point that is interpreted by whoever executes it.
    let script = root.0.join("script");
    fs::write(&script, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let exe = std::env::current_exe().unwrap();
    let before = fs::read(&exe).unwrap();
    for init in [false, true] {
        let marked = bare(&root.0, "read /proc/self/status")
            .program("/script")
            .init(init);
        match marked.spawn() {
            // What ran was the stub, which finds nothing of the caller's.
            Ok(mut child) => {
                let output = child.output().unwrap();
                assert!(!output.status.success());
                assert!(
                    support::said(&output.stdout).is_none(),
                    "the embedder's program ran"
                );
            }
            Err(error) => assert!(error.to_string().contains("script"), "{error}"),
        }
        // Process 1 of a container with an init is the stub for as long as it lives.
        let tried = output(
            rooted("overwrite")
                .init(init)
                .mount(Mount::tmpfs("/mnt", 4096)),
        );
        assert!(!tried.contains("can be written"), "{tried}");
        assert!(!init || tried.contains("/proc/1/exe: 13"), "{tried}");
    }
    assert!(fs::read(&exe).unwrap() == before);
    // The stub itself can be written by nobody, wherever it is kept.
    // One that waits, as who has ended has no program any more.
    let waits = rooted("read /dev/stdin").stdin(Stdio::piped()).init(true);
    let child = waits.spawn().unwrap();
    let stub = format!("/proc/{}/exe", child.pid());
    let refused = OpenOptions::new().write(true).open(stub).unwrap_err();
    assert!(
        [1, 13, 26].contains(&refused.raw_os_error().unwrap()),
        "{refused}"
    );
    if child.applied().stub == StubFile::Memfd {
        use rustix::fs::SealFlags;
        let file = File::open(format!("/proc/{}/exe", child.pid())).unwrap();
        let sealed = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        assert!(rustix::fs::fcntl_get_seals(&file).unwrap().contains(sealed));
    }
}

#[test]
fn cve_2019_16884_nothing_is_mounted_over_proc() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for target in [
        "/proc",
        "/proc/self/attr",
        "//proc/x",
        "/x/../proc",
        "/proc/",
        "/./proc/sys",
    ] {
        for mount in [
            Mount::tmpfs(target, 4096),
            Mount::bind("/", target),
            Mount::file(target, ""),
        ] {
            let error = refused(rooted("").mount(mount));
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains("proc"), "{error}");
        }
    }
    for name in ["proc", "sys", "dev"] {
        let (root, elsewhere) = (
            Scratch::new(&format!("link-{name}")),
            Scratch::new(&format!("to-{name}")),
        );
        symlink(&elsewhere.0, root.0.join(name)).unwrap();
        // What the link leads to is in the root too: it is for being a link that it is refused.
        let inside = root.0.join(elsewhere.0.strip_prefix("/").unwrap());
        fs::create_dir_all(&inside).unwrap();
        let error = refused(bare(&root.0, ""));
        assert!(error.to_string().contains("ELOOP"), "{error}");
        assert!(error.to_string().contains(&format!("/{name}")), "{error}");
        assert!(is_untouched(&elsewhere.0));
    }
    // By a link of the image a mount can be aimed at /proc: then procfs comes on top.
    let root = Scratch::new("aimed");
    fs::create_dir(root.0.join("proc")).unwrap();
    symlink("/proc", root.0.join("data")).unwrap();
    let status = output(bare(&root.0, "read /proc/self/status").mount(Mount::tmpfs("/data", 4096)));
    assert!(status.contains("NSpid:"), "{status}");
}

#[test]
fn cve_2021_30465_a_root_that_is_changed_meanwhile_has_nothing_mounted_outside() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let (root, victim) = (Scratch::new("race"), Scratch::new("race-victim"));
    fs::create_dir(victim.0.join("b")).unwrap();
    fs::create_dir(root.0.join("a")).unwrap();
    // Also what a link to the host's root would find there.
    fs::create_dir(root.0.join("other")).unwrap();
    symlink(&victim.0, root.0.join("link")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = Done(&done);
        scope.spawn(|| {
            let (a, link) = (root.0.join("a"), root.0.join("link"));
            while !done.load(Ordering::Relaxed) {
                exchange(&a, &link);
            }
        });
        let (mut well, mut ill) = (0, 0);
        for _ in 0..turns(500, 25) {
            let command = Command::new("/nothing")
                .root(RootFs::directory(&root.0))
                .mount(Mount::tmpfs("/a/b", 4096))
                .mount(Mount::file("/a/file", "content"));
            // The program is not there: a start that comes so far has mounted all.
            let error = refused(command);
            if error.to_string().contains("execve") {
                well += 1;
            } else {
                ill += 1;
            }
            assert_eq!(names(&victim.0).unwrap(), "b");
            assert!(is_untouched(&victim.0.join("b")));
        }
        assert!(well > 0, "{well} went well, {ill} did not");
    });
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert!(!mounts.contains("cofferdam-ns-"), "{mounts}");
}

#[test]
fn cve_2024_21626_no_fd_of_the_callers_is_a_workdir() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let leaked = File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    for number in 0..=30 {
        for path in [
            format!("/proc/self/fd/{number}"),
            format!("/proc/1/fd/{number}/../.."),
        ] {
            let error = refused(rooted("").workdir(&path));
            assert!(error.to_string().contains("workdir"), "{path}: {error}");
        }
    }
    for path in ["/proc/self/cwd", "/proc/self/root", "/proc/1/root/../.."] {
        refused(rooted("").workdir(path));
    }
    assert_eq!(
        output(rooted("list /proc/self/fd")),
        "0 1 2 3",
        "3 lists them"
    );
    let target = rooted("read /dev/stdin")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    for number in 0..=30 {
        let inside = inside("").workdir(format!("/proc/self/fd/{number}"));
        assert!(inside.enter(&target).is_err(), "entering with {number}");
    }
}

#[test]
fn cve_2024_45310_nothing_is_created_on_the_host_for_a_mount() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let victim = Scratch::new("created");
    for link in [
        victim.0.join("x"),
        PathBuf::from(format!("../../../../..{}/x", victim.0.display())),
    ] {
        let root = Scratch::new("creates");
        fs::create_dir(root.0.join("etc")).unwrap();
        symlink(&link, root.0.join("etc/resolv.conf")).unwrap();
        symlink(&victim.0, root.0.join("data")).unwrap();
        for mount in [
            Mount::file("/etc/resolv.conf", "nameserver 127.0.0.11\n"),
            Mount::bind("/dev/null", "/etc/resolv.conf"),
            Mount::bind("/usr", "/data/deep/er"),
            Mount::tmpfs("/data/tmp", 4096),
        ] {
            let _either = bare(&root.0, "")
                .program("/nothing")
                .mount(mount)
                .spawn()
                .is_ok();
            assert!(is_untouched(&victim.0), "{}", link.display());
        }
        fs::remove_dir_all(root.0.join("etc")).unwrap();
    }
}

#[test]
fn cve_2025_31133_masks_are_of_the_real_null_device() {
    if !have(&[Need::Root]) {
        return;
    }
    let (root, volume) = (Scratch::new("masks"), Scratch::new("nulls"));
    fs::create_dir(root.0.join("dev")).unwrap();
    for place in [&volume.0, &root.0.join("dev")] {
        symlink("/proc/sys/kernel/core_pattern", place.join("null")).unwrap();
    }
    symlink("/dev", root.0.join("data")).unwrap();
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for mount in [
        Mount::bind(&volume.0, "/data"),
        Mount::bind(&volume.0, "/dev/shm"),
        Mount::tmpfs("/data", 1 << 20),
    ] {
        let command = |what: &str| bare(&root.0, what).mount(mount.clone());
        assert_eq!(output(command("read /proc/timer_list")), "", "masked");
        let mounts = output(command("read /proc/self/mountinfo"));
        assert!(!mounts.contains("core_pattern"), "{mounts}");
        let written = output(command("write /proc/sys/kernel/core_pattern"));
        assert!(written.starts_with("error"), "{written}");
        // Without privilege of its own too, where devices are bound.
        let mapped = command("read /proc/timer_list").id_map(IdMap::current_user());
        assert_eq!(output(mapped), "", "masked in a user namespace");
    }
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
        before
    );
}

/// A setting goes to the kernel's own file or nowhere, whatever is mounted on it or stands in its place in the root.
#[test]
fn cve_2025_52881_settings_never_go_through_a_false_procfs() {
    if !have(&[Need::Root]) {
        return;
    }
    // In the root's place of procfs: what would be the host's /proc/sysrq-trigger, or anything else that can be written.
    let (root, victim) = (Scratch::new("false-proc"), Scratch::new("trigger"));
    let trigger = victim.0.join("sysrq-trigger");
    fs::write(&trigger, "").unwrap();
    fs::set_permissions(&trigger, fs::Permissions::from_mode(0o666)).unwrap();
    let name = "net.ipv4.ip_unprivileged_port_start";
    let path = format!("proc/sys/{}", name.replace('.', "/"));
    let file = root.0.join(&path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    symlink(&trigger, &file).unwrap();
    fs::create_dir(root.0.join("proc/sys/user")).unwrap();
    symlink(&trigger, root.0.join("proc/sys/user/max_user_namespaces")).unwrap();
    let set = bare(&root.0, &format!("read /{path}")).sysctl(name, "5");
    assert_eq!(output(set.clone()), "5\n");
    let hidden = set.clone().root(RootFs::directory(&root.0).without_proc());
    assert_eq!(hidden.spawn().unwrap().wait().unwrap().code(), Some(0));

    // In the caller's own procfs.
    let mapped = IdMap::range(200_000, 1000);
    let denied = inside("list /").id_map(mapped).deny_user_namespaces();
    let adjusted = inside("list /").oom_score_adj(1);
    in_mount_namespace(|| {
        rustix::mount::mount_bind(root.0.join("proc/sys"), "/proc/sys").unwrap();
        let error = refused(denied).to_string();
        assert!(error.contains("deny user namespaces: EXDEV"), "{error}");
        // With its own procfs, what is mounted in the caller's has no part in it.
        assert_eq!(output(set.clone()), "5\n");
        rustix::mount::mount_bind(root.0.join("proc"), "/proc").unwrap();
        let error = refused(adjusted).to_string();
        assert!(error.contains("open /proc: ENODEV"), "{error}");
    });
    assert_eq!(fs::read_to_string(&trigger).unwrap(), "", "written to");
}

/// What another container can put in a source's place: without links, the source itself is mounted or nothing.
#[test]
fn cve_2024_23651_a_source_that_becomes_a_link_is_not_followed() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let (shared, secret) = (Scratch::new("cache"), Scratch::new("cache-secret"));
    fs::create_dir(shared.0.join("cache")).unwrap();
    fs::write(shared.0.join("cache/file"), "of the cache").unwrap();
    fs::write(secret.0.join("file"), "secret").unwrap();
    symlink(&secret.0, shared.0.join("link")).unwrap();
    let (cache, link) = (shared.0.join("cache"), shared.0.join("link"));
    let mount = Mount::bind(&cache, "/mnt").nofollow();
    let command = rooted("read /mnt/file").mount(mount);
    assert_eq!(output(command.clone()), "of the cache");
    exchange(&cache, &link);
    let error = refused(command.clone()).to_string();
    assert!(error.contains("ELOOP"), "{error}");
    // And while it changes.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = Done(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                exchange(&cache, &link);
            }
        });
        let reads = (0..turns(200, 10)).filter_map(|_| command.spawn().ok());
        let reads: Vec<_> = reads
            .map(|mut child| answered(&child.output().unwrap().stdout))
            .collect();
        assert!(reads.iter().all(|read| read == "of the cache"), "{reads:?}");
    });
}

#[test]
fn cve_2026_41579_nothing_is_made_or_removed_behind_a_dev_that_is_a_link() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let (root, host) = (Scratch::new("dev-link"), Scratch::new("dev-victim"));
    fs::write(host.0.join("null"), "mine").unwrap();
    fs::create_dir(host.0.join("shm")).unwrap();
    symlink(&host.0, root.0.join("dev")).unwrap();
    let same = root.0.join(host.0.strip_prefix("/").unwrap());
    fs::create_dir_all(&same).unwrap();
    for init in [false, true] {
        let error = refused(bare(&root.0, "").init(init)).to_string();
        assert!(error.contains("/dev") && error.contains("ELOOP"), "{error}");
    }
    assert!(is_untouched(&same));
    assert_eq!(names(&host.0).unwrap(), "null shm");
    assert_eq!(fs::read_to_string(host.0.join("null")).unwrap(), "mine");
}

#[test]
fn cve_2022_29162_no_capability_is_inheritable_or_ambient() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let check = |status: &str, what: &str| {
        for name in ["CapInh", "CapAmb"] {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            assert!(line.ends_with("\t0000000000000000"), "{what}: {line}");
        }
    };
    let target = rooted("read /dev/stdin")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let status = "read /proc/self/status";
    check(&output(rooted(status)), "a container");
    check(
        &output(rooted(status).init(true)),
        "a container with an init",
    );
    check(
        &output(rooted(status).id_map(IdMap::current_user())),
        "a user namespace",
    );
    let mut child = inside(status).enter(&target).unwrap();
    let entered = answered(&child.output().unwrap().stdout);
    check(&entered, "who enters");
}

#[test]
fn cve_2023_25809_cgroups_of_the_host_cannot_be_written() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let script = "for file in $(find /sys/fs/cgroup -name cgroup.procs 2>/dev/null); do \
            (echo 0 > $file) 2>/dev/null && echo written $file; \
        done; \
        mkdir /sys/fs/cgroup/mine 2>/dev/null && echo made; echo end";
    let without = Namespaces::default().without(Namespace::Cgroup);
    // Which is the host's sysfs, with the cgroups in it.
    let hosts = without.clone().without(Namespace::Net);
    for namespaces in [Namespaces::default(), without, hosts] {
        let mut child = Command::new("/bin/sh")
            .args(["-c", script])
            .root(RootFs::directory("/"))
            .namespaces(namespaces)
            .id_map(IdMap::current_user())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        assert_eq!(child.output().unwrap().stdout, b"end\n");
    }
}

#[test]
fn cve_2020_5291_an_ordinary_user_gains_nothing_outside() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let status = output(rooted("read /proc/self/status").id_map(IdMap::current_user()));
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    // Root inside is nobody to what is the host's: a kernel setting is read-only and not its own.
    let command = rooted("write /proc/sys/kernel/core_pattern").id_map(IdMap::current_user());
    assert!(output(command).starts_with("error"));
    let script = "unshare -Ur true 2>/dev/null && echo nested; echo end";
    let mut child = Command::new("/bin/sh")
        .args(["-c", script])
        .root(RootFs::directory("/"))
        .id_map(IdMap::current_user())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(
        child.output().unwrap().stdout,
        b"end\n",
        "no user namespace inside"
    );
}

#[test]
fn cve_2021_43784_long_strings_arrive_whole_or_not_at_all() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for length in [70 << 10, 5 << 20] {
        let content = "z".repeat(length);
        let command = rooted("read /mnt/file")
            .mount(Mount::tmpfs("/mnt", 16 << 20))
            .mount(Mount::file("/mnt/file", content.clone()));
        assert!(output(command) == content, "a file of {length}");
        let path = format!("/mnt/{}", "d/".repeat(length / 2));
        let error = refused(rooted("").mount(Mount::tmpfs(path, 4096)));
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    let long = "v".repeat(70 << 10);
    assert_eq!(
        output(rooted("list /").env("LONG", &long)).len(),
        names(Path::new("/")).unwrap().len()
    );
    let error = refused(rooted("list /").env("LONG", "v".repeat(5 << 20)));
    assert_eq!(error.raw_os_error(), Some(7), "E2BIG of execve(2)");
}

fn abstract_socket(name: &str) -> Result<(), String> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixStream};
    let address = SocketAddr::from_abstract_name(name).map_err(|error| error.to_string())?;
    let stream = UnixStream::connect_addr(&address);
    stream.map(drop).map_err(|error| error.kind().to_string())
}

#[test]
fn cve_2020_15257_abstract_sockets_of_the_host_are_out_of_reach() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    if !have(&[Need::Namespaces]) {
        return;
    }
    let name = format!("cofferdam-ns-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let what = format!("abstract {name}");
    assert_eq!(output(rooted(&what)), "connection refused");
    // Only who asks for the caller's network has them.
    let shared = Namespaces::default().without(Namespace::Net);
    assert_eq!(output(rooted(&what).namespaces(shared)), "reached");
}

#[test]
fn cve_2019_18837_chains_of_links_as_targets_stay_inside() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let victim = Scratch::new("chain-victim");
    let root = Scratch::new("chain");
    fs::create_dir_all(root.0.join("x/y")).unwrap();
    let links: [(&str, String); 7] = [
        ("one", "two".into()),
        ("two", "/three".into()),
        ("three", format!("x/../../../../..{}", victim.0.display())),
        ("x/up", "../../../..".into()),
        ("x/y/loop", "loop".into()),
        ("four", "five".into()),
        ("five", victim.0.display().to_string()),
    ];
    for (name, target) in &links {
        symlink(target, root.0.join(name)).unwrap();
    }
    for target in [
        "/one",
        "/one/deep",
        "/x/up/tmp",
        "/x/y/loop/z",
        "/three/file",
        "/four/file",
    ] {
        for mount in [Mount::tmpfs(target, 4096), Mount::file(target, "x")] {
            let _either = bare(&root.0, "")
                .program("/nothing")
                .mount(mount)
                .spawn()
                .is_ok();
            assert!(is_untouched(&victim.0), "{target}");
        }
    }
}

/// It is opened once at each start: what is read of it and what the program runs in are the same root.
#[test]
fn cve_2019_18837_a_root_that_is_swapped_is_one_root_for_all_of_a_start() {
    if !have(&[Need::Root]) {
        return;
    }
    let roots = Scratch::new("roots");
    let [first, second] = ["1", "2"].map(|id| {
        let root = roots.0.join(id);
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), format!("app:x:{id}:{id}::/:\n")).unwrap();
        root
    });
    let command = bare(&first, "who").user("app".parse().unwrap());
    let done = AtomicBool::new(false);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let _done = Done(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                exchange(&first, &second);
            }
        });
        (0..turns(200, 10))
            .map(|_| output(command.clone()))
            .collect()
    });
    for answer in answers {
        let (uid, of_root) = answer.split_once(' ').unwrap();
        assert_eq!(uid, of_root);
    }
}

#[test]
fn cve_2025_24965_files_are_written_beside_the_root_and_never_through_its_links() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let (root, victim) = (Scratch::new("files"), Scratch::new("files-victim"));
    let precious = victim.0.join("precious");
    fs::write(&precious, "mine").unwrap();
    fs::create_dir(root.0.join("etc")).unwrap();
    for name in ["hosts", "hostname", "passwd"] {
        symlink(&precious, root.0.join("etc").join(name)).unwrap();
        let mount = Mount::file(format!("/etc/{name}"), "of the container");
        let _either = bare(&root.0, "")
            .program("/nothing")
            .mount(mount)
            .spawn()
            .is_ok();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "mine", "{name}");
    }
    fs::write(root.0.join("etc/real"), "of the image").unwrap();
    let command = bare(&root.0, "read /etc/real").mount(Mount::file("/etc/real", "of the caller"));
    assert_eq!(output(command), "of the caller");
    let image = fs::read_to_string(root.0.join("etc/real")).unwrap();
    assert_eq!(image, "of the image", "mounted, not written");
}

#[test]
fn cve_2021_41091_what_is_made_is_no_more_open_than_it_must_be() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let root = Scratch::new("modes");
    let command = bare(&root.0, "list /").mount(Mount::file("/secret/key", "x").mode(0o400));
    let mode = |path: PathBuf| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    output(command);
    for name in ["proc", "sys", "dev", "secret"] {
        let mode = mode(root.0.join(name));
        assert_eq!(mode & 0o022, 0, "{name} is writable by others: {mode:o}");
    }
    // In place of the file there is an empty one.
    let key = root.0.join("secret/key");
    assert_eq!(fs::metadata(&key).unwrap().len(), 0);
    assert!(!fs::symlink_metadata(&key).unwrap().file_type().is_symlink());
    assert!(!fs::symlink_metadata(&key).unwrap().file_type().is_fifo());
}
