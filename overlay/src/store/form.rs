//! In what form a store holds its layers: what makes other files of the same tar.

use std::fmt::Write;

use super::Fault;
use crate::apply::{Apply, Devices, RawWhiteouts, Unmapped};
use crate::diff::{Diff, IdRange};
use crate::error::Result;
use crate::marks::Marks;

/// As many as a user namespace can have.
const MOST_RANGES: usize = 340;

/// The same for all layers of a store, for as long as there is one: layers are named by what they hold, not by how.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    pub(crate) marks: Marks,
    devices: Devices,
    raw_whiteouts: RawWhiteouts,
    unmapped: Unmapped,
    users: Vec<IdRange>,
    groups: Vec<IdRange>,
}

/// What of it was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) marks: Option<Marks>,
    pub(crate) devices: Option<Devices>,
    pub(crate) raw_whiteouts: RawWhiteouts,
    pub(crate) unmapped: Unmapped,
    pub(crate) users: Vec<IdRange>,
    pub(crate) groups: Vec<IdRange>,
}

impl Form {
    pub(crate) fn new(asked: &Asked) -> Result<Self> {
        let own = Marks::detect()?;
        let marks = asked.marks.unwrap_or(own);
        if (marks, own) == (Marks::Trusted, Marks::User) {
            return Err(Fault::TrustedMarks.into());
        }
        check("users", &asked.users)?;
        check("groups", &asked.groups)?;
        Ok(Form {
            marks,
            devices: asked.devices.unwrap_or(usual(marks)),
            raw_whiteouts: asked.raw_whiteouts,
            unmapped: asked.unmapped,
            users: asked.users.clone(),
            groups: asked.groups.clone(),
        })
    }

    /// What it adds to the version of a store: nothing where nothing was asked for.
    pub(crate) fn render(&self) -> String {
        let mut text = match self.marks {
            Marks::Trusted => "marks in trusted.overlay\n".to_owned(),
            Marks::User => "marks in user.overlay\n".to_owned(),
        };
        if self.devices != usual(self.marks) {
            text += match self.devices {
                Devices::Make => "devices made\n",
                Devices::Skip => "devices skipped\n",
                Devices::Refuse => "devices refused\n",
            };
        }
        if self.raw_whiteouts == RawWhiteouts::Apply {
            text += "raw whiteouts applied\n";
        }
        if let Unmapped::Squash { uid, gid } = self.unmapped {
            let _written = writeln!(text, "unmapped {uid}:{gid}").is_ok();
        }
        for (what, ranges) in [("users", &self.users), ("groups", &self.groups)] {
            for range in ranges {
                let (inside, outside, count) = (range.inside, range.outside, range.count);
                let _written = writeln!(text, "{what} {inside} {outside} {count}").is_ok();
            }
        }
        text
    }

    /// `apply` with what layers of this form need.
    pub(crate) fn unpacking(&self, apply: Apply) -> Apply {
        let mut apply = apply
            .marks(self.marks)
            .devices(self.devices)
            .raw_whiteouts(self.raw_whiteouts)
            .unmapped(self.unmapped);
        for range in &self.users {
            apply = apply.map_users(range.inside, range.outside, range.count);
        }
        for range in &self.groups {
            apply = apply.map_groups(range.inside, range.outside, range.count);
        }
        apply
    }

    /// `diff` for uppers on layers of this form, and for these layers themselves.
    pub(crate) fn comparing(&self, diff: Diff) -> Diff {
        diff.marks(self.marks)
            .ids(self.users.iter().copied(), self.groups.iter().copied())
    }
}

/// By the marks, not by who opens the store: it is the same store for all.
fn usual(marks: Marks) -> Devices {
    match marks {
        Marks::Trusted => Devices::Make,
        Marks::User => Devices::Skip,
    }
}

/// Each id is one id on the other side: else a layer could not be written again as it was.
fn check(what: &'static str, ranges: &[IdRange]) -> Result<()> {
    let wrong = |why: &str| {
        Err(Fault::Ranges {
            what,
            why: why.to_owned(),
        }
        .into())
    };
    if ranges.len() > MOST_RANGES {
        return wrong("there are over 340 ranges");
    }
    let sides: [fn(&IdRange) -> u32; 2] = [|range| range.inside, |range| range.outside];
    for first in sides {
        let mut ends: Vec<_> = ranges
            .iter()
            .map(|range| (u64::from(first(range)), u64::from(range.count)))
            .collect();
        ends.sort_unstable();
        // The last id of all is none.
        if ends
            .iter()
            .any(|(first, count)| *count == 0 || first + count > u64::from(u32::MAX))
        {
            return wrong("a range has no ids, or ones past the last");
        }
        if ends.windows(2).any(|two| two[0].0 + two[0].1 > two[1].0) {
            return wrong("ranges overlap");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange {
            inside,
            outside,
            count,
        }
    }

    #[test]
    fn ids_that_could_not_be_mapped_back_are_refused() {
        for bad in [
            vec![range(0, 10, 0)],
            vec![range(0, u32::MAX - 1, 2)],
            vec![range(u32::MAX - 1, 0, 2)],
            vec![range(0, 10, 5), range(4, 100, 1)],
            vec![range(0, 10, 5), range(7, 14, 1)],
        ] {
            check("users", &bad).unwrap_err();
        }
        check("users", &[range(5, 10, 5), range(0, 100, 5)]).unwrap();
        check("users", &vec![range(0, 0, 1); 341]).unwrap_err();
    }

    #[test]
    fn what_makes_other_files_is_told() {
        let marks = Some(Marks::User);
        let form = |asked: Asked| Form::new(&Asked { marks, ..asked }).unwrap().render();
        let plain = "marks in user.overlay\n";
        assert_eq!(form(Asked::default()), plain);
        let devices = Some(Devices::Skip);
        assert_eq!(
            form(Asked {
                devices,
                ..Asked::default()
            }),
            plain
        );
        let all = Asked {
            devices: Some(Devices::Refuse),
            raw_whiteouts: RawWhiteouts::Apply,
            unmapped: Unmapped::Squash { uid: 1, gid: 2 },
            users: vec![range(0, 100, 10)],
            groups: vec![range(0, 200, 10)],
            ..Asked::default()
        };
        let told = "devices refused\nraw whiteouts applied\nunmapped 1:2\nusers 0 100 10\ngroups 0 200 10\n";
        assert_eq!(form(all), format!("{plain}{told}"));
    }
}
