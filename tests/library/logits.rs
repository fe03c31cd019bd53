//! The logits of transformers, and how far from them ours may be.

use lapidary::kernels::KvType;

use crate::fixtures::tests_dir;

/// NMSE of logits against transformers', with a cache of f32. f32 against f32 with sums in another
/// order: errors are some 1e-7 of a value per sum, 1e-13 squared, and up to 2e-12 for one position
/// of 8192. A wrong scale, window or norm is 1e-4 and more.
pub const F32_NMSE: f64 = 1e-10;

/// Types of the cache; the NMSE that each is allowed over all positions of a golden, and at one
/// position of `long.json`. Rounding values to f16 is 1e-4 of each, 1e-8 squared. Rounding keys is
/// more, for the micro model's scores reach 50 and a weight changes by as much as its score: in all
/// 9e-8, and at most 4e-7 at one position of `long.json`, as in transformers when it rounds them. With
/// blocks of Q8_0 transformers has 5e-5 over micro and 7e-5 over `long.json`, 2e-4 at one position.
pub const CACHES: [(KvType, f64, f64); 3] =
    [(KvType::F32, F32_NMSE, F32_NMSE), (KvType::F16, 1e-6, 1e-6), (KvType::Q8_0, 1e-4, 1e-3)];

/// Little-endian f32 values of a golden.
pub fn golden_f32(name: &str) -> Vec<f32> {
    let path = tests_dir("goldens/transformers").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}
