//! Datagrams in batches: one call for those that wait, one for their replies.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use crate::sys::{self, AT_ONCE, Peer};
use crate::wire::QUERY_MAX;

/// One byte more than a query may have tells one that is too long from one that is cut.
const ROOM: usize = QUERY_MAX + 1;

/// Queries that came together, and the replies to them.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    lengths: [usize; AT_ONCE],
    peers: [Peer; AT_ONCE],
    count: usize,
    replies: Vec<Vec<u8>>,
    /// Which query each of the first replies is for.
    to: Vec<usize>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Batch {
            bytes: vec![0; ROOM * AT_ONCE],
            lengths: [0; AT_ONCE],
            peers: [Peer::NONE; AT_ONCE],
            count: 0,
            replies: vec![Vec::new(); AT_ONCE],
            to: Vec::with_capacity(AT_ONCE),
        }
    }

    /// Takes what waits at the socket in place of what is here. It may be nothing.
    pub(crate) fn receive(&mut self, socket: impl AsFd) -> io::Result<()> {
        self.count = 0;
        self.to.clear();
        let (peers, lengths) = (&mut self.peers, &mut self.lengths);
        self.count = sys::receive(socket.as_fd(), &mut self.bytes, ROOM, peers, lengths)?;
        Ok(())
    }

    /// How many came, those too long included.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Who sent the query at `index`.
    pub(crate) fn peer(&self, index: usize) -> Option<SocketAddr> {
        self.peers.get(index)?.address()
    }

    /// The query at `index`, unless it is too long, and where its reply is written.
    pub(crate) fn query(&mut self, index: usize) -> Option<(&[u8], &mut Vec<u8>)> {
        let length = *self.lengths[..self.count].get(index)?;
        if length > QUERY_MAX {
            return None;
        }
        let start = index * ROOM;
        let reply = self.replies.get_mut(self.to.len())?;
        Some((&self.bytes[start..start + length], reply))
    }

    /// The reply written last is whole: it goes to who sent the query at `index`.
    pub(crate) fn answered(&mut self, index: usize) {
        self.to.push(index);
    }

    /// Sends the replies. One that fails is lost, as datagrams are: the client asks again.
    pub(crate) fn send(&mut self, socket: impl AsFd) {
        let mut first = 0;
        while first < self.to.len() {
            let replies = self.replies[first..].iter().zip(&self.to[first..]);
            let datagrams = replies.map(|(reply, &to)| (&**reply, &self.peers[to]));
            first += sys::send(socket.as_fd(), datagrams).unwrap_or(0).max(1);
        }
        self.to.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use cofferdam_testkit::{Need, NetNs, have};

    use super::*;

    /// A server and so many clients, on a loopback of their own.
    fn sockets<const CLIENTS: usize>(ip: &str) -> Option<(UdpSocket, [UdpSocket; CLIENTS])> {
        let bind = || UdpSocket::bind((ip, 0)).unwrap();
        let open = || {
            let server = bind();
            let clients = std::array::from_fn(|_| bind());
            for client in &clients {
                client.connect(server.local_addr().unwrap()).unwrap();
            }
            (server, clients)
        };
        have(&[Need::Namespaces]).then(|| NetNs::new().run(open))
    }

    #[test]
    fn each_reply_goes_to_who_asked() {
        let Some((server, [one, two])) = sockets("127.0.0.1") else {
            return;
        };
        one.send(b"a").unwrap();
        two.send(b"b").unwrap();
        one.send(b"c").unwrap();
        let mut batch = Batch::new();
        batch.receive(&server).unwrap();
        assert_eq!(batch.len(), 3);
        assert_eq!(batch.peer(1), Some(two.local_addr().unwrap()));
        // The first goes unanswered.
        for index in 1..3 {
            let (query, reply) = batch.query(index).unwrap();
            reply.clear();
            reply.extend_from_slice(query);
            reply.push(b'!');
            batch.answered(index);
        }
        batch.send(&server);
        let mut buffer = [0; 8];
        assert_eq!(two.recv(&mut buffer).unwrap(), 2);
        assert_eq!(&buffer[..2], b"b!");
        assert_eq!(one.recv(&mut buffer).unwrap(), 2);
        assert_eq!(&buffer[..2], b"c!");
    }

    #[test]
    fn what_is_too_long_is_told_from_what_just_fits() {
        let Some((server, [client])) = sockets("127.0.0.1") else {
            return;
        };
        for length in [QUERY_MAX, QUERY_MAX + 1, QUERY_MAX + 2, 60_000, 0] {
            client.send(&vec![7; length]).unwrap();
        }
        let mut batch = Batch::new();
        batch.receive(&server).unwrap();
        let lengths: Vec<_> = (0..batch.len())
            .map(|index| batch.query(index).map(|(query, _)| query.len()))
            .collect();
        assert_eq!(lengths, [Some(QUERY_MAX), None, None, None, Some(0)]);
    }

    #[test]
    fn more_than_a_batch_waits_for_the_next() {
        let Some((server, [client])) = sockets("127.0.0.1") else {
            return;
        };
        for number in 0..=AT_ONCE as u8 {
            client.send(&[number]).unwrap();
        }
        let mut batch = Batch::new();
        batch.receive(&server).unwrap();
        assert_eq!(batch.len(), AT_ONCE);
        batch.receive(&server).unwrap();
        assert_eq!(batch.len(), 1);
        assert_eq!(batch.query(0).unwrap().0, [AT_ONCE as u8]);
        let error = batch.receive(&server).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(batch.len(), 0);
    }

    #[test]
    fn a_reply_that_cannot_be_sent_keeps_no_other() {
        let Some((server, [client])) = sockets("127.0.0.1") else {
            return;
        };
        for _ in 0..3 {
            client.send(b"a").unwrap();
        }
        let mut batch = Batch::new();
        batch.receive(&server).unwrap();
        for index in 0..3 {
            let (_, reply) = batch.query(index).unwrap();
            reply.clear();
            // No datagram has as many bytes.
            reply.resize(if index == 1 { 70_000 } else { index + 1 }, 7);
            batch.answered(index);
        }
        batch.send(&server);
        let mut buffer = [0; 8];
        assert_eq!(client.recv(&mut buffer).unwrap(), 1);
        assert_eq!(client.recv(&mut buffer).unwrap(), 3);
    }

    #[test]
    fn peers_of_both_families_are_known() {
        let Some((server, [client])) = sockets("::1") else {
            return;
        };
        client.send(b"a").unwrap();
        let mut batch = Batch::new();
        batch.receive(&server).unwrap();
        assert_eq!(batch.peer(0), Some(client.local_addr().unwrap()));
        assert_eq!(batch.peer(AT_ONCE), None);
    }
}
