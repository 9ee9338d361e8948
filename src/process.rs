//! Which process is meant, also after its number is another's.

use std::fmt;
use std::fs;
use std::io;
use std::str::FromStr;

/// A process of this machine, told from all others that ever were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    /// In clock ticks since boot.
    pub(crate) started: u64,
    pub(crate) boot: String,
    /// The pid namespace that the number is of, such as `pid:[4026531836]`.
    pidns: String,
}

impl Identity {
    pub(crate) fn of_caller() -> io::Result<Self> {
        let pid = std::process::id();
        Ok(Identity {
            pid,
            started: started("self")?,
            boot: boot()?,
            pidns: namespace("pid")?,
        })
    }

    /// Whether it is certain that it has ended.
    pub(crate) fn is_gone(&self) -> bool {
        let Ok(caller) = Identity::of_caller() else {
            return false;
        };
        if self.boot != caller.boot {
            return true;
        }
        // Its number says nothing to who counts otherwise.
        self.pidns == caller.pidns
            && match started(&self.pid.to_string()) {
                Ok(started) => started != self.started,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity {
            pid,
            started,
            boot,
            pidns,
        } = self;
        write!(f, "{pid} {started} {boot} {pidns}")
    }
}

impl FromStr for Identity {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let mut next = || words.next().ok_or(());
        let pid = next()?.parse().map_err(drop)?;
        let started = next()?.parse().map_err(drop)?;
        let (boot, pidns) = (next()?.to_owned(), next()?.to_owned());
        Ok(Identity {
            pid,
            started,
            boot,
            pidns,
        })
    }
}

/// What tells one boot of the machine from another.
pub(crate) fn boot() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

/// The calling thread's namespace of this kind, such as `net:[4026531840]`.
pub(crate) fn namespace(kind: &str) -> io::Result<String> {
    let link = fs::read_link(format!("/proc/thread-self/ns/{kind}"))?;
    Ok(link.to_string_lossy().into_owned())
}

/// The 22nd field of `/proc/<pid>/stat`, counted from behind the name, in which anything can be.
pub(crate) fn started(pid: &str) -> io::Result<u64> {
    let text = fs::read(format!("/proc/{pid}/stat"))?;
    let text = String::from_utf8_lossy(&text);
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let field = fields.split_ascii_whitespace().nth(22 - 3);
    let number = field.and_then(|field| field.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_others_of_its_number() {
        let caller = Identity::of_caller().unwrap();
        assert_eq!(caller.to_string().parse(), Ok(caller.clone()));
        assert!(!caller.is_gone());
        let other = |change: fn(&mut Identity)| {
            let mut other = caller.clone();
            change(&mut other);
            other.is_gone()
        };
        assert!(other(|other| other.started += 1));
        assert!(other(|other| other.boot.push('x')));
        assert!(!other(|other| {
            other.pidns.push('x');
            other.started += 1;
        }));
        assert!("1 2".parse::<Identity>().is_err());
    }
}
