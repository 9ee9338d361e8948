//! What overlayfs does silently, and must not reach who mounts it: each test is a trap that was seen on a real kernel.
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

mod files;

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use cofferdam_overlay::{Applied, ErrorKind, Fsync, Overlay, RedirectDir, Switch, Verity, Xino};
use cofferdam_testkit::{
    Need, as_root_of_a_user_namespace, have, in_mount_namespace, refuse_syscall,
};
use files::{at, directory, names, tmpfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// 1, A25: more options than a page are cut off by mount(2), and the rest is mounted read-only.
#[test]
fn layers_are_all_there_or_none_is() {
    in_world(|world| {
        let long = directory(world, &"x".repeat(200));
        let layers: Vec<_> = (0..500).map(|n| directory(&long, &n.to_string())).collect();
        for n in [0, 250, 499] {
            fs::write(layers[n].join(format!("file{n}")), "").unwrap();
        }
        let mount = Overlay::builder(&layers).scratch().detached().unwrap();
        assert_eq!(names(&at(&mount, "")), ["file0", "file250", "file499"]);
        let effective = mount.effective().unwrap();
        assert_eq!((effective.layers, effective.upper), (500, true));
        assert!(!effective.read_only);
        let more = Overlay::builder(layers.iter().cycle().take(600)).scratch();
        let error = more.detached().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    });
}

/// 2: where `work/work` cannot be made, overlayfs mounts read-only and says nothing.
#[test]
fn a_workdir_that_cannot_be_used_is_an_error() {
    in_world(|world| {
        let (a, full) = (directory(world, "a"), directory(world, "full"));
        tmpfs(&full, "size=64k,nr_inodes=3");
        let (upper, work) = (directory(&full, "u"), directory(&full, "w"));
        let overlay = Overlay::builder([&a]).upperdir(&upper, &work);
        let error = overlay.detached().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{error}");
        assert!(overlay.read_only().detached().is_ok());
    });
}

#[test]
fn it_is_unmounted_by_whatever_name_it_was_attached() {
    in_world(|world| {
        let (a, target) = (directory(world, "a"), directory(world, "d/target"));
        fs::write(a.join("file"), "").unwrap();
        symlink("d/target", world.join("link")).unwrap();
        // This thread has a working directory of its own.
        rustix::process::chdir(world).unwrap();
        let overlay = Overlay::builder([&a]);
        for name in [world.join("link"), "d/target".into()] {
            let mut mounted = overlay.mount(&name).unwrap();
            rustix::process::chdir("/").unwrap();
            let open = File::open(target.join("file")).unwrap();
            assert_eq!(mounted.unmount().unwrap_err().kind(), ErrorKind::Busy);
            drop(open);
            mounted.unmount().unwrap();
            assert!(names(&target).is_empty());
            rustix::process::chdir(world).unwrap();
        }
        let mut mounted = overlay.mount(&target).unwrap();
        fs::rename("d", "e").unwrap();
        mounted.unmount().unwrap();
        assert!(names(&world.join("e/target")).is_empty());
    });
}

#[test]
fn an_upper_on_a_read_only_mount_is_named() {
    in_world(|world| {
        let (a, frozen) = (directory(world, "a"), directory(world, "frozen"));
        tmpfs(&frozen, "size=64k");
        let (upper, work) = (directory(&frozen, "u"), directory(&frozen, "w"));
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        rustix::mount::mount_remount(&frozen, flags, "").unwrap();
        let overlay = Overlay::builder([&a]).upperdir(&upper, &work);
        let error = overlay.detached().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let text = format!(
            "upperdir {}: its filesystem is mounted read-only",
            upper.display()
        );
        assert_eq!(error.to_string(), text);
    });
}

/// 3: an fsopen(2) fd that is kept keeps the upper in use.
#[test]
fn an_upper_is_free_as_soon_as_its_mount_is_gone() {
    in_world(|world| {
        let overlay = kept(world);
        for _ in 0..20 {
            drop(overlay.detached().unwrap());
            let target = directory(world, "target");
            overlay.mount(&target).unwrap().unmount().unwrap();
            drop(overlay.mount(&target).unwrap());
        }
    });
}

/// 4: an open file keeps an overlay after MNT_DETACH, and its upper can be mounted again.
#[test]
fn an_upper_stays_in_use_while_a_file_is_open_after_unmount() {
    in_world(|world| {
        let overlay = kept(world);
        let target = directory(world, "target");
        let mounted = overlay.mount(&target).unwrap();
        let open = File::create(target.join("file")).unwrap();
        mounted.unmount_lazy().unwrap();
        assert_busy(world, &overlay);
        drop(open);
        drop(overlay.detached().unwrap());
    });
}

/// 5, A17: two mounts with one upper or one workdir.
#[test]
fn an_upper_has_one_mount_at_a_time() {
    in_world(|world| {
        let overlay = kept(world);
        let first = overlay.detached().unwrap();
        assert_busy(world, &overlay);
        let a = world.join("a");
        let shared_work = Overlay::builder([&a]).upperdir(directory(world, "u2"), world.join("w"));
        assert_eq!(shared_work.detached().unwrap_err().kind(), ErrorKind::Busy);
        let shared_upper = Overlay::builder([&a]).upperdir(world.join("u"), directory(world, "w2"));
        assert_eq!(shared_upper.detached().unwrap_err().kind(), ErrorKind::Busy);
        let read_only = overlay.clone().read_only();
        assert_eq!(read_only.detached().unwrap_err().kind(), ErrorKind::Busy);
        drop(first);
        drop(overlay.detached().unwrap());
        drop(shared_work.detached().unwrap());
    });
}

/// The lock alone, as in a user namespace, where the kernel does not tell.
#[test]
fn a_lock_outlives_the_value_it_was_taken_from() {
    in_world(|world| {
        let overlay = kept(world);
        let mut mount = overlay.detached().unwrap();
        let lock = mount.take_lock().unwrap();
        assert!(mount.take_lock().is_none());
        drop(mount.into_fd());
        assert_busy(world, &overlay);
        drop(lock);
        drop(overlay.detached().unwrap());
        let scratch = Overlay::builder([world.join("a")]).scratch();
        assert!(scratch.detached().unwrap().take_lock().is_none());
    });
}

/// Whoever mounted it, and whether or not they took a lock.
#[test]
fn an_upper_that_only_the_kernel_knows_to_be_in_use_is_busy() {
    in_world(|world| {
        let overlay = kept(world);
        let fd = overlay.detached().unwrap().into_fd();
        assert_busy(world, &overlay);
        drop(fd);
        drop(overlay.detached().unwrap());
        // Another upper: a process that another test starts may hold the mount above for a moment, and what is mounted on its
        // upper meanwhile is not known as its user.
        let world = &directory(world, "other");
        let overlay = kept(world);
        let options = format!(
            "lowerdir={0}/a,upperdir={0}/u,workdir={0}/w",
            world.display()
        );
        let target = directory(world, "target");
        let options = CString::new(options).unwrap();
        mount(
            "other",
            &target,
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .unwrap();
        assert_busy(world, &overlay);
        unmount(&target, UnmountFlags::empty()).unwrap();
        drop(overlay.detached().unwrap());
    });
}

/// A17, A18: the owner is another process, with a copy of the mount in a namespace of its own, and is killed.
#[test]
fn an_upper_of_a_killed_process_can_be_mounted_again() {
    if let Some(world) = env::var_os("TRAPS_OWNER") {
        return own(Path::new(&world));
    }
    in_world(|world| {
        let overlay = kept(world);
        directory(world, "target");
        let mut owner = owner(world);
        wait_for(&world.join("ready"));
        assert_busy(world, &overlay);
        owner.kill().unwrap();
        owner.wait().unwrap();
        // What it mounted was in mount namespaces that end with it, a little later.
        let deadline = Instant::now() + Duration::from_secs(10);
        let mount = loop {
            match overlay.detached() {
                Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(5));
                }
                done => break done.unwrap(),
            }
        };
        assert_eq!(names(&at(&mount, "")), ["of-owner"]);
    });
}

