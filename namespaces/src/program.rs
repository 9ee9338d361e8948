//! A program of syscalls: what the child does between clone3(2) and execve(2), as a plain value.

use std::borrow::Cow;
use std::fmt;

/// Bytes before the first op: error fd, error cell.
const HEADER: usize = 16;
/// Bytes of one op: nr, min, indirect, skip (u32 each), six arguments, tolerated errnos, result address.
const OP: usize = 80;
/// Where in the header the index of the failed op and its errno are left, a u32 and an i32.
const ERROR_CELL: usize = 8;
/// Beside the bits that say which arguments are addresses of slots: a result of zero is not kept, and passes over ops too.
const BRANCH: u32 = 1 << 6;
/// This op is no syscall: the interpreter becomes a reaper.
const REAP: u32 = 1 << 7;

/// A flat list of syscalls with the strings and structs they point to.
///
/// An op that fails ends the whole program, unless its errno is tolerated; then some of the ops after it may be passed over. A
/// clone(2) passes over the ops that are the parent's, in the child. A result can be kept in a slot that later ops take as an
/// argument. `Display` prints one line for each op.
#[derive(Clone, Debug, Default)]
pub struct Program {
    ops: Vec<Op>,
    arena: Vec<u8>,
    /// Arena offsets that hold an arena offset, to be made an address when encoded.
    pointers: Vec<usize>,
    slots: usize,
}

impl Program {
    /// With room for what a container takes.
    pub(crate) fn with_room() -> Self {
        Program {
            ops: Vec::with_capacity(256),
            arena: Vec::with_capacity(8192),
            ..Program::default()
        }
    }

    /// How many syscalls it makes, the final execve(2) included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether it makes none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Has the op at `index` be a call that no kernel knows. False for what is no call.
    #[cfg(test)]
    pub(crate) fn break_op(&mut self, index: usize) -> bool {
        let op = &mut self.ops[index];
        op.call.nr = 65_535;
        op.flags & REAP == 0
    }

    /// Whether an op before it can have the op at `index` passed over.
    #[cfg(test)]
    pub(crate) fn can_be_passed_over(&self, index: usize) -> bool {
        let before = self.ops.iter().take(index).enumerate();
        before
            .filter(|(_, op)| op.flags & BRANCH == 0)
            .any(|(at, op)| at + op.skip as usize >= index)
    }

    /// What the op at `index` is for, in the words of errors.
    pub(crate) fn step(&self, index: u32) -> &str {
        self.ops
            .get(index as usize)
            .map_or("read the program", |op| &op.step)
    }

