//! The interpreter, and the clone3(2) whose child runs it.
//!
//! The same few instructions run twice: in the child that still shares the caller's memory, on a program in that memory;
//! then, copied into the stub's ELF, in a memory of its own. They are position independent, use no stack, and touch
//! only the program they are given.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::ffi::c_void;

/// The arguments of clone3(2), as of Linux 5.7.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct CloneArgs {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

/// Where the interpreter's instructions stand in this process.
#[derive(Clone, Copy, Debug)]
struct Interpreter {
    /// Where it begins in the stub.
    start: *const u8,
    /// Where it runs the program that r13 points to.
    run: *const u8,
    end: *const u8,
}

/// The instructions stand in this function, which jumps over them: so they need no symbol, which two versions of this crate
/// in one program would share.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn interpreter() -> Interpreter {
    let (start, run, end): (*const u8, *const u8, *const u8);
    // SAFETY: what is executed here are three `lea` and a jump.
    unsafe {
        std::arch::asm!(
            r"
        lea     {start}, [rip + 8f]
        lea     {run}, [rip + 9f]
        lea     {end}, [rip + 7f]
        jmp     7f
8:
            mov     r13d, {image_base}      # where the ELF has its program
        9:                                  # r13: the program
            lea     rbx, [r13 + 16]
            xor     r12d, r12d              # the op's index
        2:
            mov     ecx, [rbx + 8]          # which arguments are addresses of slots
            mov     rdi, [rbx + 16]
            test    cl, 1
            jz      3f
            mov     rdi, [rdi]
        3:
            mov     rsi, [rbx + 24]
            test    cl, 2
            jz      3f
            mov     rsi, [rsi]
        3:
            mov     rdx, [rbx + 32]
            test    cl, 4
            jz      3f
            mov     rdx, [rdx]
        3:
            mov     r10, [rbx + 40]
            test    cl, 8
            jz      3f
            mov     r10, [r10]
        3:
            mov     r8, [rbx + 48]
            test    cl, 16
            jz      3f
            mov     r8, [r8]
        3:
            mov     r9, [rbx + 56]
            test    cl, 32
            jz      3f
            mov     r9, [r9]
        3:
            mov     eax, [rbx]
            syscall
            movsxd  rcx, dword ptr [rbx + 4]
            cmp     rax, rcx                # the least it has to return
            jl      4f
            mov     rcx, [rbx + 72]         # where the result goes
            test    rcx, rcx
            jz      3f
            mov     [rcx], rax
        3:
            add     rbx, 80
            inc     r12d
            jmp     2b
        4:
            neg     rax
            mov     ecx, 5                  # EIO for a short result
            cmovle  rax, rcx
            cmp     rax, 63
            ja      5f
            mov     rcx, [rbx + 64]
            bt      rcx, rax
            jnc     5f
            mov     ecx, [rbx + 12]         # tolerated, with so many ops passed over
            imul    rax, rcx, 80
            add     rbx, rax
            add     r12d, ecx
            jmp     3b
        5:
            mov     [r13 + 8], r12d         # {{op, errno}} to the header and to the error fd
            mov     [r13 + 12], eax
            mov     rdi, [r13]    
            lea     rsi, [r13 + 8] 
            mov     edx, 8
            mov     eax, 1
            syscall
            mov     edi, 127
            mov     eax, 231                # exit_group
            syscall
            ud2
7:
            ",
            start = out(reg) start,
            run = out(reg) run,
            end = out(reg) end,
            image_base = const super::IMAGE_BASE,
            options(nomem, nostack, preserves_flags)
        );
    }
    Interpreter { start, run, end }
}

/// The interpreter's instructions, where this architecture has them.
#[cfg(target_arch = "x86_64")]
pub(super) fn code() -> Option<&'static [u8]> {
    let Interpreter { start, end, .. } = interpreter();
    // SAFETY: both point into the text of one function, start first, which lives and stays as it is for ever.
    Some(unsafe { std::slice::from_raw_parts(start, end.offset_from(start).unsigned_abs()) })
}

/// The interpreter's instructions, where this architecture has them.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn code() -> Option<&'static [u8]> {
    None
}

/// clone3(2) whose child never returns: it runs the encoded program at `program`, then is gone. Returns the child's
/// pid, or a negative errno.
///
/// # Safety
/// `args` ask for `CLONE_VM` with a stack of their own, and neither `CLONE_FILES`, `CLONE_FS`, `CLONE_SIGHAND` nor
/// `CLONE_THREAD`. All signals are blocked. `program` is an encoded program whose base is its own address; it, what it
/// points to, the stack and the cells that `args` name stay where they are until the child has left this memory.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn clone3(args: &CloneArgs, program: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: as promised by the caller. The child starts with the parent's registers and runs only the instructions above: no
    // libc, no thread-local storage, no stack. The parent sees a syscall.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov r13, rdx",
            "jmp r12",
            "2:",
            in("r12") interpreter().run,
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") args,
            in("rsi") size_of::<CloneArgs>(),
            in("rdx") program,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result
}

/// clone3(2), which this architecture's interpreter is still missing for.
///
/// # Safety
/// None here.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn clone3(_args: &CloneArgs, _program: *mut c_void) -> isize {
    -(libc::ENOSYS as isize)
}