/// A18: a namespace made meanwhile has a copy of what is attached, and of nothing else.
#[test]
fn a_namespace_made_meanwhile_keeps_what_is_attached_alone() {
    in_world(|world| {
        let overlay = kept(world);
        let detached = overlay.detached().unwrap();
        in_mount_namespace(|| {
            drop(detached);
            drop(overlay.detached().unwrap());
        });
        if !have(&[Need::Root]) {
            return;
        }
        let target = directory(world, "target");
        let mut attached = overlay.mount(&target).unwrap();
        let (told, tells) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            let (ask, asked) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                in_mount_namespace(move || {
                    told.send(()).unwrap();
                    asked.recv().unwrap_err();
                });
            });
            tells.recv().unwrap();
            attached.unmount().unwrap();
            assert_busy(world, &overlay);
            drop(ask);
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        while overlay.detached().is_err() {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(2));
        }
    });
}

fn owner(world: &Path) -> Child {
    let test = "an_upper_of_a_killed_process_can_be_mounted_again";
    Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("TRAPS_OWNER", world)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn own(world: &Path) {
    in_mount_namespace(|| {
        let mounted = kept(world).mount(world.join("target")).unwrap();
        fs::write(world.join("target/of-owner"), "").unwrap();
        // A second namespace with a copy of the mount.
        in_mount_namespace(|| {
            fs::write(world.join("ready"), "").unwrap();
            thread::sleep(Duration::from_secs(60));
        });
        drop(mounted);
    });
}

/// 6: the workdir of a volatile mount is refused with EINVAL, for ever.
#[test]
fn an_upper_that_was_volatile_is_refused_until_it_is_cleaned() {
    in_world(|world| {
        let overlay = kept(world);
        let (upper, work) = (world.join("u"), world.join("w"));
        Overlay::clean_volatile(&upper, &work).unwrap();
        let mount = overlay.clone().volatile(Switch::On).detached().unwrap();
        assert!(mount.effective().unwrap().volatile);
        fs::write(at(&mount, "file"), "written").unwrap();
        let busy = Overlay::clean_volatile(&upper, &work).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy, "{busy}");
        drop(mount);
        for overlay in [overlay.clone(), overlay.clone().volatile(Switch::On)] {
            let error = overlay.detached().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsynced, "{error}");
            assert!(error.to_string().contains("clean_volatile"), "{error}");
            assert!(
                error.to_string().contains(upper.to_str().unwrap()),
                "{error}"
            );
        }
        Overlay::clean_volatile(&upper, &work).unwrap();
        let mount = overlay.detached().unwrap();
        assert!(!mount.effective().unwrap().volatile);
        assert_eq!(fs::read_to_string(at(&mount, "file")).unwrap(), "written");
    });
}

