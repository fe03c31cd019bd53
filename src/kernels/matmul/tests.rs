//! Every kernel of every instruction set that this machine has gives the bits of the reference.

use std::num::NonZeroUsize;

use super::*;

#[path = "../../../tests/common/blocks.rs"]
mod blocks;

/// Draws that are the same everywhere.
pub(in crate::kernels) struct Noise(pub u64);

impl Noise {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 32) as u32
    }

    /// Uniform in ±1.
    pub fn float(&mut self) -> f32 {
        self.bits() as f32 / (1u32 << 31) as f32 - 1.0
    }
}

/// All types: also Q8_K, which no matrix has, as one that only the reference can multiply.
pub(super) fn types() -> impl Iterator<Item = QuantType> {
    QuantType::all()
}

/// Blocks whose bytes `fill` gives, with scales that are finite and differ.
pub(super) fn blocks(ty: QuantType, count: usize, fill: impl FnMut() -> u8) -> Vec<u8> {
    // As f16, from 2^-8 on and of both signs.
    blocks::blocks(ty, count, fill, |i, j| {
        let sign = if (i + j) % 3 == 2 { 0x8000 } else { 0 };
        sign | (0x1c00 + ((7 * i + 13 * j) % 1024) as u16)
    })
}

/// A matrix of random blocks; floats are drawn as such.
pub(in crate::kernels) fn random(
    ty: QuantType,
    rows: usize,
    cols: usize,
    noise: &mut Noise,
) -> Vec<u8> {
    if ty.block_len() == 1 {
        let x: Vec<f32> = (0..rows * cols).map(|_| noise.float()).collect();
        let mut bytes = vec![0; rows * ty.row_bytes(cols).unwrap()];
        (ty.traits().quantize.expect("floats are written"))(&x, &mut bytes);
        return bytes;
    }
    blocks(ty, rows * cols / ty.block_len(), || noise.bits() as u8)
}

fn product(isa: Isa, ty: QuantType, cols: usize, w: &[u8], x: &[f32]) -> Vec<f32> {
    product_on(2, isa, ty, cols, w, x)
}

pub(super) fn product_on(
    threads: usize,
    isa: Isa,
    ty: QuantType,
    cols: usize,
    w: &[u8],
    x: &[f32],
) -> Vec<f32> {
    let row_bytes = ty.row_bytes(cols).unwrap();
    let w = Matrix { ty, rows: w.len() / row_bytes, cols, row_bytes, data: w };
    let cpu = Cpu::new(NonZeroUsize::new(threads), isa).unwrap();
    let mut input = Activations::default();
    input.fill(x.len() / cols, cols, |to| to.copy_from_slice(x));
    let mut out = Vec::new();
    cpu.matmul(&mut input, [Product { w: &w, out: &mut out }]);
    out
}

fn assert_reference(ty: QuantType, cols: usize, w: &[u8], x: &[f32], what: &str) {
    let expected = product(Isa::SCALAR, ty, cols, w, x);
    assert!(expected.iter().all(|y| y.is_finite()), "{ty} {what}: the reference is not finite");
    for isa in Isa::available() {
        let found = product(isa, ty, cols, w, x);
        // Equal as numbers: the sign of a zero does not matter.
        let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(
            differs.map(|i| (i, found[i], expected[i])),
            None,
            "{ty} with {}, {cols} × {} columns, {what}: (place, found, expected)",
            isa.name(),
            x.len() / cols
        );
    }
}

/// Numbers of columns around those where another kernel is picked and where registers and panels are
/// full.
fn column_counts() -> Vec<usize> {
    let mut counts: Vec<usize> = (1..=FEW + 2).collect();
    for isa in Isa::available() {
        let width = isa.columns();
        for edge in [width / 4, width / 2, width, 2 * width, 3 * width] {
            counts.extend([edge.saturating_sub(1).max(1), edge.max(1), edge + 1]);
        }
    }
    counts.sort_unstable();
    counts.dedup();
    counts
}

#[test]
fn random_blocks_and_every_number_of_columns() {
    let isas: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
    println!("instruction sets of this machine: {}", isas.join(", "));
    let mut noise = Noise(1);
    for ty in types() {
        let cols = 2 * 256;
        let w = random(ty, 7, cols, &mut noise);
        for n in column_counts() {
            let x: Vec<f32> = (0..n * cols).map(|_| noise.float()).collect();
            assert_reference(ty, cols, &w, &x, "random");
        }
    }
}

