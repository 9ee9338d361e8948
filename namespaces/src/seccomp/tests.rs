//! The code of filters, run by a machine of the tests' own, against what the rules say when they are read one by one.

use std::collections::{BTreeSet, HashSet};

use caps::Capability;

use super::bpf::Instruction;
use super::filter::{Action, Condition, Filter, Machine, Rule};
use super::syscalls::{Arch, X32_BIT};
use super::{Seccomp, profile};
use crate::{Capabilities, ErrorKind};

/// A system call as a filter sees it.
#[derive(Clone, Copy, Debug)]
struct Call {
    audit: u32,
    number: u32,
    args: [u64; 6],
}

impl Call {
    fn of(arch: Arch, number: u32, args: [u64; 6]) -> Self {
        Call {
            audit: arch.audit(),
            number,
            args,
        }
    }

    fn word(&self, offset: u32) -> u32 {
        assert!(offset % 4 == 0 && offset < 64, "load at {offset}");
        match offset {
            0 => self.number,
            4 => self.audit,
            8 | 12 => 0,
            _ => (self.args[(offset as usize - 16) / 8] >> (offset % 8 * 8)) as u32,
        }
    }
}

/// What the code returns, and in how many steps. Jumps go forward only, as the kernel demands.
fn run(code: &[Instruction], call: &Call) -> (u32, usize) {
    let (mut at, mut accumulator, mut steps) = (0usize, 0u32, 0);
    loop {
        let Instruction { code, jt, jf, k } = code[at];
        at += 1;
        steps += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = call.word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x06 => return (k, steps),
            other => panic!("an instruction {other:#x}"),
        }
    }
}

