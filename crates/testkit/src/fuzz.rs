//! Readers of what comes from outside, fed with what no sender sends: mutations of good samples.
//!
//! On any toolchain. Without a wish each reader gets the same few thousand inputs every time; with `OA_FUZZ_S` it gets others for
//! so many seconds (`make fuzz MINUTES=n`), by `OA_FUZZ_SEED` where that is given.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// Of a run without a wish.
const SEED: u64 = 0x5eed;
/// What lengths and counts are tempted with.
const NUMBERS: [u32; 8] = [0, 1, 0x7f, 0xff, 256 << 10, 1 << 31, u32::MAX - 1, u32::MAX];
/// What texts are tempted with.
const WORDS: [&[u8]; 12] = [
    b"\0",
    b"\n",
    b"\r",
    b"\x1b[2J",
    b"\"",
    b"\\",
    b"../",
    b"/",
    b"{",
    b"[",
    b"\xff\xfe",
    b"99999999999999999999",
];

/// Gives `reader` the samples, `inputs` mutations of them, and more as long as `OA_FUZZ_S` says.
///
/// # Panics
/// When the reader does; the input is in the named file then.
pub fn run<S: AsRef<[u8]>>(name: &str, samples: &[S], inputs: u64, reader: impl Fn(&[u8])) {
    assert!(!samples.is_empty(), "{name} has no sample");
    let wish = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = wish("OA_FUZZ_S").map(Duration::from_secs);
    let seed = wish("OA_FUZZ_SEED").unwrap_or_else(|| time.map_or(SEED, |_| fastrand::u64(..)));
    let begun = Instant::now();
    let goes_on = |round: u64| time.map_or(round < inputs, |time| begun.elapsed() < time);
    samples.iter().for_each(|sample| give(name, seed, sample.as_ref(), &reader));
    let mut noise = fastrand::Rng::with_seed(seed);
    let mut round = 0;
    while goes_on(round) {
        let mut bytes = noise.choice(samples).map(|sample| sample.as_ref().to_vec()).unwrap_or_default();
        let other = noise.choice(samples).map_or(&[][..], AsRef::as_ref);
        for _ in 0..=noise.usize(..5) {
            mutate(&mut bytes, other, &mut noise);
        }
        give(name, seed, &bytes, &reader);
        round += 1;
    }
    println!("{name}: {round} inputs by seed {seed}");
}

fn give(name: &str, seed: u64, bytes: &[u8], reader: &impl Fn(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| reader(bytes))) {
        let file = std::env::temp_dir().join(format!("oa-fuzz-{name}-{}", std::process::id()));
        let kept = std::fs::write(&file, bytes).map_or("nowhere".to_owned(), |()| file.display().to_string());
        println!("{name}: seed {seed}, the input is in {kept}");
        resume_unwind(panic);
    }
}

fn mutate(bytes: &mut Vec<u8>, other: &[u8], noise: &mut fastrand::Rng) {
    let at = noise.usize(..=bytes.len());
    let end = (at + noise.usize(..64)).min(bytes.len());
    match noise.u8(..9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << noise.u8(..8),
        1 if at < bytes.len() => bytes[at] = noise.u8(..),
        2 => bytes.truncate(at),
        3 => _ = bytes.drain(at..end),
        4 => {
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        5 => {
            let number = NUMBERS[noise.usize(..NUMBERS.len())].to_le_bytes();
            let end = (at + number.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
        6 => {
            bytes.splice(at..at, WORDS[noise.usize(..WORDS.len())].iter().copied());
        }
        7 => {
            let from = noise.usize(..=other.len());
            bytes.splice(at..end, other[from..].iter().copied());
        }
        _ => bytes.insert(at, noise.u8(..)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_believes_a_length_is_found() {
        let believes = |bytes: &[u8]| {
            if let Some((length, rest)) = bytes.split_first() {
                let _ = &rest[..usize::from(*length)];
            }
        };
        let found = catch_unwind(|| run("believes", &[b"\x03abc"], 500, believes));
        assert!(found.is_err());
        run("checks", &[b"\x03abc"], 500, |bytes| assert!(bytes.first().is_none_or(|_| !bytes.is_empty())));
    }
}
