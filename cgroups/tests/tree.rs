//! What the kernel refuses in its tree, and what becomes of it here: the right kind, the reason, and nothing changed.
#![expect(clippy::unwrap_used, reason = "helpers of tests unwrap as well")]

#[path = "root/sys.rs"]
#[allow(dead_code, reason = "not every test binary uses all of it")]
mod sys;

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cofferdam_cgroups::{Cgroup, CgroupName, ErrorKind, Hierarchy, HugePage, Limits};
use cofferdam_testkit::{Need, have, in_mount_namespace};
use rustix::mount::{MountFlags, UnmountFlags};
use support::{Scene, eventually, is_unified, unified};
use sys::{Child, Payload};

fn set_control(cgroup: &Cgroup, value: &str) -> io::Result<()> {
    fs::write(cgroup.path().join("cgroup.subtree_control"), value)
}

fn read(cgroup: &Cgroup, file: &str) -> String {
    let text = fs::read_to_string(cgroup.path().join(file)).unwrap();
    text.trim_end().to_owned()
}

fn errno(result: io::Result<()>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

/// Its path from the top of the hierarchy, which it is a child of.
fn below_top(cgroup: &Cgroup) -> PathBuf {
    Path::new("/").join(cgroup.path().file_name().unwrap())
}

/// A cgroup that is given all three controllers, with a process in it.
fn populated(scene: &Scene) -> (Cgroup, Child) {
    let limits = Limits::new().memory_max(64 << 20).pids_max(20).cpus(1.0);
    let cgroup = scene.create(limits);
    let child = Child::inside(&cgroup.entry(), Payload::Sleep);
    eventually("in it", || cgroup.populated().unwrap());
    (cgroup, child)
}

#[test]
fn a_populated_cgroup_passes_nothing_on_and_stays_a_domain() {
    if !unified(&["memory", "pids", "cpu"]) {
        return;
    }
    let scene = Scene::new();
    let (cgroup, child) = populated(&scene);
    assert_eq!(errno(set_control(&cgroup, "+memory")), libc::EBUSY);
    for limits in [
        Limits::new().memory_max(1 << 20),
        // These two the kernel would enable, and make it threaded.
        Limits::new().pids_max(5),
        Limits::new().cpus(0.5),
    ] {
        let parent = below_top(&cgroup);
        let error = scene
            .hierarchy
            .create_in(parent, &scene.name(), &limits)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(
            error.to_string().contains(cgroup.path().to_str().unwrap()),
            "{error}"
        );
        assert_eq!(read(&cgroup, "cgroup.type"), "domain");
        assert_eq!(read(&cgroup, "cgroup.subtree_control"), "");
    }
    drop(child);
    cgroup.remove().unwrap();
}

#[test]
fn a_cgroup_that_another_made_threaded_is_told_from_others() {
    if !unified(&["memory", "pids", "cpu"]) {
        return;
    }
    let scene = Scene::new();
    let (cgroup, child) = populated(&scene);
    set_control(&cgroup, "+pids").unwrap();
    assert_eq!(read(&cgroup, "cgroup.type"), "domain threaded");
    assert_eq!(errno(set_control(&cgroup, "+memory")), libc::EOPNOTSUPP);
    for limits in [Limits::new(), Limits::new().pids_max(5)] {
        let parent = below_top(&cgroup);
        let error = scene
            .hierarchy
            .create_in(parent, &scene.name(), &limits)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("\"domain threaded\""), "{error}");
    }
    invalid_takes_no_process(&scene, &cgroup);
    drop(child);
    cgroup.remove().unwrap();
}

#[test]
fn below_a_threaded_cgroup_the_type_is_the_reason_told() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let limits = match is_unified() {
        true => Limits::new().memory_max(1 << 20),
        false => Limits::new().hugetlb_max(HugePage::MB2, 0_u64),
    };
    let threaded = scene.create(Limits::new());
    threaded.set_threaded().unwrap();
    for limits in [Limits::new(), limits] {
        let parent = below_top(&threaded);
        let made = scene.hierarchy.create_in(parent, &scene.name(), &limits);
        let error = made.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(text.contains("its cgroup.type is \"threaded\""), "{text}");
    }
    let error = threaded.kill().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("threads alone"), "{error}");
    threaded.remove().unwrap();
}

