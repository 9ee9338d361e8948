//! Random numbers that nobody can guess, from getrandom(2).

use rustix::rand::{GetRandomFlags, getrandom};

#[derive(Debug)]
pub(crate) struct Random {
    pool: [u8; 512],
    used: usize,
}

impl Random {
    pub(crate) fn new() -> Self {
        Random {
            pool: [0; 512],
            used: 512,
        }
    }

    /// The next 16 bits.
    pub(crate) fn next_u16(&mut self) -> rustix::io::Result<u16> {
        if self.used == self.pool.len() {
            self.fill()?;
        }
        let pair = [self.pool[self.used], self.pool[self.used + 1]];
        self.used += 2;
        Ok(u16::from_ne_bytes(pair))
    }

    fn fill(&mut self) -> rustix::io::Result<()> {
        let mut filled = 0;
        while filled < self.pool.len() {
            match getrandom(&mut self.pool[filled..], GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.used = 0;
        Ok(())
    }
}
