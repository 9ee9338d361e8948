//! Writing limits: in an order the kernel takes, and back again if not all can be had.

use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::controller::{Controller, Version};
use crate::dir::Dir;
use crate::error::{Error, ErrorKind, Result};
use crate::level;
use crate::limits::{Files, IfAbsent, Limits, Old, Rendering, Setting};
use crate::member::Member;

/// A limit that [`Limits::best_effort`] left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The name of the limit: that of its method of [`Limits`].
    pub limit: &'static str,
    /// Why, in one line.
    pub reason: String,
    /// The cgroup it was for, or the file; `None` where no hierarchy has the controller.
    pub path: Option<PathBuf>,
}

impl Skipped {
    pub(crate) fn new(limit: &'static str, error: &Error, path: Option<PathBuf>) -> Self {
        Skipped {
            limit,
            reason: error.to_string(),
            path,
        }
    }
}

impl Cgroup {
    /// Changes limits of a cgroup that exists: all that are given, or none. What is not given stays as it is, but swap:
    /// [`Limits::memory_max`] alone sets that too, as its description says, so give both where there is some.
    ///
    /// All values are checked, and that the cgroup has the controllers, before the first write. If a write fails then,
    /// those done are written back, in reverse order. Returns what [`Limits::best_effort`] left out; without it,
    /// nothing.
    ///
    /// A limit of memory below what is in use makes the kernel reclaim, and then kill.
    ///
    /// # Errors
    /// `InvalidInput` as by [`Limits::validate`], or where the kernel refuses a value. `Unsupported` naming a limit
    /// whose controller the cgroup was made without, or that v1 or this kernel has not. `PermissionDenied`. The error
    /// has the kind of its cause, and says what was written back: [`Error::undone`].
    pub fn update(&self, limits: &Limits) -> Result<Vec<Skipped>> {
        limits.validate()?;
        let mut skipped = Vec::new();
        let mut written = Vec::new();
        for (member, settings) in self.places(limits, &mut skipped)? {
            let mut writer = Writer::new(&member.dir, limits.is_best_effort());
            writer.remember = true;
            let done = writer.write_all(&settings);
            skipped.append(&mut writer.skipped);
            written.append(&mut writer.written);
            if let Err(cause) = done {
                return Err(undo(self.path().to_owned(), cause, written));
            }
        }
        // Last, for the policy that it replaces cannot be read back.
        let devices = limits.device_policy();
        if let Some(Err(cause)) = devices.map(|devices| self.set_devices(devices)) {
            return Err(undo(self.path().to_owned(), cause, written));
        }
        Ok(skipped)
    }

    /// Reads back what limits the kernel has for it: all that its controllers have a file for, [`Max::Unlimited`]
    /// where there is none. The kernel rounds bytes to whole pages. On v1 the weight is in shares.
    ///
    /// # Errors
    /// `PermissionDenied`; `Malformed` if the kernel's text is not understood; `NotFound` if it is gone.
    ///
    /// [`Max::Unlimited`]: crate::Max::Unlimited
    pub fn limits(&self) -> Result<Limits> {
        self.main().dir.read_required("cgroup.procs")?;
        let mut limits = Limits::new();
        for member in self.members() {
            let files = Files {
                path: member.dir.path(),
                read: &|file| member.dir.read(file),
            };
            limits = limits.with_those_of(&files, member.version)?;
        }
        Ok(limits)
    }

    /// What goes where.
    fn places(
        &self,
        limits: &Limits,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Vec<(&Member, Vec<Setting>)>> {
        let mut places = Vec::new();
        for controller in limits.controllers() {
            let Some(member) = self.with(controller)? else {
                let path = self.path();
                skip_all(limits, skipped, controller, Some(path), |limit| {
                    Error::not_enabled(limit, controller.name(), path)
                })?;
                continue;
            };
            let rendering = limits.render(controller, member.version);
            let path = Some(member.dir.path().to_owned());
            places.push((member, sayable(limits, rendering, skipped, path)?));
        }
        Ok(places)
    }

    /// The directory that has the controller.
    fn with(&self, controller: Controller) -> Result<Option<&Member>> {
        for member in self.members() {
            let has = match member.version {
                Version::V1 => has_file(&member.dir, controller.v1_file())?,
                Version::V2 => {
                    let offered = member.dir.read_required("cgroup.controllers")?;
                    level::controllers(&offered).contains(&controller)
                }
            };
            if has {
                return Ok(Some(member));
            }
        }
        Ok(None)
    }
}

fn has_file(dir: &Dir, file: &str) -> Result<bool> {
    // Some of them cannot be read.
    match dir.open_file(file, OFlags::PATH) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(Error::sys("open", &dir.file_path(file), errno)),
    }
}

/// The settings of a rendering, if this version can say all of it.
pub(crate) fn sayable(
    limits: &Limits,
    rendering: Rendering,
    skipped: &mut Vec<Skipped>,
    path: Option<PathBuf>,
) -> Result<Vec<Setting>> {
    for refused in rendering.refused {
        let error = Error::unsayable(refused.limit, refused.reason);
        skip(limits, skipped, refused.limit, error, path.clone())?;
    }
    Ok(rendering.settings)
}

