//! Answers of upstreams, kept for a while.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::slab::Key;
use crate::wire::{HEADER, NAME_MAX, Query, lifetime, ttl_offsets};

/// The largest answer that is kept.
const ANSWER_MAX: usize = 4096;

/// How answers of upstreams are kept, if they are: [`ServerBuilder::cache`](crate::ServerBuilder::cache).
///
/// An answer is kept for the shortest time that one of its records may be, a denial (NXDOMAIN, NODATA) for as long as the
/// zone's SOA record says; failures, truncated answers and what is said to queries with EDNS options are not kept. Who asks again is told what is left of that time.
///
/// Containers whose names go to the same [`Upstreams`](crate::Upstreams) share what is kept for them, so that by the time
/// an answer takes, one can tell what another asked for. Each [worker](crate::ServerBuilder::workers) keeps its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a cache is of use to ServerBuilder::cache only"]
pub struct Cache {
    answers: usize,
    ttl: RangeInclusive<u32>,
}

impl Cache {
    /// At most so many answers, each at most 4096 bytes, for what the upstreams say up to an hour. The oldest make way.
    pub fn new(answers: usize) -> Self {
        Cache {
            answers,
            ttl: 0..=3600,
        }
    }

    /// Bounds for how many seconds an answer is kept, whatever the upstream says. Where it says less than the lower one,
    /// clients get answers that may have changed.
    pub fn ttl(mut self, seconds: RangeInclusive<u32>) -> Self {
        self.ttl = seconds;
        self
    }
}

/// What is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    config: Cache,
    answers: HashMap<Id, Answer>,
    /// In the order they came; one that has expired or was replaced may be here still.
    order: VecDeque<(Id, Instant)>,
}

/// What was asked, by whom: the route, the type, the flags that change an answer, and the name in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Id(Box<[u8]>);

#[derive(Debug)]
struct Answer {
    message: Box<[u8]>,
    ttls: Box<[usize]>,
    stored: Instant,
    expires: Instant,
}

impl Id {
    fn new(route: Key, query: &Query<'_>) -> Self {
        let mut buffer = [0; NAME_MAX];
        let name = query.key(&mut buffer);
        let edns = query.envelope.edns;
        let flags =
            u8::from(edns.is_some()) | u8::from(edns.is_some_and(|edns| edns.dnssec_ok)) << 1;
        let header = query.bytes();
        let mut id = Vec::with_capacity(name.len() + 13);
        id.extend_from_slice(&Id::prefix(route));
        id.extend_from_slice(&query.qtype.to_ne_bytes());
        // Recursion desired, authentic data, checking disabled.
        id.extend_from_slice(&[flags, header[2] & 1, header[3] & 0x30]);
        id.extend_from_slice(name);
        Id(id.into())
    }

    fn prefix(route: Key) -> [u8; 8] {
        (u64::from(route.index) << 32 | u64::from(route.generation)).to_ne_bytes()
    }
}

