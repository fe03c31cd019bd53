//! The rounding of rows.

use lapidary_formats::quant::{add_products, Effort, Hessian, QuantType, Row, Rows, Search};

use crate::kernels::isa::{Op, Simd};
use crate::kernels::Isa;

/// How rows are to be rounded.
#[derive(Clone, Copy, Debug)]
pub struct Rounding<'a> {
    /// The type that they get.
    pub ty: QuantType,
    /// What they are multiplied with: parts of the columns, in order.
    pub hessians: &'a [Hessian],
    /// How long to search.
    pub search: Search,
    /// How long the usual quantizer searches, which says where to begin.
    pub effort: Effort,
}

/// Writes the rows `x`, `[rows, cols]`, to `out`, `[rows, bytes of a row]`. The bytes do not depend on
/// `isa`. All values have to be finite.
pub fn round_rows(isa: Isa, rounding: Rounding<'_>, x: &[f32], cols: usize, out: &mut [u8]) {
    isa.run(Round { isa, rounding, x, cols, out });
}

struct Round<'a> {
    isa: Isa,
    rounding: Rounding<'a>,
    x: &'a [f32],
    cols: usize,
    out: &'a mut [u8],
}

impl Op for Round<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { isa, rounding: Rounding { ty, hessians, search, effort }, x, cols, out } = self;
        let fit = |x: &[f32], importance: &[f32], y: &mut [u8]| {
            isa.run(Fit { ty, x, importance, effort, y });
        };
        ty.quantize_rows(s, &Rows { hessians, x, cols, search }, &fit, out);
    }
}

/// The usual quantizer.
struct Fit<'a> {
    ty: QuantType,
    x: &'a [f32],
    importance: &'a [f32],
    effort: Effort,
    y: &'a mut [u8],
}

impl Op for Fit<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.ty.quantize_by(s, self.x, Some(self.importance), self.effort, self.y);
    }
}

/// The sum of the squares of the products of rows with inputs: of sixteen rows side by side, `[cols]`,
/// with inputs side by side, `[inputs / 16, cols]`.
pub fn squares(isa: Isa, rows: &[Row], inputs: &[Row]) -> f64 {
    isa.run(Squares { rows, inputs })
}

struct Squares<'a> {
    rows: &'a [Row],
    inputs: &'a [Row],
}

impl Op for Squares<'_> {
    type Out = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let mut total = 0.0;
        for inputs in self.inputs.chunks_exact(self.rows.len()) {
            let mut products = [Row::default(); 16];
            add_products(s, self.rows, inputs, &mut products);
            let squares =
                products.iter().flat_map(|row| row.0).map(|x| f64::from(x) * f64::from(x));
            total += squares.sum::<f64>();
        }
        total
    }
}
