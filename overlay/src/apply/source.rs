//! The tar stream as its parser sees it.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::failure::Failure;
use super::pipe::{Chunk, Piece};

pub(crate) const BLOCK: usize = 512;

/// Chunks one after the other, without a copy.
pub(crate) struct Source<'a> {
    pieces: &'a Receiver<Piece>,
    chunk: Option<Arc<Chunk>>,
    used: usize,
    /// Where in the stream.
    pub(crate) at: u64,
}

impl<'a> Source<'a> {
    pub(crate) fn new(pieces: &'a Receiver<Piece>) -> Self {
        Source {
            pieces,
            chunk: None,
            used: 0,
            at: 0,
        }
    }

    /// What is there of the next `most` bytes, at least one of them, or none at the end.
    pub(crate) fn take(&mut self, most: u64) -> Result<&[u8], Failure> {
        if self
            .chunk
            .as_ref()
            .is_none_or(|chunk| self.used == chunk.len())
        {
            self.chunk = self.pieces.recv().ok().transpose()?;
            self.used = 0;
        }
        let Some(chunk) = &self.chunk else {
            return Ok(&[]);
        };
        let rest = &chunk[self.used..];
        let count = usize::try_from(most).unwrap_or(usize::MAX).min(rest.len());
        self.used += count;
        self.at += count as u64;
        Ok(&rest[..count])
    }

    /// The same of bytes that must be there.
    pub(crate) fn must_take(&mut self, most: u64) -> Result<&[u8], Failure> {
        let at = self.at;
        match self.take(most)? {
            [] => Err(Failure::Stream {
                at,
                why: "it ends within an entry",
            }),
            some => Ok(some),
        }
    }

    /// A block, or `false` where the stream ends before it.
    pub(crate) fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, Failure> {
        let mut filled = 0;
        while filled < BLOCK {
            let at = self.at;
            let some = self.take((BLOCK - filled) as u64)?;
            match some.len() {
                0 if filled == 0 => return Ok(false),
                0 => {
                    return Err(Failure::Stream {
                        at,
                        why: "it ends within a block",
                    });
                }
                count => block[filled..filled + count].copy_from_slice(some),
            }
            filled += some.len();
        }
        Ok(true)
    }

    /// The next `size` bytes, which the caller has found to be few.
    pub(crate) fn bytes(&mut self, size: u64) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < size {
            let some = self.must_take(size - bytes.len() as u64)?;
            bytes.extend_from_slice(some);
        }
        Ok(bytes)
    }

    pub(crate) fn skip(&mut self, mut count: u64) -> Result<(), Failure> {
        while count > 0 {
            count -= self.must_take(count)?.len() as u64;
        }
        Ok(())
    }

    /// Reads to the end, for the digests and the errors of who reads.
    pub(crate) fn drain(&mut self) -> Result<(), Failure> {
        while !self.take(u64::MAX)?.is_empty() {}
        Ok(())
    }
}

/// The bytes that fill the last block of `size` bytes.
pub(crate) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}
