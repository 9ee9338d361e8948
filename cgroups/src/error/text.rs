//! The text of each error, one line that stands alone in a log.

use std::fmt;

use super::{Inner, Undoing, since, type_remedy};

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Inner::Sys { op, path, errno } => {
                write!(f, "{op} {}: {errno}{}", path.display(), errno.remedy())
            }
            Inner::Write { path, value, errno } => write!(
                f,
                "write {value:?} to {}: {errno}{}",
                path.display(),
                errno.remedy()
            ),
            Inner::Parse { path, line } => {
                write!(f, "{}: unexpected line {line:?}", path.display())
            }
            Inner::NotCgroupfs { path } => write!(
                f,
                "{}: is not the cgroup filesystem that mountinfo tells of",
                path.display()
            ),
            Inner::NoHierarchy => write!(
                f,
                "no cgroup hierarchy is mounted where this process can see it"
            ),
            Inner::Limit {
                limit,
                value,
                reason,
            } => write!(f, "limit {limit} {value}: {reason}"),
            Inner::Name { name, reason } => write!(f, "cgroup name {name:?}: {reason}"),
            Inner::Path { path, reason } => write!(f, "cgroup path {}: {reason}", path.display()),
            Inner::NoController { limit, controller } => write!(
                f,
                "limit {limit}: no hierarchy of this machine has the {controller} controller{}",
                since(controller)
            ),
            Inner::Unsayable { limit, reason } => write!(f, "limit {limit}: {reason}"),
            Inner::Device { path, reason } => write!(f, "device {}: {reason}", path.display()),
            Inner::Partition {
                path,
                asked,
                reason,
            } => write!(
                f,
                "write {asked:?} to {}: the kernel says {asked:?} is invalid: {reason}",
                path.display()
            ),
            Inner::NotEnabled {
                limit,
                controller,
                path,
            } => write!(
                f,
                "limit {limit}: the {controller} controller is not enabled for {}; create it with such a limit",
                path.display()
            ),
            Inner::Outside { path, value, errno } => write!(
                f,
                "write {value:?} to {}: {errno}; not all of it is in the set of the cgroup above",
                path.display()
            ),
            Inner::NotGiven {
                limit,
                controller,
                path,
            } => write!(
                f,
                "limit {limit}: the {controller} controller is not given to {}, where this hierarchy begins",
                path.display()
            ),
            Inner::Update {
                path,
                cause,
                undone,
                stuck,
            } => write!(
                f,
                "update {}: {cause}{}",
                path.display(),
                Undoing(undone, stuck)
            ),
            Inner::KernelThread { path, pid } => write!(
                f,
                "move {pid} to {}: it is a kernel thread, which has its place",
                path.display()
            ),
            Inner::Type {
                op,
                path,
                kind,
                errno,
            } => write!(
                f,
                "{op} {}: {errno}; its cgroup.type is {kind:?}{}",
                path.display(),
                type_remedy(kind)
            ),
            Inner::NoFile { limit, path } => {
                write!(f, "limit {limit}: this kernel has no {}", path.display())
            }
            Inner::NoMemory { path } => write!(
                f,
                "{}: the memory controller is not enabled for this cgroup; create it with a memory limit",
                path.display()
            ),
            Inner::NotPassedOn { level, controllers } => write!(
                f,
                "enable {controllers} in {}: not in its cgroup.controllers; the parent cgroup has to pass it on",
                level.display()
            ),
            Inner::Populated { level, controllers } => write!(
                f,
                "enable {controllers} in {}: it has processes of its own; move them into a child cgroup first",
                level.display()
            ),
            Inner::Threaded { level, kind } => write!(
                f,
                "create a cgroup in {}: its cgroup.type is {kind:?}, where only threads can live; choose another parent",
                level.display()
            ),
            Inner::Bpf { op, path, errno } => {
                write!(f, "{op} {}: {errno}{}", path.display(), errno.bpf_remedy())
            }
            Inner::NoDevices => write!(
                f,
                "limit devices: this machine has neither device programs for cgroup v2 (Linux 4.15 with CONFIG_CGROUP_BPF) nor a \
         v1 hierarchy with the devices controller"
            ),
            Inner::Explained { error, more } => write!(f, "{error}{more}"),
            Inner::NoCgroup { path } => write!(f, "{}: is no cgroup filesystem", path.display()),
            Inner::NoV2 => write!(
                f,
                "this machine has no cgroup v2 mount that this process can see"
            ),
            Inner::OutOfSight { path } => write!(
                f,
                "own cgroup {}: lies outside of what this process can see, as its cgroup namespace or its cgroup2 mount begins \
         elsewhere; mount cgroup2 anew in this namespace",
                path.display()
            ),
            Inner::NotDelegable { path } => write!(
                f,
                "delegate {}: is of a v1 hierarchy, which cannot be delegated; create it without limits of v1 controllers",
                path.display()
            ),
            Inner::Occupied { path, who } => write!(
                f,
                "divide {}: it has {who}; move them, or have them moved",
                path.display()
            ),
            Inner::InTheWay { path } => write!(
                f,
                "undo the division above {}: it would lose its limits; remove it first",
                path.display()
            ),
            #[cfg(feature = "systemd")]
            Inner::Systemd { place, text, .. } => write!(f, "systemd: {place}: {text}"),
            Inner::NoDeviceRule { rule, reason } => {
                write!(f, "limit devices: rule {rule}: {reason}")
            }
            Inner::Remaining { path, waited } => write!(
                f,
                "remove {}: processes are still in it after {waited:?}",
                path.display()
            ),
            Inner::Unkilled { path, waited } => write!(
                f,
                "kill {}: processes appeared faster than they could be killed for {waited:?}",
                path.display()
            ),
            Inner::Gone { path } => write!(f, "{}: the cgroup is gone", path.display()),
            Inner::Lacks { op, path, reason } => write!(f, "{op} {}: {reason}", path.display()),
            Inner::WriteExplained {
                path,
                value,
                errno,
                reason,
            } => write!(
                f,
                "write {value:?} to {}: {errno}; {reason}",
                path.display()
            ),
            Inner::Unfrozen {
                path,
                waited,
                outcome,
            } => write!(
                f,
                "freeze {}: a process in it had not stopped after {waited:?}, {outcome}; one that waits for a device stops only then",
                path.display()
            ),
        }
    }
}
