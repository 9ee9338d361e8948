//! From the reader to the tar stream: one thread reads and inflates, one hashes, the caller's parses and writes. What is
//! not compressed is hashed by the thread that reads it, which together takes less time than to write it.
//!
//! Chunks go round: whoever drops the last reference to one hands its buffer back, so that memory is bounded and a
//! reader that is ahead waits. There is no second thread that writes: with three the two cores of a small
//! machine were slower.

use std::io::{self, BufRead, Read, Write};
use std::ops::Deref;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, Scope};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;

use super::failure::Failure;
use super::limits::{Limits, RATIO_FROM};
use crate::digest::{Digest, Hashing};

/// Small enough for a core's second-level cache, which all three threads read it from.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 24;

/// How many buffers must be back before a reader that ran out of them goes on. If it were one, it would be woken for each.
const ENOUGH: usize = CHUNKS / 2;

/// How a layer was compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, of one or more members.
    Gzip,
    /// Zstandard, of one or more frames.
    Zstd,
}

/// Some bytes of a stream.
#[derive(Debug)]
pub(crate) struct Chunk {
    buffer: Vec<u8>,
    filled: usize,
    home: Arc<Home>,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.home.put(std::mem::take(&mut self.buffer));
    }
}

pub(crate) type Piece = Result<Arc<Chunk>, Failure>;

/// What the threads found out.
#[derive(Debug)]
pub(crate) struct Sums {
    pub(crate) blob: Sum,
    pub(crate) tar: Sum,
    pub(crate) compression: Compression,
}

/// The sha256 of a stream, and its bytes.
type Sum = (Digest, u64);

/// The running threads.
pub(crate) struct Pipe<'scope> {
    pub(crate) tar: Receiver<Piece>,
    reading: std::thread::ScopedJoinHandle<'scope, (Compression, Option<Sum>)>,
    hashing: std::thread::ScopedJoinHandle<'scope, [Sum; 2]>,
}

impl<'scope> Pipe<'scope> {
    /// Starts them in `scope`.
    pub(crate) fn start<'env, R: Read + Send + 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        reader: R,
        limits: &'scope Limits,
    ) -> io::Result<Self> {
        let (tar, tar_receiver) = channel();
        let (sums, sums_receiver) = channel();
        let hashing = Builder::new()
            .name("layer-hash".into())
            .spawn_scoped(scope, move || hash(&sums_receiver))?;
        let reading = Builder::new()
            .name("layer-read".into())
            .spawn_scoped(scope, move || {
                let mut out = Out {
                    tar,
                    hash: Hash::There(sums),
                    limits,
                    tar_bytes: 0,
                };
                let mut compression = Compression::None;
                if let Err(Stop::Failed(failure)) = read(reader, &mut out, &mut compression) {
                    // A caller that has stopped listening has an error of its own.
                    let _stopped = out.tar.send(Err(failure)).is_err();
                }
                (compression, out.hash.finish())
            })?;
        Ok(Pipe {
            tar: tar_receiver,
            reading,
            hashing,
        })
    }

    /// Waits for the threads, which end at the end of the stream, or after the next read when `self.tar` is dropped.
    pub(crate) fn finish(self) -> Sums {
        drop(self.tar);
        let (compression, plain) = joined(self.reading);
        let [blob, tar] = match (joined(self.hashing), plain) {
            (_, Some(both)) => [both; 2],
            (sums, None) => sums,
        };
        Sums {
            blob,
            tar,
            compression,
        }
    }
}

