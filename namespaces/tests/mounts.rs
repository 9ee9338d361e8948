//! Roots and mounts on the real kernel. The program is this test binary itself: it needs no other on the machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use cofferdam_namespaces::{
    Capabilities, Capability, Command, Device, ErrorKind, HidePid, IdMap, Mount, Namespace,
    Namespaces, Proc, RootFs, Seccomp, Spawned, User,
};
use cofferdam_testkit::{Need, NetNs, have, in_mount_namespace};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use support::{
    Scratch, alone, answer, answered, common, exchange, inside, output, refused, rooted, tmpfs_on,
    turns, until,
};

/// Not a test of its own: what runs inside.
#[test]
fn payload() {
    answer(|verb, rest| match verb {
        "stat" => stat(rest),
        "fill" => Ok(fill(rest)),
        "mount" => {
            tmpfs_on(rest);
            common("sleep", "")
        }
        "await" => {
            fs::write(format!("{rest}/ready"), "").unwrap();
            until("a mount", || Path::new(rest).join("sub/marker").exists());
            Ok("seen".into())
        }
        "nested" => Ok(nested(rest)),
        "embed" => {
            let bind = Mount::bind(rest, "/dev/shm/b").idmapped(IdMap::range(200_000, 1000));
            let child = rooted("stat /dev/shm/b/file").mount(bind).spawn();
            child
                .map_err(|error| error.to_string())
                .map(|mut child| answered(&child.output().unwrap().stdout))
        }
        _ => common(verb, rest),
    });
}

/// Type, mode, owner and device number.
fn stat(path: &str) -> Result<String, String> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let stat = rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS)
        .map_err(|error| error.to_string())?;
    let mode = u32::from(stat.stx_mode);
    let kind = match FileType::from_raw_mode(mode) {
        FileType::CharacterDevice => "c",
        FileType::BlockDevice => "b",
        FileType::Directory => "d",
        FileType::RegularFile => "f",
        _ => "?",
    };
    let (uid, gid) = (stat.stx_uid, stat.stx_gid);
    let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
    let mode = mode & 0o7777;
    Ok(format!("{kind} {mode:o} {uid}:{gid} {major}:{minor}"))
}

/// How many files can be made in a directory, and what stops it.
fn fill(path: &str) -> String {
    for count in 0..1000 {
        if let Err(error) = fs::write(format!("{path}/{count}"), "") {
            return format!("{count} {error}");
        }
    }
    "no end".into()
}

/// Containers of a caller without any privilege.
fn nested(case: &str) -> String {
    let (case, path) = case.split_once(' ').unwrap();
    let ours = |what: &str| rooted(what).id_map(IdMap::current_user());
    let command = match case {
        "bind" => ours("read /dev/shm/b/file").mount(Mount::bind(path, "/dev/shm/b")),
        "ro" => ours("write /dev/shm/b/file").mount(Mount::bind(path, "/dev/shm/b").read_only()),
        "nofollow" => {
            ours("read /dev/shm/b/file").mount(Mount::bind(path, "/dev/shm/b").nofollow())
        }
        "fd" => {
            let fd = fs::File::open(path).unwrap();
            ours("read /dev/shm/b/file").mount(Mount::bind_fd(fd.into(), "/dev/shm/b"))
        }
        "changed" => ours("sleep").mount(Mount::bind("/proc/self/exe", "/dev/shm/b")),
        "slave" => ours("await /dev/shm/b").mount(Mount::bind(path, "/dev/shm/b").slave()),
        "idmapped" => {
            let map = IdMap::range(0, 10);
            ours("sleep").mount(Mount::bind(path, "/dev/shm/b").idmapped(map))
        }
        "null" => ours("stat /dev/null"),
        "device" => {
            ours("stat /dev/zero2").mount(Mount::node("/dev/zero2", Device::character(1, 5)))
        }
        "mask" => ours("stat /proc/timer_list"),
        other => panic!("no case {other}"),
    };
    match command.spawn() {
        Err(error) => format!("{:?}: {error}", error.kind()),
        Ok(mut child) => answered(&child.output().unwrap().stdout),
    }
}

/// The options of the mount at `target`, its own and its filesystem's, and its optional fields.
fn mount_options(mountinfo: &str, target: &str) -> String {
    let line = mountinfo
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == Some(target));
    let line = line.unwrap_or_else(|| panic!("no {target} in {mountinfo}"));
    let mut fields: Vec<_> = line.split(' ').skip(5).collect();
    let last = fields.pop().unwrap();
    format!(",{},{last},", fields.join(","))
}

fn mountinfo_of(child: &Spawned) -> String {
    fs::read_to_string(format!("/proc/{}/mountinfo", child.pid())).unwrap()
}

/// In a mount namespace of its own: a shared tmpfs on `path`.
fn shared_tmpfs_on(path: &Path) {
    tmpfs_on(path);
    rustix::mount::mount_change(path, MountPropagationFlags::SHARED).unwrap();
}

