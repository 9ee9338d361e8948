//! How overlayfs marks what a layer hides, and keeps its own notes, in xattrs.

use std::borrow::Cow;
use std::path::Path;

use rustix::fs::FileType;
use rustix::thread::{CapabilitySet, capabilities};

use crate::directory;
use crate::error::{Error, Result};

/// Which xattrs overlayfs keeps its marks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Marks {
    /// `trusted.overlay.*`, which only `CAP_SYS_ADMIN` in the initial user namespace sees.
    Trusted,
    /// `user.overlay.*`, in user namespaces (`userxattr`).
    User,
}

impl Marks {
    /// Those of overlays that the caller mounts: [`User`](Marks::User) in a user namespace, by `/proc/thread-self/ns/user`.
    ///
    /// # Errors
    /// `NotFound` without a `/proc`.
    pub fn detect() -> Result<Self> {
        Ok(match directory::in_user_namespace()? {
            true => Marks::User,
            false => Marks::Trusted,
        })
    }

    /// Whether this thread sees them: trusted ones are hidden from all but `CAP_SYS_ADMIN` in the initial user namespace,
    /// and then look like none.
    pub(crate) fn are_seen(self) -> Result<bool> {
        let of = Path::new("this thread");
        let held = capabilities(None).map_err(Error::sys("capget of", of))?;
        let capable = held.effective.contains(CapabilitySet::SYS_ADMIN);
        Ok(self == Marks::User || capable && Marks::detect()? == Marks::Trusted)
    }

    /// What their names begin with.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Marks::Trusted => "trusted.overlay.",
            Marks::User => "user.overlay.",
        }
    }

    /// `y`: the directory hides those of layers below; `x`: files in it may be whiteouts by xattr.
    pub(crate) fn opaque(self) -> &'static str {
        match self {
            Marks::Trusted => "trusted.overlay.opaque",
            Marks::User => "user.overlay.opaque",
        }
    }

    /// An empty file with it, in a directory that is opaque `x`, is a whiteout.
    pub(crate) fn whiteout(self) -> &'static str {
        match self {
            Marks::Trusted => "trusted.overlay.whiteout",
            Marks::User => "user.overlay.whiteout",
        }
    }

    /// The directory's content is elsewhere.
    pub(crate) fn redirect(self) -> &'static str {
        match self {
            Marks::Trusted => "trusted.overlay.redirect",
            Marks::User => "user.overlay.redirect",
        }
    }

    /// The file's content is in a layer below.
    pub(crate) fn metacopy(self) -> &'static str {
        match self {
            Marks::Trusted => "trusted.overlay.metacopy",
            Marks::User => "user.overlay.metacopy",
        }
    }

    /// The name under which an overlay shows an xattr that a layer holds: none for overlayfs's own, and without its
    /// escape for one of a nested overlay.
    pub(crate) fn shown(self, stored: &[u8]) -> Option<Cow<'_, [u8]>> {
        let Some(rest) = stored.strip_prefix(self.prefix().as_bytes()) else {
            return Some(Cow::Borrowed(stored));
        };
        let escaped = rest.strip_prefix(b"overlay.")?;
        Some(Cow::Owned([self.prefix().as_bytes(), escaped].concat()))
    }

    /// The name under which a layer holds an xattr that an overlay is to show: the reverse of [`shown`](Marks::shown).
    pub(crate) fn stored(self, shown: &[u8]) -> Cow<'_, [u8]> {
        match shown.strip_prefix(self.prefix().as_bytes()) {
            None => Cow::Borrowed(shown),
            Some(rest) => Cow::Owned([self.prefix().as_bytes(), b"overlay.", rest].concat()),
        }
    }
}

/// Whether it is a character device 0:0, which hides what layers below have of its name.
pub(crate) fn is_whiteout(kind: FileType, major: u32, minor: u32) -> bool {
    kind == FileType::CharacterDevice && (major, minor) == (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_marks_are_not_shown_and_escaped_ones_are_unescaped() {
        let shown = |name: &str| Marks::Trusted.shown(name.as_bytes()).map(Cow::into_owned);
        assert_eq!(shown("trusted.overlay.opaque"), None);
        assert_eq!(shown("trusted.overlay.overlay"), None);
        assert_eq!(
            shown("trusted.overlay.overlay.opaque"),
            Some(b"trusted.overlay.opaque".to_vec())
        );
        assert_eq!(
            shown("user.overlay.opaque"),
            Some(b"user.overlay.opaque".to_vec())
        );
        assert_eq!(shown("user.a"), Some(b"user.a".to_vec()));
    }

    #[test]
    fn what_is_stored_is_shown_again() {
        for name in ["user.overlay.opaque", "trusted.overlay.redirect", "user.a"] {
            for marks in [Marks::User, Marks::Trusted] {
                let stored = marks.stored(name.as_bytes()).into_owned();
                assert_eq!(marks.shown(&stored).as_deref(), Some(name.as_bytes()));
            }
        }
    }
}
