//! Constraints for answers that are JSON, fit a JSON schema, match a regular expression, are one of some
//! texts, or follow a grammar. They use the crate `llguidance`
//! (<https://github.com/guidance-ai/llguidance>), which walks the vocabulary as a trie of bytes.
//!
//! Schemas are untrusted. `schema.rs` checks a schema and rewrites it in a small subset before the
//! crate compiles it; grammars in llama.cpp's notation are rewritten by `gbnf.rs`. The work, memory and
//! stack for compiling and for each token are limited. What
//! cannot be enforced exactly is refused by name, so that a complete answer always fits its schema.

mod constraint;
mod gbnf;
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
use constraint::GrammarConstraint;

/// White space between two JSON tokens: a space, or a line break and its indentation. It is bounded,
/// because a model that may not say what it wants to say can go on with white space forever.
const WHITE_SPACE: &str = r" |\n {0,40}|\n\t{0,20}";

/// Escapes in strings. `\u` is excluded: a name could be spelled in two ways and occur twice.
const ESCAPES: &str = "nrbtf\\\"";

/// Stack of the thread that compiles a schema, in bytes. The compiler recurses into schemas and along
/// the properties of objects; this is enough for the largest schema that `schema.rs` accepts. Only
/// the memory that is touched is used.
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

    /// Indexes the vocabulary, which takes 2 s and 90 MB for 256,000 pieces. `stop_ids` are the
    /// tokens with which the model ends its answers.
    ///
    /// # Errors
    /// If there are no stop ids, or one of them is outside the vocabulary.
    pub fn new(tokenizer: &Tokenizer, stop_ids: &[u32]) -> Result<Self, ConstraintError> {
        let n_vocab = tokenizer.vocab().pieces.len() as u32;
        let Some(first) = stop_ids.first() else {
            return Err(ConstraintError("the model has no token that ends an answer".into()));
        };
        if let Some(id) = stop_ids.iter().find(|id| **id >= n_vocab) {
            let message = format!("stop id {id} is outside the vocabulary of {n_vocab} pieces");
            return Err(ConstraintError(message));
        }
        let words: Vec<_> = (0..n_vocab).map(|id| token_bytes(tokenizer, id, stop_ids)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(n_vocab, *first), &words);
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie.with_eos_tokens(stop_ids)));
        let slices = SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &slices)
            .map_err(|error| constraint_error(&error))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self { factory })
    }

    /// A constraint to any JSON object.
    ///
    /// # Errors
    /// None is known.
    pub fn json_object(&self) -> Result<Box<dyn Constraint>, ConstraintError> {
        self.json_schema(&json!({ "type": "object" }))
    }

    /// A constraint to JSON that fits a schema of draft 2020-12 or an earlier one. Objects have their
    /// properties in the schema's order. Numbers are within ±(2⁵³ − 1), the range in which all JSON
    /// readers agree (RFC 7493).
    ///
    /// # Errors
    /// If the schema is malformed, uses unsupported keywords, is too large or cannot be satisfied.
    pub fn json_schema(&self, schema: &Value) -> Result<Box<dyn Constraint>, ConstraintError> {
        let mut schema = schema::prepare(schema)?;
        let options = JsonCompileOptions {
            whitespace_pattern: Some(WHITE_SPACE.into()),
            json_allowed_escapes: Some(ESCAPES.into()),
            ..Default::default()
        };
        options.apply_to(&mut schema);
        self.compile("schema", TopLevelGrammar::from_json_schema(schema))
    }

    /// A constraint to texts that a regular expression matches from beginning to end, in the syntax of
    /// the crate `regex` without looking around. Anchors at the ends say nothing more.
    ///
    /// # Errors
    /// If the expression is malformed, uses what is not supported, is too large, or matches nothing.
    pub fn regex(&self, pattern: &str) -> Result<Box<dyn Constraint>, ConstraintError> {
        let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
        let pattern = match pattern.strip_suffix('$') {
            Some(before) if !escapes_next(before) => before,
            _ => pattern,
        };
        self.compile("regular expression", TopLevelGrammar::from_regex(pattern))
    }

    /// A constraint to one of `texts`.
    ///
    /// # Errors
    /// If there are none, or too many to compile.
    pub fn choice(&self, texts: &[String]) -> Result<Box<dyn Constraint>, ConstraintError> {
        if texts.is_empty() {
            return Err(ConstraintError("there is no text to choose".into()));
        }
        let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
        let lark = format!("start: {}\n", texts.join(" | "));
        self.compile("choice", TopLevelGrammar::from_lark(lark))
    }

    /// A constraint to texts of a grammar: in llama.cpp's notation (GBNF) from `root`, or in that of
    /// `llguidance` (Lark) from `start`.
    ///
    /// # Errors
    /// If the grammar is malformed, uses what is not supported, is too large, or no text can begin.
    pub fn grammar(&self, grammar: &str) -> Result<Box<dyn Constraint>, ConstraintError> {
        let lark = match gbnf::is_gbnf(grammar) {
            true => gbnf::to_lark(grammar)?,
            false => grammar.to_owned(),
        };
        self.compile("grammar", TopLevelGrammar::from_lark(lark))
    }

    /// Compiles a grammar, which errors call `name`.
    fn compile(
        &self,
        name: &str,
        grammar: TopLevelGrammar,
    ) -> Result<Box<dyn Constraint>, ConstraintError> {
        let parser = thread::scope(|scope| {
            let compile = || self.factory.create_parser(grammar);
            let thread = thread::Builder::new().name("grammar".into()).stack_size(STACK);
            let compiling = thread.spawn_scoped(scope, compile).map_err(|error| {
                ConstraintError(format!("cannot start a thread to compile the {name}: {error}"))
            })?;
            let compiled = compiling.join();
            let compiled = compiled.map_err(|_| ConstraintError(format!("the {name} failed")))?;
            compiled.map_err(|error| constraint_error(&error))
        })?;
        let mut constraint = GrammarConstraint::new(Matcher::new(Ok(parser)))?;
        // This finds schemas that only an infinite value would fit.
        constraint.mask(&mut [])?;
        Ok(Box::new(constraint))
    }
}

