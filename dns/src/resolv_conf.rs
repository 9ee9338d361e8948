//! `/etc/resolv.conf`, read and written.

use std::fmt;
use std::net::IpAddr;

use crate::{Error, LISTEN, Name, Result};

/// As many nameservers as the C library asks.
pub(crate) const NAMESERVERS_MAX: usize = 3;
/// As many search domains and options as are kept of a file.
const WORDS_MAX: usize = 32;
/// The longest option that is kept of a file, in bytes.
const OPTION_MAX: usize = 64;

/// The contents of a resolv.conf(5): nameservers, search domains, options. Its `Display` is the file.
///
/// ```
/// use cofferdam_dns::ResolvConf;
///
/// let host = ResolvConf::parse("nameserver 192.0.2.1\nsearch example.com\noptions timeout:2\n");
/// let container = host.for_container();
/// assert_eq!(
///     container.to_string(),
///     "nameserver 127.0.0.11\nsearch example.com\noptions timeout:2 ndots:0\n",
/// );
/// # Ok::<_, cofferdam_dns::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    nameservers: Vec<IpAddr>,
    search: Vec<Name>,
    options: Vec<String>,
}

impl ResolvConf {
    /// A file without lines. What a container gets is its [`for_container`](Self::for_container).
    #[must_use]
    pub fn new() -> Self {
        ResolvConf::default()
    }

    /// Reads a file. What cannot be used is left out: unknown lines, addresses with a scope (`fe80::1%eth0`), names
    /// that are none, nameservers after the third.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut conf = ResolvConf::new();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => conf.read_nameserver(words.next()),
                // The last of either line counts.
                Some("search") => conf.search = names(words),
                Some("domain") => conf.search = names(words.take(1)),
                Some("options") => conf.read_options(words),
                _ => {}
            }
        }
        conf
    }

    /// One more search domain.
    #[must_use]
    pub fn search_domain(mut self, domain: Name) -> Self {
        self.search.push(domain);
        self
    }

    /// One more option, such as `timeout:2`.
    ///
    /// # Errors
    /// `InvalidInput` if it is empty or has a byte that is not printable ASCII, a space among them.
    pub fn option(mut self, option: &str) -> Result<Self> {
        if option.is_empty() || !option.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::option(option, "is not one printable word"));
        }
        self.options.push(option.to_owned());
        Ok(self)
    }

    /// The file for a container: 127.0.0.11 as the one nameserver, the search domains, the options, and `ndots:0`
    /// unless there is an `ndots` already, so that the bare name of a container is asked for as it is.
    #[must_use]
    pub fn for_container(&self) -> Self {
        let mut conf = self.clone();
        conf.nameservers = vec![LISTEN.ip()];
        if !conf
            .options
            .iter()
            .any(|option| option.starts_with("ndots:"))
        {
            conf.options.push("ndots:0".to_owned());
        }
        conf
    }

    /// The nameservers, at most three of a parsed file.
    #[must_use]
    pub fn nameservers(&self) -> &[IpAddr] {
        &self.nameservers
    }

    /// The search domains.
    #[must_use]
    pub fn search(&self) -> &[Name] {
        &self.search
    }

    /// The options, one word each.
    #[must_use]
    pub fn options(&self) -> &[String] {
        &self.options
    }

    fn read_nameserver(&mut self, word: Option<&str>) {
        let address: Option<IpAddr> = word.and_then(|word| word.parse().ok());
        if self.nameservers.len() < NAMESERVERS_MAX {
            self.nameservers.extend(address);
        }
    }

    fn read_options<'t>(&mut self, words: impl Iterator<Item = &'t str>) {
        let room = WORDS_MAX.saturating_sub(self.options.len());
        let fit = |word: &&str| {
            word.len() <= OPTION_MAX && word.bytes().all(|byte| byte.is_ascii_graphic())
        };
        self.options
            .extend(words.filter(fit).take(room).map(str::to_owned));
    }
}

fn names<'t>(words: impl Iterator<Item = &'t str>) -> Vec<Name> {
    words
        .filter_map(|word| word.parse().ok())
        .take(WORDS_MAX)
        .collect()
}

impl fmt::Display for ResolvConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for address in &self.nameservers {
            writeln!(f, "nameserver {address}")?;
        }
        if !self.search.is_empty() {
            let names: Vec<_> = self.search.iter().map(Name::as_str).collect();
            writeln!(f, "search {}", names.join(" "))?;
        }
        if !self.options.is_empty() {
            writeln!(f, "options {}", self.options.join(" "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_the_c_library_does() {
        let conf = ResolvConf::parse(
            "# comment\n; other\nnameserver 192.0.2.1 # why\n\tnameserver\t2001:db8::53\r\nnameserver nonsense\n\
             nameserver fe80::1%eth0\nnameserver\nnameserver 127.0.0.11\nnameserver 192.0.2.4\nsortlist 1.2.3.4\n\
             domain old.example\nsearch . a.example -bad b.example\noptions timeout:2 rotate\noptions edns0\nnames\0erver\n",
        );
        let servers: Vec<_> = conf.nameservers().iter().map(IpAddr::to_string).collect();
        assert_eq!(servers, ["192.0.2.1", "2001:db8::53", "127.0.0.11"]);
        let search: Vec<_> = conf.search().iter().map(Name::as_str).collect();
        assert_eq!(search, ["a.example", "b.example"]);
        assert_eq!(conf.options(), ["timeout:2", "rotate", "edns0"]);
    }

    #[test]
    fn what_is_rendered_parses_to_the_same() {
        let conf = ResolvConf::parse("nameserver 1.1.1.1\nsearch a b\n")
            .option("ndots:3")
            .unwrap()
            .search_domain("c.example".parse().unwrap());
        assert_eq!(ResolvConf::parse(&conf.to_string()), conf);
        assert_eq!(ResolvConf::parse(""), ResolvConf::new());
        assert_eq!(ResolvConf::new().to_string(), "");
    }

    #[test]
    fn a_users_ndots_stays() {
        let conf = ResolvConf::new().option("ndots:2").unwrap().for_container();
        assert_eq!(conf.to_string(), "nameserver 127.0.0.11\noptions ndots:2\n");
        let conf = ResolvConf::new().for_container();
        assert_eq!(conf.to_string(), "nameserver 127.0.0.11\noptions ndots:0\n");
    }

    #[test]
    fn an_option_cannot_smuggle_in_a_line() {
        for bad in ["", "a b", "a\nnameserver 10.0.0.66", "ä"] {
            assert!(ResolvConf::new().option(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_endless_file_is_bounded() {
        let text = "options a b c d\nsearch x\nnameserver 1.1.1.1\n".repeat(10_000);
        let conf = ResolvConf::parse(&text);
        assert_eq!(conf.options().len(), WORDS_MAX);
        assert_eq!(conf.nameservers().len(), 3);
        let many = format!("search {}", "x ".repeat(10_000));
        assert_eq!(ResolvConf::parse(&many).search().len(), WORDS_MAX);
    }
}