/// An error, unless best effort is good enough.
pub(crate) fn skip(
    limits: &Limits,
    skipped: &mut Vec<Skipped>,
    limit: &'static str,
    error: Error,
    path: Option<PathBuf>,
) -> Result<()> {
    if !limits.is_best_effort() || error.kind() != ErrorKind::Unsupported {
        return Err(error);
    }
    skipped.push(Skipped::new(limit, &error, path));
    Ok(())
}

/// As [`skip`], of all limits of a controller: what is left out is listed to the last.
pub(crate) fn skip_all(
    limits: &Limits,
    skipped: &mut Vec<Skipped>,
    controller: Controller,
    path: Option<&Path>,
    error: impl Fn(&'static str) -> Error,
) -> Result<()> {
    limits.names(controller).into_iter().try_for_each(|limit| {
        skip(
            limits,
            skipped,
            limit,
            error(limit),
            path.map(Path::to_owned),
        )
    })
}

/// As [`skip_all`], for an error that names the controller and no limit.
pub(crate) fn skip_controller(
    limits: &Limits,
    skipped: &mut Vec<Skipped>,
    controller: Controller,
    path: Option<&Path>,
    error: Error,
) -> Result<()> {
    if !limits.is_best_effort() || error.kind() != ErrorKind::Unsupported {
        return Err(error);
    }
    let names = limits.names(controller).into_iter();
    skipped.extend(names.map(|limit| Skipped::new(limit, &error, path.map(Path::to_owned))));
    Ok(())
}

/// Writes the limits of one controller into one directory.
pub(crate) struct Writer<'a> {
    dir: &'a Dir,
    best_effort: bool,
    /// Whether to read what each write replaces.
    remember: bool,
    pub(crate) skipped: Vec<Skipped>,
    written: Vec<Written<'a>>,
}

/// A write that was done, with what was there before.
struct Written<'a> {
    dir: &'a Dir,
    file: String,
    old: String,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(dir: &'a Dir, best_effort: bool) -> Self {
        Writer {
            dir,
            best_effort,
            remember: false,
            skipped: Vec::new(),
            written: Vec::new(),
        }
    }

    /// Writes all. What the kernel refuses at first it gets again at the end: a burst may not be above the quota nor a
    /// limit of memory above that of memory and swap, so whether one or the other goes first depends on the old values.
    pub(crate) fn write_all(&mut self, settings: &[Setting]) -> Result<()> {
        let mut later = Vec::new();
        for setting in settings {
            match self.write(setting) {
                Err(error) if settings.len() > 1 && order_may_matter(&error) => later.push(setting),
                done => self.settle(setting, done)?,
            }
        }
        for setting in later {
            let done = self.write(setting);
            self.settle(setting, done)?;
        }
        Ok(())
    }

    fn settle(&mut self, setting: &Setting, done: Result<()>) -> Result<()> {
        match done {
            Err(error) if self.best_effort && error.kind() == ErrorKind::Unsupported => {
                let path = self.dir.file_path(&setting.file);
                let skipped = Skipped::new(setting.limit, &error, Some(path));
                self.skipped.push(skipped);
                Ok(())
            }
            done => done,
        }
    }

    fn write(&mut self, setting: &Setting) -> Result<()> {
        match (
            self.write_to(setting, &setting.file, &setting.value),
            &setting.if_absent,
        ) {
            (Some(done), _) => done,
            (None, IfAbsent::Skip) => Ok(()),
            (None, IfAbsent::Instead { file, value }) => self
                .write_to(setting, file, value)
                .unwrap_or_else(|| Err(self.absent(setting))),
            (None, IfAbsent::Fail) => Err(self.absent(setting)),
        }
    }

    /// `None` if there is no such file.
    fn write_to(&mut self, setting: &Setting, file: &str, value: &str) -> Option<Result<()>> {
        let old = match self.replaced(&setting.old, file).transpose()? {
            Ok(old) => old,
            Err(error) => return Some(Err(error)),
        };
        match self.dir.write(file, value) {
            Ok(()) => {}
            Err(Errno::NOENT) => return None,
            Err(errno) => return Some(Err(self.refused(file, value, errno))),
        }
        self.written.extend(old);
        Some(match setting.old {
            Old::Partition => self.check_partition(file, value),
            _ => Ok(()),
        })
    }

    /// What a write replaces; `None` if there is no such file.
    fn replaced(&self, old: &Old, file: &str) -> Result<Option<Vec<Written<'a>>>> {
        let mut all = Vec::new();
        if !self.remember {
            return Ok(Some(all));
        }
        let Some(text) = self.dir.read(file)? else {
            return Ok(None);
        };
        let dir = self.dir;
        let idle = file == "cpu.idle" && text.trim_end() == "0";
        // A nice value is read back rounded, and to be idle no longer makes the kernel forget the weight.
        if idle || file == "cpu.weight.nice" {
            for weight in ["cpu.weight", "cpu.shares"] {
                if let Some(text) = dir.read(weight)? {
                    let (file, old) = (weight.to_owned(), before(&Old::Whole, weight, &text));
                    all.push(Written { dir, file, old });
                }
            }
        }
        if file != "cpu.weight.nice" {
            let (file, old) = (file.to_owned(), before(old, file, &text));
            all.push(Written { dir, file, old });
        }
        Ok(Some(all))
    }

    fn check_partition(&self, file: &str, value: &str) -> Result<()> {
        let text = self.dir.read_required(file)?;
        match invalid(&text) {
            None => Ok(()),
            Some(reason) => Err(Error::partition(self.dir.file_path(file), value, reason)),
        }
    }

    /// A write that failed. What opens and cannot be written for EACCES is a set of v1 that the cgroup above has not all
    /// of.
    fn refused(&self, file: &str, value: &str, errno: Errno) -> Error {
        let path = self.dir.file_path(file);
        let set = matches!(file, "cpuset.cpus" | "cpuset.mems");
        if errno == Errno::ACCESS && set && self.dir.open_file(file, OFlags::WRONLY).is_ok() {
            return Error::outside(path, value, errno);
        }
        Error::write(path, value, errno)
    }

    fn absent(&self, setting: &Setting) -> Error {
        Error::no_file(setting.limit, self.dir.file_path(&setting.file))
    }
}

