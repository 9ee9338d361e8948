//! Which xattrs of a layer reach the disk, and how. Pure.

/// Labels of security modules and of servers, which mean something on the machine they are from only.
pub(crate) fn is_filtered(name: &[u8]) -> bool {
    let security = name.starts_with(b"security.") && name != CAPABILITY;
    let system = name.starts_with(b"system.") && !is_acl(name);
    security || system
}

pub(crate) const CAPABILITY: &[u8] = b"security.capability";

pub(crate) fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

/// Capabilities for the root of the container: the root id of the machine they were read on is dropped, and
/// `shifted_root` put in where it is not that of the caller's user namespace. In a user namespace the kernel puts it in.
pub(crate) fn capability(value: &[u8], shifted_root: Option<u32>) -> Result<Vec<u8>, &'static str> {
    const V2: u32 = 0x0200_0000;
    const V3: u32 = 0x0300_0000;
    const EFFECTIVE: u32 = 1;
    let word = |at: usize| {
        value
            .get(at..at + 4)?
            .try_into()
            .ok()
            .map(u32::from_le_bytes)
    };
    let wrong = "security.capability is of no known version";
    let magic = word(0).ok_or(wrong)?;
    match (magic & !EFFECTIVE, value.len()) {
        (V2, 20) | (V3, 24) => {}
        _ => return Err(wrong),
    }
    let version = if shifted_root.is_some() { V3 } else { V2 };
    let mut bytes = (version | (magic & EFFECTIVE)).to_le_bytes().to_vec();
    bytes.extend_from_slice(&value[4..20]);
    bytes.extend(shifted_root.map(u32::to_le_bytes).into_iter().flatten());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_lose_a_foreign_root_and_get_the_shifted_one() {
        let v2 = [&[1, 0, 0, 2][..], &[7; 16]].concat();
        let v3 = [&[1, 0, 0, 3][..], &[7; 16], &[1, 2, 3, 4]].concat();
        assert_eq!(capability(&v2, None).unwrap(), v2);
        assert_eq!(capability(&v3, None).unwrap(), v2);
        let shifted = capability(&v2, Some(100_000)).unwrap();
        assert_eq!(shifted[..4], [1, 0, 0, 3]);
        assert_eq!(shifted[20..], 100_000_u32.to_le_bytes());
        capability(&v2[..19], None).unwrap_err();
        capability(b"", None).unwrap_err();
    }

    #[test]
    fn labels_are_filtered() {
        for name in [
            "security.selinux",
            "security.ima",
            "security.evm",
            "system.nfs4_acl",
        ] {
            assert!(is_filtered(name.as_bytes()), "{name}");
        }
        for name in [
            "security.capability",
            "system.posix_acl_access",
            "user.a",
            "trusted.a",
        ] {
            assert!(!is_filtered(name.as_bytes()), "{name}");
        }
    }
}
