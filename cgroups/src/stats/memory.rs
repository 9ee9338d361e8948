//! `memory.stat`; pure.

use super::scan::{self, Scanned};

/// One field for each key that matters: its name here, on v2 and on v1.
macro_rules! fields {
    ($($(#[$doc:meta])* $field:ident: $v2:literal $(| $v1:literal)?;)*) => {
        /// What the memory of a cgroup, with all cgroups inside it, is used for: `memory.stat`, from
        /// [`Stats::memory_stat`](crate::Stats::memory_stat).
        ///
        /// The kernel adds up what its CPUs counted every two seconds, or when it is much: the numbers may be that late.
        ///
        /// Bytes, where nothing else is said. What the kernel does not say is `None`. On v1 the `total_` lines are taken.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct MemoryStat {
            $($(#[$doc])* pub $field: Option<u64>,)*
            text: String,
        }

        impl MemoryStat {
            fn slot(&mut self, key: &[u8]) -> Option<&mut Option<u64>> {
                match std::str::from_utf8(key).ok()? {
                    $($v2 $(| $v1)? => Some(&mut self.$field),)*
                    _ => None,
                }
            }
        }
    };
}

fields! {
    /// Anonymous memory, such as heap and stacks.
    anon: "anon" | "total_rss";
    /// The page cache, shared memory and tmpfs included.
    file: "file" | "total_cache";
    /// What the kernel uses for it, all of the next ones included. Since Linux 5.18; not on v1.
    kernel: "kernel";
    /// Stacks of threads in the kernel. Not on v1.
    kernel_stack: "kernel_stack";
    /// Page tables. Not on v1.
    pagetables: "pagetables";
    /// Per-CPU data of the kernel. Not on v1.
    percpu: "percpu";
    /// Buffers of sockets. Not on v1.
    sock: "sock";
    /// Memory of vmalloc. Not on v1.
    vmalloc: "vmalloc";
    /// Data structures of the kernel. Not on v1.
    slab: "slab";
    /// What of the slab can be given back, such as cached names. Not on v1.
    slab_reclaimable: "slab_reclaimable";
    /// What of the slab cannot. Not on v1.
    slab_unreclaimable: "slab_unreclaimable";
    /// Shared memory and tmpfs.
    shmem: "shmem" | "total_shmem";
    /// What compressed swapped pages take. Since Linux 5.19; not on v1.
    zswap: "zswap";
    /// What these pages were before. Since Linux 5.19; not on v1.
    zswapped: "zswapped";
    /// Page cache that is mapped by programs.
    file_mapped: "file_mapped" | "total_mapped_file";
    /// Page cache that is not written to disk yet.
    file_dirty: "file_dirty" | "total_dirty";
    /// Page cache that is being written.
    file_writeback: "file_writeback" | "total_writeback";
    /// Memory that is also still in swap.
    swapcached: "swapcached" | "total_swapcached";
    /// Anonymous memory in huge pages.
    anon_thp: "anon_thp" | "total_rss_huge";
    /// Anonymous memory not used of late.
    inactive_anon: "inactive_anon" | "total_inactive_anon";
    /// Anonymous memory in use of late.
    active_anon: "active_anon" | "total_active_anon";
    /// Page cache not used of late: what can be taken back at no cost.
    inactive_file: "inactive_file" | "total_inactive_file";
    /// Page cache in use of late.
    active_file: "active_file" | "total_active_file";
    /// Locked memory.
    unevictable: "unevictable" | "total_unevictable";
    /// Page faults, a number.
    pgfault: "pgfault" | "total_pgfault";
    /// Page faults that had to read from disk, a number.
    pgmajfault: "pgmajfault" | "total_pgmajfault";
    /// Pages looked at to reclaim them, a number. Not on v1.
    pgscan: "pgscan";
    /// Pages reclaimed, a number. Not on v1.
    pgsteal: "pgsteal";
    /// Anonymous pages that came back soon after they had been swapped out, a number.
    workingset_refault_anon: "workingset_refault_anon" | "total_workingset_refault_anon";
    /// Pages of files that came back soon after they had been dropped, a number.
    workingset_refault_file: "workingset_refault_file" | "total_workingset_refault_file";
    /// Of the first, those that were in use at once. Not on v1.
    workingset_activate_anon: "workingset_activate_anon";
    /// Of the second, those that were in use at once. Not on v1.
    workingset_activate_file: "workingset_activate_file";
    /// Of the first, those that had been in use before. Not on v1.
    workingset_restore_anon: "workingset_restore_anon";
    /// Of the second, those that had been in use before. Not on v1.
    workingset_restore_file: "workingset_restore_file";
    /// Times the kernel dropped its memory of dropped pages. Not on v1.
    workingset_nodereclaim: "workingset_nodereclaim";
}

impl MemoryStat {
    /// The number of any line, by the kernel's own name for it: `thp_fault_alloc`, or on v1 `hierarchical_memory_limit`.
    #[must_use]
    pub fn raw(&self, key: &str) -> Option<u64> {
        let mut lines = scan::keyed(self.text.as_bytes()).filter_map(Scanned::ok);
        let line = lines.find(|line| line.key == key.as_bytes())?;
        line.number().ok()
    }

    pub(crate) fn scan(text: &[u8]) -> Scanned<'_, Self> {
        let mut stat = MemoryStat::default();
        for line in scan::keyed(text) {
            let line = line?;
            if let Some(slot) = stat.slot(line.key) {
                *slot = Some(line.number()?);
            }
        }
        stat.text = String::from_utf8_lossy(text).into_owned();
        Ok(stat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &[u8] = include_bytes!("../../tests/data/v2/memory.stat");
    const V1: &[u8] = include_bytes!("../../tests/data/v1/memory.stat");

    #[test]
    fn every_line_of_v2_is_there_by_name_or_raw() {
        let stat = MemoryStat::scan(V2).unwrap();
        assert_eq!((stat.anon, stat.file), (Some(21_004_288), Some(0)));
        assert_eq!((stat.kernel, stat.slab), (Some(102_400), Some(46_104)));
        assert_eq!(stat.pgfault, Some(529));
        assert_eq!(stat.raw("thp_fault_alloc"), Some(9));
        assert_eq!(stat.raw("anon"), stat.anon);
        assert_eq!(stat.raw("ano"), None);
        for line in scan::keyed(V2) {
            let key = std::str::from_utf8(line.unwrap().key).unwrap();
            assert!(stat.raw(key).is_some(), "{key}");
        }
    }

    #[test]
    fn v1_has_the_totals_under_the_names_of_v2() {
        let stat = MemoryStat::scan(V1).unwrap();
        assert_eq!(stat.anon, stat.raw("total_rss"));
        assert_eq!(stat.file, stat.raw("total_cache"));
        assert_eq!(stat.inactive_file, stat.raw("total_inactive_file"));
        assert!(stat.anon.is_some() && stat.workingset_refault_file.is_some());
        assert_eq!((stat.kernel, stat.slab), (None, None));
        assert!(stat.raw("hierarchical_memory_limit").is_some());
    }

    #[test]
    fn a_line_that_is_not_understood_is_told() {
        assert_eq!(MemoryStat::scan(b"anon 1\nfile x\n"), Err(&b"file x"[..]));
        assert_eq!(MemoryStat::scan(b"anon\n"), Err(&b"anon"[..]));
        assert!(MemoryStat::scan(b"of_a_later_kernel 1.5\n").is_ok());
    }

    #[test]
    fn no_text_ends_the_program() {
        let mut understood = 0;
        crate::stats::fuzz::texts(&[V1, V2], 4000, |text| {
            if let Ok(stat) = MemoryStat::scan(text) {
                understood += 1;
                let _number = stat.raw("pgfault");
            }
        });
        assert!(understood > 0);
    }
}
