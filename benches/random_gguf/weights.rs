//! Tensors of random weights, piece by piece. Blocks are quantized once and then drawn from a pool,
//! as fast as a disk can take them.

use std::collections::HashMap;

use lapidary::kernels::{Isa, Quantize};
use lapidary::model::{Role, TensorKind, TensorSpec};
use lapidary_formats::quant::{Effort, QuantType};

use crate::random::Random;

/// Values that are drawn together: whole blocks of every type. Rows of all three models are
/// multiples of it.
const UNIT: usize = 256;
/// Units of a pool: of eight or more in a row, there are more rows than any model has. All of them
/// stay in a second-level cache.
const POOL: usize = 4096;
/// Units that are handed over at once: a few megabytes.
const PIECE: usize = 16 * 1024;

/// What norms multiply by, on average, ...
const NORM: f32 = 1.0;
/// ... and where the feed-forward's result is added. That has to outweigh the embedding, which is the
/// head again and would name the token that was just read, and what attention adds, which changes
/// little from token to token: otherwise one token is written over and over.
const POST_FFW_NORM: f32 = 8.0;

/// Makes the tensors of one model, in any order.
pub struct Weights {
    seed: u64,
    pools: HashMap<(QuantType, usize), Pool>,
    piece: Vec<u8>,
}

impl Weights {
    /// Those of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, pools: HashMap::new(), piece: Vec::new() }
    }

    /// Hands the bytes of a tensor in type `ty` to `sink`, in order.
    ///
    /// A matrix of `cols` columns is noise of deviation 1/√cols, so that what comes out of a product
    /// is as large as what went in. A norm is spread by a tenth around [`NORM`] or [`POST_FFW_NORM`].
    ///
    /// # Errors
    /// Those of `sink`.
    ///
    /// # Panics
    /// If the rows of a matrix are no multiple of 256 values.
    pub fn pieces<E>(
        &mut self,
        spec: &TensorSpec,
        ty: QuantType,
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { seed, pools, piece } = self;
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
            let units = left.min(PIECE);
            pool.draw(units, &mut random, piece);
            sink(piece)?;
            left -= units;
        }
        Ok(())
    }
}

/// The number of a tensor's random stream: its name's FNV-1a hash.
fn stream(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Noise of one deviation in one type.
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

    /// Fills `out` with `units` units in random order.
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
        let sink = |piece: &[u8]| -> Result<(), ()> {
            all.extend_from_slice(piece);
            Ok(())
        };
        Weights::new(seed).pieces(&spec(rows), ty, sink).unwrap();
        all
    }

    #[test]
    fn a_seed_gives_the_same_bytes_and_another_others() {
        // Two pieces and a part of a third.
        let rows = 2 * PIECE / 9 + 100;
        assert!(bytes(1, QuantType::Q4_K, rows) == bytes(1, QuantType::Q4_K, rows));
        assert!(bytes(1, QuantType::Q4_K, rows) != bytes(2, QuantType::Q4_K, rows));
    }

    #[test]
    fn weights_have_the_mean_and_the_deviation_that_keep_activations_as_large_as_they_were() {
        const ROWS: usize = 500;
        for ty in QuantType::all().filter(|ty| ty.traits().stored) {
            let bytes = bytes(0, ty, ROWS);
            assert_eq!(bytes.len() as u64, spec(ROWS).bytes(ty));
            let mut x = vec![0.0; ROWS * 2304];
            (ty.traits().dequantize)(&bytes, &mut x);
            let mean_of = |f: fn(f64) -> f64| {
                x.iter().map(|x| f(f64::from(*x))).sum::<f64>() / x.len() as f64
            };
            let deviation = mean_of(|x| x * x).sqrt() * 48.0;
            // Noise of a million draws is exact to a thousandth; Q2_K loses some 5 % of the square.
            assert!((0.95..1.01).contains(&deviation), "{ty}: {deviation}");
            assert!((mean_of(|x| x) * 48.0).abs() < 0.01, "{ty}");
        }
    }
}
