//! A thread that serves containers, and the way to it.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::event_loop::{Command, Config, EventLoop};
use crate::{Error, Result};

/// The thread's name, as in `/proc/<pid>/task/<tid>/comm`.
pub(crate) const THREAD: &str = "cofferdam-dns";
/// For how long Drop waits for the thread. It never blocks, so this is for a machine that stands still.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// A thread. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) control: Control,
    thread: Option<JoinHandle<()>>,
    /// Disconnects when the thread has ended. Behind a lock only because a receiver is not `Sync`.
    alive: Mutex<Option<Receiver<()>>>,
}

/// The way to the thread.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
}

impl Worker {
    pub(crate) fn start(config: Config) -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(eventfd(0, flags).map_err(Error::sys("eventfd", THREAD))?);
        let (commands, receiver) = mpsc::channel();
        let event_loop = EventLoop::new(config, Arc::clone(&wake), receiver)
            .map_err(Error::sys("epoll", THREAD))?;
        let (end, alive) = sync_channel(0);
        let work = move || {
            let _end = end;
            event_loop.run();
        };
        let thread = thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(work)
            .map_err(Error::sys("start thread", THREAD))?;
        Ok(Worker {
            control: Control { commands, wake },
            thread: Some(thread),
            alive: Mutex::new(Some(alive)),
        })
    }

    /// Ends the thread, which closes its sockets. Once more is a success.
    pub(crate) fn end(&mut self) -> Result<()> {
        let alive = self
            .alive
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let (Some(thread), Some(alive)) = (self.thread.take(), alive) else {
            return Ok(());
        };
        let told = self.control.send(Command::Stop, "stop");
        if alive.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            return Err(Error::sys("join", THREAD)(rustix::io::Errno::BUSY));
        }
        match thread.join() {
            Ok(()) => told,
            Err(_panic) => Err(Error::ended("stop")),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _unheard = self.end().is_err();
    }
}

impl Control {
    pub(crate) fn send(&self, command: Command, op: &'static str) -> Result<()> {
        if self.commands.send(command).is_err() {
            return Err(Error::ended(op));
        }
        // It fails only with the counter full, and then the thread is being woken already.
        let _woken_already = rustix::io::write(&self.wake, &1_u64.to_ne_bytes()).is_err();
        Ok(())
    }
}
