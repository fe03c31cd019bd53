//! Measures the speed of attention far into a context, on all threads, for every type of the KV
//! cache: `cargo bench --bench attention -- q8_0`. Bytes are those of the keys and values that a query
//! reads. Several layers are visited in turn, so that the bytes come from memory, as in a model.

use divan::counter::BytesCount;
use divan::Bencher;
use lapidary::kernels::{Attention, CausalRange, Cpu, Isa, KvRows, KvType, Partials};

const LAYERS: usize = 8;

fn main() {
    divan::main();
}

/// `kv positions queries`, with the heads of Gemma 2 2B
fn cases() -> Vec<String> {
    let mut cases = Vec::new();
    for kv in KvType::ALL {
        for (positions, queries) in [(4096, 1), (8000, 1), (4096, 128)] {
            cases.push(format!("{} {positions} {queries}", kv.name()));
        }
    }
    cases
}

#[divan::bench(args = cases())]
fn attention(bencher: Bencher, case: &str) {
    let [kv, positions, queries] = case.split(' ').collect::<Vec<_>>()[..] else { unreachable!() };
    let kv = KvType::ALL.into_iter().find(|k| k.name() == kv).unwrap();
    let [positions, queries] = [positions, queries].map(|n| n.parse::<usize>().unwrap());
    let (n_head, n_head_kv, head_dim) = (8, 4, 256);
    let shape = Attention {
        n_head,
        n_head_kv,
        head_dim,
        scale: 1.0 / 16.0,
        softcap: Some(50.0),
        window: usize::MAX,
    };
    let cpu = Cpu::new(None, Isa::best()).unwrap();
    let noise = |n: usize| (0..n).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<f32>>();
    let x = noise(256 * n_head_kv * head_dim);
    let rows = || {
        let mut rows = KvRows::new(kv, n_head_kv, head_dim, positions);
        for at in (0..positions).step_by(256) {
            let n = (positions - at).min(256);
            rows.push(&cpu, &x[..n * n_head_kv * head_dim]);
        }
        rows
    };
    let layers: Vec<_> = (0..LAYERS).map(|_| (rows(), rows())).collect();
    let (q, mut out) = (noise(queries * n_head * head_dim), vec![0.0; queries * n_head * head_dim]);
    let mut partials = Partials::default();
    let bytes = LAYERS * 2 * positions * n_head_kv * kv.head_bytes(head_dim);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        for (k, v) in &layers {
            let seen = CausalRange { pos: positions - queries, n: queries, k, v };
            shape.run(&cpu, &[seen], divan::black_box(&q), &mut partials, &mut out);
        }
    });
}
