//! Cgroups in the real kernel, hybrid or unified: limits are read back and hit, and nothing is left.
#![expect(clippy::unwrap_used, reason = "helpers of tests unwrap as well")]

#[path = "root/sys.rs"]
mod sys;

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_cgroups::{Cgroup, CgroupName, ErrorKind, Hierarchy, Limits, Mode};
use cofferdam_testkit::{Need, Snapshot, have, in_mount_namespace};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Scene, alone, argument, eventually, have_controllers, succeeds_alone};
use sys::{Child, End, Payload};

const MIB: usize = 1 << 20;
const SIGKILL: i32 = 9;

/// The text of the one file of these that a directory of the cgroup has.
fn text(cgroup: &Cgroup, files: [&str; 2]) -> String {
    let paths = cgroup
        .paths()
        .flat_map(|dir| files.map(|file| dir.join(file)));
    let found: Vec<_> = paths
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect();
    assert_eq!(found.len(), 1, "{files:?}: {found:?}");
    found[0].trim_end().to_owned()
}

fn alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

fn name_of(cgroup: &Cgroup) -> String {
    cgroup
        .path()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn limits_are_what_the_kernel_reads_back_memory_pids_and_cpu() {
    if !have_controllers(&["memory", "pids", "cpu"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().memory_max(64 << 20).pids_max(32).cpus(0.5));
    let memory = text(&cgroup, ["memory.max", "memory.limit_in_bytes"]);
    assert_eq!(memory, "67108864");
    assert_eq!(text(&cgroup, ["pids.max", "absent"]), "32");
    if scene.hierarchy.mode() == Mode::Unified {
        assert_eq!(text(&cgroup, ["cpu.max", "absent"]), "50000 100000");
        assert_eq!(text(&cgroup, ["memory.swap.max", "absent"]), "0");
        assert_eq!(cgroup.paths().count(), 1);
        assert!(cgroup.entry().tasks.is_empty());
    } else {
        assert_eq!(text(&cgroup, ["absent", "cpu.cfs_quota_us"]), "50000");
        assert_eq!(text(&cgroup, ["absent", "cpu.cfs_period_us"]), "100000");
        let memsw = text(&cgroup, ["absent", "memory.memsw.limit_in_bytes"]);
        assert_eq!(memsw, "67108864");
        assert_eq!(cgroup.paths().count(), 1 + cgroup.entry().tasks.len());
    }
    let paths: Vec<_> = cgroup.paths().map(Path::to_owned).collect();
    cgroup.remove().unwrap();
    assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
}

#[test]
fn a_child_beyond_its_memory_limit_is_killed_and_counted() {
    if !have_controllers(&["memory"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().memory_max(32 << 20));
    assert_eq!(cgroup.oom_kills().unwrap(), 0);
    let within = Child::inside(&cgroup.entry(), Payload::Touch(16 * MIB));
    assert_eq!(within.wait().0, End::Exit(0));
    assert_eq!(cgroup.oom_kills().unwrap(), 0);
    let beyond = Child::inside(&cgroup.entry(), Payload::Touch(128 * MIB));
    assert_eq!(beyond.wait().0, End::Signal(SIGKILL));
    assert!(cgroup.oom_kills().unwrap() >= 1);
    cgroup.remove().unwrap();
}

#[test]
fn memory_in_use_is_told() {
    if !have_controllers(&["memory"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().memory_max(64 << 20));
    let child = Child::inside(&cgroup.entry(), Payload::Hold(8 * MIB));
    eventually("8 MiB in use", || {
        cgroup.memory_current().unwrap() >= 8 * MIB as u64
    });
    assert!(cgroup.memory_current().unwrap() <= 64 << 20);
    drop(child);
    cgroup.remove().unwrap();
}

#[test]
fn memory_of_a_cgroup_without_a_memory_limit_is_unsupported() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let outer = scene.create(Limits::new());
    let name = scene.name();
    let parent = Path::new("/").join(name_of(&outer));
    let inner = scene.hierarchy.create_in(parent, &name, &Limits::new());
    let inner = inner.unwrap();
    for error in [inner.oom_kills(), inner.memory_current()] {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(inner.path().to_str().unwrap()));
    }
    fs::remove_dir(inner.path()).unwrap();
    assert_eq!(inner.oom_kills().unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn forks_beyond_the_pids_limit_fail_with_eagain() {
    if !have_controllers(&["pids"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().pids_max(8));
    let child = Child::inside(&cgroup.entry(), Payload::ForkUntilEagain);
    assert_eq!(child.wait().0, End::Exit(7));
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();
}

#[test]
fn a_fifth_of_a_cpu_is_throttled() {
    if !have_controllers(&["cpu"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().cpus(0.2));
    let throttled = || {
        // The v2 directory of a hybrid machine has a cpu.stat as well, without this line.
        let stats = cgroup
            .paths()
            .filter_map(|path| fs::read_to_string(path.join("cpu.stat")).ok())
            .collect::<String>();
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix("nr_throttled "));
        line.unwrap().parse::<u32>().unwrap()
    };
    let start = Instant::now();
    let child = Child::inside(&cgroup.entry(), Payload::Spin);
    eventually("throttled five times", || throttled() >= 5);
    child.kill();
    let (end, used) = child.wait();
    let elapsed = start.elapsed();
    assert_eq!(end, End::Signal(SIGKILL));
    // Five full quotas of 20 ms at least; and at most one and a half fifths of the time, with one period of grace.
    assert!(used >= Duration::from_millis(80), "{used:?}");
    let most = elapsed.mul_f64(0.3) + Duration::from_millis(100);
    assert!(used <= most, "{used:?} of {elapsed:?}");
    cgroup.remove().unwrap();
}

#[test]
fn a_child_started_through_the_entry_is_in_every_hierarchy() {
    if !have_controllers(&["memory", "pids", "cpu"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().memory_max(64 << 20).pids_max(8).cpus(1.0));
    let child = Child::inside(&cgroup.entry(), Payload::Sleep);
    for path in cgroup.paths() {
        eventually("in cgroup.procs", || {
            let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap();
            procs.lines().eq([child.pid().to_string()])
        });
    }
    assert_eq!(cgroup.procs().unwrap(), [child.pid()]);
    assert!(cgroup.populated().unwrap());
    child.kill();
    child.wait();
    eventually("empty", || !cgroup.populated().unwrap());
    assert!(cgroup.procs().unwrap().is_empty());
    cgroup.remove().unwrap();
}

#[test]
fn a_running_process_is_added_to_every_hierarchy() {
    if !have_controllers(&["memory", "pids"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().memory_max(64 << 20).pids_max(8));
    let child = Child::outside(Payload::Sleep);
    cgroup.add(child.pid()).unwrap();
    for path in cgroup.paths() {
        let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap();
        assert_eq!(procs, format!("{}\n", child.pid()));
    }
    assert_eq!(cgroup.add(0).unwrap_err().kind(), ErrorKind::InvalidInput);
    drop(child);
    cgroup.remove().unwrap();
}

#[test]
fn adding_a_process_that_is_gone_is_not_found() {
    if !have(&[Need::Root]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    // Above the largest pid a kernel can have.
    let error = cgroup.add(4_194_305).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error
            .to_string()
            .contains("cgroup.procs: ESRCH: No such process")
    );
    cgroup.remove().unwrap();
}

#[test]
fn kill_ends_a_whole_tree() {
    if !have(&[Need::Root]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    kills_tree(cgroup);
}

fn kills_tree(cgroup: Cgroup) {
    let child = Child::inside(&cgroup.entry(), Payload::Tree);
    eventually("13 processes", || cgroup.procs().unwrap().len() == 13);
    let pids = cgroup.procs().unwrap();
    cgroup.kill().unwrap();
    assert_eq!(child.wait().0, End::Signal(SIGKILL));
    eventually("all dead", || !pids.iter().any(|pid| alive(*pid)));
    cgroup.remove().unwrap();
}

#[test]
fn kill_ends_processes_that_fork_for_ever() {
    if !have_controllers(&["pids"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().pids_max(60));
    kills_bomb(cgroup);
}

fn kills_bomb(cgroup: Cgroup) {
    let child = Child::inside(&cgroup.entry(), Payload::Bomb);
    eventually("40 processes", || cgroup.procs().unwrap().len() >= 40);
    cgroup.kill().unwrap();
    assert_eq!(child.wait().0, End::Signal(SIGKILL));
    cgroup.remove().unwrap();
}

#[test]
fn kill_reaches_cgroups_inside() {
    if !have(&[Need::Root]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    let inner = cgroup.path().join("a/b");
    fs::create_dir_all(&inner).unwrap();
    let child = Child::outside(Payload::Sleep);
    fs::write(inner.join("cgroup.procs"), child.pid().to_string()).unwrap();
    assert!(cgroup.populated().unwrap());
    assert!(cgroup.procs().unwrap().is_empty());
    cgroup.kill().unwrap();
    assert_eq!(child.wait().0, End::Signal(SIGKILL));
    cgroup.remove().unwrap();
}

#[test]
fn remove_waits_for_the_last_process() {
    if !have_controllers(&["memory"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().memory_max(64 << 20));
    let child = Child::inside(&cgroup.entry(), Payload::Sleep);
    eventually("in it", || !cgroup.procs().unwrap().is_empty());
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            child.kill();
        });
        cgroup.remove().unwrap();
    });
    assert!(start.elapsed() >= Duration::from_millis(300));
    // It did not need the child to be reaped.
    assert_eq!(child.wait().0, End::Signal(SIGKILL));
}

#[test]
fn remove_of_one_in_use_is_busy_and_changes_nothing() {
    if !have(&[Need::Root]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    let path = cgroup.path().to_owned();
    fs::create_dir(path.join("inner")).unwrap();
    let child = Child::inside(&cgroup.entry(), Payload::Sleep);
    eventually("in it", || !cgroup.procs().unwrap().is_empty());
    let error = cgroup.remove().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    assert!(alive(child.pid()) && path.join("inner").exists());
    child.kill();
    child.wait();
    let left = scene.hierarchy.open(scene.left()).unwrap();
    left.remove().unwrap();
}

#[test]
fn remove_takes_the_cgroups_inside_however_deep() {
    if !have(&[Need::Root]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    let deep: PathBuf = (0..100).map(|_| "d").collect();
    fs::create_dir_all(cgroup.path().join(deep)).unwrap();
    for name in ["a/x", "a/y", "b"] {
        fs::create_dir_all(cgroup.path().join(name)).unwrap();
    }
    cgroup.remove().unwrap();
    let cgroup = scene.create(Limits::new());
    fs::create_dir_all(cgroup.path().join("a/b/c")).unwrap();
    let path = cgroup.path().to_owned();
    drop(cgroup);
    assert!(!path.exists());
}

#[test]
fn drop_leaves_one_in_use_and_open_takes_it_up_again() {
    if !have_controllers(&["memory"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().memory_max(64 << 20));
    let paths: Vec<_> = cgroup.paths().map(Path::to_owned).collect();
    let child = Child::inside(&cgroup.entry(), Payload::Sleep);
    for path in &paths {
        let procs = path.join("cgroup.procs");
        eventually("in it", || !fs::read_to_string(&procs).unwrap().is_empty());
    }
    drop(cgroup);
    assert!(alive(child.pid()));
    assert_eq!(scene.left().len(), paths.len());
    let again = scene.hierarchy.open(&paths).unwrap();
    assert_eq!(again.procs().unwrap(), [child.pid()]);
    again.kill().unwrap();
    again.remove().unwrap();
}

#[test]
fn drop_after_kill_waits_for_the_killed() {
    if !have(&[Need::Root]) {
        return;
    }
    let scene = Scene::new();
    let mut late = 0;
    for _ in 0..20 {
        let cgroup = scene.create(Limits::new());
        let _child = Child::inside(&cgroup.entry(), Payload::Tree);
        eventually("in it", || !cgroup.procs().unwrap().is_empty());
        cgroup.kill().unwrap();
        let start = Instant::now();
        drop(cgroup);
        let waited = start.elapsed();
        let left = scene.left();
        if !left.is_empty() {
            // On a machine under load the killed may take longer than it waits: but then it has waited.
            assert!(waited >= Duration::from_secs(1), "waited {waited:?}");
            late += 1;
            scene.hierarchy.open(&left).unwrap().remove().unwrap();
        }
    }
    assert!(late < 10, "{late} of 20 were left");
}

#[test]
fn persist_outlives_the_handle_and_open_removes_only_when_told() {
    if !have_controllers(&["pids"]) {
        return;
    }
    let scene = Scene::new();
    let paths = scene.create(Limits::new().pids_max(9)).persist();
    assert_eq!(scene.left(), paths);
    drop(scene.hierarchy.open(&paths).unwrap());
    assert_eq!(scene.left(), paths);
    let again = scene.hierarchy.open(&paths).unwrap();
    assert_eq!(text(&again, ["pids.max", "absent"]), "9");
    again.remove().unwrap();
}

#[test]
fn the_order_in_which_directories_are_opened_does_not_matter() {
    if !have_controllers(&["pids"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().pids_max(9));
    let path = cgroup.path().to_owned();
    let mut paths = cgroup.persist();
    paths.reverse();
    let cgroup = scene.hierarchy.open(&paths).unwrap();
    assert_eq!(cgroup.path(), path);
    cgroup.remove().unwrap();
}

#[test]
fn what_is_gone_already_is_removed_and_what_took_its_name_is_left() {
    if !have(&[Need::Root]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    fs::remove_dir(cgroup.path()).unwrap();
    assert!(cgroup.procs().unwrap().is_empty());
    assert!(!cgroup.populated().unwrap());
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();

    let cgroup = scene.create(Limits::new());
    let path = cgroup.path().to_owned();
    fs::remove_dir(&path).unwrap();
    fs::create_dir(&path).unwrap();
    cgroup.remove().unwrap();
    assert!(path.exists(), "another's cgroup was removed");
    fs::remove_dir(&path).unwrap();
}

#[test]
fn a_name_taken_in_any_hierarchy_is_refused_and_nothing_is_left() {
    if !have_controllers(&["memory", "pids"]) {
        return;
    }
    let scene = Scene::new();
    let limits = Limits::new().memory_max(1 << 20).pids_max(1);
    let name = scene.name();
    let cgroup = scene.hierarchy.create(&name, &limits).unwrap();
    let paths: Vec<_> = cgroup.paths().map(Path::to_owned).collect();
    let taken = scene.hierarchy.create(&name, &limits).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    assert_eq!(scene.left(), paths, "the first one was touched");
    cgroup.remove().unwrap();
    for path in paths {
        fs::create_dir(&path).unwrap();
        let taken = scene.hierarchy.create(&name, &limits).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        assert!(
            taken.to_string().contains(path.to_str().unwrap()),
            "{taken}"
        );
        assert_eq!(scene.left(), std::slice::from_ref(&path));
        fs::remove_dir(&path).unwrap();
    }
}

#[test]
fn a_limit_that_cannot_be_is_refused_before_any_change() {
    if !have(&[Need::Root]) {
        return;
    }
    let scene = Scene::new();
    let name = scene.name();
    let error = scene.hierarchy.create(&name, &Limits::new().cpus(f64::NAN));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(scene.left().is_empty());
}

#[test]
fn a_failure_half_way_leaves_nothing() {
    if !have_controllers(&["memory", "pids", "cpu"]) {
        return;
    }
    let scene = Scene::new();
    let limits = Limits::new().memory_max(1 << 20).pids_max(9).cpus(0.1);
    let outer = scene
        .hierarchy
        .create_in("/", &scene.name(), &limits)
        .unwrap();
    let name = scene.name();
    let parent = name_of(&outer);
    if scene.hierarchy.mode() == Mode::Unified {
        fs::write(outer.path().join("cgroup.max.descendants"), "0").unwrap();
    }
    let more = Limits::new().memory_max(1 << 20).pids_max(9).cpus(2.0);
    let before = Snapshot::take().cgroups;
    let error = scene
        .hierarchy
        .create_in(&parent, &name, &more)
        .unwrap_err();
    let text = error.to_string();
    if scene.hierarchy.mode() == Mode::Unified {
        assert!(
            text.starts_with("mkdir ") && text.contains("EAGAIN"),
            "{text}"
        );
    } else {
        // v1 refuses a child more than its parent has.
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(
            text.contains("write \"200000\" to ") && text.contains("EINVAL"),
            "{text}"
        );
    }
    let mine = |set: BTreeSet<String>| -> Vec<String> {
        set.into_iter()
            .filter(|path| path.contains(&scene.prefix))
            .collect()
    };
    assert_eq!(mine(Snapshot::take().cgroups), mine(before));
    outer.remove().unwrap();
}

#[test]
fn a_limit_without_its_controller_is_unsupported_and_nothing_is_made() {
    if !have_controllers(&["pids"]) {
        return;
    }
    let scene = Scene::new();
    let bare = scene.create(Limits::new());
    let name = scene.name();
    in_mount_namespace(|| {
        let pids = scene.create(Limits::new().pids_max(9));
        let mount = pids.paths().find(|path| path.join("pids.max").exists());
        let mount = mount.and_then(Path::parent).unwrap().to_owned();
        pids.remove().unwrap();
        if scene.hierarchy.mode() == Mode::Unified {
            // A mount whose top is a cgroup that no controller is passed on to.
            let inner = bare.path().join("inner");
            fs::create_dir(&inner).unwrap();
            rustix::mount::mount_bind(&inner, &mount).unwrap();
        } else {
            rustix::mount::mount("none", &mount, "tmpfs", MountFlags::empty(), None).unwrap();
        }
        let here = Hierarchy::detect().unwrap();
        let error = here.create(&name, &Limits::new().pids_max(9)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let expected = match here.mode() {
            Mode::Unified => format!(
                "limit pids_max: the pids controller is not given to {}, where this hierarchy begins",
                mount.display()
            ),
            _ => "limit pids_max: no hierarchy of this machine has the pids controller".to_owned(),
        };
        assert_eq!(error.to_string(), expected);
        // What needs no controller goes on working.
        here.create(&name, &Limits::new())
            .unwrap()
            .remove()
            .unwrap();
    });
    assert_eq!(scene.left(), [bare.path().to_owned()]);
    bare.remove().unwrap();
}

#[test]
fn no_hierarchy_is_left_out_for_lack_of_fds() {
    if !have(&[Need::Root]) {
        return;
    }
    if argument().is_none() {
        succeeds_alone("no_hierarchy_is_left_out_for_lack_of_fds", "");
        return;
    }
    let shown = |hierarchy: &Hierarchy| format!("{hierarchy:?}").matches("Mount {").count();
    let all = shown(&Hierarchy::detect().unwrap());
    let before = getrlimit(Resource::Nofile);
    let open = Snapshot::take().fds.len() as u64;
    for limit in open..open + 40 {
        let few = Rlimit {
            current: Some(limit),
            ..before
        };
        setrlimit(Resource::Nofile, few).unwrap();
        match Hierarchy::detect() {
            Ok(found) => assert_eq!(shown(&found), all, "with {limit} fds"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}"),
        }
    }
    assert!(Hierarchy::detect().is_ok());
}

#[test]
fn a_mount_hidden_under_another_does_not_count() {
    if !have(&[Need::Root]) {
        return;
    }
    in_mount_namespace(|| {
        rustix::mount::mount("none", "/sys/fs/cgroup", "tmpfs", MountFlags::empty(), None).unwrap();
        let error = Hierarchy::detect().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    });
}

#[test]
fn a_read_only_cgroup_mount_is_a_denial_that_names_the_path() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let probe = scene.create(Limits::new());
    let mount = probe.path().parent().unwrap().to_owned();
    probe.remove().unwrap();
    let name = scene.name();
    let error = in_mount_namespace(|| {
        rustix::mount::mount_remount(&mount, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
        let here = Hierarchy::detect().unwrap();
        here.create(&name, &Limits::new()).unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let start = format!("mkdir {}: EROFS: ", mount.join(name.as_str()).display());
    assert!(error.to_string().starts_with(&start), "{error}");
}

#[test]
fn an_ordinary_user_is_told_what_is_missing() {
    if !have(&[Need::Root]) {
        return;
    }
    if argument().is_none() {
        let name = "an_ordinary_user_is_told_what_is_missing";
        succeeds_alone(name, "");
        return;
    }
    let scene = Scene::new();
    // Of this thread alone, and this process does nothing else.
    let nobody = rustix::process::Uid::from_raw(65534);
    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
    let name = scene.name();
    for limits in [Limits::new(), Limits::new().memory_max(1 << 20)] {
        let error = scene.hierarchy.create(&name, &limits).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let text = error.to_string();
        assert!(
            text.contains(" /sys/fs/cgroup") && text.contains("EACCES"),
            "{text}"
        );
        assert!(text.contains("needs root"), "{text}");
    }
}

#[test]
fn a_caller_in_a_cgroup_of_its_own_gets_children_where_the_kernel_allows_them() {
    if !have_controllers(&["memory", "pids"]) {
        return;
    }
    let test = "a_caller_in_a_cgroup_of_its_own_gets_children_where_the_kernel_allows_them";
    let Some(own) = argument() else {
        let scene = Scene::new();
        // In each hierarchy, but in v2 without passing controllers on.
        let own = scene.create(Limits::new().memory_max(256 << 20).pids_max(64));
        let paths: Vec<_> = own.paths().map(|path| path.to_str().unwrap()).collect();
        succeeds_alone(test, &paths.join("\n"));
        own.remove().unwrap();
        return;
    };
    let mut scene = Scene::new();
    let own = scene.hierarchy.open(own.lines()).unwrap();
    own.add(process::id()).unwrap();
    scene.hierarchy = Hierarchy::detect().unwrap();

    let bare = scene.create(Limits::new());
    assert_eq!(bare.path().parent(), Some(own.path()));
    bare.remove().unwrap();

    let limited = scene.create(Limits::new().memory_max(64 << 20).pids_max(9));
    let parents: Vec<_> = limited.paths().filter_map(Path::parent).collect();
    if scene.hierarchy.mode() == Mode::Unified {
        // No internal processes: the own cgroup cannot pass a controller on.
        assert_eq!(parents, [own.path().parent().unwrap()]);
        refuses_a_populated_parent(&scene, &own);
    } else {
        assert!(own.paths().eq(parents.iter().copied()), "{parents:?}");
    }
    limited.remove().unwrap();
}

fn refuses_a_populated_parent(scene: &Scene, own: &Cgroup) {
    let name = scene.name();
    for limits in [Limits::new().memory_max(1 << 20), Limits::new().pids_max(9)] {
        let error = scene.hierarchy.create_in(name_of(own), &name, &limits);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        let text = error.to_string();
        assert!(text.contains(own.path().to_str().unwrap()), "{text}");
        assert!(
            text.contains("move them into a child cgroup first"),
            "{text}"
        );
    }
    // Enabling pids would have made it threaded.
    assert_eq!(text(own, ["cgroup.type", "absent"]), "domain");
    assert_eq!(text(own, ["cgroup.subtree_control", "absent"]), "");
}

#[test]
fn create_in_enables_only_what_is_needed_down_to_the_parent() {
    if !have_controllers(&["memory"]) {
        return;
    }
    let scene = Scene::new();
    let limits = Limits::new().memory_max(64 << 20);
    let top = scene
        .hierarchy
        .create_in("/", &scene.name(), &limits)
        .unwrap();
    let middle = scene.name();
    let middle = scene
        .hierarchy
        .create_in(name_of(&top), &middle, &limits)
        .unwrap();
    let parent = Path::new("/").join(name_of(&top)).join(name_of(&middle));
    let leaf = scene.name();
    let leaf = scene.hierarchy.create_in(&parent, &leaf, &limits).unwrap();
    assert_eq!(
        text(&leaf, ["memory.max", "memory.limit_in_bytes"]),
        "67108864"
    );
    if scene.hierarchy.mode() == Mode::Unified {
        for level in [&top, &middle] {
            assert_eq!(text(level, ["cgroup.subtree_control", "absent"]), "memory");
        }
        assert_eq!(text(&leaf, ["cgroup.subtree_control", "absent"]), "");
    }
    let absent = scene.name();
    let error = scene.hierarchy.create_in("/no/such", &absent, &limits);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
    let error = scene.hierarchy.create_in("/../tmp", &absent, &limits);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
    for cgroup in [leaf, middle, top] {
        cgroup.remove().unwrap();
    }
}

#[test]
fn without_v2_limits_entry_kill_and_remove_work_on_v1() {
    if !have(&[
        Need::Root,
        Need::Cgroup1Controller("pids"),
        Need::Cgroup1Controller("freezer"),
    ]) {
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
        let tree = scene.create(Limits::new());
        assert!(tree.entry().dir.is_none());
        kills_tree(tree);
        let bomb = scene.create(Limits::new().pids_max(60));
        assert_eq!(bomb.paths().count(), 2);
        kills_bomb(bomb);
        let empty = scene.create(Limits::new().memory_max(1 << 20));
        assert!(!empty.populated().unwrap());
        assert_eq!(empty.oom_kills().unwrap(), 0);
        empty.kill().unwrap();
        empty.remove().unwrap();
    });
}

#[test]
fn a_killed_creator_leaves_only_what_find_reports_and_remove_takes() {
    if !have_controllers(&["memory", "pids"]) {
        return;
    }
    let test = "a_killed_creator_leaves_only_what_find_reports_and_remove_takes";
    if let Some(prefix) = argument() {
        create_until_killed(&prefix);
    }
    let scene = Scene::new();
    for round in 0..8 {
        let mut creator = alone(test, &scene.prefix)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually("something made", || !scene.left().is_empty());
        thread::sleep(Duration::from_micros(700 * round));
        creator.kill().unwrap();
        creator.wait().unwrap();
        let left = scene.left();
        assert!(!left.is_empty());
        let all = Snapshot::take().cgroups;
        let mine = all.iter().filter(|path| path.contains(&scene.prefix));
        let found: BTreeSet<_> = left.iter().map(|path| path.display().to_string()).collect();
        assert!(mine.eq(&found), "find reports {found:?}");
        for path in left {
            scene.hierarchy.open([path]).unwrap().remove().unwrap();
        }
        assert!(scene.left().is_empty());
    }
}

fn create_until_killed(prefix: &str) -> ! {
    let hierarchy = Hierarchy::detect().unwrap();
    let limits = Limits::new().memory_max(64 << 20).pids_max(9);
    let mut kept = Vec::new();
    for number in 0.. {
        let name = CgroupName::new(format!("{prefix}{number}")).unwrap();
        let cgroup = hierarchy.create(&name, &limits).unwrap();
        if kept.len() < 3 {
            kept.push(cgroup);
        }
    }
    unreachable!("killed before");
}

#[test]
fn every_fd_closes_on_exec_and_at_the_end() {
    if !have_controllers(&["memory", "pids", "cpu"]) {
        return;
    }
    if argument().is_none() {
        let name = "every_fd_closes_on_exec_and_at_the_end";
        succeeds_alone(name, "");
        return;
    }
    let before = Snapshot::take().fds;
    {
        let scene = Scene::new();
        let cgroup = scene.create(Limits::new().memory_max(1 << 20).pids_max(9).cpus(1.0));
        let during = Snapshot::take().fds;
        let new: Vec<_> = during.difference(&before).collect();
        assert!(!new.is_empty());
        for fd in new {
            let number = fd.split(' ').next().unwrap().parse().unwrap();
            assert!(sys::closes_on_exec(number), "{fd}");
        }
        cgroup.remove().unwrap();
    }
    assert_eq!(Snapshot::take().fds, before);
}
