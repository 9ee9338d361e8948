//! A new process in a cgroup, to its execve(2), 15 ms after the one before: by clone3(2) into it, or by a fork that writes
//! itself there and waits for RCU.
//!
//! The cgroup is a v2 one without limits, so it is the same on a hybrid machine, whose v1 hierarchies know no other way than
//! the write.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cofferdam::namespaces::{Command, Namespaces};
use cofferdam_cgroups::{CgroupName, Hierarchy, Limits};

use crate::sys::{Into, start};
use crate::{Side, in_turns};

const APART: Duration = Duration::from_millis(15);

pub(crate) fn rows(rounds: usize) {
    let name = CgroupName::new(format!("cofferdam-bench-{}", std::process::id())).unwrap();
    let cgroup = Hierarchy::detect().unwrap();
    let cgroup = cgroup.create(&name, &Limits::new()).unwrap();
    let Some(dir) = cgroup
        .entry()
        .dir
        .map(|dir| dir.try_clone_to_owned().unwrap())
    else {
        println!("row cgroup/start-into ours absent");
        return cgroup.remove().unwrap();
    };
    let procs = fs::File::options()
        .write(true)
        .open(cgroup.path().join("cgroup.procs"));
    let procs = procs.unwrap();
    let program = Program::new();
    let path = CString::new(program.0.as_os_str().as_bytes()).unwrap();

    let command = Command::new(&program.0)
        .namespaces(Namespaces::none())
        .cgroup(dir.try_clone().unwrap());
    let mut ours = || {
        let start = Instant::now();
        let mut child = command.spawn().unwrap();
        let took = start.elapsed();
        assert!(child.wait().unwrap().success());
        took
    };
    let mut cloned = || start(Into::Clone(dir.as_fd()), &path);
    let mut written = || start(Into::Write(procs.as_fd()), &path);
    let id = "cgroup/start-into@15ms";
    let mut sides: [Side<'_>; 3] = [
        (id, "ours", &mut ours),
        (id, "floor", &mut cloned),
        (id, "fork+write", &mut written),
    ];
    in_turns(rounds, APART, &mut sides);
    cgroup.remove().unwrap();
}

/// A static ELF64 whose only instructions are exit(0).
struct Program(PathBuf);

impl Program {
    fn new() -> Self {
        let code = [0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]; // xor edi, edi; mov eax, 60; syscall
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
        let (base, headers) = (0x40_0000u64, 64 + 56u64);
        let total = headers + code.len() as u64;
        for field in [base + headers, 64, 0, 64 << 32 | 56 << 48, 1] {
            file.extend_from_slice(&field.to_le_bytes());
        }
        file.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]);
        for field in [0, base, base, total, total, 4096] {
            file.extend_from_slice(&field.to_le_bytes());
        }
        file.extend_from_slice(&code);
        let path = std::env::temp_dir().join(format!("cofferdam-bench-{}", std::process::id()));
        fs::write(&path, file).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Program(path)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}
