//! The fields that all requests for answers have in common: how long, how many, how tokens are picked.

use super::{answer_format, unsupported};
use crate::sampling::SamplerConfig;
use crate::server::generation::sampling::{seed, settings, stop};
use crate::server::generation::Options;
use crate::server::http::error::ApiError;
use crate::server::http::fields::{wrong, Fields};
use crate::server::limits::{MAX_ANSWERS_PER_PROMPT, MAX_BIASES};
use crate::tokenizer::Special;

/// What a request asks for besides its prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Whether answers are sent while they are made.
    pub stream: bool,
    /// Whether a stream says at its end what it took.
    pub include_usage: bool,
    /// How answers are made. No log-probabilities are asked for: those fields differ between endpoints.
    pub options: Options,
}

impl Params {
    /// Reads them. `max_tokens`: the endpoint's names for the length of an answer, of which the first
    /// that a request has counts; `default`: the length if it has none of them; `sampler`: how tokens are
    /// picked if it does not say.
    pub fn read(
        fields: &Fields,
        max_tokens: &[&str],
        default: Option<usize>,
        n_vocab: usize,
        sampler: &SamplerConfig,
    ) -> Result<Self, ApiError> {
        unsupported::refuse(fields)?;
        let stream = fields.flag("stream")?;
        let options = fields.object("stream_options")?;
        if options.is_some() && !stream {
            let message = "stream_options are for answers with stream true";
            return Err(ApiError::field("stream_options", message));
        }
        let include_usage = options.map_or(Ok(false), |options| options.flag("include_usage"))?;
        let n = fields.integer("n", 1..=MAX_ANSWERS_PER_PROMPT as i64)?.unwrap_or(1) as usize;
        let best_of = fields.integer("best_of", 1..=i64::MAX)?;
        if best_of.is_some_and(|best_of| best_of != n as i64) {
            return Err(ApiError::unsupported("best_of", "best_of is supported where it equals n"));
        }
        let (format, format_field) = answer_format::read(fields)?;
        let options = Options {
            n,
            max_tokens: length(fields, max_tokens, default)?,
            sampling: sampling(fields, n_vocab, sampler)?,
            stop: stop(fields)?,
            ignore_eos: fields.flag("ignore_eos")?,
            format,
            format_field,
            ..Options::default()
        };
        Ok(Self { stream, include_usage, options })
    }
}

/// The most tokens of an answer. −1 means as many as the context takes, as in llama.cpp.
fn length(
    fields: &Fields,
    names: &[&str],
    default: Option<usize>,
) -> Result<Option<usize>, ApiError> {
    for name in names {
        match fields.integer(name, -1..=i64::MAX)? {
            None => continue,
            Some(n) => return Ok(usize::try_from(n).ok()),
        }
    }
    Ok(default)
}

/// How tokens are picked. A request that has none of the four settings gets the server's. In a request that
/// has any of them, the others have OpenAI's defaults, which are to do nothing.
fn sampling(
    fields: &Fields,
    n_vocab: usize,
    default: &SamplerConfig,
) -> Result<SamplerConfig, ApiError> {
    let silent = ["temperature", "top_p", "top_k", "min_p"].iter().all(|f| fields.get(f).is_none());
    let mut config = match silent {
        true => default.clone(),
        false => {
            SamplerConfig { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..default.clone() }
        }
    };
    settings(fields, &mut config)?;
    // vLLM's name.
    let penalty = fields.number("repetition_penalty", 0.01..=100.0)?;
    config.repeat_penalty = penalty.unwrap_or(config.repeat_penalty);
    if let Some(n) = fields.integer("repeat_last_n", 0..=i64::MAX)? {
        config.repeat_last_n = n as usize;
    }
    config.seed = seed(fields)?;
    config.logit_bias = logit_bias(fields, n_vocab)?;
    Ok(config)
}

fn logit_bias(fields: &Fields, n_vocab: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let what = format!(
        "an object of at most {MAX_BIASES} token ids, below {n_vocab}, each once, with numbers \
         from -100 to 100"
    );
    let error = || wrong("logit_bias", &what);
    let Some(value) = fields.get("logit_bias") else { return Ok(Vec::new()) };
    let biases = value.as_object().filter(|map| map.len() <= MAX_BIASES).ok_or_else(error)?;
    let mut read = Vec::with_capacity(biases.len());
    for (id, bias) in biases {
        let id = id.parse().ok().filter(|id: &u32| (*id as usize) < n_vocab);
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
        let (id, bias) = id.zip(bias).ok_or_else(error)?;
        read.push((id, bias as f32));
    }
    read.sort_unstable_by_key(|(id, _)| *id);
    // Two spellings of one number, such as 1 and 01, are an id twice.
    match read.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        true => Err(error()),
        false => Ok(read),
    }
}

