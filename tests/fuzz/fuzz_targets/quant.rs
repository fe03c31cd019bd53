//! Blocks of arbitrary bytes: every type is dequantized and multiplied, and arbitrary floats are
//! quantized to those that are written. The first byte chooses the type.
#![no_main]

use lapidary_formats::quant::QuantType;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((number, bytes)) = bytes.split_first() else { return };
    let types: Vec<QuantType> = QuantType::all().collect();
    let t = types[usize::from(*number) % types.len()].traits();
    let a = t.activation.traits();
    // A whole number of both types' blocks.
    let values = t.block_len.max(a.block_len);
    let (w_bytes, a_bytes) =
        (values / t.block_len * t.block_bytes, values / a.block_len * a.block_bytes);
    let n = bytes.len() / (w_bytes + a_bytes);
    let (w, rest) = bytes.split_at(n * w_bytes);
    let mut x = vec![0.0; n * values];
    (t.dequantize)(w, &mut x);
    (t.dot)(w, &rest[..n * a_bytes]);
    let Some(quantize) = t.quantize else { return };
    let mut again = vec![0; w.len()];
    quantize(&x, &mut again);
    let floats: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let whole = floats.len() / t.block_len;
    let mut blocks = vec![0; whole * t.block_bytes];
    quantize(&floats[..whole * t.block_len], &mut blocks);
});