fn open_path(path: &Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

#[test]
fn attributes_hold_all_the_way_down() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = Scratch::new("attributes");
    in_mount_namespace(|| {
        // Not the host's: in a user namespace those keep their access times as they are.
        tmpfs_on(&host.0);
        fs::create_dir(host.join("below")).unwrap();
        tmpfs_on(host.join("below"));
        let bind = Mount::bind(&host.0, "/mnt").nosuid().nodev().noexec();
        let bind = bind.noatime().nodiratime().nosymfollow();
        let info = output(rooted("read /proc/self/mountinfo").mount(bind));
        for target in ["/mnt", "/mnt/below"] {
            let options = mount_options(&info, target);
            for option in [
                "nosuid",
                "nodev",
                "noexec",
                "noatime",
                "nodiratime",
                "nosymfollow",
            ] {
                assert!(
                    options.contains(&format!(",{option},")),
                    "{target} {options}"
                );
            }
            assert!(options.starts_with(",rw,"), "{target} {options}");
        }
        let info = output(rooted("read /proc/self/mountinfo").mount(Mount::bind(&host.0, "/mnt")));
        assert!(
            !mount_options(&info, "/mnt/below").contains("noexec"),
            "the source's stay"
        );
    });
}

#[test]
fn only_the_top_is_read_only_if_that_is_asked_for() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = Scratch::new("top");
    fs::create_dir(host.join("below")).unwrap();
    in_mount_namespace(|| {
        tmpfs_on(host.join("below"));
        let top = Mount::bind(&host.0, "/mnt").read_only_top();
        let refused = output(rooted("write /mnt/file").mount(top.clone()));
        assert!(refused.starts_with("error: Read-only"), "{refused}");
        assert_eq!(output(rooted("write /mnt/below/file").mount(top)), "done");
        let flat = Mount::bind(&host.0, "/mnt").no_recurse();
        assert_eq!(output(rooted("list /mnt/below").mount(flat)), "");
        let deep = Mount::bind(&host.0, "/mnt");
        assert_eq!(output(rooted("list /mnt/below").mount(deep)), "file");
    });
}

#[test]
fn a_source_behind_a_link_is_refused_where_links_are() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let (host, secret) = (
        Scratch::new("nofollow"),
        Scratch::with_file("secret", "secret"),
    );
    fs::create_dir(secret.join("in")).unwrap();
    fs::write(secret.join("in/file"), "deep").unwrap();
    symlink(&secret.0, host.join("link")).unwrap();
    for (path, content) in [("link", "secret"), ("link/in", "deep")] {
        let bind = Mount::bind(host.join(path), "/mnt");
        assert_eq!(
            output(rooted("read /mnt/file").mount(bind.clone())),
            content
        );
        let error = refused(rooted("read /mnt/file").mount(bind.nofollow()));
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains("ELOOP"), "{error}");
        assert!(error.to_string().contains(path), "{error}");
    }
    let bind = Mount::bind(secret.join("in"), "/mnt").nofollow();
    assert_eq!(output(rooted("read /mnt/file").mount(bind)), "deep");
}

#[test]
fn what_was_opened_is_mounted_whatever_its_path_is_by_then() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = Scratch::new("fd");
    fs::create_dir(host.join("a")).unwrap();
    fs::write(host.join("a/file"), "first").unwrap();
    let (directory, file) = (open_path(&host.join("a")), open_path(&host.join("a/file")));
    fs::rename(host.join("a"), host.join("b")).unwrap();
    fs::create_dir(host.join("a")).unwrap();
    fs::write(host.join("a/file"), "second").unwrap();
    let command = |what: &str| {
        let file = file.try_clone().unwrap();
        let directory = directory.try_clone().unwrap();
        rooted(what)
            .mount(Mount::tmpfs("/mnt", 1 << 20))
            .mount(Mount::bind_fd(file, "/mnt/f"))
            .mount(Mount::bind_fd(directory, "/mnt/d").read_only())
    };
    assert_eq!(output(command("read /mnt/f")), "first");
    assert_eq!(output(command("read /mnt/d/file")), "first");
    assert!(output(command("write /mnt/d/file")).starts_with("error: Read-only"));
    let twice = command("read /mnt/f");
    assert_eq!(output(twice.clone()) + &output(twice), "firstfirst");

    let root = RootFs::directory_fd(open_path(Path::new("/")));
    assert_eq!(
        output(inside("read /proc/self/stat").root(root))
            .split(' ')
            .next(),
        Some("1")
    );
    let error = refused(inside("sleep").root(RootFs::directory_fd(file)));
    assert_eq!(
        error.raw_os_error(),
        Some(Errno::NOTDIR.raw_os_error()),
        "{error}"
    );
}

#[test]
fn a_detached_mount_can_be_bound() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    rustix::mount::fsconfig_create(context.as_fd()).unwrap();
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let attributes = MountAttrFlags::empty();
    let mount = rustix::mount::fsmount(context.as_fd(), flags, attributes).unwrap();
    rustix::fs::mkdirat(&mount, "made", Mode::RWXU).unwrap();
    let command = rooted("list /mnt").mount(Mount::bind_fd(mount, "/mnt").nosuid());
    assert_eq!(output(command), "made");
}

