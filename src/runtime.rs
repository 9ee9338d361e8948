//! What a process has on this machine, written down before it is made, so that another can remove it when it is gone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::FlockOperation;

use crate::process::{Identity, namespace};

/// A record is a file of lines: it begins with this one.
const VERSION: &str = "cofferdam 1";
/// No record is longer.
const MOST: u64 = 64 << 10;

/// One line of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    /// The process that has it. The last one counts.
    Owner(Identity),
    /// Of whom errors and reports speak.
    Name(String),
    /// The name of a cgroup, which is there or is about to be.
    Cgroup(String),
    /// A directory of it.
    CgroupPath(PathBuf),
    /// The first process of a container, and when it was started.
    Program { pid: u32, started: u64 },
    /// A pasta is about to be started for a process with this pid, which was started then.
    Pasta { pid: u32, started: u64 },
    /// It is to live on without its owner.
    Detached,
    /// It has an owner again.
    Attached,
    /// A bridge with rules, in this network namespace.
    Bridge { name: String, netns: String },
}

impl Fact {
    fn line(&self) -> String {
        match self {
            Fact::Owner(identity) => format!("owner {identity}\n"),
            Fact::Name(name) => format!("name {name}\n"),
            Fact::Cgroup(name) => format!("cgroup {name}\n"),
            Fact::CgroupPath(path) => format!("cgroup-path {}\n", path.display()),
            Fact::Program { pid, started } => format!("program {pid} {started}\n"),
            Fact::Pasta { pid, started } => format!("pasta {pid} {started}\n"),
            Fact::Detached => "detached\n".to_owned(),
            Fact::Attached => "attached\n".to_owned(),
            Fact::Bridge { name, netns } => format!("bridge {name} {netns}\n"),
        }
    }

    /// `None` for a line that is not whole: its writer was killed before it did what it says.
    fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        Some(match word {
            "owner" => Fact::Owner(rest.parse().ok()?),
            "name" => Fact::Name(rest.to_owned()),
            "cgroup" => Fact::Cgroup(rest.to_owned()),
            "cgroup-path" => Fact::CgroupPath(rest.into()),
            "program" => {
                let (pid, started) = rest.split_once(' ')?;
                let (pid, started) = (pid.parse().ok()?, started.parse().ok()?);
                Fact::Program { pid, started }
            }
            "pasta" => {
                let (pid, started) = rest.split_once(' ')?;
                let (pid, started) = (pid.parse().ok()?, started.parse().ok()?);
                Fact::Pasta { pid, started }
            }
            "detached" => Fact::Detached,
            "attached" => Fact::Attached,
            "bridge" => {
                let (name, netns) = rest.split_once(' ')?;
                let (name, netns) = (name.to_owned(), netns.to_owned());
                Fact::Bridge { name, netns }
            }
            _ => return None,
        })
    }
}

/// What a record says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) owner: Option<Identity>,
    pub(crate) name: String,
    pub(crate) cgroup: Option<String>,
    pub(crate) cgroup_paths: Vec<PathBuf>,
    pub(crate) program: Option<(u32, u64)>,
    /// Whom a pasta was started for, and when that was started.
    pub(crate) pasta: Option<(u32, u64)>,
    pub(crate) detached: bool,
    /// Names of bridges, and of the network namespaces they are in.
    pub(crate) bridges: Vec<(String, String)>,
}

impl Facts {
    /// `None` for what is no record of this version. A record that nothing was written to yet has nothing to say.
    fn parse(text: &str) -> Option<Self> {
        let mut facts = Facts::default();
        if text.is_empty() {
            return Some(facts);
        }
        let mut lines = text.strip_prefix(VERSION)?.strip_prefix('\n')?;
        while let Some((line, rest)) = lines.split_once('\n') {
            lines = rest;
            match Fact::parse(line)? {
                Fact::Owner(identity) => facts.owner = Some(identity),
                Fact::Name(name) => facts.name = name,
                Fact::Cgroup(name) => facts.cgroup = Some(name),
                Fact::CgroupPath(path) => facts.cgroup_paths.push(path),
                Fact::Program { pid, started } => facts.program = Some((pid, started)),
                Fact::Pasta { pid, started } => facts.pasta = Some((pid, started)),
                Fact::Detached => facts.detached = true,
                Fact::Attached => facts.detached = false,
                Fact::Bridge { name, netns } => facts.bridges.push((name, netns)),
            }
        }
        Some(facts)
    }
}

