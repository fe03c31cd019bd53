//! What an answer has to be, under all the names that clients have for it: OpenAI's `response_format`,
//! which TGI and llama.cpp read as well, and the fields of llama.cpp, vLLM, SGLang and Ollama.

use serde_json::Value;

use crate::server::generation::AnswerFormat;
use crate::server::http::error::ApiError;
use crate::server::http::fields::{wrong, Fields};
use crate::server::limits::{MAX_CHOICES, MAX_GRAMMAR};

/// Reads the value of a field, whose path is given too.
type Read = fn(&Value, &str) -> Result<AnswerFormat, ApiError>;

/// The fields.
const FIELDS: [(&str, Read); 11] = [
    ("response_format", response_format),
    // llama.cpp's and SGLang's.
    ("json_schema", schema),
    // llama.cpp's.
    ("grammar", grammar),
    // SGLang's.
    ("regex", regex),
    ("ebnf", grammar),
    // vLLM's, of before 0.11 and after it.
    ("guided_json", schema),
    ("guided_regex", regex),
    ("guided_choice", choice),
    ("guided_grammar", grammar),
    ("structured_outputs", structured_outputs),
    // Ollama's.
    ("format", format),
];

/// Reads all fields, of which one at most may restrict the answer, and tells which one it is.
pub fn read(fields: &Fields) -> Result<(AnswerFormat, Option<&'static str>), ApiError> {
    let mut found = (AnswerFormat::Text, None);
    for (name, read) in FIELDS {
        let Some(value) = fields.get(name) else { continue };
        let format = read(value, &fields.path(name))?;
        match (&found.1, format) {
            (_, AnswerFormat::Text) => {}
            (None, format) => found = (format, Some(name)),
            (Some(other), _) => {
                let message = format!("{other} and {name} cannot both be kept");
                return Err(ApiError::field(name, message));
            }
        }
    }
    Ok(found)
}

/// OpenAI's form; with the schema beside `json_object` as llama.cpp has it, or as `value` as TGI does.
fn response_format(value: &Value, at: &str) -> Result<AnswerFormat, ApiError> {
    let format = Fields::of_part(value, at)?;
    let value = || {
        let value = format.get("value");
        value.ok_or_else(|| wrong(&format.path("value"), "what the answer has to fit"))
    };
    match format.text("type")? {
        Some("text") => Ok(AnswerFormat::Text),
        Some("json_object") => {
            let given = |name: &&'static str| Some((*name, format.get(name)?));
            match ["schema", "value"].iter().find_map(given) {
                Some((name, value)) => schema(value, &format.path(name)),
                None => Ok(AnswerFormat::JsonObject),
            }
        }
        Some("json_schema") if format.get("value").is_some() => {
            schema(value()?, &format.path("value"))
        }
        Some("json_schema") => {
            let at = format.path("json_schema");
            let named = format.object("json_schema")?.ok_or_else(|| wrong(&at, "an object"))?;
            let missing = || wrong(&named.path("schema"), "a JSON schema");
            schema(named.get("schema").ok_or_else(missing)?, &named.path("schema"))
        }
        Some("json") => schema(value()?, &format.path("value")),
        Some("regex") => regex(value()?, &format.path("value")),
        Some("grammar") => match format.get("grammar") {
            Some(value) => grammar(value, &format.path("grammar")),
            None => grammar(value()?, &format.path("value")),
        },
        _ => Err(wrong(&format.path("type"), "text, json_object, json_schema, regex or grammar")),
    }
}

/// vLLM's form since 0.11.
fn structured_outputs(value: &Value, at: &str) -> Result<AnswerFormat, ApiError> {
    const READ: [(&str, Read); 5] = [
        ("json", schema),
        ("regex", regex),
        ("choice", choice),
        ("grammar", grammar),
        ("json_object", json_object),
    ];
    let outputs = Fields::of_part(value, at)?;
    for name in ["structural_tag", "whitespace_pattern"] {
        if outputs.get(name).is_some() {
            let text = format!("{name} is not supported by this server");
            return Err(ApiError::unsupported(outputs.path(name), text));
        }
    }
    let mut given = READ.iter().filter_map(|(name, read)| Some((name, outputs.get(name)?, read)));
    match (given.next(), given.next()) {
        (None, _) => Ok(AnswerFormat::Text),
        (Some((name, value, read)), None) => read(value, &outputs.path(name)),
        (Some(_), Some(_)) => {
            Err(wrong(at, "an object with one of json, regex, choice and grammar"))
        }
    }
}

fn json_object(value: &Value, at: &str) -> Result<AnswerFormat, ApiError> {
    match value {
        Value::Bool(true) => Ok(AnswerFormat::JsonObject),
        Value::Bool(false) => Ok(AnswerFormat::Text),
        _ => Err(wrong(at, "true or false")),
    }
}

/// `json` for any object, or a schema.
pub fn format(value: &Value, at: &str) -> Result<AnswerFormat, ApiError> {
    match value.as_str() {
        Some("") => Ok(AnswerFormat::Text),
        Some("json") => Ok(AnswerFormat::JsonObject),
        Some(_) => Err(wrong(at, "json or a JSON schema")),
        None => schema(value, at),
    }
}

/// A schema, or its text.
fn schema(value: &Value, at: &str) -> Result<AnswerFormat, ApiError> {
    let read = value.as_str().map(serde_json::from_str).transpose();
    let schema = read.ok().map(|read| read.unwrap_or_else(|| value.clone()));
    let schema = schema.filter(|schema| schema.is_object() || schema.is_boolean());
    Ok(AnswerFormat::JsonSchema(schema.ok_or_else(|| wrong(at, "a JSON schema"))?))
}