/// As in a container that was given the host's procfs.
#[test]
fn an_idmapped_mount_can_be_had_where_proc_counts_another_pid_namespace() {
    if !have(&[Need::Root]) {
        return;
    }
    let host = Scratch::with_file("idmapped-elsewhere", "x");
    std::os::unix::fs::chown(host.join("file"), Some(7), Some(8)).unwrap();
    let embedder = inside(&format!("embed {}", host.0.display()))
        .namespaces(Namespaces::none().with(Namespace::Pid))
        .capabilities(Capabilities::ALL)
        .seccomp(Seccomp::unconfined());
    let said = output(embedder);
    let expected = "f 644 200007:200008 0:0";
    assert!(
        said == expected || said.contains("is not supported"),
        "{said}"
    );
}

#[test]
fn an_idmapped_mount_gives_files_to_the_ids_inside() {
    if !have(&[Need::Root]) {
        return;
    }
    let host = Scratch::with_file("idmapped", "x");
    let map = || IdMap::range(200_000, 1000);
    std::os::unix::fs::chown(host.join("file"), Some(7), Some(8)).unwrap();
    let bind = Mount::bind(&host.0, "/dev/shm/b");
    let stat = |bind: &Mount| {
        let command = rooted("stat /dev/shm/b/file").id_map(map());
        command.mount(bind.clone())
    };
    assert_eq!(output(stat(&bind)), "f 644 65534:65534 0:0");
    let mapped = bind.idmapped(map());
    let command = stat(&mapped);
    match command.spawn() {
        Ok(mut child) => {
            assert_eq!(answered(&child.output().unwrap().stdout), "f 644 7:8 0:0");
            // Without a user namespace the ids outside are seen.
            let outside = rooted("stat /dev/shm/b/file").mount(mapped);
            assert_eq!(output(outside), "f 644 200007:200008 0:0");
        }
        // A tmpfs before 6.3.
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            let path = host.0.display().to_string();
            assert!(error.to_string().contains(&path), "{error}");
        }
    }
    let error = refused(rooted("sleep").mount(Mount::bind("/proc", "/mnt").idmapped(map())));
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let line = "an idmapped mount of /proc is not supported";
    assert!(error.to_string().starts_with(line), "{error}");
}

#[test]
fn mounts_of_the_host_show_up_where_that_was_asked_for() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = Scratch::new("slave");
    let sub = host.join("sub");
    in_mount_namespace(|| {
        shared_tmpfs_on(&host.0);
        fs::create_dir(&sub).unwrap();
        let bind = || Mount::bind(&host.0, "/dev/shm/b");
        let private = rooted("sleep").mount(bind()).spawn().unwrap();
        let slave = rooted("sleep").mount(bind().slave()).spawn().unwrap();
        let sealed = rooted("sleep")
            .mount(bind().slave().read_only())
            .spawn()
            .unwrap();
        tmpfs_on(&sub);
        let has = |child: &Spawned| mountinfo_of(child).contains(" /dev/shm/b/sub ");
        assert!(has(&slave) && has(&sealed));
        assert!(!has(&private));
        let options = mount_options(&mountinfo_of(&slave), "/dev/shm/b");
        assert!(
            options.contains("master:") && !options.contains("shared:"),
            "{options}"
        );
        let options = mount_options(&mountinfo_of(&private), "/dev/shm/b");
        assert!(
            !options.contains("master:") && !options.contains("shared:"),
            "{options}"
        );
        drop(slave);
        rustix::mount::unmount(&sub, rustix::mount::UnmountFlags::DETACH).unwrap();

        let root = RootFs::directory(&host.0).slave();
        let root = alone("sleep", root).spawn().unwrap();
        tmpfs_on(&sub);
        assert!(
            mountinfo_of(&root).contains(" /sub "),
            "{}",
            mountinfo_of(&root)
        );
        let table = mountinfo_of(&root);
        assert!(!table.contains("shared:"), "{table}");
    });
}

#[test]
fn mounts_inside_reach_the_host_only_where_that_was_asked_for() {
    if !have(&[Need::Root]) {
        return;
    }
    let host = Scratch::new("shared");
    let sub = host.join("sub");
    in_mount_namespace(|| {
        shared_tmpfs_on(&host.0);
        fs::create_dir(&sub).unwrap();
        let admin = Capabilities::default().with(Capability::CAP_SYS_ADMIN);
        let run = |bind: Mount| {
            let command = rooted("mount /dev/shm/b/sub").capabilities(admin);
            command.mount(bind).spawn().unwrap()
        };
        let hosts = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let target = format!(" {} ", sub.display());
        let inside = |child: &Spawned| mountinfo_of(child).contains(" /dev/shm/b/sub ");
        for bind in [
            Mount::bind(&host.0, "/dev/shm/b"),
            Mount::bind(&host.0, "/dev/shm/b").slave(),
        ] {
            let child = run(bind);
            until("it mounts", || inside(&child));
            assert!(!hosts().contains(&target), "{}", hosts());
        }
        let child = run(Mount::bind(&host.0, "/dev/shm/b").shared());
        until("it mounts", || inside(&child));
        assert!(hosts().contains(&target), "{}", hosts());
        drop(child);
        assert!(hosts().contains(&target), "it stays");
        // The library's own mounts do not.
        let command = rooted("sleep")
            .mount(Mount::bind(&host.0, "/mnt").shared())
            .mount(Mount::tmpfs("/mnt/sub", 4096));
        assert_eq!(refused(command).kind(), ErrorKind::InvalidInput);
        // Not even where a link of the root leads there.
        let root = Scratch::new("shared-root");
        symlink("b", root.join("link")).unwrap();
        fs::create_dir(host.join("other")).unwrap();
        let command = alone("sleep", RootFs::directory(&root.0))
            .mount(Mount::bind(&host.0, "/b").shared())
            .mount(Mount::tmpfs("/link/other", 4096));
        let _child = command.spawn().ok();
        let other = host.join("other").display().to_string();
        assert!(!hosts().contains(&other), "{}", hosts());
    });
}

