//! Names of layers with all that is below them.

use crate::digest::Digest;

/// The chain id of a layer of this diff id on `parent`, as the OCI image specification defines it: that of a base layer is
/// its diff id.
#[must_use]
pub fn chain_id(parent: Option<Digest>, diff_id: Digest) -> Digest {
    match parent {
        None => diff_id,
        Some(parent) => Digest::of(format!("{parent} {diff_id}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_the_digest_of_both_names() {
        let (a, b) = (Digest::of("a"), Digest::of("b"));
        assert_eq!(chain_id(None, a), a);
        assert_eq!(chain_id(Some(a), b), Digest::of(format!("{a} {b}")));
    }
}