impl Kept {
    pub(crate) fn new(config: Cache) -> Self {
        Kept {
            config,
            answers: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Writes the answer to `query` into `out` as if it had just come, its id and question the client's, if there is one.
    pub(crate) fn find(
        &mut self,
        route: Key,
        query: &Query<'_>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> bool {
        if is_personal(query) {
            return false;
        }
        let id = Id::new(route, query);
        let Some(answer) = self.answers.get(&id).filter(|answer| now < answer.expires) else {
            return false;
        };
        out.clear();
        out.extend_from_slice(&answer.message);
        let end = query.envelope.question_end();
        out[..2].copy_from_slice(&query.bytes()[..2]);
        out[HEADER..end].copy_from_slice(&query.bytes()[HEADER..end]);
        let age = (now - answer.stored).as_secs() as u32;
        for &at in &answer.ttls {
            if let Some(ttl) = out[at..].first_chunk_mut::<4>() {
                let told = u32::from_be_bytes(*ttl).min(*self.config.ttl.end());
                *ttl = told.saturating_sub(age).to_be_bytes();
            }
        }
        true
    }

    /// Keeps what an upstream said to `query`, if it says for how long.
    pub(crate) fn keep(&mut self, route: Key, query: &Query<'_>, message: &[u8], now: Instant) {
        let question_end = query.envelope.question_end();
        let Some(seconds) = lifetime(message, question_end) else {
            return;
        };
        let seconds = seconds
            .max(*self.config.ttl.start())
            .min(*self.config.ttl.end());
        let ttls = ttl_offsets(message, question_end);
        let is_none_to_keep = message.len() > ANSWER_MAX || is_personal(query);
        if seconds == 0 || is_none_to_keep || self.config.answers == 0 {
            return;
        }
        self.make_room(now);
        let (id, message) = (Id::new(route, query), message.into());
        self.order.push_back((id.clone(), now));
        let answer = Answer {
            message,
            ttls: ttls.into(),
            stored: now,
            expires: now + Duration::from_secs(seconds.into()),
        };
        self.answers.insert(id, answer);
    }

    /// Forgets what came by a route whose upstreams are others now.
    pub(crate) fn forget(&mut self, route: Key) {
        let prefix = Id::prefix(route);
        self.answers.retain(|id, _| !id.0.starts_with(&prefix));
    }

    /// Forgets what has expired of the oldest, and the oldest itself where that is not enough.
    fn make_room(&mut self, now: Instant) {
        while let Some((id, stored)) = self.order.front() {
            let is_it = |answer: &&Answer| answer.stored == *stored;
            let answer = self.answers.get(id).filter(is_it);
            let is_over = answer.is_none_or(|answer| answer.expires <= now);
            if !is_over && self.order.len() < self.config.answers {
                return;
            }
            if answer.is_some() {
                self.answers.remove(id);
            }
            self.order.pop_front();
        }
    }
}

/// Whether what is said to it may be for this client alone: another would not take its cookie.
fn is_personal(query: &Query<'_>) -> bool {
    query.envelope.edns.is_some_and(|edns| edns.has_options)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: Key = Key {
        index: 1,
        generation: 2,
    };

    fn query(id: u8, name: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8];
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
        bytes
    }

    fn reply(query: &[u8], ttls: &[u32]) -> Vec<u8> {
        let mut reply = query.to_vec();
        reply[2] |= 0x80;
        reply[7] = ttls.len() as u8;
        for ttl in ttls {
            reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
            reply.extend_from_slice(&ttl.to_be_bytes());
            reply.extend_from_slice(&[0, 4, 192, 0, 2, 1]);
        }
        reply
    }

    /// The reply with NXDOMAIN and an SOA record of the root.
    fn denial(query: &[u8], ttl: u32, minimum: u32) -> Vec<u8> {
        let mut reply = query.to_vec();
        reply[2] |= 0x80;
        reply[3] |= 3;
        reply[9] = 1;
        reply.extend_from_slice(&[0, 0, 6, 0, 1]);
        reply.extend_from_slice(&ttl.to_be_bytes());
        reply.extend_from_slice(&[0, 22, 0, 0]);
        reply.extend_from_slice(&[0; 16]);
        reply.extend_from_slice(&minimum.to_be_bytes());
        reply
    }

    struct World {
        kept: Kept,
        start: Instant,
    }

    impl World {
        fn new(config: Cache) -> Self {
            World {
                kept: Kept::new(config),
                start: Instant::now(),
            }
        }

        fn keep(&mut self, second: u64, query: &[u8], message: &[u8]) {
            let query = Query::parse(query).unwrap();
            let now = self.start + Duration::from_secs(second);
            self.kept.keep(ROUTE, &query, message, now);
        }

        fn find(&mut self, second: u64, query: &[u8]) -> Option<Vec<u8>> {
            let query = Query::parse(query).unwrap();
            let now = self.start + Duration::from_secs(second);
            let mut out = vec![1, 2, 3];
            self.kept.find(ROUTE, &query, now, &mut out).then_some(out)
        }
    }

    #[test]
    fn an_answer_is_kept_as_long_as_its_shortest_record_and_grows_old() {
        let mut world = World::new(Cache::new(10));
        let asked = query(1, b"Name");
        world.keep(0, &asked, &reply(&asked, &[30, 60]));
        let again = query(9, b"nAmE");
        assert_eq!(world.find(0, &again).unwrap(), reply(&again, &[30, 60]));
        assert_eq!(world.find(29, &again).unwrap(), reply(&again, &[1, 31]));
        assert_eq!(world.find(30, &again), None);
        assert_eq!(world.find(0, &query(9, b"other")), None);
    }

    #[test]
    fn bounds_hold_whatever_the_upstream_says() {
        let mut world = World::new(Cache::new(10).ttl(5..=10));
        let (short, long) = (query(1, b"short"), query(2, b"long"));
        world.keep(0, &short, &reply(&short, &[0]));
        world.keep(0, &long, &reply(&long, &[u32::MAX]));
        assert_eq!(world.find(4, &short).unwrap(), reply(&short, &[0]));
        assert_eq!(world.find(5, &short), None);
        assert_eq!(world.find(4, &long).unwrap(), reply(&long, &[6]));
        assert_eq!(world.find(10, &long), None);
        let mut world = World::new(Cache::new(10));
        world.keep(0, &short, &reply(&short, &[0]));
        assert_eq!(world.find(0, &short), None);
    }

    #[test]
    fn a_denial_is_kept_as_long_as_the_soa_says_and_nothing_else_without_records() {
        let mut world = World::new(Cache::new(10));
        let asked = query(1, b"nobody");
        world.keep(0, &asked, &denial(&asked, 60, 20));
        assert_eq!(world.find(19, &asked).unwrap(), denial(&asked, 41, 20));
        assert_eq!(world.find(20, &asked), None);

        let mut nothing = reply(&asked, &[]);
        world.keep(30, &asked, &nothing);
        nothing[3] |= 2;
        world.keep(30, &asked, &nothing);
        let mut cut = reply(&asked, &[60]);
        cut[2] |= 2;
        world.keep(30, &asked, &cut);
        let mut broken = reply(&asked, &[60]);
        broken.truncate(broken.len() - 1);
        world.keep(30, &asked, &broken);
        assert_eq!(world.find(30, &asked), None);
    }

    #[test]
    fn a_denial_behind_an_alias_is_kept_no_longer_than_the_shortest_of_all() {
        for (ttl, kept) in [(60, 20), (7, 7)] {
            for rcode in [0, 3] {
                let mut world = World::new(Cache::new(10));
                let asked = query(1, b"alias");
                let mut said = reply(&asked, &[ttl]);
                said[3] |= rcode;
                said[9] = 1;
                said.extend_from_slice(&denial(&asked, 90, 20)[asked.len()..]);
                world.keep(0, &asked, &said);
                assert!(world.find(kept - 1, &asked).is_some(), "{ttl} {rcode}");
                assert_eq!(world.find(kept, &asked), None, "{ttl} {rcode}");
            }
        }
    }

    #[test]
    fn answers_to_who_sent_options_are_for_nobody_else() {
        let mut world = World::new(Cache::new(10));
        // A cookie.
        let plain = query(1, b"name");
        let mut asked = plain.clone();
        asked[11] = 1;
        asked.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8]);
        asked.extend_from_slice(b"whatever");
        world.keep(0, &asked, &reply(&plain, &[30]));
        assert_eq!(world.find(0, &asked), None);
        assert!(world.kept.answers.is_empty());
    }

    #[test]
    fn what_changes_an_answer_tells_questions_apart() {
        let mut world = World::new(Cache::new(10));
        let plain = query(1, b"name");
        world.keep(0, &plain, &reply(&plain, &[30]));
        let mut other_type = plain.clone();
        other_type[19] = 28;
        let mut unchecked = plain.clone();
        unchecked[3] |= 0x10;
        let mut authentic = plain.clone();
        authentic[3] |= 0x20;
        let mut edns = plain.clone();
        edns[11] = 1;
        edns.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
        for other in [other_type, unchecked, authentic, edns] {
            assert_eq!(world.find(0, &other), None);
        }
        let asked = Query::parse(&plain).unwrap();
        let elsewhere = Key {
            index: 2,
            generation: 2,
        };
        assert!(
            !world
                .kept
                .find(elsewhere, &asked, world.start, &mut Vec::new())
        );
    }

    #[test]
    fn there_are_never_more_than_were_asked_for() {
        let mut world = World::new(Cache::new(3));
        for number in 0..100_u8 {
            let asked = query(1, &[b'a' + number % 26, b'a' + number / 26]);
            world.keep(number.into(), &asked, &reply(&asked, &[1000]));
            assert!(world.find(number.into(), &asked).is_some());
            // The same once more.
            world.keep(number.into(), &asked, &reply(&asked, &[1000]));
            assert!(world.kept.answers.len() <= 3 && world.kept.order.len() <= 3);
        }
        assert!(world.find(99, &query(1, b"vd")).is_some());
        assert!(world.find(99, &query(1, b"aa")).is_none());
    }
}
