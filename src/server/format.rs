//! What an answer has to be like: `response_format`.

use serde_json::Value;

use super::error::ApiError;
use super::fields::{wrong, Fields};

/// What an answer has to be like.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Format {
    /// Any text.
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that fits a schema.
    JsonSchema(Value),
}

/// The field's name.
pub const FIELD: &str = "response_format";

impl Format {
    /// Reads it: in OpenAI's form, or with the schema beside `json_object` as llama.cpp has it.
    pub fn read(fields: &Fields) -> Result<Self, ApiError> {
        let Some(format) = fields.object(FIELD)? else { return Ok(Self::Text) };
        match format.text("type")? {
            Some("text") => Ok(Self::Text),
            Some("json_object") => {
                Ok(format.get("schema").cloned().map_or(Self::JsonObject, Self::JsonSchema))
            }
            Some("json_schema") => {
                let at = format.path("json_schema");
                let named = format.object("json_schema")?.ok_or_else(|| wrong(&at, "an object"))?;
                let schema = named.get("schema").cloned();
                let missing = || wrong(&named.path("schema"), "a JSON schema");
                schema.map(Self::JsonSchema).ok_or_else(missing)
            }
            _ => Err(wrong(&format.path("type"), "text, json_object or json_schema")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(format: Value) -> Result<Format, ApiError> {
        Format::read(&Fields::of(&json!({FIELD: format})).unwrap())
    }

    #[test]
    fn a_format_is_text_json_or_a_schema() {
        let schema = json!({"type": "integer"});
        assert_eq!(read(Value::Null), Ok(Format::Text));
        assert_eq!(read(json!({"type": "text"})), Ok(Format::Text));
        assert_eq!(read(json!({"type": "json_object"})), Ok(Format::JsonObject));
        let with_schema = Ok(Format::JsonSchema(schema.clone()));
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
            assert_eq!(read(format).unwrap_err().param.as_deref(), Some(param));
        }
    }
}
