//! The raw calls: bpf(2), for programs of the type `BPF_PROG_TYPE_CGROUP_DEVICE`.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{Errno, Result};

use crate::devices::Insn;

/// `union bpf_attr`, larger than any kernel's: what it does not know has to be zero.
type Attributes = [u64; 24];

/// How a program comes to a cgroup.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attach<'a> {
    /// After those that are there.
    Beside,
    /// In the place of this one.
    Replace(BorrowedFd<'a>),
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;

const TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 2;
const F_REPLACE: u32 = 4;

/// By which programs of this crate are known again. The kernel wants a NUL at the end.
const NAME: [u8; 16] = *b"cofferdam_dev\0\0\0";
/// `BPF_CGROUP_MAX_PROGS`.
const MOST_PROGRAMS: usize = 64;

/// Loads a program.
pub(crate) fn prog_load(program: &[Insn]) -> Result<OwnedFd> {
    let count = u32::try_from(program.len()).ok().ok_or(Errno::TOOBIG)?;
    let licence = c"MIT";
    let mut attributes = Attributes::default();
    attributes[0] = pair(TYPE_CGROUP_DEVICE, count);
    attributes[1] = program.as_ptr() as u64;
    attributes[2] = licence.as_ptr() as u64;
    let (first, last) = NAME.split_at(8);
    attributes[6] = word(first);
    attributes[7] = word(last);
    attributes[8] = pair(0, CGROUP_DEVICE);
    // SAFETY: of the addresses in `attributes` one is a slice of as many instructions as said, the other a C string;
    // both outlive the call, which only reads them. Its result is an fd.
    unsafe { call_for_fd(PROG_LOAD, &mut attributes) }
}

/// Attaches a program to a cgroup.
pub(crate) fn prog_attach(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    how: Attach<'_>,
) -> Result<()> {
    let mut attributes = Attributes::default();
    attributes[0] = pair(number(cgroup), number(program));
    match how {
        Attach::Beside => attributes[1] = pair(CGROUP_DEVICE, F_ALLOW_MULTI),
        Attach::Replace(old) => {
            attributes[1] = pair(CGROUP_DEVICE, F_ALLOW_MULTI | F_REPLACE);
            attributes[2] = pair(number(old), 0);
        }
    }
    // SAFETY: no address is among the attributes of this command.
    unsafe { call(PROG_ATTACH, &mut attributes) }.map(drop)
}

/// Detaches a program from a cgroup.
pub(crate) fn prog_detach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let mut attributes = Attributes::default();
    attributes[0] = pair(number(cgroup), number(program));
    attributes[1] = pair(CGROUP_DEVICE, 0);
    // SAFETY: no address is among the attributes of this command.
    unsafe { call(PROG_DETACH, &mut attributes) }.map(drop)
}

/// The ids of the device programs attached to a cgroup itself.
pub(crate) fn prog_query(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>> {
    let mut ids = [0_u32; MOST_PROGRAMS];
    let mut attributes = Attributes::default();
    attributes[0] = pair(number(cgroup), CGROUP_DEVICE);
    attributes[2] = ids.as_mut_ptr() as u64;
    attributes[3] = pair(MOST_PROGRAMS as u32, 0);
    // SAFETY: the address is that of an array of as many ids as said, which outlives the call.
    unsafe { call(PROG_QUERY, &mut attributes) }?;
    let count = halves(attributes[3])[0] as usize;
    Ok(ids[..count.min(MOST_PROGRAMS)].to_vec())
}

/// A program by its id.
pub(crate) fn prog_fd_by_id(id: u32) -> Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes[0] = pair(id, 0);
    // SAFETY: no address is among the attributes of this command. Its result is an fd.
    unsafe { call_for_fd(PROG_GET_FD_BY_ID, &mut attributes) }
}

/// Whether a program has the name that [`prog_load`] gives.
pub(crate) fn prog_is_ours(program: BorrowedFd<'_>) -> Result<bool> {
    // `struct bpf_prog_info`, and room for what it becomes. Zero, it asks for none of the arrays.
    let mut info = [0_u64; 40];
    let mut attributes = Attributes::default();
    attributes[0] = pair(number(program), size_of_val(&info) as u32);
    attributes[1] = info.as_mut_ptr() as u64;
    // SAFETY: the address is that of an array of the size given, which outlives the call; the kernel writes no more.
    unsafe { call(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    let name: Vec<u8> = info[8..10]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    Ok(name == NAME)
}

/// bpf(2) of a command that gives an fd, which is close-on-exec.
///
/// # Safety
/// As [`call`]; and the result of `command` is an fd that is nobody's yet.
unsafe fn call_for_fd(command: libc::c_int, attributes: &mut Attributes) -> Result<OwnedFd> {
    // SAFETY: as the caller promises.
    let fd = unsafe { call(command, attributes) }?;
    let fd = i32::try_from(fd).ok().ok_or(Errno::BADF)?;
    // SAFETY: the kernel has just given it to this call, as the caller promises.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf(2).
///
/// # Safety
/// What `command` takes for an address in `attributes` is one of memory that it may read or write as it does.
unsafe fn call(command: libc::c_int, attributes: &mut Attributes) -> Result<libc::c_long> {
    let size = size_of::<Attributes>();
    // SAFETY: `attributes` outlives the call and has the size given; the rest the caller promises.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size) };
    if done < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(done)
}

/// Two words beside each other in memory.
fn pair(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

fn halves(pair: u64) -> [u32; 2] {
    let bytes = pair.to_ne_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
    ]
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_ne_bytes(word)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}
