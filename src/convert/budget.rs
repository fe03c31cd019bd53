//! Makes plans for a budget: the types with which a model fits the budget and loses least.

use lapidary_formats::quant::QuantType;

use super::allocation::{allocate, Choice};
use super::damage::{candidates, relative_errors};
use super::metadata::header;
use super::pipeline::cpu;
use super::second_order::Known;
use super::{ConvertError, Options, Plan, Progress, SecondOrder, Weighting};
use crate::kernels::{Cpu, KvType};
use crate::memory::{Load, Memory};
use crate::model::{
    Config, Role, RowSource, Source, StateOptions, TensorKind, TensorRows, TensorSpec,
};

/// A limit on the size of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Size of the file in bytes.
    File(u64),
    /// Bits per weight, over all tensors.
    BitsPerWeight(f64),
    /// Memory of a run in bytes: the file, a KV cache of `n_ctx` positions, and everything else
    /// that [`Memory`] counts.
    Memory {
        /// All of it together.
        bytes: u64,
        /// Length of the context.
        n_ctx: usize,
        /// Type of the KV cache.
        kv: KvType,
    },
}

/// Number of threads to assume: more than most machines have cores, and each takes only a megabyte
/// or two. It is not the number of this machine, so that a budget gives the same file everywhere.
const THREADS: usize = 16;

impl Budget {
    /// The memory of a run with a file of `file` bytes, if the budget limits the memory.
    pub fn memory(&self, config: &Config, file: u64) -> Option<Memory> {
        match *self {
            Budget::Memory { n_ctx, kv, .. } => {
                Some(Memory::new(config, file, StateOptions::new(n_ctx, kv), THREADS, Load::One))
            }
            Budget::File(_) | Budget::BitsPerWeight(_) => None,
        }
    }
}

/// A plan for a budget, and the numbers behind it.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The plan.
    pub plan: Plan,
    /// Relative squared error of each tensor, weighted by importance; 0 for norms.
    pub errors: Vec<f64>,
    /// Size of the file in bytes. It includes room for metadata about importance and a check that
    /// may be added later, so the file can be up to a kilobyte smaller.
    pub file_bytes: u64,
    /// Largest size that the budget allows, in bytes.
    pub limit: u64,
}

