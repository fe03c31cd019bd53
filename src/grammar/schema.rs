//! Checks an untrusted JSON schema and rewrites it. In the result every schema is either a single
//! `$ref`, `anyOf`, `oneOf`, `enum` or `const`, or a list of types with the keywords of these types.
//! A grammar made from that is no larger than the schema. Schemas that are combined with each other
//! (for example `anyOf` beside `properties`) could multiply its size.

mod keywords;
mod types;

use std::collections::{BTreeMap, VecDeque};

use serde_json::{json, Map, Value};

use crate::sampling::ConstraintError;
use types::Types;

/// Largest number of schemas, names and values in a schema.
const MAX_NODES: usize = 10_000;
/// Largest total length of its names and strings, in bytes.
const MAX_TEXT: usize = 256 << 10;
/// Deepest nesting, without following references.
const MAX_DEPTH: usize = 64;
/// Most regular expressions, including formats: each may take milliseconds.
const MAX_PATTERNS: usize = 100;
/// Most schemas in a `oneOf`: each is compared with all others.
const MAX_ONE_OF: usize = 100;
/// Most properties of an object: if all are optional, each of them may come next.
const MAX_PROPERTIES: usize = 400;
/// Most properties of an object with `minProperties` or `maxProperties`: the grammar has a copy for
/// each possible count.
const MAX_COUNTED_PROPERTIES: usize = 40;

/// Largest integer that all JSON readers represent exactly (RFC 7493, 2.2).
const MAX_NUMBER: f64 = 9_007_199_254_740_991.0;

/// Keywords that are supported only alone or with `type`.
const STANDALONE: [&str; 6] = ["$ref", "allOf", "anyOf", "oneOf", "enum", "const"];

/// Keywords that may be combined with each other.
const COMBINABLE: [&str; 21] = [
    "type",
    "items",
    "prefixItems",
    "additionalItems",
    "minItems",
    "maxItems",
    "properties",
    "patternProperties",
    "additionalProperties",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];

/// Keywords that restrict values and are not supported. Keywords of no draft are ignored.
const UNSUPPORTED: [&str; 17] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
    "extends",
];

/// Whether every value fits a keyword of [`UNSUPPORTED`], as generators of schemas often write it.
fn says_nothing(keyword: &str, value: &Value, schema: &Map<String, Value>) -> bool {
    let is_empty = value.as_object().is_some_and(Map::is_empty);
    match keyword {
        "not" => value == &json!(false),
        "then" | "else" => !schema.contains_key("if"),
        "if" => !schema.contains_key("then") && !schema.contains_key("else"),
        "minContains" | "maxContains" => !schema.contains_key("contains"),
        "uniqueItems" => value == &json!(false),
        "propertyNames" => is_empty || [json!(true), json!({"type": "string"})].contains(value),
        "unevaluatedItems" | "unevaluatedProperties" => is_empty || value == &json!(true),
        "dependencies" | "dependentRequired" | "dependentSchemas" => is_empty,
        _ => false,
    }
}

/// Rewrites a schema. The schemas that it refers to are put below `$defs`.
pub(super) fn prepare(root: &Value) -> Result<Value, ConstraintError> {
    let empty = Map::new();
    let mut rewriter = Rewriter {
        root,
        empty: &empty,
        names: BTreeMap::new(),
        pending: VecDeque::new(),
        path: vec!["#".into()],
        nodes: 0,
        text: 0,
        patterns: 0,
    };
    let schema = rewriter.schema(root, Types::ALL)?;
    let mut definitions = Map::new();
    while let Some(Definition { name, target, types }) = rewriter.pending.pop_front() {
        let rewritten = match target {
            None => rewriter.combinable(&empty, types)?,
            Some((reference, schema)) => {
                rewriter.path = vec![reference.into()];
                rewriter.schema(schema, types)?
            }
        };
        definitions.insert(name, rewritten);
    }
    match schema {
        Value::Object(mut map) => {
            map.insert("$defs".into(), definitions.into());
            Ok(map.into())
        }
        _ => Err(ConstraintError("no value fits the schema".into())),
    }
}

