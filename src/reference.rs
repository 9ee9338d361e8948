//! A container that outlives the handle to it.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use cofferdam_cgroups::Hierarchy;
use cofferdam_namespaces::Spawned;

use crate::error::{Error, Result, Subject};
use crate::network::Pasta;
use crate::process::{Identity, boot};
use crate::running::{Held, Parts, Running};
use crate::runtime::{Fact, Facts, Record};

/// Which container is meant, for another process or a later one: [`Running::detach`] gives it, [`Running::attach`] takes it.
///
/// As text, by `Display` and [`FromStr`], it is one line, to be kept in a file or a database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    pid: u32,
    started: u64,
    boot: String,
    record: PathBuf,
}

impl Reference {
    /// The pid of its program, as the process counted that detached it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    fn subject(&self) -> Subject {
        Subject::container(&format!("with pid {}", self.pid))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reference {
            pid,
            started,
            boot,
            record,
        } = self;
        write!(f, "cofferdam/1 {pid} {started} {boot} {}", record.display())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = || {
            let mut words = text.strip_prefix("cofferdam/1 ")?.splitn(4, ' ');
            Some(Reference {
                pid: words.next()?.parse().ok()?,
                started: words.next()?.parse().ok()?,
                boot: words.next()?.to_owned(),
                record: words.next().filter(|path| path.starts_with('/'))?.into(),
            })
        };
        let invalid = || {
            let subject = Subject::container("of a reference");
            Error::invalid(&subject, "reference", text, "is no text of one")
        };
        parsed().ok_or_else(invalid)
    }
}

impl Running {
    /// Lets it live on without this handle, and after this process: nothing reaps it until its program has ended. Streams that
    /// are pipes are closed.
    ///
    /// Its network is this process's, and lives as long: until then addresses, names and ports of the container stay.
    ///
    /// # Errors
    /// If it has ended, is to [die with this process](crate::ContainerBuilder::die_with_embedder) (`InvalidInput`), or that cannot
    /// be written down: then it is killed and removed, as by Drop.
    pub fn detach(self) -> Result<Reference> {
        let subject = self.subject().clone();
        if self.dies_with_embedder() {
            let reason = "is to die with this process";
            return Err(Error::invalid(&subject, "detach", self.name(), reason));
        }
        self.needs_program()?;
        let started = self.start_time()?;
        let boot = boot().map_err(subject.failed("read /proc"))?;
        let gone = || Error::gone(&subject, "it is taken apart");
        let record = self.record().ok_or_else(gone)?;
        let path = std::path::absolute(record.path());
        let path = path.map_err(subject.failed("name its record"))?;
        let noted = record.add(&Fact::Detached);
        noted.map_err(subject.failed("write its record"))?;
        let record = path;
        let pid = self.pid();
        self.let_go();
        Ok(Reference {
            pid,
            started,
            boot,
            record,
        })
    }

    /// A handle of a container that was [detached](Self::detach), by this process or another, for whoever comes first.
    ///
    /// Nothing is touched before it is certain that it is the same: the pid is of the process that was started then, in this
    /// boot, and that is in the container's cgroup. How its program ends is known since Linux 6.15; before,
    /// [`wait`](Self::wait) says `StatusLost`.
    ///
    /// # Errors
    /// `NotFound` if it has ended or never was; `Busy` if another handle has it.
    pub fn attach(reference: &Reference) -> Result<Running> {
        let subject = reference.subject();
        let gone = || Error::gone(&subject, "it has ended");
        if boot().map_err(subject.failed("read /proc"))? != reference.boot {
            return Err(gone());
        }
        let (record, facts) = claim(reference, &subject)?;
        if facts.program != Some((reference.pid, reference.started)) {
            return Err(gone());
        }
        let spawned = Spawned::adopt(reference.pid, reference.started);
        let spawned = spawned.map_err(subject.failed("find its program"))?;
        let mut parts = match checked(&facts, &subject) {
            Ok(cgroup) => Parts {
                spawned,
                cgroup,
                attached: None,
                pasta: Pasta::of(&facts),
                held: Held::default(),
            },
            Err(error) => {
                // It is not the one that is meant: it is to live.
                spawned.persist();
                return Err(error);
            }
        };
        let noted = Identity::of_caller()
            .and_then(|owner| record.add(&Fact::Owner(owner)))
            .and_then(|()| record.add(&Fact::Attached));
        if let Err(error) = noted {
            if let Some(pasta) = &mut parts.pasta {
                pasta.keep();
            }
            parts.spawned.persist();
            return Err(subject.failed("write its record")(error));
        }
        let subject = Subject::container(&facts.name);
        Ok(Running::new(subject, facts.name, None, parts, record))
    }
}

/// Its record, for this process alone.
fn claim(reference: &Reference, subject: &Subject) -> Result<(Record, Facts)> {
    let failed = || subject.failed("read its record");
    if let Some((record, facts)) = Record::take(&reference.record).map_err(failed())? {
        if facts.detached {
            return Ok((record, facts));
        }
        return Err(Error::gone(subject, "its owner has ended, and so is it to"));
    }
    match reference.record.try_exists().map_err(failed())? {
        true => Err(Error::busy(subject, "another handle has it")),
        false => Err(Error::gone(subject, "it has ended")),
    }
}

/// Its cgroup, in which its program has to be.
fn checked(facts: &Facts, subject: &Subject) -> Result<Option<cofferdam_cgroups::Cgroup>> {
    let (Some(name), Some((pid, _))) = (&facts.cgroup, facts.program) else {
        return Ok(None);
    };
    if facts.cgroup_paths.is_empty() {
        // It was started where it could have none.
        return Ok(None);
    }
    let member = fs::read_to_string(format!("/proc/{pid}/cgroup"));
    let member = member.map_err(subject.failed("find its cgroup"))?;
    if !member
        .lines()
        .any(|line| line.split('/').any(|part| part == name))
    {
        return Err(Error::gone(subject, "its program is in another cgroup"));
    }
    let failed = || subject.failed::<cofferdam_cgroups::Error>("open its cgroup");
    let hierarchy = Hierarchy::detect().map_err(failed())?;
    hierarchy
        .open(&facts.cgroup_paths)
        .map(Some)
        .map_err(failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_one_line_and_comes_back() {
        let reference = Reference {
            pid: 7,
            started: 9,
            boot: "b-o-o-t".into(),
            record: "/run/a b/7-9-0-web".into(),
        };
        let text = reference.to_string();
        assert_eq!(text, "cofferdam/1 7 9 b-o-o-t /run/a b/7-9-0-web");
        assert_eq!(text.parse::<Reference>().unwrap(), reference);
        for bad in [
            "",
            "cofferdam/1 7 9 b",
            "cofferdam/1 x 9 b /a",
            "cofferdam/1 7 9 b a",
            "7 9 b /a",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