/// 7: without userxattr an overlay in a user namespace fails with EIO later.
#[test]
fn marks_are_where_they_can_be_kept() {
    in_world(|world| {
        let a = world.join("a");
        directory(&a, "dir");
        if !Overlay::probe().userxattr {
            // tmpfs before 6.6 takes no user xattrs, and nothing else is here.
            return;
        }
        let overlay = Overlay::builder([&a]).scratch().userxattr();
        let mount = overlay.detached().unwrap();
        assert!(mount.effective().unwrap().userxattr);
        fs::remove_dir(at(&mount, "dir")).unwrap();
        fs::create_dir(at(&mount, "dir")).unwrap();
    });
}

/// 8: what was asked for and dropped is an error; what follows from something else is told.
#[test]
fn an_option_that_is_not_in_force_is_an_error() {
    in_world(|world| {
        let a = directory(world, "a");
        let scratch = || Overlay::builder([&a]).scratch();
        let on = scratch().metacopy(Switch::On).detached().unwrap();
        let effective = on.effective().unwrap();
        assert_eq!(effective.metacopy, Switch::On);
        assert_eq!(effective.redirect_dir, RedirectDir::On);
        drop(on);
        let contradiction = scratch()
            .metacopy(Switch::On)
            .redirect_dir(RedirectDir::NoFollow);
        assert!(contradiction.detached().is_err());
        // Without an upper there is no index, and the kernel says so to its log.
        let error = Overlay::builder([&a]).index(Switch::On).detached();
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("index=on"), "{error}");
        for mode in [
            RedirectDir::Off,
            RedirectDir::Follow,
            RedirectDir::NoFollow,
            RedirectDir::On,
        ] {
            let mount = scratch().redirect_dir(mode).detached().unwrap();
            let found = mount.effective().unwrap().redirect_dir;
            assert!(found == mode || mode == RedirectDir::Off, "{found:?}");
        }
        let mount = scratch().xino(Xino::On).detached().unwrap();
        assert_eq!(mount.effective().unwrap().xino, Some(Xino::On));
    });
}

