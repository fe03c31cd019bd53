//! Plans for a budget: the types with which a model fits and loses least.

use lapidary_formats::quant::QuantType;

use super::allocation::{allocate, Choice};
use super::damage::{candidates, relative_errors};
use super::metadata::header;
use super::pipeline::cpu;
use super::{ConvertError, Options, Plan, Progress, Weighting};
use crate::kernels::{Cpu, KvType};
use crate::memory::{Load, Memory};
use crate::model::{
    Config, Role, RowSource, Source, StateOptions, TensorKind, TensorRows, TensorSpec,
};

/// What a model must not exceed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Bytes of the file.
    File(u64),
    /// Bits for each weight, over all tensors.
    BitsPerWeight(f64),
    /// Bytes in memory when it runs: the file, a cache of `n_ctx` positions, and all that [`Memory`]
    /// counts.
    Memory {
        /// All together.
        bytes: u64,
        /// Positions.
        n_ctx: usize,
        /// What the cache holds.
        kv: KvType,
    },
}

/// Threads that a file is to fit with: more than most machines have cores, each a megabyte or two. Not
/// this machine's, so that a budget gives the same file everywhere.
const THREADS: usize = 16;

impl Budget {
    /// What a file of `file` bytes comes to when it runs, where that is what must not be exceeded.
    pub fn memory(&self, config: &Config, file: u64) -> Option<Memory> {
        match *self {
            Budget::Memory { n_ctx, kv, .. } => {
                Some(Memory::new(config, file, StateOptions::new(n_ctx, kv), THREADS, Load::One))
            }
            Budget::File(_) | Budget::BitsPerWeight(_) => None,
        }
    }
}

/// A plan, and what it was chosen by.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The types.
    pub plan: Plan,
    /// By tensor: the share of a matrix's square that is lost, weighted by importance; 0 for norms.
    pub errors: Vec<f64>,
    /// Size of the file in bytes, with room for what is yet to be said in its metadata of importance
    /// and of a check: it will be up to a kilobyte less.
    pub file_bytes: u64,
    /// The most that the file could have been, in bytes.
    pub limit: u64,
}

/// Chooses the type of every tensor of a model, so that `budget` is kept and the least damage is
/// to be expected. Some rows of every matrix are quantized to every type that it may get.
///
/// # Errors
/// If even the smallest types exceed the budget, or [`Progress::cancelled`] says so.
pub fn fit(
    source: &dyn RowSource,
    budget: Budget,
    weighting: Option<&Weighting>,
    options: Options,
    progress: &mut dyn Progress,
) -> Result<Fitted, ConvertError> {
    let (rows, source) = (source, source.model());
    let weights: u64 = source.tensors().iter().map(|spec| spec.values() as u64).sum();
    let cpu = cpu(options)?;
    progress.measuring(weights);
    let mut measured = Vec::new();
    for (i, spec) in source.tensors().iter().enumerate() {
        if progress.cancelled() {
            return Err(ConvertError::Cancelled);
        }
        progress.tensor(&spec.name);
        let importance = weighting.and_then(|w| w.of(i));
        let of_tensor = rows.rows(spec);
        measured.push(measure(&cpu, &*of_tensor, spec, importance));
        of_tensor.release(0..spec.rows());
        progress.advanced(spec.values() as u64, 0);
    }
    let choices: Vec<Vec<Choice>> = source
        .tensors()
        .iter()
        .zip(&measured)
        .map(|(spec, types)| {
            let sensitivity = sensitivity(spec, source);
            let choice = |(ty, error): &(QuantType, f64)| Choice {
                bytes: padded(spec.bytes(*ty)),
                damage: sensitivity * error,
            };
            types.iter().map(choice).collect()
        })
        .collect();
    let overhead = overhead(rows)?;
    let limit = file_limit(source, budget, weights, overhead);
    let smallest: u64 =
        choices.iter().filter_map(|c| c.iter().map(|choice| choice.bytes).min()).sum();
    let chosen = limit.checked_sub(overhead).and_then(|limit| allocate(&choices, limit));
    let chosen = chosen.ok_or_else(|| ConvertError::Budget {
        path: source.path().to_owned(),
        limit,
        smallest: smallest + overhead,
    })?;
    let pick = |i: usize| measured[i][chosen[i]];
    let (types, errors) = (0..measured.len()).map(pick).unzip();
    let file_bytes = overhead + (0..chosen.len()).map(|i| choices[i][chosen[i]].bytes).sum::<u64>();
    Ok(Fitted { plan: Plan::mixed(source, types), errors, file_bytes, limit })
}

/// The types that a tensor may get, and the relative error of each.
fn measure(
    cpu: &Cpu,
    rows: &dyn TensorRows,
    spec: &TensorSpec,
    importance: Option<&[f32]>,
) -> Vec<(QuantType, f64)> {
    if spec.role() == Role::Norm {
        return vec![(QuantType::F32, 0.0)];
    }
    let types = candidates(rows.stored().map(|view| view.ty), spec.cols());
    let errors = relative_errors(cpu, rows, spec, &types, importance);
    types.into_iter().zip(errors).collect()
}

/// How much a matrix's relative error moves the model's predictions, compared with the same error in
/// the output matrix: KL divergence for a small error, measured on the small trained model matrix by
/// matrix (`cargo run --release --example sensitivity`), averaged over its layers.
///
/// What a layer adds is a part of the stream that gets smaller with the number of layers, so that
/// each matrix counts as much less; the output matrix meets the whole stream. An embedding that is not
/// the output matrix as well is no more than one layer's addition to the stream.
fn sensitivity(spec: &TensorSpec, source: &Source) -> f64 {
    if spec.kind == source.output_kind() {
        return 1.0;
    }
    let of_kind = match spec.kind {
        TensorKind::AttnQ | TensorKind::AttnK | TensorKind::AttnOutput => 0.03,
        TensorKind::AttnV | TensorKind::FfnUp => 0.04,
        TensorKind::FfnGate => 0.10,
        TensorKind::FfnDown => 0.12,
        _ => 0.1,
    };
    of_kind / source.config().n_layer() as f64
}

/// Size of a tensor in a file, where the next one begins aligned.
fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(lapidary_formats::gguf::ALIGNMENT as u64)
}

/// More than the keys take that a plan for a budget does not know of: `lapidary.imatrix`,
/// `lapidary.effort` and `lapidary.check.*`.
const ROOM: u64 = 1 << 10;

/// Bytes of a file besides its tensors, at most.
fn overhead(rows: &dyn RowSource) -> Result<u64, ConvertError> {
    let source = rows.model();
    let plan = Plan::mixed(source, source.tensors().iter().map(|_| QuantType::F32).collect());
    let tensors: u64 = source.tensors().iter().map(|spec| padded(spec.bytes(QuantType::F32))).sum();
    Ok(header(rows, &plan)?.file_bytes() - tensors + ROOM)
}

/// The most bytes that the file may have.
fn file_limit(source: &Source, budget: Budget, weights: u64, overhead: u64) -> u64 {
    match budget {
        Budget::File(bytes) => bytes,
        Budget::BitsPerWeight(bits) => overhead + (bits * weights as f64 / 8.0) as u64,
        Budget::Memory { bytes, .. } => {
            let besides = budget.memory(source.config(), 0).map_or(0, |memory| memory.total());
            bytes.saturating_sub(besides)
        }
    }
}
