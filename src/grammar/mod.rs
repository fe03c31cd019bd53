//! Answers that are JSON, or fit a schema: constraints for sampling, by the crate `llguidance`
//! (<https://github.com/guidance-ai/llguidance>), which walks the vocabulary as a trie of bytes.
//!
//! A schema is a stranger's. It is checked and written anew in few words (`schema.rs`) before the
//! crate compiles it, with limits to the work, the memory and the stack that this and each token may
//! take. What cannot be kept exactly is refused by name, so that a whole answer fits its schema.

mod following;
mod schema;

use std::sync::Arc;
use std::thread;

use lapidary_formats::vocab::PieceKind;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::{json, Value};

use crate::sampling::{Constraint, ConstraintError};
use crate::tokenizer::{ControlPieces, Tokenizer};
use following::Following;

/// White space between two tokens of JSON: a space, or a new line and what indents it. Bounded, for a
/// model that is not allowed what it would say next may go on with white space for ever.
const WHITE_SPACE: &str = r" |\n {0,40}|\n\t{0,20}";

/// Escapes in strings. With `\u`, a name could be spelt in two ways and stand in an object twice.
const ESCAPES: &str = "nrbtf\\\"";

/// The compiler recurses into schemas and along the properties of objects: bytes for the largest that
/// `schema.rs` lets through. Memory is taken only where it is touched.
const STACK: usize = 256 << 20;

/// The vocabulary as a trie of bytes, from which constraints are made.
pub struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    /// Bytes that it takes for a vocabulary of `n` pieces. Measured.
    pub fn predicted_heap_bytes(n: usize) -> usize {
        n * 352
    }

    /// Indexes the vocabulary: 2 s and 90 MB for 256,000 pieces. `stop_ids` are what the model
    /// ends its answers with.
    ///
    /// # Errors
    /// If there are no stop ids, or one is outside the vocabulary.
    pub fn new(tokenizer: &Tokenizer, stop_ids: &[u32]) -> Result<Self, ConstraintError> {
        let n_vocab = tokenizer.vocab().pieces.len() as u32;
        let Some(first) = stop_ids.first() else {
            return Err(ConstraintError("no token ends an answer".into()));
        };
        if let Some(id) = stop_ids.iter().find(|id| **id >= n_vocab) {
            let message = format!("stop id {id} is outside the vocabulary of {n_vocab}");
            return Err(ConstraintError(message));
        }
        let words: Vec<_> = (0..n_vocab).map(|id| word(tokenizer, id, stop_ids)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(n_vocab, *first), &words);
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie.with_eos_tokens(stop_ids)));
        let slices = SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &slices)
            .map_err(|error| plainly(&error))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self { factory })
    }

    /// Any JSON object.
    ///
    /// # Errors
    /// None that is known of.
    pub fn json_object(&self) -> Result<Box<dyn Constraint>, ConstraintError> {
        self.json_schema(&json!({ "type": "object" }))
    }

    /// JSON that fits a schema of draft 2020-12 or one before. Objects have their properties in the
    /// schema's order, and numbers are within ±(2⁵³ − 1), in which all readers of JSON agree (RFC 7493).
    ///
    /// # Errors
    /// If the schema is malformed, uses what is not supported, is too large or cannot be fitted.
    pub fn json_schema(&self, schema: &Value) -> Result<Box<dyn Constraint>, ConstraintError> {
        let mut schema = schema::prepare(schema)?;
        let options = JsonCompileOptions {
            whitespace_pattern: Some(WHITE_SPACE.into()),
            json_allowed_escapes: Some(ESCAPES.into()),
            ..Default::default()
        };
        options.apply_to(&mut schema);
        let parser = thread::scope(|scope| {
            let compile = || self.factory.create_parser(TopLevelGrammar::from_json_schema(schema));
            let thread = thread::Builder::new().name("schema".into()).stack_size(STACK);
            let compiling = thread.spawn_scoped(scope, compile).map_err(|error| {
                ConstraintError(format!("no thread to compile the schema: {error}"))
            })?;
            let compiled = compiling.join();
            let compiled = compiled.map_err(|_| ConstraintError("the schema failed".into()))?;
            compiled.map_err(|error| plainly(&error))
        })?;
        let mut following = Following::new(Matcher::new(Ok(parser)))?;
        // A schema that only an endless value fits is found out by this.
        following.mask(&mut [])?;
        Ok(Box::new(following))
    }
}

/// The text of a token as the trie is to have it: nothing for what is never a part of JSON. No UTF-8 has
/// the byte 0xFF, with which the trie marks tokens that have a meaning.
fn word(tokenizer: &Tokenizer, id: u32, stop_ids: &[u32]) -> Vec<u8> {
    let pieces = &tokenizer.vocab().pieces;
    // There may be more ids than pieces.
    let known = pieces.get(id).is_some_and(|piece| piece.kind != PieceKind::Unknown);
    let bytes = tokenizer.piece_bytes(id, ControlPieces::Omit);
    if !known || stop_ids.contains(&id) || bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
        return Vec::new();
    }
    bytes
}

/// What a constraint may take: some 50 ms to be made and 15 ms for a token, each at worst, and some
/// 50 MB while it lives.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 50_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// What went wrong, in one line and without the crate's own words for it.
fn plainly(error: &anyhow::Error) -> ConstraintError {
    const MOST: usize = 200;
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.starts_with('<'));
    let first = lines.next().unwrap_or_default();
    ConstraintError(match first {
        "NoExtensionBias" => "nothing that may come next leads to an end".into(),
        "regex parse error:" => format!("regex parse {}", lines.next_back().unwrap_or_default()),
        _ if first.starts_with("oneOf constraints are not supported") => {
            "`oneOf` is supported only where types, texts or required constants tell its schemas \
             apart; `anyOf` is"
                .into()
        }
        _ if first.starts_with("panic:") => "the grammar failed".into(),
        _ => first.chars().take(MOST).collect(),
    })
}
