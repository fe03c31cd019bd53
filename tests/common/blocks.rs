//! Blocks of any bytes, with scales that are finite.

use lapidary_formats::quant::QuantType;

/// `count` blocks of type `ty` whose bytes `fill` gives. `scale` gives the bits of the f16 scales: of
/// block `i` the `j`-th.
pub fn blocks(
    ty: QuantType,
    count: usize,
    mut fill: impl FnMut() -> u8,
    scale: impl Fn(usize, usize) -> u16,
) -> Vec<u8> {
    let fields = scale_fields(ty);
    let mut bytes = Vec::new();
    for i in 0..count {
        let mut block: Vec<u8> = (0..ty.traits().block_bytes).map(|_| fill()).collect();
        match ty {
            // The top four bits of each of the last four words.
            QuantType::IQ1_M => {
                let scale = scale(i, 0);
                for (word, byte) in block[48..].iter_mut().skip(1).step_by(2).enumerate() {
                    *byte = *byte & 15 | ((scale >> (4 * word) & 15) as u8) << 4;
                }
            }
            // An exponent, as f32 has it.
            QuantType::MXFP4 => block[0] = (scale(i, 0) >> 10 & 31) as u8 + 127 - 15,
            _ => {
                for (j, at) in fields.iter().enumerate() {
                    block[*at..*at + 2].copy_from_slice(&scale(i, j).to_le_bytes());
                }
            }
        }
        bytes.extend(block);
    }
    bytes
}

/// Finds the bytes of a block that hold scales: a NaN there makes values NaN. The pattern is a NaN
/// as f16, as bf16 and as the upper half of an f32.
fn scale_fields(ty: QuantType) -> Vec<usize> {
    let is_scale = |at: &usize| {
        let mut block = vec![0; ty.traits().block_bytes];
        block[*at..*at + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
        let mut y = vec![0.0; ty.block_len()];
        (ty.traits().dequantize)(&block, &mut y);
        y.iter().any(|y| y.is_nan())
    };
    (0..ty.traits().block_bytes - 1).step_by(2).filter(is_scale).collect()
}
