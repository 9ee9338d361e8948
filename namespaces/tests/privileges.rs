//! Privileges, limits, priorities and labels, as the kernel shows them. The program is this test binary itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;
#[path = "privileges/sys.rs"]
mod sys;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use cofferdam_namespaces::{
    Capabilities, Capability, CapabilitySets, Command, ErrorKind, Filter, IdMap, IoPriority,
    Namespaces, Personality, Rlimit, Scheduler, Seccomp, SecureBits, User,
};
use cofferdam_testkit::{Need, have, in_mount_namespace};
use support::{
    DOCKER, PAYLOAD, Scratch, answer, answered, common, field, inside, output, own_state, refused,
    rooted, stat_of, tmpfs_on,
};

/// Not a test of its own: what runs inside.
#[test]
fn payload() {
    answer(|verb, rest| match verb {
        "stat" => Ok(stat("self")),
        "io" => Ok(sys::io_priority().to_string()),
        "uname" => Ok(sys::machine()),
        "keyring" => Ok(sys::session_keyring().to_string()),
        "umask" => {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            Ok(field(&status, "Umask"))
        }
        "bind" => TcpListener::bind(("127.0.0.1", rest.parse().unwrap()))
            .map_err(|error| error.to_string())
            .map(|_| "done".into()),
        // As an embedder of its own, which has what this one gave it.
        "start" => Ok(start(
            inside(rest).namespaces(Namespaces::none()),
            "read /proc/thread-self/status",
        )),
        "oom" => {
            let command = inside("").namespaces(Namespaces::none());
            let command = command.oom_score_adj(rest.parse().unwrap());
            Ok(start(command, "read /proc/self/oom_score_adj"))
        }
        "raise" => {
            let kill = rustix::thread::CapabilitySet::KILL;
            let raised = rustix::thread::configure_capability_in_ambient_set(kill, true);
            Ok(format!("{raised:?}"))
        }
        "user-namespace" => {
            let command = inside("")
                .namespaces(Namespaces::none())
                .id_map(IdMap::current_user());
            Ok(start(command, "read /proc/self/uid_map"))
        }
        "allow-new" => {
            let command = inside("")
                .namespaces(Namespaces::none())
                .allow_new_privileges();
            let all = command.clone().capabilities(Capabilities::ALL);
            let (some, all) = (start(command, "umask"), start(all, "umask"));
            Ok(format!("{some}\n{all}"))
        }
        _ => common(verb, rest),
    });
}

fn start(command: Command, what: &str) -> String {
    match command.env(PAYLOAD, what).spawn() {
        Ok(mut child) => answered(&child.output().unwrap().stdout),
        Err(error) => error.to_string(),
    }
}

/// Nice value, real-time priority and policy.
fn stat(whose: &str) -> String {
    let fields = stat_of(whose);
    format!("{} {} {}", fields[18], fields[39], fields[40])
}

/// The five sets: inheritable, permitted, effective, bounding, ambient.
fn sets(status: &str) -> [u64; 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(|name| u64::from_str_radix(&field(status, name), 16).unwrap())
}

fn mask(text: &str) -> u64 {
    let set: Capabilities = text.parse().unwrap();
    set.into_iter().fold(0, |mask, one| mask | one.bitmask())
}

fn has(capability: Capability) -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    sets(&status)[2] & capability.bitmask() != 0
}

const STATUS: &str = "read /proc/thread-self/status";

#[test]
fn a_user_has_its_ambient_capabilities() {
    if !have(&[Need::Root]) {
        return;
    }
    let bind = mask("net_bind_service");
    let user = |what: &str| rooted(what).user(User::id(1000, 1000));
    let ambient = |what: &str| user(what).ambient("net_bind_service".parse().unwrap());
    let status = output(ambient(STATUS));
    assert_eq!(field(&status, "Uid"), "1000 1000 1000 1000");
    assert_eq!(sets(&status), [bind, bind, bind, DOCKER, bind]);
    assert_eq!(output(ambient("bind 80")), "done");
    assert!(output(user("bind 80")).starts_with("error: Permission denied"));
    assert_eq!(sets(&output(user(STATUS))), [0, 0, 0, DOCKER, 0]);
}

