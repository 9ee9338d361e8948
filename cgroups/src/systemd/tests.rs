//! The client against a bus in this process, which says what each test has it say.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use super::wire::{self, Kind};
use super::*;

/// What the bus answers to a call: messages, or bytes that are none.
type Script = fn(&Message) -> Vec<Vec<u8>>;

const JOB: &str = "/org/freedesktop/systemd1/job/7";
const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/a_2escope";

fn fake(hello: &'static [u8], script: Script) -> (Bus, JoinHandle<Vec<Message>>) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("cofferdam-bus-{}-{number}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        serve(stream, hello, script)
    });
    (
        Bus::address(&format!("unix:abstract={name}")).unwrap(),
        server,
    )
}

fn serve(mut stream: UnixStream, hello: &[u8], script: Script) -> Vec<Message> {
    let mut calls = Vec::new();
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    let uid = rustix::process::geteuid().as_raw().to_string();
    let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(line, format!("\0AUTH EXTERNAL {hex}\r\n").into_bytes());
    stream.write_all(hello).unwrap();
    let mut begin = [0; 7];
    if stream.read_exact(&mut begin).is_err() {
        return calls;
    }
    assert_eq!(&begin, b"BEGIN\r\n");
    while let Some(call) = receive(&mut stream) {
        for answer in script(&call) {
            // The client may have given up.
            let _sent = stream.write_all(&answer).is_ok();
        }
        calls.push(call);
    }
    calls
}

fn receive(stream: &mut UnixStream) -> Option<Message> {
    let mut bytes = vec![0; wire::PREFIX];
    stream.read_exact(&mut bytes).ok()?;
    bytes.resize(wire::length(&bytes).unwrap(), 0);
    stream.read_exact(&mut bytes[wire::PREFIX..]).ok()?;
    Some(Message::decode(&bytes).unwrap())
}

fn reply(call: &Message, body: Vec<Value>) -> Vec<u8> {
    let mut reply = Message::call("/", "a.b", "C", body);
    reply.kind = Kind::Return;
    reply.serial = 99;
    reply.reply_to = Some(call.serial);
    reply.encode()
}

fn refusal(call: &Message, name: &str) -> Vec<u8> {
    let mut reply = Message::call("/", "a.b", "C", vec![Value::text("no\nway")]);
    reply.kind = Kind::Error;
    reply.serial = 99;
    reply.reply_to = Some(call.serial);
    reply.error = Some(name.to_owned());
    reply.encode()
}

fn job_removed(job: &str, result: &str) -> Vec<u8> {
    let body = vec![
        Value::U32(7),
        Value::Path(job.to_owned()),
        Value::text("a.scope"),
        Value::text(result),
    ];
    let mut signal = Message::call(MANAGER_PATH, MANAGER, "JobRemoved", body);
    signal.kind = Kind::Signal;
    signal.serial = 98;
    signal.encode()
}

/// A systemd in good order; without signals.
fn answers(call: &Message) -> Vec<Vec<u8>> {
    let property = call.body.get(1).and_then(Value::as_text);
    let body = match (call.member.as_deref().unwrap(), property) {
        ("Hello", _) => vec![Value::text(":1.5")],
        ("AddMatch" | "Subscribe" | "Abandon", _) => vec![],
        ("StartTransientUnit" | "StopUnit", _) => vec![Value::Path(JOB.into())],
        ("GetUnit", _) => vec![Value::Path(UNIT_PATH.into())],
        ("Get", Some("ActiveState")) => vec![Value::variant(Value::text("active"))],
        ("Get", Some("ControlGroup")) => {
            vec![Value::variant(Value::text("/user.slice/a.scope"))]
        }
        (other, _) => panic!("{other}"),
    };
    vec![reply(call, body)]
}

fn is(call: &Message, member: &str) -> bool {
    call.member.as_deref() == Some(member)
}

fn options() -> ScopeOptions {
    ScopeOptions::new("a.scope")
        .slice("app.slice")
        .pid(4321)
        .description("a test")
}

fn start(script: Script, within: u64) -> (Result<Scope>, JoinHandle<Vec<Message>>) {
    let (bus, server) = fake(b"OK 0123\r\n", script);
    let scope = Scope::start(&bus, &options(), Duration::from_millis(within));
    (scope, server)
}

