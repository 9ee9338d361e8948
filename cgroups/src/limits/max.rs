//! A limit, or none.

use std::fmt;

/// A limit, or that there is none, which the kernel spells `max`.
///
/// ```
/// use cofferdam_cgroups::{Limits, Max};
///
/// let limits = Limits::new().memory_max(64 << 20).memory_swap_max(Max::Unlimited);
/// # assert!(limits.validate().is_ok());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Max<T> {
    /// No more than this.
    Of(T),
    /// As much as the cgroups above allow.
    Unlimited,
}

impl<T> Max<T> {
    /// The limit, if there is one.
    pub fn limit(self) -> Option<T> {
        match self {
            Max::Of(limit) => Some(limit),
            Max::Unlimited => None,
        }
    }

    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Max<U> {
        match self {
            Max::Of(limit) => Max::Of(change(limit)),
            Max::Unlimited => Max::Unlimited,
        }
    }
}

impl<T: fmt::Display> Max<T> {
    /// As many v1 files have it, where -1 (in some, 0) is no limit.
    pub(crate) fn or(self, unlimited: &str) -> String {
        match self {
            Max::Of(limit) => limit.to_string(),
            Max::Unlimited => unlimited.to_owned(),
        }
    }
}

impl<T> From<T> for Max<T> {
    fn from(limit: T) -> Self {
        Max::Of(limit)
    }
}

impl<T: fmt::Display> fmt::Display for Max<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Max::Of(limit) => limit.fmt(f),
            Max::Unlimited => f.write_str("max"),
        }
    }
}
