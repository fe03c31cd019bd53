//! A stranger's JSON schema, checked and written anew: what is supported, in a form in which every
//! schema is either one of `$ref`, `anyOf`, `oneOf`, `enum` and `const` alone or a list of types with
//! the keywords of these. So the grammar that comes of it is no larger than the schema, whereas schemas
//! that are laid over each other may multiply.

mod keywords;
mod types;

use std::collections::{BTreeMap, VecDeque};

use serde_json::{json, Map, Value};

use crate::sampling::ConstraintError;
use types::Types;

/// Schemas, names and values that a schema may consist of.
const MAX_PARTS: usize = 10_000;
/// Bytes of its names and texts.
const MAX_TEXT: usize = 256 << 10;
/// How deep it may be nested, references not counted.
const MAX_DEPTH: usize = 64;
/// Regular expressions, formats included: each may take milliseconds.
const MAX_PATTERNS: usize = 100;
/// Schemas of a `oneOf`, each of which is compared with each.
const MAX_ONE_OF: usize = 100;
/// Properties of an object: where all may be left out, each is a way to go on.
const MAX_PROPERTIES: usize = 400;
/// Those of an object that has a least or a largest number of them: it is written out for each.
const MAX_COUNTED_PROPERTIES: usize = 40;

/// The largest integer that all readers of JSON have exactly (RFC 7493, 2.2).
const MAX_NUMBER: f64 = 9_007_199_254_740_991.0;

/// Keywords that say it all: beside them there is at most `type`.
const WHOLE: [&str; 6] = ["$ref", "allOf", "anyOf", "oneOf", "enum", "const"];

/// The others that are understood.
const PLAIN: [&str; 21] = [
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

/// Those that say what fits and are not understood. Any that no draft has says nothing.
const UNSUPPORTED: [&str; 18] = [
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
    "contentSchema",
    "extends",
];

/// Writes a schema anew, with what it refers to below `$defs`.
pub(super) fn prepare(root: &Value) -> Result<Value, ConstraintError> {
    let empty = Map::new();
    let mut writer = Writer {
        root,
        empty: &empty,
        names: BTreeMap::new(),
        pending: VecDeque::new(),
        path: vec!["#".into()],
        parts: 0,
        text: 0,
        patterns: 0,
    };
    let schema = writer.schema(root, Types::ALL)?;
    let mut definitions = Map::new();
    while let Some(Definition { name, target, types }) = writer.pending.pop_front() {
        let written = match target {
            None => writer.plain(&empty, types)?,
            Some((reference, schema)) => {
                writer.path = vec![reference.into()];
                writer.schema(schema, types)?
            }
        };
        definitions.insert(name, written);
    }
    match schema {
        Value::Object(mut map) => {
            map.insert("$defs".into(), definitions.into());
            Ok(map.into())
        }
        _ => Err(ConstraintError("no value fits the schema".into())),
    }
}

struct Writer<'s> {
    root: &'s Value,
    /// The schema that says nothing.
    empty: &'s Map<String, Value>,
    /// The definitions' names by what they stand for: a reference, or any value, of some types.
    names: BTreeMap<(Option<&'s str>, Types), String>,
    /// Those that are still to be written.
    pending: VecDeque<Definition<'s>>,
    /// Where it is, for messages.
    path: Vec<String>,
    parts: usize,
    text: usize,
    patterns: usize,
}

/// A schema that is written once, and referred to.
struct Definition<'s> {
    name: String,
    /// A reference, and what it refers to; without one it is any value.
    target: Option<(&'s str, &'s Value)>,
    types: Types,
}

type Written = Result<Value, ConstraintError>;

impl<'s> Writer<'s> {
    /// What fits `schema` and is of one of `types`.
    fn schema(&mut self, schema: &'s Value, types: Types) -> Written {
        self.count(0)?;
        let map = match schema {
            Value::Bool(false) => return Ok(json!(false)),
            Value::Bool(true) => return Ok(self.definition(None, types)),
            Value::Object(map) => map,
            _ => return Err(self.error("a schema is an object, true or false")),
        };
        if let Some(keyword) = UNSUPPORTED.iter().find(|keyword| map.contains_key(**keyword)) {
            return Err(self.error(&format!("`{keyword}` is not supported")));
        }
        let own = match map.get("type") {
            Some(value) => Types::parse(value).map_err(|message| self.error(&message))?,
            None => Types::ALL,
        };
        let types = types & own;
        let Some(whole) = WHOLE.iter().find(|keyword| map.contains_key(**keyword)) else {
            return match PLAIN.iter().any(|keyword| map.contains_key(*keyword)) {
                true => self.plain(map, types),
                false => Ok(self.definition(None, types)),
            };
        };
        let says = |keyword: &&&str| **keyword != "type" && **keyword != *whole;
        let mut others = WHOLE.iter().chain(&PLAIN).filter(says);
        if let Some(other) = others.find(|keyword| map.contains_key(**keyword)) {
            return Err(self.error(&format!("`{whole}` beside `{other}` is not supported")));
        }
        let value = &map[*whole];
        self.within(whole, |writer| match *whole {
            "$ref" => writer.reference(value, types),
            "allOf" => match value.as_array().map(Vec::as_slice) {
                Some([only]) => writer.schema(only, types),
                _ => Err(writer.error("only one schema is supported here")),
            },
            "enum" => writer.values(writer.array(value)?, types),
            "const" => writer.values(std::slice::from_ref(value), types),
            _ => writer.choice(whole, value, types),
        })
    }

