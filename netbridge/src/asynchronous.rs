//! The same conversations under Tokio, over the connection of rtnetlink.

use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt as _};
use netlink_packet_core::{
    DecodeError, NLM_F_DUMP_INTR, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::proto::{
    Connection, ConnectionHandle, NetlinkCodec, from_socket_with_codec, sys::SocketAddr,
    sys::TokioSocket,
};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn, spawn_blocking};

use crate::answer::{Ack, Message, NLMSG_DONE, NLMSG_ERROR, malformed};
use crate::attachment::Attachment;
use crate::bridge::{Bridge, BridgeBuilder, detach};
use crate::error::{Error, ErrorKind, Result};
use crate::link::SharedSocket;
use crate::message::Request;
use crate::netns::{NetNs, enter_for_good};
use crate::port::{self, Port};
use crate::socket::{DUMP_ATTEMPTS, Outcome, Socket, ever_changing};
use crate::sys::tokio_socket;
use crate::transport::Transport;

impl BridgeBuilder {
    /// As [`create`](Self::create), without blocking the calling task: feature `tokio`. The namespace is that of the
    /// thread that calls it. Needs a runtime with I/O enabled.
    ///
    /// # Cancel safety
    /// The work goes on when the future is dropped half-way, and then the bridge is deleted. A runtime that shuts down
    /// half-way may leave it, as a killed process does.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
    pub fn create_async(self) -> impl Future<Output = Result<Bridge>> + Send + 'static {
        // Here, as the task may go on on a thread elsewhere.
        let opened = self.check().and_then(|()| {
            let (netns, here) = (NetNs::of_caller()?, NetNs::of_caller()?);
            Ok((Socket::open()?, SharedSocket::open()?, netns, here))
        });
        async move {
            let (socket, shared, netns, here) = opened?;
            whole(async move {
                let connection = Connected::open(socket, Arc::new(here));
                let bridge = self.make(connection.clone(), shared, netns).await?;
                bridge.connection.keep(connection);
                Ok(bridge)
            })
            .await
        }
    }
}

impl Bridge {
    /// As [`attach`](Self::attach), without blocking the calling task: feature `tokio`. Needs a runtime with I/O enabled.
    ///
    /// # Cancel safety
    /// The work goes on when the future is dropped half-way, and then the container is detached again. A runtime that
    /// shuts down half-way may leave the link, as a killed process does.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
    pub async fn attach_async(
        &self,
        netns: impl AsFd + Send,
        attachment: Attachment,
    ) -> Result<Port> {
        let netns = owned(netns.as_fd())?;
        let (host, uplink) = (self.connection.of(self)?, self.uplink().clone());
        whole(async move { port::attach(&uplink, host, netns.as_fd(), &attachment).await }).await
    }

    /// As [`detach_all`](Self::detach_all), on a thread for work that blocks: feature `tokio`.
    ///
    /// # Cancel safety
    /// The work goes on to its end when the future is dropped.
    ///
    /// # Errors
    /// As [`detach_all`](Self::detach_all).
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
    pub async fn detach_all_async(&self, ports: impl IntoIterator<Item = Port>) -> Result<()> {
        let ports: Vec<Port> = ports.into_iter().collect();
        blocking(move || detach(ports)).await
    }

    /// As [`remove`](Self::remove), on a thread for work that blocks, as the kernel does for 20 to 40 ms: feature
    /// `tokio`.
    ///
    /// # Cancel safety
    /// The work goes on to its end when the future is dropped.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
    pub async fn remove_async(self) -> Result<()> {
        blocking(move || self.remove()).await
    }
}

impl Port {
    /// As [`remove`](Self::remove), on a thread for work that blocks, as the kernel does for 20 to 40 ms: feature
    /// `tokio`.
    ///
    /// # Cancel safety
    /// The work goes on to its end when the future is dropped.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
    pub async fn remove_async(self) -> Result<()> {
        blocking(move || self.remove()).await
    }
}

