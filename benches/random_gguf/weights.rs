//! Random weights, a chunk at a time. Blocks are quantized once and then drawn from a pool, which is
//! as fast as a disk can write them.

use std::collections::HashMap;

use lapidary::kernels::{Isa, Quantize};
use lapidary::model::{Role, TensorKind, TensorSpec};
use lapidary_formats::quant::{Effort, QuantType};

use crate::random::Random;

/// Number of values that are drawn together: whole blocks of every type. The rows of all three models
/// are multiples of it.
const UNIT: usize = 256;
/// Units in a pool. A row takes at least eight of them, so there are more different rows than any
/// model has. The pool fits in a second-level cache.
const POOL: usize = 4096;
/// Units per chunk: a few megabytes.
const CHUNK: usize = 16 * 1024;

/// Mean of the norms' weights, except those after the feed-forward network.
const NORM: f32 = 1.0;
/// Mean of the weights of the norms after the feed-forward network. Its output has to outweigh the
/// embedding, which is also the output matrix and would predict the token that was just read, and the
/// output of attention, which changes little from token to token. Otherwise one token is repeated
/// forever.
const POST_FFW_NORM: f32 = 8.0;

/// Generates the tensors of one model, in any order.
pub struct Weights {
    seed: u64,
    pools: HashMap<(QuantType, usize), Pool>,
    chunk: Vec<u8>,
}

impl Weights {
    /// The weights of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, pools: HashMap::new(), chunk: Vec::new() }
    }

    /// Passes the bytes of a tensor of type `ty` to `sink`, in order and in chunks.
    ///
    /// A matrix with `cols` columns is noise with standard deviation 1/√cols, so that products are as
    /// large as their inputs. A norm's weights are [`NORM`] or [`POST_FFW_NORM`] with a relative
    /// standard deviation of 0.1.
    ///
    /// # Errors
    /// Those of `sink`.
    ///
    /// # Panics
    /// If the rows of a matrix are not a multiple of 256 values.
    pub fn for_each_chunk<E>(
        &mut self,
        spec: &TensorSpec,
        ty: QuantType,
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { seed, pools, chunk } = self;
        let mut random = Random::new(*seed, stream(&spec.name));
        if spec.role() == Role::Norm {
            let mean = if spec.kind == TensorKind::PostFfwNorm { POST_FFW_NORM } else { NORM };
            let values = (0..spec.values()).map(|_| mean * (1.0 + 0.1 * random.normal()));
            return sink(&values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
        }
        let cols = spec.cols();
        assert!(cols.is_multiple_of(UNIT), "{}: rows of {cols} values", spec.name);
        let pool = pools.entry((ty, cols)).or_insert_with(|| Pool::new(ty, cols, *seed));
        let mut left = spec.values() / UNIT;
        while left > 0 {
            let units = left.min(CHUNK);
            pool.draw(units, &mut random, chunk);
            sink(chunk)?;
            left -= units;
        }
        Ok(())
    }
}

/// The number of a tensor's random stream: the FNV-1a hash of its name.
fn stream(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Quantized noise of one standard deviation and one type.
struct Pool {
    bytes: Vec<u8>,
    unit_bytes: usize,
}

impl Pool {
    /// Noise for rows of `cols` values.
    fn new(ty: QuantType, cols: usize, seed: u64) -> Self {
        let unit_bytes = ty.row_bytes(UNIT).expect("units are whole blocks");
        let quantize = Quantize { ty, importance: None, effort: Effort::Fast };
        let deviation = 1.0 / (cols as f32).sqrt();
        let mut random = Random::new(seed, cols as u64);
        let (mut bytes, mut x) = (vec![0; POOL * unit_bytes], [0.0; UNIT]);
        for unit in bytes.chunks_exact_mut(unit_bytes) {
            x.iter_mut().for_each(|x| *x = deviation * random.normal());
            quantize.row(Isa::best(), &x, unit);
        }
        Self { bytes, unit_bytes }
    }

    /// Fills `out` with `units` randomly chosen units.
    fn draw(&self, units: usize, random: &mut Random, out: &mut Vec<u8>) {
        out.clear();
        for _ in 0..units {
            let at = random.below(POOL) * self.unit_bytes;
            out.extend_from_slice(&self.bytes[at..at + self.unit_bytes]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(rows: usize) -> TensorSpec {
        TensorSpec {
            kind: TensorKind::TokenEmbd,
            layer: None,
            name: TensorKind::TokenEmbd.name(None),
            hf_name: String::new(),
            shape: vec![2304, rows],
        }
    }

    fn bytes(seed: u64, ty: QuantType, rows: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let sink = |chunk: &[u8]| -> Result<(), ()> {
            all.extend_from_slice(chunk);
            Ok(())
        };
        Weights::new(seed).for_each_chunk(&spec(rows), ty, sink).unwrap();
        all
    }

    #[test]
    fn equal_seeds_give_equal_bytes_and_different_seeds_do_not() {
        // Two chunks and a part of a third.
        let rows = 2 * CHUNK / 9 + 100;
        assert!(bytes(1, QuantType::Q4_K, rows) == bytes(1, QuantType::Q4_K, rows));
        assert!(bytes(1, QuantType::Q4_K, rows) != bytes(2, QuantType::Q4_K, rows));
    }

    #[test]
    fn weights_have_the_mean_and_deviation_that_keep_the_size_of_activations() {
        const ROWS: usize = 500;
        for ty in QuantType::all().filter(|ty| ty.traits().stored && ty.is_written()) {
            let bytes = bytes(0, ty, ROWS);
            assert_eq!(bytes.len() as u64, spec(ROWS).bytes(ty));
            let mut x = vec![0.0; ROWS * 2304];
            (ty.traits().dequantize)(&bytes, &mut x);
            let mean_of = |f: fn(f64) -> f64| {
                x.iter().map(|x| f(f64::from(*x))).sum::<f64>() / x.len() as f64
            };
            let deviation = mean_of(|x| x * x).sqrt() * 48.0;
            // The noise of a million draws is exact to a thousandth; Q2_K loses some 5 % of the square.
            assert!((0.95..1.01).contains(&deviation), "{ty}: {deviation}");
            assert!((mean_of(|x| x) * 48.0).abs() < 0.01, "{ty}");
        }
    }
}
