//! Layers on each other, made side by side.
//!
//! Who unpacks a layer asks for those below it only where its tar leaves something open: the metadata of a directory it does not
//! mention, a symlink on the way, a hard link to what is below, and at its end what its whiteouts hide. There it waits until the
//! one below is in the store. So what comes out is what one after the other gives, and until then all go on; a layer that needs
//! them at once has read ahead as far as its buffers hold.
//!
//! They are begun in their order, and wait for lower ones only: of those that run, the lowest always can go on. Another process
//! that makes the same layers holds a layer's lock while it waits for lower ones: there is no way round either.

use std::io::{self, Read};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, scope};

use super::Fault;
use super::chain::chain_id;
use super::layer::LayerRef;
use super::layers::{Expected, LayerStore};
use super::unpack::Parent;
use crate::digest::Digest;
use crate::error::{Error, Result};

/// No more side by side, whatever was asked for.
const MOST: usize = 64;

impl LayerStore {
    /// Applies layers on each other and on `parent`, the lowest first, as [`apply`](LayerStore::apply) does one by one, and gives the
    /// top one; None of no layers. Several are unpacked side by side: see [`with_threads`](LayerStore::with_threads). `layers` is
    /// asked for the next one when that is begun. Files are made by the calling thread and by helpers that it starts, with its ids
    /// and in its namespaces; where no helper can be started, by it alone.
    ///
    /// # Errors
    /// As [`apply`](LayerStore::apply): that of the lowest layer that has one. Those below it are in the store, in use by nobody.
    ///
    /// # Panics
    /// If `layers` or one of the readers does.
    pub fn apply_all<R: Read + Send>(
        &self,
        parent: Option<&LayerRef>,
        layers: impl IntoIterator<Item = (R, Expected), IntoIter: Send>,
    ) -> Result<Option<LayerRef>> {
        self.apply_each(parent, layers.into_iter().map(Ok))
    }

    /// The same of layers each of which may be an error of its own.
    pub(super) fn apply_each<R: Read + Send>(
        &self,
        parent: Option<&LayerRef>,
        layers: impl Iterator<Item = Result<(R, Expected)>> + Send,
    ) -> Result<Option<LayerRef>> {
        let parent = Parent {
            chain: self.own(parent)?,
            directories: parent.map(LayerRef::directories).unwrap_or_default(),
        };
        let stack = Stack {
            store: self,
            queue: Mutex::new(Queue {
                layers,
                begun: 0,
                chain: Some(parent.chain),
                top: Arc::new(Slot::of(parent)),
            }),
            failed_at: AtomicUsize::new(usize::MAX),
            error: Mutex::new(None),
        };
        scope(|scope| {
            let help = |_| {
                let name = "layer-unpack".to_owned();
                // Where no more can be started, these and the caller's do.
                Builder::new()
                    .name(name)
                    .spawn_scoped(scope, || stack.work())
                    .ok()
            };
            let helpers: Vec<_> = (1..self.threads.min(MOST)).map_while(help).collect();
            stack.work();
            for helper in helpers {
                helper.join().unwrap_or_else(|panic| resume_unwind(panic));
            }
        });
        stack.finish()
    }
}

struct Stack<'a, L> {
    store: &'a LayerStore,
    queue: Mutex<Queue<L>>,
    /// The lowest layer that failed: those above it are made in vain.
    failed_at: AtomicUsize,
    error: Mutex<Option<(usize, Error)>>,
}

/// The layers that were not begun.
struct Queue<L> {
    layers: L,
    begun: usize,
    /// The chain id of the last one begun, where it is known before it is made.
    chain: Option<Option<Digest>>,
    top: Arc<Slot>,
}

/// A layer that was begun.
struct Task<R> {
    at: usize,
    layer: Result<(R, Expected)>,
    known: Option<Digest>,
    below: Arc<Slot>,
    slot: Arc<Slot>,
}

/// What becomes of a layer.
#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Working,
    /// It is in the store, in use as long as there is a `LayerRef`.
    There(Parent, Option<LayerRef>),
    Failed,
}

