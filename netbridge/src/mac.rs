//! Hardware addresses.

use std::fmt;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// Whether a link can have it: it is neither a group's nor nobody's.
pub(crate) fn is_unicast(mac: Mac) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

/// A hardware address as it is written.
pub(crate) struct Colons(pub(crate) Mac);

impl fmt::Display for Colons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_one_link_or_not() {
        assert!(is_unicast([2, 0, 0, 0, 0, 0]));
        assert!(!is_unicast([0; 6]));
        assert!(!is_unicast([3, 0, 0, 0, 0, 1]));
        assert_eq!(
            Colons([2, 66, 10, 0, 0, 2]).to_string(),
            "02:42:0a:00:00:02"
        );
    }
}
