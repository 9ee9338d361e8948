//! Namespaces of others: a program started in a running container, or beside it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use cofferdam_namespaces::{
    Capabilities, Capability, Clock, Command, ErrorKind, IdMap, Mount, Namespace, Namespaces,
    NetPool, RootFs, Session, Spawned,
};
use cofferdam_testkit::{Need, have};
use support::{
    answer, common, field, inside, is_emulated, output, refused, rooted, stat_of, turns, until,
};

#[test]
fn payload() {
    answer(|verb, rest| match verb {
        "link" => fs::read_link(rest)
            .map(|path| path.display().to_string())
            .map_err(|error| error.to_string()),
        "namespaces" => Ok(namespaces("self").join(" ")),
        "uptime" => fs::read_to_string("/proc/uptime").map_err(|error| error.to_string()),
        _ => common(verb, rest),
    });
}

const KINDS: [&str; 8] = ["pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time"];

fn namespaces(pid: &str) -> Vec<String> {
    let link = |name: &&str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    let links = KINDS.iter().map(link);
    links.map(|link| link.display().to_string()).collect()
}

/// One that runs until it is dropped, and does what it is to do once its program runs.
fn container(command: Command) -> Spawned {
    let child = command.spawn().unwrap();
    let pid = child.pid();
    let cmdline = format!("/proc/{pid}/cmdline");
    until("the program runs", || {
        let words = fs::read(&cmdline).unwrap_or_default();
        String::from_utf8_lossy(&words).contains("payload")
    });
    child
}

/// Runs in the container to its end and returns what it answered.
fn enter(command: Command, target: &Spawned) -> String {
    let mut child = command
        .enter(target)
        .unwrap_or_else(|error| panic!("{error}"));
    support::answered(&child.output().unwrap().stdout)
}

#[test]
fn it_is_in_every_namespace_of_the_container() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let target = container(rooted("sleep"));
    let expected = namespaces(&target.pid().to_string()).join(" ");
    assert_eq!(enter(inside("namespaces"), &target), expected);
    assert_eq!(
        enter(inside("read /proc/sys/kernel/hostname"), &target),
        "box\n"
    );
    let status = enter(inside("read /proc/self/status"), &target);
    let nspid = status.lines().find(|line| line.starts_with("NSpid:"));
    // Seen from inside there is one number, and it is not 1.
    assert_eq!(nspid.unwrap().split_whitespace().count(), 2, "{status}");
    assert!(status.contains("CapInh:\t0000000000000000"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
}

#[test]
fn it_is_in_a_user_namespace_too_and_root_there() {
    if !have(&[Need::Root]) {
        return;
    }
    let target = container(rooted("sleep").id_map(IdMap::range(300_000, 1000)));
    let expected = namespaces(&target.pid().to_string()).join(" ");
    assert_eq!(enter(inside("namespaces"), &target), expected);
    let status = enter(inside("read /proc/self/status"), &target);
    assert!(status.contains("Uid:\t0\t0\t0\t0"), "{status}");
    let child = inside("sleep").enter(&target).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
    assert!(status.contains("Uid:\t300000\t300000"), "{status}");
    assert!(status.contains("Groups:\t \n"), "{status}");
}

#[test]
fn an_ordinary_user_can_enter_what_is_its_own() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let target = container(rooted("sleep").id_map(IdMap::current_user()));
    let expected = namespaces(&target.pid().to_string()).join(" ");
    assert_eq!(enter(inside("namespaces"), &target), expected);
}

#[test]
fn its_status_and_pid_are_its_own_and_it_ends_with_the_container() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let target = container(rooted("sleep"));
    let mut child = inside("exit 7").enter(&target).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
    let mut child = inside("abort").enter(&target).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(6));

    let child = inside("sleep").enter(&target).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
    assert!(status.contains(&format!("PPid:\t{}\n", std::process::id())));
    drop(target);
    let status = child.wait_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(status.unwrap().signal(), Some(9));
}

#[test]
fn a_container_ends_though_nobody_has_waited_for_who_entered() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let target = container(rooted("sleep"));
    let children: Vec<_> = (0..3)
        .map(|_| inside("sleep").enter(&target).unwrap())
        .collect();
    target.kill().unwrap();
    let status = target.wait_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(status.and_then(|status| status.signal()), Some(9));
    for child in children {
        let status = child.wait_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(status.and_then(|status| status.signal()), Some(9));
    }
}

#[test]
fn errors_name_the_step_and_leave_no_process() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let target = container(rooted("sleep"));
    let error = Command::new("/nowhere").enter(&target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("execve /nowhere"), "{error}");
    let error = inside("").workdir("/nowhere").enter(&target).unwrap_err();
    assert!(error.to_string().contains("workdir /nowhere"), "{error}");
    let error = rooted("").enter(&target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let ended = inside("exit 0").spawn().unwrap();
    ended.wait_timeout(Duration::from_secs(60)).unwrap();
    let error = inside("").enter(&ended).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let file = File::open("/dev/null").unwrap();
    let error = inside("").enter(&file).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let children = fs::read_to_string("/proc/thread-self/children").unwrap();
    let children = children.split_whitespace().count();
    assert!(children <= 1, "{children} children");
}

