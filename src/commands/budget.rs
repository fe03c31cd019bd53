//! The options of `convert` that choose the type of each tensor: a recipe, or a budget.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;

use clap::Args;
use lapidary::convert::{
    fit, Budget, ConvertError, Fitted, Options, Plan, Progress, Recipe, SecondOrder, Weighting,
};
use lapidary::kernels::KvType;
use lapidary::model::{Role, Source, TensorKind};
use lapidary_formats::quant::QuantType;
use serde_json::json;

use super::inspect::{print_totals, totals_json};
use super::size::{parse_size, size};

/// How to choose the types.
#[derive(Args, Debug)]
pub struct TypeArgs {
    /// Recipe: F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q4_K_M, Q4_K_S, IQ4_NL, IQ4_XS, Q3_K_L,
    /// Q3_K_M, Q3_K_S or Q2_K
    #[arg(short, long, value_name = "RECIPE", default_value = "Q4_K_M")]
    quant: Recipe,
    /// Instead of a recipe: choose the types so that file, KV cache and buffers fit in this much
    /// memory, such as 18GB
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with_all = ["quant", "size", "bpw"])]
    fit: Option<u64>,
    /// Instead of a recipe: choose the types so that the file is at most this large, such as 15GB
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with_all = ["quant", "bpw"])]
    size: Option<u64>,
    /// Instead of a recipe: choose the types so that there are at most this many bits per weight
    #[arg(long, value_name = "BITS", value_parser = bits, conflicts_with = "quant")]
    bpw: Option<f64>,
    /// With --fit: length of the context, in tokens
    // An option that conflicts with --fit would cancel `requires`.
    #[arg(long, value_name = "N", default_value = "8192", requires = "fit")]
    #[arg(conflicts_with_all = ["quant", "size", "bpw"])]
    ctx: NonZeroUsize,
    /// With --fit: type of the KV cache, f16, q8_0 or f32
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = super::options::kv_type, requires = "fit")]
    #[arg(conflicts_with_all = ["quant", "size", "bpw"])]
    kv: KvType,
    /// Print the type that each tensor would get, and stop
    #[arg(long)]
    plan: bool,
}

/// The types that were chosen.
pub struct Chosen {
    /// The plan.
    pub plan: Plan,
    /// The budget and the result, if the types were chosen for a budget.
    fitted: Option<(Budget, Fitted)>,
}

impl TypeArgs {
    /// Whether only the plan is to be printed.
    pub fn only_plan(&self) -> bool {
        self.plan
    }

    /// Makes the recipe's plan, or the best plan for the budget.
    pub fn choose(
        &self,
        source: &Source,
        weighting: Option<Weighting>,
        second_order: Option<Arc<SecondOrder>>,
        options: Options,
        progress: &mut dyn Progress,
    ) -> Result<Chosen, ConvertError> {
        let Some(budget) = self.budget() else {
            let mut plan = Plan::of_recipe(source, self.quant).weighted(weighting);
            plan.second_order = second_order;
            return Ok(Chosen { plan, fitted: None });
        };
        let known = second_order.as_deref();
        let fitted = fit(source, budget, weighting.as_ref(), known, options, progress)?;
        let mut plan = fitted.plan.clone().weighted(weighting);
        plan.second_order = second_order;
        Ok(Chosen { plan, fitted: Some((budget, fitted)) })
    }

    fn budget(&self) -> Option<Budget> {
        let (n_ctx, kv) = (self.ctx.get(), self.kv);
        let memory = self.fit.map(|bytes| Budget::Memory { bytes, n_ctx, kv });
        memory.or(self.size.map(Budget::File)).or(self.bpw.map(Budget::BitsPerWeight))
    }
}

