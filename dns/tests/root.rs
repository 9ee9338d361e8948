//! The resolver on a real kernel: sockets on 127.0.0.11 in namespaces of the test's own.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_dns::{LISTEN, Scope, Server, SharedZone, Zone, bind_in};
use cofferdam_testkit::{Need, NetNs, have};
use common::{
    A, AAAA, Container, Upstream, addresses, framed, query, read, receive, receive_frame,
    reply_code, reply_with, start, zone,
};
use simple_dns::RCODE;

const ONE: &str = "127.0.0.1:5301";
const TWO: &str = "127.0.0.2:5302";

#[test]
fn a_name_is_answered_over_udp_and_tcp() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let server = Server::builder().start().unwrap();
    let web = Container::new();
    let _endpoint = web.serve(&server, &zone("db", "10.89.0.2"));
    for said in [web.ask("DB", A), web.ask_tcp("db", A)] {
        assert_eq!(said.rcode, RCODE::NoError);
        assert_eq!(said.addresses, addresses(&["10.89.0.2"]));
    }
    for said in [web.ask("db", AAAA), web.ask_tcp("db", AAAA)] {
        assert_eq!((said.rcode, said.addresses.len()), (RCODE::NoError, 0));
    }
}

#[test]
fn a_change_of_the_zone_is_seen_at_once() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let server = Server::builder().start().unwrap();
    let web = Container::new();
    let zone = SharedZone::new(Zone::new());
    let _endpoint = web.serve(&server, &zone);
    assert_eq!(web.ask("db", A).rcode, RCODE::ServerFailure);
    zone.update(|zone| zone.insert("db".parse().unwrap(), "10.89.0.2".parse().unwrap()));
    assert_eq!(web.ask("db", A).addresses, addresses(&["10.89.0.2"]));
    zone.update(|zone| zone.remove_address("10.89.0.2".parse().unwrap()));
    assert_eq!(web.ask("db", A).rcode, RCODE::ServerFailure);
}

#[test]
fn two_networks_do_not_see_each_others_names() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let server = Server::builder().start().unwrap();
    let (front, back) = (zone("web", "10.1.0.2"), zone("db", "10.2.0.2"));
    let (web, db, both) = (Container::new(), Container::new(), Container::new());
    let _web = web.serve(&server, &front);
    let _db = db.serve(&server, &back);
    let endpoint = both.serve(&server, Scope::new().zone(&front).zone(&back));
    assert_eq!(web.ask("web", A).addresses, addresses(&["10.1.0.2"]));
    assert_eq!(web.ask("db", A).rcode, RCODE::ServerFailure);
    assert_eq!(db.ask("db", A).addresses, addresses(&["10.2.0.2"]));
    assert_eq!(db.ask("web", A).rcode, RCODE::ServerFailure);
    assert_eq!(both.ask("web", A).addresses, addresses(&["10.1.0.2"]));
    assert_eq!(both.ask("db", A).addresses, addresses(&["10.2.0.2"]));
    endpoint.set_scope(&back).unwrap();
    assert_eq!(both.ask("web", A).rcode, RCODE::ServerFailure);
}

#[test]
fn other_names_are_forwarded_under_an_id_that_nobody_knows() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let upstream = Upstream::new(&host, ONE, |query| vec![reply_with(query, [192, 0, 2, 1])]);
    let server = start(&host, &[ONE]);
    let web = Container::new();
    let _endpoint = web.serve(&server, &zone("db", "10.89.0.2"));
    for _ in 0..20 {
        let said = web.ask("Example.COM", A);
        assert_eq!(said.addresses, addresses(&["192.0.2.1"]));
    }
    let seen = upstream.seen.lock().unwrap();
    let mut ids: Vec<_> = seen.iter().map(|query| [query[0], query[1]]).collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() >= 19, "{ids:?}");
    assert!(
        seen.iter()
            .all(|q| q[2..] == query(0, "Example.COM", A)[2..])
    );
    let mut ports: Vec<_> = upstream
        .peers
        .lock()
        .unwrap()
        .iter()
        .map(SocketAddr::port)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 8, "a pool of eight ports: {ports:?}");
}

