//! Memory of devices.

use super::setting::{Rendering, Setting};
use super::{Limits, Max, check_word, put};
use crate::error::Result;

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub(super) struct Dmem {
    max: Vec<(String, Max<u64>)>,
    low: Vec<(String, Max<u64>)>,
    min: Vec<(String, Max<u64>)>,
}

impl Limits {
    /// Limits the memory used of a device's region, named as in `dmem.capacity` of the root (`drm/0000:03:00.0/vram0`),
    /// to `bytes`, with `dmem.max` (Linux 6.14).
    #[doc(alias = "dmem.max")]
    pub fn dmem_max(mut self, region: impl Into<String>, bytes: impl Into<Max<u64>>) -> Self {
        put(&mut self.dmem.max, region.into(), bytes.into());
        self
    }

    /// Protects up to `bytes` of it from eviction as long as others have unprotected memory there, with `dmem.low`.
    #[doc(alias = "dmem.low")]
    pub fn dmem_low(mut self, region: impl Into<String>, bytes: impl Into<Max<u64>>) -> Self {
        put(&mut self.dmem.low, region.into(), bytes.into());
        self
    }

    /// Protects up to `bytes` of it from eviction whatever happens, with `dmem.min`.
    #[doc(alias = "dmem.min")]
    pub fn dmem_min(mut self, region: impl Into<String>, bytes: impl Into<Max<u64>>) -> Self {
        put(&mut self.dmem.min, region.into(), bytes.into());
        self
    }
}

impl Dmem {
    pub(super) fn validate(&self) -> Result<()> {
        for (limit, _, entries, _) in self.parts() {
            for (region, _) in entries {
                check_word(limit, region)?;
            }
        }
        Ok(())
    }

    pub(super) fn render(&self, out: &mut Rendering) {
        for (limit, file, entries, none) in self.parts() {
            for (region, bytes) in entries {
                let setting = Setting::new(limit, file, format!("{region} {bytes}"));
                out.write(setting.of_line(region, format!("{region} {none}")));
            }
        }
    }

    /// Limit, file, values, and the kernel's default.
    #[expect(clippy::type_complexity, reason = "a table")]
    fn parts(&self) -> [(&'static str, &'static str, &[(String, Max<u64>)], &str); 3] {
        [
            ("dmem_min", "dmem.min", &self.min, "0"),
            ("dmem_low", "dmem.low", &self.low, "0"),
            ("dmem_max", "dmem.max", &self.max, "max"),
        ]
    }
}
