//! From what is to be done with each system call to the code that decides it.

use std::collections::BTreeSet;

use crate::error::Result;

use super::bpf::{ARCH, AT_LEAST, Code, EQUAL, GREATER, Instruction, Label, NUMBER};
use super::filter::{Action, Condition, Test, Width};
use super::syscalls::X32_BIT;

/// What is done with one call: the first case whose conditions all hold, or else the last resort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) cases: Vec<(Vec<Condition>, Action)>,
    pub(super) otherwise: Action,
}

impl From<Action> for Decision {
    fn from(otherwise: Action) -> Self {
        Decision {
            cases: Vec::new(),
            otherwise,
        }
    }
}

/// The decisions on all numbers of an architecture: each from its number to the next one's. The first begins at 0.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) audit: u32,
    pub(super) ranges: Vec<(u32, Decision)>,
}

/// Code for these architectures, the first being the most common. Calls of any other end the process.
pub(super) fn emit(tables: &[Table]) -> Result<Vec<Instruction>> {
    let mut code = Code::default();
    let mut start = code.result(Action::KillProcess.result());
    // What is written last stands first, nearest to the check of the architecture.
    let mut decided: Vec<(&Decision, Label)> = Vec::new();
    for Table { audit, ranges } in tables.iter().rev() {
        let ranges = ranges.iter().map(|(from, decision)| {
            // The same everywhere, so that neighbours are merged and architectures share it.
            if let Some((_, label)) = decided.iter().find(|(other, _)| *other == decision) {
                return (*from, *label);
            }
            let label = decide(&mut code, decision);
            decided.push((decision, label));
            (*from, label)
        });
        let ranges: Vec<_> = ranges.collect();
        let numbers = numbers(&mut code, &ranges);
        let numbers = code.load(NUMBER, numbers);
        start = code.branch(EQUAL, *audit, numbers, start);
    }
    let start = code.load(ARCH, start);
    code.finish(start)
}

/// Most calls of x32 are x86_64's with a bit more in their numbers: they share the way from where they are the same.
fn numbers(code: &mut Code, ranges: &[(u32, Label)]) -> Label {
    let (native, x32) = ranges.split_at(ranges.partition_point(|(from, _)| *from < X32_BIT));
    let of_native = search(code, native, COMMON_NUMBERS);
    if x32.is_empty() {
        return of_native;
    }
    let starts = native.iter().map(|(from, _)| from + X32_BIT);
    let starts: BTreeSet<u32> = starts.chain(x32.iter().map(|(from, _)| *from)).collect();
    let mut own: Vec<(u32, Option<Label>)> = Vec::new();
    for from in starts {
        let label = at(x32, from);
        let same = at(native, from & !X32_BIT) == label && from < 2 * X32_BIT;
        let goes_on = own.last().is_some_and(|last| last.1 == Some(label));
        own.push((from, (!same || goes_on).then_some(label)));
    }
    let shared = if own.iter().any(|(_, label)| label.is_none()) {
        code.and(!X32_BIT, of_native)
    } else {
        of_native
    };
    let own = own
        .iter()
        .map(|(from, label)| (*from, label.unwrap_or(shared)));
    let own: Vec<_> = own.collect();
    let of_x32 = search(code, &own, 0);
    code.branch(AT_LEAST, X32_BIT, of_x32, of_native)
}

/// The label of the range that `number` is in.
fn at(ranges: &[(u32, Label)], number: u32) -> Label {
    let next = ranges.partition_point(|(from, _)| *from <= number);
    ranges[next.saturating_sub(1)].1
}

/// The kernel tries a new filter on each number below about this.
const COMMON_NUMBERS: u32 = 512;

/// A binary tree over the ranges, each given by its first value. Between them they have the values below `common` in equal
/// parts on both sides, as far as that goes: the shortest ways lead to the widest ranges, which makes the kernel's trial run
/// of all numbers short.
fn search(code: &mut Code, ranges: &[(u32, Label)], common: u32) -> Label {
    let mut leaves: Vec<Leaf> = Vec::new();
    for (position, &(from, label)) in ranges.iter().enumerate() {
        let end = ranges.get(position + 1).map_or(u32::MAX, |next| next.0);
        let weight = 1 + 64 * u64::from(end.min(common).saturating_sub(from));
        match leaves.last_mut() {
            Some(last) if last.label == label => {
                last.weight += weight;
                last.single = false;
            }
            _ => leaves.push(Leaf {
                from,
                weight,
                label,
                single: end - from == 1,
            }),
        }
    }
    split(code, &leaves)
}