#[test]
fn propagation_from_a_private_mount_is_refused() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = Scratch::new("private");
    in_mount_namespace(|| {
        tmpfs_on(&host.0);
        let bind = Mount::bind(&host.0, "/mnt");
        let root = RootFs::directory(&host.0).slave();
        for command in [
            rooted("sleep").mount(bind.clone().slave()),
            rooted("sleep").mount(bind.shared()),
            rooted("sleep").root(root),
        ] {
            let error = refused(command);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(
                error.to_string().contains("not on a shared mount"),
                "{error}"
            );
        }
    });
}

#[test]
fn filesystems_and_files_in_memory_have_their_options() {
    if !have(&[Need::Root]) {
        return;
    }
    let tmpfs = Mount::tmpfs("/mnt", 1 << 20).mode(0o750).owner(7, 8);
    let tmpfs = tmpfs.inodes(10).noexec();
    let command = |what: &str| rooted(what).mount(tmpfs.clone());
    assert_eq!(output(command("stat /mnt")), "d 750 7:8 0:0");
    let filled = output(command("fill /mnt"));
    assert!(filled.starts_with("9 No space left"), "{filled}");
    let info = output(command("read /proc/self/mountinfo"));
    let options = mount_options(&info, "/mnt");
    for option in ["nosuid", "nodev", "noexec", "size=1024k"] {
        assert!(options.contains(&format!(",{option},")), "{options}");
    }
    let sealed = Mount::tmpfs("/mnt", 4096).read_only();
    let refused = output(rooted("write /mnt/file").mount(sealed));
    assert!(refused.starts_with("error: Read-only"), "{refused}");

    let file = Mount::file("/dev/shm/f", "secret")
        .mode(0o400)
        .owner(7, 8)
        .read_only();
    let command = |what: &str| rooted(what).mount(file.clone());
    assert_eq!(output(command("stat /dev/shm/f")), "f 400 7:8 0:0");
    assert_eq!(output(command("read /dev/shm/f")), "secret");
    let refused = output(command("write /dev/shm/f"));
    assert!(refused.starts_with("error: Read-only"), "{refused}");
    let mapped = command("stat /dev/shm/f").id_map(IdMap::range(200_000, 1000));
    assert_eq!(output(mapped), "f 400 7:8 0:0");
}

#[test]
fn proc_has_its_options() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let hidden = Proc::new().hidepid(HidePid::Invisible).gid(0);
    let root = RootFs::directory("/").proc(hidden);
    let info = output(inside("read /proc/self/mountinfo").root(root));
    let options = mount_options(&info, "/proc");
    assert!(options.contains("hidepid=invisible"), "{options}");
    let subset = RootFs::directory("/").proc(Proc::new().subset_pid());
    let listed = output(inside("list /proc").root(subset.clone()));
    assert!(
        listed.starts_with("1 ") && !listed.contains("meminfo"),
        "{listed}"
    );
    // Sysctls are set all the same.
    let command = inside("sleep").root(subset).sysctl("kernel.shmmni", "77");
    let child = command.spawn().unwrap();
    assert_eq!(in_ipc_namespace_of(&child, "kernel/shmmni"), "77\n");
}

/// The value of a sysctl in a child's IPC namespace, read by a program that has no other namespace.
fn in_ipc_namespace_of(child: &Spawned, path: &str) -> String {
    let ipc = fs::File::open(format!("/proc/{}/ns/ipc", child.pid())).unwrap();
    std::thread::scope(|scope| {
        let read = || {
            let kind = rustix::thread::LinkNameSpaceType::InterProcessCommunication;
            rustix::thread::move_into_link_name_space(ipc.as_fd(), Some(kind)).unwrap();
            fs::read_to_string(format!("/proc/sys/{path}")).unwrap()
        };
        scope.spawn(read).join().unwrap()
    })
}

