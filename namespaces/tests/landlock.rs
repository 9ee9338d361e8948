//! What landlock(7) leaves to a program. The program is this test binary itself.

#![cfg(feature = "landlock")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};

use cofferdam_namespaces::{
    AccessFs, AccessNet, BitFlags, Command, ErrorKind, IdMap, Landlock, LandlockAbi, Mount,
    Namespaces, Scope, User,
};
use cofferdam_testkit::{Need, have, refuse_syscall};
use support::{answer, answered, inside, output, rooted};

/// Not a test of its own: what runs inside, which does one thing after the other.
#[test]
fn payload() {
    answer(|verb, rest| {
        let all = format!("{verb} {rest}");
        let answers: Vec<_> = all.split(';').map(act).collect();
        Ok(answers.join(" "))
    });
}

fn act(what: &str) -> String {
    let (verb, rest) = what.split_once(' ').unwrap();
    let port = || rest.parse::<u16>().unwrap();
    let done = match verb {
        "read" => fs::read(rest).map(|_| ()),
        "list" => fs::read_dir(rest).map(|_| ()),
        "write" => fs::write(rest, "written"),
        "bind" => TcpListener::bind(("127.0.0.1", port())).map(|_| ()),
        "connect" => TcpStream::connect(("127.0.0.1", port())).map(|_| ()),
        "signal" => {
            let pid = rustix::process::Pid::from_raw(rest.parse().unwrap()).unwrap();
            rustix::process::test_kill_process(pid).map_err(Into::into)
        }
        "start" => {
            let command = inside(&format!("write {rest}")).namespaces(Namespaces::none());
            let mut child = command.landlock(read_only()).spawn().unwrap();
            return answered(&child.output().unwrap().stdout);
        }
        other => panic!("no payload {other}"),
    };
    done.map_or_else(|error| format!("{:?}", error.kind()), |()| "done".into())
}

/// With files that are its own.
fn furnished(what: &str) -> Command {
    rooted(what)
        .mount(Mount::tmpfs("/mnt", 1 << 20))
        .mount(Mount::tmpfs("/mnt/ok", 1 << 20).mode(0o1777))
        .mount(Mount::file("/mnt/file", "content").mode(0o666))
        .mount(Mount::file("/mnt/other", "content").mode(0o666))
}

fn all() -> BitFlags<AccessFs> {
    AccessFs::from_read(LandlockAbi::V1) | AccessFs::from_write(LandlockAbi::V1)
}

fn read_only() -> Landlock {
    let read = AccessFs::from_read(LandlockAbi::V1);
    Landlock::new().handle(all()).allow("/", read)
}

/// Whether the kernel has Landlock; where it has not, the test says that it is skipped.
fn landlocks() -> bool {
    if starts(read_only()) {
        return true;
    }
    let test = std::thread::current().name().unwrap_or("main").to_owned();
    let strict = std::env::var_os("COFFERDAM_STRICT").is_some_and(|value| value == "1");
    assert!(
        !strict,
        "{test} needs Landlock, which a strict run promises"
    );
    let line = format!("SKIP {test}: needs Landlock\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    false
}

/// Whether the kernel has all of it.
fn starts(landlock: Landlock) -> bool {
    match inside("list /").landlock(landlock).spawn() {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            false
        }
    }
}

#[test]
fn what_is_not_allowed_is_denied() {
    if !have(&[Need::Namespaces]) || !landlocks() {
        return;
    }
    let landlock = read_only()
        .allow("/mnt/ok", all())
        .allow("/mnt/file", all());
    let what = "read /mnt/file;write /mnt/a;write /mnt/ok/a;write /mnt/file;write /mnt/other";
    let command = || furnished(what).landlock(landlock.clone());
    let expected = "done PermissionDenied done done PermissionDenied";
    assert_eq!(output(command()), expected);
    // Also with no_new_privs left off, in a user namespace, and as a user.
    assert_eq!(output(command().allow_new_privileges()), expected);
    let mapped = command().id_map(IdMap::current_user());
    assert_eq!(output(mapped), expected);
    assert_eq!(output(furnished(what)), "done done done done done");
}

#[test]
fn a_user_is_restricted_too_and_a_caller_without_privileges_can_restrict() {
    if !have(&[Need::Root]) || !landlocks() {
        return;
    }
    let what = "write /mnt/ok/a;write /mnt/other;read /mnt/other";
    let user = || furnished(what).user(User::id(1000, 1000));
    let landlock = read_only().allow("/mnt/ok", all());
    let expected = "done PermissionDenied done";
    assert_eq!(output(user().landlock(landlock.clone())), expected);
    let new = user().allow_new_privileges();
    assert_eq!(output(new.landlock(landlock)), expected);
    assert_eq!(output(user()), "done done done");
    let nested = furnished("write /mnt/ok/a;start /mnt/ok/a").user(User::id(1000, 1000));
    assert_eq!(output(nested), "done PermissionDenied");
}

#[test]
fn a_path_that_is_not_there_is_an_error_that_names_it() {
    if !have(&[Need::Namespaces]) || !landlocks() {
        return;
    }
    let landlock = read_only().allow("/no/such/path", AccessFs::ReadFile);
    let error = furnished("list /").landlock(landlock).spawn().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(
        error
            .to_string()
            .contains("allow /no/such/path by landlock: ENOENT"),
        "{error}"
    );
    // Rights that only directories have are nothing for a file.
    let landlock = read_only().allow("/mnt/file", AccessFs::MakeDir);
    let error = furnished("list /").landlock(landlock).spawn().unwrap_err();
    assert!(error.to_string().contains("/mnt/file"), "{error}");
}

#[test]
fn ports_are_restricted_or_the_kernel_says_that_it_cannot() {
    if !have(&[Need::Namespaces]) || !landlocks() {
        return;
    }
    let ports = || {
        Landlock::new()
            .handle_net(AccessNet::BindTcp | AccessNet::ConnectTcp)
            .allow_bind(8080)
            .allow_connect(9)
    };
    let command = furnished("bind 8080;bind 8081;connect 9;connect 8080");
    let restricted = "done PermissionDenied ConnectionRefused PermissionDenied";
    let free = "done done ConnectionRefused ConnectionRefused";
    let best = output(command.clone().landlock(ports().best_effort()));
    if starts(ports()) {
        assert_eq!(output(command.landlock(ports())), restricted);
        assert_eq!(best, restricted);
    } else {
        let error = command.landlock(ports()).spawn().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("BindTcp, ConnectTcp"), "{error}");
        assert_eq!(best, free);
    }
}

#[test]
fn processes_outside_get_no_signals_where_the_kernel_can_deny_it() {
    if !have(&[Need::Namespaces]) || !landlocks() {
        return;
    }
    let parent = std::process::id();
    let signal = inside(&format!("signal {parent}")).namespaces(Namespaces::none());
    let scoped = Landlock::new().scope(Scope::Signal);
    assert_eq!(output(signal.clone()), "done");
    if starts(scoped.clone()) {
        assert_eq!(output(signal.landlock(scoped)), "PermissionDenied");
    } else {
        let error = signal.landlock(scoped).spawn().unwrap_err();
        assert!(error.to_string().contains("Signal"), "{error}");
    }
}

#[test]
fn without_landlock_nothing_starts_unless_it_may() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let tried = std::thread::spawn(|| {
        refuse_syscall(444);
        let command = || furnished("write /mnt/other");
        let error = command().landlock(read_only()).spawn().unwrap_err();
        (error, output(command().landlock(read_only().best_effort())))
    });
    let (error, best) = tried.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("WriteFile"), "{error}");
    assert_eq!(best, "done");
}
