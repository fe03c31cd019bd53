//! Measures the speed of the matrix kernels on one thread, for every instruction set of this machine
//! and every type: `cargo bench --bench matmul -- Q4_K`. Items are multiply-adds. The matrix stays in
//! the second-level cache, so that the kernels are measured and not the memory.

use std::num::NonZeroUsize;

use divan::counter::ItemsCount;
use divan::Bencher;
use lapidary::kernels::{Activations, Cpu, Isa, Matrix, Product};
use lapidary_formats::quant::QuantType;
use lapidary_formats::tensor::TensorView;

const ROWS: usize = 192;
const COLS: usize = 2304;
const COLUMNS: [usize; 8] = [1, 2, 4, 8, 16, 32, 128, 512];

fn main() {
    divan::main();
}

/// `type instructions columns`
fn cases() -> Vec<String> {
    let mut cases = Vec::new();
    for ty in QuantType::all().filter(|ty| ty.traits().stored) {
        for isa in Isa::available() {
            // The scalar reference is slow.
            let columns = COLUMNS.iter().filter(|n| isa != Isa::SCALAR || **n <= 2);
            cases.extend(columns.map(|n| format!("{ty} {} {n}", isa.name())));
        }
    }
    cases
}

#[divan::bench(args = cases())]
fn matmul(bencher: Bencher, case: &str) {
    let [ty, isa, n] = case.split(' ').collect::<Vec<_>>()[..] else { unreachable!() };
    let ty = QuantType::from_name(ty).unwrap();
    let isa = Isa::available().into_iter().find(|i| i.name() == isa).unwrap();
    let n: usize = n.parse().unwrap();
    let x: Vec<f32> = (0..ROWS * COLS).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut data = vec![0; ROWS * ty.row_bytes(COLS).unwrap()];
    match ty.traits().quantize {
        Some(quantize) => quantize(&x, &mut data),
        // Any bytes are blocks.
        None => (0..data.len()).for_each(|i| data[i] = (i * 7919 / 16) as u8),
    }
    let shape = [COLS, ROWS];
    let w = Matrix::new(TensorView { name: "w", ty, shape: &shape, data: &data });
    let cpu = Cpu::new(NonZeroUsize::new(1), isa).unwrap();
    let (mut input, mut out) = (Activations::default(), Vec::new());
    input.fill(n, COLS, |to| (0..n * COLS).for_each(|i| to[i] = (i as f32 * 0.3).cos()));
    bencher.counter(ItemsCount::new(ROWS * COLS * n)).bench_local(|| {
        cpu.matmul(divan::black_box(&mut input), [Product { w: &w, out: &mut out }]);
    });
}