#[test]
fn the_standard_filesystems_can_be_left_out() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let root = Scratch::new("bare");
    let bare = || {
        RootFs::directory(&root.0)
            .without_dev()
            .without_proc()
            .without_sys()
    };
    let child = alone("sleep", bare()).spawn().unwrap();
    let info = mountinfo_of(&child);
    let mut targets: Vec<_> = info
        .lines()
        .map(|line| line.split(' ').nth(4).unwrap())
        .collect();
    targets.retain(|target| !["/test", "/lib", "/lib64", "/usr"].contains(target));
    assert_eq!(targets, ["/"], "{info}");
    drop(child);
    assert!(!root.join("dev").exists() && !root.join("proc").exists());
    // A caller's own /dev, and what there is for it.
    let own = RootFs::directory(&root.0).without_dev();
    let command = |what: &str| {
        alone(what, own.clone())
            .mount(Mount::tmpfs("/dev", 1 << 20))
            .mount(Mount::devpts("/dev/pts"))
            .mount(Mount::mqueue("/dev/mqueue"))
    };
    assert_eq!(output(command("list /dev")), "mqueue pts");
    assert_eq!(output(command("list /dev/pts")), "ptmx");
    let info = output(command("read /proc/self/mountinfo"));
    assert!(info.contains(" - mqueue "), "{info}");
}

#[test]
fn masks_need_no_dev() {
    if !have(&[Need::Root]) {
        return;
    }
    let root = Scratch::with_file("masked-without-dev", "x");
    let bare = || RootFs::directory(&root.0).without_dev().mask("/file");
    for map in [None, Some(IdMap::range(200_000, 1000))] {
        let command = |what: &str| {
            let command = alone(what, bare());
            map.iter()
                .fold(command, |command, map| command.id_map(map.clone()))
        };
        let stat = output(command("stat /proc/timer_list"));
        assert!(
            stat.starts_with("c 666 ") && stat.ends_with(" 1:3"),
            "{stat}"
        );
        assert_eq!(output(command("read /proc/timer_list")), "");
        assert_eq!(output(command("read /file")), "");
        assert_eq!(
            output(command("list /proc/acpi"))
                .replace("error: No such file or directory (os error 2)", ""),
            ""
        );
        let refused = output(command("write /proc/sys/kernel/core_pattern"));
        assert!(refused.starts_with("error: "), "{refused}");
        let info = output(command("read /proc/self/mountinfo"));
        let roots = info
            .lines()
            .filter(|line| line.split(' ').nth(4) == Some("/"));
        assert_eq!(
            roots.count(),
            1,
            "nothing of the masks' stage stays: {info}"
        );
        assert!(!output(command("list /")).contains(".empty"));
    }
}

#[test]
fn more_can_be_masked_and_nothing() {
    if !have(&[Need::Root]) {
        return;
    }
    let (root, victim) = (
        Scratch::with_file("masks", "secret"),
        Scratch::with_file("victim", "x"),
    );
    fs::create_dir(root.join("dir")).unwrap();
    fs::write(root.join("dir/file"), "secret").unwrap();
    symlink(&victim.0, root.join("link")).unwrap();
    symlink("dir", root.join("alias")).unwrap();
    let masked = RootFs::directory(&root.0)
        .mask("/file")
        .mask("/alias")
        .mask("/missing")
        .mask("/file/missing")
        .mask("/link/file")
        .mask("/proc/cpuinfo")
        .mask("/proc/fs")
        .mask("/sys/kernel")
        .mask("/data")
        .read_only_path("/tmp")
        .read_only_path("/nowhere");
    let volume = Scratch::with_file("masked-volume", "x");
    for map in [None, Some(IdMap::range(0, 1000))] {
        let command = |what: &str| {
            let command = alone(what, masked.clone())
                .mount(Mount::tmpfs("/tmp", 4096))
                .mount(Mount::bind(&volume.0, "/data"));
            map.iter()
                .fold(command, |command, map| command.id_map(map.clone()))
        };
        for path in ["/file", "/proc/cpuinfo"] {
            let stat = output(command(&format!("stat {path}")));
            assert!(
                stat.starts_with("c 666 ") && stat.ends_with(" 1:3"),
                "{path}: {stat}"
            );
        }
        for path in ["/dir", "/proc/fs", "/sys/kernel", "/data"] {
            assert_eq!(output(command(&format!("list {path}"))), "", "{path}");
            let refused = output(command(&format!("write {path}/new")));
            assert!(refused.starts_with("error: Read-only"), "{path}: {refused}");
        }
        let refused = output(command("write /tmp/new"));
        assert!(refused.starts_with("error: Read-only"), "{refused}");
        assert_eq!(
            output(command("write /proc/sys/kernel/hostname"))
                .split(' ')
                .next(),
            Some("error:")
        );
    }
    assert_eq!(fs::read_to_string(victim.join("file")).unwrap(), "x");
    let unmasked = RootFs::directory(&root.0).unmask().mask("/file");
    let command = |what: &str| alone(what, unmasked.clone());
    assert!(output(command("read /proc/timer_list")).contains("jiffies"));
    assert_eq!(output(command("read /file")), "");
    let info = output(command("read /proc/self/mountinfo"));
    assert!(!info.contains(" /proc/"), "{info}");
}

#[test]
fn a_writable_sys_is_asked_for() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let options = |root: RootFs| {
        let info = output(inside("read /proc/self/mountinfo").root(root));
        mount_options(&info, "/sys")
    };
    assert!(options(RootFs::directory("/")).starts_with(",ro,"));
    assert!(options(RootFs::directory("/").writable_sys()).starts_with(",rw,"));
}

