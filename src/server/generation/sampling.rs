//! Fields of a request that several dialects have under the same names.

use serde_json::Value;

use crate::sampling::SamplerConfig;
use crate::server::http::error::ApiError;
use crate::server::http::fields::{wrong, Fields};
use crate::server::limits::{MAX_STOPS, MAX_STOP_BYTES};

/// Changes the settings that a request has.
pub fn settings(fields: &Fields, config: &mut SamplerConfig) -> Result<(), ApiError> {
    let set = |setting: &mut f32, value: Option<f32>| *setting = value.unwrap_or(*setting);
    set(&mut config.temperature, fields.number("temperature", 0.0..=2.0)?);
    set(&mut config.top_p, fields.number("top_p", 0.0..=1.0)?);
    // 0 keeps only the likeliest token.
    config.top_p = config.top_p.max(f32::MIN_POSITIVE);
    set(&mut config.min_p, fields.number("min_p", 0.0..=1.0)?);
    // llama.cpp's clients turn it off with −1 as well as with 0.
    if let Some(k) = fields.integer("top_k", -1..=i64::MAX)? {
        config.top_k = usize::try_from(k).unwrap_or(0);
    }
    set(&mut config.presence_penalty, fields.number("presence_penalty", -2.0..=2.0)?);
    set(&mut config.frequency_penalty, fields.number("frequency_penalty", -2.0..=2.0)?);
    set(&mut config.repeat_penalty, fields.number("repeat_penalty", 0.01..=100.0)?);
    Ok(())
}

/// Any whole number of 64 bits, signed or unsigned.
pub fn seed(fields: &Fields) -> Result<Option<u64>, ApiError> {
    let number = |value: &Value| value.as_u64().or(value.as_i64().map(|n| n as u64));
    let seed = |value| {
        number(value).ok_or_else(|| wrong(&fields.path("seed"), "a whole number of 64 bits"))
    };
    fields.get("seed").map(seed).transpose()
}

/// Texts that end an answer: one, or a list.
pub fn stop(fields: &Fields) -> Result<Vec<String>, ApiError> {
    let texts = match fields.get("stop") {
        None => return Ok(Vec::new()),
        Some(text @ Value::String(_)) => std::slice::from_ref(text),
        Some(Value::Array(texts)) if texts.len() <= MAX_STOPS => texts,
        Some(_) => {
            let what = format!("a string or a list of at most {MAX_STOPS} strings");
            return Err(wrong(&fields.path("stop"), &what));
        }
    };
    let mut stop = Vec::new();
    for text in texts {
        match text.as_str() {
            Some(text) if !text.is_empty() && text.len() <= MAX_STOP_BYTES => {
                stop.push(text.to_owned());
            }
            _ => {
                let what = format!("made of strings of 1 to {MAX_STOP_BYTES} bytes");
                return Err(wrong(&fields.path("stop"), &what));
            }
        }
    }
    Ok(stop)
}