struct Rewriter<'s> {
    root: &'s Value,
    /// The schema without keywords.
    empty: &'s Map<String, Value>,
    /// Names of the definitions. The key is a reference, or `None` for any value, and the allowed
    /// types.
    names: BTreeMap<(Option<&'s str>, Types), String>,
    /// Definitions that are still to be written.
    pending: VecDeque<Definition<'s>>,
    /// Path of the current schema, for messages.
    path: Vec<String>,
    nodes: usize,
    text: usize,
    patterns: usize,
}

/// A schema that is written once and referred to by name.
struct Definition<'s> {
    name: String,
    /// A reference and the schema that it refers to; `None` for any value.
    target: Option<(&'s str, &'s Value)>,
    types: Types,
}

type Rewritten = Result<Value, ConstraintError>;

impl<'s> Rewriter<'s> {
    /// Rewrites `schema` so that it allows only values of `types`.
    fn schema(&mut self, schema: &'s Value, types: Types) -> Rewritten {
        self.count(0)?;
        let map = match schema {
            Value::Bool(false) => return Ok(json!(false)),
            Value::Bool(true) => return Ok(self.definition(None, types)),
            Value::Object(map) => map,
            _ => return Err(self.error("a schema must be an object, true or false")),
        };
        let restricts = |keyword: &&&str| {
            map.get(**keyword).is_some_and(|value| !says_nothing(keyword, value, map))
        };
        if let Some(keyword) = UNSUPPORTED.iter().find(restricts) {
            return Err(self.error(&format!("`{keyword}` is not supported")));
        }
        let own = match map.get("type") {
            Some(value) => Types::parse(value).map_err(|message| self.error(&message))?,
            None => Types::ALL,
        };
        let types = types & own;
        let Some(standalone) = STANDALONE.iter().find(|keyword| map.contains_key(**keyword)) else {
            return match COMBINABLE.iter().any(|keyword| map.contains_key(*keyword)) {
                true => self.combinable(map, types),
                false => Ok(self.definition(None, types)),
            };
        };
        let is_other = |keyword: &&&str| **keyword != "type" && **keyword != *standalone;
        let mut others = STANDALONE.iter().chain(&COMBINABLE).filter(is_other);
        if let Some(other) = others.find(|keyword| map.contains_key(**keyword)) {
            return Err(self.error(&format!("`{standalone}` beside `{other}` is not supported")));
        }
        let value = &map[*standalone];
        self.descend(standalone, |rewriter| match *standalone {
            "$ref" => rewriter.reference(value, types),
            "allOf" => match value.as_array().map(Vec::as_slice) {
                Some([only]) => rewriter.schema(only, types),
                _ => Err(rewriter.error("only one schema is supported here")),
            },
            "enum" => rewriter.values(rewriter.array(value)?, types),
            "const" => rewriter.values(std::slice::from_ref(value), types),
            _ => rewriter.choice(standalone, value, types),
        })
    }

    /// Rewrites `anyOf` and `oneOf`.
    fn choice(&mut self, keyword: &str, value: &'s Value, types: Types) -> Rewritten {
        let options = self.array(value)?;
        if keyword == "oneOf" && options.len() > MAX_ONE_OF {
            return Err(self.error(&format!("more than {MAX_ONE_OF} schemas")));
        }
        let mut rewritten = Vec::new();
        for (i, option) in options.iter().enumerate() {
            let option = self.descend(&i.to_string(), |rewriter| rewriter.schema(option, types))?;
            rewritten.push(option);
        }
        Ok(json!({ keyword: rewritten }))
    }

    /// An `enum` of those `values` that have one of `types`.
    fn values(&mut self, values: &'s [Value], types: Types) -> Rewritten {
        for value in values {
            self.value(value)?;
        }
        let fitting: Vec<_> = values.iter().filter(|value| types.holds(value)).collect();
        match fitting.is_empty() {
            true => Ok(json!(false)),
            false => Ok(json!({ "enum": fitting })),
        }
    }