/// A panic there is one of the caller's reader, and is passed on.
fn joined<T>(handle: std::thread::ScopedJoinHandle<'_, T>) -> T {
    handle
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

enum Summed {
    Blob(Arc<Chunk>),
    Tar(Arc<Chunk>),
}

fn hash(chunks: &Receiver<Summed>) -> [Sum; 2] {
    let (mut blob, mut tar) = (Hashing::new(io::sink()), Hashing::new(io::sink()));
    for chunk in chunks {
        match chunk {
            Summed::Blob(chunk) => take(&mut blob, &chunk),
            Summed::Tar(chunk) => take(&mut tar, &chunk),
        }
    }
    [blob, tar].map(sum)
}

fn take(hashing: &mut Hashing<io::Sink>, chunk: &[u8]) {
    // A sink takes it all.
    let _taken = hashing.write_all(chunk).is_ok();
}

fn sum(hashing: Hashing<io::Sink>) -> Sum {
    let (_sink, digest, size) = hashing.finish();
    (digest, size)
}

/// Where the tar stream is hashed.
enum Hash {
    There(Sender<Summed>),
    Here(Hashing<io::Sink>),
}

impl Hash {
    fn take(&mut self, chunk: &Arc<Chunk>) {
        match self {
            Hash::There(sums) => {
                let _panicked = sums.send(Summed::Tar(chunk.clone())).is_err();
            }
            Hash::Here(hashing) => take(hashing, chunk),
        }
    }

    fn there(&self) -> Option<Sender<Summed>> {
        match self {
            Hash::There(sums) => Some(sums.clone()),
            Hash::Here(_) => None,
        }
    }

    fn finish(self) -> Option<Sum> {
        match self {
            Hash::There(_) => None,
            Hash::Here(hashing) => Some(sum(hashing)),
        }
    }
}

enum Stop {
    Failed(Failure),
    /// Nobody listens any more.
    Unheard,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

struct Out<'a> {
    tar: Sender<Piece>,
    hash: Hash,
    limits: &'a Limits,
    tar_bytes: u64,
}

impl Out<'_> {
    fn send(&mut self, chunk: Arc<Chunk>, blob_bytes: Option<u64>) -> Result<(), Stop> {
        self.tar_bytes += chunk.len() as u64;
        let limit = self.limits.bytes;
        if self.tar_bytes > limit {
            let what = "bytes of tar stream";
            return Err(Failure::Limit { what, limit }.into());
        }
        let limit = self.limits.ratio;
        let expands = |blob: u64| self.tar_bytes / blob.max(1) >= limit;
        if self.tar_bytes > RATIO_FROM && blob_bytes.is_some_and(expands) {
            let what = "bytes of tar stream for a byte of the compressed one";
            return Err(Failure::Limit { what, limit }.into());
        }
        self.hash.take(&chunk);
        self.tar.send(Ok(chunk)).map_err(|_unheard| Stop::Unheard)
    }
}

fn read(reader: impl Read, out: &mut Out<'_>, found: &mut Compression) -> Result<(), Stop> {
    let mut pool = Pool::default();
    let mut input = Input::new(reader, out.hash.there());
    let magic = input.fill_buf().map_err(failed("read"))?;
    *found = match magic {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return unsupported("a layer compressed with xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, ..] => {
            return unsupported("a layer compressed with bzip2");
        }
        _ => Compression::None,
    };
    match found {
        Compression::None => plain(&mut input, out),
        Compression::Gzip => gzip(&mut input, &mut pool, out),
        Compression::Zstd => zstd(&mut input, &mut pool, out),
    }
}

fn unsupported<T>(what: &'static str) -> Result<T, Stop> {
    Err(Failure::Unsupported { what }.into())
}

fn plain(input: &mut Input<impl Read>, out: &mut Out<'_>) -> Result<(), Stop> {
    // Once, and while it is in this core's cache.
    input.hashed = None;
    out.hash = Hash::Here(Hashing::new(io::sink()));
    while let Some(chunk) = input.next().map_err(failed("read"))? {
        out.send(chunk, None)?;
    }
    Ok(())
}

fn gzip(input: &mut Input<impl Read>, pool: &mut Pool, out: &mut Out<'_>) -> Result<(), Stop> {
    let mut decoder = MultiGzDecoder::new(input);
    while let Some(chunk) = pool.fill(&mut decoder).map_err(failed("gzip"))? {
        out.send(chunk, Some(decoder.get_ref().bytes))?;
    }
    Ok(())
}

fn zstd(input: &mut Input<impl Read>, pool: &mut Pool, out: &mut Out<'_>) -> Result<(), Stop> {
    loop {
        let magic: [u8; 4] = match input.exactly().map_err(failed("zstd"))? {
            Some(magic) => magic,
            None => return Ok(()),
        };
        if matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18]) {
            skip_frame(input).map_err(failed("zstd"))?;
        } else {
            frame(magic, input, pool, out)?;
        }
    }
}