#[test]
fn root_and_a_user_of_a_user_namespace_can_have_ambient_capabilities() {
    if !have(&[Need::Root]) {
        return;
    }
    let bind = mask("net_bind_service");
    let set = || "net_bind_service".parse().unwrap();
    let status = output(rooted(STATUS).ambient(set()));
    assert_eq!(sets(&status), [bind, DOCKER, DOCKER, DOCKER, bind]);
    let mapped = || rooted(STATUS).id_map(IdMap::range(200_000, 2000));
    let status = output(mapped().user(User::id(1000, 1000)).ambient(set()));
    assert_eq!(field(&status, "Uid"), "1000 1000 1000 1000");
    assert_eq!(sets(&status), [bind, bind, bind, DOCKER, bind]);
    let status = output(mapped().ambient(set()));
    assert_eq!(sets(&status), [bind, DOCKER, DOCKER, DOCKER, bind]);
}

#[test]
fn every_set_is_the_one_that_was_chosen() {
    if !have(&[Need::Root]) {
        return;
    }
    let set = |text: &str| text.parse::<Capabilities>().unwrap();
    let chosen = CapabilitySets::new(set("kill,chown,net_raw,setuid"))
        .permitted(set("kill,chown"))
        .inheritable(set("kill,net_raw"))
        .ambient(set("kill"));
    let (kill, chown) = (mask("kill"), mask("chown"));
    let bounding = mask("kill,chown,net_raw,setuid");
    let inheritable = mask("kill,net_raw");
    let status = output(rooted(STATUS).capability_sets(chosen));
    let permitted = kill | chown;
    let expected = [inheritable, permitted, permitted, bounding, kill];
    assert_eq!(sets(&status), expected, "root");
    let status = output(
        rooted(STATUS)
            .capability_sets(chosen)
            .user(User::id(1000, 1000)),
    );
    let expected = [inheritable, kill, kill, bounding, kill];
    assert_eq!(sets(&status), expected, "a user");
}

#[test]
fn what_the_caller_is_made_to_inherit_its_programs_do_not() {
    if !have(&[Need::Root]) {
        return;
    }
    // As containers of before CVE-2022-24769 had it: no capability but what is inheritable.
    let set = "kill,chown".parse().unwrap();
    let sets_of = |what: &str| {
        let chosen = CapabilitySets::new(Capabilities::default()).inheritable(set);
        sets(&output(
            rooted(what)
                .user(User::id(1000, 1000))
                .capability_sets(chosen),
        ))
    };
    assert_eq!(sets_of(STATUS)[0], mask("kill,chown"));
    assert_eq!(sets_of("start")[0], 0);
    // And a caller that has them as ambient capabilities.
    let command = rooted("start").user(User::id(1000, 1000));
    let command = command.ambient("kill,setpcap,setgid".parse().unwrap());
    assert_eq!(sets(&output(command)), [0, 0, 0, DOCKER, 0]);
}

#[test]
fn securebits_take_from_root_what_makes_it_special() {
    if !have(&[Need::Root]) {
        return;
    }
    let (kill, bits) = (mask("kill"), SecureBits::NO_CAP_AMBIENT_RAISE);
    let noroot = || rooted(STATUS).securebits(SecureBits::NOROOT | bits);
    assert_eq!(sets(&output(noroot())), [0, 0, 0, DOCKER, 0]);
    let ambient = noroot().ambient("kill".parse().unwrap());
    assert_eq!(
        sets(&output(ambient.clone())),
        [kill, kill, kill, DOCKER, kill]
    );
    let user = ambient.user(User::id(1000, 1000));
    assert_eq!(sets(&output(user)), [kill, kill, kill, DOCKER, kill]);
    // What is permitted and inheritable can be raised, unless that is denied.
    let chosen = CapabilitySets::new(Capabilities::default()).inheritable("kill".parse().unwrap());
    let raise = || rooted("raise").capability_sets(chosen);
    assert_eq!(output(raise()), "Ok(())");
    assert_eq!(
        output(raise().securebits(bits)),
        "Err(Os { code: 1, kind: PermissionDenied, message: \"Operation not permitted\" })"
    );
}

