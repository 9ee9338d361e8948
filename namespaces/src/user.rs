//! Who a program runs as.

use std::fmt;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;

use rustix::fs::{Mode, OFlags};

use crate::command::Command;
use crate::compile::Ids;
use crate::error::{Error, Result};
use crate::lines::{self, Lines};
use crate::namespace::Namespace;
use crate::sources::Tree;
use crate::sys;

/// The user and the groups that a program runs with, as its user namespace counts: by number, or by a name that its own
/// root knows.
///
/// ```
/// use cofferdam_namespaces::{Command, User};
///
/// let by_number = Command::new("/bin/app").user(User::id(1000, 1000));
/// let by_name = Command::new("/bin/app").user("app:staff".parse()?);
/// let with_groups = Command::new("/bin/app").user(User::id(1000, 1000).groups([44, 100]));
/// # Ok::<(), cofferdam_namespaces::Error>(())
/// ```
///
/// As text it is what `docker run --user` takes: `uid`, `uid:gid`, `name`, `name:group`, or a mix. What consists of digits is
/// always a number. Names are looked up at each start, in `/etc/passwd` and `/etc/group` of the root; of the process that is
/// [entered](Command::enter); of the host, for a program that has neither. What is mounted on top of the root does not
/// count. This reads the files itself: no NSS, so no LDAP either, and no code of the root is loaded.
///
/// - With a group, that is the only one.
/// - A user alone gets the group that `/etc/passwd` says, and those that `/etc/group` has it as a member of.
/// - A number alone that `/etc/passwd` does not have gets group 0 and no others, as with Docker.
///
/// `HOME` is not set: [`Command::env`] does that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    user: Who,
    group: Option<Who>,
    groups: Option<Vec<u32>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    Id(u32),
    Name(String),
}

impl User {
    /// These ids, and no other groups. Nothing is looked up.
    #[must_use]
    pub fn id(uid: u32, gid: u32) -> Self {
        User {
            user: Who::Id(uid),
            group: Some(Who::Id(gid)),
            groups: None,
        }
    }

    /// Exactly these supplementary groups, instead of those that `/etc/group` has. At most 65,536.
    ///
    /// A caller without `CAP_SETGID`, or a user namespace that denies setgroups(2), makes the start fail.
    #[must_use]
    pub fn groups(mut self, gids: impl IntoIterator<Item = u32>) -> Self {
        self.groups = Some(gids.into_iter().collect());
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        // To setresuid(2) it means "as before", which would be root.
        let none = Who::Id(u32::MAX);
        let groups = self.groups.as_deref().unwrap_or_default();
        if self.user == none || self.group == Some(none) || groups.contains(&u32::MAX) {
            return Err(Error::invalid("user", self.to_string(), "is no id"));
        }
        if groups.len() > MAX_GROUPS {
            return Err(self.too_many_groups());
        }
        Ok(())
    }

    fn too_many_groups(&self) -> Error {
        let reason = "has more than 65536 groups";
        Error::invalid("user", self.to_string(), reason)
    }

    fn find(&self, place: &Place) -> Result<Ids> {
        let account = match (&self.user, &self.group) {
            (&Who::Id(uid), Some(_)) => Account::bare(uid),
            (Who::Id(uid), None) => place.account(&self.user)?.unwrap_or(Account::bare(*uid)),
            (Who::Name(name), _) => place
                .account(&self.user)?
                .ok_or_else(|| place.missing(PASSWD, "user", name))?,
        };
        let gid = match &self.group {
            None => account.gid,
            Some(Who::Id(gid)) => *gid,
            Some(Who::Name(name)) => place.group(name)?,
        };
        let (groups, explicit) = match (&self.groups, &self.group) {
            (Some(groups), _) => (groups.clone(), true),
            (None, Some(_)) => (Vec::new(), false),
            (None, None) => (place.memberships(&account.name)?, false),
        };
        if groups.len() > MAX_GROUPS {
            return Err(self.too_many_groups());
        }
        Ok(Ids {
            uid: account.uid,
            gid,
            groups,
            explicit,
        })
    }
}

/// From what `docker run --user` takes.
///
/// # Errors
/// `InvalidInput` for what is neither a number nor a name: `1000:`, `-1`, `4294967295`, `1000:1000:1`, nothing at all.
impl FromStr for User {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || Error::invalid("user", text, "is none of uid, uid:gid, name, name:group");
        let mut parts = text.split(':').map(Who::parse);
        let (user, group) = (parts.next().flatten(), parts.next());
        if parts.next().is_some() || group == Some(None) {
            return Err(refuse());
        }
        Ok(User {
            user: user.ok_or_else(refuse)?,
            group: group.flatten(),
            groups: None,
        })
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.user)?;
        match &self.group {
            Some(group) => write!(f, ":{group}"),
            None => Ok(()),
        }
    }
}

