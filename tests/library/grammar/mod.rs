//! Answers that are made to fit: random ones, picked among the tokens that may come, each of them a
//! whole text that has to parse and to be valid.

mod hostile;
mod texts;

use std::sync::LazyLock;

use lapidary::grammar::Grammars;
use lapidary::sampling::{Constraint, ConstraintError, Sampler, SamplerConfig};
use lapidary::tokenizer::{ControlPieces, Special};
use serde_json::{json, Value};

use crate::tokens::TINY;

/// `<eos>` and `<end_of_turn>`.
const STOP_IDS: [u32; 2] = [1, 107];

static GRAMMARS: LazyLock<Grammars> = LazyLock::new(|| Grammars::new(&TINY, &STOP_IDS).unwrap());

/// Rows of logits behind the vocabulary.
const PADDING: usize = 7;

/// Tokens of an answer before only what brings it to an end is picked.
const SOON: usize = 60;
/// No random answer is longer.
const LONGEST: usize = 2000;

fn n_vocab() -> usize {
    TINY.vocab().pieces.len()
}

/// The ids that may come next.
fn allowed(constraint: &mut dyn Constraint) -> Result<Vec<u32>, ConstraintError> {
    let mut logits = vec![1.0; n_vocab() + PADDING];
    constraint.mask(&mut logits)?;
    let ids = (0..).zip(&logits).filter(|(_, logit)| **logit != f32::NEG_INFINITY);
    Ok(ids.map(|(id, _)| id).collect())
}

/// Picks at random, and later on the likeliest of what ends texts.
struct Picker(Sampler);

impl Picker {
    fn new(seed: u64) -> Self {
        let (seed, temperature) = (Some(seed), 1.0);
        let config = SamplerConfig {
            temperature,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed,
            ..Default::default()
        };
        Self(Sampler::new(config).unwrap())
    }

    fn pick(&mut self, ids: &[u32], so_far: usize) -> u32 {
        let mut logits: Vec<f32> =
            ids.iter().map(|id| if so_far > SOON { end(*id) } else { 0.0 }).collect();
        ids[self.0.sample(&mut logits, &[]) as usize]
    }
}

/// How near a token brings a text to its end.
fn end(id: u32) -> f32 {
    let text = TINY.decode(&[id], ControlPieces::Omit);
    match text.as_bytes() {
        [] => 30.0,
        [b'"' | b'}' | b']', ..] => 20.0,
        [b':' | b',' | b'0'..=b'9', ..] => 10.0,
        text => -(text.len() as f32),
    }
}

/// A whole answer.
fn answer(constraint: &mut dyn Constraint, seed: u64) -> String {
    let mut picker = Picker::new(seed);
    let mut ids = Vec::new();
    while !constraint.is_complete() {
        assert!(ids.len() < LONGEST, "no end: {}", TINY.decode(&ids, ControlPieces::Show));
        let allowed = allowed(constraint).unwrap();
        assert!(allowed.iter().all(|id| (*id as usize) < n_vocab()), "rows behind the vocabulary");
        let id = picker.pick(&allowed, ids.len());
        constraint.accept(id).unwrap();
        if !STOP_IDS.contains(&id) {
            ids.push(id);
        }
    }
    assert_eq!(allowed(constraint).unwrap(), STOP_IDS);
    String::from_utf8(TINY.decode_bytes(&ids, ControlPieces::Show)).unwrap()
}