/// A rule in a form that has nothing in common with what is compiled.
#[derive(Clone, Debug)]
struct Plain {
    numbers: Vec<(Arch, u32)>,
    conditions: Vec<(u8, u64, &'static str, u64)>,
    action: Action,
}

impl Plain {
    fn matches(&self, arch: Arch, call: &Call) -> bool {
        self.numbers.contains(&(arch, call.number))
            && self.conditions.iter().all(|&(index, mask, test, value)| {
                let argument = call.args[usize::from(index)] & mask;
                match test {
                    "==" => argument == value,
                    "!=" => argument != value,
                    "<" => argument < value,
                    "<=" => argument <= value,
                    ">" => argument > value,
                    ">=" => argument >= value,
                    other => panic!("{other}"),
                }
            })
    }
}

fn arch_of(machine: Machine, call: &Call) -> Option<Arch> {
    let same = |arch: &&Arch| {
        arch.audit() == call.audit && (call.number >= X32_BIT || **arch != Arch::X32)
    };
    machine
        .arches()
        .iter()
        .rev()
        .find(|arch| {
            // x32 comes after x86_64 and has all numbers from its bit on.
            same(arch)
        })
        .copied()
}

fn naive(machine: Machine, rules: &[Plain], otherwise: Action, call: &Call) -> u32 {
    let Some(arch) = arch_of(machine, call) else {
        return Action::KillProcess.result();
    };
    let rule = rules.iter().rev().find(|rule| rule.matches(arch, call));
    rule.map_or(otherwise, |rule| rule.action).result()
}

/// All that is interesting about numbers.
fn numbers() -> Vec<u32> {
    let small = (0..1024).chain(X32_BIT..X32_BIT + 1024);
    let odd = [
        0xf_0000,
        0xf_0001,
        0xf_0005,
        0xf_0006,
        X32_BIT - 1,
        0x7fff_ffff,
        1 << 31,
        u32::MAX,
    ];
    small.chain(odd).chain([u32::MAX - 1]).collect()
}

const ALL: [Arch; 5] = [Arch::X86_64, Arch::X32, Arch::X86, Arch::Aarch64, Arch::Arm];

/// xorshift64*: the same numbers in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.roll() >> 16) % limit
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

const VALUES: [u64; 12] = [
    0,
    1,
    2,
    0x5412,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x5412_0000_5412,
    u64::MAX - 1,
    u64::MAX,
];

fn random_condition(dice: &mut Dice) -> (Condition, (u8, u64, &'static str, u64)) {
    let (index, mut value) = (dice.below(3) as u8, dice.of(&VALUES));
    let low = dice.below(2) == 0;
    let mut mask = if low { 0xffff_ffff } else { u64::MAX };
    value &= mask;
    let (condition, test) = match dice.below(7) {
        0 => (Condition::equal(index, value), "=="),
        1 => (Condition::not_equal(index, value), "!="),
        2 => (Condition::less(index, value), "<"),
        3 => (Condition::less_or_equal(index, value), "<="),
        4 => (Condition::greater(index, value), ">"),
        5 => (Condition::greater_or_equal(index, value), ">="),
        _ => {
            let bits = dice.of(&VALUES);
            (mask, value) = (mask & bits, value & bits);
            (Condition::masked_equal(index, bits, value), "==")
        }
    };
    let condition = if low { condition.low() } else { condition };
    (condition, (index, mask, test, value))
}

const NAMES: [&str; 12] = [
    "read",
    "write",
    "ioctl",
    "socket",
    "clone",
    "open",
    "openat",
    "chown32",
    "rt_sigaction",
    "mmap2",
    "io_uring_setup",
    "statx",
];

fn random_rule(dice: &mut Dice, machine: Machine) -> (Rule, Plain) {
    let errno = dice.below(4096) as i32;
    let actions = [
        Action::Allow,
        Action::Log,
        Action::Errno(errno),
        Action::Trap,
    ];
    let action = dice.of(&[
        actions.as_slice(),
        &[Action::KillThread, Action::KillProcess],
    ]
    .concat());
    let (mut rule, mut numbers);
    if dice.below(2) == 0 {
        let name = dice.of(&NAMES);
        rule = Rule::new(name, action);
        let its = machine
            .arches()
            .iter()
            .map(|&arch| (arch, arch.number(name)));
        numbers = its
            .filter_map(|(arch, number)| Some((arch, number?)))
            .collect::<Vec<_>>();
        if dice.below(4) == 0 {
            let only = dice.of(machine.arches());
            rule = rule.on(only);
            numbers.retain(|(arch, _)| *arch == only);
        }
    } else {
        let arch = dice.of(machine.arches());
        let number = arch.base() + dice.below(1024) as u32;
        rule = Rule::new(number, action).on(arch);
        numbers = vec![(arch, number)];
    }
    let mut conditions = Vec::new();
    for _ in 0..dice.below(4).saturating_sub(1) {
        let (condition, plain) = random_condition(dice);
        rule = rule.when(condition);
        conditions.push(plain);
    }
    (
        rule,
        Plain {
            numbers,
            conditions,
            action,
        },
    )
}

fn random_args(dice: &mut Dice) -> [u64; 6] {
    std::array::from_fn(|_| dice.of(&VALUES).wrapping_add(dice.below(3)).wrapping_sub(1))
}

#[test]
fn random_filters_do_what_their_rules_say() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut cases, mut longest) = (0, 0);
    for round in 0..60 {
        let machine = dice.of(&[Machine::X86, Machine::Arm]);
        let otherwise = dice.of(&[Action::Allow, Action::Errno(1), Action::KillProcess]);
        // Some are so large that jumps of a byte do not reach.
        let count = if round % 20 == 0 { 700 } else { dice.below(40) };
        let (rules, plain): (Vec<_>, Vec<_>) =
            (0..count).map(|_| random_rule(&mut dice, machine)).unzip();
        let filter = rules.into_iter().fold(Filter::new(otherwise), Filter::rule);
        let code = filter.compile(machine, Capabilities::NONE).unwrap();
        longest = longest.max(code.len());
        for arch in ALL {
            for number in numbers() {
                let is_it = |one: &(Arch, u32)| one.0.audit() == arch.audit() && one.1 == number;
                let its = plain.iter().filter(|rule| rule.numbers.iter().any(is_it));
                let its: Vec<_> = its.cloned().collect();
                for _ in 0..if its.is_empty() { 1 } else { 8 } {
                    let call = Call::of(arch, number, random_args(&mut dice));
                    let expected = naive(machine, &its, otherwise, &call);
                    assert_eq!(run(&code, &call).0, expected, "{call:x?} by {its:#?}");
                    cases += 1;
                }
            }
        }
    }
    assert!(longest > 1024, "none was large: {longest}");
    assert!(cases > 300_000, "{cases} cases");
}