/// A file in a runtime directory, locked as long as this value lives.
///
/// Dropping it leaves the file for [`reap`](crate::reap): what it speaks of may still be there.
#[derive(Debug)]
pub(crate) struct Record {
    file: File,
    path: PathBuf,
}

impl Record {
    /// Writes a new one to the directory that was asked for, or to the first of the usual ones that lets it.
    ///
    /// What it says at first, `facts` makes of its id: the process, its start, a number, and the name.
    pub(crate) fn create(
        dir: Option<&Path>,
        name: &str,
        facts: impl Fn(&str) -> Vec<Fact>,
    ) -> io::Result<Self> {
        let mut first = None;
        let candidates = dir.map_or_else(usual, |dir| vec![dir.to_owned()]);
        for dir in candidates {
            match make_directory(&dir).and_then(|()| Self::create_in(&dir, name, &facts)) {
                Ok(record) => return Ok(record),
                Err(error) => {
                    let line = format!("{}: {error}", dir.display());
                    first.get_or_insert(io::Error::new(error.kind(), line));
                }
            }
        }
        Err(first.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn create_in(dir: &Path, name: &str, facts: &impl Fn(&str) -> Vec<Fact>) -> io::Result<Self> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let owner = Identity::of_caller()?;
        loop {
            let number = LAST.fetch_add(1, Ordering::Relaxed);
            let id = format!("{}-{}-{number}-{name}", owner.pid, owner.started);
            let path = dir.join(&id);
            let mut options = OpenOptions::new();
            options.read(true).append(true).create_new(true).mode(0o600);
            let mut file = match options.open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                opened => opened?,
            };
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            // Somebody who reaps may have had it first, and removed it as one that says nothing.
            if file.metadata()?.nlink() == 0 {
                continue;
            }
            let mut text = format!("{VERSION}\n{}", Fact::Owner(owner).line());
            text.extend(facts(&id).iter().map(Fact::line));
            file.write_all(text.as_bytes())?;
            return Ok(Record { file, path });
        }
    }

    /// One that is there. `None`: it is gone, or another process has it, and that one lives.
    pub(crate) fn take(path: &Path) -> io::Result<Option<(Self, Facts)>> {
        let opened = OpenOptions::new().read(true).append(true).open(path);
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        let facts = read(&mut file)?;
        // A program that was being started may have the lock a moment longer than who started it.
        let orphan = || facts.owner.as_ref().is_some_and(Identity::is_gone);
        if file.metadata()?.nlink() == 0 || !(locked || orphan()) {
            return Ok(None);
        }
        let path = path.to_owned();
        Ok(Some((Record { file, path }, facts)))
    }

    /// What a record says, whoever has it.
    pub(crate) fn peek(path: &Path) -> io::Result<Facts> {
        read(&mut File::open(path)?)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Of this start alone, among all of this boot.
    pub(crate) fn id(&self) -> String {
        let id = self.path.file_name().unwrap_or_default();
        id.to_string_lossy().into_owned()
    }

    /// Says one thing more, in one write.
    pub(crate) fn add(&self, fact: &Fact) -> io::Result<()> {
        (&self.file).write_all(fact.line().as_bytes())
    }

    /// Whether a directory is there that it speaks of.
    pub(crate) fn has_cgroup(&self) -> bool {
        let paths = Self::peek(&self.path).unwrap_or_default().cgroup_paths;
        paths.iter().any(|path| path.exists())
    }

    /// Nothing is left of what it speaks of.
    pub(crate) fn remove(self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

/// A record that goes when it is dropped, declared after what it speaks of.
#[derive(Debug)]
pub(crate) struct Noted(Option<Record>);

impl Noted {
    /// That a bridge is about to be made in the network namespace of the calling thread. One that is there already is not: making
    /// it fails.
    pub(crate) fn bridge(dir: Option<&Path>, network: &str, name: &str) -> io::Result<Self> {
        let links = cofferdam_netbridge::links()?;
        if links.iter().any(|link| link.name == name) {
            return Ok(Noted(None));
        }
        let netns = namespace("net")?;
        let record = Record::create(dir, network, |_| {
            let (name, netns) = (name.to_owned(), netns.clone());
            vec![Fact::Name(network.to_owned()), Fact::Bridge { name, netns }]
        });
        record.map(|record| Noted(Some(record)))
    }

    /// Leaves it for [`reap`](crate::reap).
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if let Some(record) = self.0.take() {
            let _gone = record.remove().is_ok();
        }
    }
}

fn read(file: &mut File) -> io::Result<Facts> {
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text)?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "no record of this version");
    Facts::parse(&text).ok_or_else(malformed)
}