#[test]
fn names_of_the_zone_never_reach_an_upstream() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let upstream = Upstream::new(&host, ONE, |query| vec![reply_code(query, 3)]);
    let server = start(&host, &[ONE]);
    let web = Container::new();
    let _endpoint = web.serve(&server, &zone("db", "10.89.0.2"));
    for qtype in [A, AAAA, 2, 5, 6, 12, 15, 16, 33, 64, 65, 255] {
        let said = web.ask("db", qtype);
        assert_eq!(said.rcode, RCODE::NoError, "type {qtype}");
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn an_internal_network_gets_nothing_forwarded() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let upstream = Upstream::new(&host, ONE, |query| vec![reply_with(query, [192, 0, 2, 1])]);
    let server = start(&host, &[ONE]);
    let db = Container::new();
    let endpoint = db.serve(&server, Scope::from(&zone("db", "10.89.0.2")).internal());
    assert_eq!(db.ask("secret.example.com", A).rcode, RCODE::NameError);
    assert_eq!(db.ask_tcp("secret.example.com", A).rcode, RCODE::NameError);
    assert_eq!(db.ask("db", A).addresses, addresses(&["10.89.0.2"]));
    assert_eq!(upstream.count(), 0);
    endpoint.set_scope(Scope::new()).unwrap();
    assert_eq!(
        db.ask("example.com", A).addresses,
        addresses(&["192.0.2.1"])
    );
}

#[test]
fn a_silent_first_upstream_is_paid_for_once_and_used_again_when_it_is_back() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let silent = Upstream::new(&host, ONE, |_| Vec::new());
    let _second = Upstream::new(&host, TWO, |query| vec![reply_with(query, [192, 0, 2, 2])]);
    let server = start(&host, &[ONE, TWO]);
    let web = Container::new();
    let _endpoint = web.serve(&server, Scope::new());
    let begin = Instant::now();
    assert_eq!(web.ask("a.example", A).addresses, addresses(&["192.0.2.2"]));
    let first = begin.elapsed();
    assert!(first > Duration::from_millis(700), "{first:?}");
    for _ in 0..20 {
        assert_eq!(web.ask("b.example", A).addresses, addresses(&["192.0.2.2"]));
    }
    // The query that it was silent to, and copies of later ones after 0, 1, 3, 7, 15 seconds.
    let asked = silent.count();
    assert!((2..10).contains(&asked), "{asked} of 21");
    drop(silent);
    let _back = Upstream::new(&host, ONE, |query| vec![reply_with(query, [192, 0, 2, 1])]);
    let begin = Instant::now();
    while web.ask("c.example", A).addresses != addresses(&["192.0.2.1"]) {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "it is never asked again"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_next_upstream_is_asked_at_once_where_one_refuses_or_is_not_there() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for code in [None, Some(2), Some(5)] {
        // Had it waited, no attempt would be quick; on a busy machine one may be slow.
        let quick = |_| falls_over_in(code) < Duration::from_millis(700);
        assert!((0..10).any(quick), "{code:?}");
    }
}

/// How long a query over UDP and one over TCP take together where the first of two upstreams says `code`, or is not
/// there.
fn falls_over_in(code: Option<u8>) -> Duration {
    let host = NetNs::new();
    let first = |code| Upstream::new(&host, ONE, move |query| vec![reply_code(query, code)]);
    let _first = code.map(first);
    let _second = Upstream::new(&host, TWO, |query| vec![reply_with(query, [192, 0, 2, 2])]);
    let server = start(&host, &[ONE, TWO]);
    let web = Container::new();
    let _endpoint = web.serve(&server, Scope::new());
    let expected = addresses(&["192.0.2.2"]);
    let begin = Instant::now();
    assert_eq!(web.ask("a.example", A).addresses, expected, "{code:?}");
    assert_eq!(web.ask_tcp("a.example", A).addresses, expected, "{code:?}");
    begin.elapsed()
}

