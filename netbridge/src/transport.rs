//! What a conversation with the kernel goes over: the blocking socket, or rtnetlink's under Tokio.
//!
//! What is said is written once, as futures. Over the blocking transport they are ready at once, as the kernel answers
//! before send(2) returns: [`now`] polls them once.

use std::future::Future;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use crate::answer::malformed;
use crate::error::Result;
use crate::link::SharedSocket;
use crate::message::Request;
use crate::netns::run_in;
use crate::socket::{Outcome, Socket};

/// A conversation in one network namespace. Clones are the same conversation.
pub(crate) trait Transport: Clone + Sized {
    /// Sends all `requests` at once and returns what came of each. The kernel goes on after one it refused.
    fn ask_each(&self, requests: &[Request]) -> impl Future<Output = Result<Vec<Outcome>>>;

    /// The payloads of a dump, taken again where a change interrupted it.
    fn dump(&self, request: &Request) -> impl Future<Output = Result<Vec<Vec<u8>>>>;

    /// Waits.
    fn pause(&self, time: Duration) -> impl Future<Output = ()>;

    /// Runs `work` in the namespace of `netns`, on a thread that ends with the work.
    fn enter<T: Send + 'static>(
        &self,
        netns: BorrowedFd<'_>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T>>;

    /// Runs `work` in the conversation's own namespace.
    fn at_home<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T>>;

    /// The same kind of conversation over a socket that was opened elsewhere.
    fn over(&self, socket: Socket) -> Result<Self>;
}

/// Sends one request and returns its answer.
pub(crate) async fn ask_one<T: Transport>(on: &T, request: Request) -> Result<Vec<u8>> {
    on.ask_each(&[request])
        .await?
        .pop()
        .ok_or_else(|| malformed("an answer is missing"))?
}

/// Sends all `requests` at once; the first that was refused is the error.
pub(crate) async fn ask_all<T: Transport>(on: &T, requests: &[Request]) -> Result<()> {
    on.ask_each(requests)
        .await?
        .into_iter()
        .try_for_each(|outcome| outcome.map(drop))
}

/// The value of a conversation over a blocking transport.
pub(crate) fn now<T>(conversation: impl Future<Output = Result<T>>) -> Result<T> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(conversation).poll(&mut context) {
        Poll::Ready(done) => done,
        Poll::Pending => Err(malformed("a blocking conversation did not end")),
    }
}

impl Transport for SharedSocket {
    async fn ask_each(&self, requests: &[Request]) -> Result<Vec<Outcome>> {
        self.lock().ask_each(requests)
    }

    async fn dump(&self, request: &Request) -> Result<Vec<Vec<u8>>> {
        self.lock().dump(request)
    }

    async fn pause(&self, time: Duration) {
        thread::sleep(time);
    }

    async fn enter<T: Send + 'static>(
        &self,
        netns: BorrowedFd<'_>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        run_in(netns, work)?
    }

    /// On the calling thread: it is there, as it opened the socket.
    async fn at_home<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        work()
    }

    fn over(&self, socket: Socket) -> Result<Self> {
        Ok(SharedSocket::new(socket))
    }
}

/// A conversation that counts the requests, in every namespace it goes on in.
#[derive(Clone, Debug)]
pub(crate) struct Counted<T> {
    on: T,
    sent: Arc<AtomicU32>,
}

impl<T> Counted<T> {
    pub(crate) fn new(on: T) -> Self {
        let sent = Arc::default();
        Counted { on, sent }
    }

    pub(crate) fn sent(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }

    fn count(&self, requests: usize) {
        let requests = u32::try_from(requests).unwrap_or(u32::MAX);
        self.sent.fetch_add(requests, Ordering::Relaxed);
    }
}

impl<T: Transport> Transport for Counted<T> {
    fn ask_each(&self, requests: &[Request]) -> impl Future<Output = Result<Vec<Outcome>>> {
        self.count(requests.len());
        self.on.ask_each(requests)
    }

    fn dump(&self, request: &Request) -> impl Future<Output = Result<Vec<Vec<u8>>>> {
        self.count(1);
        self.on.dump(request)
    }

    fn pause(&self, time: Duration) -> impl Future<Output = ()> {
        self.on.pause(time)
    }

    fn enter<R: Send + 'static>(
        &self,
        netns: BorrowedFd<'_>,
        work: impl FnOnce() -> Result<R> + Send + 'static,
    ) -> impl Future<Output = Result<R>> {
        self.on.enter(netns, work)
    }

    fn at_home<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<R> + Send + 'static,
    ) -> impl Future<Output = Result<R>> {
        self.on.at_home(work)
    }

    fn over(&self, socket: Socket) -> Result<Self> {
        Ok(Counted {
            on: self.on.over(socket)?,
            sent: Arc::clone(&self.sent),
        })
    }
}