    /// Checks a value that may have to be part of the answer.
    fn value(&mut self, value: &'s Value) -> Result<(), ConstraintError> {
        self.count(value.as_str().map_or(0, str::len))?;
        match value {
            Value::Number(number) => {
                let exact = number.as_f64().is_some_and(|x| x.abs() <= MAX_NUMBER);
                if !exact {
                    return Err(self.error(&format!("{number} is outside ±(2^53 - 1)")));
                }
            }
            Value::Array(values) => {
                for (i, value) in values.iter().enumerate() {
                    self.descend(&i.to_string(), |rewriter| rewriter.value(value))?;
                }
            }
            Value::Object(map) => {
                for (name, value) in map {
                    self.count(name.len())?;
                    self.descend(name, |rewriter| rewriter.value(value))?;
                }
            }
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
        Ok(())
    }

    /// Rewrites a reference within the schema.
    fn reference(&mut self, value: &'s Value, types: Types) -> Rewritten {
        let Some(reference) = value.as_str() else {
            return Err(self.error("a string is needed"));
        };
        self.count(reference.len())?;
        let pointer = match reference.strip_prefix('#') {
            Some(pointer) if pointer.is_empty() || pointer.starts_with('/') => pointer,
            _ => return Err(self.error("only references within the schema (#/...) are supported")),
        };
        match self.root.pointer(pointer) {
            Some(schema) => Ok(self.definition(Some((reference, schema)), types)),
            None => Err(self.error(&format!("there is no {}", shortened(reference)))),
        }
    }

    /// A reference to the definition of `target`, which is written later if it is new.
    fn definition(&mut self, target: Option<(&'s str, &'s Value)>, types: Types) -> Value {
        let next = format!("d{}", self.names.len());
        let key = (target.map(|(reference, _)| reference), types);
        let name = self.names.entry(key).or_insert_with(|| {
            self.pending.push_back(Definition { name: next.clone(), target, types });
            next
        });
        json!({ "$ref": format!("#/$defs/{name}") })
    }

    /// Rewrites a schema of types and their keywords.
    fn combinable(&mut self, map: &'s Map<String, Value>, types: Types) -> Rewritten {
        if types.is_empty() {
            return Ok(json!(false));
        }
        let mut rewritten = Map::new();
        rewritten.insert("type".into(), types.names());
        if types.intersects(Types::NUMBER) {
            self.number(map, &mut rewritten)?;
        }
        if types.intersects(Types::STRING) {
            self.string(map, &mut rewritten)?;
        }
        if types.intersects(Types::ARRAY) {
            self.items(map, &mut rewritten)?;
        }
        if types.intersects(Types::OBJECT) {
            self.object(map, &mut rewritten)?;
        }
        Ok(rewritten.into())
    }

    /// Does `work` with `step` appended to the path.
    fn descend<T>(
        &mut self,
        step: &str,
        work: impl FnOnce(&mut Self) -> Result<T, ConstraintError>,
    ) -> Result<T, ConstraintError> {
        if self.path.len() > MAX_DEPTH {
            return Err(self.error(&format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.path.push(shortened(step));
        let result = work(self);
        self.path.pop();
        result
    }

    /// Counts a schema, name or value that has `text` bytes of text.
    fn count(&mut self, text: usize) -> Result<(), ConstraintError> {
        self.nodes += 1;
        self.text += text;
        if self.nodes > MAX_NODES || self.text > MAX_TEXT {
            let message = format!(
                "the schema has more than {MAX_NODES} schemas, names and values, or more than \
                 {MAX_TEXT} bytes of text"
            );
            return Err(ConstraintError(message));
        }
        Ok(())
    }

    fn array(&self, value: &'s Value) -> Result<&'s [Value], ConstraintError> {
        value.as_array().map(Vec::as_slice).ok_or_else(|| self.error("an array is needed"))
    }

    /// An error message with the path of the current schema.
    fn error(&self, message: &str) -> ConstraintError {
        const SHOWN: usize = 8;
        let (hidden, shown) = match self.path.len() {
            0..=SHOWN => ("", &self.path[..]),
            steps => ("…/", &self.path[steps - SHOWN..]),
        };
        ConstraintError(format!("{hidden}{} in the schema: {message}", shown.join("/")))
    }
}

/// Untrusted text, truncated for a message.
fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 40;
    match text.chars().count() > MAX_CHARS {
        true => text.chars().take(MAX_CHARS).chain(['…']).collect(),
        false => text.to_owned(),
    }
}