fn order_may_matter(error: &Error) -> bool {
    [Errno::INVAL, Errno::BUSY]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Writes back what was there, last first.
fn undo(path: PathBuf, cause: Error, written: Vec<Written<'_>>) -> Error {
    if written.is_empty() {
        return cause;
    }
    let mut undone = Vec::new();
    let mut left: Vec<_> = written.into_iter().rev().collect();
    // Twice, as the order of this may matter too.
    let mut stuck = Vec::new();
    for _ in 0..2 {
        stuck.clear();
        left.retain(|done| match done.dir.write(&done.file, &done.old) {
            Ok(()) => {
                undone.push(done.dir.file_path(&done.file));
                false
            }
            Err(errno) => {
                let file = done.dir.file_path(&done.file);
                stuck.push(Error::write(file, &done.old, errno));
                true
            }
        });
    }
    Error::update(&path, cause, undone, stuck)
}

/// What to write for the value that a file's text has now.
fn before(old: &Old, file: &str, text: &str) -> String {
    match old {
        Old::Whole if text.trim_end().is_empty() => "\n".to_owned(),
        Old::Whole => text.trim_end().to_owned(),
        Old::Partition => {
            let word = text.split_whitespace().next().unwrap_or("member");
            word.to_owned()
        }
        Old::Line { key, none } => {
            let is_of_key = |line: &&str| line.split(' ').next() == Some(key);
            let line = text.lines().find(is_of_key).unwrap_or(none);
            // BFQ prints the word and does not read it.
            match line.strip_prefix("default ") {
                Some(weight) if file.contains(".bfq.") => weight.to_owned(),
                _ => line.to_owned(),
            }
        }
    }
}

/// The reason in `root invalid (Parent is not a partition root)`.
fn invalid(text: &str) -> Option<&str> {
    let (_, rest) = text.trim_end().split_once(" invalid")?;
    let reason = rest.trim().trim_start_matches('(').trim_end_matches(')');
    Some(if reason.is_empty() {
        "no reason given"
    } else {
        reason
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_an_invalid_partition_is_found() {
        for (text, reason) in [
            ("member\n", None),
            ("root\n", None),
            ("isolated\n", None),
            (
                "root invalid (Parent is not a partition root)\n",
                Some("Parent is not a partition root"),
            ),
            ("isolated invalid (a (b))\n", Some("a (b")),
            ("root invalid\n", Some("no reason given")),
        ] {
            assert_eq!(invalid(text), reason, "{text:?}");
        }
    }

    #[test]
    fn what_was_there_is_found_whole_or_by_its_line() {
        let line = |key: &str, none: &str| Old::Line {
            key: key.to_owned(),
            none: none.to_owned(),
        };
        let io =
            "8:0 rbps=max wbps=1048576 riops=max wiops=max\n8:16 rbps=1 wbps=2 riops=3 wiops=4\n";
        let table = [
            (Old::Whole, "cpu.max", "max 100000\n", "max 100000"),
            (Old::Whole, "cpuset.cpus", "\n", "\n"),
            (
                Old::Partition,
                "cpuset.cpus.partition",
                "root invalid (x)\n",
                "root",
            ),
            (
                line("8:16", "none"),
                "io.max",
                io,
                "8:16 rbps=1 wbps=2 riops=3 wiops=4",
            ),
            (line("8:1", "8:1 rbps=max"), "io.max", io, "8:1 rbps=max"),
            (
                line("default", "default 100"),
                "io.weight",
                "default 50\n8:0 7\n",
                "default 50",
            ),
            (
                line("default", "default 100"),
                "io.bfq.weight",
                "default 50\n",
                "50",
            ),
        ];
        for (old, file, text, expected) in table {
            assert_eq!(before(&old, file, text), expected, "{file}");
        }
    }
}
