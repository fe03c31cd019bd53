//! How a checkpoint names its tensors, and which of them is the output matrix.

use lapidary_formats::checkpoint::Checkpoint;
use lapidary_formats::quant::QuantType;
use lapidary_formats::tensor::TensorView;

use crate::model::{TensorKind, TensorSpec};

/// What the names of a text model's tensors begin with where nothing is wrapped around it.
const MODEL: &str = "model.";

/// A tensor that every text model of the family has, and no other part of a model.
const FIRST_NORM: &str = "layers.0.input_layernorm.weight";

const EMBEDDING: &str = "embed_tokens.weight";
const LM_HEAD: &str = "lm_head.weight";

/// Values that are compared before their memory is released.
const CHUNK_VALUES: usize = 1 << 20;

/// The names of the text model's tensors in a checkpoint.
#[derive(Debug)]
pub(super) struct Layout {
    /// Stands where transformers' class has `model.`. It is `language_model.model.` or
    /// `model.language_model.` in models with vision, depends on what was wrapped around the model
    /// when it was saved (`_orig_mod.` by `torch.compile`, `base_model.model.` by PEFT), and is empty
    /// if the inner model was saved alone.
    model: String,
    /// The name of the embedding.
    embedding: String,
    /// The name of the output matrix, if there is one.
    pub lm_head: Option<String>,
}

impl Layout {
    /// Finds out how the tensors of `c` are named.
    pub fn of(c: &Checkpoint) -> Self {
        let prefix =
            |tensor: TensorView<'_>| tensor.name.strip_suffix(FIRST_NORM).map(str::to_owned);
        let whole = |prefix: &String| prefix.is_empty() || prefix.ends_with('.');
        let prefixes = c.tensors().filter_map(prefix).filter(whole);
        let model = prefixes.min_by_key(String::len).unwrap_or_else(|| MODEL.to_owned());
        let is_there = |name: &String| c.tensor(name).is_some();
        // Beside the model, or beside whatever is around it.
        let ends = model.match_indices('.').map(|(dot, _)| dot + 1).rev().chain([0]);
        let lm_head = ends.map(|end| format!("{}{LM_HEAD}", &model[..end])).find(is_there);
        let embedding = format!("{model}{EMBEDDING}");
        match lm_head {
            // The two are one tensor, and whatever saved it kept only the second name.
            Some(lm_head) if c.config().tie_word_embeddings && !is_there(&embedding) => {
                Self { model, embedding: lm_head, lm_head: None }
            }
            lm_head => Self { model, embedding, lm_head },
        }
    }

    /// The name of a tensor in the checkpoint.
    pub fn name(&self, spec: &TensorSpec) -> String {
        match (spec.kind, spec.hf_name.strip_prefix(MODEL)) {
            (TensorKind::TokenEmbd, _) => self.embedding.clone(),
            (_, Some(rest)) => format!("{}{rest}", self.model),
            (_, None) => self.lm_head.clone().unwrap_or_else(|| LM_HEAD.to_owned()),
        }
    }

    /// Whether there is an output matrix with other values than the embedding.
    pub fn has_own_output(&self, c: &Checkpoint) -> bool {
        let lm_head = self.lm_head.as_ref().and_then(|name| c.tensor(name));
        match (lm_head, c.tensor(&self.embedding)) {
            (Some(output), Some(embedding)) => !has_same_values(c, &output, &embedding),
            _ => false,
        }
    }
}

/// Whether two tensors of `c` have the same values, whatever their types.
fn has_same_values(c: &Checkpoint, a: &TensorView, b: &TensorView) -> bool {
    if a.shape != b.shape {
        return false;
    }
    let bytes = |ty: QuantType| ty.traits().block_bytes;
    let chunk = |view: &TensorView| CHUNK_VALUES * bytes(view.ty);
    let (mut x, mut y) = (vec![0.0f32; CHUNK_VALUES], vec![0.0f32; CHUNK_VALUES]);
    a.data.chunks(chunk(a)).zip(b.data.chunks(chunk(b))).all(|(p, q)| {
        let same = match a.ty == b.ty {
            true => p == q,
            false => {
                let n = p.len() / bytes(a.ty);
                (a.ty.traits().dequantize)(p, &mut x[..n]);
                (b.ty.traits().dequantize)(q, &mut y[..n]);
                x[..n] == y[..n]
            }
        };
        c.release(p);
        c.release(q);
        same
    })
}