/// Runs `work` to its end, whatever becomes of the future: what it made is then dropped, and so deleted.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    spawn(work).await.map_err(|_ended| ended())?
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work).await.map_err(|_ended| ended())?
}

fn owned(netns: BorrowedFd<'_>) -> Result<OwnedFd> {
    netns
        .try_clone_to_owned()
        .map_err(|error| Error::sys("duplicate the fd of a network namespace", error))
}

fn ended() -> Error {
    let why = "the task panicked, or the runtime shut down";
    Error::plain(ErrorKind::Os, "wait for an rtnetlink task", why)
}

/// The connection of a bridge: opened again where its runtime is gone.
#[derive(Debug, Default)]
pub(crate) struct Cached(Mutex<Option<Connected>>);

impl Cached {
    fn keep(&self, connection: Connected) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    }

    fn of(&self, bridge: &Bridge) -> Result<Connected> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = cached.as_ref().filter(|cached| !cached.task.is_finished()) {
            return Ok(connection.clone());
        }
        let netns = owned(bridge.netns().as_fd())?;
        let socket = Socket::open_in(netns.as_fd())?;
        let connection = Connected::open(socket, Arc::new(netns.into()));
        *cached = Some(connection.clone());
        Ok(connection)
    }
}

/// A conversation over a connection that a task of the runtime drives. The task ends with the last of its clones.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    way: Way,
    task: Arc<JoinHandle<()>>,
    /// The namespace it is in, for the work that goes by `/proc/sys`.
    home: Arc<NetNs>,
}

/// What a conversation goes over.
#[derive(Clone, Debug)]
enum Way {
    Connection(ConnectionHandle<Raw>),
    /// Inside a container, for two sends: to set a connection up takes longer than they do, and neither waits, as the kernel
    /// answers before send(2) returns.
    Socket(SharedSocket),
}

impl Connected {
    /// In a runtime.
    fn open(socket: Socket, home: Arc<NetNs>) -> Self {
        let socket = tokio_socket(socket.into_inner());
        let (mut connection, handle, _unasked): (
            Connection<Raw, TokioSocket, NetlinkCodec>,
            ConnectionHandle<Raw>,
            _,
        ) = from_socket_with_codec(socket);
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        let task = Arc::new(spawn(connection));
        let way = Way::Connection(handle);
        Connected { way, task, home }
    }

    /// `None` where a change interrupted it.
    async fn dump_once(
        handle: &ConnectionHandle<Raw>,
        request: &Request,
    ) -> Result<Option<Vec<Vec<u8>>>> {
        let mut answers = send(handle, std::slice::from_ref(request))?;
        let (mut payloads, mut interrupted) = (Vec::new(), false);
        loop {
            let answer = answers.next().await.ok_or_else(ended)?;
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match Answer::of(answer)? {
                Answer::Payload(payload) => payloads.push(payload),
                Answer::End(ack) if ack.errno == 0 => {
                    return Ok((!interrupted).then_some(payloads));
                }
                Answer::End(ack) => {
                    return Err(Error::refused(request.what.clone(), ack.errno, ack.text));
                }
            }
        }
    }
}

impl Transport for Connected {
    async fn ask_each(&self, requests: &[Request]) -> Result<Vec<Outcome>> {
        if requests.is_empty() {
            return Ok(Vec::new()); // the connection would wait for an answer to nothing
        }
        let handle = match &self.way {
            Way::Connection(handle) => handle,
            Way::Socket(socket) => return socket.lock().ask_each(requests),
        };
        let mut answers = send(handle, requests)?;
        let mut outcomes = Vec::with_capacity(requests.len());
        for request in requests {
            let mut payload = Vec::new();
            outcomes.push(loop {
                let answer = answers.next().await.ok_or_else(ended)?;
                match Answer::of(answer)? {
                    Answer::Payload(answer) => payload = answer,
                    Answer::End(ack) if ack.errno == 0 => break Ok(payload),
                    Answer::End(ack) => {
                        break Err(Error::refused(request.what.clone(), ack.errno, ack.text));
                    }
                }
            });
        }
        Ok(outcomes)
    }

