//! Telling the embedder of each query.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use crate::wire::{Query, Transport};

/// A query that came, as [`ServerBuilder::query_log`](crate::ServerBuilder::query_log) is told of it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Logged<'a> {
    /// Who asked: the number of its [`Endpoint`](crate::Endpoint::id).
    pub endpoint: u64,
    /// What was asked for.
    pub name: LoggedName<'a>,
    /// The type asked for, such as 1 for A and 28 for AAAA.
    pub qtype: u16,
    /// How the query came.
    pub transport: Transport,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fate {
    /// Answered from a zone.
    Local,
    /// Sent to an upstream.
    Forwarded,
    /// Answered with NXDOMAIN: the container's network is [internal](crate::Scope::internal).
    Denied,
    /// Answered with SERVFAIL: beyond [the limits](crate#limits).
    Failed,
}

/// A name as a container sent it. Its text is one line of printable ASCII without spaces, whatever the bytes were: others are
/// written `\DDD`, as in zone files.
#[derive(Clone, Copy)]
pub struct LoggedName<'a>(&'a [u8]);

impl fmt::Display for LoggedName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some((&length, after)) = rest.split_first() {
            let (label, after) = after.split_at(usize::from(length).min(after.len()));
            for &byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                    b'!'..=b'~' => write!(f, "{}", char::from(byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            // The root ends a name, and is all of one.
            if length > 0 || self.0.len() == 1 {
                f.write_str(".")?;
            }
            rest = after;
        }
        Ok(())
    }
}

impl fmt::Debug for LoggedName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Whom to tell, if anybody.
#[derive(Clone, Default)]
pub(crate) struct Log(Option<Arc<Tell>>);

type Tell = dyn Fn(&Logged<'_>) + Send + Sync;

impl Log {
    pub(crate) fn new(tell: impl Fn(&Logged<'_>) + Send + Sync + 'static) -> Self {
        Log(Some(Arc::new(tell)))
    }

    pub(crate) fn tell(&self, endpoint: u64, query: &Query<'_>, transport: Transport, fate: Fate) {
        if let Some(tell) = &self.0 {
            let logged = Logged {
                endpoint,
                name: LoggedName(query.name()),
                qtype: query.qtype,
                transport,
                fate,
            };
            // Its state is the embedder's; nothing of ours is changed half.
            let told = panic::catch_unwind(AssertUnwindSafe(|| tell(&logged)));
            let _the_panic_hook_has_said_so = told.is_err();
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Log" } else { "no Log" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_printable_line_whatever_it_holds() {
        for (wire, text) in [
            (&b"\0"[..], "."),
            (b"\x02db\0", "db."),
            (b"\x03wEb\x03app\0", "wEb.app."),
            (b"\x04a.\\b\0", "a\\.\\\\b."),
            (b"\x05\n \x1b\xff\0\0", "\\010\\032\\027\\255\\000."),
        ] {
            assert_eq!(LoggedName(wire).to_string(), text);
        }
    }
}