impl Chosen {
    /// Prints the types of each kind of matrix, and the totals.
    pub fn print(&self, out: &mut impl Write, source: &Source) -> io::Result<()> {
        writeln!(out, "tensors         error  types")?;
        for (kind, types) in self.kinds(source) {
            let error = match self.mean_error(source, kind) {
                Some(error) => format!("{:.2} %", 100.0 * error),
                None => String::new(),
            };
            let types: Vec<_> = types.iter().map(|(ty, n)| format!("{n} {ty}")).collect();
            writeln!(out, "{:<12} {error:>8}  {}", kind.stem(), types.join(", "))?;
        }
        writeln!(out)?;
        print_totals(out, &self.plan.totals(source))?;
        if let Some((budget, fitted)) = &self.fitted {
            self.print_budget(out, source, *budget, fitted)?;
        }
        Ok(())
    }

    fn print_budget(
        &self,
        out: &mut impl Write,
        source: &Source,
        budget: Budget,
        fitted: &Fitted,
    ) -> io::Result<()> {
        writeln!(out, "\nfile         {:>11} of {}", size(fitted.file_bytes), size(fitted.limit))?;
        let memory = budget.memory(source.config(), fitted.file_bytes);
        if let (Budget::Memory { bytes, n_ctx, .. }, Some(m)) = (budget, memory) {
            writeln!(out, "cache        {:>11}, {n_ctx} tokens", size(m.kv_cache))?;
            writeln!(out, "the rest     {:>11}", size(m.total() - m.kv_cache - m.file))?;
            writeln!(out, "in memory    {:>11} of {}", size(m.total()), size(bytes))?;
        }
        Ok(())
    }

    /// Whether the types were chosen for a budget.
    pub fn is_fitted(&self) -> bool {
        self.fitted.is_some()
    }

    /// The plan as JSON.
    pub fn json(&self, source: &Source) -> serde_json::Value {
        let tensors = source.tensors().iter().zip(&self.plan.types).enumerate();
        let tensor = |(i, (spec, ty)): (usize, (&lapidary::model::TensorSpec, &QuantType))| {
            json!({
                "name": spec.name,
                "type": ty.name(),
                "bytes": spec.bytes(*ty),
                "relative_error": self.fitted.as_ref().map(|(_, fitted)| fitted.errors[i]),
            })
        };
        json!({
            "plan": self.plan.name,
            "file_bytes": self.fitted.as_ref().map(|(_, fitted)| fitted.file_bytes),
            "limit": self.fitted.as_ref().map(|(_, fitted)| fitted.limit),
            "totals": totals_json(&self.plan.totals(source)),
            "tensors": tensors.map(tensor).collect::<Vec<_>>(),
        })
    }

    /// The kinds of matrices in the model's order, each with its types and the number of matrices
    /// of each type.
    fn kinds(&self, source: &Source) -> Vec<(TensorKind, BTreeMap<QuantType, usize>)> {
        let mut kinds: Vec<(TensorKind, BTreeMap<QuantType, usize>)> = Vec::new();
        for (spec, ty) in source.tensors().iter().zip(&self.plan.types) {
            if spec.role() == Role::Norm {
                continue;
            }
            let types = match kinds.iter_mut().find(|(kind, _)| *kind == spec.kind) {
                Some((_, types)) => types,
                None => {
                    kinds.push((spec.kind, BTreeMap::new()));
                    &mut kinds.last_mut().expect("one was pushed").1
                }
            };
            *types.entry(*ty).or_default() += 1;
        }
        kinds
    }

    /// The mean error of the tensors of a kind, if errors were measured.
    fn mean_error(&self, source: &Source, of: TensorKind) -> Option<f64> {
        let (_, fitted) = self.fitted.as_ref()?;
        let tensors = source.tensors().iter().zip(&fitted.errors);
        let errors: Vec<f64> =
            tensors.filter(|(spec, _)| spec.kind == of).map(|(_, error)| *error).collect();
        Some(errors.iter().sum::<f64>() / errors.len() as f64)
    }
}

/// Parses bits per weight.
fn bits(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(bits) if bits > 0.0 && bits <= 64.0 => Ok(bits),
        _ => Err("expected a number of bits such as 4.5".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_positive() {
        assert!(bits("4.5").is_ok() && bits("0").is_err() && bits("NaN").is_err());
    }
}
