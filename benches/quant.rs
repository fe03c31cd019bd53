//! Measures the speed of the scalar reference on a row of 4,096 values, for every type of the
//! registry, and of the quantizers of each instruction set: `cargo bench --bench quant`. Items are
//! weights.

use divan::counter::ItemsCount;
use divan::Bencher;
use lapidary::kernels::{Isa, Quantize};
use lapidary_formats::quant::{Effort, QuantType};

const COLS: usize = 4096;

fn main() {
    divan::main();
}

/// Roughly normally distributed values, the same on every call: each is the sum of four uniform draws.
fn values() -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..COLS).map(|_| 0.03 * (uniform() + uniform() + uniform() + uniform())).collect()
}

fn row(ty: QuantType) -> Vec<u8> {
    let mut bytes = vec![0; ty.row_bytes(COLS).unwrap()];
    match ty.traits().quantize {
        Some(quantize) => quantize(&values(), &mut bytes),
        // Any bytes are blocks.
        None => (0..bytes.len()).for_each(|i| bytes[i] = (i * 7919 / 16) as u8),
    }
    bytes
}

#[divan::bench(args = QuantType::all().filter(|ty| ty.is_written()))]
fn quantize(bencher: Bencher, ty: QuantType) {
    let (x, mut y) = (values(), row(ty));
    let quantize = ty.traits().quantize.expect("it is written");
    let run = || quantize(divan::black_box(&x), &mut y);
    bencher.counter(ItemsCount::new(COLS)).bench_local(run);
}

#[divan::bench(args = QuantType::all())]
fn dequantize(bencher: Bencher, ty: QuantType) {
    let (x, mut y) = (row(ty), vec![0.0; COLS]);
    let run = || (ty.traits().dequantize)(divan::black_box(&x), &mut y);
    bencher.counter(ItemsCount::new(COLS)).bench_local(run);
}

#[divan::bench(args = QuantType::all())]
fn dot(bencher: Bencher, ty: QuantType) {
    let (w, a) = (row(ty), row(ty.traits().activation));
    let run = || (ty.traits().dot)(divan::black_box(&w), divan::black_box(&a));
    bencher.counter(ItemsCount::new(COLS)).bench_local(run);
}

#[divan::bench(args = cases())]
fn quantize_on(bencher: Bencher, Case { ty, isa, effort }: &Case) {
    let (x, mut y) = (values(), vec![0; ty.row_bytes(COLS).unwrap()]);
    let quantize = Quantize { ty: *ty, importance: None, effort: *effort };
    let run = || quantize.row(*isa, divan::black_box(&x), &mut y);
    bencher.counter(ItemsCount::new(COLS)).bench_local(run);
}

struct Case {
    ty: QuantType,
    isa: Isa,
    effort: Effort,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {:?}", self.ty, self.isa.name(), self.effort)
    }
}

/// The types whose quantizers search, with every instruction set and effort.
fn cases() -> Vec<Case> {
    let searched =
        QuantType::all().filter(|ty| ty.is_written() && ty.block_len() > 1 && ty.traits().stored);
    let mut cases = Vec::new();
    for ty in searched {
        for isa in Isa::available() {
            for effort in [Effort::Fast, Effort::Default, Effort::Best] {
                cases.push(Case { ty, isa, effort });
            }
        }
    }
    cases
}
