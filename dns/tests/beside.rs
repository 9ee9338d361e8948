//! A container with a nameserver of its own on port 53 of all its addresses.

mod common;

use std::io::Write;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use cofferdam_dns::{Server, bind_beside};
use cofferdam_testkit::{Need, have};
use common::{A, Container, addresses, query, read, receive, reply_with, zone};

#[test]
fn a_container_may_have_port_53_for_itself() {
    if !have(&[Need::Namespaces, Need::Program("nft")]) {
        return;
    }
    let web = Container::new();
    let server = Server::builder().start().unwrap();
    let (udp, tcp, redirect) = bind_beside(&web.netns).unwrap();
    let _endpoint = server.serve(udp, tcp, &zone("db", "10.89.0.2")).unwrap();
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped());
    let mut nft = web.netns.run(|| nft.spawn().unwrap());
    nft.stdin
        .take()
        .unwrap()
        .write_all(redirect.to_string().as_bytes())
        .unwrap();
    assert!(nft.wait().unwrap().success());

    let own = web.netns.run(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    own.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let own = thread::spawn(move || {
        let mut buffer = [0; 512];
        let (length, peer) = own.recv_from(&mut buffer).unwrap();
        own.send_to(&reply_with(&buffer[..length], [192, 0, 2, 7]), peer)
            .unwrap();
    });
    assert_eq!(web.ask("db", A).addresses, addresses(&["10.89.0.2"]));
    assert_eq!(web.ask_tcp("db", A).addresses, addresses(&["10.89.0.2"]));
    let client = web.netns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    client.connect("127.0.0.1:53").unwrap();
    client.send(&query(1, "db", A)).unwrap();
    assert_eq!(read(&receive(&client)).addresses, addresses(&["192.0.2.7"]));
    own.join().unwrap();
}
