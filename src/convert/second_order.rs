//! Second-order rounding of a conversion: which statistics belong to a tensor, and whether what they
//! say also holds for text that they were not measured on.

use lapidary_formats::imatrix::{Entry, Imatrix};
use lapidary_formats::quant::{Effort, Hessian, QuantType, Row, Search, Start};

use super::sequential::{Sequential, Written};
use super::ConvertError;
use crate::hessian::{FileError, HessianFile, Inputs, Outputs};
use crate::kernels::second_order::{
    round_rows, squares, Damping, Gram, Lost, Rounding, RowFeedback,
};
use crate::kernels::{Cpu, Quantize};
use crate::model::{Readers, Source, TensorKind, TensorRows, TensorSpec};

/// The statistics of a model, and how they are used.
#[derive(Debug)]
pub struct SecondOrder {
    file: HessianFile,
    search: Search,
    /// How long the usual quantizer searches, which says where to begin.
    effort: Effort,
    /// Whether rows make up for the errors of other rows.
    two_sided: bool,
}

/// What is known about the inputs of a matrix.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) inputs: Inputs,
    /// See [`Gram::unit`], by part of the columns.
    units: Vec<f32>,
    hessians: Vec<Hessian>,
    /// The sums of the squares of the columns, `[cols]`.
    importance: Vec<f32>,
    /// The number of tokens that they are over.
    tokens: usize,
    /// Sixteen rows at a time side by side, `[rows / 16, cols]`.
    held_out: Vec<Row>,
}

/// Rows of a tensor that are looked at to see whether second-order rounding pays.
const SAMPLE: usize = 256;

/// Rows that share the reading of a Hessian.
pub(super) const ROWS: usize = 64;

impl SecondOrder {
    /// Uses the statistics in a file.
    ///
    /// # Errors
    /// If the most effort needs the Fisher information of outputs, and the file has none.
    pub fn new(file: HessianFile, effort: Effort) -> Result<Self, FileError> {
        let (refits, sweeps) = match effort {
            Effort::Fast => (0, 0),
            Effort::Default => (0, 1),
            Effort::Best | Effort::Max => (2, 3),
        };
        // More trials only say better where to begin.
        let fit = if effort == Effort::Fast { Effort::Fast } else { Effort::Default };
        let two_sided = effort == Effort::Max;
        if two_sided {
            file.check_fisher()?;
        }
        let search = Search { start: Start::Columns { refits }, sweeps };
        Ok(Self { file, search, effort: fit, two_sided })
    }

    /// How the rows of a matrix make up for each other's errors, if they are to do so.
    pub(super) fn row_feedback(
        &self,
        cpu: &Cpu,
        spec: &TensorSpec,
    ) -> Result<Option<RowFeedback>, ConvertError> {
        let Some(layer) = spec.layer.filter(|_| self.two_sided) else { return Ok(None) };
        let outputs = Outputs { kind: spec.kind, layer, rows: spec.rows() };
        if !spec.rows().is_multiple_of(32) {
            return Ok(None);
        }
        Ok(Some(RowFeedback::new(cpu, &self.file.fisher(outputs)?)))
    }