/// 8: in a user namespace the kernel has less of it.
#[test]
fn in_a_user_namespace_what_was_asked_for_is_in_force_or_an_error() {
    if !have(&[Need::Namespaces, Need::Filesystem("overlay")]) {
        return;
    }
    if env::var_os("TRAPS_ROOTLESS").is_none() {
        let test = "in_a_user_namespace_what_was_asked_for_is_in_force_or_an_error";
        let mut again = Command::new(env::current_exe().unwrap());
        again
            .args(["--exact", test, "--nocapture"])
            .env("TRAPS_ROOTLESS", "1")
            .env_remove("COFFERDAM_STRICT");
        let output = as_root_of_a_user_namespace(&mut again).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        return;
    }
    in_world(|world| {
        let a = directory(world, "a");
        if !Overlay::probe().scratch {
            return;
        }
        let plain = || Overlay::builder([&a]).scratch();
        let effective = plain().detached().unwrap().effective().unwrap();
        assert!(effective.userxattr && effective.volatile);
        assert_eq!(effective.redirect_dir, RedirectDir::NoFollow);
        for overlay in [
            plain().metacopy(Switch::On),
            plain().index(Switch::On),
            plain().redirect_dir(RedirectDir::On),
            plain().redirect_dir(RedirectDir::Follow),
        ] {
            let error = overlay.detached().unwrap_err();
            let kinds = [
                ErrorKind::Unsupported,
                ErrorKind::InvalidInput,
                ErrorKind::PermissionDenied,
            ];
            assert!(kinds.contains(&error.kind()), "{error}");
        }
        assert!(!Overlay::probe().metacopy && !Overlay::probe().index);
        let overlay = kept(world);
        let _mount = overlay.detached().unwrap();
        assert_busy(world, &overlay);
    });
}

/// What a kernel does not know is named with the first that does.
#[test]
fn what_the_kernel_lacks_is_unsupported() {
    in_world(|world| {
        let (a, b) = (directory(world, "a"), directory(world, "b"));
        let support = Overlay::probe();
        assert!(
            support.overlayfs && support.scratch && support.volatile,
            "{support:?}"
        );
        assert_eq!(support.why, None);
        let scratch = || Overlay::builder([&a]).scratch();
        for (has, overlay, words) in [
            (
                support.verity,
                scratch().verity(Verity::On),
                "verity of overlay of",
            ),
            (
                support.fsync,
                scratch().volatile(Switch::Off).fsync(Fsync::Strict),
                "fsync of overlay of",
            ),
            (
                support.data_layers,
                scratch().data_layers([&b]),
                "data-only layers of",
            ),
        ] {
            match overlay.detached() {
                Ok(_) => assert!(has, "{overlay:?}"),
                Err(error) => {
                    assert!(!has, "{error}");
                    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                    assert!(error.to_string().starts_with(words), "{error}");
                }
            }
        }
    });
}

#[test]
fn data_layers_show_only_through_others() {
    in_world(|world| {
        if !Overlay::probe().data_layers {
            return;
        }
        let (top, data) = (directory(world, "top"), directory(world, "data"));
        fs::write(data.join("blob"), "contents").unwrap();
        fs::write(top.join("file"), "").unwrap();
        File::options()
            .write(true)
            .open(top.join("file"))
            .unwrap()
            .set_len(8)
            .unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        let file = top.join("file");
        rustix::fs::setxattr(&file, "trusted.overlay.metacopy", b"", flags).unwrap();
        rustix::fs::setxattr(&file, "trusted.overlay.redirect", b"/blob", flags).unwrap();
        let overlay = Overlay::builder([&top]).data_layers([&data]).scratch();
        let mount = overlay.detached().unwrap();
        assert_eq!(names(&at(&mount, "")), ["file"]);
        assert_eq!(fs::read_to_string(at(&mount, "file")).unwrap(), "contents");
        assert_eq!(mount.effective().unwrap().data_layers, 1);
    });
}

/// 13: with index=off, hard links part when one is copied up.
#[test]
fn an_index_keeps_hard_links() {
    in_world(|world| {
        let a = directory(world, "a");
        fs::write(a.join("one"), "1").unwrap();
        fs::hard_link(a.join("one"), a.join("two")).unwrap();
        for (index, seen) in [(Switch::Off, "1"), (Switch::On, "12")] {
            let overlay = Overlay::builder([&a]).scratch().index(index);
            let mount = overlay.detached().unwrap();
            assert_eq!(mount.effective().unwrap().index, index);
            fs::write(at(&mount, "one"), "12").unwrap();
            assert_eq!(fs::read_to_string(at(&mount, "two")).unwrap(), seen);
        }
    });
}

/// 14: a single layer without an upper is EINVAL to overlayfs.
#[test]
fn a_single_layer_is_a_stack() {
    in_world(|world| {
        let mount = Overlay::builder([directory(world, "a")])
            .detached()
            .unwrap();
        let effective = mount.effective().unwrap();
        assert!(effective.read_only && !effective.upper);
        assert_eq!(effective.layers, 2);
    });
}

