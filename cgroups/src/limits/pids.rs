//! The number of processes.

use super::setting::Rendering;
use super::{Limits, Max};
use crate::error::{Error, Result};

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub(super) struct Pids {
    max: Option<Max<u32>>,
}

/// `PID_MAX_LIMIT` of a 64-bit kernel.
const MOST_PIDS: u32 = 4 << 20;

impl Limits {
    /// Limits the number of processes and threads, with `pids.max`; beyond it fork(2) and clone(2) fail with `EAGAIN`.
    /// A running process may be moved in beyond it.
    #[doc(alias = "pids.max")]
    pub fn pids_max(mut self, n: impl Into<Max<u32>>) -> Self {
        self.pids.max = Some(n.into());
        self
    }
}

impl Pids {
    pub(super) fn validate(&self) -> Result<()> {
        match self.max {
            Some(Max::Of(0)) => Err(Error::limit("pids_max", 0, "leaves no room for a process")),
            Some(Max::Of(n)) if n > MOST_PIDS => {
                Err(Error::limit("pids_max", n, "is more than 4194304"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn render(&self, out: &mut Rendering) {
        out.value("pids_max", "pids.max", self.max);
    }
}