    /// Where a text begins that goes through the layers that are written, if rows are to make up for what
    /// those lose.
    pub(super) fn sequential<'a>(
        &self,
        source: &'a Source,
        cpu: &Cpu,
        written: Written<'a>,
    ) -> Result<Option<Sequential<'a>>, ConvertError> {
        if !self.two_sided {
            return Ok(None);
        }
        let chunks = self.file.chunks()?;
        Ok(Some(Sequential::new(source, cpu, written, chunks, self.file.limit())?))
    }

    /// What tells the statistics from others.
    pub(super) fn id(&self) -> String {
        self.file.id()
    }

    /// The importance matrix that the statistics contain.
    ///
    /// # Errors
    /// If statistics are missing.
    pub fn imatrix(&self, source: &Source) -> Result<Imatrix, ConvertError> {
        let mut imatrix = Imatrix::default();
        for inputs in Inputs::of(source.config(), source.output_kind()) {
            let grams = self.file.grams(inputs)?;
            let sums: Vec<f32> = grams.iter().flat_map(Gram::diagonal).collect();
            let count = grams.first().map_or(0, Gram::rows) as f32;
            for name in inputs.readers.names() {
                imatrix.entries.insert(name, Entry { sums: sums.clone(), count });
            }
        }
        Ok(imatrix)
    }

    /// What is known about the inputs of a matrix, unless `known` has it already; `None` if nothing is.
    pub(super) fn known(
        &self,
        cpu: &Cpu,
        source: &Source,
        spec: &TensorSpec,
        known: Option<Known>,
    ) -> Result<Option<Known>, ConvertError> {
        let all = Inputs::of(source.config(), source.output_kind());
        let reads = |inputs: &Inputs| inputs.readers.names().contains(&spec.name);
        let Some(inputs) = all.into_iter().find(reads) else { return Ok(None) };
        if known.as_ref().is_some_and(|known| known.inputs == inputs) {
            return Ok(known);
        }
        drop(known);
        let damping = match spec.kind {
            TensorKind::TokenEmbd | TensorKind::Output => Damping::OUTPUT,
            _ => Damping::LAYER,
        };
        let grams = self.file.grams(inputs)?;
        let importance = grams.iter().flat_map(Gram::diagonal).collect();
        let tokens = grams.first().map_or(0, Gram::rows).max(1);
        let units = grams.iter().map(Gram::unit).collect();
        let hessians = grams.into_iter().map(|gram| gram.hessian(cpu, damping)).collect();
        let held_out = by_sixteen(&self.file.held_out(inputs)?, inputs.cols);
        Ok(Some(Known { inputs, units, hessians, importance, tokens, held_out }))
    }

    /// How the rows of a matrix are to be rounded to `ty`; `None` if the usual way is better on the rows
    /// that were held out.
    pub(super) fn rounding<'k>(
        &self,
        cpu: &Cpu,
        rows: &dyn TensorRows,
        spec: &TensorSpec,
        known: &'k Known,
        ty: QuantType,
    ) -> Option<Rounding<'k>> {
        let effort = self.effort;
        let rounding = Rounding { ty, hessians: &known.hessians, search: self.search, effort };
        let quantize = Quantize { ty, importance: Some(&known.importance), effort };
        let losses = known.losses(cpu, rows, spec, SAMPLE, |x, losses| {
            losses.push(known.loss(cpu, x, ty, |x, bytes| {
                round_rows(cpu.isa(), rounding, x, spec.cols(), bytes);
            }));
            losses.push(known.loss(cpu, x, ty, |x, bytes| {
                let row_bytes = bytes.len() / (x.len() / spec.cols());
                let rows = x.chunks_exact(spec.cols()).zip(bytes.chunks_exact_mut(row_bytes));
                rows.for_each(|(x, bytes)| _ = quantize.row(cpu.isa(), x, bytes));
            }));
        });
        // Without rows that were held out there is nothing to compare.
        (losses.is_empty() || losses[0] <= losses[1]).then_some(rounding)
    }

    /// The relative error that each of `types` would give the outputs of a matrix: that of the rows that
    /// were held out, compared with the sum of their squares times those of the weights. `None` if none
    /// were held out.
    pub(super) fn relative_errors(
        &self,
        cpu: &Cpu,
        rows: &dyn TensorRows,
        spec: &TensorSpec,
        known: &Known,
        types: &[QuantType],
    ) -> Option<Vec<f64>> {
        // One sweep tells types apart as well as more.
        let search = Search { start: Start::Columns { refits: 0 }, sweeps: 1 };
        let losses = known.losses(cpu, rows, spec, SAMPLE / 4, |x, losses| {
            for ty in types {
                let rounding =
                    Rounding { ty: *ty, hessians: &known.hessians, search, effort: self.effort };
                losses.push(known.loss(cpu, x, *ty, |x, bytes| {
                    round_rows(cpu.isa(), rounding, x, spec.cols(), bytes);
                }));
            }
            losses.push(known.squares(x));
        });
        let (square, losses) = losses.split_last()?;
        Some(losses.iter().map(|loss| if *square > 0.0 { loss / square } else { 0.0 }).collect())
    }
}

