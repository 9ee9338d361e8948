//! What has no name here.

use super::setting::{Rendering, Setting};
use super::{Limits, put};
use crate::controller::{Controller, Version};
use crate::error::{Error, Result};

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub(super) struct Unified {
    files: Vec<(String, String)>,
}

impl Limits {
    /// Writes `value` into `file` as it stands, after all other limits of that controller: for what later kernels may
    /// have. Neither is checked against what the file is for. v2 only.
    ///
    /// `file` is a name such as `memory.high`, of a controller this crate knows; never one of `cgroup.`.
    pub fn raw(mut self, file: impl Into<String>, value: impl Into<String>) -> Self {
        put(&mut self.unified.files, file.into(), value.into());
        self
    }
}

impl Unified {
    pub(super) fn validate(&self) -> Result<()> {
        for (file, value) in &self.files {
            if let Some(reason) = fault(file, value) {
                let shown = format!("{file:?} {value:?}");
                return Err(Error::limit("raw", shown, reason));
            }
        }
        Ok(())
    }

    pub(super) fn render(&self, controller: Controller, version: Version, out: &mut Rendering) {
        for (file, value) in &self.files {
            if owner(file) != Some(controller) {
                continue;
            }
            match version {
                Version::V2 => out.write(Setting::new("raw", file.clone(), value)),
                Version::V1 => {
                    out.refuse("raw", "is for cgroup v2, and cgroup v1 has the controller")
                }
            }
        }
    }
}

fn owner(file: &str) -> Option<Controller> {
    let (controller, _) = file.split_once('.')?;
    Controller::LIMITING
        .into_iter()
        .find(|known| known.name() == controller)
}

fn fault(file: &str, value: &str) -> Option<&'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if file.starts_with("cgroup.") {
        return Some("is not a limit: cgroup files have calls of their own");
    }
    if !file.chars().all(plain) || file.len() > 255 || file.ends_with('.') {
        return Some("its file is no name such as memory.high");
    }
    if owner(file).is_none() {
        return Some("its file does not begin with the name of a controller and a dot");
    }
    if value.is_empty() || value.len() > 4095 || value.contains('\0') {
        return Some("its value is empty, longer than 4095 bytes, or has a NUL in it");
    }
    None
}
