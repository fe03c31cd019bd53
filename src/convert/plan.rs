//! A plan: the type of each tensor in a new file, by a recipe or for a budget.

use std::sync::Arc;

use lapidary_formats::quant::{Effort, QuantType};

use super::{ConvertError, Recipe, SecondOrder, Totals, Weighting};
use crate::model::{RowSource, Source};

/// What a new file will contain.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A recipe's name, or `mixed`.
    pub name: String,
    /// The value of `general.file_type`.
    pub file_type: u32,
    /// The type of each tensor, in the order of [`Source::tensors`].
    pub types: Vec<QuantType>,
    /// The importance of the columns, used to choose scales. Without it, all columns are equally
    /// important.
    pub weighting: Option<Weighting>,
    /// The statistics for second-order rounding, if tensors are to be rounded so.
    pub second_order: Option<Arc<SecondOrder>>,
    /// How thoroughly to search for scales.
    pub effort: Effort,
}

impl Plan {
    /// The plan of a recipe for a model.
    pub fn of_recipe(source: &Source, recipe: Recipe) -> Self {
        let (config, untied) = (source.config(), source.is_untied());
        Self {
            name: recipe.name().to_owned(),
            file_type: recipe.file_type(),
            types: source.tensors().iter().map(|t| recipe.type_of(t, config, untied)).collect(),
            weighting: None,
            second_order: None,
            effort: Effort::Default,
        }
    }

    /// A plan with any types. As file type it gets that of the recipe whose base type has most
    /// bytes in the file; other programs display it.
    pub(super) fn mixed(source: &Source, types: Vec<QuantType>) -> Self {
        let mut plan = Self {
            name: "mixed".to_owned(),
            file_type: 0,
            types,
            weighting: None,
            second_order: None,
            effort: Effort::Default,
        };
        let most = plan.totals(source).types.first().map(|total| total.ty);
        let recipe = Recipe::all().filter(|recipe| Some(recipe.base()) == most).last();
        plan.file_type = recipe.unwrap_or(Recipe::F16).file_type();
        plan
    }

    /// The same types, with scales chosen by importance.
    pub fn weighted(self, weighting: Option<Weighting>) -> Self {
        Self { weighting, ..self }
    }

    /// Refuses types that are only read, unless a tensor has its type already and is copied.
    pub(super) fn can_be_written(&self, source: &dyn RowSource) -> Result<(), ConvertError> {
        for (spec, ty) in source.model().tensors().iter().zip(&self.types) {
            let stored = source.rows(spec).stored().map(|view| view.ty);
            if !ty.is_written() && stored != Some(*ty) {
                let (path, name) = (source.model().path().to_owned(), spec.name.clone());
                return Err(ConvertError::NotWritten { path, name, ty: *ty });
            }
        }
        Ok(())
    }

    /// Totals over the tensors.
    pub fn totals(&self, source: &Source) -> Totals {
        let tensors = source.tensors().iter().zip(&self.types);
        Totals::new(tensors.map(|(spec, ty)| (*ty, spec.values() as u64, spec.bytes(*ty))))
    }
}
