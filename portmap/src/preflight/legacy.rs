//! Policies of ip_tables and ip6_tables, which iptables-legacy uses: nf_tables does not list them.

use std::fs;
use std::io;
use std::net::UdpSocket;

use super::{Drops, ForeignHook, Hook, HookFamily, HookSource, sys};
use crate::error::Failure;

/// Length of a table's name in ip_tables' structures.
const NAME: usize = 32;

/// One of the two, with what differs in their structures.
struct Kind {
    family: HookFamily,
    /// The names of the tables in use. Who asks for another loads it.
    names: &'static str,
    address: &'static str,
    level: i32,
    /// Offset of `target_offset` in a rule.
    target_offset: usize,
}

const KINDS: [Kind; 2] = [
    Kind {
        family: HookFamily::Ip,
        names: "/proc/thread-self/net/ip_tables_names",
        address: "0.0.0.0:0",
        level: libc::IPPROTO_IP,
        target_offset: 88,
    },
    Kind {
        family: HookFamily::Ip6,
        names: "/proc/thread-self/net/ip6_tables_names",
        address: "[::]:0",
        level: libc::IPPROTO_IPV6,
        target_offset: 140,
    },
];

/// Hooks with the chains' names.
const HOOKS: [(Hook, &str); 3] = [
    (Hook::Prerouting, "PREROUTING"),
    (Hook::Input, "INPUT"),
    (Hook::Forward, "FORWARD"),
];

/// Chains whose policy is drop.
pub(super) fn dropping() -> Result<Vec<ForeignHook>, Failure> {
    let mut found = Vec::new();
    for kind in &KINDS {
        // Not there: without ip_tables.
        let tables = match fs::read_to_string(kind.names) {
            Ok(tables) => tables,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Failure::call(format_args!("read {}", kind.names), &error)),
        };
        for table in tables.lines() {
            let asked = Table::ask(kind, table);
            let asked = asked.map_err(|error| {
                Failure::call(format_args!("read table {table} of ip_tables"), &error)
            })?;
            found.extend(asked.dropping());
        }
    }
    Ok(found)
}

/// A table with its rules, as the kernel copies it out.
struct Table<'a> {
    kind: &'a Kind,
    name: &'a str,
    info: Vec<u8>,
    rules: Vec<u8>,
}

impl<'a> Table<'a> {
    fn ask(kind: &'a Kind, name: &'a str) -> io::Result<Self> {
        const GET_INFO: i32 = 64;
        const GET_ENTRIES: i32 = 65;
        const INFO: usize = NAME + 4 + 5 * 4 + 5 * 4 + 4 + 4;
        const SIZE: usize = INFO - 4;
        const AT_MOST: usize = 256 << 20;
        /// The name and the size, and what aligns the counters of 64 bits in the rules.
        const HEADER: usize = (NAME + 4).next_multiple_of(align_of::<u64>());
        // Another may change the table between the two questions: then the second has another size.
        const TRIES: usize = 100;
        let socket = UdpSocket::bind(kind.address)?;
        let mut last = Err(io::Error::from_raw_os_error(libc::EAGAIN));
        for _ in 0..TRIES {
            let mut info = named(name, INFO)?;
            sys::ask(&socket, kind.level, GET_INFO, &mut info)?;
            let size = number(&info, SIZE).unwrap_or_default();
            if size as usize > AT_MOST {
                return Err(io::Error::from_raw_os_error(libc::EFBIG));
            }
            let mut rules = named(name, HEADER + size as usize)?;
            rules[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
            last = sys::ask(&socket, kind.level, GET_ENTRIES, &mut rules).map(|_filled| Table {
                kind,
                name,
                info,
                rules: rules.split_off(HEADER),
            });
            match &last {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                _ => break,
            }
        }
        last
    }

    fn dropping(&self) -> impl Iterator<Item = ForeignHook> {
        let drops = HOOKS
            .iter()
            .filter(|(hook, _)| self.policy_drops(*hook) == Some(true));
        drops.map(|(hook, chain)| ForeignHook {
            family: self.kind.family,
            table: self.name.to_owned(),
            chain: (*chain).to_owned(),
            hook: *hook,
            priority: priority(self.name),
            drops: Drops::ByPolicy,
            source: HookSource::IpTables,
            firewall: None,
        })
    }

    /// None if the table has no such chain.
    fn policy_drops(&self, hook: Hook) -> Option<bool> {
        const VALID_HOOKS: usize = NAME;
        const UNDERFLOWS: usize = NAME + 4 + 5 * 4;
        /// Its header, behind which a standard target has its verdict.
        const TARGET: usize = 32;
        const DROP: i32 = -1;
        let index = match hook {
            Hook::Prerouting => 0,
            Hook::Input => 1,
            Hook::Forward => 2,
        };
        if number(&self.info, VALID_HOOKS)? & (1 << index) == 0 {
            return None;
        }
        // The rule where what no rule took ends.
        let policy = number(&self.info, UNDERFLOWS + 4 * index)? as usize;
        let rule = self.rules.get(policy..)?;
        let offset = rule.get(self.kind.target_offset..)?.first_chunk()?;
        let target = usize::from(u16::from_ne_bytes(*offset));
        Some(number(rule, target + TARGET)? as i32 == DROP)
    }
}

/// The kernel's own, as in `NF_IP_PRI_*`.
fn priority(table: &str) -> i32 {
    match table {
        "raw" => -300,
        "mangle" => -150,
        "nat" => -100,
        "security" => 50,
        _ => 0,
    }
}

/// A buffer that begins with a table's name.
fn named(name: &str, length: usize) -> io::Result<Vec<u8>> {
    if name.len() >= NAME {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut buffer = vec![0; length];
    buffer[..name.len()].copy_from_slice(name.as_bytes());
    Ok(buffer)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}