#[test]
fn a_capability_that_the_caller_lacks_is_an_error_that_names_it() {
    if !have(&[Need::Root]) {
        return;
    }
    let error = std::thread::spawn(|| {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.permitted.remove(rustix::thread::CapabilitySet::KILL);
        sets.effective.remove(rustix::thread::CapabilitySet::KILL);
        rustix::thread::set_capabilities(None, sets).unwrap();
        rustix::thread::remove_capability_from_bounding_set(rustix::thread::CapabilitySet::KILL)
            .unwrap();
        let command = rooted(STATUS).user(User::id(1000, 1000));
        refused(command.ambient("kill".parse().unwrap()))
    });
    let error = error.join().unwrap();
    assert!(error.to_string().contains("CAP_KILL"), "{error}");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}

#[test]
fn set_user_id_programs_work_only_where_new_privileges_are_allowed() {
    if !have(&[Need::Root]) {
        return;
    }
    let scratch = Scratch::new("setuid");
    let program = scratch.join("program");
    let exe = std::env::current_exe().unwrap();
    // A mount on which the bit counts, whatever the machine's /tmp is.
    in_mount_namespace(|| {
        tmpfs_on(&scratch.0);
        fs::copy(&exe, &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
        let command = || rooted(STATUS).program(&program).user(User::id(1000, 1000));
        let status = output(command());
        assert_eq!(field(&status, "Uid"), "1000 1000 1000 1000");
        assert_eq!(field(&status, "NoNewPrivs"), "1");
        let status = output(command().allow_new_privileges());
        assert_eq!(field(&status, "Uid"), "1000 0 0 0");
        assert_eq!(field(&status, "NoNewPrivs"), "0");
        assert_eq!(sets(&status), [0, DOCKER, DOCKER, DOCKER, 0]);
    });
    // A caller without privileges cannot reduce what new ones can be.
    let text = output(rooted("allow-new").user(User::id(1000, 1000)));
    let (some, all) = text.split_once('\n').unwrap();
    assert!(some.contains("from the bounding set: EPERM"), "{text}");
    assert_eq!(all, "0022");
}

#[test]
fn limits_are_the_programs_own() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let limits = |text: &str| -> BTreeMap<String, String> {
        let rows = text.lines().skip(1).map(|line| {
            let (name, values) = line.split_at(26);
            let values: Vec<_> = values.split_whitespace().take(2).collect();
            (name.trim().to_owned(), values.join(":"))
        });
        rows.collect()
    };
    let mine = fs::read_to_string("/proc/self/limits").unwrap();
    // Few enough fds that the stub, which has more, would have got none for the workdir.
    let wanted = [
        (Rlimit::As, "Max address space", 1 << 40, 1 << 41),
        (Rlimit::Core, "Max core file size", 0, 0),
        (Rlimit::Cpu, "Max cpu time", 100, 200),
        (Rlimit::Data, "Max data size", 1 << 38, 1 << 39),
        (Rlimit::Fsize, "Max file size", 1 << 20, 1 << 21),
        (Rlimit::Locks, "Max file locks", 3, 4),
        (Rlimit::Memlock, "Max locked memory", 4096, 65536),
        (Rlimit::Msgqueue, "Max msgqueue size", 1000, 2000),
        (Rlimit::Nice, "Max nice priority", 0, 0),
        (Rlimit::Nofile, "Max open files", 4, 5),
        (Rlimit::Nproc, "Max processes", 5000, 6000),
        (Rlimit::Rss, "Max resident set", 1 << 30, 1 << 31),
        (Rlimit::Rtprio, "Max realtime priority", 0, 0),
        (Rlimit::Rttime, "Max realtime timeout", 1_000_000, 2_000_000),
        (Rlimit::Sigpending, "Max pending signals", 10, 20),
        (Rlimit::Stack, "Max stack size", 4 << 20, 1 << 30),
    ];
    let mut command = rooted("read /proc/self/limits");
    for &(limit, _, soft, hard) in &wanted {
        command = command.rlimit(limit, soft, hard);
    }
    let its = limits(&output(command));
    for (limit, name, soft, hard) in wanted {
        assert_eq!(its[name], format!("{soft}:{hard}"), "{limit}");
    }
    assert_eq!(fs::read_to_string("/proc/self/limits").unwrap(), mine);
    // One that is not set is the caller's.
    let its = limits(&output(rooted("read /proc/self/limits")));
    assert_eq!(its, limits(&mine));
}

