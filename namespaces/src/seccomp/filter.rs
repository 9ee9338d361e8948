//! What a filter is to do with which system calls, as a plain value.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::capabilities::Capabilities;
use crate::error::{Error, Result};

use super::bpf::Instruction;
use super::profile;
use super::syscalls::{ARM_PRIVATE, Arch, SAME_EVERYWHERE, is_known};
use super::tree::{Decision, Table, emit};

/// More than the numbers of any architecture, without its base.
const NUMBERS: u32 = 1 << 20;

/// What is done with a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// It is made.
    #[doc(alias = "SECCOMP_RET_ALLOW")]
    Allow,
    /// It is made, and the kernel writes it to its audit log.
    #[doc(alias = "SECCOMP_RET_LOG")]
    Log,
    /// It is not made and fails with this errno, from 1 to 4095. With 0 it seems to succeed.
    #[doc(alias = "SECCOMP_RET_ERRNO")]
    Errno(i32),
    /// It is not made; the thread gets a SIGSYS that it can handle.
    #[doc(alias = "SECCOMP_RET_TRAP")]
    Trap,
    /// The thread ends, as by a SIGSYS it cannot handle.
    #[doc(alias = "SECCOMP_RET_KILL_THREAD")]
    KillThread,
    /// The process ends, as by a SIGSYS it cannot handle.
    #[doc(alias = "SECCOMP_RET_KILL_PROCESS")]
    KillProcess,
}

impl Action {
    /// As a filter returns it.
    pub(super) fn result(self) -> u32 {
        match self {
            Action::Allow => 0x7fff_0000,
            Action::Log => 0x7ffc_0000,
            Action::Errno(errno) => 0x0005_0000 | (errno.unsigned_abs() & 0xffff),
            Action::Trap => 0x0003_0000,
            Action::KillThread => 0,
            Action::KillProcess => 0x8000_0000,
        }
    }

    fn allows(self) -> bool {
        matches!(self, Action::Allow | Action::Log)
    }
}

/// A system call, by name or by number.
///
/// A name stands for that call on every architecture of the filter that has it. A number is one of the architecture this is
/// compiled for; where it has a name, or is a new one (424 and above, which are the same everywhere), it means that call on
/// the other architectures too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syscall(Which);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    Name(Cow<'static, str>),
    Number(u32),
}

impl From<&'static str> for Syscall {
    fn from(name: &'static str) -> Self {
        Syscall(Which::Name(name.into()))
    }
}

impl From<String> for Syscall {
    fn from(name: String) -> Self {
        Syscall(Which::Name(name.into()))
    }
}

impl From<u32> for Syscall {
    fn from(number: u32) -> Self {
        Syscall(Which::Number(number))
    }
}

impl Syscall {
    fn number(&self, arch: Arch, native: Arch) -> Option<u32> {
        match &self.0 {
            Which::Name(name) => arch.number(name),
            Which::Number(number) => match native.name(*number) {
                Some(name) => arch.number(name),
                None if (SAME_EVERYWHERE..ARM_PRIVATE).contains(number) => {
                    Some(arch.base() + number)
                }
                None => (arch == native).then_some(*number),
            },
        }
    }
}

/// A condition on an argument of a system call.
///
/// Arguments count from 0 and are 64 bits wide, unless [`low`](Self::low) says that the call takes an `int`. Comparisons are
/// unsigned. What an argument points to cannot be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub(super) index: u8,
    pub(super) width: Width,
    pub(super) test: Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Whole,
    Low,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    MaskedEqual {
        mask: u64,
        value: u64,
    },
    /// The low half is in one of these, from the first to the last; sorted, with gaps between them.
    Within(&'static [(u32, u32)]),
}

impl Condition {
    /// The argument is `value`.
    #[must_use]
    pub fn equal(index: u8, value: u64) -> Self {
        Self::new(index, Test::Equal(value))
    }

    /// The argument is not `value`.
    #[must_use]
    pub fn not_equal(index: u8, value: u64) -> Self {
        Self::new(index, Test::NotEqual(value))
    }

    /// The argument is less than `value`.
    #[must_use]
    pub fn less(index: u8, value: u64) -> Self {
        Self::new(index, Test::Less(value))
    }

    /// The argument is `value` or less.
    #[must_use]
    pub fn less_or_equal(index: u8, value: u64) -> Self {
        Self::new(index, Test::LessOrEqual(value))
    }

