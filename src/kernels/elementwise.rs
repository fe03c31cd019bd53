//! What is done to each element or each row by itself.

/// `out = x / rms(x) * weight` for one row; `weight` is the multiplier, 1 + w.
///
/// The sum is in f64: its rounding would otherwise depend on how it is vectorised.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let sum: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let scale = 1.0 / ((sum / x.len() as f64) as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// `x += y`.
pub fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `x *= factor`.
pub fn scale(x: &mut [f32], factor: f32) {
    x.iter_mut().for_each(|x| *x *= factor);
}

/// Squashes `x` to ± `cap`: cap · tanh(x / cap).
pub fn softcap(x: f32, cap: f32) -> f32 {
    cap * (x / cap).tanh()
}

/// `out = gelu(gate) * up`, with the tanh form of GELU that Gemma was trained with.
pub fn geglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    /// √(2/π)
    const ROOT: f32 = 0.797_884_6;
    for ((out, x), up) in out.iter_mut().zip(gate).zip(up) {
        let gelu = 0.5 * x * (1.0 + (ROOT * (x + 0.044_715 * x * x * x)).tanh());
        *out = gelu * up;
    }
}