/// 15: a directory of a layer is renamed only where the upper may hold redirects.
#[test]
fn a_rename_fails_unless_redirects_are_on() {
    in_world(|world| {
        let a = directory(world, "a");
        directory(&a, "dir");
        let plain = Overlay::builder([&a]).scratch();
        let renamed = |overlay: &Overlay| {
            let mount = overlay.detached().unwrap();
            fs::rename(at(&mount, "dir"), at(&mount, "moved"))
        };
        let refused = renamed(&plain).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EXDEV));
        renamed(&plain.redirect_dir(RedirectDir::On)).unwrap();
    });
}

/// A19: a path is no option, however it is spelled.
#[test]
fn names_with_the_letters_of_options_are_names() {
    in_world(|world| {
        let evil = directory(world, "evil");
        let (mut layers, upper, work) = (Vec::new(), "u,upperdir=evil", "w:\\,ro");
        for (n, name) in ["a,upperdir=evil", "x:evil", "b\\", "c\nd", "e=f,volatile"]
            .into_iter()
            .enumerate()
        {
            layers.push(directory(world, name));
            fs::write(layers[n].join(n.to_string()), "").unwrap();
        }
        let (upper, work) = (directory(world, upper), directory(world, work));
        let overlay = Overlay::builder(&layers).upperdir(&upper, &work);
        let mount = overlay.detached().unwrap();
        fs::write(at(&mount, "new"), "").unwrap();
        assert_eq!(names(&at(&mount, "")), ["0", "1", "2", "3", "4", "new"]);
        assert_eq!(names(&upper), ["new"]);
        assert!(names(&evil).is_empty());
        let effective = mount.effective().unwrap();
        assert_eq!(effective.layers, 5);
        assert!(!effective.volatile && !effective.read_only);
    });
}

#[test]
fn mount_attributes_are_in_force() {
    in_world(|world| {
        let (a, target) = (directory(world, "a"), directory(world, "target"));
        let overlay = Overlay::builder([&a])
            .scratch()
            .nosuid()
            .nodev()
            .noexec()
            .noatime();
        let mut mounted = overlay.mount(&target).unwrap();
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let place = format!(" {} ", target.display());
        let line = table.lines().find(|line| line.contains(&place)).unwrap();
        for word in ["nosuid", "nodev", "noexec", "noatime"] {
            assert!(line.contains(word), "{line}");
        }
        assert!(mounted.effective().unwrap().upper);
        mounted.unmount().unwrap();
        assert!(mounted.effective().is_err());
    });
}

#[test]
fn layers_have_the_ids_of_a_user_namespace() {
    match env::var("TRAPS_IDS").as_deref() {
        Ok("user") => return inside_a_user_namespace(),
        Ok(_) => return wait_until_told(),
        Err(_) => {}
    }
    if !have(&[Need::Root, Need::UnprivilegedUserNamespaces]) {
        return;
    }
    in_world(|world| {
        fs::set_permissions(world, fs::Permissions::from_mode(0o1777)).unwrap();
        let layers = ["a", "b"].map(|name| directory(world, name));
        for (layer, name) in layers.iter().zip(["in-a", "in-b"]) {
            fs::write(layer.join(name), "").unwrap();
        }
        let namespace = user_namespace(world);
        let overlay = Overlay::builder(&layers).scratch();
        let all = overlay.clone().idmap(namespace.try_clone().unwrap());
        match owners(&all) {
            Ok(found) => assert_eq!(found, (65_534, 65_534)),
            // tmpfs takes no ids before 6.3.
            Err(error) => {
                let start = format!("idmap the mount of {}: EINVAL", layers[0].display());
                assert!(error.to_string().starts_with(&start), "{error}");
                return;
            }
        }
        let one = overlay.idmap_layer(1, namespace);
        assert_eq!(owners(&one).unwrap(), (0, 65_534));
    });
}

fn owners(overlay: &Overlay) -> cofferdam_overlay::Result<(u32, u32)> {
    let mount = overlay.detached()?;
    let owner = |name: &str| fs::metadata(at(&mount, name)).unwrap().uid();
    Ok((owner("in-a"), owner("in-b")))
}