impl Who {
    /// A number if it is all digits. A name has nothing in it that files, shells or eyes could take for something else.
    fn parse(text: &str) -> Option<Self> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return lines::id(text.as_bytes()).map(Who::Id);
        }
        let odd = |one: char| one.is_whitespace() || one.is_control() || ":,/".contains(one);
        let first = text.chars().next()?;
        let name = !"-+".contains(first) && !text.contains(odd) && text.len() <= 256;
        name.then(|| Who::Name(text.to_owned()))
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Id(id) => id.fmt(f),
            Who::Name(name) => name.fmt(f),
        }
    }
}

/// The ids that `command` runs with, where it says some. `root` is its root, before anything is mounted on it.
pub(crate) fn resolve(command: &Command, root: Option<&Tree<OwnedFd>>) -> Result<Option<Ids>> {
    let Some(user) = &command.user else {
        return Ok(None);
    };
    let ids = user.find(&Place::of(command, root))?;
    if command.owns_user_namespace() {
        let map = command.ids();
        let refuse = |reason| Err(Error::invalid("user", user.to_string(), reason));
        if !map.has_uid(ids.uid) || !map.has_gid(ids.gid) {
            return refuse("is not in the id map");
        }
        if map.denies_setgroups() {
            if ids.explicit {
                return refuse("has groups, and its user namespace denies setgroups(2)");
            }
        } else if !ids.groups.iter().all(|&gid| map.has_gid(gid)) {
            return refuse("has a group that is not in the id map");
        }
    }
    Ok(Some(ids))
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// The kernel's `NGROUPS_MAX`.
const MAX_GROUPS: usize = 65_536;

/// What is used of a line of `/etc/passwd`.
struct Account {
    name: Vec<u8>,
    uid: u32,
    gid: u32,
}

impl Account {
    /// A number that nothing is known of.
    fn bare(uid: u32) -> Self {
        Account {
            name: Vec::new(),
            uid,
            gid: 0,
        }
    }
}

/// Where names are looked up.
enum Place<'r> {
    Host,
    Root(&'r OwnedFd),
    /// A root that only the child can clone.
    Path(&'r Path),
    /// That of a process whose mounts are joined.
    Joined(&'r OwnedFd),
}

impl<'r> Place<'r> {
    fn of(command: &'r Command, root: Option<&'r Tree<OwnedFd>>) -> Self {
        let mut joined = command.namespaces.joined().iter();
        let mounts = joined.find(|joined| joined.flags & Namespace::Mount.clone_flag() != 0);
        match root {
            None => mounts.map_or(Place::Host, |joined| Place::Joined(&joined.fd)),
            Some(Tree::Detached(fd)) => Place::Root(fd),
            Some(Tree::Path(host)) => Place::Path(&host.path),
        }
    }

    /// The file, if there is one.
    fn open(&self, file: &'static str) -> Result<Option<Lines<'static>>> {
        let directory = |path: &Path| File::open(path).map_err(Error::path("open", path));
        let file = Path::new(file);
        match self {
            Place::Host => Lines::open(directory(Path::new("/"))?, OF_HOST, file),
            Place::Root(fd) => Lines::open(fd, OF_ROOT, file),
            Place::Path(path) => Lines::open(directory(path)?, OF_ROOT, file),
            Place::Joined(fd) => Lines::open(root_of(fd)?, OF_ROOT, file),
        }
    }

    /// The first line of `/etc/passwd` with this name or number.
    fn account(&self, who: &Who) -> Result<Option<Account>> {
        let Some(lines) = self.open(PASSWD)? else {
            return Ok(None);
        };
        lines.each(|line| {
            let fields = fields(line);
            let uid = fields.get(2).and_then(|text| lines::id(text));
            let (true, Some(name)) = (fields.len() >= 4, fields.first()) else {
                return Ok(ControlFlow::Continue(()));
            };
            let same = match who {
                Who::Id(id) => uid == Some(*id),
                Who::Name(wanted) => *name == wanted.as_bytes(),
            };
            if !same {
                return Ok(ControlFlow::Continue(()));
            }
            // Whoever reads an odd number as 0 makes it root.
            let odd = || lines.bad("has a line of this user without ids");
            Ok(ControlFlow::Break(Account {
                name: name.to_vec(),
                uid: uid.ok_or_else(odd)?,
                gid: fields
                    .get(3)
                    .and_then(|text| lines::id(text))
                    .ok_or_else(odd)?,
            }))
        })
    }

    /// The number of a group with this name.
    fn group(&self, name: &str) -> Result<u32> {
        let found = match self.open(GROUP)? {
            None => None,
            Some(lines) => lines.each(|line| {
                let fields = fields(line);
                if fields.len() < 3 || fields[0] != name.as_bytes() {
                    return Ok(ControlFlow::Continue(()));
                }
                let odd = || lines.bad("has a line of this group without an id");
                lines::id(fields[2]).map(ControlFlow::Break).ok_or_else(odd)
            })?,
        };
        found.ok_or_else(|| self.missing(GROUP, "group", name))
    }

    /// The groups that have `user` as a member.
    fn memberships(&self, user: &[u8]) -> Result<Vec<u32>> {
        let mut gids = Vec::new();
        let Some(lines) = self.open(GROUP)?.filter(|_| !user.is_empty()) else {
            return Ok(gids);
        };
        lines.each(|line| {
            let fields = fields(line);
            let mut members = fields.get(3).into_iter().flat_map(|list| list.split(comma));
            if members.any(|member| member == user) {
                let odd = || lines.bad("has a line of this user's group without an id");
                gids.push(lines::id(fields[2]).ok_or_else(odd)?);
            }
            Ok(ControlFlow::<()>::Continue(()))
        })?;
        gids.sort_unstable();
        gids.dedup();
        Ok(gids)
    }

    fn missing(&self, file: &str, kind: &str, name: &str) -> Error {
        let whose = match self {
            Place::Host => "of the host",
            Place::Root(_) | Place::Path(_) | Place::Joined(_) => "of the root",
        };
        Error::missing(format!("{file} {whose}"), format!("no {kind} {name:?}"))
    }
}

/// The root directory of the process behind a pidfd.
fn root_of(process: &OwnedFd) -> Result<OwnedFd> {
    let pid = sys::pid_of(process.as_fd())?;
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty());
    let root = root.map_err(Error::path("open", Path::new(&path)))?;
    // Still there: the number has meant it all the time.
    sys::pid_of(process.as_fd())?;
    Ok(root)
}

const OF_HOST: &str = "file of the host";
const OF_ROOT: &str = "file of the root";

fn fields(line: &[u8]) -> Vec<&[u8]> {
    line.split(|&byte| byte == b':').collect()
}

fn comma(byte: &u8) -> bool {
    *byte == b','
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::fs;
    use std::path::PathBuf;

    /// CVE-2026-30892: what cannot be understood must not run as somebody else.
    #[test]
    fn what_is_neither_a_number_nor_a_name_is_refused() {
        for text in [
            "",
            ":",
            "1000:",
            ":1000",
            "-1",
            "1000:-1",
            "+5",
            "+0",
            "4294967295",
            "4294967296",
            "1000:4294967295",
            "1000:1000:1",
            "a:b:c",
            "1 000",
            " 1000",
            "1000 ",
            " 0",
            "0 ",
            "a b",
            "a\n",
            "a/b",
            "a,b",
            "\0",
            "18446744073709551616",
            "99999999999999999999",
        ] {
            let error = text.parse::<User>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text:?}: {error}");
        }
        assert_eq!("0:0".parse::<User>().unwrap(), User::id(0, 0));
        assert_eq!("1000:1000".parse::<User>().unwrap(), User::id(1000, 1000));
        for text in [
            "1000",
            "app",
            "app:staff",
            "1000:staff",
            "app:7",
            "0x10",
            "_a.b-c",
        ] {
            assert_eq!(text.parse::<User>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_id_that_means_as_before_is_refused() {
        for user in [
            User::id(u32::MAX, 0),
            User::id(0, u32::MAX),
            User::id(1, 1).groups([u32::MAX]),
        ] {
            assert_eq!(user.validate().unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        assert!(User::id(1, 1).groups(0..65_537).validate().is_err());
    }

    /// A root that has nothing but an `/etc` with these two files.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, passwd: &str, group: &str) -> Self {
            let path = format!("cofferdam-user-{}-{name}", std::process::id());
            let root = Root(std::env::temp_dir().join(path));
            fs::create_dir_all(root.0.join("etc")).unwrap();
            fs::write(root.0.join("etc/passwd"), passwd).unwrap();
            fs::write(root.0.join("etc/group"), group).unwrap();
            root
        }

        fn find(&self, user: &str) -> Result<Ids> {
            let user: User = user.parse()?;
            user.find(&Place::Path(&self.0))
        }

        /// Uid, gid and groups.
        fn ids(&self, user: &str) -> (u32, u32, Vec<u32>) {
            let found = self
                .find(user)
                .unwrap_or_else(|error| panic!("{user}: {error}"));
            (found.uid, found.gid, found.groups)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    const ACCOUNTS: &str = "root:x:0:0::/:/bin/sh\n\n# a remark\nshort:x:5\napp:x:1000:1001:The app:/home:/bin/sh\n\
        app:x:7:7::/:\nbad:x:0x0:0::/:\nworse:x::0::/:\nminus:x:-1:0::/:\nhigh:x:3000000000:3000000001::/:";
    const GROUPS: &str = "root:x:0:\nstaff:x:50:root,app\nvideo:x:44:app,app\napp:x:1001:\nnot:x:60:apple,xapp\n\
        odd:x:zero:other\nagain:x:44:app\n";

    #[test]
    fn names_and_numbers_are_found_as_docker_finds_them() {
        let root = Root::new("docker", ACCOUNTS, GROUPS);
        assert_eq!(
            root.ids("app"),
            (1000, 1001, vec![44, 50]),
            "first line wins"
        );
        assert_eq!(root.ids("1000"), (1000, 1001, vec![44, 50]));
        assert_eq!(root.ids("app:staff"), (1000, 50, vec![]));
        assert_eq!(root.ids("app:9"), (1000, 9, vec![]));
        assert_eq!(root.ids("8:staff"), (8, 50, vec![]));
        assert_eq!(root.ids("8"), (8, 0, vec![]));
        assert_eq!(root.ids("8:9"), (8, 9, vec![]));
        assert_eq!(root.ids("high"), (3_000_000_000, 3_000_000_001, vec![]));
        let chosen = User::from_str("app").unwrap().groups([7]);
        let found = chosen.find(&Place::Path(&root.0)).unwrap();
        assert_eq!(
            (found.gid, found.groups, found.explicit),
            (1001, vec![7], true)
        );
    }

    #[test]
    fn an_odd_line_is_an_error_and_never_root() {
        let root = Root::new("odd", ACCOUNTS, GROUPS);
        for user in ["bad", "worse", "minus", "app:odd"] {
            let error = root.find(user).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{user}: {error}");
        }
        for user in ["nobody", "0x10", "short", "app:nogroup", "bad:x"] {
            let error = root.find(user).unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput),
                "{user}: {error}"
            );
        }
        let error = root.find("nobody").unwrap_err();
        assert_eq!(
            error.to_string(),
            "/etc/passwd of the root: no user \"nobody\""
        );
    }

    #[test]
    fn a_root_without_accounts_has_numbers_only() {
        let root = Root::new("none", "", "");
        fs::remove_dir_all(root.0.join("etc")).unwrap();
        assert_eq!(root.ids("1000"), (1000, 0, vec![]));
        assert_eq!(root.find("app").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(root.find("1:app").unwrap_err().kind(), ErrorKind::NotFound);
    }

    /// The class of CVE-2019-14271: a root cannot keep the caller busy, nor have it read the host's files.
    #[test]
    fn a_hostile_root_is_refused() {
        let root = Root::new("hostile", ACCOUNTS, GROUPS);
        let passwd = root.0.join("etc/passwd");
        // How little time that takes, tests/cve measures.
        let refused = |reason: &str| {
            for user in ["app", "1000"] {
                let error = root.find(user).unwrap_err();
                assert!(error.to_string().contains(reason), "{user}: {error}");
            }
        };
        fs::File::create(&passwd).unwrap().set_len(1 << 30).unwrap();
        refused("is larger than 16 MiB");
        fs::write(&passwd, vec![b'x'; 2 << 20]).unwrap();
        refused("has a line longer than 1 MiB");

        fs::remove_file(&passwd).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &passwd, fifo, 0o644.into(), 0).unwrap();
        refused("is not a regular file");

        // Below this root the link leads to no file, outside of it to the host's.
        fs::remove_file(&passwd).unwrap();
        std::os::unix::fs::symlink("../../../../../../etc/group", &passwd).unwrap();
        fs::write(root.0.join("etc/group"), "app:x:5:6\n").unwrap();
        assert_eq!(root.ids("app:1").0, 5, "the root's own file");
        fs::remove_file(&passwd).unwrap();
        std::os::unix::fs::symlink("/proc/self/root/etc/passwd", &passwd).unwrap();
        assert_eq!(root.find("root").unwrap_err().kind(), ErrorKind::NotFound);
    }
}
