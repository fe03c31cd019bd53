//! Measures how fast memory can be read. That limits decoding, which reads every weight once per
//! token.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Fewest passes over the memory. The first one may have to map pages.
const MIN_PASSES: usize = 3;

/// Shortest time for all passes together: the times of single passes over a small model vary.
const MIN_TIME: Duration = Duration::from_millis(500);

/// Fewest bytes of a pass, so that the time to start the threads does not matter. Smaller memory is
/// read several times in a pass.
const PASS_BYTES: usize = 256 << 20;

/// Measures reading `slices` from front to back with this many threads, each with a contiguous
/// share. Returns 10⁹ bytes per second, or 0 if there are no bytes.
///
/// Pass the memory that the work in question reads: a mapped file in small pages is slower than a
/// fresh allocation in large ones, and a model that fits in a cache is faster than memory. The result
/// is that of the best pass, not the mean, because the limit is wanted and other activity on the
/// machine can only make a pass slower.
pub fn read_gb_per_s(slices: &[&[u8]], threads: usize) -> f64 {
    let total: usize = slices.iter().map(|slice| slice.len()).sum();
    if total == 0 {
        return 0.0;
    }
    let shares = shares(slices, threads.max(1));
    let rounds = PASS_BYTES.div_ceil(total);
    let start = Instant::now();
    let (mut passes, mut best) = (0, Duration::MAX);
    while passes < MIN_PASSES || start.elapsed() < MIN_TIME {
        best = best.min(pass(&shares, rounds));
        passes += 1;
    }
    (total * rounds) as f64 / best.as_secs_f64() / 1e9
}

/// The time to read every share `rounds` times, with one thread per share.
fn pass(shares: &[Vec<&[u8]>], rounds: usize) -> Duration {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for share in shares {
            scope.spawn(move || {
                for slice in (0..rounds).flat_map(|_| share) {
                    black_box(sum(black_box(slice)));
                }
            });
        }
    });
    start.elapsed()
}

/// Splits `slices`, laid end to end, into `n` shares whose lengths differ by at most one byte.
fn shares<'a>(slices: &[&'a [u8]], n: usize) -> Vec<Vec<&'a [u8]>> {
    let total: usize = slices.iter().map(|slice| slice.len()).sum();
    let share = |i: usize| {
        let (from, to) = (total * i / n, total * (i + 1) / n);
        let mut at = 0;
        let share = slices.iter().map(|slice| {
            let (start, len) = (at, slice.len());
            at += len;
            &slice[from.saturating_sub(start).min(len)..to.saturating_sub(start).min(len)]
        });
        share.filter(|slice| !slice.is_empty()).collect()
    };
    (0..n).map(share).collect()
}

/// The sum of all 8-byte words and of the remaining bytes. It has to touch every byte and cost less
/// than loading it. With 16 running sums, which baseline x86-64 keeps in 8 vector registers, no
/// addition has to wait for another.
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
        let slices = [&bytes[..300], &[], &bytes[300..301], &bytes[301..]];
        for n in [1, 2, 3, 7, 1000, 1024] {
            let shares = shares(&slices, n);
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
    fn the_speed_is_positive_unless_there_are_no_bytes() {
        assert!(read_gb_per_s(&[&[1; 5000]], 2) > 0.0);
        assert_eq!(read_gb_per_s(&[&[]], 2), 0.0);
        assert_eq!(read_gb_per_s(&[], 0), 0.0);
    }
}