    async fn dump(&self, request: &Request) -> Result<Vec<Vec<u8>>> {
        let handle = match &self.way {
            Way::Connection(handle) => handle,
            Way::Socket(socket) => return socket.lock().dump(request),
        };
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(payloads) = Connected::dump_once(handle, request).await? {
                return Ok(payloads);
            }
        }
        Err(ever_changing(request))
    }

    /// By a thread for work that blocks: not every runtime has a timer.
    async fn pause(&self, time: Duration) {
        let _slept = spawn_blocking(move || thread::sleep(time)).await.is_ok();
    }

    async fn enter<T: Send + 'static>(
        &self,
        netns: BorrowedFd<'_>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let netns = owned(netns)?;
        let (tell, told) = oneshot::channel();
        let inside = move || {
            let done = enter_for_good(netns.as_fd()).and_then(|()| work());
            let _heard = tell.send(done).is_ok();
        };
        thread::Builder::new()
            .spawn(inside)
            .map_err(|error| Error::sys("start a thread", error))?;
        told.await.map_err(|_ended| ended())?
    }

    async fn at_home<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.enter(self.home.as_fd(), work).await
    }

    fn over(&self, socket: Socket) -> Result<Self> {
        Ok(Connected {
            way: Way::Socket(SharedSocket::new(socket)),
            ..self.clone()
        })
    }
}

/// Sends all `requests` at once. The kernel answers them in order.
fn send(
    handle: &ConnectionHandle<Raw>,
    requests: &[Request],
) -> Result<impl Stream<Item = NetlinkMessage<Raw>> + Unpin + use<>> {
    let messages: Vec<_> = requests.iter().map(Raw::of).collect();
    handle
        .request_batch(messages, SocketAddr::new(0, 0))
        .map_err(|_closed| ended())
}

/// A message as its bytes: the connection need not understand what it carries.
#[derive(Clone, Debug)]
struct Raw {
    kind: u16,
    payload: Vec<u8>,
}

impl Raw {
    fn of(request: &Request) -> NetlinkMessage<Raw> {
        let message = &request.message;
        let mut payload = vec![0; message.buffer_len()];
        message.serialize(&mut payload);
        // Another message may follow.
        payload.resize(payload.len().next_multiple_of(4), 0);
        let mut header = NetlinkHeader::default();
        header.flags = request.flags;
        let kind = message.message_type();
        let mut message =
            NetlinkMessage::new(header, NetlinkPayload::InnerMessage(Raw { kind, payload }));
        message.finalize();
        message
    }
}

/// What an answer is to its request.
#[derive(Debug)]
enum Answer {
    Payload(Vec<u8>),
    End(Ack),
}

impl Answer {
    fn of(answer: NetlinkMessage<Raw>) -> Result<Self> {
        let (kind, payload) = match answer.payload {
            NetlinkPayload::InnerMessage(raw) => return Ok(Answer::Payload(raw.payload)),
            NetlinkPayload::Error(error) => {
                let code = error.raw_code().to_ne_bytes();
                (NLMSG_ERROR, [&code, &error.header[..]].concat())
            }
            NetlinkPayload::Done(done) => {
                let code = done.code.to_ne_bytes();
                (NLMSG_DONE, [&code, &done.extended_ack[..]].concat())
            }
            _ => return Err(malformed("answers were lost")),
        };
        let message = Message {
            kind,
            flags: answer.header.flags,
            sequence: answer.header.sequence_number,
            payload: &payload,
        };
        Ok(Answer::End(match kind {
            NLMSG_ERROR => Ack::of_error(&message)?,
            _ => Ack::of_done(&message),
        }))
    }
}

impl NetlinkSerializable for Raw {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.payload.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.payload);
    }
}

impl NetlinkDeserializable for Raw {
    type Error = DecodeError;

    fn deserialize(
        header: &NetlinkHeader,
        payload: &[u8],
    ) -> std::result::Result<Self, DecodeError> {
        Ok(Raw {
            kind: header.message_type,
            payload: payload.to_vec(),
        })
    }
}
