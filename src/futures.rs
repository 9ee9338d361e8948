//! Waits as futures, on the event loop of tokio.

use std::process::{ExitStatus, Output};

use crate::error::Result;
use crate::exec::{Exec, Process};
use crate::running::Running;

#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
/// # As futures
impl Running {
    /// Waits for the end of its program without a thread: its pidfd is one more fd of tokio's event loop.
    ///
    /// Cancel-safe: whoever waits next, in either way, finds the status. Any number of tasks can wait at once. Its standard
    /// input stays open, unlike with [`wait`](Self::wait).
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in one without its I/O driver.
    pub async fn wait_async(&self) -> Result<ExitStatus> {
        self.ended().await
    }

    /// As [`output`](Self::output), without blocking but for the removal at the end, which takes some milliseconds.
    ///
    /// Dropping the future early drops the container: it is killed and removed, and what it wrote is gone.
    ///
    /// # Errors
    /// As [`output`](Self::output).
    ///
    /// # Panics
    /// As [`wait_async`](Self::wait_async).
    pub async fn output_async(mut self) -> Result<Output> {
        let output = self.spawned().output_async().await;
        let output = output.map_err(self.subject().failed("read its output"))?;
        self.remove()?;
        Ok(output)
    }
}

#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
impl Exec<'_> {
    /// As [`output`](Self::output), without blocking once the program runs, which takes less than a millisecond.
    ///
    /// Dropping the future early kills the program.
    ///
    /// # Errors
    /// As [`output`](Self::output).
    ///
    /// # Panics
    /// As [`Running::wait_async`].
    pub async fn output_async(self) -> Result<Output> {
        let mut process = self.piped().spawn()?;
        let output = process.spawned.output_async().await;
        output.map_err(process.subject.failed("read its output"))
    }
}

#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
impl Process {
    /// Waits for its end without a thread. Cancel-safe, as [`Running::wait_async`].
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    ///
    /// # Panics
    /// As [`Running::wait_async`].
    pub async fn wait_async(&self) -> Result<ExitStatus> {
        let ended = self.spawned.wait_async().await;
        ended.map_err(self.subject.failed("wait"))
    }
}