#[test]
fn a_limit_above_the_callers_takes_a_privilege() {
    if !have(&[Need::Root]) {
        return;
    }
    let raise = || {
        let (soft, hard) = (64, 1 << 20);
        rooted("read /proc/self/limits").rlimit(Rlimit::Nofile, soft, hard)
    };
    // A thread's limits are its process's: an embedder in between has the small ones.
    let limited = rooted("read /proc/self/limits").rlimit(Rlimit::Nofile, 32, 32);
    assert!(output(limited).contains("Max open files            32                   32"));
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.maximum.is_none_or(|maximum| maximum >= 1 << 20) {
        output(raise());
    } else if has(Capability::CAP_SYS_RESOURCE) {
        let text = output(raise());
        assert!(
            text.contains("Max open files            64                   1048576"),
            "{text}"
        );
    } else {
        let error = refused(raise());
        assert!(
            error
                .to_string()
                .contains("set RLIMIT_NOFILE 64:1048576: EPERM"),
            "{error}"
        );
    }
}

#[test]
fn oom_score_adj_is_the_programs_own() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let own = || fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let before = own();
    let read = "read /proc/self/oom_score_adj";
    assert_eq!(output(rooted(read).oom_score_adj(123)), "123\n");
    assert_eq!(
        output(
            inside(read)
                .namespaces(Namespaces::none())
                .oom_score_adj(124)
        ),
        "124\n"
    );
    let mapped = inside(read).id_map(IdMap::current_user());
    assert_eq!(output(mapped.oom_score_adj(125)), "125\n");
    assert_eq!(own(), before);
    assert_eq!(output(rooted(read)), before);
}

#[test]
fn a_lower_oom_score_adj_takes_a_privilege() {
    if !have(&[Need::Root]) {
        return;
    }
    // An embedder without any privilege raises it, and cannot lower it.
    let nested = |value| output(rooted(&format!("oom {value}")).user(User::id(1000, 1000)));
    assert_eq!(nested(321), "321\n");
    assert!(
        nested(-1).contains("set oom_score_adj to -1: EACCES"),
        "{}",
        nested(-1)
    );
    let lower = rooted("read /proc/self/oom_score_adj").oom_score_adj(-7);
    if has(Capability::CAP_SYS_RESOURCE) {
        assert_eq!(output(lower), "-7\n");
    } else {
        let error = refused(lower);
        assert!(error.to_string().contains("-7: EACCES"), "{error}");
    }
}

#[test]
fn what_is_mounted_on_proc_is_not_written_to() {
    if !have(&[Need::Root]) {
        return;
    }
    let denied = inside("umask").id_map(IdMap::range(200_000, 1000));
    let denied = denied.deny_user_namespaces();
    let adjusted = inside("umask").oom_score_adj(1);
    in_mount_namespace(|| {
        tmpfs_on("/proc/sys");
        fs::create_dir("/proc/sys/user").unwrap();
        fs::write("/proc/sys/user/max_user_namespaces", "").unwrap();
        let error = refused(denied);
        assert!(
            error.to_string().contains("deny user namespaces: EXDEV"),
            "{error}"
        );
        let written = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap();
        assert_eq!(written, "");
        tmpfs_on("/proc");
        let error = refused(adjusted.clone());
        assert!(error.to_string().contains("open /proc: ENODEV"), "{error}");
        rustix::mount::unmount("/proc", rustix::mount::UnmountFlags::DETACH).unwrap();
        // A directory of procfs in the root's place is not it either.
        rustix::mount::mount_bind("/proc/self/net", "/proc").unwrap();
        let error = refused(adjusted.clone());
        assert!(error.to_string().contains("open /proc: ENODEV"), "{error}");
    });
}