#[test]
fn every_comparison_holds_at_its_boundaries() {
    for value in VALUES {
        for low in [false, true] {
            let mask = if low { 0xffff_ffff } else { u64::MAX };
            let value = value & mask;
            for (condition, test) in [
                (Condition::equal(5, value), "=="),
                (Condition::not_equal(5, value), "!="),
                (Condition::less(5, value), "<"),
                (Condition::less_or_equal(5, value), "<="),
                (Condition::greater(5, value), ">"),
                (Condition::greater_or_equal(5, value), ">="),
            ] {
                let condition = if low { condition.low() } else { condition };
                let rule = Rule::new("futex", Action::Trap).when(condition);
                let filter = Filter::new(Action::Allow).rule(rule);
                let code = filter.compile(Machine::X86, Capabilities::NONE).unwrap();
                let number = Arch::X86_64.number("futex").unwrap();
                let plain = Plain {
                    numbers: vec![(Arch::X86_64, number)],
                    conditions: vec![(5, mask, test, value)],
                    action: Action::Trap,
                };
                let around = [value, value.wrapping_add(1), value.wrapping_sub(1)];
                let halves = around.map(|one| [one ^ 1 << 32, one.rotate_left(32), !one]);
                for argument in around
                    .into_iter()
                    .chain(halves.into_iter().flatten())
                    .chain(VALUES)
                {
                    let call = Call::of(Arch::X86_64, number, [0, 0, 0, 0, 0, argument]);
                    let expected = naive(
                        Machine::X86,
                        std::slice::from_ref(&plain),
                        Action::Allow,
                        &call,
                    );
                    assert_eq!(
                        run(&code, &call).0,
                        expected,
                        "{argument:#x} {test} {value:#x}"
                    );
                }
            }
        }
    }
}

/// The calls that Docker's profile names, under whatever conditions.
fn named(machine: Machine, capabilities: Capabilities) -> HashSet<(Arch, u32)> {
    let rules = Filter::docker_default().all_rules(machine, capabilities);
    let both = rules
        .iter()
        .flat_map(|rule| machine.arches().iter().map(move |&arch| (arch, rule)));
    both.filter_map(|(arch, rule)| Some((arch, rule.number(arch, machine.native())?)))
        .collect()
}

/// Docker's profile, read rule by rule.
fn docker(
    machine: Machine,
    capabilities: Capabilities,
    named: &HashSet<(Arch, u32)>,
    call: &Call,
) -> u32 {
    let Some(arch) = arch_of(machine, call) else {
        return Action::KillProcess.result();
    };
    let (allow, deny) = (Action::Allow.result(), Action::Errno(libc::EPERM).result());
    let is = |name: &str| arch.number(name) == Some(call.number);
    let low = call.args[0] & 0xffff_ffff;
    let admin = capabilities.contains(Capability::CAP_SYS_ADMIN);
    if is("ioctl") {
        let bad = [0x5412, 0x541c].contains(&(call.args[1] & 0xffff_ffff));
        return if bad { deny } else { allow };
    }
    if is("socket") {
        let gone = [12, 19, 20, 23, 25, 34, 37, 38, 40];
        return if low < 46 && !gone.contains(&low) {
            allow
        } else {
            deny
        };
    }
    if is("personality") {
        let known = [0, 8, 0x20000, 0x20008, 0xffff_ffff].contains(&low);
        return if known { allow } else { deny };
    }
    if is("clone") && !admin {
        return if call.args[0] & 0x7e02_0000 == 0 {
            allow
        } else {
            deny
        };
    }
    if is("clone3") && !admin {
        return Action::Errno(libc::ENOSYS).result();
    }
    if named.contains(&(arch, call.number)) {
        return allow;
    }
    // x32 has calls of its own that are older and have greater numbers.
    let last = if arch == Arch::X32 {
        "pwritev2"
    } else {
        "removexattrat"
    };
    let last = arch.number(last).unwrap();
    if call.number > last {
        Action::Errno(libc::ENOSYS).result()
    } else {
        deny
    }
}

