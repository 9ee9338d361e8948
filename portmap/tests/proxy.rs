//! Ports led by the proxy: real connections in network namespaces of each test's own.

#![expect(
    clippy::unwrap_used,
    reason = "fixtures panic where they cannot do their work"
)]

use std::fs;
use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_portmap::{ErrorKind, PortSpec, Portmap, Proxy};
use cofferdam_testkit::{Need, NetNs, have, turns};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LONG: Duration = Duration::from_secs(20);

/// One test at a time, first of all: they count the process's descriptors, threads and CPU time, and one leaves it no descriptor.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spec(text: &str) -> PortSpec {
    text.parse().unwrap()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Threads of proxies.
fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm"));
    tasks
        .filter_map(|task| name(task.unwrap()).ok())
        .filter(|name| name == "portmap-proxy\n")
        .count()
}

/// CPU time of all threads of this process.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Panics if the process does anything but wait for a while.
fn nothing_spins(what: &str) {
    let before = cpu();
    thread::sleep(Duration::from_millis(300));
    let used = cpu() - before;
    assert!(
        used < Duration::from_millis(60),
        "{what}: {used:?} in 300 ms"
    );
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn listen(netns: &NetNs, at: &str) -> TcpListener {
    netns.run(|| TcpListener::bind(at)).unwrap()
}

fn dial(netns: &NetNs, at: &str) -> TcpStream {
    let to: SocketAddr = at.parse().unwrap();
    let stream = netns.run(|| TcpStream::connect_timeout(&to, LONG)).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.set_write_timeout(Some(LONG)).unwrap();
    stream
}

/// Bytes that are different for each seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_ne_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sends back what comes, until the stream ends, on a thread for each connection.
fn echo(listener: &TcpListener, connections: usize) {
    thread::scope(|scope| {
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().unwrap();
            scope.spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    stream.write_all(&buffer[..length]).unwrap();
                }
            });
        }
    });
}

#[test]
fn many_connections_at_once_get_their_own_bytes_both_ways() {
    let _alone = alone();
    if !have(&[Need::Namespaces]) {
        return;
    }
    let (netns, many) = (NetNs::new(), turns(200, 40));
    let listener = listen(&netns, "127.0.0.1:80");
    let proxy = netns.run(|| Proxy::builder().start()).unwrap();
    let _proxied = proxy.publish(&spec("[::1]:8080:80"), LOCALHOST).unwrap();
    let length = 300_000;
    thread::scope(|scope| {
        scope.spawn(|| echo(&listener, many));
        for seed in 0..many as u64 {
            let mut client = dial(&netns, "[::1]:8080");
            scope.spawn(move || {
                let sent = noise(seed, length);
                let mut writing = client.try_clone().unwrap();
                thread::scope(|scope| {
                    scope.spawn(|| {
                        writing.write_all(&sent).unwrap();
                        writing.shutdown(Shutdown::Write).unwrap();
                    });
                    let mut got = Vec::new();
                    client.read_to_end(&mut got).unwrap();
                    assert!(got == sent, "connection {seed} got {} bytes", got.len());
                });
            });
        }
    });
    eventually("all have ended", || proxy.stats().open == 0);
    let stats = proxy.stats();
    assert_eq!(stats.accepted, many as u64);
    assert_eq!(stats.to_target, (many * length) as u64);
    assert_eq!(stats.to_client, (many * length) as u64);
    assert_eq!((stats.unreachable, stats.accept_errors), (0, 0));
    proxy.stop().unwrap();
}

#[test]
fn the_end_of_one_stream_is_passed_on_and_the_other_goes_on() {
    let _alone = alone();
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let listener = listen(&netns, "127.0.0.1:80");
    let proxy = netns.run(|| Proxy::builder().start()).unwrap();
    let _proxied = proxy.publish(&spec("8080:80"), LOCALHOST).unwrap();
    let mut client = dial(&netns, "127.0.0.1:8080");
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"all I have").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut got = String::new();
    server.read_to_string(&mut got).unwrap();
    assert_eq!(got, "all I have");
    nothing_spins("half closed");
    for _ in 0..3 {
        server.write_all(b"and more").unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    drop(server);
    got.clear();
    client.read_to_string(&mut got).unwrap();
    assert_eq!(got, "and more".repeat(3));
    eventually("it has ended", || proxy.stats().open == 0);
}