#[test]
fn it_runs_when_and_where_it_was_told_to() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let before = stat("thread-self");
    let nice: i32 = before.split(' ').next().unwrap().parse().unwrap();
    let mine = fs::read_to_string("/proc/thread-self/status").unwrap();
    let low = nice.max(7);
    assert_eq!(output(rooted("stat").nice(low)), format!("{low} 0 0"));
    let batch = rooted("stat").scheduler(Scheduler::batch());
    assert_eq!(output(batch.clone()), format!("{nice} 0 3"), "kept");
    assert_eq!(output(batch.nice(19)), "19 0 3");
    let idle = rooted("stat").scheduler(Scheduler::idle());
    assert!(output(idle).ends_with(" 0 5"));
    let other = rooted("stat").scheduler(Scheduler::other().reset_on_fork());
    assert_eq!(output(other), format!("{nice} 0 0"));
    for (io, number) in [
        (IoPriority::idle(), 3 << 13),
        (IoPriority::best_effort(6), 2 << 13 | 6),
    ] {
        let text = output(rooted("io").io_priority(io));
        assert_eq!(text, number.to_string());
    }
    let allowed = field(&mine, "Cpus_allowed_list");
    let first: u32 = allowed.split(['-', ',']).next().unwrap().parse().unwrap();
    let status = output(rooted(STATUS).cpu_affinity([first]));
    assert_eq!(field(&status, "Cpus_allowed_list"), first.to_string());
    let error = refused(rooted(STATUS).cpu_affinity([first, 4000]));
    assert_eq!(
        error.to_string(),
        "cpu affinity \"4000\": is no CPU that is online"
    );
    assert_eq!(stat("thread-self"), before);
    let after = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert_eq!(field(&after, "Cpus_allowed_list"), allowed);
}

#[test]
fn real_time_takes_a_privilege() {
    if !have(&[Need::Root]) {
        return;
    }
    let ms = Duration::from_millis;
    let deadline = Scheduler::deadline(ms(10), ms(50), ms(100)).reset_on_fork();
    let before = stat("thread-self");
    let nice = before.split(' ').next().unwrap();
    for (scheduler, expected) in [
        (Scheduler::fifo(3), "3 1"),
        (Scheduler::round_robin(4), "4 2"),
        (deadline, "0 6"),
    ] {
        let its = output(rooted("stat").scheduler(scheduler));
        assert_eq!(its, format!("{nice} {expected}"));
    }
    let io = rooted("io").io_priority(IoPriority::real_time(2));
    assert_eq!(output(io), (1 << 13 | 2).to_string());
    assert_eq!(output(rooted("stat").nice(-5)), "-5 0 0");
    let mapped = || rooted("stat").id_map(IdMap::range(200_000, 1000));
    let error = refused(mapped().scheduler(Scheduler::fifo(3)));
    assert!(
        error
            .to_string()
            .contains("set the scheduler SCHED_FIFO: EPERM"),
        "{error}"
    );
    let error = refused(mapped().nice(-5));
    assert!(
        error.to_string().contains("set the nice value -5: EACCES"),
        "{error}"
    );
}

#[test]
fn personality_and_umask_are_the_programs_own() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let read = "read /proc/thread-self/personality";
    let before = fs::read_to_string("/proc/thread-self/personality").unwrap();
    let fixed = Personality::LINUX.no_randomize();
    assert_eq!(output(rooted(read).personality(fixed)), "00040000\n");
    let maps = || {
        output(rooted("read /proc/self/maps").personality(fixed))
            .lines()
            .find(|line| line.ends_with("[stack]"))
            .map(|line| line.split('-').nth(1).unwrap().to_owned())
    };
    assert_eq!(maps(), maps());
    let machine = output(rooted("uname").personality(Personality::LINUX32));
    if cfg!(target_arch = "x86_64") {
        assert_eq!(machine, "i686");
    }
    let after = fs::read_to_string("/proc/thread-self/personality").unwrap();
    assert_eq!(after, before);
    assert_eq!(output(rooted("umask")), "0022");
    assert_eq!(output(rooted("umask").umask(0o077)), "0077");
}

