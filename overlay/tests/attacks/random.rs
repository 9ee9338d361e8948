use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use cofferdam_overlay::{Apply, Limits, RawWhiteouts};
use cofferdam_testkit::turns;
use flate2::write::GzEncoder;

use crate::archive::{Archive, Header, directory, in_world, names, read};

struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

fn valid() -> Vec<u8> {
    Archive::new()
        .add(Header::new("./", b'5').mode(0o755), "")
        .directory("d/")
        .pax(&[
            ("path", b"d/long"),
            ("mtime", b"1.5"),
            ("SCHILY.xattr.user.a", b"b"),
            ("SCHILY.acl.access", b"user::rwx,group::r-x,other::---"),
        ])
        .file("f", "text")
        .symlink("s", "../victim")
        .file("s/f", "x")
        .link("h", "d/long")
        .link("l", "lower/f")
        .extended(b'L', "d/gnu/long/name\0")
        .file("x", vec![1; 1500])
        .extended(b'K', "../../victim/file\0")
        .symlink("k", "")
        .file("d/.wh.x", "")
        .file("lower/.wh..wh..opq", "")
        .add(Header::new("p", b'6'), "")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sp"),
            ("GNU.sparse.realsize", b"9000"),
        ])
        .file(
            "sp0",
            [b"1\n4096\n3\n".as_slice(), &[0; 503], b"abc"].concat(),
        )
        .add(
            Header::new("gs", b'S')
                .bytes(257, b"ustar  \0")
                .bytes(386, b"00000001000\x0000000000003\0")
                .bytes(483, b"00000010000\0")
                .size(3),
            "abc",
        )
        .directory("x/")
        .file("x", "")
        .end()
}

/// Some bytes that mean something, put anywhere, and checksums that are right again.
fn mutate(bytes: &mut Vec<u8>, random: &mut Xorshift) {
    const WORDS: [&[u8]; 16] = [
        b"../",
        b"/",
        b"\0",
        b"s/",
        b".wh.",
        b".wh..wh..opq",
        b"\xff",
        b"9",
        b"-1",
        b"\x80",
        b"path=",
        b"size=",
        b"5",
        b"2",
        b"1",
        b"x",
    ];
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes.truncate(at),
            2 => {
                let (from, to) = (at / 512 * 512, random.below(bytes.len()) / 512 * 512);
                let block: Vec<u8> = bytes[from..].iter().copied().take(512).collect();
                bytes.splice(to..to, block);
            }
            3 => bytes[at / 512 * 512..]
                .iter_mut()
                .skip(156)
                .take(1)
                .for_each(|kind| *kind = b"01234567xgLKS"[at % 13]),
            _ => {
                let word = WORDS[random.below(WORDS.len())];
                bytes[at..]
                    .iter_mut()
                    .zip(word)
                    .for_each(|(byte, new)| *byte = *new);
            }
        }
        if bytes.is_empty() {
            return;
        }
    }
    for block in bytes
        .chunks_exact_mut(512)
        .filter(|block| block[257..262] == *b"ustar")
    {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Whatever a layer is, applying it ends, without a panic, and with nothing changed outside.
#[test]
fn changed_at_random() {
    in_world(|world| {
        let victim = directory(world, "victim");
        fs::write(victim.join("file"), "untouched").unwrap();
        let lower = directory(world, "below");
        fs::create_dir(lower.join("lower")).unwrap();
        fs::write(lower.join("lower/f"), "lower").unwrap();
        fs::write(lower.join("x"), "lower").unwrap();
        let limits = Limits::default()
            .bytes(1 << 20)
            .file_bytes(1 << 20)
            .entries(300)
            .header_bytes(1 << 14);
        let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
        let valid = valid();
        let mut applied = 0;
        let rounds = turns(4000, 250);
        for round in 0..rounds {
            let mut bytes = valid.clone();
            mutate(&mut bytes, &mut random);
            if round % 8 == 0 {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&bytes).unwrap();
                bytes = encoder.finish().unwrap();
                let at = random.below(bytes.len());
                bytes[at] ^= u8::from(round % 16 == 0) << random.below(8);
            }
            let layer = directory(world, "layer");
            let apply = Apply::new(&layer)
                .limits(limits.clone())
                .raw_whiteouts(RawWhiteouts::Apply);
            let apply = if round % 2 == 0 {
                apply.lower([&lower])
            } else {
                apply
            };
            let start = Instant::now();
            match apply.tar(&*bytes) {
                Ok(_) => applied += 1,
                Err(error) => assert_eq!(names(&layer), [""; 0], "{round}: {error}"),
            }
            assert!(start.elapsed() < Duration::from_secs(10));
            fs::remove_dir_all(&layer).unwrap();
            untouched(world, &victim);
        }
        // Neither all nor none of them is still a layer.
        assert!(
            (rounds / 20..rounds - rounds / 40).contains(&applied),
            "{applied}"
        );
        assert_eq!(read(lower.join("lower/f")), "lower");
    });
}

fn untouched(world: &Path, victim: &Path) {
    assert_eq!(names(victim), ["file"]);
    assert_eq!(read(victim.join("file")), "untouched");
    assert_eq!(names(world), ["below", "victim"]);
}