#[test]
fn who_reads_slowly_slows_down_who_writes_and_loses_nothing() {
    let _alone = alone();
    if !have(&[Need::Namespaces]) {
        return;
    }
    let (netns, length) = (NetNs::new(), 64 << 20);
    // Made once and repeated: what is lost or twice changes the length, or what follows.
    let sent = noise(7, 1_000_003).repeat(length / 1_000_003 + 1);
    let listener = listen(&netns, "127.0.0.1:80");
    let proxy = netns.run(|| Proxy::builder().start()).unwrap();
    let _proxied = proxy.publish(&spec("8080:80"), LOCALHOST).unwrap();
    let mut slow = dial(&netns, "127.0.0.1:8080");
    let (mut server, _) = listener.accept().unwrap();
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            server.write_all(&sent).unwrap();
            drop(server);
        });
        thread::sleep(Duration::from_millis(300));
        assert!(!writing.is_finished(), "64 MiB are somewhere");
        let moved = proxy.stats().to_client;
        nothing_spins("a client that does not read");
        assert!(proxy.stats().to_client - moved < 1 << 20);
        // Somebody else is served meanwhile.
        let mut quick = dial(&netns, "127.0.0.1:8080");
        let (mut answering, _) = listener.accept().unwrap();
        answering.write_all(b"hello").unwrap();
        quick.read_exact(&mut [0; 5]).unwrap();
        let mut got = Vec::with_capacity(length);
        slow.read_to_end(&mut got).unwrap();
        assert!(got == sent);
    });
}

#[test]
fn a_reset_is_passed_on_in_both_directions() {
    let _alone = alone();
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let listener = listen(&netns, "127.0.0.1:80");
    let proxy = netns.run(|| Proxy::builder().start()).unwrap();
    let _proxied = proxy.publish(&spec("8080:80"), LOCALHOST).unwrap();
    for resetting_side in [0, 1] {
        let client = dial(&netns, "127.0.0.1:8080");
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(LONG)).unwrap();
        let mut ends = [client, server];
        // Both ends know of each other.
        for at in [0, 1] {
            ends[at].write_all(b"x").unwrap();
            ends[1 - at].read_exact(&mut [0]).unwrap();
        }
        let [client, server] = ends;
        let (resetting, mut other) = match resetting_side {
            0 => (client, server),
            _ => (server, client),
        };
        rustix::net::sockopt::set_socket_linger(&resetting, Some(Duration::ZERO)).unwrap();
        drop(resetting);
        let error = other.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), IoErrorKind::ConnectionReset);
    }
    eventually("both have ended", || proxy.stats().open == 0);
}

#[test]
fn a_client_of_a_target_that_is_down_is_told_at_once() {
    let _alone = alone();
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let builder = Proxy::builder().connect_timeout(Duration::from_millis(300));
    let proxy = netns.run(|| builder.start()).unwrap();
    let refusing = proxy.publish(&spec("8080:80"), LOCALHOST).unwrap();
    let silent = proxy.publish(&spec("8081:81"), LOCALHOST).unwrap();
    // A listener whose backlog is full takes no more SYN.
    let full = listen(&netns, "127.0.0.1:81");
    rustix::net::listen(&full, 0).unwrap();
    let _first = dial(&netns, "127.0.0.1:81");
    for (port, at_most) in [(8080, 250), (8081, 3000)] {
        let start = Instant::now();
        let to = SocketAddr::new(LOCALHOST, port);
        let dialled = netns.run(|| TcpStream::connect(to));
        let error = dialled
            .and_then(|mut client| client.read(&mut [0]))
            .unwrap_err();
        assert_eq!(error.kind(), IoErrorKind::ConnectionReset, "{port}");
        let took = start.elapsed();
        assert!(
            took < Duration::from_millis(at_most * 10),
            "{port}: {took:?}"
        );
    }
    assert_eq!(proxy.stats().unreachable, 2);
    eventually("nobody is left", || proxy.stats().open == 0);
    nothing_spins("nobody there");
    silent.remove().unwrap();
    refusing.remove().unwrap();
}