#[test]
fn one_namespace_is_shared_and_the_others_are_not() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let target = container(rooted("sleep"));
    let its = namespaces(&target.pid().to_string());
    for (index, namespace) in [
        (0, Namespace::Pid),
        (2, Namespace::Uts),
        (3, Namespace::Ipc),
        (4, Namespace::Net),
    ] {
        let file = format!("/proc/{}/ns/{}", target.pid(), KINDS[index]);
        let by_file = File::open(file).unwrap().into();
        let by_process = target.as_fd().try_clone_to_owned().unwrap();
        for fd in [by_file, by_process] {
            let mut command = rooted("namespaces");
            if namespace == Namespace::Uts {
                // The name is the other's.
                command = inside("namespaces").root(RootFs::directory("/"));
            }
            let joined = Namespaces::default().join(namespace, fd);
            let own = output(command.namespaces(joined));
            let own: Vec<_> = own.split(' ').collect();
            for (other, kind) in KINDS.iter().enumerate().take(6) {
                assert_eq!(own[other] == its[other], other == index, "{kind}");
            }
        }
    }
}

#[test]
fn a_container_with_a_user_namespace_can_be_in_a_network_made_before() {
    if !have(&[Need::Root]) {
        return;
    }
    let net = container(inside("sleep").namespaces(Namespaces::none().with(Namespace::Net)));
    let fd = net.as_fd().try_clone_to_owned().unwrap();
    let command = rooted("namespaces")
        .namespaces(Namespaces::default().join(Namespace::Net, fd))
        .id_map(IdMap::range(300_000, 1000));
    let own = output(command);
    let (its, ours) = (namespaces(&net.pid().to_string()), namespaces("self"));
    let own: Vec<_> = own.split(' ').collect();
    assert_eq!(own[4], its[4], "the network");
    for index in [0, 1, 2, 3, 6] {
        assert_ne!(own[index], ours[index], "{}", KINDS[index]);
    }
}

#[test]
fn a_user_namespace_can_be_shared_with_what_belongs_to_it() {
    if !have(&[Need::Root]) {
        return;
    }
    let target = container(rooted("sleep").id_map(IdMap::range(300_000, 1000)));
    let open = |name: &str| {
        let path = format!("/proc/{}/ns/{name}", target.pid());
        File::open(path).unwrap().into()
    };
    let pidfd = || target.as_fd().try_clone_to_owned().unwrap();
    for (net, user) in [(open("net"), open("user")), (pidfd(), pidfd())] {
        let two = Namespaces::default()
            .join(Namespace::Net, net)
            .join(Namespace::User, user);
        let own = output(rooted("namespaces").namespaces(two));
        let its = namespaces(&target.pid().to_string());
        let own: Vec<_> = own.split(' ').collect();
        for index in 0..7 {
            let same = index == 4 || index == 6;
            assert_eq!(own[index] == its[index], same, "{}", KINDS[index]);
        }
    }
}

#[test]
fn a_pool_gives_networks_that_are_ready_and_nobody_elses() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let pool = NetPool::new(3).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    // Held, for the kernel gives the number of a namespace that is gone to another.
    let mut held = Vec::new();
    for _ in 0..8 {
        let net = pool.take().unwrap();
        held.push(net.try_clone().unwrap());
        let command = rooted("read /proc/net/fib_trie");
        let command = command.namespaces(Namespaces::default().join(Namespace::Net, net));
        let routes = output(command.clone());
        assert!(routes.contains("127.0.0.1"), "{routes}");
        let own = output(command.env(support::PAYLOAD, "link /proc/self/ns/net"));
        assert!(seen.insert(own.clone()), "{own} was given before");
    }
    assert!(!seen.contains(&namespaces("self")[4]));
    drop(pool);
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = threads.filter_map(|t| fs::read_to_string(t.path().join("comm")).ok());
    assert!(names.into_iter().all(|name| name != "cofferdam-netns\n"));
}