/// Chooses the type of every tensor so that the model fits `budget` and the expected damage is
/// smallest. For this, some rows of every matrix are quantized to every type that it may get: as they will
/// be, with `second_order` where it is known.
///
/// # Errors
/// If even the smallest types exceed the budget, or [`Progress::cancelled`] returns true.
pub fn fit(
    source: &dyn RowSource,
    budget: Budget,
    weighting: Option<&Weighting>,
    second_order: Option<&SecondOrder>,
    options: Options,
    progress: &mut dyn Progress,
) -> Result<Fitted, ConvertError> {
    let (rows, source) = (source, source.model());
    let weights: u64 = source.tensors().iter().map(|spec| spec.values() as u64).sum();
    let cpu = cpu(options)?;
    progress.measuring(weights);
    let (mut measured, mut nats, mut known) = (Vec::new(), Vec::new(), None);
    for (i, spec) in source.tensors().iter().enumerate() {
        if progress.cancelled() {
            return Err(ConvertError::Cancelled);
        }
        progress.tensor(&spec.name);
        let importance = weighting.and_then(|w| w.of(i));
        let of_tensor = rows.rows(spec);
        let mut types = measure(&cpu, &*of_tensor, spec, importance);
        let mut of_error = None;
        if let Some(second_order) = second_order.filter(|_| spec.role() == Role::Matrix) {
            known = second_order.known(&cpu, source, spec, known.take())?;
            if let Some(known) = &known {
                after_feedback(&mut types, second_order, &cpu, &*of_tensor, spec, known);
                of_error = second_order.nats(&cpu, &*of_tensor, spec, known)?;
            }
        }
        measured.push(types);
        nats.push(of_error);
        of_tensor.release(0..spec.rows());
        progress.advanced(spec.values() as u64, 0);
    }
    let choices: Vec<Vec<Choice>> = source
        .tensors()
        .iter()
        .zip(&measured)
        .zip(sensitivities(source, &nats))
        .map(|((spec, types), sensitivity)| {
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
    let chosen = chosen.ok_or_else(|| too_small(source, budget, limit, smallest + overhead))?;
    let pick = |i: usize| measured[i][chosen[i]];
    let (types, errors) = (0..measured.len()).map(pick).unzip();
    let file_bytes = overhead + (0..chosen.len()).map(|i| choices[i][chosen[i]].bytes).sum::<u64>();
    Ok(Fitted { plan: Plan::mixed(source, types), errors, file_bytes, limit })
}

/// Replaces the errors of the types that second-order rounding can write by what it would leave.
fn after_feedback(
    types: &mut [(QuantType, f64)],
    second_order: &SecondOrder,
    cpu: &Cpu,
    rows: &dyn TensorRows,
    spec: &TensorSpec,
    known: &Known,
) {
    let stored = rows.stored().map(|view| view.ty);
    let rounded = |ty: QuantType| ty.has_grid() && Some(ty) != stored;
    let of_grid: Vec<_> = types.iter().map(|(ty, _)| *ty).filter(|ty| rounded(*ty)).collect();
    let Some(errors) = second_order.relative_errors(cpu, rows, spec, known, &of_grid) else {
        return;
    };
    for ((_, to), error) in types.iter_mut().filter(|(ty, _)| rounded(*ty)).zip(errors) {
        *to = error;
    }
}

/// What a relative error of 1 costs in each tensor: by the Fisher information, `nats`; or as
/// [`sensitivity`] has it, compared with the output matrix.
fn sensitivities(source: &Source, nats: &[Option<f64>]) -> Vec<f64> {
    let tensors = || source.tensors().iter().zip(nats);
    let output = tensors().find(|(spec, _)| spec.kind == source.output_kind());
    let unit = output.and_then(|(_, nats)| *nats);
    let of = |(spec, nats): (&TensorSpec, &Option<f64>)| match unit {
        Some(unit) => nats.unwrap_or_else(|| unit * sensitivity(spec, source)),
        None => sensitivity(spec, source),
    };
    tensors().map(of).collect()
}

/// The error for a budget that the smallest file exceeds. `limit` is the budget for the file.
fn too_small(source: &Source, budget: Budget, limit: u64, smallest: u64) -> ConvertError {
    let path = source.path().to_owned();
    match (budget, budget.memory(source.config(), 0)) {
        (Budget::Memory { bytes, .. }, Some(memory)) => {
            ConvertError::Memory { path, budget: bytes, besides: memory.total(), smallest }
        }
        _ => ConvertError::Budget { path, limit, smallest },
    }
}

/// The types that a tensor may get, with the relative error of each.
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

/// How much a relative error of this matrix changes the model's predictions, compared with the same
/// error of the output matrix. It is the KL divergence for a small error, measured matrix by matrix
/// on the small trained model (`cargo run --release --example sensitivity`) and averaged over its
/// layers.
///
/// The more layers a model has, the smaller is the part that one layer adds to the residual stream,
/// so the value is divided by the number of layers. The output matrix is multiplied with the whole
/// stream. An embedding that is not also the output matrix counts like what one layer adds.
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

/// Size of a tensor in a file, including the padding after it.
fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(lapidary_formats::gguf::ALIGNMENT as u64)
}

/// Room for the metadata that is not yet known when a plan for a budget is made:
/// `lapidary.imatrix`, `lapidary.effort` and `lapidary.check.*`. They need less.
const ROOM: u64 = 1 << 10;

/// Largest number of bytes of a file besides its tensors.
fn overhead(rows: &dyn RowSource) -> Result<u64, ConvertError> {
    let source = rows.model();
    let plan = Plan::mixed(source, source.tensors().iter().map(|_| QuantType::F32).collect());
    let tensors: u64 = source.tensors().iter().map(|spec| padded(spec.bytes(QuantType::F32))).sum();
    // All fingerprints have the same length.
    let fingerprint = format!("{:016x}", 0);
    let header = header(rows, &plan, &source.vocab()?, fingerprint)?;
    Ok(header.file_bytes() - tensors + ROOM)
}

/// Largest number of bytes of the file.
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
