//! What a hostile container can have kept: little. Alone in its binary, for memory is the whole process's.

#![expect(clippy::unwrap_used, reason = "a step that fails has failed the test")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use cofferdam_dns::{LISTEN, Scope, Server, Upstreams, bind_in};
use cofferdam_testkit::{Need, NetNs, have};

/// Bytes of memory that this process has in use.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: usize = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib * 1024
}

/// A query of `length` bytes, most of them in a record of no meaning.
fn long_query(length: usize) -> Vec<u8> {
    let mut bytes = b"\0\x01\x01\0\0\x01\0\0\0\0\0\x01\x01a\x07example\0\0\x01\0\x01".to_vec();
    bytes.extend_from_slice(b"\0\xff\0\0\x01\0\0\0\0");
    let padding = length - bytes.len() - 2;
    bytes.extend_from_slice(&(padding as u16).to_be_bytes());
    bytes.resize(length, 0);
    bytes
}

#[test]
fn a_container_cannot_fill_the_memory() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    queries_of_clients_that_leave_do_not_pile_up();
    replies_that_are_not_read_do_not_pile_up();
}

fn replies_that_are_not_read_do_not_pile_up() {
    const REPLY: usize = 65000;
    let (host, web) = (NetNs::new(), NetNs::new());
    let (_udp, upstream) = bind_in(&host, "127.0.0.1:5302".parse().unwrap()).unwrap();
    let address = upstream.local_addr().unwrap();
    thread::spawn(move || {
        for stream in upstream.incoming() {
            thread::spawn(move || long_replies(stream.unwrap(), REPLY));
        }
    });
    let server = host.run(|| {
        Server::builder()
            .upstreams(&Upstreams::new(vec![address]).unwrap())
            .start()
            .unwrap()
    });
    let (udp, tcp) = bind_in(&web, LISTEN).unwrap();
    // What the kernel keeps for a connection is nearly nothing.
    rustix::net::sockopt::set_socket_send_buffer_size(&tcp, 4096).unwrap();
    let _endpoint = server.serve(udp, tcp, Scope::new()).unwrap();
    let mut frame = 100_u16.to_be_bytes().to_vec();
    frame.extend(long_query(100));
    let before = resident();
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let mut client = web.run(|| TcpStream::connect(LISTEN).unwrap());
            client.write_all(&frame.repeat(16)).unwrap();
            thread::sleep(Duration::from_millis(100));
            client
        })
        .collect();
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes of {} are kept", 256 * REPLY);
    drop(clients);
}

/// Replies to each query with `length` bytes.
fn long_replies(mut stream: TcpStream, length: usize) {
    let mut query = [0; 102];
    while stream.read_exact(&mut query).is_ok() {
        let mut reply = query.to_vec();
        reply[..2].copy_from_slice(&(length as u16).to_be_bytes());
        reply[4] |= 0x80;
        reply.resize(2 + length, 0);
        if stream.write_all(&reply).is_err() {
            return;
        }
    }
}

fn queries_of_clients_that_leave_do_not_pile_up() {
    let (host, web) = (NetNs::new(), NetNs::new());
    // Nobody accepts, so a further connection never stands and nothing is ever sent on it.
    let full = host.run(|| {
        let listener = TcpListener::bind("127.0.0.1:5301").unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let first = TcpStream::connect("127.0.0.1:5301").unwrap();
        (listener, first)
    });
    let address = full.0.local_addr().unwrap();
    let server = host.run(|| {
        Server::builder()
            .upstreams(&Upstreams::new(vec![address]).unwrap())
            .start()
            .unwrap()
    });
    let (udp, tcp) = bind_in(&web, LISTEN).unwrap();
    let _endpoint = server.serve(udp, tcp, Scope::new()).unwrap();
    let mut frame = 4000_u16.to_be_bytes().to_vec();
    frame.extend(long_query(4000));
    let before = resident();
    web.run(|| {
        // 32 MB.
        for _ in 0..500 {
            let mut client = TcpStream::connect(LISTEN).unwrap();
            for _ in 0..16 {
                client.write_all(&frame).unwrap();
            }
            thread::sleep(Duration::from_millis(3));
        }
    });
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes are kept");
}
