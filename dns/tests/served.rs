//! Many containers at one server: what it counts and tells of their queries, and that they come and go without harm.

#![expect(clippy::unwrap_used, reason = "a step that fails has failed the test")]

mod common;

use std::net::{IpAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_dns::{Fate, LISTEN, Scope, Server, SharedZone, bind_in};
use cofferdam_testkit::{Need, NetNs, have, is_emulated};
use common::{A, AAAA, Container, Upstream, query, read, receive, reply_code, reply_with, zone};
use simple_dns::RCODE;

#[test]
fn what_became_of_queries_is_counted_for_each_container() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let upstream = Upstream::new(&host, "127.0.0.53:53", |query| {
        let is_good = query[13..].starts_with(b"good");
        let reply = if is_good {
            reply_with(query, [192, 0, 2, 1])
        } else {
            reply_code(query, 2)
        };
        vec![reply]
    });
    let server = common::start(&host, &["127.0.0.53:53"]);
    let names = zone("db", "10.89.0.2");
    let (web, inside) = (Container::new(), Container::new());
    let of_web = web.serve(&server, &names);
    let of_inside = inside.serve(&server, Scope::from(&names).internal());

    web.ask("db", A);
    web.ask_tcp("db", AAAA);
    assert_eq!(web.ask("good.example", A).rcode, RCODE::NoError);
    assert_eq!(web.ask("bad.example", A).rcode, RCODE::ServerFailure);
    let socket = web.udp();
    socket.send(b"no query").unwrap();
    let mut two_questions = query(7, "db", A);
    two_questions[5] = 2;
    socket.send(&two_questions).unwrap();
    assert_eq!(read(&receive(&socket)).rcode, RCODE::FormatError);
    let now = of_web.counters();
    assert_eq!((now.queries, now.local, now.forwarded), (6, 2, 2));
    assert_eq!((now.denied, now.failed, now.malformed), (0, 1, 2));

    assert_eq!(inside.ask("good.example", A).rcode, RCODE::NameError);
    let now = of_inside.counters();
    assert_eq!((now.queries, now.denied, now.forwarded), (1, 1, 0));
    // Replies to all that was forwarded have come.
    assert!(upstream.count() >= 2);
}

#[test]
fn each_query_is_told_of_with_who_asked_and_what_becomes_of_it() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let told = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&told);
    let builder = Server::builder().query_log(move |logged| {
        let line = format!(
            "{} {} {} {:?}",
            logged.endpoint, logged.name, logged.qtype, logged.fate
        );
        to.lock().unwrap().push(line);
    });
    let server = builder.start().unwrap();
    let (web, inside) = (Container::new(), Container::new());
    let of_web = web.serve(&server, &zone("db", "10.89.0.2"));
    let of_inside = inside.serve(&server, Scope::new().internal());
    web.ask("dB", A);
    web.ask_tcp("elsewhere.example", AAAA);
    inside.ask("db", A);
    let (web, inside) = (of_web.id(), of_inside.id());
    assert_ne!(web, inside);
    let expected = [
        format!("{web} dB. 1 {:?}", Fate::Local),
        format!("{web} elsewhere.example. 28 {:?}", Fate::Forwarded),
        format!("{inside} db. 1 {:?}", Fate::Denied),
    ];
    assert_eq!(*told.lock().unwrap(), expected);
}

#[test]
fn workers_share_the_containers_and_all_end() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let builder = Server::builder().workers(NonZeroUsize::new(3).unwrap());
    let server = builder.start().unwrap();
    let names = zone("db", "10.89.0.2");
    let containers: Vec<_> = (0..4).map(|_| Container::new()).collect();
    let endpoints: Vec<_> = containers
        .iter()
        .map(|c| c.serve(&server, &names))
        .collect();
    for (container, endpoint) in containers.iter().zip(&endpoints) {
        assert_eq!(container.ask("db", A).addresses.len(), 1);
        assert_eq!(endpoint.counters().local, 1);
    }
    names.update(|zone| zone.remove_name(&"db".parse().unwrap()));
    for container in &containers {
        assert_eq!(container.ask("db", A).rcode, RCODE::ServerFailure);
    }
    for endpoint in endpoints {
        endpoint.remove().unwrap();
    }
    server.stop().unwrap();

    let too_many = NonZeroUsize::new(65).unwrap();
    let error = Server::builder().workers(too_many).start().unwrap_err();
    assert_eq!(error.to_string(), r#"workers "65": is more than 64"#);
}

/// While clients ask all the time, containers join, are found under their names, and leave.
#[test]
fn containers_come_and_go_without_a_wrong_answer() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let server = Server::builder()
        .workers(NonZeroUsize::new(2).unwrap())
        .start()
        .unwrap();
    let zone = zone("db", "10.89.0.2");
    let clients: Vec<_> = (0..4).map(|_| Container::new()).collect();
    let _endpoints: Vec<_> = clients.iter().map(|c| c.serve(&server, &zone)).collect();
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let load: Vec<_> = clients
            .iter()
            .map(|c| scope.spawn(|| ask_until(&end, &c.udp())))
            .collect();
        let joined = join_and_leave(&server, &zone, &clients[0].udp());
        end.store(true, Ordering::Relaxed);
        assert!(
            joined > if is_emulated() { 10 } else { 100 },
            "{joined} joined"
        );
        for load in load {
            assert!(load.join().unwrap() > joined / 4);
        }
    });
    assert!(server.stop().is_ok());
}

/// Asks for a name that is always there, and for one that never is. Returns how often.
fn ask_until(end: &AtomicBool, socket: &UdpSocket) -> usize {
    let mut count = 0;
    while !end.load(Ordering::Relaxed) {
        for (name, there) in [("db", true), ("nobody", false)] {
            socket.send(&query(count as u16, name, A)).unwrap();
            let said = read(&receive(socket));
            assert_eq!(
                (said.id, said.addresses.len()),
                (count as u16, usize::from(there))
            );
        }
        count += 1;
    }
    count
}

fn join_and_leave(server: &Server, zone: &SharedZone, client: &UdpSocket) -> usize {
    let netns = NetNs::new();
    let begin = Instant::now();
    let mut joined = 0_usize;
    while begin.elapsed() < Duration::from_secs(2) {
        let name = format!("c{joined}").parse().unwrap();
        let address = IpAddr::from([10, 90, (joined >> 8) as u8, joined as u8]);
        let (udp, tcp) = bind_in(&netns, LISTEN).unwrap();
        let endpoint = server.serve(udp, tcp, zone).unwrap();
        zone.update(|zone| zone.insert(name, address));
        assert_eq!(found(client, joined), [address]);
        zone.update(|zone| zone.remove_address(address));
        assert!(found(client, joined).is_empty());
        endpoint.remove().unwrap();
        joined += 1;
    }
    joined
}

fn found(client: &UdpSocket, number: usize) -> Vec<IpAddr> {
    client
        .send(&query(number as u16, &format!("c{number}"), A))
        .unwrap();
    let said = read(&receive(client));
    assert_eq!(said.id, number as u16);
    said.addresses
}

#[test]
fn a_log_that_panics_ends_nobodys_service() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let builder = Server::builder().query_log(|_| std::panic::resume_unwind(Box::new(())));
    let server = builder.start().unwrap();
    let web = Container::new();
    let _endpoint = web.serve(&server, &zone("db", "10.89.0.2"));
    for _ in 0..3 {
        assert_eq!(web.ask("db", A).addresses.len(), 1);
    }
    server.stop().unwrap();
}