/// One in which nobody is root and there is no other id. It lives as long as its fd.
fn user_namespace(world: &Path) -> OwnedFd {
    let mut child = ordinary_user(world, "layers_have_the_ids_of_a_user_namespace")
        .env("TRAPS_IDS", "user")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let told = world.join("home/pid");
    wait_for(&told);
    let pid = fs::read_to_string(told).unwrap();
    let namespace = File::open(format!("/proc/{pid}/ns/user")).unwrap();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    namespace.into()
}

fn inside_a_user_namespace() {
    let mut again = Command::new(env::current_exe().unwrap());
    again.args(["--exact", "layers_have_the_ids_of_a_user_namespace"]);
    again.env("TRAPS_IDS", "wait").stdout(Stdio::null());
    let mut child = as_root_of_a_user_namespace(&mut again).spawn().unwrap();
    let home = env::temp_dir();
    fs::write(home.join("pid.new"), child.id().to_string()).unwrap();
    fs::rename(home.join("pid.new"), home.join("pid")).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Until whoever started it closes the other end of its input.
fn wait_until_told() {
    std::io::read_to_string(std::io::stdin()).unwrap();
}

/// Without any privilege on the host.
#[test]
fn an_ordinary_user_mounts_in_a_user_namespace() {
    const SELF: &str = "an_ordinary_user_mounts_in_a_user_namespace";
    if env::var_os("TRAPS_USER").is_some() {
        let mut again = Command::new(env::current_exe().unwrap());
        let test = ["--exact", "an_upper_has_one_mount_at_a_time", "--nocapture"];
        let status = as_root_of_a_user_namespace(again.args(test))
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let needs = [
        Need::Root,
        Need::Filesystem("overlay"),
        Need::UnprivilegedUserNamespaces,
    ];
    if !have(&needs) || !Overlay::probe().userxattr {
        return;
    }
    in_mount_namespace(|| {
        let world = env::temp_dir();
        tmpfs(&world, "size=64m,mode=1777");
        let output = ordinary_user(&world, SELF).env("TRAPS_USER", "1").output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("SKIP"), "{text}");
    });
}

/// This program and one test of it, run by nobody, from a copy that nobody can read, with a directory to work in.
fn ordinary_user(world: &Path, test: &str) -> Command {
    let program = world.join("traps");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let home = directory(world, "home");
    chown(&home, Some(65_534), Some(65_534)).unwrap();
    let mut user = Command::new(&program);
    user.args(["--exact", test, "--nocapture"])
        .uid(65_534)
        .gid(65_534)
        .env("TMPDIR", &home)
        .env_remove("COFFERDAM_STRICT");
    user
}

/// The same traps by mount(2).
#[test]
fn the_classic_way_has_the_same_locks() {
    in_world(|world| {
        refuse_syscall(libc::SYS_fsopen);
        let overlay = kept(world);
        let fd = overlay.detached().unwrap();
        assert_eq!(fd.applied(), Applied::Classic);
        let fd = fd.into_fd();
        assert_busy(world, &overlay);
        drop(fd);
        let mount = overlay.detached().unwrap();
        assert_eq!(mount.effective().unwrap().layers, 1);
        assert_busy(world, &overlay);
        drop(mount);
        let error = Overlay::builder([world.join("a")])
            .index(Switch::On)
            .detached();
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
        if Overlay::probe().data_layers {
            let data = directory(world, "data");
            let mount = Overlay::builder([world.join("a")]).data_layers([data]);
            let mount = mount.scratch().detached().unwrap();
            assert_eq!(mount.effective().unwrap().data_layers, 1);
        }
    });
}

/// Mounts in a world of its own are on a tmpfs.
fn in_world(work: impl FnOnce(&Path) + Send) {
    if !have(&[Need::Namespaces, Need::Filesystem("overlay")]) {
        return;
    }
    in_mount_namespace(|| {
        let world = env::temp_dir();
        tmpfs(&world, "size=64m,mode=0755");
        work(&world);
    });
}

/// An overlay with an upper that stays.
fn kept(world: &Path) -> Overlay {
    let [a, upper, work] = ["a", "u", "w"].map(|name| directory(world, name));
    Overlay::builder([a]).upperdir(upper, work)
}

fn assert_busy(world: &Path, overlay: &Overlay) {
    let error = overlay.detached().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    let start = format!("upperdir {}: E", world.join("u").display());
    assert!(error.to_string().starts_with(&start), "{error}");
}

fn wait_for(path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !path.exists() {
        assert!(Instant::now() < deadline, "{}", path.display());
        thread::sleep(Duration::from_millis(2));
    }
}
