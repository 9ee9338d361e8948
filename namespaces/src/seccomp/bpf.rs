//! The instructions of a filter, and code of them written from its end.

use std::collections::HashMap;
use std::fmt;

use crate::error::{Error, Result};

/// One instruction of classic BPF, laid out as the kernel's `struct sock_filter`.
///
/// It prints as text, such as `jge 0x29, 4, 0`: the numbers say how many instructions are passed over if it is so, and if not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
#[doc(alias = "sock_filter")]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// How many instructions a jump passes over if its condition holds.
    pub jt: u8,
    /// How many if it does not.
    pub jf: u8,
    /// A constant: an offset, a mask, what is compared with, the result.
    pub k: u32,
}

impl Instruction {
    /// As the kernel reads eight bytes.
    pub(crate) fn word(self) -> u64 {
        let ([a, b], [c, d, e, f]) = (self.code.to_ne_bytes(), self.k.to_ne_bytes());
        u64::from_ne_bytes([a, b, self.jt, self.jf, c, d, e, f])
    }
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Instruction { code, jt, jf, k } = *self;
        match code {
            LOAD => match k {
                NUMBER => f.write_str("ld nr"),
                ARCH => f.write_str("ld arch"),
                16..64 if k % 8 == 0 => write!(f, "ld low(arg{})", (k - 16) / 8),
                16..64 if k % 8 == 4 => write!(f, "ld high(arg{})", (k - 16) / 8),
                _ => write!(f, "ld [{k}]"),
            },
            AND => write!(f, "and {k:#x}"),
            JUMP => write!(f, "ja {k}"),
            EQUAL => write!(f, "jeq {k:#x}, {jt}, {jf}"),
            GREATER => write!(f, "jgt {k:#x}, {jt}, {jf}"),
            AT_LEAST => write!(f, "jge {k:#x}, {jt}, {jf}"),
            RETURN => match (k & 0xffff_0000, k & 0xffff) {
                (0x7fff_0000, _) => f.write_str("ret allow"),
                (0x7ffc_0000, _) => f.write_str("ret log"),
                (0x0005_0000, errno) => write!(f, "ret errno {errno}"),
                (0x0003_0000, _) => f.write_str("ret trap"),
                (0x0000_0000, _) => f.write_str("ret kill thread"),
                (0x8000_0000, _) => f.write_str("ret kill process"),
                _ => write!(f, "ret {k:#x}"),
            },
            _ => write!(f, "{code:#x} {k:#x}, {jt}, {jf}"),
        }
    }
}

/// `BPF_LD | BPF_W | BPF_ABS`
pub(super) const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`
pub(super) const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`
pub(super) const JUMP: u16 = 0x05;
/// `BPF_JMP | BPF_JEQ | BPF_K`
pub(super) const EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGT | BPF_K`
pub(super) const GREATER: u16 = 0x25;
/// `BPF_JMP | BPF_JGE | BPF_K`
pub(super) const AT_LEAST: u16 = 0x35;
/// `BPF_RET | BPF_K`
pub(super) const RETURN: u16 = 0x06;

/// Where `struct seccomp_data` has the call's number.
pub(super) const NUMBER: u32 = 0;
/// Where it has the architecture.
pub(super) const ARCH: u32 = 4;

/// `BPF_MAXINSNS`
pub(super) const MOST: usize = 4096;

/// Where an instruction stands, counted from the code's end.
pub(super) type Label = usize;

/// Code written from its end, so that the target of each jump is there already. The same instruction with the same way on is
/// written once.
#[derive(Debug, Default)]
pub(super) struct Code {
    reversed: Vec<Instruction>,
    written: HashMap<(u16, u32, Label, Label), Label>,
}

impl Code {
    pub(super) fn result(&mut self, k: u32) -> Label {
        let key = (RETURN, k, 0, 0);
        if let Some(&label) = self.written.get(&key) {
            return label;
        }
        self.push(key, plain(RETURN, k))
    }

    /// Loads the word at `offset` of the call's data, then goes on at `next`.
    pub(super) fn load(&mut self, offset: u32, next: Label) -> Label {
        self.before(LOAD, offset, next)
    }

    /// Masks what is loaded, then goes on at `next`.
    pub(super) fn and(&mut self, mask: u32, next: Label) -> Label {
        self.before(AND, mask, next)
    }

    /// Compares what is loaded with `k`, and goes on at one of two places.
    pub(super) fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        let key = (code, k, yes, no);
        if let Some(&label) = self.written.get(&key) {
            return label;
        }
        let (yes, no) = (self.near(yes), self.near(no));
        let jump = |to: Label| u8::try_from(self.reversed.len() - to - 1).unwrap_or(u8::MAX);
        let (jt, jf) = (jump(yes), jump(no));
        self.push(key, Instruction { code, jt, jf, k })
    }

    /// The code from `start` on.
    pub(super) fn finish(mut self, start: Label) -> Result<Vec<Instruction>> {
        self.adjoin(start);
        self.reversed.reverse();
        if self.reversed.len() > MOST {
            let reason = "is more instructions than the 4096 that the kernel takes";
            return Err(Error::invalid(
                "seccomp filter",
                self.reversed.len(),
                reason,
            ));
        }
        Ok(self.reversed)
    }

    fn before(&mut self, code: u16, k: u32, next: Label) -> Label {
        let key = (code, k, next, next);
        if let Some(&label) = self.written.get(&key) {
            return label;
        }
        self.adjoin(next);
        self.push(key, plain(code, k))
    }

    /// Has what is written next go on at `target`.
    fn adjoin(&mut self, target: Label) {
        if target + 1 != self.reversed.len() {
            self.repeat(target);
        }
    }

    /// A place to go on at `target` that a branch can reach: its jumps are of a byte.
    fn near(&mut self, target: Label) -> Label {
        // One of a branch's two targets may be repeated after the other was found near enough.
        let reach = usize::from(u8::MAX) - 1;
        let is_near = |label: Label| self.reversed.len() - label <= reach;
        if is_near(target) {
            return target;
        }
        let known = self.written.get(&self.key_of_repeat(target)).copied();
        known
            .filter(|&label| is_near(label))
            .unwrap_or_else(|| self.repeat(target))
    }

    /// What does the same as `target`, in one instruction: a copy if it is a return, or else a jump.
    fn repeat(&mut self, target: Label) -> Label {
        let key = self.key_of_repeat(target);
        let instruction = match self.reversed[target] {
            result @ Instruction { code: RETURN, .. } => result,
            _ => plain(
                JUMP,
                u32::try_from(self.reversed.len() - target - 1).unwrap_or(u32::MAX),
            ),
        };
        self.push(key, instruction)
    }

    fn key_of_repeat(&self, target: Label) -> (u16, u32, Label, Label) {
        match self.reversed[target] {
            Instruction {
                code: RETURN, k, ..
            } => (RETURN, k, 0, 0),
            _ => (JUMP, 0, target, target),
        }
    }

    fn push(&mut self, key: (u16, u32, Label, Label), instruction: Instruction) -> Label {
        let label = self.reversed.len();
        self.reversed.push(instruction);
        self.written.insert(key, label);
        label
    }
}

fn plain(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}