    /// The argument is greater than `value`.
    #[must_use]
    pub fn greater(index: u8, value: u64) -> Self {
        Self::new(index, Test::Greater(value))
    }

    /// The argument is `value` or greater.
    #[must_use]
    pub fn greater_or_equal(index: u8, value: u64) -> Self {
        Self::new(index, Test::GreaterOrEqual(value))
    }

    /// Of the argument the bits in `mask` are `value`.
    #[must_use]
    pub fn masked_equal(index: u8, mask: u64, value: u64) -> Self {
        Self::new(index, Test::MaskedEqual { mask, value })
    }

    /// Only the low 32 bits count, which is all that the kernel reads of an `int`: a condition on the whole of it can be dodged by
    /// setting a high bit.
    #[must_use]
    pub fn low(mut self) -> Self {
        self.width = Width::Low;
        self
    }

    pub(super) fn new(index: u8, test: Test) -> Self {
        Condition {
            index,
            width: Width::Whole,
            test,
        }
    }

    /// The bits that count.
    pub(super) fn mask(&self) -> u64 {
        match self.width {
            Width::Whole => u64::MAX,
            Width::Low => u32::MAX.into(),
        }
    }

    fn check(&self) -> Result<()> {
        let value = match self.test {
            Test::Equal(value)
            | Test::NotEqual(value)
            | Test::Less(value)
            | Test::LessOrEqual(value)
            | Test::Greater(value)
            | Test::GreaterOrEqual(value)
            | Test::MaskedEqual { value, .. } => value,
            Test::Within(_) => 0,
        };
        if self.index > 5 {
            let reason = "a system call has six, counted from 0";
            return Err(Error::invalid("argument", self.index, reason));
        }
        if value & !self.mask() != 0 {
            let reason = "is wider than the 32 bits it is compared with";
            return Err(Error::invalid("value of a condition", value, reason));
        }
        match self.test {
            Test::MaskedEqual { mask, value } if value & !mask != 0 => {
                let reason = "has bits that the mask takes away, so it can never be";
                Err(Error::invalid("value of a condition", value, reason))
            }
            _ => Ok(()),
        }
    }
}

/// An action for a system call, perhaps only under conditions, which must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a Rule does nothing until it is part of a Filter"]
pub struct Rule {
    syscall: Syscall,
    action: Action,
    conditions: Vec<Condition>,
    only: Option<Arch>,
}

impl Rule {
    /// `action` for every such call.
    pub fn new(syscall: impl Into<Syscall>, action: Action) -> Self {
        let (conditions, only) = (Vec::new(), None);
        Rule {
            syscall: syscall.into(),
            action,
            conditions,
            only,
        }
    }

    /// Only when this holds too.
    pub fn when(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// Only for calls of this architecture. A number is then one of this architecture.
    pub fn on(mut self, arch: Arch) -> Self {
        self.only = Some(arch);
        self
    }

    /// The number it is for.
    pub(super) fn number(&self, arch: Arch, native: Arch) -> Option<u32> {
        match self.only {
            None => self.syscall.number(arch, native),
            Some(only) if only == arch => self.syscall.number(arch, arch),
            Some(_) => None,
        }
    }

    fn check(&self, native: Arch, ignore_unknown: bool) -> Result<()> {
        let base = self.only.unwrap_or(native).base();
        match &self.syscall.0 {
            Which::Name(name) if !ignore_unknown && !is_known(name) => {
                return Err(Error::invalid("system call", name, "is not known"));
            }
            Which::Number(number) if !(base..base + NUMBERS).contains(number) => {
                let reason = "is no number of a system call of its architecture";
                return Err(Error::invalid("system call", number, reason));
            }
            _ => {}
        }
        self.conditions.iter().try_for_each(Condition::check)?;
        check_action(self.action)
    }
}

/// A system call filter, built from rules: a plain value.
///
/// Of the rules for a call the last whose conditions hold counts, so that what is added later stands above what was there. Calls of
/// 32-bit programs are filtered as well, by the numbers that they have there.
#[derive(Clone, PartialEq, Eq)]
#[must_use = "a Filter does nothing until a Command has it"]
pub struct Filter {
    base: Base,
    rules: Vec<Rule>,
    native_only: bool,
    ignore_unknown: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Action(Action),
    Docker,
}

impl Filter {
    /// `otherwise` for all calls that no rule is for.
    pub fn new(otherwise: Action) -> Self {
        Self::from_base(Base::Action(otherwise))
    }

