//! The program's terminal: one of the devpts it was given, reached by fds alone.

use std::ffi::OsStr;

use libc::{AT_EMPTY_PATH, EPERM, O_CLOEXEC, O_NOCTTY, O_RDWR};

use super::Compiler;
use super::filesystem::OPEN_TREE;
use crate::program::{Arg, Edit, Word, call};
use crate::stage1::Message;

impl Compiler<'_> {
    /// Opens one of the container's own devpts, at `/dev/pts` of the mount `dev`, sends the caller its end, and has the other stand at
    /// `/dev/console` too.
    pub(super) fn open_terminal(&mut self, dev: Arg) {
        let Some((rows, columns)) = self.command.terminal else {
            return;
        };
        let step = "open a terminal";
        let message = Message::new(&mut self.program);
        let ptmx = self.program.string("pts/ptmx");
        let flags = O_RDWR | O_NOCTTY | O_CLOEXEC;
        let master = self
            .program
            .op(call!(SYS_openat), [dev, ptmx, Arg::flags(flags)], step)
            .keep();
        let unlocked = self.program.words(&[Word::Int(0)]);
        self.ioctl(master, libc::TIOCSPTLCK, unlocked, step);
        let size = u64::from(rows) | u64::from(columns) << 16; // struct winsize
        let size = self.program.words(&[Word::Int(size)]);
        self.ioctl(master, libc::TIOCSWINSZ, size, step);
        let slave = self
            .ioctl(master, libc::TIOCGPTPEER, Arg::flags(flags), step)
            .keep();
        self.slave = Some(slave);

        let args = [master, Arg::flags(libc::F_DUPFD_CLOEXEC), Arg::Int(0)];
        self.program
            .op(call!(SYS_fcntl), args, step)
            .keep_in(message.fd);
        message.send(&mut self.program, self.prepared.socket, step);
        self.close(master);
        self.console(dev, slave);
    }

    /// A file on the tmpfs that was just made, with the terminal itself bound on top: no name is looked up that could be another's
    /// (CVE-2025-52565).
    fn console(&mut self, dev: Arg, slave: Arg) {
        let step = "make /dev/console";
        let name = self.program.string("console");
        let mode = Arg::Int((libc::S_IFREG | 0o600).into());
        let args = [dev, name, mode, Arg::Int(0)];
        self.program.op(call!(SYS_mknodat), args, step);
        let args = [dev, name, Arg::flags(libc::O_PATH | O_CLOEXEC)];
        let target = self.program.op(call!(SYS_openat), args, step).keep();
        let tree = self.open_tree(slave, OsStr::new(""), OPEN_TREE | AT_EMPTY_PATH, step);
        self.move_onto(tree, target, step);
        self.close(target);
    }

    /// The streams that lead nowhere else lead there.
    pub(super) fn connect_terminal(&mut self) {
        let Some(slave) = self.slave else {
            return;
        };
        let step = "connect the terminal";
        for (number, stream) in (0..).zip(&self.command.streams) {
            if stream.is_null() {
                let args = [slave, Arg::fd(number), Arg::Int(0)];
                self.program.op(call!(SYS_dup3), args, step);
            }
        }
        if let Some(uid) = self.prepared.ids.as_ref().map(|ids| ids.uid) {
            // As login(1) does. Who may not, in a user namespace whose terminal is the caller's, can use it all the same.
            let args = [slave, Arg::Int(uid.into()), Arg::fd(-1)];
            self.program
                .op(call!(SYS_fchown), args, step)
                .tolerate(&[EPERM]);
        }
    }

    /// For the leader of a session that has none.
    pub(super) fn control_terminal(&mut self) {
        if let Some(slave) = self.slave {
            self.ioctl(slave, libc::TIOCSCTTY, Arg::Int(0), "control the terminal");
        }
    }

    #[allow(
        clippy::unnecessary_cast,
        reason = "the type of requests is another one with other C libraries"
    )]
    fn ioctl(
        &mut self,
        fd: Arg,
        request: libc::Ioctl,
        argument: Arg,
        step: &'static str,
    ) -> Edit<'_> {
        let args = [fd, Arg::Int(request as u64), argument];
        self.program.op(call!(SYS_ioctl), args, step)
    }
}