#[test]
fn a_scope_is_started_as_systemd_wants_it() {
    // The signal comes before the reply it belongs to, and another one before that.
    let (scope, server) = start(
        |call| {
            let mut out = answers(call);
            if is(call, "StartTransientUnit") {
                out.insert(0, job_removed(JOB, "done"));
                out.insert(0, job_removed("/org/freedesktop/systemd1/job/6", "failed"));
            }
            out
        },
        5000,
    );
    let scope = scope.unwrap();
    assert_eq!(scope.control_group(), Path::new("/user.slice/a.scope"));
    assert_eq!(scope.persist(), "a.scope");
    let calls = server.join().unwrap();
    let members: Vec<_> = calls
        .iter()
        .map(|call| call.member.as_deref().unwrap())
        .collect();
    let expected = [
        "Hello",
        "AddMatch",
        "Subscribe",
        "StartTransientUnit",
        "GetUnit",
        "Get",
    ];
    assert_eq!(members, expected);
    let call = &calls[3];
    assert_eq!(
        call.destination.as_deref(),
        Some("org.freedesktop.systemd1")
    );
    assert_eq!(call.body, options().arguments());
    let Value::Array(_, properties) = &call.body[2] else {
        panic!("{call:?}");
    };
    assert_eq!(properties[1], property("Delegate", Value::Bool(true)));
    let pids = Value::Array("u".into(), vec![Value::U32(4321)]);
    assert_eq!(properties[2], property("PIDs", pids));
}

/// As systemd 252 sent it through dbus-daemon.
#[test]
fn a_captured_signal_is_understood() {
    let bytes = include_bytes!("../../tests/data/dbus-job-removed");
    let signal = Message::decode(bytes).unwrap();
    assert_eq!(signal.kind, Kind::Signal);
    assert_eq!(
        removed(&signal, "/org/freedesktop/systemd1/job/46"),
        Some("done")
    );
    assert_eq!(removed(&signal, JOB), None);
}

#[test]
fn without_a_signal_the_state_is_asked_for() {
    let (scope, server) = start(answers, 5000);
    scope.unwrap().persist();
    server.join().unwrap();
}

#[test]
fn a_job_that_fails_is_an_error() {
    let (scope, server) = start(
        |call| {
            let mut out = answers(call);
            if is(call, "StartTransientUnit") {
                out.push(job_removed(JOB, "failed"));
            }
            out
        },
        5000,
    );
    let text = scope.unwrap_err().to_string();
    assert!(
        text.contains("the job for a.scope ended with \"failed\""),
        "{text}"
    );
    server.join().unwrap();
}

#[test]
fn what_systemd_refuses_is_said_in_one_line() {
    let (scope, server) = start(
        |call| match is(call, "StartTransientUnit") {
            true => vec![refusal(call, "org.freedesktop.systemd1.UnitExists")],
            false => answers(call),
        },
        5000,
    );
    let error = scope.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(
        error.to_string().ends_with("systemd1.UnitExists: noway"),
        "{error}"
    );
    server.join().unwrap();
    assert_eq!(
        bus::kind_of("org.freedesktop.DBus.Error.AccessDenied"),
        ErrorKind::PermissionDenied
    );
}

#[test]
fn one_that_says_nothing_is_waited_for_no_longer_than_told() {
    let start_time = Instant::now();
    let (scope, server) = start(|_| Vec::new(), 150);
    assert_eq!(scope.unwrap_err().raw_os_error(), Some(libc::ETIMEDOUT));
    let (bus, silent) = fake(b"", answers);
    let scope = Scope::start(&bus, &options(), Duration::from_millis(150));
    assert_eq!(scope.unwrap_err().raw_os_error(), Some(libc::ETIMEDOUT));
    assert!(start_time.elapsed() < Duration::from_secs(3));
    server.join().unwrap();
    silent.join().unwrap();
}

#[test]
fn one_that_does_not_accept_is_waited_for_no_longer_than_told() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let name = format!("cofferdam-bus-{}-full", std::process::id());
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listener, &address).unwrap();
    listen(&listener, 0).unwrap();
    let peer = SocketAddr::from_abstract_name(&name).unwrap();
    let _first = UnixStream::connect_addr(&peer).unwrap();

    let (said, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let bus = Bus::address(&format!("unix:abstract={name}")).unwrap();
        said.send(Scope::start(&bus, &options(), Duration::from_millis(200)).map(Scope::persist))
    });
    let error = told.recv_timeout(Duration::from_secs(10)).unwrap();
    let error = error.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");
    assert!(error.to_string().starts_with("connect "), "{error}");
}