/// Schemas that answers are made for.
fn schemas() -> Vec<Value> {
    vec![
        json!({"type": "object", "properties": {
            "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 1, "maxItems": 3},
            "home": {"type": "object", "properties": {"street": {"type": "string", "minLength": 2}, "no": {"type": ["integer", "null"]}},
                "required": ["street", "no"], "additionalProperties": false}},
            "required": ["name", "home"], "additionalProperties": false}),
        json!({"enum": ["red", "grün", "\"quoted\"\n", 5, 2.5, null, [1, "a"], {"a": {"b": true}}]}),
        json!({"const": {"kind": "kiln", "é🙂\\": [1, 2, {"x": null}]}}),
        json!({"type": "array", "items": {"anyOf": [
            {"type": "object", "properties": {"kind": {"const": "a"}, "x": {"type": "number"}}, "required": ["kind", "x"]},
            {"type": "object", "properties": {"kind": {"const": "b"}, "y": {"type": "boolean"}}, "required": ["kind"], "additionalProperties": false},
            {"type": "string", "pattern": "^[a-c]{2,4}(x|yz)?$"}]}, "minItems": 2, "maxItems": 6}),
        json!({"type": "array", "items": {"oneOf": [{"type": "integer"}, {"type": "string"}, {"const": true}]}, "maxItems": 4}),
        json!({"type": "array", "prefixItems": [{"type": "number", "exclusiveMinimum": -1.5, "maximum": 3}, {"type": "boolean"}],
            "items": {"type": "integer", "multipleOf": 7}, "minItems": 2, "maxItems": 5}),
        json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "array",
            "items": [{"type": "string"}, {"type": "null"}], "additionalItems": false, "minItems": 1}),
        json!({"type": "object", "properties": {"value": {"type": "number"}, "children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}},
            "required": ["value"], "additionalProperties": false}),
        json!({"$defs": {"point~/": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}},
            "type": "object", "properties": {"from": {"$ref": "#/$defs/point~0~1"}, "to": {"allOf": [{"$ref": "#/$defs/point~0~1"}], "description": "where"}},
            "required": ["from", "to"]}),
        json!({"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1, "maxProperties": 3}),
        json!({"type": "object", "patternProperties": {"^n[0-9]$": {"type": "null"}}, "additionalProperties": false}),
        json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a", "b"]}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "object", "anyOf": [{"required": ["a"]}, {"properties": {"b": {"const": 1}}, "required": ["b"]}, {"type": "string"}]}),
        json!({"type": "number"}),
        json!({"minimum": 3, "maxLength": 2, "maxItems": 1, "additionalProperties": false}),
        json!({"nullable": true, "x-order": 3, "title": "anything"}),
        json!({"type": "object", "properties": {"colour": {"type": "string", "format": "colour"},
            "list": {"type": "array", "items": {"type": "integer"}, "uniqueItems": false, "unevaluatedItems": true, "maxContains": 1}},
            "required": ["colour", "list"], "propertyNames": {"type": "string"}, "dependentRequired": {}, "not": false}),
        json!(true),
    ]
}

#[test]
fn whole_answers_fit_their_schemas() {
    for schema in schemas() {
        let valid = jsonschema::validator_for(&schema).unwrap();
        for seed in 0..60 {
            let text = answer(&mut *GRAMMARS.json_schema(&schema).unwrap(), seed);
            let value: Value =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{schema}: {text:?}: {e}"));
            assert!(valid.is_valid(&value), "{schema}: {text}");
        }
    }
}

#[test]
fn any_object_is_one() {
    for seed in 0..300 {
        let text = answer(&mut *GRAMMARS.json_object().unwrap(), seed);
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert!(value.is_object(), "{text}");
    }
}

/// Takes the tokens of a text; gives the constraint after them.
fn read(schema: &Value, text: &str) -> Result<Box<dyn Constraint>, ConstraintError> {
    let mut constraint = GRAMMARS.json_schema(schema)?;
    for id in TINY.encode(text, Special::Plain) {
        let mut logits = vec![0.0; n_vocab()];
        constraint.mask(&mut logits)?;
        let masked = logits[id as usize] == f32::NEG_INFINITY;
        let accepted = constraint.accept(id);
        assert_eq!(accepted.is_err(), masked, "{text:?}: token {id}");
        accepted?;
    }
    Ok(constraint)
}

/// Whether the text is a whole answer.
fn fits(schema: &Value, text: &str) -> bool {
    read(schema, text).is_ok_and(|mut constraint| constraint.accept(STOP_IDS[1]).is_ok())
}

