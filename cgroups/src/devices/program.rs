//! A device policy as an eBPF program; pure.
//!
//! The kernel asks it once an access: `r1` points to the access and type in one word, the major and the minor number.
//! What it returns is 1 to allow and 0 to deny. The rules stand in it last first; `r3` has the accesses asked for that
//! no rule has allowed yet.

use std::fmt;

use super::{Action, DeviceKind, DeviceRule, Devices};

/// The instructions, as the kernel takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program(Vec<Insn>);

/// `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Insn {
    code: u8,
    /// The destination and source registers, four bits each.
    registers: u8,
    offset: i16,
    value: i32,
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const RESULT: u8 = 0;
/// The pointer to the question; after the loads a scratch register.
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// `BPF_DEVCG_DEV_BLOCK` and `_CHAR`.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

impl Program {
    pub(crate) fn new(devices: &Devices) -> Self {
        let mut program = vec![
            Insn::load(TYPE, CONTEXT, 0),
            Insn::registers(MOVE_REGISTER, ACCESS, TYPE),
            Insn::value(AND, TYPE, 0xffff),
            Insn::value(SHIFT_RIGHT, ACCESS, 16),
            Insn::load(MAJOR, CONTEXT, 4),
            Insn::load(MINOR, CONTEXT, 8),
        ];
        for rule in devices.rules.iter().rev() {
            program.extend(assemble(rule));
        }
        program.extend(answer(devices.default));
        Program(program)
    }

    pub(crate) fn instructions(&self) -> &[Insn] {
        &self.0
    }
}

/// What a rule that does not match jumps over.
fn assemble(rule: &DeviceRule) -> Vec<Insn> {
    let bits = i32::from(rule.access().bits());
    let mut body = match rule.action() {
        Action::Allow => vec![
            Insn::value(AND, ACCESS, 7 & !bits),
            Insn::jump(JUMP_UNLESS_EQUAL, ACCESS, 0, 2),
        ],
        Action::Deny => vec![
            Insn::registers(MOVE_REGISTER, CONTEXT, ACCESS),
            Insn::value(AND, CONTEXT, bits),
            Insn::jump(JUMP_IF_EQUAL, CONTEXT, 0, 2),
        ],
    };
    body.extend(answer(rule.action()));
    let tests: Vec<_> = conditions(rule).collect();
    let mut over = (tests.len() + body.len()) as i16;
    let mut insns = Vec::with_capacity(tests.len() + body.len());
    for (register, value) in tests {
        over -= 1;
        insns.push(Insn::jump(JUMP_UNLESS_EQUAL, register, value, over));
    }
    insns.extend(body);
    insns
}

fn conditions(rule: &DeviceRule) -> impl Iterator<Item = (u8, i32)> {
    let kind = match rule.kind() {
        DeviceKind::All => None,
        DeviceKind::Block => Some(BLOCK),
        DeviceKind::Char => Some(CHAR),
    };
    // Of at most 12 and 20 bits, by validation.
    let number = |n: Option<u32>| n.map(|n| n as i32);
    [
        (TYPE, kind),
        (MAJOR, number(rule.major())),
        (MINOR, number(rule.minor())),
    ]
    .into_iter()
    .filter_map(|(register, value)| value.map(|value| (register, value)))
}

fn answer(action: Action) -> [Insn; 2] {
    let value = i32::from(action == Action::Allow);
    [
        Insn::value(MOVE, RESULT, value),
        Insn::value(EXIT, RESULT, 0),
    ]
}

