//! The entries of a tar stream: ustar, PAX, GNU long names and sparse files.
//!
//! A parser of its own, since what one reader of a layer sees, every other has to see. Where the readers in use (GNU tar,
//! libarchive, those of Go and Python) disagree about a stream, it is refused rather than guessed at: a directory with a
//! body, two names for one entry that differ, a size for all entries, a lone zero block.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::failure::Failure;
use super::limits::Limits;
use super::pax::{Records, Sparse, Time, fits_id};
use super::source::{BLOCK, Source, padding};

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Link,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// One entry. Its data is next in the stream, and padded to whole blocks.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Bytes in the stream.
    pub(crate) stored: u64,
    /// What it has after its last byte in the stream, or before the first, counts from the start of the data.
    pub(crate) padding: u64,
    pub(crate) holes: Option<Holes>,
}

/// A file with holes: its size and where its data is, in order, without overlaps, `stored` bytes in all.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Holes {
    pub(crate) size: u64,
    pub(crate) data: Vec<(u64, u64)>,
}

/// The headers of a stream.
pub(crate) struct Entries<'a> {
    limits: &'a Limits,
    for_all: Records,
    ended: bool,
}

/// What comes before an entry's own header.
#[derive(Default)]
struct Before {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Option<Records>,
    bytes: u64,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(limits: &'a Limits) -> Self {
        Entries {
            limits,
            for_all: Records::default(),
            ended: false,
        }
    }

    /// The next entry. The data of the one before has been read or skipped, its padding too.
    pub(crate) fn next(&mut self, source: &mut Source<'_>) -> Result<Option<Entry>, Failure> {
        let mut before = Before::default();
        let mut block = [0; BLOCK];
        while !self.ended {
            let at = source.at;
            let wrong = |why| Failure::Stream { at, why };
            if !source.block(&mut block)? || is_zero(&block) {
                self.end(source, &mut block)?;
                if before.bytes > 0 {
                    return Err(wrong("it ends after an extended header"));
                }
                break;
            }
            let header = Header(&block);
            header.check().map_err(wrong)?;
            let extension = matches!(header.typeflag(), b'x' | b'g' | b'L' | b'K');
            if !extension {
                return self.entry(header, before, source).map(Some);
            }
            let size = header.size().map_err(wrong)?;
            let body = self.extension(size, &mut before, source)?;
            self.extend(header.typeflag(), body, &mut before)
                .map_err(wrong)?;
        }
        Ok(None)
    }

    /// After a zero block, or where the stream stopped between entries.
    fn end(&mut self, source: &mut Source<'_>, block: &mut [u8; BLOCK]) -> Result<(), Failure> {
        self.ended = true;
        let at = source.at;
        if source.block(block)? && !is_zero(block) {
            let why = "a lone block of zeros, where some readers stop and some go on";
            return Err(Failure::Stream { at, why });
        }
        Ok(())
    }

    fn extension(
        &self,
        size: u64,
        before: &mut Before,
        source: &mut Source<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let limit = self.limits.header_bytes;
        before.bytes = before
            .bytes
            .saturating_add(size)
            .saturating_add(BLOCK as u64);
        if before.bytes > limit {
            let what = "bytes of extended headers for an entry";
            return Err(Failure::Limit { what, limit });
        }
        let body = source.bytes(size)?;
        source.skip(padding(size))?;
        Ok(body)
    }

