//! RMSNorm.

/// See [`Cpu::rms_norm_back`](crate::kernels::Cpu::rms_norm_back); of one row.
///
/// With s = 1 / rms(x), the result is x · s · weight, and ds / dx = - s³ · x / cols.
pub fn rms_norm_back(x: &[f32], weight: &[f32], eps: f32, gradient: &mut [f32]) {
    let (mut square, mut dot) = (0.0, 0.0);
    for ((x, weight), gradient) in x.iter().zip(weight).zip(&*gradient) {
        let x = f64::from(*x);
        square += x * x;
        dot += x * (f64::from(*weight) * f64::from(*gradient));
    }
    let cols = x.len() as f64;
    let scale = 1.0 / (square / cols + f64::from(eps)).sqrt();
    let along = scale * scale * scale * dot / cols;
    for ((x, weight), gradient) in x.iter().zip(weight).zip(gradient) {
        let across = scale * (f64::from(*weight) * f64::from(*gradient));
        *gradient = (across - along * f64::from(*x)) as f32;
    }
}
