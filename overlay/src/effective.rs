//! What a mounted overlay does: the kernel drops options without a word, so it is asked.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::mount::{MoveMountFlags, move_mount};

use crate::error::{Error, Inner, Result};
use crate::options::{Asked, Options, RedirectDir, Switch, Verity, Word, Xino, read};
use crate::{directory, elsewhere};

const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// The options of a mounted overlay as the kernel tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Effective {
    /// How many layers are stacked, with the empty one below a single read-only layer, and without data-only ones.
    pub layers: usize,
    /// How many layers only hold data.
    pub data_layers: usize,
    /// Whether it has an upper.
    pub upper: bool,
    /// Whether nothing can be written, by the filesystem or by the mount.
    pub read_only: bool,
    /// Whether its marks are in `user.overlay.*`.
    pub userxattr: bool,
    /// Whether nothing is synced.
    pub volatile: bool,
    /// Whether metadata alone is copied up where only that changes.
    pub metacopy: Switch,
    /// What happens to renamed directories. Never [`RedirectDir::Off`], which is one of two others.
    pub redirect_dir: RedirectDir,
    /// Whether hard links are kept over a copy up.
    pub index: Switch,
    /// How inode numbers are told apart; None where all layers are on one filesystem.
    pub xino: Option<Xino>,
    /// Whether contents of data-only layers are checked.
    pub verity: Verity,
}

impl Effective {
    /// Of a mount that stands nowhere: it is shown in a mount namespace of a thread that ends.
    pub(crate) fn of(mount: BorrowedFd<'_>, name: &Path) -> Result<Self> {
        elsewhere::run(name, || {
            let copy = directory::clone_mount(mount).map_err(Error::sys("open_tree", name))?;
            let root = directory::open_as("open", Path::new("/"))?;
            let flags =
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            move_mount(&copy, "", &root, "", flags).map_err(Error::sys("move_mount", name))?;
            Effective::of_attached(std::os::fd::AsFd::as_fd(&copy), name)
        })
    }

    /// Of a mount in this thread's mount namespace.
    pub(crate) fn of_attached(mount: BorrowedFd<'_>, name: &Path) -> Result<Self> {
        let failed = Error::sys("statx", name);
        let found = statx(mount, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map_err(failed)?;
        let table = Path::new(MOUNTINFO);
        let text = fs::read_to_string(table).map_err(Error::sys("read", table))?;
        let (mount, filesystem) =
            line(&text, found.stx_mnt_id).ok_or_else(|| Inner::NotInTable {
                path: name.to_owned(),
            })?;
        Ok(parse(mount, filesystem, &Configured::read()))
    }

    /// The first of what was asked for that is not so.
    pub(crate) fn refused(&self, options: &Options) -> Option<Asked> {
        options.asked().into_iter().find(|asked| !self.does(asked))
    }

    fn does(&self, asked: &Asked) -> bool {
        match asked.key {
            "metacopy" => read(asked.value) == Some(self.metacopy),
            "index" => read(asked.value) == Some(self.index),
            "verity" => read(asked.value) == Some(self.verity),
            "xino" => self.xino.is_none_or(|xino| read(asked.value) == Some(xino)),
            "redirect_dir" => match read(asked.value) {
                Some(RedirectDir::Off) => self.redirect_dir != RedirectDir::On,
                mode => mode == Some(self.redirect_dir),
            },
            _ => true,
        }
    }
}

/// The mount's and the filesystem's options of the mount with this id.
fn line(table: &str, id: u64) -> Option<(&str, &str)> {
    let id = id.to_string();
    let line = table
        .lines()
        .find(|line| line.split(' ').next() == Some(id.as_str()))?;
    let (mount, filesystem) = line.split_once(" - ")?;
    Some((mount.split(' ').nth(5)?, filesystem.split(' ').nth(2)?))
}

/// What is in force where a mount's line does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Configured {
    metacopy: Switch,
    index: Switch,
    redirect_dir: RedirectDir,
}

impl Configured {
    fn read() -> Self {
        let is_set = |name: &str| {
            let path = format!("/sys/module/overlay/parameters/{name}");
            fs::read_to_string(path).is_ok_and(|text| text.trim() == "Y")
        };
        let switch = |name| {
            if is_set(name) {
                Switch::On
            } else {
                Switch::Off
            }
        };
        Configured {
            metacopy: switch("metacopy"),
            index: switch("index"),
            redirect_dir: match (is_set("redirect_dir"), is_set("redirect_always_follow")) {
                (true, _) => RedirectDir::On,
                (false, true) => RedirectDir::Follow,
                (false, false) => RedirectDir::NoFollow,
            },
        }
    }
}

