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
    /// Where it runs the program that r13, or x20, points to.
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
            test    byte ptr [rbx + 8], 128 # not a syscall: to reap from here on
            jnz     20f
            syscall
            movsxd  rcx, dword ptr [rbx + 4]
            cmp     rax, rcx                # the least it has to return
            jl      4f
            test    rax, rax
            jnz     3f
            test    byte ptr [rbx + 8], 64  # the child's way goes on further down
            jnz     6f
        3:
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
        6:
            mov     ecx, [rbx + 12]         # tolerated or branched, with so many ops passed over
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
        20:                                 # the first process of a pid namespace, whose only work is this
            mov     r14d, edi               # the payload
            mov     r15, rsi                # 8 bytes of signal set, a siginfo, at 136 a status
            mov     r12d, edx               # a pipe that ends with the caller, or -1
        2:
            test    r12d, r12d
            js      21f
            mov     edi, r12d
            lea     rsi, [r15 + 136]
            mov     edx, 1
            xor     eax, eax                # read, which does not wait
            syscall
            test    eax, eax
            jz      22f
        21:
            mov     rdi, r15
            lea     rsi, [r15 + 8]
            xor     edx, edx
            mov     r10d, 8
            mov     eax, 128                # rt_sigtimedwait
            syscall
            test    eax, eax
            js      3f
            cmp     eax, 17                 # SIGCHLD
            je      3f
            mov     edi, r14d
            mov     esi, eax
            mov     eax, 62                 # kill
            syscall
            jmp     2b
        3:
            mov     rdi, -1
            lea     rsi, [r15 + 136]
            mov     edx, 0x40000001         # WNOHANG | __WALL
            xor     r10d, r10d
            mov     eax, 61                 # wait4
            syscall
            test    eax, eax
            jle     2b
            cmp     eax, r14d
            jne     3b
            mov     edi, [r15 + 136]
            mov     eax, edi
            shr     edi, 8
            and     edi, 255
            and     eax, 127
            jz      4f
            lea     edi, [rax + 128]        # as shells tell a signal
        4:
            mov     eax, 231                # exit_group
            syscall
            ud2
        22:
            mov     edi, 137                # killed, with all of its namespace
            jmp     4b
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