    /// Appends an op. The returned editor sets what is unusual about it.
    pub(crate) fn op<const N: usize>(
        &mut self,
        call: Call,
        args: [Arg; N],
        step: impl Into<Cow<'static, str>>,
    ) -> Edit<'_> {
        let mut all = [Arg::Int(0); 6];
        all[..N].copy_from_slice(&args);
        let (min, tolerate, skip, flags, result) = (0, 0, 0, 0, None);
        self.ops.push(Op {
            call,
            args: all,
            arity: N,
            min,
            tolerate,
            skip,
            flags,
            result,
            step: step.into(),
        });
        Edit { program: self }
    }

    /// A clone(2) with these flags, which shares no memory: in the child, the next `parents` ops are passed over. In the parent the
    /// result is its pid, and `pidfd` says where its pidfd goes.
    pub(crate) fn clone_process(
        &mut self,
        flags: i32,
        pidfd: Option<Arg>,
        parents: u32,
        step: impl Into<Cow<'static, str>>,
    ) -> Edit<'_> {
        let more = if pidfd.is_some() {
            libc::CLONE_PIDFD
        } else {
            0
        };
        let flags = Arg::flags(flags | more);
        // The last two arguments are swapped on some architectures; neither flag that reads them is set.
        let pidfd = pidfd.unwrap_or(Arg::NULL);
        let args = [flags, Arg::NULL, pidfd, Arg::NULL, Arg::NULL];
        self.op(call!(SYS_clone), args, step).last(|op| {
            op.skip = parents;
            op.flags |= BRANCH;
        })
    }

    /// From here on this process forwards signals to `child` and reaps whoever ends, until `child` does; or, where there is a
    /// `lifeline`, until nobody writes to that pipe any more. Reading from it does not wait, and its end is a signal.
    pub(crate) fn reap(&mut self, child: Arg, lifeline: Option<i32>) {
        // A signal set of all, then room for a siginfo and a status.
        let mut scratch = [Word::Int(0); 32];
        scratch[0] = Word::Int(u64::MAX);
        let scratch = self.words(&scratch);
        let call = Call::new(0, "SYS_reap");
        let lifeline = Arg::fd(lifeline.unwrap_or(-1));
        let reap = self.op(call, [child, scratch, lifeline], "reap");
        reap.last(|op| op.flags |= REAP);
    }

    /// A NUL-terminated copy of `bytes`. The caller has refused NULs inside them.
    pub(crate) fn string(&mut self, bytes: impl AsRef<[u8]>) -> Arg {
        let at = self.arena.len();
        self.arena.extend_from_slice(bytes.as_ref());
        self.arena.push(0);
        Arg::Str(at)
    }

    /// A copy of `words` aligned for structs of 8-byte fields.
    pub(crate) fn words(&mut self, words: &[Word]) -> Arg {
        self.arena.resize(self.arena.len().next_multiple_of(8), 0);
        let at = self.arena.len();
        for word in words {
            let value = match *word {
                Word::Int(value) => value,
                Word::Ptr(Arg::Str(offset) | Arg::Mem(offset)) => {
                    self.pointers.push(self.arena.len());
                    offset as u64
                }
                Word::Ptr(_) => 0,
            };
            self.arena.extend_from_slice(&value.to_ne_bytes());
        }
        Arg::Mem(at)
    }

    /// Pointers to NUL-terminated copies of `strings`, ended by a null pointer: argv or envp.
    pub(crate) fn string_array<'s>(&mut self, strings: impl IntoIterator<Item = &'s [u8]>) -> Arg {
        let mut words: Vec<_> = strings
            .into_iter()
            .map(|s| Word::Ptr(self.string(s)))
            .collect();
        words.push(Word::Int(0));
        self.words(&words)
    }

    /// The machine form, for the interpreter: to be found at address `base` when it runs, its errors written to the
    /// fd `error_fd` as well as to its header.
    pub(crate) fn encode(&self, base: u64, error_fd: i32) -> Image {
        let slots_at = HEADER + (self.ops.len() + 1) * OP;
        let arena_at = slots_at + self.slots * 8;
        let address = |offset: usize| base + offset as u64;
        let mut bytes = Vec::with_capacity(arena_at + self.arena.len());
        bytes.extend_from_slice(&i64::from(error_fd).to_ne_bytes());
        bytes.resize(HEADER, 0);
        for op in self.ops.iter().chain([&Op::end()]) {
            op.encode(
                &mut bytes,
                |slot| address(slots_at + slot * 8),
                |at| address(arena_at + at),
            );
        }
        bytes.resize(arena_at, 0xff);
        bytes.extend_from_slice(&self.arena);
        for &pointer in &self.pointers {
            let field = &mut bytes[arena_at + pointer..][..8];
            let mut offset = [0; 8];
            offset.copy_from_slice(field);
            let moved = address(arena_at) + u64::from_ne_bytes(offset);
            field.copy_from_slice(&moved.to_ne_bytes());
        }
        Image { bytes }
    }

    /// Bytes the encoded form has.
    pub(crate) fn encoded_len(&self) -> usize {
        HEADER + (self.ops.len() + 1) * OP + self.slots * 8 + self.arena.len()
    }

    fn text_at(&self, offset: usize) -> String {
        let bytes = &self.arena[offset..];
        let end = bytes
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(bytes.len());
        format!("{:?}", String::from_utf8_lossy(&bytes[..end]))
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, op) in self.ops.iter().enumerate() {
            write!(f, "{index:3} {}(", op.call.name())?;
            for (position, arg) in op.args[..op.arity].iter().enumerate() {
                let comma = if position == 0 { "" } else { ", " };
                match *arg {
                    Arg::Int(value) if value > 0xffff_ffff_0000_0000 => {
                        write!(f, "{comma}{}", value as i64)?;
                    }
                    Arg::Int(value) if value > 4096 => write!(f, "{comma}{value:#x}")?,
                    Arg::Int(value) => write!(f, "{comma}{value}")?,
                    Arg::Str(at) => write!(f, "{comma}{}", self.text_at(at))?,
                    Arg::Mem(at) => write!(f, "{comma}&{at:#x}")?,
                    Arg::Slot(Slot(slot)) => write!(f, "{comma}${slot}")?,
                    Arg::Load(at) => write!(f, "{comma}*{at:#x}")?,
                }
            }
            f.write_str(")")?;
            match op.result {
                None => {}
                Some(Place::Slot(Slot(slot))) => write!(f, " = ${slot}")?,
                Some(Place::Arena(at)) => write!(f, " = *{at:#x}")?,
            }
            match (op.skip, op.flags & BRANCH) {
                (0, _) => {}
                (ops, 0) => write!(f, " or skip {ops}")?,
                (ops, _) => write!(f, ", skip {ops} in the child")?,
            }
            writeln!(f, "  # {}", op.step)?;
        }
        Ok(())
    }
}