    fn extend(&mut self, kind: u8, body: Vec<u8>, before: &mut Before) -> Result<(), &'static str> {
        match kind {
            b'L' => before.path = Some(until_nul(&body).to_vec()),
            b'K' => before.link = Some(until_nul(&body).to_vec()),
            b'x' if before.records.is_some() => return Err("two PAX headers for one entry"),
            b'x' => before.records = Some(Records::parse(&body)?),
            _ => {
                let records = Records::parse(&body)?;
                if !records.fit_for_all() {
                    return Err("a global PAX header names or sizes entries, or has xattrs");
                }
                self.for_all.update(&records);
            }
        }
        Ok(())
    }

    fn entry(
        &self,
        header: Header<'_>,
        before: Before,
        source: &mut Source<'_>,
    ) -> Result<Entry, Failure> {
        let at = source.at - BLOCK as u64;
        let wrong = |why| Failure::Stream { at, why };
        let Before {
            path,
            link,
            records,
            ..
        } = before;
        let records = records.unwrap_or_default();
        let path = one_of(path, records.path, || header.path()).map_err(wrong)?;
        let link = one_of(link, records.link, || header.link()).map_err(wrong)?;
        let mut sparse = records.sparse;
        let path = sparse
            .as_mut()
            .and_then(|sparse| sparse.name.take())
            .unwrap_or(path);
        let named = |why: &str| Failure::Entry {
            entry: OsString::from_vec(path.clone()).into(),
            why: why.to_owned(),
        };
        let kind = header.kind(&path).map_err(named)?;
        let size = match records.size {
            Some(size) => size,
            None => header.size().map_err(named)?,
        };
        let mut entry = Entry {
            kind,
            link,
            mode: (header.number(100..108).map_err(named)? & 0o7777) as u32,
            uid: id(records.uid.or(self.for_all.uid), || header.number(108..116)).map_err(named)?,
            gid: id(records.gid.or(self.for_all.gid), || header.number(116..124)).map_err(named)?,
            mtime: match records.mtime.or(self.for_all.mtime) {
                Some(time) => time,
                None => header.mtime().map_err(named)?,
            },
            device: header.device().map_err(named)?,
            xattrs: records.xattrs,
            stored: size,
            padding: padding(size),
            holes: None,
            path: Vec::new(),
        };
        entry.limit_body().map_err(named)?;
        self.find_holes(header, sparse, &mut entry, source, named)?;
        self.limit_file(&entry)?;
        entry.path = path;
        Ok(entry)
    }

    fn find_holes(
        &self,
        header: Header<'_>,
        sparse: Option<Sparse>,
        entry: &mut Entry,
        source: &mut Source<'_>,
        named: impl Fn(&str) -> Failure,
    ) -> Result<(), Failure> {
        match (entry.kind, sparse, header.typeflag()) {
            (Kind::File, None, b'S') => self.old_gnu_sparse(header, entry, source),
            (Kind::File, Some(sparse), b'0' | 0) => self.pax_sparse(sparse, entry, source),
            (_, None, _) => Ok(()),
            _ => Err(named("records of a sparse file on what is none")),
        }
    }

    fn limit_file(&self, entry: &Entry) -> Result<(), Failure> {
        let holes = entry.holes.as_ref().map_or(0, |holes| holes.size);
        let limit = self.limits.file_bytes;
        match entry.stored.max(holes) > limit {
            true => Err(Failure::Limit {
                what: "bytes of one file",
                limit,
            }),
            false => Ok(()),
        }
    }

    /// The map in the header, and in blocks after it.
    fn old_gnu_sparse(
        &self,
        header: Header<'_>,
        entry: &mut Entry,
        source: &mut Source<'_>,
    ) -> Result<(), Failure> {
        let at = source.at;
        let wrong = |why| Failure::Stream { at, why };
        let mut map = Vec::new();
        let mut more =
            part_of_map(&header.0[386..482], &mut map).map_err(wrong)? && header.0[482] != 0;
        let size = header.number(483..495).map_err(wrong)?;
        let mut block = [0; BLOCK];
        while more {
            self.limit_map(map.len())?;
            if !source.block(&mut block)? {
                return Err(wrong("it ends within a sparse map"));
            }
            more = part_of_map(&block[..504], &mut map).map_err(wrong)? && block[504] != 0;
        }
        entry.holes = Some(Holes::new(size, &map, entry.stored).map_err(wrong)?);
        Ok(())
    }

    fn pax_sparse(
        &self,
        sparse: Sparse,
        entry: &mut Entry,
        source: &mut Source<'_>,
    ) -> Result<(), Failure> {
        let at = source.at;
        let wrong = |why| Failure::Stream { at, why };
        let size = sparse.size.ok_or(wrong("a sparse file without a size"))?;
        let map = match (sparse.major, sparse.minor) {
            (0, _) => sparse.map,
            (1, 0) => self.map_before_data(entry, source)?,
            _ => return Err(wrong("a sparse file of an unknown format")),
        };
        entry.holes = Some(Holes::new(size, &map, entry.stored).map_err(wrong)?);
        Ok(())
    }

    /// Format 1.0: decimal numbers in the first blocks of the body, how many pairs first.
    fn map_before_data(
        &self,
        entry: &mut Entry,
        source: &mut Source<'_>,
    ) -> Result<Vec<u64>, Failure> {
        let at = source.at;
        let wrong = |why| Failure::Stream { at, why };
        let (mut map, mut expected, mut digits) = (Vec::new(), None, Vec::new());
        let mut block = [0; BLOCK];
        while expected.is_none_or(|expected| (map.len() as u64) < expected) {
            if entry.stored < BLOCK as u64 || !source.block(&mut block)? {
                return Err(wrong("it ends within a sparse map"));
            }
            entry.stored -= BLOCK as u64;
            self.limit_map(map.len())?;
            for byte in block {
                if byte != b'\n' {
                    digits.push(byte);
                    continue;
                }
                let number = super::pax::number(&digits).map_err(wrong)?;
                let number = number.ok_or(wrong("a sparse map with a gap"))?;
                digits.clear();
                match expected {
                    None => expected = Some(number.saturating_mul(2)),
                    Some(_) => map.push(number),
                }
                if expected == Some(map.len() as u64) {
                    break;
                }
            }
            if digits.len() > 20 {
                return Err(wrong("a number in a sparse map is too large"));
            }
        }
        Ok(map)
    }

    fn limit_map(&self, numbers: usize) -> Result<(), Failure> {
        let limit = self.limits.header_bytes;
        if numbers as u64 * 8 > limit {
            let what = "bytes of extended headers for an entry";
            return Err(Failure::Limit { what, limit });
        }
        Ok(())
    }
}