    /// `anyOf`, `oneOf`.
    fn choice(&mut self, keyword: &str, value: &'s Value, types: Types) -> Written {
        let options = self.array(value)?;
        if keyword == "oneOf" && options.len() > MAX_ONE_OF {
            return Err(self.error(&format!("more than {MAX_ONE_OF} schemas")));
        }
        let mut written = Vec::new();
        for (i, option) in options.iter().enumerate() {
            written.push(self.within(&i.to_string(), |writer| writer.schema(option, types))?);
        }
        Ok(json!({ keyword: written }))
    }

    /// Those of `values` that are of one of `types`.
    fn values(&mut self, values: &'s [Value], types: Types) -> Written {
        for value in values {
            self.value(value)?;
        }
        let fitting: Vec<_> = values.iter().filter(|value| types.holds(value)).collect();
        match fitting.is_empty() {
            true => Ok(json!(false)),
            false => Ok(json!({ "enum": fitting })),
        }
    }

    /// Checks a value that an answer may have to repeat.
    fn value(&mut self, value: &'s Value) -> Result<(), ConstraintError> {
        self.count(value.as_str().map_or(0, str::len))?;
        match value {
            Value::Number(number) => {
                let exact = number.as_f64().is_some_and(|x| x.abs() <= MAX_NUMBER);
                if !exact {
                    return Err(self.error(&format!("{number} is beyond ±(2^53 - 1)")));
                }
            }
            Value::Array(values) => {
                for (i, value) in values.iter().enumerate() {
                    self.within(&i.to_string(), |writer| writer.value(value))?;
                }
            }
            Value::Object(map) => {
                for (name, value) in map {
                    self.count(name.len())?;
                    self.within(name, |writer| writer.value(value))?;
                }
            }
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
        Ok(())
    }

    /// A reference within the schema.
    fn reference(&mut self, value: &'s Value, types: Types) -> Written {
        let Some(reference) = value.as_str() else {
            return Err(self.error("a text is needed"));
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

    /// A reference to what `target` will be written as.
    fn definition(&mut self, target: Option<(&'s str, &'s Value)>, types: Types) -> Value {
        let next = format!("d{}", self.names.len());
        let key = (target.map(|(reference, _)| reference), types);
        let name = self.names.entry(key).or_insert_with(|| {
            self.pending.push_back(Definition { name: next.clone(), target, types });
            next
        });
        json!({ "$ref": format!("#/$defs/{name}") })
    }

    /// Types and their keywords.
    fn plain(&mut self, map: &'s Map<String, Value>, types: Types) -> Written {
        if types.is_empty() {
            return Ok(json!(false));
        }
        let mut written = Map::new();
        written.insert("type".into(), types.names());
        if types.intersects(Types::NUMBER) {
            self.number(map, &mut written)?;
        }
        if types.intersects(Types::STRING) {
            self.string(map, &mut written)?;
        }
        if types.intersects(Types::ARRAY) {
            self.items(map, &mut written)?;
        }
        if types.intersects(Types::OBJECT) {
            self.object(map, &mut written)?;
        }
        Ok(written.into())
    }
    /// Does `work` one step further down.
    fn within<T>(
        &mut self,
        step: &str,
        work: impl FnOnce(&mut Self) -> Result<T, ConstraintError>,
    ) -> Result<T, ConstraintError> {
        if self.path.len() > MAX_DEPTH {
            return Err(self.error(&format!("nested deeper than {MAX_DEPTH}")));
        }
        self.path.push(shortened(step));
        let result = work(self);
        self.path.pop();
        result
    }

    /// Counts a part of the schema with so many bytes of text.
    fn count(&mut self, text: usize) -> Result<(), ConstraintError> {
        self.parts += 1;
        self.text += text;
        if self.parts > MAX_PARTS || self.text > MAX_TEXT {
            let message = format!("the schema has more than {MAX_PARTS} parts or {MAX_TEXT} bytes");
            return Err(ConstraintError(message));
        }
        Ok(())
    }

    fn array(&self, value: &'s Value) -> Result<&'s [Value], ConstraintError> {
        value.as_array().map(Vec::as_slice).ok_or_else(|| self.error("an array is needed"))
    }

    /// What is wrong, and where.
    fn error(&self, message: &str) -> ConstraintError {
        const SHOWN: usize = 8;
        let (hidden, shown) = match self.path.len() {
            0..=SHOWN => ("", &self.path[..]),
            steps => ("…/", &self.path[steps - SHOWN..]),
        };
        ConstraintError(format!("{hidden}{} in the schema: {message}", shown.join("/")))
    }
}

/// A stranger's text, short enough for a message.
fn shortened(text: &str) -> String {
    const MOST: usize = 40;
    match text.chars().count() > MOST {
        true => text.chars().take(MOST).chain(['…']).collect(),
        false => text.to_owned(),
    }
}
