//! Cgroups given to a user, and the own cgroup divided, in the real kernel.
#![expect(clippy::unwrap_used, reason = "helpers of tests unwrap as well")]

#[path = "root/sys.rs"]
#[allow(dead_code, reason = "not every test binary uses all of it")]
mod sys;

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process;

use cofferdam_cgroups::{Cgroup, ErrorKind, Hierarchy, Limits, Others};
use cofferdam_testkit::{Need, Snapshot, have, in_mount_namespace};
use rustix::mount::MountFlags;
use support::{Scene, argument, eventually, is_unified, succeeds_alone, this_test};
use sys::{Child, End, Payload};

const NOBODY: u32 = 65534;

/// Limits that v2 has here: none on a hybrid machine.
fn limits() -> Limits {
    match is_unified() {
        true => Limits::new().memory_max(128 << 20).pids_max(50),
        false => Limits::new(),
    }
}

fn here() -> bool {
    let v2 = have(&[Need::Root, Need::Cgroup2]);
    v2 && (!is_unified() || support::unified(&["memory", "pids"]))
}

fn become_nobody() {
    let nobody = rustix::process::Uid::from_raw(NOBODY);
    let group = rustix::process::Gid::from_raw(NOBODY);
    rustix::thread::set_thread_res_gid(group, group, group).unwrap();
    // Of this thread alone, and the process does nothing else.
    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
}

/// The other side of [`with_outer`]: this process is in the cgroup made for it.
fn inside_outer() -> Option<(Scene, Cgroup)> {
    let paths = argument()?;
    let mut scene = Scene::new();
    let outer = scene.hierarchy.open(paths.lines()).unwrap();
    outer.add(process::id()).unwrap();
    scene.hierarchy = Hierarchy::detect().unwrap();
    Some((scene, outer))
}

/// Runs the test again in a process of its own, which gets a cgroup. It shall leave nothing inside.
fn with_outer(test: &str, limits: Limits, prepare: impl FnOnce(&Cgroup)) {
    let scene = Scene::new();
    let outer = scene.create(limits);
    prepare(&outer);
    let paths: Vec<_> = outer.paths().map(|path| path.to_str().unwrap()).collect();
    succeeds_alone(test, &paths.join("\n"));
    let inside = fs::read_dir(outer.path()).unwrap().flatten();
    let left: Vec<_> = inside
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(control(outer.path()), "");
    outer.remove().unwrap();
}

fn control(path: &Path) -> String {
    fs::read_to_string(path.join("cgroup.subtree_control")).unwrap()
}

fn procs(path: &Path) -> Vec<u32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn what_is_delegated_is_the_directory_and_what_the_kernel_lists() {
    if !here() {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(limits());
    cgroup.delegate_to(NOBODY, 12).unwrap();
    let list = fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap();
    let owner = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!(owner(cgroup.path()), (NOBODY, 12));
    let mut given = 0;
    for entry in fs::read_dir(cgroup.path()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let listed = list.lines().any(|line| line == name);
        let expected = if listed { (NOBODY, 12) } else { (0, 0) };
        assert_eq!(owner(&entry.path()), expected, "{name}");
        given += usize::from(listed);
    }
    assert!(given >= 3);
    for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
        let error = cgroup.delegate_to(uid, gid).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    cgroup.remove().unwrap();
}

#[test]
fn a_v1_directory_is_not_delegated() {
    if !have(&[Need::Root, Need::Cgroup1Controller("pids")]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().pids_max(9));
    let error = cgroup.delegate_to(NOBODY, NOBODY).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    for path in cgroup.paths() {
        assert_eq!(fs::metadata(path).unwrap().uid(), 0);
    }
    cgroup.remove().unwrap();
}

#[test]
fn an_ordinary_user_rules_inside_of_what_was_delegated_and_nowhere_else() {
    if !here() {
        return;
    }
    let Some((scene, outer)) = inside_outer() else {
        with_outer(this_test!(), limits(), |outer| {
            outer.delegate_to(NOBODY, NOBODY).unwrap();
        });
        return;
    };
    let elsewhere = scene.create_at_root();
    let stranger = Child::inside(&elsewhere.entry(), Payload::Sleep);
    // The thread that is left goes on as root, and cleans up.
    std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            become_nobody();
            rules_inside(&scene, &outer);
            stays_inside(&scene, &outer, &elsewhere, stranger.pid());
        });
        user.join().unwrap();
    });
    drop(stranger);
    elsewhere.remove().unwrap();
}