fn skip_frame(input: &mut Input<impl Read>) -> io::Result<()> {
    let size = input.exactly()?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let size = u64::from(u32::from_le_bytes(size));
    match io::copy(&mut input.take(size), &mut io::sink())? {
        skipped if skipped == size => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn frame(
    magic: [u8; 4],
    input: &mut Input<impl Read>,
    pool: &mut Pool,
    out: &mut Out<'_>,
) -> Result<(), Stop> {
    let corrupt = |why: String| Failure::Compressed {
        format: "zstd",
        why,
    };
    let mut source = magic.chain(input);
    let mut decoder =
        StreamingDecoder::new(&mut source).map_err(|error| corrupt(error.to_string()))?;
    while let Some(chunk) = pool.fill(&mut decoder).map_err(failed("zstd"))? {
        let blob_bytes = decoder.get_ref().get_ref().1.bytes;
        out.send(chunk, Some(blob_bytes))?;
    }
    let inner = &decoder.decoder;
    match inner.get_checksum_from_data() {
        expected @ Some(_) if inner.get_calculated_checksum() != expected => {
            Err(corrupt("a frame's checksum is wrong".to_owned()).into())
        }
        _ => Ok(()),
    }
}

/// Errors of the caller's reader have an errno or a text of its own; those of a decoder are about the bytes.
fn failed(format: &'static str) -> impl Fn(io::Error) -> Stop {
    move |error| {
        let decoder = error.raw_os_error().is_none()
            && matches!(
                error.kind(),
                io::ErrorKind::InvalidInput
                    | io::ErrorKind::InvalidData
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::Other
            );
        if decoder && format != "read" {
            let why = error.to_string();
            return Stop::Failed(Failure::Compressed { format, why });
        }
        Stop::Failed(Failure::Read { error })
    }
}

/// At most so many buffers, each made when it is first needed.
#[derive(Default)]
struct Pool {
    home: Arc<Home>,
    ready: Vec<Vec<u8>>,
    made: usize,
}

/// Where buffers come back to.
#[derive(Debug, Default)]
struct Home {
    back: Mutex<Vec<Vec<u8>>>,
    enough: Condvar,
}

impl Home {
    fn put(&self, buffer: Vec<u8>) {
        let mut back = self.back.lock().unwrap_or_else(PoisonError::into_inner);
        back.push(buffer);
        let enough = back.len() == ENOUGH;
        drop(back);
        if enough {
            self.enough.notify_one();
        }
    }

    fn take(&self) -> Vec<Vec<u8>> {
        let mut back = self.back.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *back)
    }

    /// Those in use come back all but two: a chunk that is being hashed, and one that is being written.
    fn wait(&self) -> Vec<Vec<u8>> {
        let back = self.back.lock().unwrap_or_else(PoisonError::into_inner);
        let mut back = self
            .enough
            .wait_while(back, |back| back.len() < ENOUGH)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *back)
    }
}

impl Pool {
    fn buffer(&mut self) -> Vec<u8> {
        if self.ready.is_empty() {
            self.ready = self.home.take();
        }
        if self.ready.is_empty() && self.made == CHUNKS {
            self.ready = self.home.wait();
        }
        self.ready.pop().unwrap_or_else(|| {
            self.made += 1;
            vec![0; CHUNK]
        })
    }

    /// A chunk as full as the reader can make it, none at the end.
    fn fill(&mut self, reader: &mut impl Read) -> io::Result<Option<Arc<Chunk>>> {
        let mut chunk = Chunk {
            buffer: self.buffer(),
            filled: 0,
            home: self.home.clone(),
        };
        while chunk.filled < CHUNK {
            match reader.read(&mut chunk.buffer[chunk.filled..]) {
                Ok(0) => break,
                // A reader that claims more than it was given room for is wrong, not to be believed.
                Ok(count) => chunk.filled = (chunk.filled + count).min(CHUNK),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok((chunk.filled > 0).then(|| Arc::new(chunk)))
    }
}

/// The caller's reader in chunks, each of which is hashed elsewhere.
struct Input<R> {
    reader: R,
    pool: Pool,
    chunk: Option<Arc<Chunk>>,
    used: usize,
    bytes: u64,
    hashed: Option<Sender<Summed>>,
}

impl<R: Read> Input<R> {
    fn new(reader: R, hashed: Option<Sender<Summed>>) -> Self {
        Input {
            reader,
            pool: Pool::default(),
            chunk: None,
            used: 0,
            bytes: 0,
            hashed,
        }
    }

    /// The chunk that was looked at and not used, or the next.
    fn next(&mut self) -> io::Result<Option<Arc<Chunk>>> {
        if let Some(chunk) = self.chunk.take() {
            return Ok(Some(chunk));
        }
        self.pool.fill(&mut self.reader)
    }

    /// The next `N` bytes, none at the end.
    fn exactly<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        if self.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(Some(bytes))
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self
            .chunk
            .as_ref()
            .is_none_or(|chunk| self.used == chunk.len())
        {
            self.chunk = None;
            self.used = 0;
            self.chunk = self.pool.fill(&mut self.reader)?;
            self.bytes += self.chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        }
        Ok(self.chunk.as_ref().map_or(&[], |chunk| &chunk[self.used..]))
    }

    fn consume(&mut self, count: usize) {
        if self.used == 0 && count > 0 {
            // The first use: by now it is known whether the stream is compressed.
            if let (Some(hashed), Some(chunk)) = (&self.hashed, &self.chunk) {
                let _panicked = hashed.send(Summed::Blob(chunk.clone())).is_err();
            }
        }
        self.used += count;
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let count = available.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
