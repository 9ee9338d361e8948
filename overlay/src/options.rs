//! What overlayfs is asked for besides directories: pure, and rendered to the kernel's words.

/// An option that is on or off. Not to give it leaves it to what the kernel was configured with, which is mostly off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Asked for.
    On,
    /// Asked not to be.
    Off,
}

/// What overlayfs does where a directory of a layer is renamed, and where it finds that this was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedirectDir {
    /// A rename fails with `EXDEV`, as programs expect of two filesystems: they copy. Redirects found are followed if the
    /// kernel was configured to.
    Off,
    /// A rename fails; redirects found are followed.
    Follow,
    /// A rename fails; redirects found are not followed.
    NoFollow,
    /// A rename leaves a redirect in the upper, which is then no layer that stands alone.
    On,
}

/// Whether inode numbers are told apart by their upper bits, where the layers are on more than one filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Xino {
    /// Numbers of non-directories may change or repeat.
    Off,
    /// Told apart where the filesystems leave bits for it.
    Auto,
    /// Told apart.
    On,
}

/// Whether file contents in data-only layers are checked against the fs-verity digest that the layer above states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verity {
    /// Not checked.
    Off,
    /// Checked where a digest is stated.
    On,
    /// A file without a digest cannot be opened.
    Require,
}

/// When copied-up files reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fsync {
    /// File contents before the copy is visible.
    Auto,
    /// Metadata and directories too.
    Strict,
}

/// All that was asked for. What was not is None.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) volatile: Option<Switch>,
    pub(crate) userxattr: bool,
    pub(crate) metacopy: Option<Switch>,
    pub(crate) redirect_dir: Option<RedirectDir>,
    pub(crate) index: Option<Switch>,
    pub(crate) xino: Option<Xino>,
    pub(crate) verity: Option<Verity>,
    pub(crate) fsync: Option<Fsync>,
}

/// An option in the kernel's words, and since when there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) since: &'static str,
}

impl Options {
    /// Those with a value, in the order they are given to the kernel.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let asked = |key, value: Option<&'static str>, since| {
            value.map(|value| Asked { key, value, since })
        };
        [
            asked("redirect_dir", self.redirect_dir.map(word), "4.10"),
            asked("metacopy", self.metacopy.map(word), "4.19"),
            asked("index", self.index.map(word), "4.13"),
            asked("xino", self.xino.map(word), "4.17"),
            asked("verity", self.verity.map(word), "6.6"),
            asked("fsync", self.fsync.map(word), "6.18"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// How a kind of value is spelled.
pub(crate) trait Word: Copy + PartialEq + 'static {
    const WORDS: &'static [(Self, &'static str)];
}

fn word<T: Word>(value: T) -> &'static str {
    let found = T::WORDS.iter().find(|(known, _)| *known == value);
    found.map_or("", |(_, word)| word)
}

/// The value that is spelled so.
pub(crate) fn read<T: Word>(spelled: &str) -> Option<T> {
    let found = T::WORDS.iter().find(|(_, word)| *word == spelled);
    found.map(|(value, _)| *value)
}

impl Word for Switch {
    const WORDS: &'static [(Self, &'static str)] = &[(Switch::On, "on"), (Switch::Off, "off")];
}

impl Word for RedirectDir {
    const WORDS: &'static [(Self, &'static str)] = &[
        (RedirectDir::Off, "off"),
        (RedirectDir::Follow, "follow"),
        (RedirectDir::NoFollow, "nofollow"),
        (RedirectDir::On, "on"),
    ];
}

impl Word for Xino {
    const WORDS: &'static [(Self, &'static str)] =
        &[(Xino::Off, "off"), (Xino::Auto, "auto"), (Xino::On, "on")];
}

impl Word for Verity {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Verity::Off, "off"),
        (Verity::On, "on"),
        (Verity::Require, "require"),
    ];
}

impl Word for Fsync {
    const WORDS: &'static [(Self, &'static str)] =
        &[(Fsync::Auto, "auto"), (Fsync::Strict, "strict")];
}

/// What the mount forbids, beside what its filesystem does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) nosuid: bool,
    pub(crate) nodev: bool,
    pub(crate) noexec: bool,
    pub(crate) noatime: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_is_not_given() {
        assert!(Options::default().asked().is_empty());
    }

    #[test]
    fn options_are_in_the_kernels_words() {
        let options = Options {
            metacopy: Some(Switch::On),
            redirect_dir: Some(RedirectDir::NoFollow),
            index: Some(Switch::Off),
            xino: Some(Xino::Auto),
            verity: Some(Verity::Require),
            fsync: Some(Fsync::Strict),
            ..Options::default()
        };
        let words: Vec<_> = options
            .asked()
            .iter()
            .map(|asked| format!("{}={}", asked.key, asked.value))
            .collect();
        let expected =
            "redirect_dir=nofollow metacopy=on index=off xino=auto verity=require fsync=strict";
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for mode in [RedirectDir::Off, RedirectDir::Follow, RedirectDir::On] {
            assert_eq!(read(word(mode)), Some(mode));
        }
        assert_eq!(read::<Switch>("maybe"), None);
    }
}