#[test]
fn json_is_written_as_models_like_it() {
    let value = json!({"name": "Ä 🙂 \"q\" \\ \n <start_of_turn>", "list": [1, -2.5, [], {}, null], "in": {"x": {"y": [[true]]}}});
    let compact = value.to_string();
    let pretty = serde_json::to_string_pretty(&value).unwrap();
    let four = pretty.replace("  ", "    ");
    let tabs = pretty.replace("  ", "\t");
    let spaced = compact.replace("\":", "\": ").replace(",\"", ", \"");
    for text in [compact, pretty, four, tabs, spaced] {
        for schema in
            [json!(true), json!({"type": "object", "required": ["name"]}), json!({"const": value})]
        {
            assert!(fits(&schema, &text), "{schema}: {text}");
        }
    }
}

#[test]
fn white_space_has_an_end() {
    let schema = json!({"type": "array"});
    assert!(read(&schema, "[ ").is_ok());
    for endless in [" ", "\t", "\n"] {
        assert!(read(&schema, &format!("[{}", endless.repeat(60))).is_err());
        assert!(read(&schema, &format!("{endless}[")).is_err());
        assert!(read(&schema, &format!("[]{endless}")).is_err());
    }
}

#[test]
fn what_may_not_come_is_refused_and_changes_nothing() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false});
    let mut constraint = GRAMMARS.json_schema(&schema).unwrap();
    for id in TINY.encode("{\"a\": 1", Special::Plain) {
        let allowed = allowed(&mut *constraint).unwrap();
        for other in (0..n_vocab() as u32 + 3).chain([u32::MAX]) {
            if !allowed.contains(&other) {
                assert!(constraint.accept(other).is_err(), "token {other}");
            }
        }
        assert!(!constraint.is_complete());
        constraint.accept(id).unwrap();
    }
    let closing = TINY.encode("}", Special::Plain)[0];
    constraint.accept(closing).unwrap();
    assert!(constraint.is_complete());
    assert!(constraint.accept(closing).is_err());
    constraint.accept(STOP_IDS[0]).unwrap();
    assert!(constraint.is_complete());
}

#[test]
fn control_pieces_never_stand_in_a_text() {
    let mut constraint = read(&json!({"type": "string"}), "\"").unwrap();
    let ids = allowed(&mut *constraint).unwrap();
    // <pad>, <eos>, <bos>, <unk>, <start_of_turn>, <end_of_turn>.
    for control in [0, 1, 2, 3, 106, 107] {
        assert!(!ids.contains(&control), "token {control}");
    }
    assert!(fits(&json!({"type": "string"}), "\"<start_of_turn>user<eos>\""));
}

#[test]
fn strings_may_be_spelt_in_bytes() {
    for text in ["\"🙂\"", "\"é\"", "\"\u{10FFFF}\""] {
        assert!(fits(&json!({"type": "string", "maxLength": 1}), text), "{text}");
    }
    let byte = |byte: u8| TINY.encode("\t", Special::Plain)[0] - 9 + u32::from(byte);
    let mut constraint = read(&json!({"type": "string"}), "\"").unwrap();
    for never in [0xC0, 0xFF, 0x80, 0x0A] {
        assert!(constraint.accept(byte(never)).is_err(), "{never:#x}");
    }
    constraint.accept(byte(0xC3)).unwrap();
    assert!(allowed(&mut *constraint)
        .unwrap()
        .iter()
        .all(|id| (byte(0x80)..=byte(0xBF)).contains(id)));
}