    /// Docker's default profile, as [`Seccomp::docker_default`](super::Seccomp::docker_default) has it, to be changed.
    pub fn docker_default() -> Self {
        Self::from_base(Base::Docker)
    }

    /// Allows this call.
    pub fn allow(self, syscall: impl Into<Syscall>) -> Self {
        self.rule(Rule::new(syscall, Action::Allow))
    }

    /// Has this call fail with `EPERM`.
    pub fn deny(self, syscall: impl Into<Syscall>) -> Self {
        self.errno(syscall, libc::EPERM)
    }

    /// Has this call fail with `errno`.
    pub fn errno(self, syscall: impl Into<Syscall>, errno: i32) -> Self {
        self.rule(Rule::new(syscall, Action::Errno(errno)))
    }

    /// Has this call end the process.
    pub fn kill(self, syscall: impl Into<Syscall>) -> Self {
        self.rule(Rule::new(syscall, Action::KillProcess))
    }

    /// Allows this call and has the kernel log it.
    pub fn log(self, syscall: impl Into<Syscall>) -> Self {
        self.rule(Rule::new(syscall, Action::Log))
    }

    /// Has this call send the thread a SIGSYS.
    pub fn trap(self, syscall: impl Into<Syscall>) -> Self {
        self.rule(Rule::new(syscall, Action::Trap))
    }

    /// Allows these calls.
    pub fn allow_all(self, syscalls: impl IntoIterator<Item = impl Into<Syscall>>) -> Self {
        syscalls.into_iter().fold(self, Self::allow)
    }

    /// One more rule, above those before it.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Ends a process that makes a call of another architecture, such as that of 32-bit programs.
    pub fn native_only(mut self) -> Self {
        self.native_only = true;
        self
    }

    /// Passes over rules for calls whose name is not known, as OCI runtimes do, where it would be an error.
    pub fn ignore_unknown(mut self) -> Self {
        self.ignore_unknown = true;
        self
    }

    fn from_base(base: Base) -> Self {
        let (native_only, ignore_unknown) = (false, false);
        Filter {
            base,
            rules: Vec::new(),
            native_only,
            ignore_unknown,
        }
    }