#[test]
fn shm_is_as_large_as_asked_for() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for (root, size) in [
        (RootFs::directory("/"), "size=65536k"),
        (RootFs::directory("/").shm_size(8192), "size=8k"),
    ] {
        let info = output(inside("read /proc/self/mountinfo").root(root));
        assert!(mount_options(&info, "/dev/shm").contains(size), "{info}");
    }
}

#[test]
fn devices_are_what_they_have_to_be() {
    if !have(&[Need::Root]) {
        return;
    }
    let zero = Device::character(1, 5);
    let made = Mount::node("/dev/deep/zero", zero).mode(0o640).owner(7, 8);
    let plain = Mount::node("/dev/nine", Device::block(7, 9));
    let command = |what: &str| rooted(what).mount(made.clone()).mount(plain.clone());
    assert_eq!(output(command("stat /dev/deep/zero")), "c 640 7:8 1:5");
    assert_eq!(output(command("stat /dev/nine")), "b 600 0:0 7:9");
    // As the host has it.
    let host = in_mount_namespace(|| {
        // A /dev of this namespace alone, with nothing of the host's in it.
        tmpfs_on("/dev");
        let mode = Mode::from_raw_mode(0o666);
        for (name, major, minor) in [
            ("null", 1, 3),
            ("zero", 1, 5),
            ("full", 1, 7),
            ("random", 1, 8),
            ("urandom", 1, 9),
            ("tty", 5, 0),
            ("mine", 1, 8),
        ] {
            let (path, device) = (
                Path::new("/dev").join(name),
                rustix::fs::makedev(major, minor),
            );
            rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, mode, device).unwrap();
            rustix::fs::chmod(&path, mode).unwrap();
        }
        rustix::fs::chmod("/dev/mine", Mode::from_raw_mode(0o604)).unwrap();
        std::os::unix::fs::chown("/dev/mine", Some(3), Some(4)).unwrap();
        symlink("mine", "/dev/link").unwrap();
        fs::write("/dev/file", "").unwrap();
        let map = || IdMap::range(0, 1000);
        let mine = || rooted("stat /dev/mine").mount(Mount::device("/dev/mine"));
        let answers = [
            output(mine()),
            output(mine().id_map(map())),
            output(
                rooted("stat /dev/mine")
                    .id_map(map())
                    .mount(Mount::node("/dev/mine", Device::character(1, 8))),
            ),
        ];
        let refusals = [
            refused(rooted("").mount(Mount::device("/dev/link"))),
            refused(rooted("").mount(Mount::device("/dev/file"))),
            refused(rooted("").mount(Mount::device("/dev/missing"))),
            refused(rooted("").id_map(map()).mount(Mount::device("/dev/file"))),
            refused(
                rooted("")
                    .id_map(map())
                    .mount(Mount::node("/dev/mine", zero)),
            ),
            refused(
                rooted("")
                    .id_map(map())
                    .mount(Mount::node("/dev/missing", zero)),
            ),
            refused(
                rooted("")
                    .id_map(map())
                    .mount(Mount::device("/dev/mine").mode(0o666)),
            ),
        ];
        (answers, refusals.map(|error| error.to_string()))
    });
    let (answers, refusals) = host;
    assert_eq!(answers, ["c 604 3:4 1:8"; 3]);
    let expected = [
        "ELOOP",
        "is no device",
        "ENOENT",
        "is no device",
        "is another device",
        "ENOENT",
        "cannot be made here",
    ];
    for (line, expected) in refusals.iter().zip(expected) {
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn a_null_of_the_host_that_is_none_is_never_used() {
    if !have(&[Need::Root]) {
        return;
    }
    let file = Scratch::with_file("null", "x");
    in_mount_namespace(|| {
        rustix::mount::mount_bind(file.join("file"), "/dev/null").unwrap();
        let streams = || fs::File::open("/dev/zero").map(OwnedFd::from).unwrap();
        let command = rooted("sleep").id_map(IdMap::range(0, 1000));
        let command = command.stdin(streams()).stdout(streams()).stderr(streams());
        let error = refused(command);
        assert!(
            error.to_string().contains("\"/dev/null\": is no device"),
            "{error}"
        );
        rustix::mount::unmount("/dev/null", rustix::mount::UnmountFlags::empty()).unwrap();
        rustix::mount::mount_bind("/dev/zero", "/dev/null").unwrap();
        let error = refused(rooted("sleep").id_map(IdMap::range(0, 1000)));
        assert!(
            error
                .to_string()
                .contains("\"/dev/null\": is another device"),
            "{error}"
        );
        // Where devices are made the host's do not matter.
        let stat = output(rooted("stat /dev/null"));
        assert_eq!(stat, "c 666 0:0 1:3");
    });
}

#[test]
fn cgroups_are_seen_only_from_a_namespace_of_their_own() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    assert_eq!(
        output(rooted("list /sys/fs/cgroup")),
        "",
        "nothing unless asked for"
    );
    let with = |what: &str, mount: Mount| rooted(what).mount(mount);
    let names = output(with("list /sys/fs/cgroup", Mount::cgroup2()));
    assert!(
        names.split(' ').any(|name| name == "cgroup.procs"),
        "{names}"
    );
    let info = output(with("read /proc/self/mountinfo", Mount::cgroup2()));
    let options = mount_options(&info, "/sys/fs/cgroup");
    assert!(options.starts_with(",rw,nosuid,nodev,noexec,"), "{options}");
    let sealed = Mount::cgroup2().read_only();
    let refusal = output(with(
        "write /sys/fs/cgroup/cgroup.max.depth",
        sealed.clone(),
    ));
    assert!(refusal.starts_with("error: "), "{refusal}");
    let info = output(with("read /proc/self/mountinfo", sealed));
    assert!(mount_options(&info, "/sys/fs/cgroup").starts_with(",ro,"));
    let mapped = with("read /proc/self/mountinfo", Mount::cgroup2());
    let info = output(mapped.id_map(IdMap::range(0, 1000)));
    assert!(info.contains(" /sys/fs/cgroup rw,"), "{info}");
    let shared = Namespaces::default().without(Namespace::Cgroup);
    let error = refused(rooted("").mount(Mount::cgroup2()).namespaces(shared));
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn no_release_agent_can_be_written() {
    if !have(&[Need::Root]) {
        return;
    }
    let root = Scratch::new("release-agent");
    // The host's sysfs, with its cgroups: what a user namespace gets without a network namespace.
    let shared = Namespaces::default()
        .without(Namespace::Net)
        .without(Namespace::Cgroup);
    let mapped = |what: &str| {
        let command = alone(what, RootFs::directory(&root.0));
        let command = command.id_map(IdMap::range(0, 1000));
        command.namespaces(shared.clone())
    };
    let info = output(mapped("read /proc/self/mountinfo"));
    let below_sys = info
        .lines()
        .filter(|line| line.split(' ').nth(4).unwrap().starts_with("/sys"));
    assert!(info.contains(" /sys "), "{info}");
    for line in below_sys {
        let options = line.split(' ').nth(5).unwrap();
        assert!(options.split(',').any(|option| option == "ro"), "{line}");
    }
    for what in [
        "write /sys/fs/cgroup/memory/release_agent",
        "write /sys/fs/cgroup/release_agent",
    ] {
        let refusal = output(mapped(what));
        assert!(refusal.starts_with("error: "), "{refusal}");
        let refusal = output(rooted(what));
        assert!(refusal.starts_with("error: "), "{refusal}");
    }
}

#[test]
fn sysctls_are_set_in_its_own_namespaces() {
    if !have(&[Need::Root]) {
        return;
    }
    const PORTS: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    let host = || fs::read_to_string(PORTS).unwrap();
    let before = host();
    let command = |what: &str| {
        rooted(what)
            .sysctl("net.ipv4.ip_unprivileged_port_start", "1")
            .sysctl("net.ipv4.ip_unprivileged_port_start", "7")
            .sysctl("kernel.sem", "250 32000 100 128")
            .sysctl("fs.mqueue.msg_max", "11")
            .domainname("example")
    };
    assert_eq!(output(command(&format!("read {PORTS}"))), "7\n");
    let sem = output(command("read /proc/sys/kernel/sem"));
    assert_eq!(
        sem.split_whitespace().collect::<Vec<_>>(),
        ["250", "32000", "100", "128"]
    );
    assert_eq!(output(command("read /proc/sys/fs/mqueue/msg_max")), "11\n");
    assert_eq!(
        output(command("read /proc/sys/kernel/domainname")),
        "example\n"
    );
    let named = rooted("read /proc/sys/kernel/domainname").sysctl("kernel.domainname", "by.sysctl");
    assert_eq!(output(named), "by.sysctl\n");
    assert!(output(command(&format!("write {PORTS}"))).starts_with("error: Read-only"));
    assert_eq!(host(), before);

    // Without a root, and in a network namespace that is joined.
    let netns = NetNs::new();
    let fd = netns.as_fd().try_clone_to_owned().unwrap();
    let joined = Namespaces::none().join(Namespace::Net, fd);
    let command = inside("sleep").namespaces(joined);
    let child = command
        .sysctl("net.ipv4.ip_unprivileged_port_start", "9")
        .spawn()
        .unwrap();
    assert_eq!(netns.run(host), "9\n");
    drop(child);
    let own = fs::File::open("/proc/thread-self/ns/net").unwrap();
    let command =
        inside("sleep").namespaces(Namespaces::default().join(Namespace::Net, own.into()));
    let error = refused(command.sysctl("net.ipv4.ip_unprivileged_port_start", "9"));
    assert!(
        error.to_string().contains("caller's own network namespace"),
        "{error}"
    );
    assert_eq!(host(), before);

    let limited = rooted("read /proc/sys/user/max_user_namespaces").id_map(IdMap::range(0, 1000));
    assert_eq!(
        output(limited.sysctl("user.max_user_namespaces", "0")),
        "0\n"
    );
    let error = refused(rooted("").sysctl("net.no.such.thing", "1"));
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(
        error
            .to_string()
            .contains("set the sysctl net.no.such.thing"),
        "{error}"
    );
    let error = refused(rooted("").sysctl("kernel.shmmni", "nonsense"));
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn a_root_cannot_lead_a_sysctl_astray() {
    if !have(&[Need::Root]) {
        return;
    }
    let (root, victim) = (Scratch::new("astray"), Scratch::new("astray-victim"));
    fs::create_dir_all(root.join("proc/sys/net/ipv4")).unwrap();
    let target = victim.join("file");
    symlink(
        &target,
        root.join("proc/sys/net/ipv4/ip_unprivileged_port_start"),
    )
    .unwrap();
    let command = alone("sleep", RootFs::directory(&root.0).without_proc());
    let child = command
        .sysctl("net.ipv4.ip_unprivileged_port_start", "5")
        .spawn()
        .unwrap();
    let net = fs::File::open(format!("/proc/{}/ns/net", child.pid())).unwrap();
    let read = move || {
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(net.as_fd(), Some(kind)).unwrap();
        fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap()
    };
    assert_eq!(std::thread::spawn(read).join().unwrap(), "5\n");
    assert!(!target.exists());
}

#[test]
fn a_caller_without_privilege_gets_the_same_or_an_error() {
    if !have(&[Need::Root]) {
        return;
    }
    let host = Scratch::with_file("unprivileged", "of the host");
    symlink(&host.0, host.join("link")).unwrap();
    let exe = Scratch::new("unprivileged-exe");
    let copy = exe.join("test");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let run = |case: &str| output(without_privilege(&copy, case));
    let (path, link) = (host.0.display(), host.join("link"));
    let said = run(&format!("bind {path}"));
    if said.contains("make a proc") || said.contains("write the child's") {
        // As in a container: the machine lets nobody do this.
        assert!(
            !have(&[Need::Namespaces]) || said.contains("EPERM"),
            "{said}"
        );
    }
    assert_eq!(said, "of the host");
    assert!(run(&format!("ro {path}")).starts_with("error: Read-only"));
    assert_eq!(run(&format!("nofollow {path}")), "of the host");
    assert_eq!(run(&format!("fd {path}")), "of the host");
    let said = run(&format!("nofollow {}", link.display()));
    assert!(said.contains("ELOOP"), "{said}");
    let said = run("changed -");
    assert!(
        said.contains("which is not what it was a moment ago: EAGAIN"),
        "{said}"
    );
    let said = run(&format!("idmapped {path}"));
    assert!(said.starts_with("PermissionDenied"), "{said}");
    for case in ["null", "mask"] {
        let said = run(&format!("{case} -"));
        assert!(
            said.starts_with("c 666 ") && said.ends_with(" 1:3"),
            "{said}"
        );
    }
    let said = run("device -");
    assert!(said.contains("ENOENT"), "{said}");

    let shared = Scratch::new("unprivileged-slave");
    in_mount_namespace(|| {
        shared_tmpfs_on(&shared.0);
        fs::create_dir(shared.join("sub")).unwrap();
        rustix::fs::chmod(&shared.0, Mode::from_raw_mode(0o777)).unwrap();
        let case = format!("slave {}", shared.0.display());
        let mut child = without_privilege(&copy, &case).spawn().unwrap();
        until("it runs", || {
            shared.join("ready").exists() || child.try_wait().unwrap().is_some()
        });
        tmpfs_on(shared.join("sub"));
        fs::write(shared.join("sub/marker"), "").unwrap();
        assert_eq!(answered(&child.output().unwrap().stdout), "seen");
    });
}

/// The payload `nested`, as a user of the host's.
fn without_privilege(copy: &Path, case: &str) -> Command {
    let command = inside(&format!("nested {case}")).program(copy);
    // It makes user namespaces, which the default filter would refuse.
    command
        .namespaces(Namespaces::none())
        .seccomp(Seccomp::unconfined())
        .user(User::id(1000, 1000))
}

#[test]
fn a_root_that_changes_all_the_time_never_leads_to_the_host() {
    if !have(&[Need::Root]) {
        return;
    }
    let (root, victim) = (Scratch::new("swapped"), Scratch::new("swapped-victim"));
    fs::create_dir(victim.join("b")).unwrap();
    fs::create_dir(root.join("a")).unwrap();
    // An absolute link, which leads to the host until there is no host any more.
    symlink(&victim.0, root.join("link")).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let outcomes = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                exchange(&root.join("a"), &root.join("link"));
            }
        });
        let start = |_| {
            let command = Command::new("/nothing").root(RootFs::directory(&root.0).mask("/a/b"));
            let command = command.mount(Mount::tmpfs("/a/b", 4096));
            refused(command.mount(Mount::file("/a/f", "x"))).to_string()
        };
        let outcomes: Vec<_> = (0..turns(150, 20)).map(start).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        outcomes
    });
    let mounted = outcomes
        .iter()
        .filter(|line| line.contains("execve /nothing: ENOENT"));
    assert!(mounted.count() > 0, "{outcomes:?}");
    assert_eq!(fs::read_dir(&victim.0).unwrap().count(), 1);
    assert_eq!(fs::read_dir(victim.join("b")).unwrap().count(), 0);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains("swapped"), "{table}");
}