#[test]
fn user_namespaces_can_be_denied() {
    if !have(&[Need::Root]) {
        return;
    }
    // The default filter alone would refuse them.
    let unconfined = |what: &str| rooted(what).seccomp(Seccomp::unconfined());
    let mapped = |what: &str| unconfined(what).id_map(IdMap::range(200_000, 2000));
    let allowed = output(mapped("user-namespace"));
    assert!(allowed.trim().starts_with('0'), "{allowed}");
    let denied = |what: &str| mapped(what).deny_user_namespaces();
    for command in [
        denied("user-namespace"),
        denied("user-namespace").user(User::id(1000, 1000)),
    ] {
        let text = output(command);
        assert!(text.contains("clone3: ENOSPC"), "{text}");
    }
    let limit = "/proc/sys/user/max_user_namespaces";
    assert_eq!(output(denied(&format!("read {limit}"))), "0\n");
    let writes = inside(&format!("write {limit}")).id_map(IdMap::range(200_000, 2000));
    let written = output(writes.deny_user_namespaces());
    assert!(written.contains("denied"), "{written}");
    let host = fs::read_to_string(limit).unwrap();
    assert_ne!(host, "0\n");
}

#[test]
fn a_label_needs_its_security_module() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let current = "/proc/thread-self/attr/apparmor/current";
    if fs::read(current).is_ok() {
        let command = || rooted(&format!("read {current}"));
        let unconfined = command().apparmor_profile("unconfined");
        assert_eq!(output(unconfined).trim(), "unconfined");
        let error = refused(command().apparmor_profile("cofferdam-no-such"));
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(
            error
                .to_string()
                .contains("AppArmor profile \"cofferdam-no-such\": ENOENT"),
            "{error}"
        );
    } else {
        let error = refused(rooted("umask").apparmor_profile("unconfined"));
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("AppArmor"), "{error}");
    }
    let list = fs::read_to_string("/proc/filesystems").unwrap();
    if !list.contains("selinuxfs") {
        let error = refused(rooted("umask").selinux_label("system_u:system_r:x_t:s0"));
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("SELinux"), "{error}");
    }
}

#[test]
fn nothing_of_the_callers_process_changes() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let state = || (own_state(), sys::io_priority());
    let command = || {
        rooted("umask")
            .ambient("kill".parse().unwrap())
            .allow_new_privileges()
            .oom_score_adj(900)
            .umask(0o077)
            .rlimit(Rlimit::Nofile, 20, 20)
            .rlimit(Rlimit::Core, 0, 0)
            .nice(19)
            .scheduler(Scheduler::batch())
            .io_priority(IoPriority::idle())
            .personality(Personality::LINUX.no_randomize())
    };
    let before = state();
    assert_eq!(output(command()), "0077");
    assert_eq!(output(command().id_map(IdMap::current_user())), "0077");
    refused(command().program("/nowhere"));
    assert_eq!(state(), before);
}

#[test]
fn the_callers_session_keyring_is_not_the_programs() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    // Of a thread that ends with the test.
    let own = std::thread::spawn(|| {
        let own = sys::start_session_keyring();
        assert!(own > 0, "a keyring");
        let allowed = Filter::docker_default().allow("keyctl");
        for seccomp in [Seccomp::unconfined(), allowed.into()] {
            let command = || inside("keyring").seccomp(seccomp.clone());
            for command in [
                command(),
                command().id_map(IdMap::current_user()),
                command()
                    .allow_new_privileges()
                    .capabilities(Capabilities::ALL),
            ] {
                let its: i64 = start(command, "keyring").parse().unwrap();
                assert!(its > 0 && its != own, "{its} and {own}");
            }
        }
        assert_eq!(sys::session_keyring(), own, "the caller's is as before");
        // Who cannot use one has none made.
        let program = inside("keyring").program_of_start().unwrap().to_string();
        assert!(!program.contains("keyring\n"), "{program}");
    });
    own.join().unwrap();
}