/// The machine form of a [`Program`].
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
}

/// What an interpreter leaves behind when an op fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) op: u32,
    pub(crate) errno: i32,
}

impl Failure {
    /// Of the eight bytes an interpreter writes. `None`: nothing failed, all are zero.
    pub(crate) fn decode(bytes: [u8; 8]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let failure = Failure {
            op: u32::from_ne_bytes([a, b, c, d]),
            errno: i32::from_ne_bytes([e, f, g, h]),
        };
        (failure.errno != 0).then_some(failure)
    }

    /// Where an interpreter in the caller's memory leaves it, in bytes from the image's start.
    pub(crate) const AT: usize = ERROR_CELL;
}

/// A syscall's number, with the name it prints under.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    nr: u32,
    constant: &'static str,
}

impl Call {
    /// Of `SYS_openat2` and its number: the call that prints as `openat2`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "syscall numbers are small and positive"
    )]
    pub(crate) const fn new(number: libc::c_long, constant: &'static str) -> Self {
        Call {
            nr: number as u32,
            constant,
        }
    }

    fn name(self) -> &'static str {
        self.constant.trim_start_matches("SYS_")
    }
}

/// The [`Call`] of a `SYS_` constant.
macro_rules! call {
    ($constant:ident) => {
        $crate::program::Call::new(libc::$constant, stringify!($constant))
    };
}
pub(crate) use call;

/// An argument of an op.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg {
    /// A number.
    Int(u64),
    /// The address of a string in the arena.
    Str(usize),
    /// The address of a struct in the arena.
    Mem(usize),
    /// What an earlier op returned.
    Slot(Slot),
    /// The same, kept at this place in the arena.
    #[cfg_attr(
        not(feature = "landlock"),
        allow(dead_code, reason = "so far only landlock has structs with an fd")
    )]
    Load(usize),
}

impl Arg {
    pub(crate) const NULL: Arg = Arg::Int(0);
    pub(crate) const CWD: Arg = Arg::fd(libc::AT_FDCWD);

    /// A file descriptor, negative ones as the kernel reads them.
    #[expect(clippy::cast_sign_loss, reason = "sign-extended on purpose")]
    pub(crate) const fn fd(fd: i32) -> Arg {
        Arg::Int(fd as i64 as u64)
    }