/// The same for aarch64, where a system call takes x8 and x0 to x5 and changes nothing but x0.
#[cfg(target_arch = "aarch64")]
#[inline(never)]
fn interpreter() -> Interpreter {
    let (start, run, end): (*const u8, *const u8, *const u8);
    // SAFETY: what is executed here are three `adr` and a jump.
    unsafe {
        std::arch::asm!(
            r"
            adr     {start}, 8f
            adr     {run}, 9f
            adr     {end}, 7f
            b       7f
        8:
            mov     x20, #{image_base}      // where the ELF has its program
        9:                                  // x20: the program
            hint    #36                     // bti j: a program protected so may jump here
            add     x19, x20, #16           // the op
            mov     w21, #0                 // its index
        2:
            ldr     w22, [x19, #8]          // which arguments are addresses of slots, and what else is unusual
            ldp     x0, x1, [x19, #16]
            ldp     x2, x3, [x19, #32]
            ldp     x4, x5, [x19, #48]
            tbz     w22, #0, 3f
            ldr     x0, [x0]
        3:
            tbz     w22, #1, 3f
            ldr     x1, [x1]
        3:
            tbz     w22, #2, 3f
            ldr     x2, [x2]
        3:
            tbz     w22, #3, 3f
            ldr     x3, [x3]
        3:
            tbz     w22, #4, 3f
            ldr     x4, [x4]
        3:
            tbz     w22, #5, 3f
            ldr     x5, [x5]
        3:
            tbnz    w22, #7, 20f
            ldr     w8, [x19]
            svc     #0
            ldrsw   x9, [x19, #4]
            cmp     x0, x9                  // the least it has to return
            b.lt    4f
            tbz     w22, #6, 3f             // the child of a clone passes over what its parent does
            cbz     x0, 6f
        3:
            ldr     x9, [x19, #72]          // where the result goes
            cbz     x9, 3f
            str     x0, [x9]
        3:
            add     x19, x19, #80
            add     w21, w21, #1
            b       2b
        4:
            mov     w9, #5                  // EIO for a short result
            negs    x0, x0
            csel    x0, x0, x9, gt
            cmp     x0, #63
            b.hi    5f
            ldr     x9, [x19, #64]
            lsr     x9, x9, x0
            tbz     x9, #0, 5f
        6:
            ldr     w9, [x19, #12]          // so many ops are passed over
            mov     w10, #80
            umaddl  x19, w9, w10, x19
            add     w21, w21, w9
            b       3b
        5:
            stp     w21, w0, [x20, #8]      // {{op, errno}} to the header and to the error fd
            ldr     x0, [x20]
            add     x1, x20, #8
            mov     x2, #8
            mov     x8, #64                 // write
            svc     #0
            mov     x0, #127
            mov     x8, #94                 // exit_group
            svc     #0
            brk     #0

        20:                                 // process 1 of a pid namespace, for the process in x0
            mov     x23, x0
            mov     x24, x1                 // all signals, then space for a siginfo and a status
            mov     w25, w2                 // a pipe that ends with the caller, or -1
        21:
            tbnz    w25, #31, 23f
            mov     w0, w25
            add     x1, x24, #136
            mov     x2, #1
            mov     x8, #63                 // read, which does not wait
            svc     #0
            cbz     x0, 24f
        23:
            mov     x0, x24
            add     x1, x24, #8
            mov     x2, #0
            mov     x3, #8
            mov     x8, #137                // rt_sigtimedwait
            svc     #0
            cmp     x0, #0
            b.le    22f
            cmp     x0, #17                 // SIGCHLD
            b.eq    22f
            mov     x1, x0
            mov     x0, x23
            mov     x8, #129                // kill: the signal is meant for the program
            svc     #0
            b       21b
        22:
            mov     x0, #-1
            add     x1, x24, #136
            mov     w2, #1                  // WNOHANG
            movk    w2, #0x4000, lsl #16    // __WALL
            mov     x3, #0
            mov     x8, #260                // wait4
            svc     #0
            cmp     x0, #0
            b.le    21b
            cmp     w0, w23
            b.ne    22b
            ldr     w9, [x24, #136]
            ubfx    w0, w9, #8, #8          // its exit status
            ands    w9, w9, #0x7f
            b.eq    3f
            add     w0, w9, #128            // or the signal that killed it
        3:
            mov     x8, #94                 // exit_group
            svc     #0
            brk     #0
        24:
            mov     x0, #137                // killed, with all of its namespace
            b       3b
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
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) fn code() -> Option<&'static [u8]> {
    let Interpreter { start, end, .. } = interpreter();
    // SAFETY: both point into the text of one function, start first, which lives and stays as it is for ever.
    Some(unsafe { std::slice::from_raw_parts(start, end.offset_from(start).unsigned_abs()) })
}

/// The interpreter's instructions, where this architecture has them.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn code() -> Option<&'static [u8]> {
    None
}

/// The call `number`, clone3(2) or clone(2), with these arguments. Its child never returns: it runs the encoded program at
/// `program`, then is gone. Returns the child's pid, or a negative errno.
///
/// # Safety
/// The arguments ask for `CLONE_VM` with a stack of its own, and neither `CLONE_FILES`, `CLONE_FS`, `CLONE_SIGHAND` nor
/// `CLONE_THREAD`. All signals are blocked. `program` is an encoded program whose base is its own address; it, what it
/// points to, the stack and the cells that the arguments name stay where they are until the child has left this memory.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn clone(number: i64, args: [u64; 5], program: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: as promised by the caller. The child starts with the parent's registers and runs only the instructions above: no
    // libc, no thread-local storage, no stack. The parent sees a syscall.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "jmp r12",
            "2:",
            in("r12") interpreter().run,
            in("r13") program,
            inlateout("rax") number as isize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result
}

/// The same for aarch64.
///
/// # Safety
/// As on x86_64.
#[cfg(target_arch = "aarch64")]
pub(crate) unsafe fn clone(number: i64, args: [u64; 5], program: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: as promised by the caller. The child starts with the parent's registers and runs only the instructions above: no
    // libc, no thread-local storage, no stack. The parent sees a syscall.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, #0",
            "mov x20, x10",
            "br x9",
            "2:",
            in("x9") interpreter().run,
            in("x10") program,
            in("x8") number,
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            // Of vector registers a syscall keeps what a function does, no more.
            clobber_abi("C"),
            options(nostack)
        );
    }
    result
}

/// The calls that make processes, which this architecture's interpreter is still missing for.
///
/// # Safety
/// None here.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) unsafe fn clone(_number: i64, _args: [u64; 5], _program: *mut c_void) -> isize {
    -(libc::ENOSYS as isize)
}