#[test]
fn what_all_upstreams_refuse_is_passed_on() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let _upstream = Upstream::new(&host, ONE, |query| vec![reply_code(query, 5)]);
    let server = start(&host, &[ONE]);
    let web = Container::new();
    let _endpoint = web.serve(&server, Scope::new());
    assert_eq!(web.ask("a.example", A).rcode, RCODE::Refused);
}

#[test]
fn a_refusal_too_long_to_keep_is_servfail() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let _upstream = Upstream::new(&host, ONE, |query| vec![padded(reply_code(query, 5), 4097)]);
    let server = start(&host, &[ONE]);
    let web = Container::new();
    let _endpoint = web.serve(&server, Scope::new());
    assert_eq!(web.ask("a.example", A).rcode, RCODE::ServerFailure);
}

#[test]
fn silence_of_all_upstreams_is_servfail_before_a_client_gives_up() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for upstreams in [&[ONE][..], &[ONE, TWO]] {
        let host = NetNs::new();
        let silent: Vec<_> = upstreams
            .iter()
            .map(|address| Upstream::new(&host, address, |_| Vec::new()))
            .collect();
        let server = start(&host, upstreams);
        let web = Container::new();
        let _endpoint = web.serve(&server, Scope::new());
        let begin = Instant::now();
        assert_eq!(web.ask("a.example", A).rcode, RCODE::ServerFailure);
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        let asked: usize = silent.iter().map(Upstream::count).sum();
        assert_eq!(asked, 3, "three tries");
        if upstreams.len() == 1 {
            assert_eq!(web.ask_tcp("a.example", A).rcode, RCODE::ServerFailure);
        }
    }
}

#[test]
fn a_late_reply_to_the_first_try_still_counts() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let _slow = Upstream::new(&host, ONE, |query| {
        thread::sleep(Duration::from_millis(1100));
        vec![reply_with(query, [192, 0, 2, 1])]
    });
    let _silent = Upstream::new(&host, TWO, |_| Vec::new());
    let server = start(&host, &[ONE, TWO]);
    let web = Container::new();
    let _endpoint = web.serve(&server, Scope::new());
    // A reply to the third try, 1.6 seconds after the first, would come too late.
    assert_eq!(web.ask("a.example", A).addresses, addresses(&["192.0.2.1"]));
}

#[test]
fn a_guessed_reply_is_ignored() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let upstream = Upstream::new(&host, ONE, |asked| {
        let evil = [203, 0, 113, 66];
        let mut wrong_id = reply_with(asked, evil);
        wrong_id[0] ^= 0xff;
        let id = u16::from_be_bytes([asked[0], asked[1]]);
        let wrong_name = reply_with(&query(id, "b.example", A), evil);
        let wrong_type = reply_with(&query(id, "a.example", AAAA), evil);
        let mut no_reply = reply_with(asked, evil);
        no_reply[2] &= 0x7f;
        let cut = reply_with(asked, evil)[..20].to_vec();
        let honest = reply_with(asked, [192, 0, 2, 1]);
        vec![
            wrong_id,
            wrong_name,
            wrong_type,
            no_reply,
            cut,
            vec![],
            honest,
        ]
    });
    let server = start(&host, &[ONE]);
    let web = Container::new();
    let _endpoint = web.serve(&server, Scope::new());
    for _ in 0..10 {
        assert_eq!(web.ask("a.example", A).addresses, addresses(&["192.0.2.1"]));
    }
    assert_eq!(upstream.count(), 10);
}