fn regex(value: &Value, at: &str) -> Result<AnswerFormat, ApiError> {
    let what = format!("a regular expression of 1 to {MAX_GRAMMAR} bytes");
    text(value).map(AnswerFormat::Regex).ok_or_else(|| wrong(at, &what))
}

fn grammar(value: &Value, at: &str) -> Result<AnswerFormat, ApiError> {
    let what = format!("a grammar of 1 to {MAX_GRAMMAR} bytes");
    match value.as_str() {
        // llama.cpp's clients send an empty one for none.
        Some("") => Ok(AnswerFormat::Text),
        _ => text(value).map(AnswerFormat::Grammar).ok_or_else(|| wrong(at, &what)),
    }
}

fn choice(value: &Value, at: &str) -> Result<AnswerFormat, ApiError> {
    let what = format!("a list of 1 to {MAX_CHOICES} texts, {MAX_GRAMMAR} bytes together");
    let texts: Option<Vec<String>> =
        value.as_array().and_then(|texts| texts.iter().map(text).collect());
    let fits = |texts: &Vec<String>| {
        (1..=MAX_CHOICES).contains(&texts.len())
            && texts.iter().map(String::len).sum::<usize>() <= MAX_GRAMMAR
    };
    let texts = texts.filter(fits).ok_or_else(|| wrong(at, &what))?;
    Ok(AnswerFormat::Choice(texts))
}

fn text(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    (1..=MAX_GRAMMAR).contains(&text.len()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Result<AnswerFormat, ApiError> {
        super::read(&Fields::of(&body).unwrap()).map(|(format, _)| format)
    }

    #[test]
    fn every_name_of_a_format_is_read() {
        let schema = json!({"type": "integer"});
        let named = json!({"name": "n", "strict": true, "schema": schema});
        let regex = || AnswerFormat::Regex("[ab]+".into());
        let grammar = || AnswerFormat::Grammar("root ::= \"x\"".into());
        let choice = || AnswerFormat::Choice(vec!["yes".into(), "no".into()]);
        let format = |format: Value| json!({"response_format": format});
        let outputs = |outputs: Value| json!({"structured_outputs": outputs});
        for (body, expected) in [
            (json!({"response_format": null, "grammar": "", "format": ""}), AnswerFormat::Text),
            (format(json!({"type": "text"})), AnswerFormat::Text),
            (format(json!({"type": "json_object"})), AnswerFormat::JsonObject),
            (json!({"format": "json"}), AnswerFormat::JsonObject),
            (outputs(json!({"json_object": true})), AnswerFormat::JsonObject),
            (outputs(json!({})), AnswerFormat::Text),
            (format(json!({"type": "regex", "value": "[ab]+"})), regex()),
            (json!({"regex": "[ab]+"}), regex()),
            (json!({"guided_regex": "[ab]+", "response_format": {"type": "text"}}), regex()),
            (outputs(json!({"regex": "[ab]+"})), regex()),
            (format(json!({"type": "grammar", "grammar": "root ::= \"x\""})), grammar()),
            (json!({"grammar": "root ::= \"x\""}), grammar()),
            (json!({"ebnf": "root ::= \"x\""}), grammar()),
            (json!({"guided_grammar": "root ::= \"x\""}), grammar()),
            (outputs(json!({"grammar": "root ::= \"x\"", "json": null})), grammar()),
            (json!({"guided_choice": ["yes", "no"]}), choice()),
            (outputs(json!({"choice": ["yes", "no"]})), choice()),
        ] {
            assert_eq!(read(body.clone()), Ok(expected), "{body}");
        }
        for body in [
            format(json!({"type": "json_object", "schema": schema})),
            format(json!({"type": "json_object", "value": schema})),
            format(json!({"type": "json", "value": schema})),
            format(json!({"type": "json_schema", "value": schema})),
            format(json!({"type": "json_schema", "json_schema": named})),
            json!({"json_schema": schema}),
            json!({"json_schema": schema.to_string()}),
            json!({"guided_json": schema}),
            json!({"format": schema}),
            outputs(json!({"json": schema})),
        ] {
            assert_eq!(read(body.clone()), Ok(AnswerFormat::JsonSchema(schema.clone())), "{body}");
        }
    }

    #[test]
    fn what_is_no_format_is_refused_by_name() {
        let format = |format: Value| json!({"response_format": format});
        for (body, param) in [
            (format(json!("json")), "response_format"),
            (format(json!({})), "response_format.type"),
            (format(json!({"type": "xml"})), "response_format.type"),
            (format(json!({"type": "regex"})), "response_format.value"),
            (format(json!({"type": "json_object", "value": 1})), "response_format.value"),
            (format(json!({"type": "json_schema"})), "response_format.json_schema"),
            (
                format(json!({"type": "json_schema", "json_schema": {"name": "n"}})),
                "response_format.json_schema.schema",
            ),
            (json!({"json_schema": "{"}), "json_schema"),
            (json!({"regex": ""}), "regex"),
            (json!({"regex": "x".repeat(MAX_GRAMMAR + 1)}), "regex"),
            (json!({"guided_choice": []}), "guided_choice"),
            (json!({"guided_choice": ["a", 1]}), "guided_choice"),
            (json!({"guided_choice": vec!["a"; MAX_CHOICES + 1]}), "guided_choice"),
            (json!({"grammar": 1}), "grammar"),
            (json!({"format": "xml"}), "format"),
            (json!({"regex": "a", "guided_json": {}}), "guided_json"),
            (json!({"structured_outputs": {"json": {}, "regex": "a"}}), "structured_outputs"),
            (
                json!({"structured_outputs": {"structural_tag": "x"}}),
                "structured_outputs.structural_tag",
            ),
        ] {
            assert_eq!(read(body.clone()).unwrap_err().field.as_deref(), Some(param), "{body}");
        }
    }
}
