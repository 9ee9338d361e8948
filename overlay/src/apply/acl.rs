//! POSIX ACLs, in the text of archives and in the bytes of xattrs. Pure.

use super::pax::{fits_id, number};

const VERSION: u32 = 2;
const USER: u16 = 0x02;
const GROUP: u16 = 0x08;
const NO_ID: u32 = u32::MAX;

/// The xattr of an ACL such as `user::rwx,user:lisa:r-x:1005,group::r-x,mask::r-x,other::---`. A name without its number
/// is of another machine's users, and refused.
pub(crate) fn from_text(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut entries = Vec::new();
    for line in text.split(|byte| matches!(byte, b',' | b'\n')) {
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        let line = line.trim_ascii();
        if !line.is_empty() {
            entries.push(entry(line)?);
        }
    }
    // The kernel takes them in this order only.
    entries.sort_unstable();
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    Ok(bytes)
}

fn entry(line: &[u8]) -> Result<(u16, u32, u16), &'static str> {
    const WRONG: &str = "an ACL entry is not `tag:id:rwx`";
    let fields: Vec<_> = line.split(|byte| *byte == b':').collect();
    let (tag, name, permissions) = match fields[..] {
        [tag, name, permissions, ..] => (tag, name, permissions),
        [tag @ (b"mask" | b"m" | b"other" | b"o"), permissions] => (tag, &b""[..], permissions),
        _ => return Err(WRONG),
    };
    let tag = match (tag, name.is_empty()) {
        (b"user" | b"u", true) => 0x01,
        (b"user" | b"u", false) => USER,
        (b"group" | b"g", true) => 0x04,
        (b"group" | b"g", false) => GROUP,
        (b"mask" | b"m", _) => 0x10,
        (b"other" | b"o", _) => 0x20,
        _ => return Err(WRONG),
    };
    let id = match tag {
        USER | GROUP => number(fields.get(3).copied().unwrap_or(name))
            .ok()
            .flatten()
            .and_then(fits_id)
            .ok_or("an ACL names a user or group without a number")?,
        _ => NO_ID,
    };
    let mut bits = 0;
    for letter in permissions {
        bits |= match letter {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            b'-' => 0,
            _ => return Err(WRONG),
        };
    }
    Ok((tag, id, bits))
}

/// Has `map` change each user and group of an ACL's xattr: `map(is_user, id)`.
pub(crate) fn mapped<E>(
    acl: &[u8],
    mut map: impl FnMut(bool, u32) -> Result<u32, E>,
) -> Result<Vec<u8>, E> {
    let mut acl = acl.to_vec();
    let entries = acl.get_mut(4..).unwrap_or_default();
    for entry in entries.chunks_exact_mut(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if tag == USER || tag == GROUP {
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            entry[4..].copy_from_slice(&map(tag == USER, id)?.to_le_bytes());
        }
    }
    Ok(acl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_what_the_kernel_takes() {
        let acl =
            from_text(b"user::rw-,user:lisa:r--:1005,group::r--,mask::r--,other::---").unwrap();
        assert_eq!(acl.len(), 4 + 5 * 8);
        assert_eq!(acl[4..12], [1, 0, 6, 0, 255, 255, 255, 255]);
        assert_eq!(acl[12..20], [2, 0, 4, 0, 0xed, 3, 0, 0]);
        assert_eq!(
            from_text(b"u::rw-\nu:1005:r--\ng::r--\nm:r--\no:---").unwrap(),
            acl
        );
    }

    #[test]
    fn a_name_without_a_number_is_refused() {
        from_text(b"user:lisa:r--").unwrap_err();
        from_text(b"user:4294967295:r--").unwrap_err();
        from_text(b"nonsense").unwrap_err();
    }

    #[test]
    fn ids_are_mapped() {
        let acl = from_text(b"user::rw-,user:5:r--,group:6:r--").unwrap();
        let shifted = from_text(b"user::rw-,user:105:r--,group:206:r--").unwrap();
        let map = |user, id| Ok::<_, ()>(if user { id + 100 } else { id + 200 });
        assert_eq!(mapped(&acl, map).unwrap(), shifted);
    }
}