#[test]
fn udp_clients_are_told_apart_and_answered_from_where_they_wrote_to() {
    let _alone = alone();
    if !have(&[Need::Namespaces]) {
        return;
    }
    let (netns, many) = (NetNs::new(), 100);
    let server = netns.run(|| UdpSocket::bind("127.0.0.1:53")).unwrap();
    let idle = Duration::from_millis(turns(1000, 5000) as u64);
    let builder = Proxy::builder().udp_idle(idle);
    let proxy = netns.run(|| builder.start()).unwrap();
    let _proxied = proxy.publish(&spec("5353:53/udp"), LOCALHOST).unwrap();
    let before = descriptors();
    let clients: Vec<UdpSocket> = (0..many)
        .map(|at| {
            let (from, to) = match at % 3 {
                0 => ("[::1]:0", "[::1]:5353"),
                1 => ("127.0.0.1:0", "127.0.0.1:5353"),
                // An address of the host's that is not the one it would answer from.
                _ => ("127.0.0.1:0", "127.9.9.9:5353"),
            };
            let client = netns.run(|| UdpSocket::bind(from)).unwrap();
            client.connect(to).unwrap();
            client.set_read_timeout(Some(LONG)).unwrap();
            client
        })
        .collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            server.set_read_timeout(Some(LONG)).unwrap();
            let mut buffer = [0; 2048];
            for _ in 0..2 * many {
                let (length, from) = server.recv_from(&mut buffer).unwrap();
                buffer[..length].reverse();
                server.send_to(&buffer[..length], from).unwrap();
            }
        });
        for round in 0..2 {
            for (at, client) in clients.iter().enumerate() {
                let mut wanted = noise((at * 2 + round) as u64, 1200);
                client.send(&wanted).unwrap();
                let mut got = [0; 2048];
                let length = client.recv(&mut got).unwrap();
                wanted.reverse();
                assert_eq!(got[..length], wanted);
            }
        }
    });
    // One for each, and another for each that had to wait for longer than is idle.
    let sessions = proxy.stats().sessions;
    assert!(
        (many as u64..=2 * many as u64).contains(&sessions),
        "{sessions}"
    );
    drop(clients);
    eventually("silent clients are forgotten", || descriptors() == before);
    nothing_spins("nobody there");
}

#[test]
fn more_udp_clients_than_there_may_be_push_out_the_silent_ones() {
    let _alone = alone();
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let proxy = netns.run(|| Proxy::builder().max_sessions(8).start());
    let proxy = proxy.unwrap();
    let _proxied = proxy.publish(&spec("5353:53/udp"), LOCALHOST).unwrap();
    let before = descriptors();
    for met in 1..=40 {
        let from = format!("127.0.0.1:{}", 10_000 + met); // no other's before it
        let client = netns.run(|| UdpSocket::bind(from)).unwrap();
        client.send_to(b"hello?", "127.0.0.1:5353").unwrap();
        eventually("it is met", || proxy.stats().sessions == met);
    }
    assert!(descriptors() <= before + 8, "{}", descriptors() - before);
}

#[test]
fn stopping_while_busy_leaves_no_descriptor_and_no_thread() {
    let _alone = alone();
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let listener = listen(&netns, "127.0.0.1:80");
    let before = (descriptors(), 0);
    for end in 0..3 {
        let proxy = netns.run(|| Proxy::builder().start()).unwrap();
        let proxied = proxy.publish(&spec("8080-8089:80"), LOCALHOST).unwrap();
        let port = proxied.ports()[0].host_port();
        let udp = proxy.publish(&spec("8080:80/udp"), LOCALHOST).unwrap();
        let at = format!("127.0.0.1:{port}");
        let pairs: Vec<_> = (0..20)
            .map(|_| (dial(&netns, &at), listener.accept().unwrap().0))
            .collect();
        thread::scope(|scope| {
            for (_, server) in &pairs {
                let mut server = server.try_clone().unwrap();
                scope.spawn(move || while server.write_all(&[0; 1 << 16]).is_ok() {});
            }
            eventually("they are busy", || proxy.stats().to_client > 1 << 20);
            match end {
                0 => proxy.stop().unwrap(),
                1 => drop(proxy),
                _ => {
                    proxied.remove().unwrap();
                    drop(udp);
                    return drop(proxy);
                }
            }
            udp.persist();
            proxied.remove().unwrap();
        });
        drop(pairs);
        // A thread that was joined is listed for a moment more.
        eventually("nothing is left", || (descriptors(), threads()) == before);
        listen(&netns, &at);
    }
}

#[test]
fn a_container_is_dialled_from_its_own_namespace() {
    let _alone = alone();
    if !have(&[Need::Namespaces]) {
        return;
    }
    let (netns, container) = (NetNs::new(), NetNs::new());
    let listener = listen(&container, "127.0.0.1:80");
    let fd = || container.as_fd().try_clone_to_owned().unwrap();
    let host = netns.as_fd().try_clone_to_owned().unwrap();
    let builder = Proxy::builder().dial_from(fd()).listen_in(host);
    let proxy = builder.start().unwrap();
    let _proxied = proxy.publish(&spec("[::1]:8080:80"), LOCALHOST).unwrap();
    let mut client = dial(&netns, "[::1]:8080");
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    let mine = fs::read_link("/proc/thread-self/ns/net").unwrap();
    drop(proxy);
    assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), mine);
}

#[test]
fn more_connections_than_there_may_be_wait_in_the_backlog() {
    let _alone = alone();
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let listener = listen(&netns, "127.0.0.1:80");
    let proxy = netns
        .run(|| Proxy::builder().max_connections(2).start())
        .unwrap();
    let _proxied = proxy.publish(&spec("8080:80"), LOCALHOST).unwrap();
    let mut clients: Vec<_> = (0..4).map(|_| dial(&netns, "127.0.0.1:8080")).collect();
    let servers = [listener.accept().unwrap().0, listener.accept().unwrap().0];
    nothing_spins("full");
    assert_eq!(proxy.stats().accepted, 2);
    drop(servers);
    clients.drain(..2);
    for client in &mut clients {
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
    }
    assert_eq!(proxy.stats().accepted, 4);
}