#[test]
fn a_reply_from_another_address_is_ignored() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let silent = Upstream::new(&host, ONE, |_| Vec::new());
    let server = start(&host, &[ONE]);
    let web = Container::new();
    let _endpoint = web.serve(&server, Scope::new());
    let socket = web.udp();
    socket.send(&query(7, "a.example", A)).unwrap();
    wait_for(|| silent.count() > 0);
    let (asked, peer) = (
        silent.seen.lock().unwrap()[0].clone(),
        silent.peers.lock().unwrap()[0],
    );
    host.run(|| {
        let spoofer = UdpSocket::bind("127.0.0.3:5301").unwrap();
        spoofer
            .send_to(&reply_with(&asked, [203, 0, 113, 66]), peer)
            .unwrap();
    });
    assert_eq!(read(&receive(&socket)).rcode, RCODE::ServerFailure);
}

#[test]
fn what_is_too_long_for_udp_comes_over_tcp() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    // An upstream that ignores what its client can take.
    let _upstream = Upstream::new(&host, ONE, |query| {
        let mut reply = reply_with(query, [192, 0, 2, 1]);
        let record = reply[reply.len() - 16..].to_vec();
        for _ in 1..100 {
            reply.extend_from_slice(&record);
        }
        reply[7] = 100;
        vec![reply]
    });
    let server = start(&host, &[ONE]);
    let web = Container::new();
    let _endpoint = web.serve(&server, Scope::new());
    let said = web.ask("a.example", A);
    assert!(said.truncated && said.addresses.is_empty(), "{said:?}");
    let said = web.ask_tcp("a.example", A);
    assert_eq!((said.truncated, said.addresses.len()), (false, 100));
}

#[test]
fn tcp_queries_share_few_connections_to_an_upstream() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let (_udp, listener) = bind_in(host.as_fd(), ONE.parse().unwrap()).unwrap();
    // Nothing is said on a connection before all queries have come, and then last things first.
    let come = Arc::new(AtomicUsize::new(0));
    let converse = move |mut stream: TcpStream| {
        stream
            .set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        let mut queries = Vec::new();
        while come.load(Ordering::Relaxed) < 10 {
            if stream.peek(&mut [0; 2]).is_ok_and(|size| size > 0) {
                queries.push(receive_frame(&mut stream));
                come.fetch_add(1, Ordering::Relaxed);
            }
        }
        for query in queries.iter().rev() {
            let reply = framed(&reply_with(query, [192, 0, 2, query[13] - b'0']));
            stream.write_all(&reply[..5]).unwrap();
            stream.write_all(&reply[5..]).unwrap();
        }
        queries.len()
    };
    let upstream = thread::spawn(move || {
        let streams = (0..4).map(|_| listener.accept().unwrap().0);
        let threads: Vec<_> = streams
            .map(|stream| {
                thread::spawn({
                    let converse = converse.clone();
                    move || converse(stream)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum::<usize>()
    });
    let server = start(&host, &[ONE]);
    let web = Container::new();
    let _endpoint = web.serve(&server, Scope::new());
    let mut streams: Vec<_> = (0..10).map(|_| web.tcp()).collect();
    for (id, stream) in (0..).zip(&mut streams) {
        let query = query(id, &id.to_string(), A);
        stream.write_all(&framed(&query)).unwrap();
    }
    for (id, stream) in (0..).zip(&mut streams) {
        let said = read(&receive_frame(stream));
        let expected = format!("192.0.2.{id}");
        assert_eq!((said.id, said.addresses), (id, addresses(&[&expected])));
    }
    assert_eq!(upstream.join().unwrap(), 10);
}

#[test]
fn a_connection_to_an_upstream_that_brings_no_reply_makes_way_for_another() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let (_udp, listener) = bind_in(&host, ONE.parse().unwrap()).unwrap();
    let upstream = thread::spawn(move || {
        let silent = listener.accept().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let query = receive_frame(&mut stream);
        let reply = reply_with(&query, [192, 0, 2, 1]);
        stream.write_all(&framed(&reply)).unwrap();
        silent
    });
    let server = start(&host, &[ONE]);
    let web = Container::new();
    let _endpoint = web.serve(&server, Scope::new());
    assert_eq!(web.ask_tcp("a.example", A).rcode, RCODE::ServerFailure);
    let said = web.ask_tcp("b.example", A);
    assert_eq!(said.addresses, addresses(&["192.0.2.1"]));
    let (mut silent, _) = upstream.join().unwrap();
    receive_frame(&mut silent);
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0, "closed, with no more");
}

#[test]
fn an_upstream_that_leads_back_here_ends_in_servfail() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let server = start(&host, &[ONE]);
    let (udp, tcp) = bind_in(host.as_fd(), ONE.parse().unwrap()).unwrap();
    let _gateway = server.serve(udp, tcp, Scope::new()).unwrap();
    let web = Container::new();
    let _endpoint = web.serve(&server, Scope::new());
    assert_eq!(web.ask("a.example", A).rcode, RCODE::ServerFailure);
    // There and back, not round and round until some limit ends it.
    let datagrams = host.run(udp_datagrams_in);
    assert!((2..=6).contains(&datagrams), "{datagrams}");
}