impl Insn {
    fn new(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Self {
        // The two are bit fields in C.
        let registers = if cfg!(target_endian = "little") {
            from << 4 | to
        } else {
            to << 4 | from
        };
        Insn {
            code,
            registers,
            offset,
            value,
        }
    }

    fn load(to: u8, from: u8, offset: i16) -> Self {
        Self::new(LOAD_WORD, to, from, offset, 0)
    }

    fn registers(code: u8, to: u8, from: u8) -> Self {
        Self::new(code, to, from, 0, 0)
    }

    fn value(code: u8, to: u8, value: i32) -> Self {
        Self::new(code, to, 0, 0, value)
    }

    fn jump(code: u8, register: u8, value: i32, over: i16) -> Self {
        Self::new(code, register, 0, over, value)
    }

    fn to(self) -> usize {
        usize::from(if cfg!(target_endian = "little") {
            self.registers & 15
        } else {
            self.registers >> 4
        })
    }

    fn from(self) -> usize {
        usize::from(if cfg!(target_endian = "little") {
            self.registers >> 4
        } else {
            self.registers & 15
        })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, insn) in self.0.iter().enumerate() {
            let (to, value) = (insn.to(), insn.value);
            let target = at as i64 + 1 + i64::from(insn.offset);
            write!(f, "{at:>4}: ")?;
            match insn.code {
                LOAD_WORD => writeln!(f, "r{to} = *(u32 *)(r{} + {})", insn.from(), insn.offset),
                MOVE => writeln!(f, "r{to} = {value}"),
                MOVE_REGISTER => writeln!(f, "r{to} = r{}", insn.from()),
                AND => writeln!(f, "r{to} &= {value:#x}"),
                SHIFT_RIGHT => writeln!(f, "r{to} >>= {value}"),
                JUMP_IF_EQUAL => writeln!(f, "if r{to} == {value} goto {target}"),
                JUMP_UNLESS_EQUAL => writeln!(f, "if r{to} != {value} goto {target}"),
                _ => writeln!(f, "exit"),
            }?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::DeviceAccess;

    /// Runs a program as the kernel would, and checks what its verifier does: every jump is forward and inside, nothing
    /// is read before it is written, the end is an exit.
    fn run(program: &Program, kind: i32, major: u32, minor: u32, access: u8) -> bool {
        let context = [
            u64::from(access) << 16 | u64::from(kind as u32),
            u64::from(major),
            u64::from(minor),
        ];
        let mut registers: [Option<u64>; 6] = [None; 6];
        let mut at = 0;
        loop {
            let insn = program.0[at];
            let (to, value) = (insn.to(), i64::from(insn.value) as u64);
            at += 1;
            match insn.code {
                LOAD_WORD => {
                    assert_eq!(insn.from(), usize::from(CONTEXT));
                    registers[to] = Some(context[insn.offset as usize / 4]);
                }
                MOVE => registers[to] = Some(value),
                MOVE_REGISTER => registers[to] = Some(registers[insn.from()].unwrap()),
                AND => registers[to] = Some(registers[to].unwrap() & value),
                SHIFT_RIGHT => registers[to] = Some(registers[to].unwrap() >> value),
                JUMP_IF_EQUAL | JUMP_UNLESS_EQUAL => {
                    assert!(insn.offset >= 0);
                    let equal = registers[to].unwrap() == value;
                    if equal == (insn.code == JUMP_IF_EQUAL) {
                        at += insn.offset as usize;
                    }
                }
                EXIT => return registers[0].unwrap() == 1,
                code => panic!("{code:#x} at {at}"),
            }
        }
    }

    fn agree(devices: &Devices) {
        let program = Program::new(devices);
        for (kind, code) in [(DeviceKind::Block, BLOCK), (DeviceKind::Char, CHAR)] {
            for major in [0, 1, 5, 10, 136, 4095] {
                for minor in [0, 1, 3, 5, 255, 0xf_ffff] {
                    for bits in 1..8 {
                        let expected =
                            devices.allows(kind, major, minor, DeviceAccess::from_bits(bits));
                        let found = run(&program, code, major, minor, bits);
                        let case = format!("{kind} {major}:{minor} {bits}\n{devices:?}\n{program}");
                        assert_eq!(found, expected, "{case}");
                    }
                }
            }
        }
    }

    /// xorshift64*: the same cases every time.
    fn pick<T: Copy>(state: &mut u64, from: &[T]) -> T {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        let n = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        from[n as usize % from.len()]
    }

    #[test]
    fn the_program_answers_as_the_policy_does() {
        agree(&Devices::deny_all());
        agree(&Devices::allow_all());
        agree(&Devices::docker_default());
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..100 {
            let defaults: [fn() -> Devices; 2] = [Devices::deny_all, Devices::allow_all];
            let mut devices = pick(&mut state, &defaults)();
            for _ in 0..pick(&mut state, &[1, 2, 5, 9]) {
                let kinds = [DeviceKind::All, DeviceKind::Block, DeviceKind::Char];
                let rule = DeviceRule::new(
                    pick(&mut state, &[Action::Allow, Action::Deny]),
                    pick(&mut state, &kinds),
                    pick(&mut state, &[None, Some(1), Some(5), Some(136), Some(4095)]),
                    pick(
                        &mut state,
                        &[None, Some(0), Some(3), Some(5), Some(0xf_ffff)],
                    ),
                    DeviceAccess::from_bits(pick(&mut state, &[1, 2, 3, 4, 5, 6, 7])),
                );
                devices = devices.rule(rule);
            }
            agree(&devices);
        }
    }

    #[test]
    fn an_access_that_asks_for_nothing_goes_to_what_is_listed() {
        let program = Program::new(&Devices::docker_default());
        assert!(run(&program, CHAR, 1, 3, 0));
        let program = Program::new(&Devices::deny_all());
        assert!(!run(&program, CHAR, 1, 3, 0));
    }

    #[test]
    fn a_program_reads_well() {
        let devices = Devices::deny_all()
            .rule("c 1:3 rw".parse().unwrap())
            .rule("deny b *:* m".parse().unwrap());
        let expected = "   0: r2 = *(u32 *)(r1 + 0)
   1: r3 = r2
   2: r2 &= 0xffff
   3: r3 >>= 16
   4: r4 = *(u32 *)(r1 + 4)
   5: r5 = *(u32 *)(r1 + 8)
   6: if r2 != 1 goto 12
   7: r1 = r3
   8: r1 &= 0x1
   9: if r1 == 0 goto 12
  10: r0 = 0
  11: exit
  12: if r2 != 2 goto 19
  13: if r4 != 1 goto 19
  14: if r5 != 3 goto 19
  15: r3 &= 0x1
  16: if r3 != 0 goto 19
  17: r0 = 1
  18: exit
  19: r0 = 0
  20: exit
";
        assert_eq!(devices.program_text(), expected);
    }
}