/// What the texts of control tokens in a prompt are: those tokens, as in llama.cpp and vLLM, unless
/// llama.cpp's field `parse_special` is false.
pub fn special(fields: &Fields) -> Result<Special, ApiError> {
    let parse = fields.get("parse_special").is_none() || fields.flag("parse_special")?;
    Ok(if parse { Special::Trusted } else { Special::Plain })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::http::error::ErrorKind;
    use crate::server::limits::{MAX_STOPS, MAX_STOP_BYTES};
    use serde_json::{json, Value};

    fn read(body: &Value) -> Result<Params, ApiError> {
        Params::read(
            &Fields::of(body)?,
            &["max_completion_tokens", "max_tokens"],
            Some(16),
            100,
            &SamplerConfig::default(),
        )
    }

    #[test]
    fn what_is_absent_or_null_has_its_default() {
        let params = read(&json!({})).unwrap();
        let options = &params.options;
        assert_eq!(options.sampling, SamplerConfig::default());
        assert_eq!((options.n, options.max_tokens, params.stream), (1, Some(16), false));
        let nulls = json!({
            "n": null, "stop": null, "seed": null, "logit_bias": null, "temperature": null,
            "stream": null, "stream_options": null, "max_tokens": null, "top_k": null,
        });
        assert_eq!(read(&nulls).unwrap(), params);
    }

    #[test]
    fn what_is_given_is_taken() {
        let params = read(&json!({
            "n": 3, "max_tokens": 5, "max_completion_tokens": 6, "stop": ["a", "b"], "seed": -1,
            "logit_bias": {"7": -100, "3": 1.5}, "presence_penalty": 1, "frequency_penalty": -1,
            "repetition_penalty": 1.5, "stream": true, "stream_options": {"include_usage": true},
            "ignore_eos": true, "user": "x", "metadata": {"y": 1},
        }))
        .unwrap();
        let options = &params.options;
        assert_eq!((options.n, options.max_tokens), (3, Some(6)));
        assert_eq!(options.stop, ["a", "b"]);
        assert!(params.stream && params.include_usage && options.ignore_eos);
        let sampling = &options.sampling;
        assert_eq!(sampling.logit_bias, [(3, 1.5), (7, -100.0)]);
        assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (1.0, -1.0));
        assert_eq!((sampling.repeat_penalty, sampling.seed), (1.5, Some(u64::MAX)));
        assert_eq!(read(&json!({"stop": "one"})).unwrap().options.stop, ["one"]);
        assert_eq!(read(&json!({"max_tokens": -1})).unwrap().options.max_tokens, None);
        assert_eq!(read(&json!({"seed": u64::MAX})).unwrap().options.sampling.seed, Some(u64::MAX));
    }

    #[test]
    fn naming_one_setting_leaves_the_others_without_effect() {
        for (body, expected) in [
            (json!({"temperature": 0}), (0.0, 0, 1.0, 0.0)),
            (json!({"top_k": 5}), (1.0, 5, 1.0, 0.0)),
            (json!({"top_k": -1}), (1.0, 0, 1.0, 0.0)),
            (json!({"top_p": 0}), (1.0, 0, f32::MIN_POSITIVE, 0.0)),
            (json!({"min_p": 0.5, "temperature": 2}), (2.0, 0, 1.0, 0.5)),
        ] {
            let SamplerConfig { temperature, top_k, top_p, min_p, .. } =
                read(&body).unwrap().options.sampling;
            assert_eq!((temperature, top_k, top_p, min_p), expected, "{body}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_name() {
        let long = "x".repeat(MAX_STOP_BYTES + 1);
        let many = vec!["x"; MAX_STOPS + 1];
        for (param, value) in [
            ("n", json!(0)),
            ("n", json!(17)),
            ("n", json!("1")),
            ("n", json!(1.5)),
            ("max_tokens", json!(-2)),
            ("max_completion_tokens", json!(true)),
            ("temperature", json!(-0.1)),
            ("temperature", json!(2.1)),
            ("temperature", json!("hot")),
            ("top_p", json!(1.1)),
            ("top_k", json!(-2)),
            ("min_p", json!(-1)),
            ("presence_penalty", json!(2.5)),
            ("frequency_penalty", json!(-2.5)),
            ("repeat_penalty", json!(0)),
            ("repetition_penalty", json!([])),
            ("seed", json!(0.5)),
            ("seed", json!("7")),
            ("stop", json!("")),
            ("stop", json!(["a", ""])),
            ("stop", json!(["a", 1])),
            ("stop", json!({"a": 1})),
            ("stop", json!(long)),
            ("stop", json!(many)),
            ("logit_bias", json!([])),
            ("logit_bias", json!({"x": 1})),
            ("logit_bias", json!({"-1": 1})),
            ("logit_bias", json!({"100": 1})),
            ("logit_bias", json!({"1": 101})),
            ("logit_bias", json!({"1": null})),
            ("logit_bias", json!({"1": 1, "01": 2})),
            ("stream", json!("yes")),
            ("stream_options", json!({"include_usage": true})),
            ("ignore_eos", json!(1)),
        ] {
            let error = read(&json!({param: value.clone()})).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid);
            assert_eq!(error.field.as_deref(), Some(param), "{value}");
            assert!(error.message.contains(param), "{error:?}");
        }
        let error = read(&json!({"best_of": 2})).unwrap_err();
        assert_eq!((error.kind, error.field.as_deref()), (ErrorKind::Unsupported, Some("best_of")));
        assert!(read(&json!({"n": 2, "best_of": 2})).is_ok());
    }
}
