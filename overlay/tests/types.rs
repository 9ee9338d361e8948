//! What callers may do with the types, whatever happens to their fields.

use std::fmt::Debug;
use std::panic::{RefUnwindSafe, UnwindSafe};

use cofferdam_overlay as overlay;

fn is_shared<T: Send + Sync + Unpin + Debug>() {}

fn is_plain<T: Clone + Send + Sync + Unpin + Debug + UnwindSafe + RefUnwindSafe>() {}

#[test]
fn handles_go_from_thread_to_thread() {
    is_shared::<overlay::OverlayMount>();
    is_shared::<overlay::MountedOverlay>();
    is_shared::<overlay::UpperLock>();
    is_shared::<overlay::LayerStore>();
    is_shared::<overlay::LayerRef>();
    is_shared::<overlay::Changes>();
    is_shared::<overlay::Error>();
    #[cfg(feature = "images")]
    is_shared::<overlay::Image>();
}

#[test]
fn what_is_asked_for_and_told_is_data() {
    is_plain::<overlay::Overlay>();
    is_plain::<overlay::Apply>();
    is_plain::<overlay::AppliedLayer>();
    is_plain::<overlay::Limits>();
    is_plain::<overlay::Diff>();
    is_plain::<overlay::Change>();
    is_plain::<overlay::Written>();
    is_plain::<overlay::Expected>();
    is_plain::<overlay::Effective>();
    is_plain::<overlay::Support>();
    is_plain::<overlay::Finding>();
    #[cfg(feature = "images")]
    is_plain::<overlay::ImageSource>();
    #[cfg(feature = "images")]
    is_plain::<overlay::ImageConfig>();
}
