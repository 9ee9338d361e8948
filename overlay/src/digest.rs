//! Names of content: sha256 digests.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Inner};

/// The sha256 of some bytes, shown and parsed as `sha256:` with 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Digest(Sha256::digest(bytes).into())
    }

    /// The digest itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 digits alone, as in names of files.
    #[must_use]
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.0
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .map(|digit| char::from(DIGITS[usize::from(digit)]))
            .collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.strip_prefix("sha256:")
            .and_then(parse_hex)
            .ok_or_else(|| {
                Error::from(Inner::NoDigest {
                    text: text.chars().take(100).collect(),
                })
            })
    }
}

/// 64 digits and nothing else: what is parsed here becomes the name of a file.
fn parse_hex(text: &str) -> Option<Digest> {
    let value = |letter: u8| match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    };
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(Digest(bytes))
}

/// Passes bytes on, and hashes and counts them.
pub(crate) struct Hashing<T> {
    inner: T,
    sha256: Sha256,
    count: u64,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Hashing {
            inner,
            sha256: Sha256::new(),
            count: 0,
        }
    }

    /// What passed: its digest and its bytes.
    pub(crate) fn finish(self) -> (T, Digest, u64) {
        (
            self.inner,
            Digest(self.sha256.finalize().into()),
            self.count,
        )
    }

    fn take(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.count += bytes.len() as u64;
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.take(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.take(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn it_is_shown_as_it_is_parsed() {
        assert_eq!(Digest::of("").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(""));
    }

    #[test]
    fn nothing_else_is_parsed() {
        let upper = EMPTY.to_uppercase();
        let long = format!("{EMPTY}0");
        for text in [
            "",
            "sha256:",
            "sha256:../../etc",
            &EMPTY[..70],
            &upper,
            &long,
            &EMPTY[7..],
        ] {
            text.parse::<Digest>().unwrap_err();
        }
    }

    #[test]
    fn what_passes_is_hashed_and_counted() {
        let mut through = Hashing::new(Vec::new());
        through.write_all(b"abc").unwrap();
        let (written, digest, count) = through.finish();
        assert_eq!(
            (written.as_slice(), digest, count),
            (&b"abc"[..], Digest::of("abc"), 3)
        );
        let mut through = Hashing::new(&b"abc"[..]);
        io::copy(&mut through, &mut io::sink()).unwrap();
        assert_eq!(through.finish().1, Digest::of("abc"));
    }
}