#[test]
fn dockers_profile_is_the_same_in_code_for_every_number() {
    let args = [
        0u64, 1, 2, 8, 10, 11, 12, 13, 16, 37, 38, 39, 40, 41, 45, 46,
    ]
    .into_iter()
    .chain([
        0x11,
        0x1000_0000,
        0x2_0000,
        0x200_0000,
        0x4000_0000,
        0x2000_0011,
        0x2_0008,
    ])
    .chain([
        0xffff_ffff,
        0x1_0000_0000,
        0x1_0000_0028,
        0x5412,
        0x541c,
        0x5413,
        u64::MAX,
    ])
    .flat_map(|low| [low, low | 0xdead_0000_0000_0000]);
    let args: Vec<_> = args.collect();
    let sets = [
        Capabilities::NONE,
        Capabilities::docker_default(),
        Capabilities::docker_default().with(Capability::CAP_SYS_ADMIN),
        caps::all()
            .into_iter()
            .fold(Capabilities::NONE, Capabilities::with),
    ];
    for machine in [Machine::X86, Machine::Arm] {
        for capabilities in sets {
            let code = Filter::docker_default()
                .compile(machine, capabilities)
                .unwrap();
            let named = named(machine, capabilities);
            let looked_at = ["ioctl", "socket", "personality", "clone"];
            assert!(code.len() < 400, "{} instructions", code.len());
            for arch in ALL {
                for number in numbers() {
                    let looked_at = looked_at
                        .iter()
                        .any(|name| arch.number(name) == Some(number));
                    for &arg in if looked_at { &args[..] } else { &args[..2] } {
                        let call = Call::of(arch, number, [arg, arg, arg, arg, arg, arg]);
                        let expected = docker(machine, capabilities, &named, &call);
                        assert_eq!(run(&code, &call).0, expected, "{call:x?} on {machine:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn dockers_profile_spot_by_spot() {
    use Capability::*;
    let none = Capabilities::docker_default();
    let with = |capability| none.with(capability);
    let (eperm, enosys) = (Action::Errno(libc::EPERM), Action::Errno(libc::ENOSYS));
    let table: &[(Arch, &str, Capabilities, [u64; 2], Action)] = &[
        (Arch::X86_64, "read", none, [0, 0], Action::Allow),
        (Arch::X86_64, "ptrace", none, [0, 0], Action::Allow),
        (Arch::X86_64, "arch_prctl", none, [0, 0], Action::Allow),
        (Arch::X86_64, "io_uring_setup", none, [0, 0], eperm),
        (Arch::X86_64, "io_uring_enter", none, [0, 0], eperm),
        (Arch::X86_64, "keyctl", none, [0, 0], eperm),
        (Arch::X86_64, "add_key", none, [0, 0], eperm),
        (Arch::X86_64, "request_key", none, [0, 0], eperm),
        (Arch::X86_64, "userfaultfd", none, [0, 0], eperm),
        (Arch::X86_64, "bpf", none, [0, 0], eperm),
        (Arch::X86_64, "bpf", with(CAP_BPF), [0, 0], Action::Allow),
        (Arch::X86_64, "perf_event_open", none, [0, 0], eperm),
        (
            Arch::X86_64,
            "perf_event_open",
            with(CAP_PERFMON),
            [0, 0],
            Action::Allow,
        ),
        (Arch::X86_64, "mount", none, [0, 0], eperm),
        (
            Arch::X86_64,
            "mount",
            with(CAP_SYS_ADMIN),
            [0, 0],
            Action::Allow,
        ),
        (Arch::X86_64, "unshare", none, [0x1000_0000, 0], eperm),
        (
            Arch::X86_64,
            "unshare",
            with(CAP_SYS_ADMIN),
            [0x1000_0000, 0],
            Action::Allow,
        ),
        (Arch::X86_64, "clone", none, [0x11, 0], Action::Allow),
        (Arch::X86_64, "clone", none, [0x1000_0011, 0], eperm),
        (Arch::X86_64, "clone", none, [0x0200_0000, 0], eperm),
        (
            Arch::X86_64,
            "clone",
            with(CAP_SYS_ADMIN),
            [0x1000_0011, 0],
            Action::Allow,
        ),
        (Arch::X86_64, "clone3", none, [0, 0], enosys),
        (
            Arch::X86_64,
            "clone3",
            with(CAP_SYS_ADMIN),
            [0, 0],
            Action::Allow,
        ),
        (Arch::X86_64, "socket", none, [1, 1], Action::Allow),
        (Arch::X86_64, "socket", none, [38, 5], eperm),
        (Arch::X86_64, "socket", none, [40, 1], eperm),
        (
            Arch::X86_64,
            "socket",
            none,
            [0xffff_ffff_0000_0028, 1],
            eperm,
        ),
        (
            Arch::X86_64,
            "personality",
            none,
            [0xffff_ffff, 0],
            Action::Allow,
        ),
        (Arch::X86_64, "personality", none, [0x4_0000, 0], eperm),
        (Arch::X86_64, "ioctl", none, [0, 0x5401], Action::Allow),
        (Arch::X86_64, "ioctl", none, [0, 0x5412], eperm),
        (Arch::X86_64, "ioctl", none, [0, 0x1_0000_5412], eperm),
        (
            Arch::X86_64,
            "ioctl",
            none,
            [0, 0xdead_beef_0000_541c],
            eperm,
        ),
        (
            Arch::X86_64,
            "ioctl",
            with(CAP_SYS_ADMIN),
            [0, 0x5412],
            eperm,
        ),
        (Arch::X86_64, "chroot", none, [0, 0], Action::Allow),
        (Arch::X86_64, "chroot", Capabilities::NONE, [0, 0], eperm),
        (Arch::X86_64, "open_by_handle_at", none, [0, 0], eperm),
        (
            Arch::X86_64,
            "open_by_handle_at",
            with(CAP_DAC_READ_SEARCH),
            [0, 0],
            Action::Allow,
        ),
        (
            Arch::X86_64,
            "init_module",
            with(CAP_SYS_MODULE),
            [0, 0],
            Action::Allow,
        ),
        (
            Arch::X86_64,
            "reboot",
            with(CAP_SYS_BOOT),
            [0, 0],
            Action::Allow,
        ),
        (
            Arch::X86_64,
            "settimeofday",
            with(CAP_SYS_TIME),
            [0, 0],
            Action::Allow,
        ),
        (Arch::X86_64, "mbind", none, [0, 0], eperm),
        (
            Arch::X86_64,
            "mbind",
            with(CAP_SYS_NICE),
            [0, 0],
            Action::Allow,
        ),
        (
            Arch::X86_64,
            "syslog",
            with(CAP_SYSLOG),
            [0, 0],
            Action::Allow,
        ),
        (
            Arch::X86_64,
            "vhangup",
            with(CAP_SYS_TTY_CONFIG),
            [0, 0],
            Action::Allow,
        ),
        (
            Arch::X86_64,
            "iopl",
            with(CAP_SYS_RAWIO),
            [0, 0],
            Action::Allow,
        ),
        (
            Arch::X86_64,
            "acct",
            with(CAP_SYS_PACCT),
            [0, 0],
            Action::Allow,
        ),
        (Arch::X86_64, "pidfd_getfd", none, [0, 0], eperm),
        (
            Arch::X86_64,
            "pidfd_getfd",
            with(CAP_SYS_PTRACE),
            [0, 0],
            Action::Allow,
        ),
        (Arch::X86_64, "file_getattr", none, [0, 0], enosys),
        (Arch::X32, "read", none, [0, 0], Action::Allow),
        (Arch::X32, "keyctl", none, [0, 0], eperm),
        (Arch::X32, "ioctl", none, [0, 0x5412], eperm),
        (Arch::X86, "socketcall", none, [1, 0], Action::Allow),
        (Arch::X86, "mount", none, [0, 0], eperm),
        (Arch::X86, "umount", none, [0, 0], eperm),
        (Arch::X86, "clone", none, [0x1000_0011, 0], eperm),
        (Arch::X86, "ioctl", none, [0, 0x5412], eperm),
        (Arch::X86, "clock_settime64", none, [0, 0], eperm),
        (Arch::Aarch64, "openat", none, [0, 0], Action::Allow),
        (Arch::Aarch64, "io_uring_setup", none, [0, 0], eperm),
        (Arch::Aarch64, "clone", none, [0x1000_0011, 0], eperm),
        (Arch::Arm, "set_tls", none, [0, 0], Action::Allow),
        (Arch::Arm, "sync_file_range2", none, [0, 0], Action::Allow),
        (Arch::Arm, "unshare", none, [0, 0], eperm),
    ];
    for &(arch, name, capabilities, [first, second], action) in table {
        let is_arm = [Arch::Aarch64, Arch::Arm].contains(&arch);
        let machine = if is_arm { Machine::Arm } else { Machine::X86 };
        let code = Filter::docker_default()
            .compile(machine, capabilities)
            .unwrap();
        let number = arch
            .number(name)
            .unwrap_or_else(|| panic!("{name} of {arch:?}"));
        let call = Call::of(arch, number, [first, second, 0, 0, 0, 0]);
        assert_eq!(
            run(&code, &call).0,
            action.result(),
            "{name} of {arch:?} {first:#x} {second:#x}"
        );
    }
}

/// All calls of x86_64 that a container with Docker's capabilities is refused, whatever their arguments.
const REFUSED: &str = "
_sysctl acct add_key afs_syscall bpf clock_settime create_module delete_module fanotify_init file_getattr
file_setattr finit_module fsconfig fsmount fsopen fspick get_kernel_syms get_mempolicy getpmsg init_module
io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl
lookup_dcookie lsm_get_self_attr lsm_list_modules lsm_set_self_attr mbind migrate_pages mount mount_setattr
move_mount move_pages nfsservctl open_by_handle_at open_tree open_tree_attr perf_event_open pidfd_getfd
pivot_root process_madvise putpmsg query_module quotactl quotactl_fd reboot request_key security set_mempolicy
set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon sysfs syslog tuxcall
umount2 unshare uselib userfaultfd ustat vhangup vserver";

#[test]
fn all_but_these_are_allowed() {
    let capabilities = Capabilities::docker_default();
    let code = Filter::docker_default()
        .compile(Machine::X86, capabilities)
        .unwrap();
    let refused = (0..470).filter(|&number| {
        let call = Call::of(Arch::X86_64, number, [1, 0, 0, 0, 0, 0]);
        let allowed = run(&code, &call).0 == Action::Allow.result();
        !allowed
            && !["personality", "clone3"]
                .map(Some)
                .contains(&Arch::X86_64.name(number))
    });
    let names: BTreeSet<_> = refused
        .filter_map(|number| Arch::X86_64.name(number))
        .collect();
    assert_eq!(names, REFUSED.split_ascii_whitespace().collect());
}

#[test]
fn every_name_of_the_profile_is_known() {
    let all = caps::all()
        .into_iter()
        .fold(Capabilities::NONE, Capabilities::with);
    for machine in [Machine::X86, Machine::Arm] {
        let filter = Filter::docker_default();
        let taken = [super::TAKEN_BY_EXECVE, super::TAKEN_BEFORE].concat();
        assert_eq!(filter.refuses(&taken, machine, all), None);
        for rule in filter.all_rules(machine, all) {
            let rule = Filter::new(Action::Allow).rule(rule);
            rule.compile(machine, all).unwrap();
        }
    }
    assert_eq!(
        profile::last_number(Arch::X86),
        Arch::X86.number("removexattrat")
    );
}

#[test]
fn the_ways_through_the_default_are_short() {
    let code = Filter::docker_default();
    let code = code
        .compile(Machine::X86, Capabilities::docker_default())
        .unwrap();
    let steps = |number| run(&code, &Call::of(Arch::X86_64, number, [0; 6])).1;
    let (most, all) = (
        (0..470).map(steps).max().unwrap(),
        (0..470).map(steps).sum::<usize>(),
    );
    assert!(most <= 18, "{most} steps");
    assert!(all / 470 <= 10, "{} steps on average", all / 470);
}

#[test]
fn other_architectures_end_the_process() {
    let code = Filter::new(Action::Allow)
        .compile(Machine::X86, Capabilities::NONE)
        .unwrap();
    for arch in [Arch::Aarch64, Arch::Arm] {
        assert_eq!(
            run(&code, &Call::of(arch, 0, [0; 6])).0,
            Action::KillProcess.result()
        );
    }
    let native = Filter::new(Action::Allow).native_only();
    let code = native.compile(Machine::X86, Capabilities::NONE).unwrap();
    for (arch, number, action) in [
        (Arch::X86_64, 0, Action::Allow),
        (Arch::X86_64, X32_BIT - 1, Action::Allow),
        (Arch::X32, X32_BIT, Action::KillProcess),
        (Arch::X32, u32::MAX, Action::KillProcess),
        (Arch::X86, 4, Action::KillProcess),
    ] {
        assert_eq!(
            run(&code, &Call::of(arch, number, [0; 6])).0,
            action.result(),
            "{arch:?}"
        );
    }
}

#[test]
fn a_number_means_the_same_call_on_every_architecture() {
    let unnamed = 900;
    let mount = Arch::X86_64.number("mount").unwrap();
    let filter = Filter::new(Action::Allow).deny(mount).deny(unnamed);
    let code = filter.compile(Machine::X86, Capabilities::NONE).unwrap();
    for arch in [Arch::X86_64, Arch::X32, Arch::X86] {
        for number in [arch.number("mount").unwrap(), arch.base() + unnamed] {
            let result = run(&code, &Call::of(arch, number, [0; 6])).0;
            assert_eq!(
                result,
                Action::Errno(libc::EPERM).result(),
                "{number} of {arch:?}"
            );
        }
    }
}

#[test]
fn what_comes_later_stands_above_what_was_there() {
    let is_one = || Condition::equal(0, 1);
    let filter = Filter::docker_default()
        .allow("keyctl")
        .deny("read")
        .rule(Rule::new("write", Action::Trap).when(is_one()))
        .allow("ioctl");
    let code = filter.compile(Machine::X86, Capabilities::NONE).unwrap();
    for (name, args, action) in [
        ("keyctl", [0, 0], Action::Allow),
        ("read", [0, 0], Action::Errno(libc::EPERM)),
        ("write", [0, 0], Action::Allow),
        ("write", [1, 0], Action::Trap),
        ("ioctl", [0, 0x5412], Action::Allow),
    ] {
        let number = Arch::X86_64.number(name).unwrap();
        let call = Call::of(Arch::X86_64, number, [args[0], args[1], 0, 0, 0, 0]);
        assert_eq!(run(&code, &call).0, action.result(), "{name}");
    }
}

fn refused(seccomp: impl Into<Seccomp>) -> String {
    let error = seccomp
        .into()
        .validate(Capabilities::docker_default())
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    error.to_string()
}

#[test]
fn bad_filters_name_the_item() {
    let rule =
        |condition| Filter::docker_default().rule(Rule::new("read", Action::Trap).when(condition));
    assert_eq!(
        refused(Filter::docker_default().allow("opne")),
        "system call \"opne\": is not known"
    );
    assert!(refused(Filter::docker_default().errno("read", 4096)).contains("\"4096\""));
    assert!(refused(Filter::new(Action::Errno(-1))).contains("is not from 0 to 4095"));
    assert!(refused(rule(Condition::equal(6, 0))).contains("argument \"6\""));
    assert!(refused(rule(Condition::equal(0, 1 << 32).low())).contains("is wider than"));
    assert!(refused(rule(Condition::masked_equal(0, 1, 2))).contains("can never be"));
    assert!(refused(Filter::docker_default().allow(X32_BIT)).contains("is no number"));
    let bare = Rule::new(3, Action::Allow).on(Arch::X32);
    assert!(refused(Filter::docker_default().rule(bare)).contains("is no number"));
    assert!(refused(Seccomp::raw([])).contains("from 1 to 4096"));
    let huge = (0..2000u64).fold(Filter::new(Action::Allow), |filter, value| {
        filter.rule(Rule::new("read", Action::Trap).when(Condition::equal(0, value << 31)))
    });
    assert!(refused(huge).contains("is more instructions than the 4096"));
    let ignored = Filter::docker_default().allow("opne").ignore_unknown();
    assert!(Seccomp::from(ignored).validate(Capabilities::NONE).is_ok());
}

#[test]
fn what_a_start_takes_must_be_allowed() {
    let needed = ["execve", "write", "exit_group"];
    for (position, name) in needed.iter().enumerate() {
        let text = format!(
            "system call \"{name}\": is not allowed by the seccomp filter, but a start takes it"
        );
        let allowed = needed[..position].iter().copied();
        let filter = Filter::new(Action::Errno(libc::ENOSYS)).allow_all(allowed);
        assert_eq!(refused(filter.clone()), text);
        assert_eq!(refused(Filter::docker_default().kill(*name)), text);
        let to_one = Rule::new(*name, Action::Allow).when(Condition::equal(0, 1));
        assert_eq!(refused(filter.rule(to_one)), text);
    }
    let enough = Seccomp::from(Filter::new(Action::KillProcess).allow_all(needed));
    assert!(enough.validate(Capabilities::NONE).is_ok());
}

#[test]
fn it_is_compiled_once_for_capabilities_that_come_to_the_same() {
    let default = Seccomp::docker_default();
    let code = |seccomp: &Seccomp, capabilities| seccomp.code(capabilities).unwrap().unwrap();
    let set = Capabilities::docker_default();
    let first = code(&default, set);
    assert!(std::ptr::eq(
        &*first,
        &*code(&Seccomp::docker_default(), set)
    ));
    assert!(std::ptr::eq(
        &*first,
        &*code(&default, set.without(Capability::CAP_KILL))
    ));
    assert_ne!(*first, *code(&default, set.with(Capability::CAP_SYS_ADMIN)));
    assert!(std::ptr::eq(&*first, &*code(&default, set)));
}

#[test]
fn it_prints_shortly_and_as_text() {
    assert_eq!(
        format!("{:?}", Seccomp::docker_default()),
        "Filter(Docker with 0 rules)"
    );
    assert_eq!(format!("{:?}", Seccomp::unconfined()), "Unconfined");
    let filter = Filter::new(Action::Errno(38)).rule(
        Rule::new("read", Action::Allow)
            .when(Condition::equal(0, 7).low())
            .on(Arch::X86_64),
    );
    let code = filter
        .native_only()
        .compile(Machine::X86, Capabilities::NONE)
        .unwrap();
    let raw = Seccomp::raw(code);
    assert_eq!(format!("{raw:?}"), "Raw(10 instructions)");
    let text = raw.disassemble(Capabilities::NONE).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[..2],
        ["   0 ld arch", "   1 jeq 0xc000003e, 0, 7"],
        "{text}"
    );
    assert!(
        text.contains(" ld low(arg0)\n") && text.contains(" ret errno 38\n"),
        "{text}"
    );
}

#[test]
fn an_instruction_is_eight_bytes_as_the_kernel_reads_them() {
    let instruction = Instruction {
        code: 0x15,
        jt: 1,
        jf: 2,
        k: 0x0403_0201,
    };
    assert_eq!(size_of::<Instruction>(), 8);
    let bytes = instruction.word().to_le_bytes();
    assert_eq!(bytes, [0x15, 0, 1, 2, 1, 2, 3, 4]);
}
