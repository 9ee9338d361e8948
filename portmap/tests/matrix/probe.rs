//! Servers that say who they are, and many questions to them at once.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_testkit::turns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::world::{At, Family, Who, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// One attempt: who asks what by which protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) from: Who,
    pub(crate) to: SocketAddr,
    pub(crate) protocol: Protocol,
    /// How long to wait: an answer that must come is waited for.
    pub(crate) must_come: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server at that port answered, and saw this address.
    Answer { who: Who, port: u16, seen: IpAddr },
    /// No answer came, but the datagram arrived.
    Heard,
    /// Nothing came, or a refusal.
    Nothing,
}

/// A server's socket, which any thread may serve: it stays in its network namespace.
struct Server {
    who: Who,
    port: u16,
    socket: Socket,
}

enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Those who listen on `ports` at their addresses.
pub(crate) struct Servers(Vec<Server>);

impl Servers {
    pub(crate) fn new(world: &World, listeners: &[(Who, &[At], &[u16])]) -> Self {
        let mut servers = Vec::new();
        for (who, addresses, ports) in listeners {
            for at in *addresses {
                for (family, port) in Family::BOTH
                    .iter()
                    .flat_map(|family| ports.iter().map(move |port| (*family, *port)))
                {
                    let address = SocketAddr::new(at.ip(family), port);
                    let netns = world.netns(*who);
                    let (tcp, udp) =
                        netns.run(|| (TcpListener::bind(address), UdpSocket::bind(address)));
                    let (tcp, udp) = (tcp.unwrap(), udp.unwrap());
                    tcp.set_nonblocking(true).unwrap();
                    udp.set_nonblocking(true).unwrap();
                    for socket in [Socket::Tcp(tcp), Socket::Udp(udp)] {
                        servers.push(Server {
                            who: *who,
                            port,
                            socket,
                        });
                    }
                }
            }
        }
        Servers(servers)
    }

    /// Asks all of it at once, and waits for every answer that must come and then a moment longer for those that must not.
    pub(crate) fn ask(&self, world: &World, questions: &[Question]) -> Vec<Outcome> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let serving = scope.spawn(|| self.serve(&done));
            let mut outcomes = answers(world, questions);
            done.store(true, Ordering::Release);
            let heard = serving.join().unwrap();
            for (index, outcome) in outcomes.iter_mut().enumerate() {
                if *outcome == Outcome::Nothing && heard.contains(&(index as u32)) {
                    *outcome = Outcome::Heard;
                }
            }
            outcomes
        })
    }

    /// Answers until `done`, and returns the numbers of the datagrams that came.
    fn serve(&self, done: &AtomicBool) -> BTreeSet<u32> {
        let mut heard = BTreeSet::new();
        while !done.load(Ordering::Acquire) {
            wait(self.0.iter().map(|server| server.fd()), PollFlags::IN);
            for server in &self.0 {
                heard.extend(server.answer());
            }
        }
        heard
    }
}

impl Server {
    fn fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Udp(socket) => socket.as_fd(),
        }
    }

    /// Answers one question if there is one, and returns the number a datagram had.
    fn answer(&self) -> Option<u32> {
        match &self.socket {
            Socket::Tcp(socket) => {
                let (mut stream, from) = socket.accept().ok()?;
                let _the_client_may_be_gone = stream.write_all(&self.name(from.ip()));
                None
            }
            Socket::Udp(socket) => {
                let mut number = [0; 4];
                let (_, from) = socket.recv_from(&mut number).ok()?;
                let _there_may_be_no_way_back = socket.send_to(&self.name(from.ip()), from);
                Some(u32::from_ne_bytes(number))
            }
        }
    }

    fn name(&self, seen: IpAddr) -> Vec<u8> {
        format!("{} {} {seen}", self.who as u8, self.port).into_bytes()
    }
}

/// An open question.
struct Trial {
    socket: Option<OwnedFd>,
    outcome: Outcome,
}

fn answers(world: &World, questions: &[Question]) -> Vec<Outcome> {
    const AT_MOST: Duration = Duration::from_secs(15);
    let quiet = Duration::from_millis(turns(150, 1500) as u64);
    let mut trials: Vec<Trial> = Vec::new();
    for (number, question) in questions.iter().enumerate() {
        let asked = world
            .netns(question.from)
            .run(|| ask(question, number as u32));
        trials.push(Trial {
            socket: asked.ok(),
            outcome: Outcome::Nothing,
        });
    }
    let start = Instant::now();
    let mut sent = start;
    let mut all_came = None;
    loop {
        let open = trials.iter().filter_map(|trial| trial.socket.as_ref());
        wait(open.map(AsFd::as_fd), PollFlags::IN);
        trials.iter_mut().for_each(Trial::listen);
        let waiting = questions.iter().zip(&trials).any(is_waited_for);
        if !waiting {
            let since = *all_came.get_or_insert_with(Instant::now);
            if since.elapsed() > quiet {
                break;
            }
        } else if sent.elapsed() > quiet {
            // A bridge's port may have been too new for the first one, and a busy machine too slow to tell a neighbour's address.
            sent = Instant::now();
            again(world, questions, &mut trials);
        }
        if start.elapsed() > AT_MOST {
            break;
        }
    }
    trials.into_iter().map(|trial| trial.outcome).collect()
}

fn is_waited_for((question, trial): (&Question, &Trial)) -> bool {
    question.must_come && trial.outcome == Outcome::Nothing
}

/// Sends again what must be answered and is not yet: datagrams, and all that an error has ended.
fn again(world: &World, questions: &[Question], trials: &mut [Trial]) {
    for (number, (question, trial)) in questions.iter().zip(trials).enumerate() {
        if !is_waited_for((question, trial)) {
            continue;
        }
        let number = number as u32;
        match &trial.socket {
            None => {
                let asked = world.netns(question.from).run(|| ask(question, number));
                trial.socket = asked.ok();
            }
            Some(socket) if question.protocol == Protocol::Udp => {
                let number = number.to_ne_bytes();
                let _a_refusal_is_heard_later =
                    rustix::net::send(socket, &number, SendFlags::empty());
            }
            Some(_) => {}
        }
    }
}

/// Connects without waiting, and sends the question's number if by datagram.
fn ask(question: &Question, number: u32) -> rustix::io::Result<OwnedFd> {
    let family = match question.to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let kind = match question.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    match rustix::net::connect(&socket, &question.to) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(errno) => return Err(errno),
    }
    if question.protocol == Protocol::Udp {
        rustix::net::send(&socket, &number.to_ne_bytes(), SendFlags::empty())?;
    }
    Ok(socket)
}

impl Trial {
    fn listen(&mut self) {
        let Some(socket) = &self.socket else { return };
        let mut buffer = [0; 64];
        match rustix::net::recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok((length, _)) if length > 0 => self.outcome = read(&buffer[..length]),
            Err(Errno::AGAIN) => return,
            _ => {}
        }
        self.socket = None;
    }
}

fn read(answer: &[u8]) -> Outcome {
    let text = std::str::from_utf8(answer).unwrap();
    let words: Vec<_> = text.split(' ').collect();
    let who: usize = words[0].parse().unwrap();
    Outcome::Answer {
        who: Who::ALL[who],
        port: words[1].parse().unwrap(),
        seen: words[2].parse().unwrap(),
    }
}

/// Until one of them is ready, or some milliseconds.
fn wait<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>, flags: PollFlags) {
    let mut fds: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, flags)).collect();
    let time = Timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    let polled = poll(&mut fds, Some(&time)).map_err(io::Error::from);
    polled.unwrap();
}
