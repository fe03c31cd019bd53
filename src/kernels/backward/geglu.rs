//! GeGLU.

use crate::kernels::elementwise::{map_rows, Lanes, GELU_CUBE, GELU_ROOT};
use crate::kernels::isa::{Isa, Simd};
use crate::kernels::math;

/// gelu'(gate) * up * gradient
struct GateBack;

impl Lanes<3> for GateBack {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, [x, up, gradient]: [S::F; 3]) -> S::F {
        let (one, half) = (s.splat(1.0), s.splat(0.5));
        // gelu(x) = x · (1 + tanh u) / 2 with u = ROOT · (x + CUBE · x³)
        let square = s.mul(s.mul(s.splat(GELU_CUBE), x), x);
        let u = s.mul(s.splat(GELU_ROOT), s.add(x, s.mul(square, x)));
        let tanh = math::tanh(s, u);
        let u_slope = s.mul(s.splat(GELU_ROOT), s.add(one, s.mul(s.splat(3.0), square)));
        let tanh_slope = s.mul(s.sub(one, s.mul(tanh, tanh)), u_slope);
        let slope = s.mul(half, s.add(s.add(one, tanh), s.mul(x, tanh_slope)));
        s.mul(s.mul(slope, up), gradient)
    }
}

/// `out` is the gradient with respect to `gate` of `gelu(gate) * up`, whose own gradient is `gradient`.
pub fn gate_back(isa: Isa, gate: &[f32], up: &[f32], gradient: &[f32], out: &mut [f32]) {
    map_rows(isa, GateBack, [gate, up, gradient], out);
}