impl<R: Read + Send, L: Iterator<Item = Result<(R, Expected)>> + Send> Stack<'_, L> {
    fn work(&self) {
        while let Some(task) = self.begin() {
            let Task {
                at,
                layer,
                known,
                below,
                slot,
            } = task;
            // Also where it panics, nobody waits for it for ever.
            let mut done = Done {
                stack: self,
                at,
                slot: &slot,
                made: None,
            };
            match layer.and_then(|layer| self.make(at, layer, known, &below)) {
                Ok(made) => done.made = Some(made),
                Err(error) => self.fail(at, error),
            }
            drop(done);
            // This one's lease holds it too.
            below.release();
        }
    }

    fn begin(&self) -> Option<Task<R>> {
        // Who panicked there has the iterator in a state nobody knows.
        let mut queue = self.queue.lock().ok()?;
        if self.failed_at.load(Ordering::Acquire) != usize::MAX {
            return None;
        }
        let layer = queue.layers.next()?;
        let expected = layer
            .as_ref()
            .ok()
            .and_then(|(_, expected)| expected.diff_id);
        let known = queue
            .chain
            .zip(expected)
            .map(|(below, diff_id)| chain_id(below, diff_id));
        queue.chain = known.map(Some);
        let slot = Arc::new(Slot::default());
        let below = std::mem::replace(&mut queue.top, Arc::clone(&slot));
        queue.begun += 1;
        let at = queue.begun - 1;
        Some(Task {
            at,
            layer,
            known,
            below,
            slot,
        })
    }

    fn make(
        &self,
        at: usize,
        (reader, expected): (R, Expected),
        known: Option<Digest>,
        below: &Slot,
    ) -> Result<LayerRef> {
        let failed_at = &self.failed_at;
        let reader = InVain {
            reader,
            at,
            failed_at,
        };
        let made = self.store.make(known, &|| below.wait(), reader, expected)?;
        // One that was there already: those below are too, or the lowest error is theirs.
        below.wait()?;
        Ok(made)
    }

    fn fail(&self, at: usize, error: Error) {
        let mut first = lock(&self.error);
        if first.as_ref().is_none_or(|(lowest, _)| at < *lowest) {
            *first = Some((at, error));
        }
    }

    fn finish(self) -> Result<Option<LayerRef>> {
        let error = self
            .error
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((_, error)) = error {
            return Err(error);
        }
        let queue = self
            .queue
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let state = std::mem::take(&mut *lock(&queue.top.state));
        match state {
            State::There(_, made) => Ok(made),
            State::Working | State::Failed => Ok(None),
        }
    }
}

impl Slot {
    fn of(parent: Parent) -> Self {
        Slot {
            state: Mutex::new(State::There(parent, None)),
            changed: Condvar::new(),
        }
    }

    /// Waits until it is in the store.
    fn wait(&self) -> Result<Parent> {
        let working = |state: &mut State| matches!(state, State::Working);
        let state = self
            .changed
            .wait_while(lock(&self.state), working)
            .unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::There(parent, _) => Ok(parent.clone()),
            State::Working | State::Failed => Err(Fault::NothingBelow.into()),
        }
    }

    fn set(&self, state: State) {
        *lock(&self.state) = state;
        self.changed.notify_all();
    }

    fn release(&self) {
        if let State::There(_, made) = &mut *lock(&self.state) {
            drop(made.take());
        }
    }
}

/// Tells what became of a layer when it is dropped.
struct Done<'a, 'b, L> {
    stack: &'a Stack<'b, L>,
    at: usize,
    slot: &'a Slot,
    made: Option<LayerRef>,
}

impl<L> Drop for Done<'_, '_, L> {
    fn drop(&mut self) {
        let state = match self.made.take() {
            Some(made) => {
                let parent = Parent {
                    chain: Some(made.chain_id()),
                    directories: made.directories(),
                };
                State::There(parent, Some(made))
            }
            None => {
                self.stack.failed_at.fetch_min(self.at, Ordering::AcqRel);
                State::Failed
            }
        };
        self.slot.set(state);
    }
}

/// A layer that is read only as long as none below it has failed.
struct InVain<'a, R> {
    reader: R,
    at: usize,
    failed_at: &'a AtomicUsize,
}

impl<R: Read> Read for InVain<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.failed_at.load(Ordering::Acquire) < self.at {
            return Err(io::Error::other("a layer below it failed"));
        }
        self.reader.read(buffer)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