    /// Flags or another number that is not negative.
    #[expect(
        clippy::cast_sign_loss,
        reason = "flags are a bit set, whatever their type's sign"
    )]
    pub(crate) const fn flags(flags: i32) -> Arg {
        Arg::Int(flags as u32 as u64)
    }

    /// What a struct in the arena has at this place, by the time it is needed.
    #[cfg(feature = "landlock")]
    pub(crate) fn loaded(self) -> Arg {
        match self {
            Arg::Mem(at) => Arg::Load(at),
            other => other,
        }
    }

    /// Further into the same struct.
    pub(crate) fn offset(self, by: usize) -> Arg {
        match self {
            Arg::Mem(at) => Arg::Mem(at + by),
            other => other,
        }
    }
}

/// A place where a result is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot(usize);

/// Where a result goes.
#[derive(Clone, Copy, Debug)]
enum Place {
    Slot(Slot),
    #[cfg_attr(
        not(feature = "landlock"),
        allow(dead_code, reason = "so far only landlock has structs with an fd")
    )]
    Arena(usize),
}

/// A word of a struct in the arena.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    /// A number.
    Int(u64),
    /// The address of something else in the arena.
    Ptr(Arg),
}

/// Sets what is unusual about the op just appended.
#[derive(Debug)]
pub(crate) struct Edit<'p> {
    program: &'p mut Program,
}

impl Edit<'_> {
    /// Goes on when it fails with one of `errnos` (each below 64).
    pub(crate) fn tolerate(self, errnos: &[i32]) -> Self {
        let mask = errnos.iter().fold(0, |mask, errno| mask | 1 << errno);
        self.last(|op| op.tolerate |= mask)
    }

    /// Passes over so many ops when it fails with a tolerated errno.
    pub(crate) fn or_skip(self, ops: u32) -> Self {
        self.last(|op| op.skip = ops)
    }

    /// Fails with `EIO` when it returns less than `min`.
    pub(crate) fn at_least(self, min: i32) -> Self {
        self.last(|op| op.min = min)
    }

    /// Keeps the result for later ops.
    pub(crate) fn keep(self) -> Arg {
        let slot = Slot(self.program.slots);
        self.program.slots += 1;
        self.last(|op| op.result = Some(Place::Slot(slot)));
        Arg::Slot(slot)
    }

    /// Writes the result, eight bytes of it, over what the arena has at `place`.
    pub(crate) fn keep_in(self, place: Arg) -> Self {
        match place {
            Arg::Mem(at) => self.last(|op| op.result = Some(Place::Arena(at))),
            _ => self,
        }
    }

    fn last(self, edit: impl FnOnce(&mut Op)) -> Self {
        if let Some(op) = self.program.ops.last_mut() {
            edit(op);
        }
        self
    }
}

#[derive(Clone, Debug)]
struct Op {
    call: Call,
    args: [Arg; 6],
    arity: usize,
    min: i32,
    tolerate: u64,
    skip: u32,
    flags: u32,
    result: Option<Place>,
    step: Cow<'static, str>,
}

impl Op {
    /// What runs after the last op, should it return: a program always ends.
    fn end() -> Self {
        let mut args = [Arg::Int(0); 6];
        args[0] = Arg::Int(126);
        let (call, step) = (call!(SYS_exit_group), Cow::Borrowed(""));
        Op {
            call,
            args,
            arity: 1,
            min: 0,
            tolerate: 0,
            skip: 0,
            flags: 0,
            result: None,
            step,
        }
    }

