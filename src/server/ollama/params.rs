//! What a request asks for besides its prompt. `options` are the settings of
//! <https://github.com/ollama/ollama/blob/main/docs/modelfile.mdx#valid-parameters-and-values>; those that
//! say how the model is run, and not what it answers, change nothing here.

use crate::server::generation::sampling::{seed, settings, stop};
use crate::server::generation::{AnswerFormat, Options};
use crate::server::http::app::App;
use crate::server::http::error::ApiError;
use crate::server::http::fields::Fields;
use crate::server::openai::answer_format;
use crate::server::openai::unsupported::{self, Nothing};

/// Fields that change an answer and are not supported, besides those of all dialects.
const UNSUPPORTED: [(&str, Nothing); 6] = [
    ("images", Nothing::Empty),
    ("template", Nothing::Empty),
    ("context", Nothing::Empty),
    ("think", Nothing::Empty),
    ("logprobs", Nothing::Empty),
    ("top_logprobs", Nothing::Number(0.0)),
];

/// The same in a message.
const IN_MESSAGE: [(&str, Nothing); 1] = [("images", Nothing::Empty)];

/// Refuses what a message may not have.
pub fn refuse_in_message(message: &Fields) -> Result<(), ApiError> {
    unsupported::refuse_these(message, &IN_MESSAGE)
}

/// How the answer is made, and whether it is sent while it is.
pub fn read(app: &App, fields: &Fields) -> Result<(Options, bool), ApiError> {
    unsupported::refuse(fields)?;
    unsupported::refuse_these(fields, &UNSUPPORTED)?;
    let stream = fields.get("stream").is_none() || fields.flag("stream")?;
    let mut options = Options { sampling: app.defaults.sampling.clone(), ..Options::default() };
    if let Some(format) = fields.get("format") {
        options.format = answer_format::format(format, "format")?;
        options.format_field = (options.format != AnswerFormat::Text).then_some("format");
    }
    if let Some(given) = fields.object("options")? {
        read_options(&given, app.handle.n_ctx(), &mut options)?;
    }
    Ok((options, stream))
}

fn read_options(given: &Fields, n_ctx: usize, options: &mut Options) -> Result<(), ApiError> {
    unsupported::refuse(given)?;
    if let Some(n) = given.integer("num_ctx", 1..=i64::MAX)?.filter(|n| *n > n_ctx as i64) {
        let at = given.path("num_ctx");
        let message = format!("{at} is {n}, and the server has contexts of {n_ctx} tokens (--ctx)");
        return Err(ApiError::field(at, message));
    }
    let sampling = &mut options.sampling;
    settings(given, sampling)?;
    // −1 is the whole context.
    if let Some(n) = given.integer("repeat_last_n", -1..=i64::MAX)? {
        sampling.repeat_last_n = usize::try_from(n).unwrap_or(n_ctx);
    }
    sampling.seed = seed(given)?.or(sampling.seed);
    options.stop = stop(given)?;
    // −1 and −2 are as many as the context takes.
    let most = given.integer("num_predict", -2..=i64::MAX)?;
    options.max_tokens = most.and_then(|n| usize::try_from(n).ok());
    Ok(())
}