fn rules_inside(scene: &Scene, outer: &Cgroup) {
    let subtree = scene
        .hierarchy
        .own_subtree(&scene.name(), &limits(), Others::Refuse);
    let subtree = subtree.unwrap();
    assert_eq!(subtree.path(), outer.path());
    assert_eq!(procs(subtree.leaf().unwrap()), [process::id()]);
    let inner = subtree.hierarchy().create(&scene.name(), &limits());
    let inner = inner.unwrap();
    assert_eq!(inner.path().parent(), Some(outer.path()));
    let child = Child::inside(&inner.entry(), Payload::Sleep);
    eventually("in it", || procs(inner.path()) == [child.pid()]);
    inner.kill().unwrap();
    assert_eq!(child.wait().0, End::Signal(9));
    inner.remove().unwrap();
    subtree.undo().unwrap();
    assert_eq!(procs(outer.path()), [process::id()]);
}

fn stays_inside(scene: &Scene, outer: &Cgroup, elsewhere: &Cgroup, stranger: u32) {
    own_limits_are_not_the_user_s(outer);
    let error = outer.add(stranger).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let text = error.to_string();
    let wanted = "cgroup.procs of the lowest cgroup above both";
    assert!(text.contains(wanted) && text.contains("EACCES"), "{text}");
    assert!(text.contains("the process is in /cofferdam-"), "{text}");
    let error = elsewhere.add(process::id()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let error = Child::try_inside(&elsewhere.entry(), Payload::Sleep).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    let error = scene
        .hierarchy
        .create_in("/", &scene.name(), &Limits::new())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let wanted = "belongs to uid 0, this process is 65534";
    assert!(error.to_string().contains(wanted), "{error}");
}

impl Scene {
    /// One that the delegated cgroup does not contain.
    fn create_at_root(&self) -> Cgroup {
        self.hierarchy
            .create_in("/", &self.name(), &Limits::new())
            .unwrap()
    }
}

fn own_limits_are_not_the_user_s(outer: &Cgroup) {
    for file in [
        "cgroup.max.depth",
        "memory.max",
        "pids.max",
        "cgroup.freeze",
    ] {
        let path = outer.path().join(file);
        if path.exists() {
            let error = fs::write(path, "1").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{file}");
        }
    }
}

#[test]
fn the_own_cgroup_is_divided_and_put_together_again() {
    if !here() {
        return;
    }
    let Some((scene, outer)) = inside_outer() else {
        with_outer(this_test!(), limits(), |_| {});
        return;
    };
    let name = scene.name();
    let subtree = scene
        .hierarchy
        .own_subtree(&name, &limits(), Others::Refuse)
        .unwrap();
    let leaf = outer.path().join(name.as_str());
    assert_eq!(subtree.leaf(), Some(leaf.as_path()));
    assert_eq!(
        (procs(outer.path()), procs(&leaf)),
        (vec![], vec![process::id()])
    );
    if is_unified() {
        assert_eq!(control(outer.path()), "memory pids\n");
    }
    let child = subtree
        .hierarchy()
        .create(&scene.name(), &limits())
        .unwrap();
    // A cgroup that is still there would lose its limits.
    let path = child.persist();
    let error = subtree.undo().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(
        error.to_string().contains(path[0].to_str().unwrap()),
        "{error}"
    );
    assert_eq!(procs(&leaf), [process::id()]);
    scene.hierarchy.open(&path).unwrap().remove().unwrap();

    // The process is in the leaf now, which can be divided in its turn; a drop undoes it.
    let again = scene.name();
    drop(
        scene
            .hierarchy
            .own_subtree(&again, &limits(), Others::Refuse)
            .unwrap(),
    );
    assert_eq!(procs(&leaf), [process::id()]);
    assert!(!leaf.join(again.as_str()).exists());
    end_division(&outer, &leaf);
}

/// What [`cofferdam_cgroups::OwnSubtree::undo`] would have done, by hand.
fn end_division(outer: &Cgroup, leaf: &Path) {
    if is_unified() {
        fs::write(outer.path().join("cgroup.subtree_control"), "-memory -pids").unwrap();
    }
    fs::write(outer.path().join("cgroup.procs"), process::id().to_string()).unwrap();
    fs::remove_dir(leaf).unwrap();
}

#[test]
fn a_division_persists_when_told() {
    if !here() {
        return;
    }
    let Some((scene, outer)) = inside_outer() else {
        with_outer(this_test!(), limits(), |_| {});
        return;
    };
    let subtree = scene
        .hierarchy
        .own_subtree(&scene.name(), &limits(), Others::Refuse);
    let leaf = subtree.unwrap().persist().unwrap();
    assert_eq!(procs(&leaf), [process::id()]);
    end_division(&outer, &leaf);
}

#[test]
fn other_processes_are_named_and_moved_only_when_told() {
    if !here() {
        return;
    }
    let Some((scene, outer)) = inside_outer() else {
        with_outer(this_test!(), limits(), |_| {});
        return;
    };
    let children: Vec<_> = (0..12).map(|_| Child::outside(Payload::Sleep)).collect();
    let mut all: Vec<_> = children.iter().map(Child::pid).collect();
    all.push(process::id());
    all.sort_unstable();
    let sorted = |path: &Path| {
        let mut pids = procs(path);
        pids.sort_unstable();
        pids
    };
    let name = scene.name();
    let error = scene
        .hierarchy
        .own_subtree(&name, &limits(), Others::Refuse)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let text = error.to_string();
    assert!(
        text.contains("12 more processes (") && text.contains(", ...)"),
        "{text}"
    );
    assert!(text.contains(&children[0].pid().to_string()), "{text}");
    assert_eq!(sorted(outer.path()), all);
    assert!(!outer.path().join(name.as_str()).exists());

    let subtree = scene
        .hierarchy
        .own_subtree(&name, &limits(), Others::Move)
        .unwrap();
    assert_eq!(sorted(subtree.leaf().unwrap()), all);
    subtree.undo().unwrap();
    assert_eq!(sorted(outer.path()), all);
}

#[test]
fn what_fails_half_way_is_undone() {
    if !here() {
        return;
    }
    let Some((scene, outer)) = inside_outer() else {
        with_outer(this_test!(), limits(), |outer| {
            // Delegated by halves: without cgroup.subtree_control.
            for file in ["", "cgroup.procs"] {
                chown(outer.path().join(file), Some(NOBODY), Some(NOBODY)).unwrap();
            }
        });
        return;
    };
    let taken = scene.name();
    fs::create_dir(outer.path().join(taken.as_str())).unwrap();
    let error = scene
        .hierarchy
        .own_subtree(&taken, &limits(), Others::Refuse)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    fs::remove_dir(outer.path().join(taken.as_str())).unwrap();

    let max = outer.path().join("cgroup.max.descendants");
    fs::write(&max, "0").unwrap();
    let error = scene
        .hierarchy
        .own_subtree(&taken, &limits(), Others::Refuse)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(
        error.to_string().contains("cgroup.max.descendants is 0"),
        "{error}"
    );
    fs::write(&max, "max").unwrap();

    if is_unified() {
        become_nobody();
        let error = scene
            .hierarchy
            .own_subtree(&taken, &limits(), Others::Refuse)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let text = error.to_string();
        assert!(
            text.contains("cgroup.subtree_control") && text.contains("EACCES"),
            "{text}"
        );
        assert!(
            text.contains("belongs to uid 0, this process is 65534"),
            "{text}"
        );
    }
    assert_eq!(procs(outer.path()), [process::id()]);
    assert!(!outer.path().join(taken.as_str()).exists());
}

#[test]
fn a_controller_that_is_not_delegated_is_named() {
    if !support::unified(&["memory", "pids", "cpu"]) {
        return;
    }
    let Some((scene, outer)) = inside_outer() else {
        let outer = Scene::new();
        // Beside one with pids, so that the level above passes on no cpu to it.
        let parent = outer.create(Limits::new().pids_max(50));
        let below = Path::new("/").join(parent.path().file_name().unwrap());
        let limits = Limits::new().pids_max(50);
        let inner = outer
            .hierarchy
            .create_in(below, &outer.name(), &limits)
            .unwrap();
        inner.delegate_to(NOBODY, NOBODY).unwrap();
        succeeds_alone(this_test!(), inner.path().to_str().unwrap());
        inner.remove().unwrap();
        parent.remove().unwrap();
        return;
    };
    become_nobody();
    let wanted = Limits::new().pids_max(5).cpus(0.5);
    let error = scene
        .hierarchy
        .own_subtree(&scene.name(), &wanted, Others::Refuse)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("enable cpu in {}", outer.path().display())),
        "{text}"
    );
    assert!(text.contains("Delegate="), "{text}");
    assert_eq!(procs(outer.path()), [process::id()]);
}

