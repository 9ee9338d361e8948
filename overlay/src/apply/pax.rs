//! Extended headers: PAX records, pure.

use std::collections::BTreeMap;

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// What the records of one header say. An empty value takes back what a global header said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mtime: Option<Time>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) sparse: Option<Sparse>,
}

/// The records of a sparse file, in any of the three formats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sparse {
    pub(crate) major: u64,
    pub(crate) minor: u64,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    /// Offsets and lengths, in turns.
    pub(crate) map: Vec<u64>,
}

type Parsed<T> = Result<T, &'static str>;

impl Records {
    /// Reads the body of an extended header.
    pub(crate) fn parse(mut body: &[u8]) -> Parsed<Self> {
        let mut records = Records::default();
        while !body.is_empty() {
            let (key, value, rest) = record(body)?;
            records.set(key, value)?;
            body = rest;
        }
        Ok(records)
    }

    /// Whether a global header may say this: of names, sizes and xattrs readers disagree.
    pub(crate) fn fit_for_all(&self) -> bool {
        let named = self.path.is_some() || self.link.is_some();
        !named && self.size.is_none() && self.sparse.is_none() && self.xattrs.is_empty()
    }

    /// Takes over what a later global header says.
    pub(crate) fn update(&mut self, later: &Records) {
        self.uid = later.uid.or(self.uid);
        self.gid = later.gid.or(self.gid);
        self.mtime = later.mtime.or(self.mtime);
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Parsed<()> {
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.link = text(value)?,
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = id(value)?,
            b"gid" => self.gid = id(value)?,
            b"mtime" => {
                self.mtime = Some(value)
                    .filter(|v| !v.is_empty())
                    .map(time)
                    .transpose()?
            }
            _ => match key.strip_prefix(b"GNU.sparse.") {
                Some(key) => self.set_sparse(key, value)?,
                None => self.set_xattr(key, value)?,
            },
        }
        Ok(())
    }

    fn set_xattr(&mut self, key: &[u8], value: &[u8]) -> Parsed<()> {
        let (name, value) = if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            (name.to_vec(), value.to_vec())
        } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            (unescaped(name)?, base64(value)?)
        } else if let Some(which) = key.strip_prefix(b"SCHILY.acl.") {
            match which {
                b"access" => (
                    b"system.posix_acl_access".to_vec(),
                    super::acl::from_text(value)?,
                ),
                b"default" => (
                    b"system.posix_acl_default".to_vec(),
                    super::acl::from_text(value)?,
                ),
                _ => return Ok(()),
            }
        } else {
            return Ok(());
        };
        if name.is_empty() || name.contains(&0) {
            return Err("an xattr without a name, or with a NUL in it");
        }
        self.xattrs.insert(name, value);
        Ok(())
    }

    fn set_sparse(&mut self, key: &[u8], value: &[u8]) -> Parsed<()> {
        let sparse = self.sparse.get_or_insert_default();
        let value_of = || number(value)?.ok_or("a sparse file's record without a value");
        match key {
            b"major" => sparse.major = value_of()?,
            b"minor" => sparse.minor = value_of()?,
            b"name" => sparse.name = text(value)?,
            b"size" | b"realsize" => sparse.size = Some(value_of()?),
            b"numblocks" => sparse.map.clear(),
            b"map" => sparse.map = list(value)?,
            b"offset" if sparse.map.len() % 2 == 0 => sparse.map.push(value_of()?),
            b"numbytes" if sparse.map.len() % 2 == 1 => sparse.map.push(value_of()?),
            _ => return Err("a sparse file's records are in disorder"),
        }
        Ok(())
    }
}

/// `<length> <key>=<value>\n`, where the length counts all of it.
fn record(body: &[u8]) -> Parsed<(&[u8], &[u8], &[u8])> {
    const WRONG: &str = "a PAX record is not `length key=value`";
    let space = body
        .iter()
        .take(20)
        .position(|byte| *byte == b' ')
        .ok_or(WRONG)?;
    let length = number(&body[..space])?.ok_or(WRONG)?;
    let length = usize::try_from(length).map_err(|_too_large| WRONG)?;
    if length <= space + 1 || length > body.len() || body[length - 1] != b'\n' {
        return Err(WRONG);
    }
    let pair = &body[space + 1..length - 1];
    let equals = pair.iter().position(|byte| *byte == b'=').ok_or(WRONG)?;
    if equals == 0 {
        return Err(WRONG);
    }
    Ok((&pair[..equals], &pair[equals + 1..], &body[length..]))
}

fn text(value: &[u8]) -> Parsed<Option<Vec<u8>>> {
    if value.contains(&0) {
        return Err("a name with a NUL in it");
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

/// Decimal digits only: no sign, no space.
pub(crate) fn number(value: &[u8]) -> Parsed<Option<u64>> {
    if value.is_empty() {
        return Ok(None);
    }
    let mut number = 0_u64;
    for byte in value {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err("a PAX number is not decimal");
        }
        number = number
            .checked_mul(10)
            .and_then(|number| number.checked_add(digit.into()))
            .ok_or("a PAX number is too large")?;
    }
    Ok(Some(number))
}

fn list(value: &[u8]) -> Parsed<Vec<u64>> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    value
        .split(|byte| *byte == b',')
        .map(|part| number(part)?.ok_or("a sparse map with a gap"))
        .collect()
}

