//! Numbers of VLANs.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The number of a VLAN: 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanId(u16);

impl VlanId {
    /// # Errors
    /// `InvalidInput` where it is not 1 to 4094.
    pub fn new(number: u16) -> Result<Self> {
        if (1..=4094).contains(&number) {
            return Ok(VlanId(number));
        }
        Err(Error::invalid(
            format_args!("VLAN {number}"),
            "it is not 1 to 4094",
        ))
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
}

impl FromStr for VlanId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse() {
            Ok(number) => VlanId::new(number),
            Err(error) => Err(Error::invalid(format_args!("VLAN {text:?}"), error)),
        }
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_no_vlan_has_are_refused() {
        for text in ["0", "4095", "65536", "-1", "", "x"] {
            assert!(text.parse::<VlanId>().is_err(), "{text}");
        }
        assert_eq!(
            "4094".parse::<VlanId>().unwrap(),
            VlanId::new(4094).unwrap()
        );
    }
}
