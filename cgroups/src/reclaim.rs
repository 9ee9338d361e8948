//! Taking memory back.

use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::controller::Version;
use crate::error::{Error, Result};
use crate::stat;

/// What [`Cgroup::memory_reclaim`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reclaimed {
    /// By how much `memory.current` is lower than before. Processes go on meanwhile, so this is not exact.
    pub bytes: u64,
    /// Whether the kernel reclaimed all that was asked for, by its own count. If not, it gave up: there is no more that
    /// can be had.
    pub complete: bool,
}

impl Cgroup {
    /// Makes the kernel reclaim `bytes` of its memory and that of cgroups inside it, by `memory.reclaim` (Linux 5.19):
    /// page cache is dropped, and written first if need be, other memory swapped out. Takes as long as that takes.
    ///
    /// # Errors
    /// `Unsupported` on older kernels, on v1, and if it was created without a memory limit. `PermissionDenied`;
    /// `NotFound` if it is gone.
    #[doc(alias = "memory.reclaim")]
    pub fn memory_reclaim(&self, bytes: u64) -> Result<Reclaimed> {
        let before = self.memory_current()?;
        let with = self.members().find(|member| {
            member
                .dir
                .read("memory.current")
                .is_ok_and(|text| text.is_some())
        });
        let Some(member) = with.filter(|member| member.version == Version::V2) else {
            let reason = "cgroup v1 has no memory.reclaim";
            return Err(Error::unsayable("memory_reclaim", reason));
        };
        let file = "memory.reclaim";
        let complete = match member.dir.write(file, &bytes.to_string()) {
            Ok(()) => true,
            Err(Errno::AGAIN) => false,
            Err(Errno::NOENT) => {
                let path = member.dir.file_path(file);
                return Err(Error::no_file("memory_reclaim", path));
            }
            Err(errno) => {
                let path = member.dir.file_path(file);
                return Err(Error::write(path, &bytes.to_string(), errno));
            }
        };
        let path = member.dir.file_path("memory.current");
        let after = stat::number(&path, &member.dir.read_required("memory.current")?)?;
        Ok(Reclaimed {
            bytes: before.saturating_sub(after),
            complete,
        })
    }
}