impl Entry {
    /// Only files have a body. Some archivers say the size of the file that is linked to, which no reader takes for that of
    /// a body.
    fn limit_body(&mut self) -> Result<(), &'static str> {
        match (self.kind, self.stored) {
            (Kind::File, _) | (_, 0) => {}
            (Kind::Link, _) => (self.stored, self.padding) = (0, 0),
            _ => return Err("it has a body, which only files have"),
        }
        Ok(())
    }
}

impl Holes {
    fn new(size: u64, map: &[u64], stored: u64) -> Result<Self, &'static str> {
        let mut data = Vec::with_capacity(map.len() / 2);
        let (mut end, mut sum) = (0_u64, 0_u64);
        if map.len() % 2 != 0 {
            return Err("a sparse map with half a pair");
        }
        for pair in map.chunks_exact(2) {
            let (offset, length) = (pair[0], pair[1]);
            let next = offset.checked_add(length).filter(|next| *next <= size);
            if offset < end {
                return Err("a sparse map out of order");
            }
            end = next.ok_or("a sparse map beyond the file's end")?;
            sum += length;
            if length > 0 {
                data.push((offset, length));
            }
        }
        if sum != stored {
            return Err("a sparse map of other data than there is");
        }
        Ok(Holes { size, data })
    }
}

/// Pairs of 12 byte numbers; whether the map goes on after them.
fn part_of_map(bytes: &[u8], map: &mut Vec<u64>) -> Result<bool, &'static str> {
    for pair in bytes.chunks_exact(24) {
        if pair[12] == 0 {
            return Ok(false);
        }
        map.push(unsigned(&pair[..12])?);
        map.push(unsigned(&pair[12..])?);
    }
    Ok(true)
}

/// GNU's long name, PAX's, or the header's.
fn one_of(
    long: Option<Vec<u8>>,
    pax: Option<Vec<u8>>,
    short: impl FnOnce() -> Vec<u8>,
) -> Result<Vec<u8>, &'static str> {
    match (long, pax) {
        (Some(long), Some(pax)) if long != pax => Err("two names for one entry"),
        (Some(name), _) | (_, Some(name)) => Ok(name),
        (None, None) => Ok(short()),
    }
}