#[derive(Clone, Copy, Debug)]
struct Leaf {
    from: u32,
    weight: u64,
    label: Label,
    single: bool,
}

fn split(code: &mut Code, leaves: &[Leaf]) -> Label {
    match leaves {
        [only] => return only.label,
        [before, one, after] if one.single && before.label == after.label => {
            return code.branch(EQUAL, one.from, one.label, before.label);
        }
        _ => {}
    }
    let total: u64 = leaves.iter().map(|leaf| leaf.weight).sum();
    let (mut left, mut middle, mut least) = (0, 1, u64::MAX);
    for (position, leaf) in leaves[..leaves.len() - 1].iter().enumerate() {
        left += leaf.weight;
        if left.abs_diff(total - left) < least {
            (middle, least) = (position + 1, left.abs_diff(total - left));
        }
    }
    let low = split(code, &leaves[..middle]);
    let high = split(code, &leaves[middle..]);
    code.branch(AT_LEAST, leaves[middle].from, high, low)
}

fn decide(code: &mut Code, decision: &Decision) -> Label {
    let mut next = code.result(decision.otherwise.result());
    for (conditions, action) in decision.cases.iter().rev() {
        let mut here = code.result(action.result());
        for condition in conditions.iter().rev() {
            here = test(code, condition, here, next);
        }
        next = here;
    }
    next
}

/// Goes on at `yes` or at `no`. An argument is two words: all tests of the whole look at the high one first.
fn test(code: &mut Code, condition: &Condition, yes: Label, no: Label) -> Label {
    let low = 16 + 8 * u32::from(condition.index) + if cfg!(target_endian = "big") { 4 } else { 0 };
    let whole = condition.width == Width::Whole;
    match &condition.test {
        Test::Equal(value) => masked(code, low, (*value, condition.mask()), yes, no),
        Test::NotEqual(value) => masked(code, low, (*value, condition.mask()), no, yes),
        Test::MaskedEqual { mask, value } => {
            masked(code, low, (*value, mask & condition.mask()), yes, no)
        }
        Test::Greater(value) => order(code, GREATER, low, (*value, whole), yes, no),
        Test::GreaterOrEqual(value) => order(code, AT_LEAST, low, (*value, whole), yes, no),
        Test::Less(value) => order(code, AT_LEAST, low, (*value, whole), no, yes),
        Test::LessOrEqual(value) => order(code, GREATER, low, (*value, whole), no, yes),
        Test::Within(ranges) => within(code, low, ranges, yes, no),
    }
}

fn masked(code: &mut Code, low: u32, (value, mask): (u64, u64), yes: Label, no: Label) -> Label {
    if value & !mask != 0 {
        return no;
    }
    let (value_low, value_high) = halves(value);
    let (mask_low, mask_high) = halves(mask);
    let rest = half(code, low, (value_low, mask_low), yes, no);
    half(code, low ^ 4, (value_high, mask_high), rest, no)
}

fn half(code: &mut Code, offset: u32, (value, mask): (u32, u32), yes: Label, no: Label) -> Label {
    if mask == 0 || yes == no {
        return yes;
    }
    let mut here = code.branch(EQUAL, value, yes, no);
    if mask != u32::MAX {
        here = code.and(mask, here);
    }
    code.load(offset, here)
}

fn order(
    code: &mut Code,
    compare: u16,
    low: u32,
    (value, whole): (u64, bool),
    yes: Label,
    no: Label,
) -> Label {
    let (value_low, value_high) = halves(value);
    let rest = code.branch(compare, value_low, yes, no);
    let rest = code.load(low, rest);
    if !whole {
        return rest;
    }
    let same = code.branch(EQUAL, value_high, rest, no);
    let high = code.branch(GREATER, value_high, yes, same);
    code.load(low ^ 4, high)
}

fn within(code: &mut Code, low: u32, ranges: &[(u32, u32)], yes: Label, no: Label) -> Label {
    let mut leaves = vec![(0, no)];
    for &(first, last) in ranges {
        if first == 0 {
            leaves.clear();
        }
        leaves.push((first, yes));
        leaves.extend(last.checked_add(1).map(|next| (next, no)));
    }
    let found = search(code, &leaves, 0);
    code.load(low, found)
}

#[expect(clippy::cast_possible_truncation, reason = "halves on purpose")]
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}