#[test]
fn clocks_are_shifted_in_a_time_namespace() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let uptime = |text: &str| -> f64 { text.split(' ').next().unwrap().parse().unwrap() };
    let ours = uptime(&fs::read_to_string("/proc/uptime").unwrap());
    let shifted = Namespaces::default().clock_offset(Clock::Boottime, 1_000_000, 0);
    for command in [
        rooted("uptime").namespaces(shifted.clone()),
        rooted("uptime").namespaces(shifted.clone()).init(true),
        rooted("uptime")
            .namespaces(shifted.clone())
            .id_map(IdMap::current_user()),
        inside("uptime").namespaces(Namespaces::none().clock_offset(Clock::Boottime, 1_000_000, 0)),
    ] {
        let its = uptime(&output(command)) - 1_000_000.0;
        assert!((ours - 0.1..ours + 60.0).contains(&its), "{ours} and {its}");
    }
    let status = output(rooted("read /proc/self/status").namespaces(shifted.clone()));
    assert!(status.contains("NSpid:\t1\n"), "pid 1: {status}");
    // Who enters has its clocks.
    let target = container(rooted("sleep").namespaces(shifted));
    let its = uptime(&enter(inside("uptime"), &target)) - 1_000_000.0;
    assert!((ours - 0.1..ours + 60.0).contains(&its), "{ours} and {its}");
    let now = fs::read_to_string("/proc/uptime").unwrap();
    assert!(uptime(&now) < ours + 60.0, "the caller's is as before");
    let error = refused(inside("").namespaces(Namespaces::none().clock_offset(
        Clock::Boottime,
        i64::MAX,
        0,
    )));
    assert!(error.to_string().contains("shift the clocks"), "{error}");
}

/// One that may trace looks at every fd of who enters, until it is the program.
#[test]
fn who_enters_shows_a_tracer_no_way_to_the_host() {
    if !have(&[Need::Root]) {
        return;
    }
    let script = r#"
        : > /mnt/seen; : > /mnt/looked
        while :; do
            for fd in /proc/[0-9]*/fd/*; do
                case $fd in /proc/1/*) continue ;; esac
                to=$(readlink $fd) || continue
                case $to in
                    socket:*) echo $fd >> /mnt/looked ;;
                    /|/proc|/dev/zero|anon_inode:*) echo "$fd $to" >> /mnt/seen ;;
                esac
            done 2>/dev/null
        done"#;
    let more = Capabilities::default().with(Capability::CAP_SYS_PTRACE);
    let target = Command::new("/bin/sh")
        .args(["-c", script])
        .root(RootFs::directory("/"))
        .mount(Mount::tmpfs("/mnt", 1 << 20))
        .capabilities(more)
        .spawn()
        .unwrap();
    // Has what the caller opens of the host: its procfs, and a file like a cgroup's.
    let file = File::options()
        .write(true)
        .open("/dev/zero")
        .unwrap()
        .into();
    let mut entering = Command::new("/bin/true").cgroup_procs(file);
    entering = entering.oom_score_adj(500);
    let start = Instant::now();
    let mut looked = String::new();
    // It has seen some of them before they were the program.
    // On an emulated machine a shell is too slow to see any: there only what it should not see counts.
    while looked.lines().count() < 10 {
        if is_emulated() && start.elapsed() > Duration::from_secs(20) {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(300), "it is slow");
        for _ in 0..turns(100, 10) {
            let mut child = entering.enter(&target).unwrap();
            child.wait().unwrap();
        }
        looked = enter(inside("read /mnt/looked"), &target);
    }
    assert_eq!(enter(inside("read /mnt/seen"), &target), "");
}

#[test]
fn who_enters_has_no_groups_of_the_callers_though_they_cannot_be_dropped_inside() {
    if !have(&[Need::Root]) {
        return;
    }
    let map = IdMap::range(300_000, 1000).deny_setgroups();
    let target = container(rooted("sleep").id_map(map.clone()));
    // The groups of a thread that ends with the test.
    let entering = || {
        let groups = [6, 27].map(rustix::process::Gid::from_raw);
        rustix::thread::set_thread_groups(&groups).unwrap();
        let groups = |child: &Spawned| {
            let status = fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
            field(&status, "Groups")
        };
        let child = inside("sleep").enter(&target).unwrap();
        assert_eq!(groups(&child), "", "who enters");
        let uts = target.as_fd().try_clone_to_owned().unwrap();
        let beside = Namespaces::default().join(Namespace::Uts, uts);
        let beside = inside("sleep").namespaces(beside).id_map(map.clone());
        let child = beside.spawn().unwrap();
        assert_eq!(groups(&child), "", "who makes one beside");
    };
    std::thread::scope(|scope| scope.spawn(entering).join().unwrap());
}

#[test]
fn who_enters_can_be_in_the_callers_session_and_process_group() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let target = container(rooted("sleep"));
    let of = |pid: u32| {
        let stat = stat_of(pid);
        [stat[4].clone(), stat[5].clone()]
    };
    let start = |session| inside("sleep").session(session).enter(&target).unwrap();
    let child = start(Session::Inherit);
    let [group, session] = of(child.pid());
    let [callers, callers_session] = of(std::process::id());
    assert_eq!(session, callers_session);
    // A group that is led from outside of this pid namespace has no number to ask for it by.
    assert!(
        group == callers || callers == "0" && group != "0",
        "{group}, not {callers}"
    );
    let child = start(Session::New);
    let its = child.pid().to_string();
    assert_eq!(of(child.pid()), [its.clone(), its]);
}
