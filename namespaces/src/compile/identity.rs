//! Who the program is and what it can ever do: the last steps with privileges.

use std::sync::LazyLock;

use libc::{EINVAL, ENOSYS, EPERM};

use super::Compiler;
use crate::attributes::Privileges;
use crate::capabilities::Capabilities;
use crate::program::{Arg, Word, call};
use crate::securebits::SecureBits;

impl Compiler<'_> {
    /// no_new_privs, the bounding set, ids, and no capability but what execve(2) gives root of the bounding set, or what is
    /// ambient.
    pub(super) fn identity(&mut self) {
        self.start_keyring();
        self.attributes();
        let new = self.command.attributes.privileges == Privileges::New;
        if !new {
            self.prctl(libc::PR_SET_NO_NEW_PRIVS, &[1], "set no_new_privs");
        }
        if new {
            // Which takes CAP_SYS_ADMIN then, as the rest of the start may not have.
            self.load_seccomp();
        }
        // Without a capability to begin with there is none to drop, and no_new_privs keeps it so; without that, it fails.
        let privileged = self.prepared.permitted != 0;
        if privileged || new && self.command.capabilities != Capabilities::ALL {
            self.drop_bounding_set();
        }
        // Before the ids, which can take the right to: without no_new_privs it takes CAP_SYS_ADMIN.
        #[cfg(feature = "landlock")]
        self.landlock();
        self.become_user(privileged);
        self.set_capabilities();
    }

    /// The caller's session keyring is not the program's, should that be able to ask for it. An empty one is counted among the
    /// keys of its user, of which there are few, so that it is made only then.
    fn start_keyring(&mut self) {
        const KEYCTL_JOIN_SESSION_KEYRING: Arg = Arg::Int(1);
        if self.command.seccomp.denies_keys() {
            return;
        }
        // A kernel without keys, or a filter around the caller, which is around the program too.
        self.program
            .op(
                call!(SYS_keyctl),
                [KEYCTL_JOIN_SESSION_KEYRING, Arg::NULL],
                "start a session keyring",
            )
            .tolerate(&[ENOSYS, EPERM]);
    }

    fn drop_bounding_set(&mut self) {
        let allowed = self.command.capabilities.bits();
        // Unknown ones are EINVAL, should the kernel not have said which is its last.
        let all = 0..=u64::from(crate::capabilities::last());
        for capability in all.filter(|capability| allowed & (1 << capability) == 0) {
            let call = [Arg::flags(libc::PR_CAPBSET_DROP), Arg::Int(capability)];
            static STEPS: LazyLock<Vec<String>> = LazyLock::new(|| {
                let step = |number| format!("drop capability {number} from the bounding set");
                (0..64).map(step).collect()
            });
            let step = STEPS.get(capability as usize).map_or("", String::as_str);
            self.program
                .op(call!(SYS_prctl), call, step)
                .tolerate(&[EINVAL]);
        }
    }

    /// Over a setresuid(2) that leaves root. execve(2) clears the flag.
    pub(super) fn keep_permitted(&mut self) {
        let attributes = &self.command.attributes;
        let kept = self.permitted_set() | attributes.chosen.inheritable();
        let needed = !kept.is_empty() || attributes.securebits != SecureBits::NONE;
        if !self.runs_as_root() && needed {
            self.prctl(libc::PR_SET_KEEPCAPS, &[1], "keep capabilities");
        }
    }

    /// Of permitted root needs before execve(2) what it is to have after it, under no_new_privs; what is ambient has to be
    /// inheritable too. Inheritable is empty otherwise, whatever the caller's is (CVE-2022-24769).
    fn set_capabilities(&mut self) {
        let attributes = &self.command.attributes;
        let (chosen, bits) = (attributes.chosen, attributes.securebits);
        let (permitted, inheritable) = (self.permitted_set(), chosen.inheritable());
        if bits == SecureBits::NONE {
            self.capset(permitted, inheritable);
            return self.raise_ambient(chosen.ambient);
        }
        // With all that there is once more: one of the bits denies raising, and they take CAP_SETPCAP.
        let given = Capabilities::from_bits(self.prepared.permitted);
        self.capset(given, inheritable);
        self.raise_ambient(chosen.ambient);
        let option = libc::PR_SET_SECUREBITS;
        self.prctl(option, &[bits.bits()], "set the securebits");
        self.capset(permitted, inheritable);
    }

    fn capset(&mut self, permitted: Capabilities, inheritable: Capabilities) {
        let halves = |set: Capabilities| (set.bits() & 0xffff_ffff, set.bits() >> 32);
        let (permitted_low, permitted_high) = halves(permitted);
        let (inheritable_low, inheritable_high) = halves(inheritable);
        // A __user_cap_header_struct of version 3 for this thread, and two __user_cap_data_structs of three u32 each:
        // effective, permitted, inheritable.
        let header = self.program.words(&[Word::Int(0x2008_0522)]);
        let data = [
            permitted_low | permitted_low << 32,
            inheritable_low | permitted_high << 32,
            permitted_high | inheritable_high << 32,
        ];
        let data = self.program.words(&data.map(Word::Int));
        let step = format!("set capabilities: permitted {permitted}, inheritable {inheritable}");
        self.program.op(call!(SYS_capset), [header, data], step);
    }

    fn raise_ambient(&mut self, ambient: Capabilities) {
        for capability in ambient {
            let step = format!("raise {capability} as an ambient capability");
            let index = Arg::Int(capability.index().into());
            let option = Arg::flags(libc::PR_CAP_AMBIENT);
            let args = [option, Arg::Int(2), index, Arg::Int(0), Arg::Int(0)];
            self.program.op(call!(SYS_prctl), args, step);
        }
    }

    /// Unless chosen, root has of the bounding set what the caller can give, and anybody else what is ambient.
    fn permitted_set(&self) -> Capabilities {
        let chosen = &self.command.attributes.chosen;
        match chosen.permitted {
            Some(permitted) => permitted,
            None if self.runs_as_root() => {
                let given = Capabilities::from_bits(self.prepared.permitted);
                self.command.capabilities & given | chosen.ambient
            }
            None => chosen.ambient,
        }
    }
}