#[test]
fn a_time_without_end_is_no_panic() {
    let (bus, server) = fake(b"OK\r\n", answers);
    let scope = Scope::start(&bus, &options(), Duration::MAX).unwrap();
    scope.persist();
    server.join().unwrap();
}

#[test]
fn a_peer_that_talks_nonsense_is_malformed() {
    let nonsense: [Script; 3] = [
        |_| vec![vec![b'x'; 100]],
        // A message of 4 GiB.
        |_| vec![b"l\x02\0\x01\xff\xff\xff\xff\x01\0\0\0\xff\xff\xff\xff".to_vec()],
        |call| match is(call, "StartTransientUnit") {
            true => vec![reply(call, vec![Value::U32(1)])],
            false => answers(call),
        },
    ];
    for script in nonsense {
        let (scope, server) = start(script, 5000);
        assert_eq!(scope.unwrap_err().kind(), ErrorKind::Malformed);
        server.join().unwrap();
    }
    let (scope, server) = start(
        |call| match call.body.get(1).and_then(Value::as_text) {
            Some("ControlGroup") => {
                vec![reply(call, vec![Value::variant(Value::text("/../etc"))])]
            }
            _ => answers(call),
        },
        5000,
    );
    assert_eq!(scope.unwrap_err().kind(), ErrorKind::Malformed);
    server.join().unwrap();
}

#[test]
fn who_is_not_let_in_is_denied() {
    let (bus, server) = fake(b"REJECTED EXTERNAL\r\n", answers);
    let error = Scope::start(&bus, &options(), Duration::from_secs(5)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    server.join().unwrap();
    let bus = Bus::private("/no/such/socket");
    let error = Scope::start(&bus, &options(), Duration::from_secs(5)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn stop_abandon_and_drop_tell_systemd() {
    type End = fn(Scope) -> Result<()>;
    let within = Duration::from_secs(5);
    let stop: End = |scope| scope.stop(Duration::from_secs(5));
    let abandon: End = |scope| scope.abandon(Duration::from_secs(5));
    let dropped: End = |scope| {
        drop(scope);
        Ok(())
    };
    for (end, member) in [
        (stop, "StopUnit"),
        (abandon, "Abandon"),
        (dropped, "StopUnit"),
    ] {
        let (bus, server) = fake(b"OK 1\r\n", |call| {
            let mut out = answers(call);
            if is(call, "StopUnit") {
                out.push(job_removed(JOB, "done"));
            }
            out
        });
        end(Scope::of(bus)).unwrap();
        let calls = server.join().unwrap();
        assert!(calls.iter().any(|call| is(call, member)), "{member}");
    }
    // One that has ended already.
    let (bus, server) = fake(b"OK 1\r\n", |call| match is(call, "StopUnit") {
        true => vec![refusal(call, "org.freedesktop.systemd1.NoSuchUnit")],
        false => answers(call),
    });
    Scope::of(bus).stop(within).unwrap();
    server.join().unwrap();
}

impl Scope {
    /// As if it had been started.
    fn of(bus: Bus) -> Self {
        Scope {
            bus,
            name: "a.scope".into(),
            control_group: "/a.scope".into(),
            has_caller: false,
            armed: true,
        }
    }
}

#[test]
fn options_that_cannot_be_are_refused_before_anything_is_said() {
    let bus = Bus::private("/no/such/socket");
    let long = format!("{}.scope", "x".repeat(250));
    let ok = || ScopeOptions::new("a.scope").pid(1);
    for options in [
        ScopeOptions::new("a.scope"),
        ok().pid(0),
        ScopeOptions::new(".scope").pid(1),
        ScopeOptions::new("a.service").pid(1),
        ScopeOptions::new("a/b.scope").pid(1),
        ScopeOptions::new("a\n.scope").pid(1),
        ScopeOptions::new(long).pid(1),
        ok().slice("app"),
        ok().description("a\0"),
        ok().description("x".repeat(5000)),
    ] {
        let error = Scope::start(&bus, &options, Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{options:?}");
        assert_eq!(error.to_string().lines().count(), 1);
    }
    assert!(ok().slice("app-x.slice").validate().is_ok());
}
