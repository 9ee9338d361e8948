//! What is left of a server: nothing. Alone in its binary, for fds and threads are the whole process's.

#![expect(clippy::unwrap_used, reason = "a step that fails has failed the test")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_dns::{LISTEN, Scope, Server, Upstreams, bind_in};
use cofferdam_testkit::{Need, NetNs, Snapshot, have};
use common::{A, Container, addresses, framed, query, read, receive_frame, zone};

fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(usize::MAX, Iterator::count)
}

/// A thread that was joined is listed for a moment more.
fn threads_become(count: usize) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        if threads() == count {
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Clock ticks that the server's thread has run for.
fn server_ticks() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    let stats = tasks.flatten().filter_map(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        let fields = stat.split_once("(cofferdam-dns) ")?.1.to_owned();
        // utime and stime, the 14th and 15th of all.
        let times = fields.split(' ').skip(11).take(2);
        Some(
            times
                .filter_map(|time| time.parse::<u64>().ok())
                .sum::<u64>(),
        )
    });
    stats.sum()
}

#[test]
fn a_server_ends_with_its_thread_and_all_sockets_and_does_not_spin() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    nothing_is_left_of_a_server();
    a_duplicate_of_a_socket_elsewhere_does_not_keep_the_loop_busy();
    half_messages_and_idle_clients_over_tcp_keep_nobody_busy();
}

fn a_duplicate_of_a_socket_elsewhere_does_not_keep_the_loop_busy() {
    let web = NetNs::new();
    let server = Server::builder().start().unwrap();
    let (udp, tcp) = bind_in(web.as_fd(), LISTEN).unwrap();
    let twin = udp.try_clone().unwrap();
    let endpoint = server.serve(udp, tcp, Scope::new()).unwrap();
    endpoint.remove().unwrap();
    let client = web.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    client.send_to(b"for the twin alone", LISTEN).unwrap();
    let before = server_ticks();
    thread::sleep(Duration::from_millis(500));
    let ran = server_ticks() - before;
    assert!(ran < 10, "{ran} ticks for nothing");
    assert_eq!(twin.recv(&mut [0; 64]).unwrap(), 18);
}

fn nothing_is_left_of_a_server() {
    let (host, web) = (NetNs::new(), NetNs::new());
    // The harness's thread and this one.
    assert!(threads_become(2));
    let before = Snapshot::take();
    for stop in [true, false] {
        let upstreams = Upstreams::new(vec![
            "127.0.0.1:5300".parse().unwrap(),
            "127.0.0.2:5300".parse().unwrap(),
        ])
        .unwrap();
        let builder = Server::builder().upstreams(&upstreams);
        let server = host.run(|| builder.start().unwrap());
        assert!(threads_become(3));
        // Queries and connections under way, to an upstream that is silent and one that is not there.
        let silent = host.run(|| UdpSocket::bind("127.0.0.1:5300").unwrap());
        let (udp, tcp) = bind_in(web.as_fd(), LISTEN).unwrap();
        let endpoint = server.serve(udp, tcp, Scope::new()).unwrap();
        let client = web.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
        let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x07example\0\0\x01\0\x01";
        client.send_to(query, LISTEN).unwrap();
        let connection = web.run(|| std::net::TcpStream::connect(LISTEN).unwrap());
        silent.recv(&mut [0; 64]).unwrap();
        let begin = Instant::now();
        if stop {
            server.stop().unwrap();
        } else {
            drop(server);
        }
        // Sooner than the query would be given up.
        assert!(begin.elapsed() < Duration::from_secs(2));
        assert!(threads_become(2));
        drop((endpoint, silent, client, connection));
        before.assert_same("cofferdam-dns");
    }
}

fn half_messages_and_idle_clients_over_tcp_keep_nobody_busy() {
    let server = Server::builder().start().unwrap();
    let web = Container::new();
    let _endpoint = web.serve(&server, &zone("db", "10.89.0.2"));
    let whole = framed(&query(7, "db", A));
    let cuts = [0, 1, 2, 3, whole.len() - 1];
    let mut halves = Vec::new();
    for (number, &cut) in cuts.iter().cycle().take(15).enumerate() {
        let mut stream = web.tcp();
        stream.write_all(&whole[..cut]).unwrap();
        // Some end there, some only send no more, some stay.
        match number % 3 {
            0 => stream.shutdown(std::net::Shutdown::Write).unwrap(),
            1 => drop(stream.try_clone().unwrap()),
            _ => {}
        }
        halves.push((number, stream));
    }
    for (number, stream) in &mut halves {
        if *number % 3 == 0 {
            assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "{number}: closed");
        }
    }
    let before = server_ticks();
    thread::sleep(Duration::from_millis(500));
    let ran = server_ticks() - before;
    assert!(ran < 10, "{ran} ticks for nothing");
    assert_eq!(web.ask_tcp("db", A).addresses, addresses(&["10.89.0.2"]));
    // The rest of a message makes it whole.
    let (_, stream) = &mut halves[4];
    stream.write_all(&whole[cuts[4]..]).unwrap();
    assert_eq!(read(&receive_frame(stream)).id, 7);
}
