//! Queries, a client, and upstreams that behave as a test wants.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot do its work has failed the test"
)]
#![allow(dead_code, reason = "no test binary needs all of it")]

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cofferdam_dns::{Endpoint, LISTEN, Scope, Server, SharedZone, Upstreams, Zone, bind_in};
use cofferdam_testkit::NetNs;
use simple_dns::rdata::RData;
use simple_dns::{Packet, PacketFlag, RCODE};

pub(crate) const A: u16 = 1;
pub(crate) const AAAA: u16 = 28;

/// A query as a stub resolver sends it.
pub(crate) fn query(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&qtype.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

/// What a reply says, read by another implementation than ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) id: u16,
    pub(crate) rcode: RCODE,
    pub(crate) truncated: bool,
    pub(crate) addresses: Vec<IpAddr>,
}

pub(crate) fn read(reply: &[u8]) -> Said {
    let packet = Packet::parse(reply).unwrap();
    assert!(packet.has_flags(PacketFlag::RESPONSE), "{packet:?}");
    let addresses = packet
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::A(a) => Some(IpAddr::V4(a.address.into())),
            RData::AAAA(a) => Some(IpAddr::V6(a.address.into())),
            _ => None,
        });
    Said {
        id: packet.id(),
        rcode: packet.rcode(),
        truncated: packet.has_flags(PacketFlag::TRUNCATION),
        addresses: addresses.collect(),
    }
}

/// A container: a network namespace and a client in it.
pub(crate) struct Container {
    pub(crate) netns: NetNs,
}

impl Container {
    pub(crate) fn new() -> Self {
        Container {
            netns: NetNs::new(),
        }
    }

    pub(crate) fn serve(&self, server: &Server, scope: impl Into<Scope>) -> Endpoint {
        let (udp, tcp) = bind_in(self.netns.as_fd(), LISTEN).unwrap();
        server.serve(udp, tcp, scope).unwrap()
    }

    pub(crate) fn udp(&self) -> UdpSocket {
        self.netns.run(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(LISTEN).unwrap();
            let patience = Some(Duration::from_secs(10));
            socket.set_read_timeout(patience).unwrap();
            socket
        })
    }

    pub(crate) fn tcp(&self) -> TcpStream {
        self.netns.run(|| {
            let stream = TcpStream::connect(LISTEN).unwrap();
            let patience = Some(Duration::from_secs(15));
            stream.set_read_timeout(patience).unwrap();
            stream
        })
    }

    /// Asks over UDP, from a socket of its own.
    pub(crate) fn ask(&self, name: &str, qtype: u16) -> Said {
        let socket = self.udp();
        socket.send(&query(0x1234, name, qtype)).unwrap();
        let said = read(&receive(&socket));
        assert_eq!(said.id, 0x1234);
        said
    }

    /// Asks over TCP, on a connection of its own.
    pub(crate) fn ask_tcp(&self, name: &str, qtype: u16) -> Said {
        let mut stream = self.tcp();
        stream
            .write_all(&framed(&query(0x4321, name, qtype)))
            .unwrap();
        let said = read(&receive_frame(&mut stream));
        assert_eq!(said.id, 0x4321);
        said
    }
}

pub(crate) fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65535];
    let size = socket.recv(&mut buffer).unwrap();
    buffer.truncate(size);
    buffer
}

pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = (message.len() as u16).to_be_bytes().to_vec();
    frame.extend_from_slice(message);
    frame
}

pub(crate) fn receive_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(prefix))];
    stream.read_exact(&mut message).unwrap();
    message
}

/// A zone with one name.
pub(crate) fn zone(name: &str, address: &str) -> SharedZone {
    let mut zone = Zone::new();
    zone.insert(name.parse().unwrap(), address.parse().unwrap());
    zone.into()
}

pub(crate) fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The reply to `query` with one A record.
pub(crate) fn reply_with(query: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] = 0x81;
    reply[3] = 0x80;
    reply[7] = 1;
    reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    reply.extend_from_slice(&address);
    reply
}

/// The reply to `query` with nothing but a code.
pub(crate) fn reply_code(query: &[u8], rcode: u8) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] = 0x81;
    reply[3] = 0x80 | rcode;
    reply
}

/// An upstream in a namespace, on UDP and TCP, that replies with whatever `behave` makes of a query. It ends on drop.
pub(crate) struct Upstream {
    /// Queries that came.
    pub(crate) seen: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Where they came from.
    pub(crate) peers: Arc<Mutex<Vec<SocketAddr>>>,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Upstream {
    pub(crate) fn new(
        host: &NetNs,
        address: &str,
        behave: impl Fn(&[u8]) -> Vec<Vec<u8>> + Clone + Send + 'static,
    ) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let (udp, tcp) = bind_in(host.as_fd(), address).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let peers = Arc::new(Mutex::new(Vec::new()));
        let end = Arc::new(AtomicBool::new(false));
        let threads = vec![
            serve_udp(udp, &seen, &peers, &end, behave.clone()),
            serve_tcp(tcp, &seen, &end, behave),
        ];
        Upstream {
            seen,
            peers,
            end,
            threads,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// How many different questions were asked.
    pub(crate) fn questions(&self) -> usize {
        let seen = self.seen.lock().unwrap();
        let questions: HashSet<_> = seen.iter().map(|query| &query[2..]).collect();
        questions.len()
    }
}

fn serve_udp(
    udp: UdpSocket,
    seen: &Arc<Mutex<Vec<Vec<u8>>>>,
    peers: &Arc<Mutex<Vec<SocketAddr>>>,
    end: &Arc<AtomicBool>,
    behave: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> JoinHandle<()> {
    let (seen, peers, end) = (Arc::clone(seen), Arc::clone(peers), Arc::clone(end));
    udp.set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 65535];
        while !end.load(Ordering::Relaxed) {
            if let Ok((size, peer)) = udp.recv_from(&mut buffer) {
                // Who sees the question finds its asker.
                peers.lock().unwrap().push(peer);
                seen.lock().unwrap().push(buffer[..size].to_vec());
                for reply in behave(&buffer[..size]) {
                    udp.send_to(&reply, peer).unwrap();
                }
            }
        }
    })
}

fn serve_tcp(
    tcp: TcpListener,
    seen: &Arc<Mutex<Vec<Vec<u8>>>>,
    end: &Arc<AtomicBool>,
    behave: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> JoinHandle<()> {
    let (seen, end) = (Arc::clone(seen), Arc::clone(end));
    tcp.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        while !end.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = tcp.accept() else {
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            stream.set_nonblocking(false).unwrap();
            let query = receive_frame(&mut stream);
            seen.lock().unwrap().push(query.clone());
            for reply in behave(&query) {
                stream.write_all(&framed(&reply)).unwrap();
            }
        }
    })
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let joined = thread.join();
            assert!(joined.is_ok() || thread::panicking());
        }
    }
}

pub(crate) fn upstreams_of(texts: &[&str]) -> Upstreams {
    let addresses = texts.iter().map(|text| text.parse().unwrap());
    Upstreams::new(addresses.collect()).unwrap()
}

/// A server whose upstreams are reached from `host`.
pub(crate) fn start(host: &NetNs, upstreams: &[&str]) -> Server {
    let builder = Server::builder().upstreams(&upstreams_of(upstreams));
    host.run(|| builder.start().unwrap())
}
