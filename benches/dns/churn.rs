//! Containers that join and leave, while others ask all the time: each must be found once it has joined and not be found
//! once it has left, and what others ask for must be right throughout.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_dns::{Endpoint, LISTEN, Server, SharedZone, bind_in};
use cofferdam_testkit::NetNs;

use crate::row;

/// Namespaces for those who come: the kernel takes its time to make one, which is not what is measured.
const SEATS: usize = 50;
const STEADY: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 2);

pub(crate) fn rows(quick: bool) {
    let lasts = Duration::from_secs(if quick { 1 } else { 30 });
    let server = Server::builder().start().unwrap();
    let zone = SharedZone::default();
    zone.update(|zone| zone.insert("steady".parse().unwrap(), STEADY.into()));
    let (asking, joining) = (Client::new(&server, &zone), Client::new(&server, &zone));
    let end = AtomicBool::new(false);
    let (joins, asked) = thread::scope(|scope| {
        let load = scope.spawn(|| asking.ask_until(&end));
        let joins = join_and_leave(&server, &zone, &joining, lasts);
        end.store(true, Ordering::Relaxed);
        (joins, load.join().unwrap())
    });
    let per_second = |count: usize| count as f64 / lasts.as_secs_f64();
    row(
        "dns/joins-per-second",
        "ours",
        "count",
        &mut [per_second(joins)],
    );
    row(
        "dns/answers-while-joining",
        "ours",
        "qps",
        &mut [per_second(asked)],
    );
}

/// Returns how many have come, been found, left, and been found no more.
fn join_and_leave(server: &Server, zone: &SharedZone, client: &Client, lasts: Duration) -> usize {
    let seats: Vec<_> = (0..SEATS).map(|_| NetNs::new()).collect();
    let begin = Instant::now();
    let mut joined = 0;
    while begin.elapsed() < lasts {
        let name = format!("c{}", joined % 10_000);
        let address = IpAddr::from([10, 90, (joined >> 8) as u8, joined as u8]);
        let (udp, tcp) = bind_in(&seats[joined % SEATS], LISTEN).unwrap();
        let endpoint = server.serve(udp, tcp, zone).unwrap();
        zone.update(|zone| zone.insert(name.parse().unwrap(), address));
        assert_eq!(client.ask(&name), Some(address), "{name} has joined");
        zone.update(|zone| zone.remove_address(address));
        assert_eq!(client.ask(&name), None, "{name} has left");
        endpoint.remove().unwrap();
        joined += 1;
    }
    joined
}

struct Client {
    socket: UdpSocket,
    _endpoint: Endpoint,
}

impl Client {
    fn new(server: &Server, zone: &SharedZone) -> Self {
        let netns = NetNs::new();
        let socket = netns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
        socket.connect(LISTEN).unwrap();
        let (udp, tcp) = bind_in(&netns, LISTEN).unwrap();
        let _endpoint = server.serve(udp, tcp, zone).unwrap();
        Client { socket, _endpoint }
    }

    fn ask_until(&self, end: &AtomicBool) -> usize {
        let mut count = 0;
        while !end.load(Ordering::Relaxed) {
            assert_eq!(self.ask("steady"), Some(STEADY.into()));
            count += 1;
        }
        count
    }

    fn ask(&self, name: &str) -> Option<IpAddr> {
        let mut query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0".to_vec();
        query.push(name.len() as u8);
        query.extend_from_slice(name.as_bytes());
        query.extend_from_slice(b"\0\0\x01\0\x01");
        self.socket.send(&query).unwrap();
        let mut reply = [0; 512];
        let length = self.socket.recv(&mut reply).unwrap();
        assert_eq!(reply[12..query.len()], query[12..], "the question");
        let address: &[u8; 4] = reply[..length].last_chunk().unwrap();
        (reply[7] == 1).then_some(IpAddr::from(*address))
    }
}