    /// The calls that the last steps of a start make under the filter. What refuses one of them could not even say so.
    /// The first of these calls that is not allowed whatever its arguments.
    pub(super) fn refuses<'n>(
        &self,
        names: &[&'n str],
        machine: Machine,
        capabilities: Capabilities,
    ) -> Option<&'n str> {
        let (native, rules) = (machine.native(), self.all_rules(machine, capabilities));
        let is_refused = |name: &&'n str| {
            let number = native.number(name);
            let its = rules
                .iter()
                .rev()
                .filter(|rule| rule.number(native, native) == number);
            let mut always = its.filter(|rule| rule.conditions.is_empty());
            let action = always.next().map_or(self.otherwise(), |rule| rule.action);
            !action.allows()
        };
        names.iter().copied().find(is_refused)
    }

    /// Whether it allows no call on keys, on no architecture. Docker's profile does not.
    pub(super) fn denies_keys(&self, machine: Machine) -> bool {
        const CALLS: [&str; 3] = ["add_key", "keyctl", "request_key"];
        let native = machine.native();
        let names_one = |rule: &Rule| {
            machine.arches().iter().any(|&arch| {
                let number = rule.number(arch, native);
                number.is_some() && CALLS.iter().any(|name| arch.number(name) == number)
            })
        };
        let mut allowing = self.rules.iter().filter(|rule| rule.action.allows());
        !self.otherwise().allows() && !allowing.any(names_one)
    }

    pub(super) fn compile(
        &self,
        machine: Machine,
        capabilities: Capabilities,
    ) -> Result<Vec<Instruction>> {
        self.check(machine)?;
        emit(&self.tables(machine, capabilities))
    }

    fn check(&self, machine: Machine) -> Result<()> {
        check_action(self.otherwise())?;
        let check = |rule: &Rule| rule.check(machine.native(), self.ignore_unknown);
        self.rules.iter().try_for_each(check)
    }

    fn otherwise(&self) -> Action {
        match self.base {
            Base::Action(action) => action,
            Base::Docker => Action::Errno(libc::EPERM),
        }
    }

    pub(super) fn all_rules(&self, machine: Machine, capabilities: Capabilities) -> Vec<Rule> {
        let mut rules = match self.base {
            Base::Action(_) => Vec::new(),
            Base::Docker => profile::rules(machine, capabilities),
        };
        rules.extend_from_slice(&self.rules);
        rules
    }

    fn tables(&self, machine: Machine, capabilities: Capabilities) -> Vec<Table> {
        let rules = self.all_rules(machine, capabilities);
        let mut tables: Vec<Table> = Vec::new();
        for &arch in machine.arches() {
            let ranges = self.ranges(arch, machine, &rules);
            let ranges = ranges
                .range(arch.base()..)
                .map(|(&from, what)| (from, what.clone()));
            match tables
                .last_mut()
                .filter(|table| table.audit == arch.audit())
            {
                Some(table) => {
                    table.ranges.retain(|(from, _)| *from < arch.base());
                    table.ranges.extend(ranges);
                }
                None => tables.push(Table {
                    audit: arch.audit(),
                    ranges: ranges.collect(),
                }),
            }
        }
        if self.native_only {
            tables.truncate(1);
        }
        tables
    }

    /// What is done with the calls of `arch`, from each number to the next.
    fn ranges(&self, arch: Arch, machine: Machine, rules: &[Rule]) -> BTreeMap<u32, Decision> {
        let native = machine.native();
        if self.native_only && arch != native {
            return [(arch.base(), Action::KillProcess.into())].into();
        }
        let mut by_number: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
        for rule in rules {
            if let Some(number) = rule.number(arch, native) {
                by_number.entry(number).or_default().push(rule);
            }
        }
        let mut ranges: BTreeMap<u32, Decision> =
            BTreeMap::from([(arch.base(), self.otherwise().into())]);
        if let Some(first_unknown) = self.first_unknown(arch) {
            ranges.insert(first_unknown, Action::Errno(libc::ENOSYS).into());
        }
        for (number, rules) in by_number {
            let before = ranges
                .range(..=number)
                .next_back()
                .map(|(_, what)| what.clone());
            let before = before.unwrap_or_else(|| self.otherwise().into());
            let decision = decide(&rules, before.otherwise);
            // What the number before it had goes on after it, unless the next one follows at once.
            if let Some(next) = number.checked_add(1) {
                ranges.entry(next).or_insert(before);
            }
            ranges.insert(number, decision);
        }
        ranges
    }

    /// Calls from here on are newer than Docker's profile: they fail as on a kernel without them, as runc has it.
    fn first_unknown(&self, arch: Arch) -> Option<u32> {
        match self.base {
            Base::Action(_) => None,
            Base::Docker => profile::last_number(arch).map(|last| last + 1),
        }
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({:?} with {} rules)", self.base, self.rules.len())
    }
}

/// The rules of one call, in order, to the cases in the order in which they are tried.
fn decide(rules: &[&Rule], otherwise: Action) -> Decision {
    let mut cases = Vec::new();
    for rule in rules.iter().rev() {
        if rule.conditions.is_empty() {
            return Decision {
                cases,
                otherwise: rule.action,
            };
        }
        cases.push((rule.conditions.clone(), rule.action));
    }
    Decision { cases, otherwise }
}

fn check_action(action: Action) -> Result<()> {
    match action {
        Action::Errno(errno) if !(0..=4095).contains(&errno) => {
            Err(Error::invalid("errno", errno, "is not from 0 to 4095"))
        }
        _ => Ok(()),
    }
}

/// A kind of machine, by the architectures whose programs it runs, its own first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    X86,
    Arm,
}

impl Machine {
    /// The one this is compiled for.
    pub(super) fn this() -> Result<Self> {
        if cfg!(target_arch = "x86_64") {
            Ok(Machine::X86)
        } else if cfg!(target_arch = "aarch64") {
            Ok(Machine::Arm)
        } else {
            Err(Error::unsupported(
                "seccomp filters",
                "they need x86_64 or aarch64",
            ))
        }
    }

    pub(super) const fn native(self) -> Arch {
        self.arches()[0]
    }

    pub(super) const fn arches(self) -> &'static [Arch] {
        match self {
            Machine::X86 => &[Arch::X86_64, Arch::X32, Arch::X86],
            Machine::Arm => &[Arch::Aarch64, Arch::Arm],
        }
    }
}
