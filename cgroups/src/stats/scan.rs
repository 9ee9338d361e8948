//! The text of the kernel's statistics, byte by byte; pure, without an allocation.

/// What a parser of a file gives: the line that it does not understand is its error.
pub(crate) type Scanned<'t, T = ()> = std::result::Result<T, &'t [u8]>;

/// A line `key value`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line<'t> {
    pub(crate) key: &'t [u8],
    value: &'t [u8],
    whole: &'t [u8],
}

impl<'t> Line<'t> {
    /// Its value, a whole number.
    pub(crate) fn number(&self) -> Scanned<'t, u64> {
        number(self.value).ok_or(self.whole)
    }
}

/// The lines of a file of `key value` lines. What the value is is up to the key: later kernels have keys of their own.
pub(crate) fn keyed(text: &[u8]) -> impl Iterator<Item = Scanned<'_, Line<'_>>> {
    lines(text).map(|whole| match split(whole, b' ') {
        Some((key, value)) if !key.is_empty() => Ok(Line { key, value, whole }),
        _ => Err(whole),
    })
}

/// The number that is all of a file.
pub(crate) fn single(text: &[u8]) -> Scanned<'_, u64> {
    number(text.strip_suffix(b"\n").unwrap_or(text)).ok_or(text)
}

/// The lines that are not empty.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
}

/// The words of a line, or of more than one.
pub(crate) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| matches!(byte, b' ' | b'\n'))
        .filter(|word| !word.is_empty())
}

/// What is before and behind the first `at`.
pub(crate) fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = text.iter().position(|byte| *byte == at)?;
    Some((&text[..place], &text[place + 1..]))
}

/// Digits and nothing else, that fit.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, digit| {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum.checked_mul(10)?.checked_add(digit.into())
    })
}

/// `8:16`.
pub(crate) fn device(word: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = split(word, b':')?;
    let part = |digits| u32::try_from(number(digits)?).ok();
    Some((part(major)?, part(minor)?))
}

/// A percentage with two digits behind the point, `12.34`.
pub(crate) fn percent(word: &[u8]) -> Option<f64> {
    let (whole, part) = split(word, b'.')?;
    if whole.len() > 9 || part.len() != 2 {
        return None;
    }
    let hundredths = number(whole)? * 100 + number(part)?;
    // Not more than eleven digits: exact.
    Some(hundredths as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_that_fit() {
        for (text, expected) in [
            (&b"0"[..], Some(0)),
            (b"18446744073709551615", Some(u64::MAX)),
            (b"18446744073709551616", None),
            (b"99999999999999999999999", None),
            (b"", None),
            (b"-1", None),
            (b"+1", None),
            (b"1 ", None),
            (b"max", None),
        ] {
            assert_eq!(number(text), expected);
        }
    }

    #[test]
    fn a_file_that_is_one_number_may_end_with_a_newline() {
        assert_eq!(single(b"42\n"), Ok(42));
        assert_eq!(single(b"42"), Ok(42));
        assert_eq!(single(b"42\n\n"), Err(&b"42\n\n"[..]));
        assert_eq!(single(b""), Err(&b""[..]));
    }

    #[test]
    fn a_line_without_a_value_is_told() {
        let all: Scanned<'_, Vec<_>> = keyed(b"low 0\noom 3\n").collect();
        let all = all.unwrap();
        assert_eq!((all[1].key, all[1].number()), (&b"oom"[..], Ok(3)));
        for bad in [&b"low"[..], b" 3"] {
            assert_eq!(keyed(bad).next().unwrap().unwrap_err(), bad);
        }
        let later = keyed(b"ratio 1.5\n").next().unwrap().unwrap();
        assert_eq!(later.number(), Err(&b"ratio 1.5"[..]));
    }

    #[test]
    fn devices_and_percentages() {
        assert_eq!(device(b"259:3"), Some((259, 3)));
        assert_eq!(device(b"4294967296:0"), None);
        assert_eq!(device(b"8"), None);
        assert_eq!(percent(b"99.07"), Some(99.07));
        for bad in [
            &b"1"[..],
            b"1.5",
            b"1.234",
            b".50",
            b"1.-5",
            b"9999999999.00",
        ] {
            assert_eq!(percent(bad), None);
        }
    }
}