/// Where records are unless told: the first one that can be written is used.
pub(crate) fn usual() -> Vec<PathBuf> {
    let user = rustix::process::geteuid();
    let system = user.is_root().then(|| PathBuf::from("/run/cofferdam"));
    let session = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let session = session.map(|dir| Path::new(&dir).join("cofferdam"));
    let last = PathBuf::from(format!("/tmp/cofferdam-{}", user.as_raw()));
    system.into_iter().chain(session).chain([last]).collect()
}

/// Only the caller may write there: who can, has `reap` kill.
fn make_directory(dir: &Path) -> io::Result<()> {
    if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        if error.kind() != io::ErrorKind::AlreadyExists {
            return Err(error);
        }
    }
    check_directory(dir)
}

pub(crate) fn check_directory(dir: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(dir)?;
    let ours = found.uid() == rustix::process::geteuid().as_raw();
    if !found.is_dir() || !ours || found.mode() & 0o022 != 0 {
        let reason = "is no directory that only the caller can write to";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_as_it_was_written() {
        let owner = Identity::of_caller().unwrap();
        let facts = [
            Fact::Owner(owner.clone()),
            Fact::Name("web".into()),
            Fact::Cgroup("cofferdam-1-2-web".into()),
            Fact::CgroupPath("/sys/fs/cgroup/a b".into()),
            Fact::Program { pid: 7, started: 9 },
            Fact::Pasta { pid: 7, started: 8 },
            Fact::Detached,
            Fact::Bridge {
                name: "br-app".into(),
                netns: "net:[4]".into(),
            },
        ];
        let text: String = facts.iter().map(Fact::line).collect();
        let read = Facts::parse(&format!("{VERSION}\n{text}")).unwrap();
        assert_eq!(read.owner, Some(owner));
        assert_eq!(read.name, "web");
        assert_eq!(read.cgroup.as_deref(), Some("cofferdam-1-2-web"));
        assert_eq!(read.cgroup_paths, [Path::new("/sys/fs/cgroup/a b")]);
        assert_eq!((read.program, read.detached), (Some((7, 9)), true));
        assert_eq!(read.pasta, Some((7, 8)));
        assert_eq!(read.bridges, [("br-app".into(), "net:[4]".into())]);
        let attached = format!("{VERSION}\n{text}attached\n");
        assert!(!Facts::parse(&attached).unwrap().detached);
    }

    #[test]
    fn half_a_line_is_left_out_and_another_version_refused() {
        let half = format!("{VERSION}\nname web\nprogram 7");
        let facts = Facts::parse(&half).unwrap();
        assert_eq!((facts.name.as_str(), facts.program), ("web", None));
        assert_eq!(Facts::parse(""), Some(Facts::default()));
        for bad in [
            "cofferdam 2\n",
            "x",
            "cofferdam 1\nwhat 1\n",
            "cofferdam 1\nprogram x 1\n",
        ] {
            assert_eq!(Facts::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_record_belongs_to_one_and_goes_when_told() {
        let dir = std::env::temp_dir().join(format!("cofferdam-record-{}", std::process::id()));
        let record = Record::create(Some(&dir), "web", |_| vec![Fact::Name("web".into())]).unwrap();
        assert!(
            Record::take(record.path()).unwrap().is_none(),
            "its owner lives"
        );
        assert_eq!(Record::peek(record.path()).unwrap().name, "web");
        let path = record.path().to_owned();
        drop(record);
        let (record, facts) = Record::take(&path).unwrap().expect("nobody has it");
        assert_eq!(facts.name, "web");
        record.remove().unwrap();
        assert!(Record::take(&path).unwrap().is_none());
        fs::remove_dir(&dir).unwrap();
    }
}
