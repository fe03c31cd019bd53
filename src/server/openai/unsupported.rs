//! Fields of requests that change an answer in ways that this server does not support. They are refused by
//! name at every endpoint, because an answer that silently lacks what was asked for is worse than none.

use serde_json::Value;

use crate::server::http::error::ApiError;
use crate::server::http::fields::Fields;

/// The value of a field that asks for nothing. So do `null`, false, empty lists, objects and texts, and the
/// texts `none` and `auto`.
pub enum Nothing {
    /// No other.
    Empty,
    /// A number.
    Number(f64),
    /// `true`
    True,
    /// A list of this alone.
    Only(&'static str),
}

use Nothing::{Empty, Number, Only, True};

/// The fields, by whose they are.
const FIELDS: [(&str, Nothing); 46] = [
    // OpenAI.
    ("audio", Empty),
    ("function_call", Empty),
    ("functions", Empty),
    ("modalities", Only("text")),
    ("prediction", Empty),
    ("suffix", Empty),
    ("tool_choice", Empty),
    ("tools", Empty),
    ("web_search_options", Empty),
    // vLLM and SGLang.
    ("allowed_token_ids", Empty),
    ("bad_words", Empty),
    ("chat_template", Empty),
    ("chat_template_kwargs", Empty),
    ("documents", Empty),
    ("guided_whitespace_pattern", Empty),
    ("include_stop_str_in_output", Empty),
    ("length_penalty", Number(1.0)),
    ("logits_processors", Empty),
    ("min_tokens", Number(0.0)),
    ("no_stop_trim", Empty),
    ("prompt_logprobs", Empty),
    ("skip_special_tokens", True),
    ("spaces_between_special_tokens", True),
    ("stop_regex", Empty),
    ("stop_token_ids", Empty),
    ("structural_tag", Empty),
    ("truncate_prompt_tokens", Empty),
    ("use_beam_search", Empty),
    // llama.cpp.
    ("dry_multiplier", Number(0.0)),
    ("dynatemp_range", Number(0.0)),
    ("grammar_lazy", Empty),
    ("grammar_triggers", Empty),
    ("lora", Empty),
    ("min_keep", Number(0.0)),
    ("mirostat", Number(0.0)),
    ("n_indent", Number(0.0)),
    ("n_probs", Number(0.0)),
    ("post_sampling_probs", Empty),
    ("preserved_tokens", Empty),
    ("response_fields", Empty),
    ("return_tokens", Empty),
    ("t_max_predict_ms", Number(0.0)),
    ("tfs_z", Number(1.0)),
    ("top_n_sigma", Number(-1.0)),
    ("typical_p", Number(1.0)),
    ("xtc_probability", Number(0.0)),
];

/// Refuses them where they ask for something.
pub fn refuse(fields: &Fields) -> Result<(), ApiError> {
    refuse_these(fields, &FIELDS)
}

/// Refuses fields of a list where they ask for something.
pub fn refuse_these(fields: &Fields, list: &[(&str, Nothing)]) -> Result<(), ApiError> {
    let asks = |(name, nothing): &&(&str, Nothing)| {
        fields.get(name).is_some_and(|value| !nothing.is(value))
    };
    match list.iter().find(asks) {
        Some((name, _)) => {
            let path = fields.path(name);
            let message = format!("{path} is not supported by this server");
            Err(ApiError::unsupported(path, message))
        }
        None => Ok(()),
    }
}

impl Nothing {
    fn is(&self, value: &Value) -> bool {
        match (self, value) {
            (Only(text), Value::Array(list)) if list.len() == 1 => list[0] == **text,
            (_, Value::Array(list)) => list.is_empty(),
            (_, Value::Object(map)) => map.is_empty(),
            (_, Value::String(text)) => matches!(text.as_str(), "" | "none" | "auto"),
            (True, Value::Bool(on)) => *on,
            (_, Value::Bool(on)) => !on,
            (Number(neutral), Value::Number(number)) => number.as_f64() == Some(*neutral),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::http::error::ErrorKind;
    use serde_json::json;

    fn refused(body: Value) -> Option<String> {
        let error = refuse(&Fields::of(&body).unwrap()).err()?;
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert_eq!(
            error.message,
            format!("{} is not supported by this server", error.field.as_ref()?)
        );
        error.field
    }

    #[test]
    fn what_asks_for_nothing_is_not_refused() {
        let body = json!({
            "tools": [], "tool_choice": "none", "audio": null, "logit": 1, "modalities": ["text"],
            "min_tokens": 0, "skip_special_tokens": true, "lora": [], "typical_p": 1, "mirostat": 0.0,
            "use_beam_search": false, "chat_template_kwargs": {}, "suffix": "",
        });
        assert_eq!(refused(body), None);
    }

    #[test]
    fn what_asks_for_something_is_refused_by_name() {
        for (name, value) in [
            ("tools", json!([{}])),
            ("tool_choice", json!("required")),
            ("modalities", json!(["text", "audio"])),
            ("suffix", json!("x")),
            ("min_tokens", json!(5)),
            ("stop_token_ids", json!([107])),
            ("skip_special_tokens", json!(false)),
            ("use_beam_search", json!(true)),
            ("mirostat", json!(2)),
            ("lora", json!([{"id": 0, "scale": 0.5}])),
            ("prompt_logprobs", json!(0)),
        ] {
            assert_eq!(refused(json!({name: value})).as_deref(), Some(name));
        }
    }
}
