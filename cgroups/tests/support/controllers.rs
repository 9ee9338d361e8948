//! What a test asks of either kind of hierarchy.

use cofferdam_cgroups::{Hierarchy, Mode};
use cofferdam_testkit::{Need, have};

/// Root, and on this machine's kind of hierarchy these controllers.
pub(crate) fn have_controllers(names: &[&'static str]) -> bool {
    let unified = Hierarchy::detect().is_ok_and(|found| found.mode() == Mode::Unified);
    let on = |name| match unified {
        true => Need::Cgroup2Controller(name),
        false => Need::Cgroup1Controller(name),
    };
    have(&[Need::Root]) && names.iter().all(|name| have(&[on(name)]))
}
