//! How fast memory can be read: the limit of decoding, which reads every weight once a token.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Passes over the memory, at least. The first may find pages that are not mapped yet.
const MIN_PASSES: usize = 3;

/// Time for the passes together, at least: single passes over a small model scatter.
const MIN_TIME: Duration = Duration::from_millis(500);

/// Bytes that a pass reads, at least, if need be by reading the same ones again: starting the
/// threads must not count.
const PASS_BYTES: usize = 256 << 20;

/// Measures reading `parts` from one end to the other with so many threads, each with a contiguous
/// share: 10⁹ bytes per second, 0 if there are none.
///
/// Give it the memory that the work in question reads. A mapped file in small pages is slower than
/// a fresh allocation in large ones, and a model that fits a cache is faster than memory. It is the
/// best pass that counts, and not the mean: whatever else a machine does makes a pass slower, never
/// faster, and what is wanted is the limit.
pub fn read_gb_per_s(parts: &[&[u8]], threads: usize) -> f64 {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    if total == 0 {
        return 0.0;
    }
    let shares = shares(parts, threads.max(1));
    let rounds = PASS_BYTES.div_ceil(total);
    let start = Instant::now();
    let (mut passes, mut best) = (0, Duration::MAX);
    while passes < MIN_PASSES || start.elapsed() < MIN_TIME {
        best = best.min(pass(&shares, rounds));
        passes += 1;
    }
    (total * rounds) as f64 / best.as_secs_f64() / 1e9
}

/// What `rounds` of reading every share take, a thread for each.
fn pass(shares: &[Vec<&[u8]>], rounds: usize) -> Duration {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for share in shares {
            scope.spawn(move || {
                for part in (0..rounds).flat_map(|_| share) {
                    black_box(sum(black_box(part)));
                }
            });
        }
    });
    start.elapsed()
}

/// Cuts `parts`, laid end to end, into `n` shares whose lengths differ by a byte at most.
fn shares<'a>(parts: &[&'a [u8]], n: usize) -> Vec<Vec<&'a [u8]>> {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    let share = |i: usize| {
        let (from, to) = (total * i / n, total * (i + 1) / n);
        let mut at = 0;
        let cut = parts.iter().map(|part| {
            let (start, len) = (at, part.len());
            at += len;
            &part[from.saturating_sub(start).min(len)..to.saturating_sub(start).min(len)]
        });
        cut.filter(|part| !part.is_empty()).collect()
    };
    (0..n).map(share).collect()
}

/// The sum of all words of 8 bytes, and of the bytes that are left. It has to touch every byte and
/// cost less than loading it: 16 running sums, which baseline x86-64 keeps in 8 vector registers,
/// are enough for additions never to wait for each other.
fn sum(bytes: &[u8]) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<256>();
    let mut sums = [0u64; 16];
    for chunk in chunks {
        let (words, _) = chunk.as_chunks::<8>();
        for row in words.chunks_exact(sums.len()) {
            for (sum, word) in sums.iter_mut().zip(row) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
    }
    let rest = rest.iter().map(|byte| u64::from(*byte));
    sums.into_iter().chain(rest).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_one_share() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        let parts = [&bytes[..300], &[], &bytes[300..301], &bytes[301..]];
        for n in [1, 2, 3, 7, 1000, 1024] {
            let shares = shares(&parts, n);
            assert_eq!(shares.len(), n);
            assert_eq!(shares.concat().concat(), bytes);
            let lens: Vec<usize> = shares.iter().map(|share| share.concat().len()).collect();
            assert!(lens.iter().all(|len| len.abs_diff(1000 / n) <= 1), "{lens:?}");
        }
    }

    #[test]
    fn every_byte_is_summed() {
        for len in [0, 1, 255, 256, 257, 1024, 1033] {
            let mut bytes = vec![0; len];
            for i in 0..len {
                bytes[i] = 1;
                assert_ne!(sum(&bytes), 0, "byte {i} of {len}");
                bytes[i] = 0;
            }
        }
    }

    #[test]
    fn there_is_a_speed_unless_there_is_nothing() {
        assert!(read_gb_per_s(&[&[1; 5000]], 2) > 0.0);
        assert_eq!(read_gb_per_s(&[&[]], 2), 0.0);
        assert_eq!(read_gb_per_s(&[], 0), 0.0);
    }
}