#[test]
fn out_of_descriptors_it_waits_without_spinning_and_recovers() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let _alone = alone();
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let listener = listen(&netns, "127.0.0.1:80");
    let proxy = netns.run(|| Proxy::builder().start()).unwrap();
    let _proxied = proxy.publish(&spec("8080:80"), LOCALHOST).unwrap();
    let client = netns.run(|| TcpStream::connect("127.0.0.1:8080")).unwrap();
    let (first, _) = listener.accept().unwrap();
    let second = netns.run(rustix_socket);
    let limit = getrlimit(Resource::Nofile);
    let mut low = limit;
    low.current = Some(0);
    setrlimit(Resource::Nofile, low).unwrap();
    let to: SocketAddr = "127.0.0.1:8080".parse().unwrap();
    rustix::net::connect(&second, &to).unwrap();
    let waited = std::panic::catch_unwind(|| nothing_spins("no descriptors"));
    let failed = proxy.stats().accept_errors;
    setrlimit(Resource::Nofile, limit).unwrap();
    waited.unwrap();
    assert!((1..20).contains(&failed), "{failed} failures of accept");
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"hello").unwrap();
    let mut second = TcpStream::from(second);
    second.read_exact(&mut [0; 5]).unwrap();
    drop((client, first));
}

fn rustix_socket() -> std::os::fd::OwnedFd {
    use rustix::net::{AddressFamily, SocketType, socket};
    socket(AddressFamily::INET, SocketType::STREAM, None).unwrap()
}

#[test]
fn a_listener_that_was_handed_in_and_is_shut_down_is_let_go_of() {
    let _alone = alone();
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let target = listen(&netns, "127.0.0.1:80");
    let door = listen(&netns, "127.0.0.1:8080");
    let proxy = netns.run(|| Proxy::builder().start()).unwrap();
    let to = target.local_addr().unwrap();
    let _proxied = proxy.serve(door.try_clone().unwrap(), to).unwrap();
    let _client = dial(&netns, "127.0.0.1:8080");
    target.accept().unwrap();
    rustix::net::shutdown(&door, rustix::net::Shutdown::Both).unwrap();
    nothing_spins("shut down");
    let unbound = rustix_socket();
    let error = proxy.serve(unbound, to).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn ports_are_chosen_refused_and_told() {
    let _alone = alone();
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    netns.run(|| fs::write(range, "40000 40003").unwrap());
    let reserved = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    netns.run(|| fs::write(reserved, "40001").unwrap());
    let _taken = netns.run(|| TcpListener::bind("[::1]:40002")).unwrap();
    let proxy = netns.run(|| Proxy::builder().start()).unwrap();
    let chosen = proxy.publish(&spec("80-81"), LOCALHOST).unwrap();
    let mut ports: Vec<String> = chosen.ports().iter().map(PortSpec::to_string).collect();
    ports.sort();
    assert_eq!(ports, ["40000:80/tcp", "40003:81/tcp"]);
    let error = proxy.publish(&spec("82"), LOCALHOST).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    assert_eq!(
        error.to_string(),
        "proxy 82/tcp to 127.0.0.1: no free port from 40000 to 40003 in 3 tries"
    );
    drop(chosen);
    proxy.publish(&spec("80-81"), LOCALHOST).unwrap().persist();
    let error = proxy.publish(&spec("40002:80"), LOCALHOST).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("40002/tcp"), "{error}");
    let error = proxy.publish(&spec("1:1/sctp"), LOCALHOST).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let error = proxy
        .publish(&spec("192.0.2.7:1:1"), LOCALHOST)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[test]
fn an_ordinary_user_publishes_high_ports_through_the_proxy_only() {
    let _alone = alone();
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let listener = listen(&netns, "127.0.0.1:80");
    netns.run(|| {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective = rustix::thread::CapabilitySet::empty();
        rustix::thread::set_capabilities(None, sets).unwrap();
        let error = Portmap::open("cofferdam").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("Proxy"), "{error}");
        let proxy = Proxy::builder().start().unwrap();
        let error = proxy.publish(&spec("88:80"), LOCALHOST).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(
            error.to_string().contains("ip_unprivileged_port_start"),
            "{error}"
        );
        let _proxied = proxy.publish(&spec("8080:80"), LOCALHOST).unwrap();
        let mut client = TcpStream::connect("127.0.0.1:8080").unwrap();
        listener.accept().unwrap().0.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
    });
}
