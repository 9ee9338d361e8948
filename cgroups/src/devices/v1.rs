//! A device policy as writes into `devices.deny` and `devices.allow`; pure.
//!
//! v1 keeps a default and a list of exceptions to it. An exception can be taken back only whole, and an access must be
//! covered by one of them, so the rules are worked into such a list here.

use super::{Action, DeviceAccess, DeviceRule, Devices};
use crate::error::{Error, Result};

/// The writes, in order: file and value. The first one takes all devices away.
pub(super) fn writes(devices: &Devices) -> Result<Vec<(&'static str, String)>> {
    let mut writes = vec![("devices.deny", "a".to_owned())];
    let file = match devices.default {
        Action::Deny => "devices.allow",
        Action::Allow => {
            writes.push(("devices.allow", "a".to_owned()));
            "devices.deny"
        }
    };
    for exception in exceptions(devices)? {
        writes.push((file, exception.v1_text()));
    }
    Ok(writes)
}

/// The rules that differ from the default, none of them taken back by a later one.
fn exceptions(devices: &Devices) -> Result<Vec<DeviceRule>> {
    let mut list: Vec<DeviceRule> = Vec::new();
    for rule in &devices.rules {
        // `a` with numbers would be everything to v1.
        for kind in rule.kind().each() {
            let (major, minor) = (rule.major(), rule.minor());
            let rule = DeviceRule::new(rule.action(), *kind, major, minor, rule.access());
            if rule.action() == devices.default {
                take_back(&mut list, &rule)?;
            } else {
                list.push(rule);
            }
        }
    }
    Ok(match devices.default {
        Action::Deny => widened(&list),
        Action::Allow => list,
    })
}

fn take_back(list: &mut Vec<DeviceRule>, rule: &DeviceRule) -> Result<()> {
    for exception in list.iter_mut() {
        let kept = exception.access().bits() & !rule.access().bits();
        let touched = kept != exception.access().bits() && overlap(exception, rule);
        if touched && !covers(rule, exception) {
            let reason = "cannot be told to a v1 hierarchy, where an earlier rule for more devices is in its way";
            return Err(Error::no_device_rule(rule, reason));
        }
        if touched {
            let (kind, access) = (exception.kind(), DeviceAccess::from_bits(kept));
            let (major, minor) = (exception.major(), exception.minor());
            *exception = DeviceRule::new(exception.action(), kind, major, minor, access);
        }
    }
    list.retain(|exception| exception.access().bits() != 0);
    Ok(())
}

/// Gives each exception the access that those for more devices have: v1 wants one that covers all that is asked for.
fn widened(list: &[DeviceRule]) -> Vec<DeviceRule> {
    let widen = |narrow: &DeviceRule| {
        let wider = list.iter().filter(|wide| covers(wide, narrow));
        let access = wider.fold(narrow.access(), |sum, wide| sum | wide.access());
        let (major, minor) = (narrow.major(), narrow.minor());
        DeviceRule::new(narrow.action(), narrow.kind(), major, minor, access)
    };
    list.iter().map(widen).collect()
}

fn covers(wide: &DeviceRule, narrow: &DeviceRule) -> bool {
    let within = |wide: Option<u32>, narrow| wide.is_none() || wide == narrow;
    wide.kind().covers(narrow.kind())
        && within(wide.major(), narrow.major())
        && within(wide.minor(), narrow.minor())
}

fn overlap(one: &DeviceRule, other: &DeviceRule) -> bool {
    let meet = |one: Option<u32>, other: Option<u32>| match (one, other) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    };
    one.kind() == other.kind()
        && meet(one.major(), other.major())
        && meet(one.minor(), other.minor())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn of(devices: Devices) -> Result<Vec<String>> {
        let writes = writes(&devices)?;
        let line = |(file, value): (&str, String)| format!("{}: {value}", &file[8..]);
        Ok(writes.into_iter().map(line).collect())
    }

    fn rules(devices: Devices, rules: &[&str]) -> Devices {
        devices.rules(rules.iter().map(|rule| rule.parse().unwrap()))
    }

    #[test]
    fn an_allow_list_begins_with_nothing() {
        assert_eq!(of(Devices::deny_all()).unwrap(), ["deny: a"]);
        let docker = of(Devices::docker_default()).unwrap();
        assert_eq!(docker.len(), 12);
        assert_eq!(docker[1], "allow: c *:* m");
        assert_eq!(docker[3], "allow: c 1:3 rwm");
    }

    #[test]
    fn a_deny_list_begins_with_everything() {
        let devices = rules(Devices::allow_all(), &["deny a 8:* w", "allow b 8:* w"]);
        let expected = ["deny: a", "allow: a", "deny: c 8:* w"];
        assert_eq!(of(devices).unwrap(), expected);
    }

    #[test]
    fn one_exception_has_all_that_the_rules_allow_together() {
        let devices = rules(Devices::deny_all(), &["c 1:* r", "c 1:3 w"]);
        let expected = ["deny: a", "allow: c 1:* r", "allow: c 1:3 rw"];
        assert_eq!(of(devices).unwrap(), expected);
    }

    #[test]
    fn what_is_taken_back_is_gone_or_refused() {
        let devices = rules(Devices::deny_all(), &["c 1:3 rwm", "deny c *:* m"]);
        assert_eq!(of(devices).unwrap(), ["deny: a", "allow: c 1:3 rw"]);
        let devices = rules(Devices::deny_all(), &["c *:* rwm", "deny c 1:3 m"]);
        let error = of(devices).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("deny c 1:3 m"), "{error}");
    }
}