// What errors cost, by the Fisher information.
impl SecondOrder {
    /// What a relative error of 1 in the outputs of a matrix adds to the KL divergence, in nats per token: half
    /// of the sum over its rows of their Fisher information times the squares of their weights, each
    /// times those of its column's inputs. An output matrix that is the embedding too also costs what it
    /// does to embedded tokens. `None` if the Fisher information is not known.
    ///
    /// # Errors
    /// If the Fisher information is there, and cannot be right.
    pub(super) fn nats(
        &self,
        cpu: &Cpu,
        rows: &dyn TensorRows,
        spec: &TensorSpec,
        known: &Known,
    ) -> Result<Option<f64>, ConvertError> {
        let Some(weights) = self.row_weights(cpu, spec, known.inputs)? else { return Ok(None) };
        let mut found = vec![0.0; spec.rows().div_ceil(ROWS)];
        cpu.for_each(weights.chunks(ROWS).zip(&mut found).enumerate(), |(i, (weights, found))| {
            let mut x = vec![0.0; spec.cols()];
            for (row, weight) in (i * ROWS..).zip(weights) {
                rows.read(row, &mut x);
                let square = |(x, of_input): (&f32, &f32)| {
                    f64::from(*x) * f64::from(*x) * f64::from(*of_input)
                };
                *found += weight * x.iter().zip(&known.importance).map(square).sum::<f64>();
            }
        });
        let sum = found.iter().sum::<f64>() + self.of_embedded(spec)? * known.tokens as f64;
        // Conversion will refuse weights that are not finite by name.
        Ok(sum.is_finite().then_some(0.5 * sum / known.tokens as f64))
    }

    /// The Fisher information of all values of embedded tokens times their squares, if `spec` is the embedding.
    fn of_embedded(&self, spec: &TensorSpec) -> Result<f64, FileError> {
        let embedded = match spec.kind {
            TensorKind::TokenEmbd => self.file.embedded(spec.cols())?,
            _ => None,
        };
        let sum: f64 = embedded.iter().flatten().map(|x| f64::from(*x)).sum();
        Ok(self.file.gradients().map_or(0.0, |gradients| sum / gradients as f64))
    }

    /// The Fisher information of the output of each row of a matrix, `[rows]`; where rows make up for each
    /// other's errors, what is left of it when they have. `None` if it is not known.
    fn row_weights(
        &self,
        cpu: &Cpu,
        spec: &TensorSpec,
        inputs: Inputs,
    ) -> Result<Option<Vec<f64>>, FileError> {
        let Some(gradients) = self.file.gradients() else { return Ok(None) };
        let mean = |sum: f32| f64::from(sum) / gradients as f64;
        let Some(layer) = spec.layer else {
            let is_output = matches!(inputs.readers, Readers::Output(kind) if kind == spec.kind);
            let logits = is_output.then(|| self.file.logits(spec.rows())).transpose()?.flatten();
            return Ok(logits.map(|logits| logits.into_iter().map(mean).collect()));
        };
        if !spec.rows().is_multiple_of(32) {
            return Ok(None);
        }
        let grams = self.file.fisher(Outputs { kind: spec.kind, layer, rows: spec.rows() })?;
        if !self.two_sided {
            return Ok(Some(grams.iter().flat_map(Gram::diagonal).map(mean).collect()));
        }
        let rows = grams.first().map_or(0, Gram::rows) as f32;
        let weights = RowFeedback::new(cpu, &grams).weights();
        Ok(Some(weights.into_iter().map(|weight| mean(weight * rows)).collect()))
    }
}

impl Known {
    /// The importance of the columns.
    pub(super) fn importance(&self) -> &[f32] {
        &self.importance
    }

