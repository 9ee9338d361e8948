//! The index of an uncompressed tar on disk: which file is where.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path};

use std::ffi::OsStr;

use crate::error::{Error, Result};
use crate::store::record::malformed;

const BLOCK: u64 = 512;
const MOST_ENTRIES: usize = 100_000;
const MOST_PAX: u64 = 1 << 20;
/// Bytes of all names together.
const MOST_NAMES: usize = 16 << 20;

/// What an archive has of a name.
#[derive(Clone, Debug)]
pub(crate) enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// The name of another member.
    Link(String),
}

/// Reads the headers. Of members of one name the last counts, as for those who unpack it.
pub(crate) fn index(file: &File, path: &Path) -> Result<HashMap<String, Member>> {
    let length = file.metadata().map_err(Error::sys("stat", path))?.len();
    let mut members = HashMap::new();
    let (mut at, mut pax, mut names) = (0, HashMap::new(), 0);
    while at + BLOCK <= length {
        let mut header = [0; BLOCK as usize];
        file.read_exact_at(&mut header, at)
            .map_err(Error::sys("read", path))?;
        if header == [0; BLOCK as usize] {
            return Ok(members);
        }
        check_sum(&header).ok_or_else(|| malformed(path, "it is no tar"))?;
        let bad = || malformed(path, format!("a header at byte {at} that cannot be read"));
        let size = size_of(&header, &pax).ok_or_else(bad)?;
        let offset = at + BLOCK;
        let end = offset.checked_add(size).filter(|end| *end <= length);
        at = end.ok_or_else(bad)?.next_multiple_of(BLOCK);
        match header[156] {
            b'x' => pax = records(file, offset, size, path)?,
            b'g' => {}
            _ => {
                let found = member(&header, &std::mem::take(&mut pax), offset, size);
                names += found.as_ref().map_or(0, length_of);
                members.extend(found);
            }
        }
        if members.len() > MOST_ENTRIES || names > MOST_NAMES {
            let why = format!("over {MOST_ENTRIES} members, or {MOST_NAMES} bytes of names");
            return Err(malformed(path, why));
        }
    }
    Err(malformed(path, "it is cut off"))
}

/// Bytes of its names.
fn length_of((name, member): &(String, Member)) -> usize {
    match member {
        Member::File { .. } => name.len(),
        Member::Link(to) => name.len() + to.len(),
    }
}

/// A PAX record of a size is for the member after it, not for another extended header.
fn size_of(header: &[u8], pax: &HashMap<String, String>) -> Option<u64> {
    match pax.get("size") {
        Some(size) if !matches!(header[156], b'x' | b'g') => size.parse().ok(),
        _ => number(&header[124..136]),
    }
}

fn member(
    header: &[u8],
    pax: &HashMap<String, String>,
    offset: u64,
    size: u64,
) -> Option<(String, Member)> {
    let prefix = if &header[257..263] == b"ustar\0" {
        text(&header[345..500])?
    } else {
        ""
    };
    let name = text(&header[..100])?;
    let whole = match (pax.get("path"), prefix) {
        (Some(path), _) => path.clone(),
        (None, "") => name.to_owned(),
        (None, prefix) => format!("{prefix}/{name}"),
    };
    let name = plain(&whole, "")?;
    let link = pax
        .get("linkpath")
        .map(String::as_str)
        .or_else(|| text(&header[157..257]))?;
    match header[156] {
        b'0' | 0 => Some((name, Member::File { offset, size })),
        b'1' => Some((name, Member::Link(plain(link, "")?))),
        b'2' => {
            let base = name
                .rsplit_once('/')
                .map_or("", |(base, _)| base)
                .to_owned();
            Some((name, Member::Link(plain(link, &base)?)))
        }
        _ => None,
    }
}

/// A name without `.` and `..`; None for one that leads out, which no reference then finds.
pub(crate) fn plain(name: &str, base: &str) -> Option<String> {
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in Path::new(OsStr::from_bytes(name.as_bytes())).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn text(field: &[u8]) -> Option<&str> {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    std::str::from_utf8(&field[..end]).ok()
}

fn check_sum(header: &[u8; BLOCK as usize]) -> Option<()> {
    let field = 148..156;
    let said = number(&header[field.clone()])?;
    let byte = |(n, byte): (usize, &u8)| u64::from(if field.contains(&n) { b' ' } else { *byte });
    let sum: u64 = header.iter().enumerate().map(byte).sum();
    (said == sum).then_some(())
}

/// Octal digits, or with the first bit set a big number.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8);
        let is_small = high[0] == 0x80 && high[1..].iter().all(|byte| *byte == 0);
        return is_small.then(|| low.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    let digits = text(field)?.trim_matches(' ');
    match digits {
        "" => Some(0),
        digits => u64::from_str_radix(digits, 8).ok(),
    }
}

fn records(file: &File, offset: u64, size: u64, path: &Path) -> Result<HashMap<String, String>> {
    if size > MOST_PAX {
        return Err(malformed(path, format!("a PAX header of {size} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    file.read_exact_at(&mut bytes, offset)
        .map_err(Error::sys("read", path))?;
    parse_records(&bytes).ok_or_else(|| malformed(path, "a PAX header that cannot be read"))
}

fn parse_records(mut bytes: &[u8]) -> Option<HashMap<String, String>> {
    let mut found = HashMap::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let key = String::from_utf8(record[..equals].to_vec()).ok()?;
        let value = String::from_utf8_lossy(&record[equals + 1..]).into_owned();
        found.insert(key, value);
        bytes = &bytes[length..];
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_are_none() {
        assert_eq!(plain("./a//b/", "").as_deref(), Some("a/b"));
        assert_eq!(plain("../x/layer.tar", "y").as_deref(), Some("x/layer.tar"));
        for bad in ["..", "../a", "a/../../b", "/a", "", "."] {
            assert_eq!(plain(bad, ""), None, "{bad}");
        }
    }

    #[test]
    fn numbers_are_octal_or_big() {
        assert_eq!(number(b"0000017\0"), Some(15));
        assert_eq!(number(b"     17 "), Some(15));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x01\0"), Some(256));
        assert_eq!(
            number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            None
        );
        assert_eq!(number(b"000000x\0"), None);
    }
}