    fn encode(
        &self,
        bytes: &mut Vec<u8>,
        slot_address: impl Fn(usize) -> u64,
        arena_address: impl Fn(usize) -> u64,
    ) {
        let mut indirect = self.flags;
        let args: [u64; 6] = std::array::from_fn(|position| match self.args[position] {
            Arg::Int(value) => value,
            Arg::Str(at) | Arg::Mem(at) => arena_address(at),
            Arg::Slot(Slot(slot)) => {
                indirect |= 1 << position;
                slot_address(slot)
            }
            Arg::Load(at) => {
                indirect |= 1 << position;
                arena_address(at)
            }
        });
        bytes.extend_from_slice(&self.call.nr.to_ne_bytes());
        bytes.extend_from_slice(&self.min.to_ne_bytes());
        bytes.extend_from_slice(&indirect.to_ne_bytes());
        bytes.extend_from_slice(&self.skip.to_ne_bytes());
        for arg in args {
            bytes.extend_from_slice(&arg.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.tolerate.to_ne_bytes());
        let result = match self.result {
            None => 0,
            Some(Place::Slot(Slot(slot))) => slot_address(slot),
            Some(Place::Arena(at)) => arena_address(at),
        };
        bytes.extend_from_slice(&result.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(image: &Image, at: usize) -> u64 {
        u64::from_ne_bytes(image.bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn strings_and_slots_become_addresses() {
        let mut program = Program::default();
        let path = program.string("/proc");
        let fd = program
            .op(call!(SYS_openat), [Arg::CWD, path], "open /proc")
            .keep();
        program
            .op(call!(SYS_fchdir), [fd], "enter /proc")
            .tolerate(&[libc::ENOENT])
            .or_skip(3);
        let image = program.encode(0x60_0000, 7);
        assert_eq!(image.bytes.len(), program.encoded_len());
        assert_eq!(word(&image, 0), 7);
        let (slot, arena) = (HEADER + 3 * OP, HEADER + 3 * OP + 8);
        assert_eq!(word(&image, HEADER + 24), 0x60_0000 + arena as u64);
        assert_eq!(word(&image, HEADER + 72), 0x60_0000 + slot as u64);
        assert_eq!(
            word(&image, HEADER + OP + 8),
            3 << 32 | 1,
            "the first argument is indirect, three ops are passed over"
        );
        assert_eq!(word(&image, HEADER + OP + 16), 0x60_0000 + slot as u64);
        assert_eq!(word(&image, HEADER + OP + 64), 1 << libc::ENOENT);
        assert_eq!(&image.bytes[arena..], b"/proc\0");
    }

    #[cfg(feature = "landlock")]
    #[test]
    fn a_result_can_be_kept_inside_a_struct() {
        let mut program = Program::default();
        let memory = program.words(&[Word::Int(7), Word::Int(0)]);
        let place = memory.offset(8);
        program
            .op(call!(SYS_dup), [Arg::fd(3)], "copy it")
            .keep_in(place);
        program.op(call!(SYS_close), [place.loaded()], "close it");
        let image = program.encode(0x1000, -1);
        let arena = HEADER + 3 * OP;
        assert_eq!(word(&image, HEADER + 72), 0x1000 + arena as u64 + 8);
        assert_eq!(word(&image, HEADER + OP + 8), 1, "an indirect argument");
        assert_eq!(word(&image, HEADER + OP + 16), 0x1000 + arena as u64 + 8);
        assert!(program.to_string().contains("dup(3) = *0x8"), "{program}");
        assert!(program.to_string().contains("close(*0x8)"), "{program}");
    }

    #[test]
    fn pointers_inside_the_arena_are_rebased() {
        let mut program = Program::default();
        let argv = program.string_array([b"a".as_slice(), b"bc"]);
        program.op(call!(SYS_execve), [Arg::NULL, argv], "exec");
        let image = program.encode(0x1000, -1);
        let arena = HEADER + 2 * OP;
        assert_eq!(word(&image, arena + 8), 0x1000 + arena as u64);
        assert_eq!(word(&image, arena + 16), 0x1000 + arena as u64 + 2);
        assert_eq!(word(&image, arena + 24), 0);
    }

    #[test]
    fn it_prints_a_line_for_each_op() {
        let mut program = Program::default();
        let path = program.string("a b");
        let fd = program
            .op(call!(SYS_openat), [Arg::CWD, path], "open it")
            .keep();
        program.op(call!(SYS_fchdir), [fd], "enter it");
        let text = "  0 openat(-100, \"a b\") = $0  # open it\n  1 fchdir($0)  # enter it\n";
        assert_eq!(program.to_string(), text);
    }
}
