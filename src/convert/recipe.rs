//! Recipes: rules for the type of each tensor.

use std::fmt;
use std::str::FromStr;

use lapidary_formats::quant::QuantType;
use thiserror::Error;

use crate::model::{Config, Role, TensorKind, TensorSpec};

/// A mix of tensor types, with llama.cpp's name for it.
///
/// The types are those that llama.cpp's quantizer uses for the Gemma family without an importance
/// matrix
/// ([`llama_tensor_get_type`](https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp)),
/// so that sizes and perplexities can be compared with published ones.
#[allow(non_camel_case_types, missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recipe {
    F32,
    F16,
    BF16,
    Q8_0,
    Q6_K,
    Q5_K_M,
    Q5_K_S,
    Q4_K_M,
    Q4_K_S,
    IQ4_NL,
    IQ4_XS,
    Q3_K_L,
    Q3_K_M,
    Q3_K_S,
    Q2_K,
}

/// A recipe, its name, the type of tensors for which no rule says otherwise, and the value of
/// `general.file_type` (llama.cpp's `LLAMA_FTYPE`).
const TABLE: [(Recipe, &str, QuantType, u32); 15] = [
    (Recipe::F32, "F32", QuantType::F32, 0),
    (Recipe::F16, "F16", QuantType::F16, 1),
    (Recipe::BF16, "BF16", QuantType::BF16, 32),
    (Recipe::Q8_0, "Q8_0", QuantType::Q8_0, 7),
    (Recipe::Q6_K, "Q6_K", QuantType::Q6_K, 18),
    (Recipe::Q5_K_M, "Q5_K_M", QuantType::Q5_K, 17),
    (Recipe::Q5_K_S, "Q5_K_S", QuantType::Q5_K, 16),
    (Recipe::Q4_K_M, "Q4_K_M", QuantType::Q4_K, 15),
    (Recipe::Q4_K_S, "Q4_K_S", QuantType::Q4_K, 14),
    (Recipe::IQ4_NL, "IQ4_NL", QuantType::IQ4_NL, 25),
    (Recipe::IQ4_XS, "IQ4_XS", QuantType::IQ4_XS, 30),
    (Recipe::Q3_K_L, "Q3_K_L", QuantType::Q3_K, 13),
    (Recipe::Q3_K_M, "Q3_K_M", QuantType::Q3_K, 12),
    (Recipe::Q3_K_S, "Q3_K_S", QuantType::Q3_K, 11),
    (Recipe::Q2_K, "Q2_K", QuantType::Q2_K, 10),
];

/// There is no recipe of this name.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}, expected one of {}", self.cause(), names())]
pub struct UnknownRecipe(pub String);

impl UnknownRecipe {
    fn cause(&self) -> String {
        match QuantType::from_name(&self.0) {
            Some(ty) if !ty.is_written() => format!("{ty} files are read, but not written"),
            _ => format!("unknown recipe `{}`", self.0),
        }
    }
}

impl Recipe {
    /// Every recipe, from the largest to the smallest.
    pub fn all() -> impl Iterator<Item = Recipe> {
        TABLE.iter().map(|row| row.0)
    }

    /// llama.cpp's name, such as `Q4_K_M`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The type of every matrix for which no rule says otherwise.
    pub fn base(self) -> QuantType {
        self.row().2
    }

    /// The value of `general.file_type`.
    pub fn file_type(self) -> u32 {
        self.row().3
    }

    /// The type of a tensor in a file of this recipe. `untied` says whether the model has an output
    /// matrix of its own.
    ///
    /// Norms are F32. If rows are not a whole number of blocks, a type with smaller blocks is used,
    /// or F16 if none fits, as in llama.cpp. (Older releases of llama.cpp replace Q2_K and Q3_K by
    /// IQ4_NL. The release that `benches/record/` compares with uses Q4_0, as we do.)
    pub fn type_of(self, spec: &TensorSpec, config: &Config, untied: bool) -> QuantType {
        let preferred = match (spec.kind, spec.layer) {
            (kind, _) if kind.role() == Role::Norm => return QuantType::F32,
            (TensorKind::Output, _) => self.output(),
            (TensorKind::TokenEmbd, _) if !untied => self.output(),
            (kind, Some(layer)) => self.of_layer(kind, layer, config),
            (_, None) => self.base(),
        };
        fitting(preferred, spec.cols())
    }

