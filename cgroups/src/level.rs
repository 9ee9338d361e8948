//! Whether one level of the v2 tree can pass controllers on to its children; the decision is pure.

use crate::controller::Controller;
use crate::dir::Dir;
use crate::error::{Error, Result};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// What one v2 cgroup says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    kind: Kind,
    /// `cgroup.subtree_control`: what it passes on.
    enabled: Vec<Controller>,
    /// What more there is to know where that is not enough.
    rest: Option<Rest>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rest {
    /// `cgroup.controllers`: what the level above passes on.
    offered: Vec<Controller>,
    has_processes: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The root of the whole tree: it may have processes and pass controllers on.
    Root,
    Domain,
    /// `threaded`, `domain threaded`, `domain invalid`: a child could not take processes.
    Threaded(String),
}

impl Kind {
    pub(crate) fn read(dir: &Dir) -> Result<Self> {
        let kind = dir.read("cgroup.type")?;
        Ok(match kind.as_deref().map(str::trim_end) {
            Some("domain") => Kind::Domain,
            Some(kind) => Kind::Threaded(kind.to_owned()),
            // Kernels before 4.14 have no types. Only the root lacks this one too.
            None => match dir.open_file("cgroup.events", OFlags::PATH) {
                Ok(_) => Kind::Domain,
                Err(Errno::NOENT | Errno::NODEV) => Kind::Root,
                Err(errno) => {
                    return Err(Error::sys("open", &dir.file_path("cgroup.events"), errno));
                }
            },
        })
    }
}

/// What has to happen for children of a level to have the controllers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ready,
    /// Write this into `cgroup.subtree_control`.
    Enable(String),
    /// These are not offered.
    NotPassedOn(String),
    /// These cannot be enabled beside processes. The kernel would allow it for `cpu` and `pids`, but that makes the
    /// level threaded and its children unusable.
    Populated(String),
    Threaded(String),
}

impl Level {
    /// Reads it, as far as `needed` asks for.
    pub(crate) fn read(dir: &Dir, kind: Kind, needed: &[Controller]) -> Result<Self> {
        let enabled = match needed {
            [] => Vec::new(),
            _ => controllers(&dir.read_subtree_control()?),
        };
        let rest = if lacking(needed, &enabled).is_empty() {
            None
        } else {
            Some(Rest {
                offered: controllers(&dir.read_required("cgroup.controllers")?),
                // Of a threaded one it cannot be read, and does not matter.
                has_processes: kind == Kind::Domain && has_processes(dir)?,
            })
        };
        Ok(Level {
            kind,
            enabled,
            rest,
        })
    }

    pub(crate) fn verdict(&self, needed: &[Controller]) -> Verdict {
        if let Kind::Threaded(kind) = &self.kind {
            return Verdict::Threaded(kind.clone());
        }
        let missing = lacking(needed, &self.enabled);
        let Some(rest) = &self.rest else {
            return Verdict::Ready;
        };
        let not_offered = lacking(needed, &rest.offered);
        if !not_offered.is_empty() {
            Verdict::NotPassedOn(joined(&not_offered, ""))
        } else if rest.has_processes {
            Verdict::Populated(joined(&missing, ""))
        } else {
            Verdict::Enable(joined(&missing, "+"))
        }
    }
}

/// Makes children of `dir` have the controllers: at most one write.
pub(crate) fn enable(dir: &Dir, kind: Kind, needed: &[Controller]) -> Result<()> {
    match Level::read(dir, kind, needed)?.verdict(needed) {
        Verdict::Ready => Ok(()),
        Verdict::NotPassedOn(which) => Err(Error::not_passed_on(dir.path(), which)),
        Verdict::Populated(which) => Err(Error::populated(dir.path(), which)),
        Verdict::Threaded(kind) => Err(Error::threaded(dir.path(), kind)),
        Verdict::Enable(value) => dir
            .write("cgroup.subtree_control", &value)
            .map_err(|errno| Error::write(dir.file_path("cgroup.subtree_control"), &value, errno)),
    }
}

/// Makes threaded children of `dir` have the controller, whatever processes `dir` has.
pub(crate) fn enable_threaded(dir: &Dir, controller: Controller) -> Result<()> {
    let file = "cgroup.subtree_control";
    if controllers(&dir.read_required(file)?).contains(&controller) {
        return Ok(());
    }
    if !controllers(&dir.read_required("cgroup.controllers")?).contains(&controller) {
        return Err(Error::not_passed_on(dir.path(), controller.to_string()));
    }
    let value = format!("+{controller}");
    dir.write(file, &value)
        .map_err(|errno| Error::write(dir.file_path(file), &value, errno))
}

/// The controllers of a list, those that this crate knows.
pub(crate) fn controllers(text: &str) -> Vec<Controller> {
    text.split_whitespace()
        .filter_map(Controller::from_name)
        .collect()
}

fn has_processes(dir: &Dir) -> Result<bool> {
    let procs = dir.read_procs()?;
    Ok(procs.is_some_and(|text| !text.is_empty()))
}

fn lacking(needed: &[Controller], have: &[Controller]) -> Vec<Controller> {
    let lacking = needed
        .iter()
        .filter(|controller| !have.contains(controller));
    lacking.copied().collect()
}

fn joined(controllers: &[Controller], sign: &str) -> String {
    let words: Vec<_> = controllers
        .iter()
        .map(|controller| format!("{sign}{controller}"))
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use Controller::{Cpu, Memory, Pids};

    fn level(kind: Kind, offered: &str, enabled: &str, has_processes: bool) -> Level {
        Level {
            kind,
            enabled: controllers(enabled),
            rest: Some(Rest {
                offered: controllers(offered),
                has_processes,
            }),
        }
    }

    #[test]
    fn only_what_is_needed_and_missing_is_enabled() {
        let all = "cpuset cpu io memory hugetlb pids rdma misc";
        let table = [
            (level(Kind::Root, all, "", false), "+memory +pids"),
            (level(Kind::Root, all, "cpu memory", false), "+pids"),
            (level(Kind::Domain, all, "pids", false), "+memory"),
        ];
        for (level, value) in table {
            assert_eq!(
                level.verdict(&[Memory, Pids]),
                Verdict::Enable(value.to_owned())
            );
        }
    }

    #[test]
    fn nothing_is_written_where_all_is_enabled() {
        let level = Level {
            kind: Kind::Domain,
            enabled: vec![Memory, Pids],
            rest: None,
        };
        assert_eq!(level.verdict(&[Memory, Pids]), Verdict::Ready);
        assert_eq!(level.verdict(&[]), Verdict::Ready);
    }

    #[test]
    fn a_level_with_processes_enables_nothing_not_even_cpu() {
        let level = level(Kind::Domain, "cpu memory pids", "pids", true);
        assert_eq!(
            level.verdict(&[Cpu, Pids]),
            Verdict::Populated("cpu".to_owned())
        );
    }

    #[test]
    fn what_the_level_above_keeps_is_named() {
        let level = level(Kind::Domain, "memory pids", "", false);
        assert_eq!(
            level.verdict(&[Cpu, Memory]),
            Verdict::NotPassedOn("cpu".to_owned())
        );
    }

    #[test]
    fn a_threaded_level_takes_no_children() {
        let kind = Kind::Threaded("domain threaded".to_owned());
        let level = level(kind, "cpu", "cpu", false);
        assert_eq!(
            level.verdict(&[]),
            Verdict::Threaded("domain threaded".to_owned())
        );
    }
}