/// Datagrams that this thread's namespace has received.
fn udp_datagrams_in() -> u64 {
    let table = fs::read_to_string("/proc/thread-self/net/snmp").unwrap_or_default();
    let mut rows = table.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let values = rows.next_back().unwrap_or_default();
    let first = values.split(' ').next().unwrap_or_default();
    first.parse().unwrap_or(0)
}

#[test]
fn removal_closes_the_sockets_before_it_returns() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let server = Server::builder().start().unwrap();
    let web = Container::new();
    for _ in 0..20 {
        let endpoint = web.serve(&server, &zone("db", "10.89.0.2"));
        let _open = web.tcp();
        assert_eq!(web.ask("db", A).rcode, RCODE::NoError);
        endpoint.remove().unwrap();
        web.netns.run(|| {
            assert!(UdpSocket::bind(LISTEN).is_ok());
            assert_eq!(listeners("udp"), 0);
            assert!(TcpStream::connect(LISTEN).is_err());
        });
    }
}

/// Sockets on port 53 that the kernel lists in this thread's namespace, connections left aside.
fn listeners(protocol: &str) -> usize {
    let table = fs::read_to_string(format!("/proc/thread-self/net/{protocol}"));
    let bound = |line: &&str| line.contains(" 0B00007F:0035 00000000:0000 ");
    table.map_or(usize::MAX, |table| table.lines().filter(bound).count())
}

#[test]
fn one_container_goes_and_the_others_stay() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let server = Server::builder().start().unwrap();
    let zone = zone("db", "10.89.0.2");
    let (one, two) = (Container::new(), Container::new());
    let first = one.serve(&server, &zone);
    let _second = two.serve(&server, &zone);
    drop(first);
    assert_eq!(two.ask("db", A).rcode, RCODE::NoError);
    let _again = one.serve(&server, &zone);
    assert_eq!(one.ask("db", A).rcode, RCODE::NoError);
}

#[test]
fn silent_tcp_clients_block_nobody() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let server = Server::builder().start().unwrap();
    let web = Container::new();
    let _endpoint = web.serve(&server, &zone("db", "10.89.0.2"));
    let begin = Instant::now();
    let mut silent: Vec<_> = (0..40).map(|_| web.tcp()).collect();
    for stream in silent.iter_mut().take(20) {
        // Half a query, where the connection still stands.
        let _closed = stream.write_all(&[0, 20, 1]).is_err();
    }
    assert_eq!(web.ask("db", A).rcode, RCODE::NoError);
    assert_eq!(web.ask_tcp("db", A).rcode, RCODE::NoError);
    // The first has made way: sixteen at most stay.
    let first = silent[0].read(&mut [0; 1]);
    assert!(matches!(first, Ok(0) | Err(_)), "{first:?}");
    let last = silent[39].read(&mut [0; 1]);
    assert!(matches!(last, Ok(0)), "{last:?}");
    let idle = begin.elapsed();
    assert!(idle > Duration::from_secs(9), "{idle:?}");
}