    /// The output matrix is used for every token and suffers most from quantization. No recipe of
    /// fewer bits gives it less than Q6_K.
    fn output(self) -> QuantType {
        match self.base() {
            base if base.block_len() == 256 || base == QuantType::IQ4_NL => QuantType::Q6_K,
            base => base,
        }
    }

    /// The type by the rules for layer `i`, whatever the length of rows.
    fn of_layer(self, kind: TensorKind, i: usize, config: &Config) -> QuantType {
        use QuantType::{Q3_K, Q4_K, Q5_K, Q6_K};
        let (base, n) = (self.base(), config.n_layer());
        match kind {
            TensorKind::AttnV => match self {
                Recipe::Q2_K if config.n_head / config.n_head_kv >= 4 => Q4_K,
                Recipe::Q2_K => Q3_K,
                Recipe::Q3_K_M if i < 2 => Q5_K,
                Recipe::Q3_K_M => Q4_K,
                Recipe::Q3_K_L => Q5_K,
                Recipe::Q4_K_S if i < 4 => Q5_K,
                Recipe::IQ4_NL | Recipe::IQ4_XS if config.n_head / config.n_head_kv >= 4 => Q5_K,
                Recipe::Q4_K_M | Recipe::Q5_K_M if more_bits(i, n) => Q6_K,
                _ => base,
            },
            TensorKind::FfnDown => match self {
                Recipe::Q2_K => Q3_K,
                Recipe::Q3_K_M if i < n / 16 => Q5_K,
                Recipe::Q3_K_M => Q4_K,
                Recipe::Q3_K_L => Q5_K,
                Recipe::Q4_K_S | Recipe::IQ4_NL | Recipe::IQ4_XS if i < n / 8 => Q5_K,
                Recipe::Q4_K_M | Recipe::Q5_K_M if more_bits(i, n) => Q6_K,
                _ => base,
            },
            TensorKind::AttnOutput => match self {
                Recipe::Q2_K => Q3_K,
                Recipe::Q3_K_M => Q4_K,
                Recipe::Q3_K_L => Q5_K,
                _ => base,
            },
            _ => base,
        }
    }

    fn row(self) -> &'static (Recipe, &'static str, QuantType, u32) {
        TABLE.iter().find(|row| row.0 == self).expect("every recipe has a row")
    }
}

/// Whether layer `i` of `n` is one of those that get a larger type in the `_M` recipes: the first
/// eighth, the last eighth, and every third layer between.
fn more_bits(i: usize, n: usize) -> bool {
    i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
}

/// `preferred`, or its replacement if rows of `cols` values are not a whole number of its blocks.
fn fitting(preferred: QuantType, cols: usize) -> QuantType {
    use QuantType::{F16, IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
    let fits = |ty: QuantType| cols.is_multiple_of(ty.block_len());
    if fits(preferred) {
        return preferred;
    }
    let smaller = match preferred {
        IQ4_XS => IQ4_NL,
        Q2_K | Q3_K => Q4_0,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        _ => F16,
    };
    if fits(smaller) {
        smaller
    } else {
        F16
    }
}

/// The names of all recipes, for messages.
fn names() -> String {
    TABLE.map(|row| row.1).join(", ")
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Recipe {
    type Err = UnknownRecipe;

    /// Finds a recipe by its name; upper and lower case are equal.
    fn from_str(name: &str) -> Result<Self, UnknownRecipe> {
        Self::all()
            .find(|recipe| recipe.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| UnknownRecipe(name.to_owned()))
    }
}
