//! Entries of tar archives: ustar headers, with PAX records for what these cannot hold.

use std::io::{self, Write};

use super::xattrs::Xattrs;

const BLOCK: usize = 512;

/// One entry, before its content.
#[derive(Debug)]
pub(crate) struct Header<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) kind: Kind<'a>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds, which may be negative, and nanoseconds.
    pub(crate) modified: (i64, u32),
    /// With names that hold no `=`.
    pub(crate) xattrs: &'a Xattrs,
}

/// What an entry is, with what only such an entry has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind<'a> {
    Regular { size: u64 },
    Hardlink { to: &'a [u8] },
    Symlink { to: &'a [u8] },
    CharacterDevice { device: (u32, u32) },
    BlockDevice { device: (u32, u32) },
    Directory,
    Fifo,
}

impl Kind<'_> {
    fn flag(self) -> u8 {
        match self {
            Kind::Regular { .. } => b'0',
            Kind::Hardlink { .. } => b'1',
            Kind::Symlink { .. } => b'2',
            Kind::CharacterDevice { .. } => b'3',
            Kind::BlockDevice { .. } => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        }
    }

    fn link(&self) -> &[u8] {
        match self {
            Kind::Hardlink { to } | Kind::Symlink { to } => to,
            _ => b"",
        }
    }

    fn size(self) -> u64 {
        match self {
            Kind::Regular { size } => size,
            _ => 0,
        }
    }
}

/// Writes headers.
pub(crate) fn write_header(out: &mut impl Write, header: &Header<'_>) -> io::Result<()> {
    let records = records(header);
    if !records.is_empty() {
        let extended = Header {
            path: b"PaxHeaders/entry",
            kind: Kind::Regular {
                size: records.len() as u64,
            },
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: (0, 0),
            xattrs: &Xattrs::new(),
        };
        out.write_all(&block(&extended, b'x'))?;
        out.write_all(&records)?;
        write_padding(out, records.len() as u64)?;
    }
    out.write_all(&block(header, header.kind.flag()))
}

/// Fills up the last block of `size` bytes of content.
pub(crate) fn write_padding(out: &mut impl Write, size: u64) -> io::Result<()> {
    let over = (size % BLOCK as u64) as usize;
    match over {
        0 => Ok(()),
        over => out.write_all(&[0; BLOCK][over..]),
    }
}

/// Ends an archive.
pub(crate) fn write_end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

/// A ustar header. A number it cannot hold is 0 here, and a name cut off: a PAX record has it.
fn block(header: &Header<'_>, flag: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put(&mut block[..100], header.path);
    octal(&mut block[100..108], u64::from(header.mode));
    octal(&mut block[108..116], u64::from(header.uid));
    octal(&mut block[116..124], u64::from(header.gid));
    octal(&mut block[124..136], header.kind.size());
    octal(
        &mut block[136..148],
        u64::try_from(header.modified.0).unwrap_or(0),
    );
    block[156] = flag;
    put(&mut block[157..257], header.kind.link());
    block[257..265].copy_from_slice(b"ustar\x0000");
    if let Kind::CharacterDevice { device } | Kind::BlockDevice { device } = header.kind {
        octal(&mut block[329..337], u64::from(device.0));
        octal(&mut block[337..345], u64::from(device.1));
    }
    // The sum is over a field of spaces.
    block[148..156].fill(b' ');
    let sum = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

fn put(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

/// Digits with a NUL behind.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let mut rest = if fits(value, digits) { value } else { 0 };
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + (rest & 7) as u8;
        rest >>= 3;
    }
    field[digits] = 0;
}

fn fits(value: u64, digits: usize) -> bool {
    value >> (3 * digits) == 0
}

/// What the ustar header cannot hold.
fn records(header: &Header<'_>) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| append_record(&mut records, key, value);
    if header.path.len() > 100 {
        add(b"path", header.path);
    }
    if header.kind.link().len() > 100 {
        add(b"linkpath", header.kind.link());
    }
    let numbers = [
        ("size", header.kind.size(), 11),
        ("uid", u64::from(header.uid), 7),
        ("gid", u64::from(header.gid), 7),
    ];
    for (key, value, digits) in numbers {
        if !fits(value, digits) {
            add(key.as_bytes(), value.to_string().as_bytes());
        }
    }
    let (seconds, nanoseconds) = header.modified;
    if nanoseconds != 0 || !u64::try_from(seconds).is_ok_and(|seconds| fits(seconds, 11)) {
        add(b"mtime", decimal(seconds, nanoseconds).as_bytes());
    }
    for (name, value) in header.xattrs {
        add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    records
}

/// Its length, which counts its own digits, then `key=value`.
fn append_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Seconds with as many decimals as it takes. Nanoseconds count upwards before 1970 too: -2 and 500 million are -1.5.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let (sign, whole, parts) = match seconds < 0 {
        true => (
            "-",
            (seconds + 1).unsigned_abs(),
            1_000_000_000 - nanoseconds,
        ),
        false => ("", seconds.unsigned_abs(), nanoseconds),
    };
    let text = format!("{sign}{whole}.{parts:09}");
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        let record = |key: &str, value: &str| {
            let mut records = Vec::new();
            append_record(&mut records, key.as_bytes(), value.as_bytes());
            String::from_utf8(records).unwrap()
        };
        assert_eq!(record("a", "b"), "6 a=b\n");
        assert_eq!(record("a", "12345"), "11 a=12345\n");
        for length in 0..2000 {
            let made = record("key", &"x".repeat(length));
            let said: usize = made.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, made.len());
        }
    }

    #[test]
    fn times_have_the_decimals_they_need() {
        assert_eq!(decimal(1, 0), "1");
        assert_eq!(decimal(1, 500_000_000), "1.5");
        assert_eq!(decimal(0, 1), "0.000000001");
        assert_eq!(decimal(-2, 500_000_000), "-1.5");
        assert_eq!(decimal(-1, 999_999_999), "-0.000000001");
        assert_eq!(decimal(i64::MIN, 0), i64::MIN.to_string());
    }

    #[test]
    fn only_what_the_header_cannot_hold_is_a_record() {
        let path = vec![b'p'; 100];
        let xattrs = Xattrs::new();
        let plain = |path, size, uid, seconds| Header {
            path,
            kind: Kind::Regular { size },
            mode: 0o644,
            uid,
            gid: 0,
            modified: (seconds, 0),
            xattrs: &xattrs,
        };
        let fits = plain(&path, (1 << 33) - 1, (1 << 21) - 1, (1 << 33) - 1);
        assert!(records(&fits).is_empty());
        assert_eq!(
            records(&plain(b"a", 1 << 33, 0, 0)),
            b"19 size=8589934592\n"
        );
        assert_eq!(records(&plain(b"a", 0, 1 << 21, 0)), b"15 uid=2097152\n");
        assert_eq!(records(&plain(b"a", 0, 0, -1)), b"12 mtime=-1\n");
        let long = vec![b'p'; 101];
        assert!(records(&plain(&long, 0, 0, 0)).starts_with(b"111 path=p"));
    }
}
