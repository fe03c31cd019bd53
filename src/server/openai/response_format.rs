//! `response_format`: what an answer has to be.

use crate::server::generation::AnswerFormat;
use crate::server::http::error::ApiError;
use crate::server::http::fields::{wrong, Fields};

/// The field's name.
pub const FIELD: &str = "response_format";

/// Reads it: in OpenAI's form, or with the schema beside `json_object` as llama.cpp has it.
pub fn read(fields: &Fields) -> Result<AnswerFormat, ApiError> {
    let Some(format) = fields.object(FIELD)? else { return Ok(AnswerFormat::Text) };
    match format.text("type")? {
        Some("text") => Ok(AnswerFormat::Text),
        Some("json_object") => Ok(match format.get("schema") {
            Some(schema) => AnswerFormat::JsonSchema(schema.clone()),
            None => AnswerFormat::JsonObject,
        }),
        Some("json_schema") => {
            let at = format.path("json_schema");
            let named = format.object("json_schema")?.ok_or_else(|| wrong(&at, "an object"))?;
            let missing = || wrong(&named.path("schema"), "a JSON schema");
            let schema = named.get("schema").ok_or_else(missing)?;
            Ok(AnswerFormat::JsonSchema(schema.clone()))
        }
        _ => Err(wrong(&format.path("type"), "text, json_object or json_schema")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, Value};

    fn read(format: Value) -> Result<AnswerFormat, ApiError> {
        super::read(&Fields::of(&json!({FIELD: format})).unwrap())
    }

    #[test]
    fn a_format_is_text_json_or_a_schema() {
        let schema = json!({"type": "integer"});
        assert_eq!(read(Value::Null), Ok(AnswerFormat::Text));
        assert_eq!(read(json!({"type": "text"})), Ok(AnswerFormat::Text));
        assert_eq!(read(json!({"type": "json_object"})), Ok(AnswerFormat::JsonObject));
        let with_schema = Ok(AnswerFormat::JsonSchema(schema.clone()));
        assert_eq!(read(json!({"type": "json_object", "schema": schema})), with_schema);
        let named = json!({"name": "n", "strict": true, "schema": schema});
        assert_eq!(read(json!({"type": "json_schema", "json_schema": named})), with_schema);
    }

    #[test]
    fn what_is_no_format_is_refused_by_name() {
        for (format, param) in [
            (json!("json"), "response_format"),
            (json!({}), "response_format.type"),
            (json!({"type": "xml"}), "response_format.type"),
            (json!({"type": "json_schema"}), "response_format.json_schema"),
            (
                json!({"type": "json_schema", "json_schema": {"name": "n"}}),
                "response_format.json_schema.schema",
            ),
        ] {
            assert_eq!(read(format).unwrap_err().field.as_deref(), Some(param));
        }
    }
}
