//! Resources that are just counted.

use super::setting::{Rendering, Setting};
use super::{Limits, Max, check_word, put};
use crate::error::Result;

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub(super) struct Misc {
    max: Vec<(String, Max<u64>)>,
}

impl Limits {
    /// Limits one of the resources that `misc.capacity` of the root names (`sev`, `sev_es`, `tdx`), with `misc.max`
    /// (Linux 5.13).
    #[doc(alias = "misc.max")]
    pub fn misc_max(mut self, resource: impl Into<String>, n: impl Into<Max<u64>>) -> Self {
        put(&mut self.misc.max, resource.into(), n.into());
        self
    }
}

impl Misc {
    pub(super) fn validate(&self) -> Result<()> {
        self.max
            .iter()
            .try_for_each(|(resource, _)| check_word("misc_max", resource))
    }

    pub(super) fn render(&self, out: &mut Rendering) {
        for (resource, max) in &self.max {
            let setting = Setting::new("misc_max", "misc.max", format!("{resource} {max}"));
            out.write(setting.of_line(resource, format!("{resource} max")));
        }
    }
}