#[test]
fn queries_on_one_connection_may_come_in_pieces_and_in_bulk() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let _upstream = Upstream::new(&host, ONE, |query| vec![reply_with(query, [192, 0, 2, 1])]);
    let server = start(&host, &[ONE]);
    let web = Container::new();
    let _endpoint = web.serve(&server, &zone("db", "10.89.0.2"));
    let mut stream = web.tcp();
    stream.set_nodelay(true).unwrap();
    for byte in framed(&query(1, "db", A)) {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(read(&receive_frame(&mut stream)).id, 1);
    // Enough that some wait for the connection's share of upstream queries, then no more is sent.
    let mut bulk = Vec::new();
    for id in 0..60 {
        let name = if id % 2 == 0 { "db" } else { "a.example" };
        bulk.extend_from_slice(&framed(&query(id, name, A)));
    }
    stream.write_all(&bulk).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut ids = Vec::new();
    for _ in 0..60 {
        let said = read(&receive_frame(&mut stream));
        let expected = if said.id % 2 == 0 {
            "10.89.0.2"
        } else {
            "192.0.2.1"
        };
        assert_eq!(said.addresses, addresses(&[expected]));
        ids.push(said.id);
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..60).collect::<Vec<_>>());
    assert_eq!(
        stream.read(&mut [0; 1]).unwrap(),
        0,
        "closed after the last reply"
    );
}

#[test]
fn a_client_that_reads_no_replies_is_not_read_either() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let server = Server::builder().start().unwrap();
    let web = Container::new();
    let mut many = Zone::new();
    for last in 1..=200 {
        let address = format!("10.89.0.{last}").parse().unwrap();
        many.insert("db".parse().unwrap(), address);
    }
    let _endpoint = web.serve(&server, &SharedZone::new(many));
    let mut stream = web.tcp();
    let patience = Some(Duration::from_millis(500));
    stream.set_write_timeout(patience).unwrap();
    let frame = framed(&query(1, "db", A));
    let sent = (0..2_000_000).take_while(|_| stream.write_all(&frame).is_ok());
    assert!(sent.count() < 1_999_999, "everything is taken and kept");
    assert_eq!(web.ask("db", AAAA).rcode, RCODE::NoError);
}

#[test]
fn a_query_too_long_to_be_one_is_dropped() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let upstream = Upstream::new(&host, ONE, |query| vec![reply_code(query, 3)]);
    let server = start(&host, &[ONE]);
    let web = Container::new();
    let _endpoint = web.serve(&server, Scope::new());
    let socket = web.udp();
    for length in [60000, 4097, 4096] {
        let query = padded(query(length, "a.example", A), length.into());
        socket.send(&query).unwrap();
    }
    assert_eq!(read(&receive(&socket)).id, 4096);
    let seen = upstream.seen.lock().unwrap();
    let lengths: Vec<_> = seen.iter().map(Vec::len).collect();
    assert_eq!(lengths, [4096]);
}

/// A query made `length` bytes long by a record of no meaning.
fn padded(mut query: Vec<u8>, length: usize) -> Vec<u8> {
    query[11] = 1;
    query.extend_from_slice(b"\0\xff\0\0\x01\0\0\0\0");
    let padding = length - query.len() - 2;
    query.extend_from_slice(&(padding as u16).to_be_bytes());
    query.resize(length, 0);
    query
}