fn id(
    pax: Option<u32>,
    header: impl FnOnce() -> Result<u64, &'static str>,
) -> Result<u32, &'static str> {
    match pax {
        Some(id) => Ok(id),
        None => fits_id(header()?).ok_or("an id beyond 32 bits"),
    }
}

/// A header's block.
#[derive(Clone, Copy)]
struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    fn check(self) -> Result<(), &'static str> {
        const WRONG: &str = "it is no tar header, or a damaged one";
        let expected = unsigned(&self.0[148..156]).map_err(|_not_octal| WRONG)?;
        let mut block = *self.0;
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        // Some old writers took bytes for signed.
        let signed = || -> i32 { block.iter().map(|byte| i32::from(*byte as i8)).sum() };
        if expected == u64::from(sum) || i64::try_from(expected) == Ok(signed().into()) {
            return Ok(());
        }
        Err(WRONG)
    }

    fn typeflag(self) -> u8 {
        self.0[156]
    }

    fn kind(self, path: &[u8]) -> Result<Kind, &'static str> {
        let slash = path.ends_with(b"/");
        Ok(match self.typeflag() {
            0 if slash => Kind::Directory,
            b'0' | b'7' | b'S' if slash => return Err("a file with a directory's name"),
            0 | b'0' | b'7' => Kind::File,
            b'S' if self.is_gnu() => Kind::File,
            b'1' => Kind::Link,
            b'2' => Kind::Symlink,
            b'3' => Kind::Character,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return Err("it is of an unknown type"),
        })
    }

    fn is_posix(self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }

    fn is_gnu(self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }

    fn path(self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        let prefix = until_nul(&self.0[345..500]);
        if prefix.is_empty() || !self.is_posix() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    fn link(self) -> Vec<u8> {
        until_nul(&self.0[157..257]).to_vec()
    }

    fn size(self) -> Result<u64, &'static str> {
        self.number(124..136)
    }

    fn number(self, field: std::ops::Range<usize>) -> Result<u64, &'static str> {
        unsigned(&self.0[field])
    }

    fn mtime(self) -> Result<Time, &'static str> {
        let seconds = signed(&self.0[136..148])?;
        Ok(Time {
            seconds,
            nanoseconds: 0,
        })
    }

    /// Only devices need it: other headers may have anything there.
    fn device(self) -> Result<(u32, u32), &'static str> {
        if !matches!(self.typeflag(), b'3' | b'4') {
            return Ok((0, 0));
        }
        let part = |field| {
            u32::try_from(self.number(field)?)
                .map_err(|_too_large| "a device number beyond 32 bits")
        };
        Ok((part(329..337)?, part(337..345)?))
    }
}

fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn unsigned(field: &[u8]) -> Result<u64, &'static str> {
    u64::try_from(signed(field)?).map_err(|_negative| "a negative number in a header")
}

/// Octal digits between spaces, or the number itself, big-endian, where the first bit says so.
fn signed(field: &[u8]) -> Result<i64, &'static str> {
    match field {
        [first @ (0x80 | 0xff), rest @ ..] => binary(*first == 0xff, rest),
        _ => octal(field),
    }
}

fn binary(negative: bool, bytes: &[u8]) -> Result<i64, &'static str> {
    let start = if negative { -1_i64 } else { 0 };
    bytes.iter().try_fold(start, |sum, byte| {
        sum.checked_mul(256)
            .and_then(|sum| sum.checked_add(i64::from(*byte)))
            .ok_or("a number in a header is too large")
    })
}

fn octal(field: &[u8]) -> Result<i64, &'static str> {
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field
        .iter()
        .position(|byte| *byte != b' ')
        .unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    digits[..end]
        .iter()
        .try_fold(0_i64, |sum, byte| match byte {
            b'0'..=b'7' => sum
                .checked_mul(8)
                .map(|sum| sum + i64::from(byte - b'0'))
                .ok_or("a number in a header is too large"),
            _ => Err("a number in a header is not octal"),
        })
}