/// The kernel takes the last number for "no change".
pub(crate) fn fits_id(id: u64) -> Option<u32> {
    u32::try_from(id).ok().filter(|id| *id != u32::MAX)
}

fn id(value: &[u8]) -> Parsed<Option<u32>> {
    match number(value)? {
        None => Ok(None),
        Some(id) => fits_id(id).map(Some).ok_or("an id beyond 32 bits"),
    }
}

/// `-1.25` is 1.25 s before 1970: a second earlier and 750 ms later.
fn time(value: &[u8]) -> Parsed<Time> {
    const WRONG: &str = "a PAX time is not decimal";
    let (negative, value) = match value {
        [b'-', value @ ..] => (true, value),
        value => (false, value),
    };
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let seconds = number(parts.next().unwrap_or_default())?.ok_or(WRONG)?;
    let seconds = i64::try_from(seconds).map_err(|_too_large| WRONG)?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(WRONG);
    }
    let digits = fraction
        .iter()
        .copied()
        .chain(std::iter::repeat(b'0'))
        .take(9);
    let nanoseconds = digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Ok(match (negative, nanoseconds) {
        (false, _) => Time {
            seconds,
            nanoseconds,
        },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds,
        },
        (true, _) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

/// libarchive escapes names as in URLs.
fn unescaped(name: &[u8]) -> Parsed<Vec<u8>> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let (high, low) = (digit(high).zip(digit(low))).ok_or("a wrong % in a name")?;
                plain.push(u8::try_from(high * 16 + low).map_err(|_never| "a wrong % in a name")?);
                tail
            }
            _ => {
                plain.push(*first);
                tail
            }
        };
    }
    Ok(plain)
}

fn base64(value: &[u8]) -> Parsed<Vec<u8>> {
    const WRONG: &str = "an xattr that is not base64";
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::with_capacity(value.len() / 4 * 3));
    for letter in value.iter().filter(|byte| **byte != b'=') {
        let six = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(WRONG),
        };
        bits = (bits << 6 | u32::from(six)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pairs, each with its length before it.
    fn body(pairs: &[&str]) -> Vec<u8> {
        let record = |pair: &&str| {
            let rest = pair.len() + 2;
            let digits = |length: usize| length.to_string().len();
            let length = rest + digits(rest + digits(rest));
            format!("{length} {pair}\n")
        };
        pairs.iter().map(record).collect::<String>().into_bytes()
    }

    #[test]
    fn records_are_read() {
        let records = Records::parse(&body(&[
            "path=a\u{e9}",
            "mtime=1700000000.123456789",
            "comment=none",
        ]));
        let records = records.unwrap();
        assert_eq!(records.path.unwrap(), "a\u{e9}".as_bytes());
        let (seconds, nanoseconds) = (1_700_000_000, 123_456_789);
        assert_eq!(
            records.mtime,
            Some(Time {
                seconds,
                nanoseconds
            })
        );
    }

    #[test]
    fn a_value_may_have_any_byte_but_a_name_no_nul() {
        let records = Records::parse(&body(&["SCHILY.xattr.user.a=\0=\n\n"])).unwrap();
        assert_eq!(records.xattrs[&b"user.a"[..]], b"\0=\n\n");
        for pair in [
            "path=a\0b",
            "linkpath=\0",
            "SCHILY.xattr.a\0=b",
            "SCHILY.xattr.=b",
        ] {
            Records::parse(&body(&[pair])).unwrap_err();
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for body in [
            &b"path=a\n"[..],
            b"3 a\n",
            b"4 a\n",
            b"999 path=a\n",
            b"99999999999999999999 path=a\n",
            b"8 path=a\n",
            b"11 path=a\n",
            b"0 path=a\n",
            b"+9 path=a\n",
            b"7 =aaa\n",
        ] {
            Records::parse(body).unwrap_err();
        }
        Records::parse(b"9 path=a\n").unwrap();
    }

    #[test]
    fn numbers_are_decimal_and_fit() {
        for pair in [
            "uid=-1",
            "uid=4294967295",
            "uid=0x1",
            "size=99999999999999999999",
            "gid= 1",
        ] {
            Records::parse(&body(&[pair])).unwrap_err();
        }
        let records = Records::parse(&body(&["uid=4294967294", "size=0"])).unwrap();
        assert_eq!((records.uid, records.size), (Some(4_294_967_294), Some(0)));
    }

    #[test]
    fn times_before_1970_are_rounded_down() {
        let time = |text: &str| super::time(text.as_bytes()).map(|t| (t.seconds, t.nanoseconds));
        assert_eq!(time("-1.25"), Ok((-2, 750_000_000)));
        assert_eq!(time("-1"), Ok((-1, 0)));
        assert_eq!(time("1.0000000019"), Ok((1, 1)));
        time("1.-5").unwrap_err();
        time("").unwrap_err();
    }

    #[test]
    fn libarchives_xattrs_are_unescaped() {
        let records = Records::parse(&body(&["LIBARCHIVE.xattr.user%2Ea=aGk"])).unwrap();
        assert_eq!(records.xattrs[&b"user.a"[..]], b"hi");
    }
}