    /// Makes rows `x`, `[rows, cols]`, up for what their inputs have lost.
    pub(super) fn make_up(&self, cpu: &Cpu, lost: &[Lost], x: &mut [f32]) {
        let mut start = 0;
        for ((lost, unit), hessian) in lost.iter().zip(&self.units).zip(&self.hessians) {
            lost.make_up(cpu, hessian, *unit, x, self.inputs.cols, start);
            start += hessian.len();
        }
    }

    /// Adds up what `measure` finds for about `n` of the rows, sixteen at a time, `[rows, cols]`. Nothing if no
    /// inputs were held out.
    fn losses(
        &self,
        cpu: &Cpu,
        rows: &dyn TensorRows,
        spec: &TensorSpec,
        n: usize,
        measure: impl Fn(&[f32], &mut Vec<f64>) + Sync,
    ) -> Vec<f64> {
        if self.held_out.is_empty() {
            return Vec::new();
        }
        let (cols, step) = (spec.cols(), spec.rows().div_ceil(n));
        let sample: Vec<usize> = (0..spec.rows()).step_by(step).collect();
        let mut found = vec![Vec::new(); sample.len().div_ceil(16)];
        cpu.for_each(sample.chunks(16).zip(&mut found), |(sample, found)| {
            let mut x = vec![0.0; sample.len() * cols];
            for (row, x) in sample.iter().zip(x.chunks_exact_mut(cols)) {
                rows.read(*row, x);
            }
            // Conversion will refuse others by name.
            if x.iter().all(|x| x.is_finite()) {
                measure(&x, found);
            }
        });
        found.retain(|found| !found.is_empty());
        let len = found.first().map_or(0, Vec::len);
        (0..len).map(|i| found.iter().map(|found| found[i]).sum()).collect()
    }

    /// The sum of the squared errors of the outputs for the inputs that were held out, of at most sixteen
    /// rows that `quantize` makes blocks of.
    fn loss(
        &self,
        cpu: &Cpu,
        x: &[f32],
        ty: QuantType,
        quantize: impl FnOnce(&[f32], &mut [u8]),
    ) -> f64 {
        let cols = self.inputs.cols;
        let row_bytes = ty.row_bytes(cols).expect("rows are whole blocks");
        let (mut bytes, mut y) = (vec![0; x.len() / cols * row_bytes], vec![0.0; x.len()]);
        quantize(x, &mut bytes);
        (ty.traits().dequantize)(&bytes, &mut y);
        let mut left = vec![Row::default(); cols];
        for (lane, (x, y)) in x.chunks_exact(cols).zip(y.chunks_exact(cols)).enumerate() {
            for (left, (x, y)) in left.iter_mut().zip(x.iter().zip(y)) {
                left.0[lane] = x - y;
            }
        }
        squares(cpu.isa(), &left, &self.held_out)
    }

    /// The squares of weights, each times those of its column's inputs that were held out.
    fn squares(&self, x: &[f32]) -> f64 {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let mut of_inputs = vec![0.0; self.inputs.cols];
        for inputs in self.held_out.chunks_exact(self.inputs.cols) {
            for (sum, inputs) in of_inputs.iter_mut().zip(inputs) {
                *sum += inputs.0.iter().map(|x| square(*x)).sum::<f64>();
            }
        }
        let rows = x.chunks_exact(self.inputs.cols);
        rows.map(|x| x.iter().zip(&of_inputs).map(|(x, sum)| square(*x) * sum).sum::<f64>()).sum()
    }
}

/// Rows, `[rows, cols]`, sixteen at a time side by side.
fn by_sixteen(x: &[f32], cols: usize) -> Vec<Row> {
    let mut all = Vec::with_capacity(x.len().div_ceil(16));
    for rows in x.chunks(16 * cols) {
        let start = all.len();
        all.resize(start + cols, Row::default());
        for (lane, row) in rows.chunks_exact(cols).enumerate() {
            for (to, x) in all[start..].iter_mut().zip(row) {
                to.0[lane] = *x;
            }
        }
    }
    all
}
