//! Who is asked for names of elsewhere: by network, by container, from another namespace, and when that changes.

mod common;

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use cofferdam_dns::{Cache, Scope, Server, Upstreams};
use cofferdam_testkit::{Need, NetNs, have};
use common::{
    A, Container, Upstream, addresses, query, read, receive, reply_with, upstreams_of, zone,
};
use simple_dns::RCODE;

fn upstream(host: &NetNs, address: &str, last: u8) -> Upstream {
    Upstream::new(host, address, move |query| {
        vec![reply_with(query, [192, 0, 2, last])]
    })
}

#[test]
fn a_scope_may_have_upstreams_of_its_own() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let (one, two) = (
        upstream(&host, "127.0.0.53:53", 1),
        upstream(&host, "127.0.0.54:53", 2),
    );
    let server = common::start(&host, &["127.0.0.53:53"]);
    let other = upstreams_of(&["127.0.0.54:53"]);
    let (web, db) = (Container::new(), Container::new());
    let names = zone("web", "10.89.0.2");
    let _of_web = web.serve(&server, &names);
    let of_db = db.serve(&server, Scope::from(&names).upstreams(&other));
    assert_eq!(web.ask("a.example", A).addresses, addresses(&["192.0.2.1"]));
    assert_eq!(db.ask("a.example", A).addresses, addresses(&["192.0.2.2"]));
    assert_eq!(
        db.ask_tcp("a.example", A).addresses,
        addresses(&["192.0.2.2"])
    );
    assert_eq!(db.ask("web", A).addresses, addresses(&["10.89.0.2"]));

    of_db.set_scope(&names).unwrap();
    assert_eq!(db.ask("a.example", A).addresses, addresses(&["192.0.2.1"]));
    of_db.set_scope(Scope::new().upstreams(&other)).unwrap();
    assert_eq!(db.ask("a.example", A).addresses, addresses(&["192.0.2.2"]));
    assert_eq!((one.count(), two.count()), (2, 3));
}

#[test]
fn upstreams_may_change_while_they_are_asked() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let (_one, _two) = (
        upstream(&host, "127.0.0.53:53", 1),
        upstream(&host, "127.0.0.54:53", 2),
    );
    let silent = Upstream::new(&host, "127.0.0.55:53", |_| Vec::new());
    let upstreams = upstreams_of(&["127.0.0.53:53"]);
    let server = host.run(|| Server::builder().upstreams(&upstreams).start().unwrap());
    let web = Container::new();
    let _endpoint = web.serve(&server, Scope::new());
    assert_eq!(web.ask("a.example", A).addresses, addresses(&["192.0.2.1"]));
    upstreams
        .set(vec!["127.0.0.54:53".parse().unwrap()])
        .unwrap();
    assert_eq!(web.ask("a.example", A).addresses, addresses(&["192.0.2.2"]));
    upstreams.set(Vec::new()).unwrap();
    assert_eq!(web.ask("a.example", A).rcode, RCODE::ServerFailure);

    // A query that waits for one that is taken away fails, and no other answers for it by chance.
    upstreams
        .set(vec!["127.0.0.55:53".parse().unwrap()])
        .unwrap();
    let socket = web.udp();
    socket.send(&query(7, "slow.example", A)).unwrap();
    while silent.count() == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    upstreams
        .set(vec!["127.0.0.53:53".parse().unwrap()])
        .unwrap();
    assert_eq!(web.ask("b.example", A).addresses, addresses(&["192.0.2.1"]));
    let said = read(&receive(&socket));
    assert_eq!((said.id, said.rcode), (7, RCODE::ServerFailure));
}

#[test]
fn upstreams_may_be_asked_from_inside_another_namespace() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let (host, inside) = (NetNs::new(), NetNs::new());
    let on_host = upstream(&host, "127.0.0.53:53", 1);
    let within = upstream(&inside, "127.0.0.53:53", 2);
    let server = common::start(&host, &["127.0.0.53:53"]);
    let netns = inside.as_fd().try_clone_to_owned().unwrap();
    let upstreams = Upstreams::new_in(netns, vec!["127.0.0.53:53".parse().unwrap()]).unwrap();
    let web = Container::new();
    let endpoint = web.serve(&server, Scope::new().upstreams(&upstreams));
    assert_eq!(web.ask("a.example", A).addresses, addresses(&["192.0.2.2"]));
    assert_eq!(
        web.ask_tcp("a.example", A).addresses,
        addresses(&["192.0.2.2"])
    );
    assert_eq!((on_host.count(), within.count()), (0, 2));
    // Nothing but the upstreams themselves keeps the namespace.
    endpoint.remove().unwrap();
    drop((server, upstreams, on_host, within));
    let socket = inside.run(|| UdpSocket::bind("127.0.0.53:53"));
    assert!(socket.is_ok());
}

#[test]
fn answers_are_kept_where_that_is_asked_for() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let upstream = upstream(&host, "127.0.0.53:53", 1);
    let upstreams = upstreams_of(&["127.0.0.53:53"]);
    let builder = Server::builder().upstreams(&upstreams);
    let server = host.run(|| builder.cache(Cache::new(100)).start().unwrap());
    let (web, db) = (Container::new(), Container::new());
    let _of_web = web.serve(&server, Scope::new());
    let of_db = db.serve(&server, Scope::new());
    for _ in 0..3 {
        assert_eq!(web.ask("a.example", A).addresses, addresses(&["192.0.2.1"]));
        assert_eq!(
            db.ask_tcp("A.Example", A).addresses,
            addresses(&["192.0.2.1"])
        );
    }
    assert_eq!(upstream.count(), 1);
    upstreams.set(upstreams.addresses()).unwrap();
    web.ask("a.example", A);
    assert_eq!(upstream.count(), 2);
    // Other upstreams may say something else.
    of_db
        .set_scope(Scope::new().upstreams(&upstreams_of(&["127.0.0.53:53"])))
        .unwrap();
    db.ask("a.example", A);
    assert_eq!(upstream.count(), 3);
}

#[test]
fn a_resolv_conf_that_changes_is_followed() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let (_one, _two) = (
        upstream(&host, "127.0.0.53:53", 1),
        upstream(&host, "127.0.0.54:53", 2),
    );
    let path = std::env::temp_dir().join(format!("cofferdam-dns-followed-{}", std::process::id()));
    fs::write(&path, "nameserver 127.0.0.53\n").unwrap();
    let server = host.run(|| Server::builder().resolv_conf(&path).start().unwrap());
    let web = Container::new();
    let _endpoint = web.serve(&server, Scope::new());
    assert_eq!(web.ask("a.example", A).addresses, addresses(&["192.0.2.1"]));
    fs::write(&path, "nameserver 127.0.0.11\nnameserver 127.0.0.54\n").unwrap();
    // It is looked at once a second.
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(web.ask("a.example", A).addresses, addresses(&["192.0.2.2"]));
    fs::remove_file(&path).unwrap();
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(web.ask("a.example", A).addresses, addresses(&["192.0.2.2"]));
}