/// A comma or blank inside of a value is escaped, so that a path is never taken for an option.
fn parse(mount: &str, filesystem: &str, configured: &Configured) -> Effective {
    let has = |flag: &str| filesystem.split(',').any(|option| option == flag);
    let (layers, data_layers) = layers(filesystem);
    let upper = value(filesystem, "upperdir").is_some();
    let metacopy = word(filesystem, "metacopy").unwrap_or(configured.metacopy);
    let redirect_dir = match word(filesystem, "redirect_dir") {
        Some(mode) => mode,
        // Before 6.5 what follows from metacopy is not shown.
        None if metacopy == Switch::On && upper => RedirectDir::On,
        None => configured.redirect_dir,
    };
    Effective {
        layers,
        data_layers,
        upper,
        read_only: has("ro") || mount.split(',').any(|option| option == "ro"),
        userxattr: has("userxattr"),
        volatile: has("volatile") || has("fsync=volatile"),
        metacopy,
        redirect_dir,
        // Without an upper there is nothing to index.
        index: word(filesystem, "index").unwrap_or(match upper {
            true => configured.index,
            false => Switch::Off,
        }),
        xino: word(filesystem, "xino"),
        verity: word(filesystem, "verity").unwrap_or(Verity::Off),
    }
}

fn value<'a>(options: &'a str, key: &str) -> Option<&'a str> {
    options.split(',').find_map(|option| {
        let (name, value) = option.split_once('=')?;
        (name == key).then_some(value)
    })
}

fn word<T: Word>(options: &str, key: &str) -> Option<T> {
    value(options, key).and_then(read)
}

/// Layers are listed one by one, or with colons between them and two before each that only holds data. What was given
/// as numbers of fds has no colons of its own.
fn layers(options: &str) -> (usize, usize) {
    let listed = |key| {
        let all = options
            .split(',')
            .filter_map(|option| option.split_once('='));
        all.filter(|(name, _)| *name == key).count()
    };
    match value(options, "lowerdir") {
        Some(joined) => {
            let mut parts = joined.split("::");
            let stacked = parts.next().unwrap_or_default().split(':').count();
            (stacked, parts.count())
        }
        None => (listed("lowerdir+"), listed("datadir+")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: Configured = Configured {
        metacopy: Switch::Off,
        index: Switch::Off,
        redirect_dir: RedirectDir::Follow,
    };

    #[test]
    fn a_line_is_found_by_its_id() {
        let table = "12 1 0:3 / /a rw - tmpfs tmpfs rw\n123 1 0:4 / / ro,nosuid shared:1 - overlay overlay rw,index=on\n";
        assert_eq!(line(table, 123), Some(("ro,nosuid", "rw,index=on")));
        assert_eq!(line(table, 1), None);
    }

    #[test]
    fn layers_are_counted_in_each_spelling() {
        assert_eq!(layers("rw,lowerdir=7:3:12,upperdir=4"), (3, 0));
        assert_eq!(layers("ro,lowerdir=7:3::9::8"), (2, 2));
        assert_eq!(layers("rw,lowerdir+=/a:b,lowerdir+=/c,datadir+=/d"), (2, 1));
    }

    #[test]
    fn what_is_not_said_is_as_configured() {
        let effective = parse("rw", "rw,lowerdir+=/a,upperdir=/u,workdir=/w", &OFF);
        assert_eq!(effective.redirect_dir, RedirectDir::Follow);
        assert_eq!(effective.metacopy, Switch::Off);
        assert_eq!(effective.xino, None);
        assert!(!effective.read_only && effective.upper && !effective.volatile);
    }

    #[test]
    fn what_was_dropped_is_found() {
        let effective = parse("rw", "rw,lowerdir+=/a,upperdir=/u", &OFF);
        let asked = Options {
            index: Some(Switch::On),
            ..Options::default()
        };
        assert_eq!(effective.refused(&asked).unwrap().key, "index");
        let on = parse("rw", "rw,lowerdir+=/a,upperdir=/u,index=on", &OFF);
        assert_eq!(on.refused(&asked), None);
        let off = Options {
            redirect_dir: Some(RedirectDir::Off),
            ..Options::default()
        };
        assert_eq!(effective.refused(&off), None);
    }

    #[test]
    fn an_escaped_path_is_no_option() {
        let effective = parse("rw", r"rw,lowerdir+=/a\054volatile,upperdir=/u", &OFF);
        assert!(!effective.volatile);
    }
}
