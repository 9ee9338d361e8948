//! A hash that is the same in every process and every version of this crate.

/// Where the search for a network of this name starts. Another attempt starts elsewhere, so that two that met do not
/// meet again.
pub(crate) fn start_of(name: &str, attempt: u8) -> u64 {
    hash(name.bytes().chain([attempt]))
}

/// FNV-1a, then mixed: its low bits alone depend on the low bits of each byte only.
pub(crate) fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let hash = bytes
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}