/// A text as Lark spells it, which is as JSON does.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Whether what follows `text` in a regular expression is escaped.
fn escapes_next(text: &str) -> bool {
    let backslashes = text.len() - text.trim_end_matches('\\').len();
    backslashes % 2 == 1
}

/// The bytes of a token for the trie; none for tokens that are never part of JSON. The trie marks
/// special tokens with the byte 0xFF, which does not occur in UTF-8.
fn token_bytes(tokenizer: &Tokenizer, id: u32, stop_ids: &[u32]) -> Vec<u8> {
    let pieces = &tokenizer.vocab().pieces;
    // There may be more ids than pieces (embedding rows without a piece).
    let known = pieces.get(id).is_some_and(|piece| piece.kind != PieceKind::Unknown);
    let bytes = tokenizer.piece_bytes(id, ControlPieces::Omit);
    if !known || stop_ids.contains(&id) || bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
        return Vec::new();
    }
    bytes
}

/// Limits of a constraint: at worst some 50 ms to compile it and 15 ms per token, and some 50 MB while
/// it exists.
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

/// The crate's error in one line, without its internal terms.
fn constraint_error(error: &anyhow::Error) -> ConstraintError {
    const MAX_CHARS: usize = 200;
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.starts_with('<'));
    let first = lines.next().unwrap_or_default();
    ConstraintError(match first {
        "NoExtensionBias" => "no continuation leads to a complete answer".into(),
        "regex parse error:" => format!("regex parse {}", lines.next_back().unwrap_or_default()),
        _ if first.starts_with("oneOf constraints are not supported") => {
            "`oneOf` is supported only if the types, strings or required constants of its schemas \
             exclude each other; `anyOf` is supported"
                .into()
        }
        _ if first.starts_with("panic:") => "the grammar failed".into(),
        _ => first.chars().take(MAX_CHARS).collect(),
    })
}
