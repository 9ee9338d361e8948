//! What of overlayfs can be had, found out by trying.

use std::sync::OnceLock;

use crate::mount::{Applied, OverlayMount};
use crate::options::{Fsync, RedirectDir, Switch, Verity, Xino};
use crate::overlay::Overlay;

/// What this process can have of overlayfs on this kernel, as [`Overlay::probe`] found. The options were tried with a
/// scratch upper, and are true only where they came into force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Support {
    /// Layers can be mounted at all: if not, [`why`](Support::why).
    pub overlayfs: bool,
    /// What the first trial failed with.
    pub why: Option<String>,
    /// Directories go to the kernel as fds ([`Applied::Native`]); detached mounts can be layers. Linux 6.15.
    pub native: bool,
    /// [`Overlay::scratch`]: in a user namespace Linux 6.6.
    pub scratch: bool,
    /// [`Overlay::volatile`].
    pub volatile: bool,
    /// [`Overlay::userxattr`].
    pub userxattr: bool,
    /// [`Overlay::metacopy`]: not in a user namespace.
    pub metacopy: bool,
    /// [`Overlay::redirect_dir`] to be on: not in a user namespace.
    pub redirect_dir: bool,
    /// [`Overlay::index`]: not in a user namespace.
    pub index: bool,
    /// [`Overlay::xino`].
    pub xino: bool,
    /// [`Overlay::data_layers`].
    pub data_layers: bool,
    /// [`Overlay::verity`].
    pub verity: bool,
    /// [`Overlay::fsync`].
    pub fsync: bool,
}

impl Support {
    pub(crate) fn probed() -> Self {
        static PROBED: OnceLock<Support> = OnceLock::new();
        PROBED.get_or_init(Support::probe).clone()
    }

    fn probe() -> Self {
        let first = Overlay::trial(0).detached();
        let scratch = || Overlay::trial(0).scratch_size(1 << 16);
        let works = |overlay: Overlay| overlay.detached().is_ok();
        Support {
            overlayfs: first.is_ok(),
            native: first.as_ref().map(OverlayMount::applied).ok() == Some(Applied::Native),
            why: first.err().map(|error| error.to_string()),
            scratch: works(scratch().volatile(Switch::Off)),
            volatile: works(scratch().volatile(Switch::On)),
            userxattr: works(scratch().userxattr()),
            metacopy: works(scratch().metacopy(Switch::On)),
            redirect_dir: works(scratch().redirect_dir(RedirectDir::On)),
            index: works(scratch().index(Switch::On)),
            xino: works(scratch().xino(Xino::On)),
            data_layers: works(Overlay::trial(1)),
            verity: works(scratch().verity(Verity::On)),
            fsync: works(scratch().volatile(Switch::Off).fsync(Fsync::Strict)),
        }
    }

    /// Whether there is an option of this key.
    pub(crate) fn has(&self, key: &str) -> bool {
        match key {
            "metacopy" => self.metacopy,
            "redirect_dir" => self.redirect_dir,
            "index" => self.index,
            "xino" => self.xino,
            "verity" => self.verity,
            "fsync" => self.fsync,
            _ => true,
        }
    }
}