#[test]
fn a_threaded_cgroup_too_many_names_the_bound() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let parent = scene.create(Limits::new());
    fs::write(parent.path().join("cgroup.max.descendants"), "0").unwrap();
    let below = below_top(&parent);
    let made = scene
        .hierarchy
        .create_threaded_in(below, &scene.name(), &Limits::new());
    let error = made.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    let text = error.to_string();
    assert!(text.contains("cgroup.max.descendants is 0"), "{text}");
    parent.remove().unwrap();
}

fn invalid_takes_no_process(scene: &Scene, threaded: &Cgroup) {
    let path = threaded.path().join("invalid");
    fs::create_dir(&path).unwrap();
    let invalid = scene.hierarchy.open([&path]).unwrap();
    assert_eq!(read(&invalid, "cgroup.type"), "domain invalid");
    let child = Child::outside(Payload::Sleep);
    let error = invalid.add(child.pid()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    assert!(error.to_string().contains("\"domain invalid\""), "{error}");
    let error = Child::try_inside(&invalid.entry(), Payload::Sleep).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    invalid.remove().unwrap();
}

#[test]
fn a_cgroup_that_passes_controllers_on_takes_no_process() {
    if !unified(&["memory", "pids"]) {
        return;
    }
    let scene = Scene::new();
    let limits = Limits::new().memory_max(64 << 20);
    let inner_node = scene.create(limits.clone());
    let leaf = scene
        .hierarchy
        .create_in(below_top(&inner_node), &scene.name(), &limits);
    let leaf = leaf.unwrap();
    let child = Child::outside(Payload::Sleep);
    let error = inner_node.add(child.pid()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(
        error
            .to_string()
            .contains("only cgroups inside it take processes"),
        "{error}"
    );
    let error = Child::try_inside(&inner_node.entry(), Payload::Sleep).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    leaf.add(child.pid()).unwrap();
    drop(child);
    // One that a child passes on in its turn stays.
    let below = below_top(&inner_node).join(leaf.path().file_name().unwrap());
    eventually("empty", || !leaf.populated().unwrap());
    let deepest = scene
        .hierarchy
        .create_in(below, &scene.name(), &limits)
        .unwrap();
    assert_eq!(errno(set_control(&inner_node, "-memory")), libc::EBUSY);
    for cgroup in [deepest, leaf, inner_node] {
        cgroup.remove().unwrap();
    }
}

#[test]
fn a_controller_that_is_unknown_or_not_given_is_refused() {
    if !unified(&["memory", "pids"]) {
        return;
    }
    let scene = Scene::new();
    let bare = scene.create(Limits::new());
    let inner = scene
        .hierarchy
        .create_in(below_top(&bare), &scene.name(), &Limits::new());
    let inner = inner.unwrap();
    assert_eq!(errno(set_control(&inner, "+nonsense")), libc::EINVAL);
    assert_eq!(errno(set_control(&inner, "memory")), libc::EINVAL);
    assert_eq!(errno(set_control(&inner, "+memory")), libc::ENOENT);
    let at = Hierarchy::at(inner.path()).unwrap();
    let error = at
        .create(&scene.name(), &Limits::new().memory_max(1 << 20))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("memory"), "{error}");
    inner.remove().unwrap();
    bare.remove().unwrap();
}

#[test]
fn processes_that_cannot_be_moved_are_told_apart() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    let child = Child::outside(Payload::Sleep);
    let pid = child.pid();
    drop(child);
    let error = cgroup.add(pid).unwrap_err();
    assert_eq!(
        (error.kind(), error.raw_os_error()),
        (ErrorKind::NotFound, Some(libc::ESRCH))
    );
    if fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n") {
        let error = cgroup.add(2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
    assert!(cgroup.procs().unwrap().is_empty());
    cgroup.remove().unwrap();
}

#[test]
fn the_bounds_of_the_tree_are_named() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let outer = scene.create(Limits::new());
    let parent = below_top(&outer);
    let inner = scene
        .hierarchy
        .create_in(&parent, &scene.name(), &Limits::new())
        .unwrap();
    let deeper = parent.join(inner.path().file_name().unwrap());
    for (file, value, parent) in [
        ("cgroup.max.descendants", "1", &parent),
        ("cgroup.max.descendants", "1", &deeper),
        ("cgroup.max.depth", "1", &deeper),
    ] {
        let path = outer.path().join(file);
        fs::write(&path, value).unwrap();
        let error = scene
            .hierarchy
            .create_in(parent, &scene.name(), &Limits::new())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        assert!(
            error
                .to_string()
                .ends_with(&format!("; {} is {value}", path.display())),
            "{error}"
        );
        fs::write(&path, "max").unwrap();
    }
    inner.remove().unwrap();
    outer.remove().unwrap();
}

