//! Names that are part of paths, lines and messages.

use crate::error::{Error, Result};

/// 63 as of a label of DNS, which networks often become.
const LONGEST_NAME: usize = 63;
const LONGEST_OWNER: usize = 255;

/// A name of a network, or of an aux address.
pub(crate) fn check_name(of: &str, name: &str) -> Result<()> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let why = if name.is_empty() || name.len() > LONGEST_NAME {
        "it is not of 1 to 63 bytes"
    } else if name.starts_with(['.', '-']) {
        "it begins with a dot or a dash"
    } else if !name.bytes().all(valid) {
        "it has something else than letters, digits, dots, dashes and underscores"
    } else {
        return Ok(());
    };
    Err(Error::invalid(format_args!("{of} {name:?}"), why))
}

/// Who has a lease, as the caller calls it.
pub(crate) fn check_owner(owner: &str) -> Result<()> {
    let fits = (1..=LONGEST_OWNER).contains(&owner.len());
    if fits && owner.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let why = "it is not 1 to 255 printable ASCII characters without a blank";
    Err(Error::invalid(format_args!("owner {owner:?}"), why))
}
