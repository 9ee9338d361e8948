//! RDMA devices.

use super::setting::{Rendering, Setting};
use super::{Limits, Max, check_word, put};
use crate::error::Result;

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub(super) struct Rdma {
    max: Vec<(String, Handles)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
struct Handles {
    hca_handle: Max<u32>,
    hca_object: Max<u32>,
}

impl Limits {
    /// Limits the handles and the objects that may be open on the RDMA device of this name (`mlx5_0`), with `rdma.max`.
    #[doc(alias = "rdma.max")]
    pub fn rdma_max(
        mut self,
        device: impl Into<String>,
        hca_handle: impl Into<Max<u32>>,
        hca_object: impl Into<Max<u32>>,
    ) -> Self {
        let handles = Handles {
            hca_handle: hca_handle.into(),
            hca_object: hca_object.into(),
        };
        put(&mut self.rdma.max, device.into(), handles);
        self
    }
}

impl Rdma {
    pub(super) fn validate(&self) -> Result<()> {
        self.max
            .iter()
            .try_for_each(|(device, _)| check_word("rdma_max", device))
    }

    pub(super) fn render(&self, out: &mut Rendering) {
        for (device, handles) in &self.max {
            let (handle, object) = (handles.hca_handle, handles.hca_object);
            let value = format!("{device} hca_handle={handle} hca_object={object}");
            let none = format!("{device} hca_handle=max hca_object=max");
            out.write(Setting::new("rdma_max", "rdma.max", value).of_line(device, none));
        }
    }
}
