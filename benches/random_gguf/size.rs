//! The three Gemma 2 models that Google released.

use std::str::FromStr;

use lapidary::model::{Architecture, Config};

/// Number of pieces in their vocabulary.
pub const VOCABULARY: usize = 256_000;

/// The size of a released model.
#[derive(Clone, Copy, Debug)]
pub enum Size {
    /// 2 billion weights.
    B2,
    /// 9 billion weights.
    B9,
    /// 27 billion weights.
    B27,
}

impl Size {
    /// All sizes, the smallest first.
    pub const ALL: [Self; 3] = [Self::B2, Self::B9, Self::B27];

    /// Its name, such as `27B`.
    pub fn name(self) -> &'static str {
        match self {
            Self::B2 => "2B",
            Self::B9 => "9B",
            Self::B27 => "27B",
        }
    }

    /// Its sizes and constants.
    pub fn config(self) -> Config {
        // Widths, layers, heads; and query_pre_attn_scalar: scores are divided by its square root.
        let ([n_embd, n_ff, n_layer, n_head, n_head_kv, head_dim], scalar) = match self {
            Self::B2 => ([2304, 9216, 26, 8, 4, 256], 256f32),
            Self::B9 => ([3584, 14336, 42, 16, 8, 256], 256.0),
            Self::B27 => ([4608, 36864, 46, 32, 16, 128], 144.0),
        };
        Config {
            architecture: Architecture::Gemma2,
            name: format!("Gemma 2 {}, random weights", self.name()),
            n_vocab: VOCABULARY,
            n_ctx_train: 8192,
            n_embd,
            n_ff,
            n_head,
            n_head_kv,
            head_dim,
            rms_eps: 1e-6,
            embd_scale: Config::root_of_width(n_embd),
            attn_scale: 1.0 / scalar.sqrt(),
            final_softcap: Some(30.0),
            layers: Architecture::Gemma2.layers(n_layer),
        }
    }
}

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|size| size.name().eq_ignore_ascii_case(name));
        found.ok_or("must be 2B, 9B or 27B")
    }
}
