//! Generates text: evaluates tokens, samples the next one, and checks for the end.
//!
//! - [`Generation`]: a text that is being generated. It samples the next token, decides what may be
//!   shown, and detects the end. [`Session`] and the slots of an [engine](crate::engine) both use it.
//! - [`Session`]: a single sequence. [`Session::generate`] is an iterator over the tokens of a text,
//!   which can be cancelled.
//! - [`draft`]: guesses the next tokens, so that one pass over the weights gives several.
//! - [`Shift`]: chooses the tokens with which a session continues when its context is full.
//!
//! ```
//! use lapidary::generate::{Limits, Session};
//! use lapidary::kernels::KvType;
//! use lapidary::model::{Model, Source, StateOptions};
//! use lapidary::sampling::{Sampler, SamplerConfig};
//! use lapidary::tokenizer::{Special, Tokenizer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-gemma2");
//! let source = Source::open(dir.as_ref())?;
//! let tokenizer = Tokenizer::new(source.vocab()?)?;
//! let model = Model::load(&source, None)?;
//! let sampler = Sampler::new(SamplerConfig { temperature: 0.0, ..SamplerConfig::default() })?;
//! let options = StateOptions::new(256, KvType::F16);
//! let stop_ids = source.stop_ids(tokenizer.vocab());
//! let mut session = Session::new(&model, &tokenizer, stop_ids, sampler, options);
//!
//! let prompt = tokenizer.encode_with_bos("And David went up to", Special::Plain);
//! let limits = Limits { max_tokens: Some(8), cancelled: &|| false };
//! let mut text = String::new();
//! for shown in session.generate(&prompt, limits, &mut ())? {
//!     text += &shown?.text;
//! }
//! assert!(!text.is_empty());
//! # Ok(())
//! # }
//! ```

mod ahead;
mod answer;
pub mod draft;
mod error;
mod generation;
mod session;
mod shift;
mod text;
mod token;

pub use answer::{tokens_per_second, Answer, DraftStats, End};
pub use error::{GenerateError, PromptTooLong};
pub use generation::{Finish, Generation, GenerationOptions};
pub use session::{Limits, Session, Tokens};
pub use shift::{OldestHalf, Shift};
pub use text::Shown;
pub use token::{Token, TokenLogprobs};

#[cfg(test)]
mod tests;