#[test]
fn values_that_do_not_fit_are_not_written() {
    for (schema, text) in [
        (json!({"type": "object"}), "[]"),
        (json!({"enum": ["a", "b"]}), "\"c\""),
        (json!({"type": "array", "minItems": 1}), "[]"),
        (json!({"type": "array", "maxItems": 1}), "[1, 2]"),
        (json!({"type": "integer"}), "1.5"),
        (json!({"type": "number"}), "1e999"),
        (json!({"type": "number"}), "9007199254740992"),
        (json!({"type": "integer", "maximum": 9}), "10"),
        (json!({"type": "integer", "maximum": 9, "exclusiveMaximum": true}), "9"),
        (json!({"type": "number", "exclusiveMinimum": 2}), "2"),
        (json!({"type": "object", "properties": {"a": true}, "required": ["a"]}), "{}"),
        (json!({"type": "object", "properties": {"a": {"type": "null"}}}), "{\"a\": 1}"),
        // The same name in other words.
        (json!({"type": "object", "properties": {"a": {"type": "null"}}}), "{\"\\u0061\": 1}"),
        (json!({"type": "object", "additionalProperties": false}), "{\"a\": 1}"),
        (json!({"type": "string", "pattern": "^a+$"}), "\"ab\""),
        (json!({"type": "string", "maxLength": 2}), "\"abc\""),
        (json!({"type": "string", "minLength": 2}), "\"a\""),
        (json!({"type": "integer", "enum": [1, 2.5, "x"]}), "2.5"),
        (json!(true), "{\"a\": 1,}"),
        (json!(true), "01"),
    ] {
        assert!(!fits(&schema, text), "{schema}: {text}");
    }
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    for (schema, part) in [
        (json!({"not": {}}), "`not`"),
        (json!({"type": "array", "uniqueItems": true}), "`uniqueItems`"),
        (
            json!({"properties": {"a": {"if": true, "then": false}}}),
            "#/properties/a in the schema: `if`",
        ),
        (
            json!({"type": "object", "properties": {}, "anyOf": [true]}),
            "`anyOf` beside `properties`",
        ),
        (json!({"allOf": [{}, {}]}), "allOf"),
        (json!({"type": "text"}), "`type`"),
        (json!({"type": "string", "maxLength": -1}), "`maxLength`"),
        (json!({"minimum": "1"}), "`minimum`"),
        (json!({"oneOf": [{"minimum": 1}, {"maximum": 3}]}), "oneOf"),
        (json!({"const": 9007199254740993u64}), "9007199254740993"),
        (json!({"$ref": "https://example.com/schema"}), "$ref"),
        (json!({"$ref": "other.json"}), "$ref"),
        (json!({"$ref": "#/$defs/none"}), "no #/$defs/none"),
        (
            json!({"$defs": {"a": {"$ref": "#/$defs/a/not"}}, "$ref": "#/$defs/a"}),
            "no #/$defs/a/not",
        ),
        (json!({"$ref": "#/examples/0", "examples": [{"not": {}}]}), "`not`"),
        (json!({"type": "string", "pattern": "("}), "regex parse error: unclosed group"),
        (json!({"type": "string", "pattern": "(?=a)b"}), "regex"),
        (json!({"$ref": "#"}), "no continuation leads to a complete answer"),
        (json!(false), "no value"),
        (json!({"type": "integer", "enum": ["a"]}), "no value"),
        (json!({"type": "integer", "minimum": 3, "maximum": 2}), "Unsatisfiable"),
        (json!([]), "object"),
        (json!({"x-guidance": {"whitespace_pattern": ".*"}, "not": {}}), "`not`"),
    ] {
        let error = GRAMMARS.json_schema(&schema).unwrap_err().to_string();
        assert!(error.contains(part), "{schema}: {error}");
        assert!(error.len() < 300 && !error.contains('\n'), "{schema}: {error}");
    }
}

#[test]
fn a_schema_does_not_set_the_compilers_options() {
    let schema =
        json!({"type": "array", "x-guidance": {"whitespace_pattern": "x+", "lenient": true}});
    assert!(fits(&schema, "[1, 2]"));
    assert!(!fits(&schema, "[x1]"));
}

/// Answers that stand in the same place go on by themselves.
#[test]
fn another_goes_on_from_where_the_first_stands() {
    let schema = json!({"enum": ["one", "once"]});
    let mut first = read(&schema, "\"on").unwrap();
    let mut second = first.clone();
    let [e, c] = ["e", "c"].map(|text| TINY.encode(text, Special::Plain)[0]);
    first.accept(e).unwrap();
    assert!(allowed(&mut *second).unwrap().contains(&c), "the other took nothing");
    second.accept(c).unwrap();
    assert!(!allowed(&mut *first).unwrap().contains(&e));
}