/// Row lengths around the number of blocks that are taken together and around the depth of a tile;
/// numbers of rows around the height of a tile and the rows of an item.
#[test]
fn every_length_and_number_of_rows() {
    let mut noise = Noise(2);
    for ty in types() {
        let len = ty.block_len().max(32);
        let mut shapes: Vec<_> = [1, 2, 3, 4, 5, 9].map(|blocks| (3, blocks * len)).into();
        shapes.extend([(2, 1024), (2, 1024 + len), (2, 2304)]);
        shapes.extend([1, 2, 5, 6, 7, 11, 12, 13, 47, 48, 49, 100].map(|rows| (rows, len)));
        if len == 32 && ty.block_len() == 1 {
            shapes.extend([1, 15, 17, 31, 33, 100].map(|cols| (3, cols)));
        }
        for (rows, cols) in shapes {
            let w = random(ty, rows, cols, &mut noise);
            for n in [1, 2, 3, 20, 40] {
                let x: Vec<f32> = (0..n * cols).map(|_| noise.float()).collect();
                assert_reference(ty, cols, &w, &x, &format!("{rows} rows"));
            }
        }
    }
}

/// All codes, scales and minimums at their limits, with activations at theirs.
#[test]
fn extreme_blocks() {
    let cols = 2 * 256;
    for ty in types().filter(|ty| ty.block_len() > 1) {
        for fill in [0x00, 0xff, 0x0f, 0xf0, 0x7f, 0x80, 0x55, 0xaa, 0x3f, 0xc0] {
            let w = blocks(ty, 5 * cols / ty.block_len(), || fill);
            for n in [1, 2, 17, 33] {
                let signs: [fn(usize) -> f32; 4] = [
                    |_| 1.0,
                    |_| -1.0,
                    |i| 1.0 - (i % 2 * 2) as f32,
                    |i| 1.0 - (i / 16 % 2 * 2) as f32,
                ];
                for sign in signs {
                    let x: Vec<f32> = (0..n * cols).map(sign).collect();
                    assert_reference(ty, cols, &w, &x, &format!("{fill:#04x}"));
                }
            }
        }
    }
}

/// Activations that are hard to quantize: ties, very small and large ones, and NaN and infinity.
#[test]
fn extreme_activations() {
    let mut noise = Noise(3);
    let ties = |i: usize| if i.is_multiple_of(64) { 127.0 } else { (i % 253) as f32 / 2.0 - 63.0 };
    let zeros = |i: usize| if i < 256 { 0.0 } else { ties(i) };
    let tiny = |i: usize| ties(i) * 1e-41;
    let huge = |i: usize| ties(i) * 1e20;
    let broken = |i: usize| [ties(i), f32::NAN, f32::INFINITY][(i % 97 / 95) * (1 + i % 2)];
    let inputs: [(&str, &dyn Fn(usize) -> f32); 5] =
        [("ties", &ties), ("zeros", &zeros), ("tiny", &tiny), ("huge", &huge), ("broken", &broken)];
    for ty in types().filter(|ty| ty.block_len() > 1) {
        let w = random(ty, 4, 512, &mut noise);
        for (name, value) in inputs {
            for n in [1, 17] {
                let x: Vec<f32> = (0..n * 512).map(value).collect();
                assert_reference(ty, 512, &w, &x, name);
            }
        }
    }
}

#[test]
fn threads_and_other_columns_change_nothing() {
    let (mut noise, cols) = (Noise(4), 768);
    for ty in types() {
        let w = random(ty, 130, cols, &mut noise);
        let x: Vec<f32> = (0..37 * cols).map(|_| noise.float()).collect();
        let whole = product(Isa::best(), ty, cols, &w, &x);
        for threads in [1, 3, 7] {
            assert!(product_on(threads, Isa::best(), ty, cols, &w, &x) == whole, "{ty}: {threads}");
        }
        for (t, x) in x.chunks(cols).enumerate() {
            for threads in [1, 2, 7] {
                let alone = product_on(threads, Isa::best(), ty, cols, &w, x);
                assert!(alone == whole[t * 130..][..130], "{ty}: column {t}, {threads} threads");
            }
        }
    }
}
