//! What each type would cost each tensor, measured on some of its rows.

use lapidary_formats::quant::{Effort, QuantType};

use crate::kernels::{largest, weighted_error, Cpu, Isa, Quantize};
use crate::model::{TensorRows, TensorSpec};

/// Rows that are measured: one in so many, but so many at least.
const ONE_IN: usize = 32;
const AT_LEAST: usize = 64;

/// Types that a matrix with rows of `cols` values may get in place of `from`, which it has if it lies
/// in a file.
///
/// Where blocks of 256 fit, those of 32 are left out but for Q8_0: at the same size they lose
/// more.
pub(super) fn candidates(from: Option<QuantType>, cols: usize) -> Vec<QuantType> {
    use QuantType::{IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K};
    use QuantType::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
    let all = match cols.is_multiple_of(256) {
        true => vec![Q2_K, Q3_K, IQ4_XS, Q4_K, Q5_K, Q6_K, Q8_0],
        false => vec![Q4_0, IQ4_NL, Q4_1, Q5_0, Q5_1, Q8_0],
    };
    let mut fitting: Vec<_> =
        all.into_iter().filter(|ty| cols.is_multiple_of(ty.block_len())).collect();
    // As it is, it loses nothing; without that, rows that fit no block would have no choice.
    match from {
        None | Some(QuantType::F32) => fitting.extend([QuantType::BF16, QuantType::F32]),
        Some(from) if fitting.contains(&from) => {}
        Some(from) => fitting.push(from),
    }
    fitting
}

/// The relative error that each of `types` would give a matrix: Σ w (x - y)² / Σ w x² over some of
/// its rows, with `importance` for w, `[cols]`.
pub(super) fn relative_errors(
    cpu: &Cpu,
    rows: &dyn TensorRows,
    spec: &TensorSpec,
    types: &[QuantType],
    importance: Option<&[f32]>,
) -> Vec<f64> {
    let (n_rows, cols, stored) = (spec.rows(), spec.cols(), rows.stored().map(|view| view.ty));
    let wanted = n_rows.div_ceil(ONE_IN).max(AT_LEAST).min(n_rows);
    let isa = cpu.isa();
    // By row, and then by type.
    let mut sums = vec![[0.0; 2]; wanted * types.len()];
    cpu.for_each_with(
        sums.chunks_exact_mut(types.len()).enumerate(),
        || (vec![0.0; cols], vec![0.0; cols], Vec::new()),
        |(x, y, bytes), (i, sums)| {
            rows.read(i * n_rows / wanted, x);
            for (sums, ty) in sums.iter_mut().zip(types) {
                *sums = match Some(*ty) == stored {
                    // It would be copied.
                    true => weighted_error(isa, x, x, importance),
                    false => row_errors(*ty, importance, isa, x, (y, bytes)),
                };
            }
        },
    );
    (0..types.len())
        .map(|t| {
            let [error, square] = sums
                .iter()
                .skip(t)
                .step_by(types.len())
                .fold([0.0, 0.0], |[error, square], row| [error + row[0], square + row[1]]);
            if square > 0.0 {
                error / square
            } else {
                0.0
            }
        })
        .collect()
}

/// Quantizes the row `x`, in the buffers of a thread, and looks at what became of it.
fn row_errors(
    ty: QuantType,
    importance: Option<&[f32]>,
    isa: Isa,
    x: &[f32],
    (y, bytes): (&mut Vec<f32>, &mut Vec<u8>),
) -> [f64; 2] {
    if !largest(x).is_finite() {
        // Conversion will refuse the tensor by name.
        return [0.0, 0.0];
    }
    bytes.resize(ty.row_bytes(x.len()).expect("candidates fit"), 0);
    Quantize { ty, importance, effort: Effort::Default }.row(isa, x, bytes);
    (ty.traits().dequantize)(bytes, y);
    weighted_error(isa, x, y, importance)
}
