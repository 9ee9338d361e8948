//! Texts for tests of parsers: captured ones with bytes changed, cut and doubled, and plain noise.

/// Calls `tell` with that many texts, the same ones in every run.
pub(crate) fn texts(seeds: &[&[u8]], count: usize, mut tell: impl FnMut(&[u8])) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for seed in seeds {
        tell(seed);
    }
    for _ in 0..count {
        let mut text = seeds[random.below(seeds.len())].to_vec();
        if random.below(8) == 0 {
            text = (0..random.below(64)).map(|_| random.byte()).collect();
        }
        for _ in 0..1 + random.below(4) {
            change(&mut text, &mut random);
        }
        tell(&text);
    }
}

fn change(text: &mut Vec<u8>, random: &mut Random) {
    const TELLING: &[u8] = b" \n:=.-+0199aM\0\xff";
    let at = random.below(text.len() + 1);
    match random.below(5) {
        0 => text.truncate(at),
        1 => text.insert(at, random.byte()),
        2 => text.insert(at, TELLING[random.below(TELLING.len())]),
        3 => text.extend_from_within(at..),
        _ => {
            if let Some(byte) = text.get_mut(at) {
                *byte = TELLING[random.below(TELLING.len())];
            }
        }
    }
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 32) as u8
    }
}