#[test]
fn at_the_root_of_the_tree_nothing_moves() {
    if !here() {
        return;
    }
    if argument().is_none() {
        succeeds_alone(this_test!(), "");
        return;
    }
    let scene = Scene::new();
    let root = scene.create_at_root();
    let top = root.path().parent().unwrap().to_owned();
    root.remove().unwrap();
    fs::write(top.join("cgroup.procs"), process::id().to_string()).unwrap();
    let subtree = scene
        .hierarchy
        .own_subtree(&scene.name(), &limits(), Others::Refuse)
        .unwrap();
    assert_eq!((subtree.leaf(), subtree.path()), (None, top.as_path()));
    let cgroup = subtree
        .hierarchy()
        .create(&scene.name(), &limits())
        .unwrap();
    cgroup.remove().unwrap();
    subtree.undo().unwrap();
}

#[test]
fn a_hierarchy_begins_where_it_is_told_to() {
    if !here() {
        return;
    }
    let scene = Scene::new();
    let outer = scene.create(Limits::new());
    let at = Hierarchy::at(outer.path()).unwrap();
    let fd = fs::File::open(outer.path()).unwrap();
    for hierarchy in [&at, &Hierarchy::at_fd(&fd).unwrap()] {
        let name = scene.name();
        let cgroup = hierarchy.create(&name, &Limits::new()).unwrap();
        assert_eq!(cgroup.path(), outer.path().join(name.as_str()));
        let inner = hierarchy
            .create_in(name.as_str(), &scene.name(), &Limits::new())
            .unwrap();
        assert_eq!(inner.path().parent(), Some(cgroup.path()));
        assert_eq!(hierarchy.find(&scene.prefix).unwrap(), [cgroup.path()]);
        let paths = inner.persist();
        hierarchy.open(paths).unwrap().remove().unwrap();
        cgroup.remove().unwrap();
        let error = hierarchy
            .open([outer.path().parent().unwrap()])
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    outer.remove().unwrap();
    let error = at.create(&scene.name(), &Limits::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_v1_hierarchy_is_used_by_its_path_as_well() {
    if !have(&[Need::Root, Need::Cgroup1Controller("pids")]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().pids_max(9));
    let path = cgroup
        .paths()
        .find(|path| path.join("pids.max").exists())
        .unwrap();
    let hierarchy = Hierarchy::at(path).unwrap();
    let inner = hierarchy
        .create(&scene.name(), &Limits::new().pids_max(5))
        .unwrap();
    assert_eq!(inner.path().parent(), Some(path));
    assert_eq!(
        fs::read_to_string(inner.path().join("pids.max")).unwrap(),
        "5\n"
    );
    inner.remove().unwrap();
    let error = hierarchy.own().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    cgroup.remove().unwrap();
}

#[test]
fn a_controller_that_is_not_given_to_where_a_hierarchy_begins_is_told_so() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let outer = scene.create(Limits::new());
    let inside = Hierarchy::at(outer.path()).unwrap();
    let error = inside.create(&scene.name(), &Limits::new().misc_max("a", 1_u64));
    let text = error.unwrap_err().to_string();
    let expected = format!(
        "limit misc_max: the misc controller is not given to {}, where this hierarchy begins",
        outer.path().display()
    );
    assert_eq!(text, expected);
    outer.remove().unwrap();
}

#[test]
fn what_is_no_cgroup_directory_is_refused() {
    for path in ["/", "/proc", "/sys"] {
        let error = Hierarchy::at(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{path}");
        assert!(
            error.to_string().contains("is no cgroup filesystem"),
            "{error}"
        );
        let fd = fs::File::open(path).unwrap();
        assert_eq!(
            Hierarchy::at_fd(fd).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
    }
    assert_eq!(
        Hierarchy::at("/no/such").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let file = fs::File::open("/proc/self/status").unwrap();
    assert_eq!(
        Hierarchy::at_fd(file).unwrap_err().raw_os_error(),
        Some(libc::ENOTDIR)
    );
}

#[test]
fn in_a_cgroup_namespace_the_own_cgroup_is_seen_through_a_mount_of_its_own() {
    if !here() {
        return;
    }
    let Some((scene, outer)) = inside_outer() else {
        with_outer(this_test!(), limits(), |_| {});
        return;
    };
    let mount: PathBuf = outer.path().parent().unwrap().to_owned();
    let root = scene.create_at_root();
    sys::unshare_cgroup().unwrap();
    // The mount from before shows more than the namespace.
    let error = scene.hierarchy.own().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error.to_string().contains("own cgroup /: lies outside"),
        "{error}"
    );
    in_mount_namespace(|| {
        // Straight upon the old one the kernel does not mount it.
        rustix::mount::mount("none", &mount, "tmpfs", MountFlags::empty(), None).unwrap();
        let mount = mount.join("inner");
        fs::create_dir(&mount).unwrap();
        rustix::mount::mount("none", &mount, "cgroup2", MountFlags::empty(), None).unwrap();
        let hierarchy = Hierarchy::detect().unwrap();
        assert_eq!(hierarchy.own().unwrap(), mount);
        assert_eq!(procs(&mount), [process::id()]);
        let subtree = hierarchy
            .own_subtree(&scene.name(), &limits(), Others::Refuse)
            .unwrap();
        let cgroup = subtree
            .hierarchy()
            .create(&scene.name(), &limits())
            .unwrap();
        assert_eq!(cgroup.path().parent(), Some(mount.as_path()));
        cgroup.remove().unwrap();
        subtree.undo().unwrap();
        assert_eq!(procs(&mount), [process::id()]);
        // Out of the root of the namespace, which this mount does not show.
        match root.add(process::id()) {
            Ok(()) => {
                let error = hierarchy.own().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                let text = error.to_string();
                assert!(text.contains("own cgroup /../cofferdam-"), "{text}");
                outer.add(process::id()).unwrap();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotFound);
                assert!(
                    error.to_string().contains("which nsdelegate keeps closed"),
                    "{error}"
                );
            }
        }
    });
    root.remove().unwrap();
}

#[test]
fn a_read_only_mount_says_so_and_what_to_do() {
    if !here() {
        return;
    }
    let scene = Scene::new();
    let probe = scene.create_at_root();
    let mount = probe.path().parent().unwrap().to_owned();
    probe.remove().unwrap();
    let error = in_mount_namespace(|| {
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        rustix::mount::mount_remount(&mount, flags, "").unwrap();
        let hierarchy = Hierarchy::detect().unwrap();
        hierarchy.create(&scene.name(), &Limits::new()).unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    let named = format!(
        "{} is mounted read-only, as in an unprivileged container",
        mount.display()
    );
    assert!(error.to_string().contains(&named), "{error}");
}

#[test]
fn no_fd_is_left() {
    if !here() {
        return;
    }
    let Some((scene, outer)) = inside_outer() else {
        with_outer(this_test!(), limits(), |_| {});
        return;
    };
    let work = || {
        let subtree = scene
            .hierarchy
            .own_subtree(&scene.name(), &limits(), Others::Refuse);
        let subtree = subtree.unwrap();
        let cgroup = subtree.hierarchy().create(&scene.name(), &limits());
        let cgroup = cgroup.unwrap();
        cgroup.delegate_to(NOBODY, NOBODY).unwrap();
        cgroup.remove().unwrap();
        let _at = Hierarchy::at(outer.path()).unwrap();
    };
    // A hierarchy keeps one file of its root open once it has read it.
    work();
    let before = Snapshot::take().fds;
    work();
    assert_eq!(Snapshot::take().fds, before);
}
