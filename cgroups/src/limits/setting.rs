//! One write into one kernel file, and what is to be known about it.

use std::borrow::Cow;

/// One write into one kernel file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The name of the limit it comes from, for messages.
    pub(crate) limit: &'static str,
    pub(crate) file: Cow<'static, str>,
    pub(crate) value: String,
    pub(crate) if_absent: IfAbsent,
    pub(crate) old: Old,
}

/// What the lack of the file means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IfAbsent {
    Fail,
    /// Swap files without swap accounting in the kernel.
    Skip,
    /// The same by another file.
    Instead {
        file: &'static str,
        value: String,
    },
}

/// Where in the file's text the value is that this write replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Old {
    /// All of it.
    Whole,
    /// The line that begins with `key` and a space. `none` is what to write back if there is none.
    Line { key: String, none: String },
    /// `cpuset.cpus.partition`: the first word, and the kernel may say why it is not what was asked for.
    Partition,
}

/// All that one controller is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rendering {
    /// In the order in which they should be written.
    pub(crate) settings: Vec<Setting>,
    /// What this version of the interface cannot say.
    pub(crate) refused: Vec<Refused>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) limit: &'static str,
    pub(crate) reason: &'static str,
}

impl Setting {
    pub(crate) fn new(
        limit: &'static str,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
    ) -> Self {
        Setting {
            limit,
            file: file.into(),
            value: value.to_string(),
            if_absent: IfAbsent::Fail,
            old: Old::Whole,
        }
    }

    pub(crate) fn skip_if_absent(mut self) -> Self {
        self.if_absent = IfAbsent::Skip;
        self
    }

    pub(crate) fn or_instead(mut self, file: &'static str, value: impl ToString) -> Self {
        let value = value.to_string();
        self.if_absent = IfAbsent::Instead { file, value };
        self
    }

    pub(crate) fn of_line(mut self, key: impl ToString, none: impl ToString) -> Self {
        let (key, none) = (key.to_string(), none.to_string());
        self.old = Old::Line { key, none };
        self
    }
}

impl Rendering {
    pub(crate) fn write(&mut self, setting: Setting) {
        self.settings.push(setting);
    }

    /// One plain value in one file, if it is given.
    pub(crate) fn value(
        &mut self,
        limit: &'static str,
        file: &'static str,
        value: Option<impl ToString>,
    ) {
        self.settings
            .extend(value.map(|value| Setting::new(limit, file, value)));
    }

    pub(crate) fn refuse(&mut self, limit: &'static str, reason: &'static str) {
        self.refused.push(Refused { limit, reason });
    }

    /// What only v2 has a file for.
    pub(crate) fn not_in_v1(&mut self, limit: &'static str, given: bool) {
        if given {
            self.refuse(limit, "cgroup v1 has no such limit");
        }
    }
}