#[test]
fn one_containers_flood_leaves_room_for_another() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let good = query(0, "good.example", A)[2..].to_vec();
    let upstream = Upstream::new(&host, ONE, move |query| {
        let replies = (query[2..] == good).then(|| reply_with(query, [192, 0, 2, 1]));
        replies.into_iter().collect()
    });
    let server = start(&host, &[ONE]);
    let (flooder, web) = (Container::new(), Container::new());
    let _flooder = flooder.serve(&server, Scope::new());
    let _web = web.serve(&server, Scope::new());
    let socket = flooder.udp();
    for id in 0..300 {
        let name = format!("bad{id}.example");
        socket.send(&query(id, &name, A)).unwrap();
        if id % 50 == 49 {
            wait_for(|| upstream.questions() >= usize::from(id + 1).min(256));
        }
    }
    // What is too much is told at once, before anything that waits.
    for id in 256..300 {
        let said = read(&receive(&socket));
        assert_eq!((said.id, said.rcode), (id, RCODE::ServerFailure));
    }
    assert_eq!(
        web.ask("good.example", A).addresses,
        addresses(&["192.0.2.1"])
    );
    for _ in 0..256 {
        assert_eq!(read(&receive(&socket)).rcode, RCODE::ServerFailure);
    }
    assert_eq!(flooder.ask("good.example", A).rcode, RCODE::NoError);
    assert_eq!(upstream.questions(), 256 + 1);
}

fn wait_for(mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(10));
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn one_containers_flood_over_tcp_leaves_room_for_another() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let (_udp, listener) = bind_in(&host, ONE.parse().unwrap()).unwrap();
    let good = query(0, "good.example", A)[2..].to_vec();
    let bad = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&bad);
    let converse = move |mut stream: TcpStream| {
        while stream.peek(&mut [0; 2]).is_ok_and(|size| size > 0) {
            let query = receive_frame(&mut stream);
            if query[2..] == good {
                let reply = reply_with(&query, [192, 0, 2, 1]);
                stream.write_all(&framed(&reply)).unwrap();
            } else {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    // It ends with the connections, of which there are four.
    let upstream = thread::spawn(move || {
        let streams = (0..4).map(|_| listener.accept().unwrap().0);
        let talks: Vec<_> = streams
            .map(|stream| {
                thread::spawn({
                    let converse = converse.clone();
                    move || converse(stream)
                })
            })
            .collect();
        talks.into_iter().for_each(|talk| talk.join().unwrap());
    });
    let server = start(&host, &[ONE]);
    let (flooder, web) = (Container::new(), Container::new());
    let _flooder = flooder.serve(&server, Scope::new());
    let _web = web.serve(&server, Scope::new());
    // As many as sixteen connections may have under way.
    let bulk = framed(&query(7, "bad.example", A)).repeat(16);
    let mut streams: Vec<_> = (0..16).map(|_| flooder.tcp()).collect();
    for stream in &mut streams {
        stream.write_all(&bulk).unwrap();
    }
    // The first four have the container's share; the others are told at once.
    for stream in &mut streams[4..] {
        for _ in 0..16 {
            assert_eq!(read(&receive_frame(stream)).rcode, RCODE::ServerFailure);
        }
    }
    let said = web.ask_tcp("good.example", A);
    assert_eq!(said.addresses, addresses(&["192.0.2.1"]));
    for stream in &mut streams[..4] {
        for _ in 0..16 {
            assert_eq!(read(&receive_frame(stream)).rcode, RCODE::ServerFailure);
        }
    }
    drop(server);
    upstream.join().unwrap();
    // Once each, and once more at most on a new connection.
    let bad = bad.load(Ordering::Relaxed);
    assert!((64..=128).contains(&bad), "{bad} of 256");
}

#[test]
fn an_address_in_use_is_told_by_name() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let _held = bind_in(&netns, LISTEN).unwrap();
    let error = bind_in(&netns, LISTEN).unwrap_err();
    assert_eq!(
        error.to_string(),
        "bind udp 127.0.0.11:53: EADDRINUSE: Address already in use"
    );
    let file = fs::File::open("/proc/thread-self/ns/mnt").unwrap();
    let error = bind_in(file, LISTEN).unwrap_err();
    assert_eq!(error.kind(), cofferdam_dns::ErrorKind::InvalidInput);
}
