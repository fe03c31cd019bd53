//! The kernels with tiles, on tiles in memory: they give the bits of the reference. On a machine with
//! AMX, the tests of `matmul` are of the instructions too.

use std::num::NonZeroUsize;

use lapidary_formats::quant::QuantType;

use super::super::tests::{blocks, product_on, random, types, Noise};
use super::super::{by_block, BlockKind, KindOf, Matrix};
use super::*;
use crate::kernels::activations::{Activations, Layout};
use crate::kernels::isa::{Emulated, IntOp};
use crate::kernels::ThreadPool;

/// The vector registers of an instruction set, and tiles in memory.
#[derive(Clone, Copy)]
struct InMemory(Isa);

impl RunTiles for InMemory {
    fn run<const K: usize>(self, op: impl TileOp<K, Out = ()>) {
        self.0.run_int(Emulate(op)).unwrap_or_else(|_| panic!("the reference has no vectors"));
    }
}

struct Emulate<O, const K: usize>(O);

impl<const K: usize, O: TileOp<K>> IntOp for Emulate<O, K> {
    type Out = O::Out;

    #[inline(always)]
    fn run<S: SimdInt>(self, s: S) -> O::Out {
        self.0.run(s, &mut Emulated::default())
    }
}

/// The types that the kernels multiply.
fn unpacked() -> impl Iterator<Item = QuantType> {
    types().filter(|ty| matches!(by_block(*ty, KindOf), BlockKind::Quantized))
}

fn assert_reference(ty: QuantType, cols: usize, w: &[u8], x: &[f32], scratch: &mut Scratch) {
    let expected = product_on(1, Isa::SCALAR, ty, cols, w, x);
    let (row_bytes, n) = (ty.row_bytes(cols).unwrap(), x.len() / cols);
    let matrix = Matrix { ty, rows: w.len() / row_bytes, cols, row_bytes, data: w };
    let activation = ty.traits().activation;
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::SCALAR) {
        let mut input = Activations::default();
        input.fill(n, cols, |to| to.copy_from_slice(x));
        let pool = ThreadPool::new(NonZeroUsize::new(1)).unwrap();
        input.prepare(&pool, isa, activation, Layout::Panels { columns: TILE, width: WIDTH });
        let mut found = vec![f32::NAN; expected.len()];
        let mut out: Vec<_> = found.chunks_mut(matrix.rows).collect();
        let panels = input.panels(activation, TILE, WIDTH);
        let operands = Operands { w: &matrix, panels, out: &mut out, scratch: &mut *scratch };
        by_block(ty, Multiply(InMemory(isa), operands));
        // Equal as numbers: the sign of a zero does not matter.
        let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(
            differs.map(|i| (i, found[i], expected[i])),
            None,
            "{ty} with {}, {} × {cols}, {n} columns: (place, found, expected)",
            isa.name(),
            matrix.rows
        );
    }
}

/// Numbers of columns around those where registers and panels are full.
#[test]
fn every_number_of_columns() {
    let (mut noise, mut scratch, cols) = (Noise(11), Scratch::default(), 512);
    for ty in unpacked() {
        let w = random(ty, 18, cols, &mut noise);
        for n in [1, 15, 16, 17, 31, 32, 33, 48, 49, 64, 65] {
            let x: Vec<f32> = (0..n * cols).map(|_| noise.float()).collect();
            assert_reference(ty, cols, &w, &x, &mut scratch);
        }
    }
}

/// Row lengths around the number of blocks that are unpacked together; numbers of rows around those
/// where tiles and steps are full.
#[test]
fn every_length_and_number_of_rows() {
    let (mut noise, mut scratch) = (Noise(12), Scratch::default());
    for ty in unpacked() {
        let len = ty.block_len();
        let mut shapes: Vec<_> = [1, 2, 3, 4, 5, 7].map(|blocks| (17, blocks * len)).into();
        shapes.extend([(3, 512 + len), (3, 1024), (3, 1024 + len), (3, 1536 - len)]);
        shapes.extend([1, 15, 16, 31, 32, 33, 47, 48].map(|rows| (rows, 2 * len)));
        for (rows, cols) in shapes {
            let w = random(ty, rows, cols, &mut noise);
            for n in [20, 34] {
                let x: Vec<f32> = (0..n * cols).map(|_| noise.float()).collect();
                assert_reference(ty, cols, &w, &x, &mut scratch);
            }
        }
    }
}

/// All codes, scales and minimums at their limits, with activations at theirs.
#[test]
fn extremes() {
    let (mut scratch, cols) = (Scratch::default(), 512);
    let signs: [fn(usize) -> f32; 4] =
        [|_| 1.0, |_| -1.0, |i| 1.0 - (i % 2 * 2) as f32, |i| 1.0 - (i / 16 % 2 * 2) as f32];
    for ty in unpacked() {
        for fill in [0x00, 0xff, 0x0f, 0xf0, 0x7f, 0x80, 0x55, 0xaa, 0x3f, 0xc0] {
            let w = blocks(ty, 17 * cols / ty.block_len(), || fill);
            for sign in signs {
                let x: Vec<f32> = (0..17 * cols).map(sign).collect();
                assert_reference(ty, cols, &w, &x, &mut scratch);
            }
        }
    }
}

/// The least and the largest product of a scale and a code, such as Q3_K's -32 · -4. Scales and codes lie
/// in different bytes of a block: those before `split` have one value, the others another.
#[test]
fn largest_products_of_scale_and_code() {
    let (mut scratch, cols) = (Scratch::default(), 256);
    let x: Vec<f32> = (0..cols).map(|i| 1.0 - (i % 3) as f32).collect();
    for ty in unpacked() {
        let block_bytes = ty.traits().block_bytes;
        for (first, second) in
            [(0, 0x80), (0x80, 0), (0, 0xff), (0xff, 0), (0xff, 0x7f), (0x7f, 0xff)]
        {
            for split in 0..block_bytes {
                let mut places = (0..block_bytes).cycle();
                let fill = || if places.next() < Some(split) { first } else { second };
                let w = blocks(ty, 2 * cols / ty.block_len(), fill);
                assert_reference(ty, cols, &w, &x, &mut scratch);
            }
        }
    }
}