/// Every directory and file that a name could reach by mistake.
fn surroundings(scene: &Scene) -> BTreeSet<PathBuf> {
    let mount = scene.create(Limits::new());
    let top = mount.path().parent().unwrap().to_owned();
    mount.remove().unwrap();
    let mut all = BTreeSet::new();
    for place in [
        "/",
        "/tmp",
        "/sys/fs",
        "/sys/fs/cgroup",
        ".",
        top.to_str().unwrap(),
    ] {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            // Of other tests.
            let mine = name.contains(&scene.prefix) || ["abs", "a", "b"].contains(&name.as_str());
            if place != "/tmp" && !name.starts_with("cofferdam-") || mine {
                all.insert(Path::new(place).join(entry.file_name()));
            }
        }
    }
    all
}

#[test]
fn hostile_names_and_parents_touch_nothing() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let outer = scene.create(Limits::new());
    let before = surroundings(&scene);
    let long = "x".repeat(256);
    for name in [
        "..",
        ".",
        "",
        "/abs",
        "/tmp/abs",
        "a/../b",
        "a/b",
        "../b",
        "a\nb",
        "a\0b",
        "\n",
        "memory.max",
        "cgroup.procs",
        "tasks",
        "cpu.",
        &long,
    ] {
        let error = CgroupName::new(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}");
        assert_eq!(error.to_string().lines().count(), 1);
    }
    for parent in ["..", "/../tmp", "a/../..", "/../../tmp/abs", "a/../b"] {
        let made = scene
            .hierarchy
            .create_in(parent, &scene.name(), &Limits::new());
        assert_eq!(
            made.unwrap_err().kind(),
            ErrorKind::InvalidInput,
            "{parent:?}"
        );
        let opened = scene.hierarchy.open([outer.path().join(parent)]);
        assert!(opened.is_err(), "{parent:?}");
    }
    let raw: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"/\xff\xfe");
    for parent in [
        Path::new(raw),
        Path::new("/no"),
        Path::new(&long),
        Path::new("/a\0b"),
    ] {
        let made = scene
            .hierarchy
            .create_in(parent, &scene.name(), &Limits::new());
        assert!(made.is_err(), "{parent:?}");
    }
    // A parent that is a file of the kernel's.
    let file = below_top(&outer).join("cgroup.procs");
    let made = scene
        .hierarchy
        .create_in(file, &scene.name(), &Limits::new());
    assert_eq!(made.unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
    assert_eq!(surroundings(&scene), before);
    outer.remove().unwrap();
}

#[test]
fn what_is_mounted_inside_the_tree_is_not_entered() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let outer = scene.create(Limits::new());
    let inner = outer.path().join("inner");
    fs::create_dir(&inner).unwrap();
    in_mount_namespace(|| {
        rustix::mount::mount("none", &inner, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::create_dir(inner.join("kept")).unwrap();
        // The fds of before do not show it.
        let hierarchy = Hierarchy::detect().unwrap();
        let below = below_top(&outer).join("inner");
        let error = hierarchy.create_in(&below, &scene.name(), &Limits::new());
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EXDEV));
        let error = hierarchy.open([&inner]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
        assert_eq!(
            Hierarchy::at(&inner).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
        // Removing what has it inside leaves it too, and what is in it.
        let again = hierarchy.open([outer.path()]).unwrap();
        assert!(again.remove().is_err());
        let names: Vec<_> = fs::read_dir(&inner).unwrap().flatten().collect();
        assert_eq!(names.len(), 1);
        assert!(inner.join("kept").is_dir());
        rustix::mount::unmount(&inner, UnmountFlags::DETACH).unwrap();
    });
    outer.remove().unwrap();
}
