//! Schemas of strangers: refused, or followed within bounds.

use super::*;

/// `depth` times `inner` within what `outer` makes of it.
fn nested(depth: usize, inner: Value, outer: impl Fn(Value) -> Value) -> Value {
    (0..depth).fold(inner, |inner, _| outer(inner))
}

/// Schemas that are made to take long, or much, or to break what reads them.
fn hostile() -> Vec<(&'static str, Value)> {
    let many = |n: usize, value: &dyn Fn(usize) -> Value| (0..n).map(value).collect::<Vec<_>>();
    let chain = |n: usize, refer: &dyn Fn(usize) -> Value| {
        let defs = (0..n)
            .map(|i| (format!("d{i}"), refer((i + 1) % n)))
            .collect::<serde_json::Map<_, _>>();
        json!({"$defs": defs, "$ref": "#/$defs/d0"})
    };
    let properties = |n: usize, value: Value| {
        (0..n).map(|i| (format!("p{i}"), value.clone())).collect::<serde_json::Map<_, _>>()
    };
    let pattern = |text: &str| json!({"type": "string", "pattern": text});
    vec![
        ("deep arrays", nested(60, json!({"type": "null"}), |s| json!({"items": s}))),
        ("deep objects", nested(20, json!({}), |s| json!({"properties": {"a": s}}))),
        ("too deep", nested(100, json!({}), |s| json!({"items": s}))),
        ("far too deep", nested(500, json!({}), |s| json!({"anyOf": [s]}))),
        ("deep value", json!({"const": nested(500, json!(1), |s| json!([s]))})),
        (
            "doubling",
            nested(
                30,
                json!({"type": "null"}),
                |s| json!({"anyOf": [{"required": ["a"]}, true], "properties": {"p": s}}),
            ),
        ),
        (
            "typed choices",
            nested(
                20,
                json!({"type": "null"}),
                |s| json!({"type": "array", "anyOf": [{"items": s}, {"maxItems": 3}]}),
            ),
        ),
        ("large enum", json!({"enum": many(9000, &|i| json!(format!("value {i}")))})),
        ("enum of long texts", json!({"enum": many(20, &|i| json!(i.to_string().repeat(10_000)))})),
        ("enum of numbers", json!({"enum": many(9000, &|i| json!(i as f64 * 0.37))})),
        ("enum of objects", json!({"enum": many(1000, &|i| json!({"a": i, "b": [i]}))})),
        ("too large an enum", json!({"enum": many(20_000, &|i| json!(i))})),
        ("too much text", json!({"const": "x".repeat(1 << 20)})),
        ("one long text", json!({"const": "x".repeat(200_000)})),
        (
            "optional properties",
            json!({"type": "object", "properties": properties(4000, json!({"type": "null"}))}),
        ),
        (
            "closed properties",
            json!({"type": "object", "properties": properties(4000, json!({"type": "null"})), "additionalProperties": false}),
        ),
        ("open values", json!({"type": "object", "properties": properties(1000, json!({}))})),
        (
            "counted properties",
            json!({"type": "object", "properties": properties(1000, json!({})), "maxProperties": 1, "additionalProperties": false}),
        ),
        (
            "a hundred counted properties",
            json!({"type": "object", "properties": properties(100, json!({})), "minProperties": 1, "additionalProperties": false}),
        ),
        ("self", json!({"$ref": "#"})),
        ("choice of self", json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]})),
        (
            "needs itself",
            json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
        ),
        (
            "chain of references",
            chain(
                2400,
                &|i| json!({"type": "object", "properties": {"a": {"$ref": format!("#/$defs/d{i}")}}}),
            ),
        ),
        ("bare chain", chain(2400, &|i| json!({"$ref": format!("#/$defs/d{i}")}))),
        (
            "deep chain",
            chain(190, &|i| {
                nested(
                    50,
                    json!({"$ref": format!("#/$defs/d{i}")}),
                    |s| json!({"type": "array", "items": s}),
                )
            }),
        ),
        (
            "two ways on",
            chain(
                60,
                &|i| json!({"anyOf": [{"type": "array", "items": {"$ref": format!("#/$defs/d{i}")}}, {"$ref": format!("#/$defs/d{i}")}]}),
            ),
        ),
        (
            "typed two ways on",
            chain(
                60,
                &|i| json!({"type": ["array", "null"], "anyOf": [{"type": "array", "items": {"$ref": format!("#/$defs/d{i}")}}, {"$ref": format!("#/$defs/d{i}")}]}),
            ),
        ),
        (
            "one of many",
            json!({"oneOf": many(100, &|i| json!({"type": "object", "properties": {"k": {"const": i}}, "required": ["k"]}))}),
        ),
        ("nested repeats", pattern("^((((a{1,100}){1,100}){1,100}){1,100}){1,100}$")),
        ("huge repeat", pattern("^(a|b|ab){1000000000}$")),
        ("backtracking", pattern("^(a+)+(a|aa)*(a?){50}a{50}$")),
        ("exponential states", pattern("^(a|b)*a(a|b){40}$")),
        (
            "alternatives",
            pattern(&format!(
                "^({})$",
                many(5000, &|i| json!(i))
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("|")
            )),
        ),
        ("deep pattern", pattern(&format!("{}a{}", "(".repeat(10_000), ")".repeat(10_000)))),
        ("unicode classes", pattern(r"^(\p{L}\p{N}*\P{M}){30}$")),
        ("many patterns", json!({"anyOf": many(200, &|i| pattern(&format!("a{i}b*")))})),
        (
            "crossing patterns",
            json!({"type": "object", "patternProperties": (0..90).map(|i| (format!("(a|b)*a(a|b){{{i}}}$"), json!({}))).collect::<serde_json::Map<_, _>>()}),
        ),
        (
            "pattern with format",
            json!({"type": "string", "pattern": "^\\w+([\\.-]?\\w+)*@\\w+([\\.-]?\\w+)*(\\.\\w{2,})+$", "format": "email", "minLength": 4000}),
        ),
        ("long text", json!({"type": "string", "minLength": 4_000_000_000u64})),
        ("too long a text", json!({"type": "string", "maxLength": u64::MAX})),
        ("many items", json!({"type": "array", "minItems": 4_000_000_000u64})),
        (
            "bounded items",
            json!({"type": "array", "maxItems": 4_000_000_000u64, "items": {"maxItems": 4_000_000_000u64}}),
        ),
        ("multiples", json!({"type": "integer", "multipleOf": 4_294_967_291u64})),
        ("fine multiples", json!({"type": "number", "multipleOf": 1e-300})),
        ("zero multiple", json!({"type": "integer", "multipleOf": 0})),
        ("narrow bounds", json!({"type": "number", "minimum": 1e-300, "maximum": 2e-300})),
        ("wide bounds", json!({"type": "number", "minimum": -1e300, "maximum": 1e300})),
        ("out of bounds", json!({"type": "integer", "minimum": 1e300})),
        (
            "cut within a character",
            json!({"type": "array", "maxItems": 3, "prefixItems": format!("{}é", "x".repeat(98))}),
        ),
        (
            "names of other kinds",
            json!({"type": "object", "properties": {"": {}, "\u{0}\u{7f}\"\\/é": {}, "$ref": {"type": "null"}}}),
        ),
        (
            "long name",
            json!({"type": "object", "properties": {"n".repeat(100_000): {}}, "required": ["n".repeat(100_000)]}),
        ),
    ]
}

/// Each ends in an error, or in a constraint that can be followed or ends in one; and that soon, or the
/// suite would not end.
#[test]
fn hostile_schemas_do_no_harm() {
    for (name, schema) in hostile() {
        let followed = || -> Result<(), ConstraintError> {
            let mut constraint = GRAMMARS.json_schema(&schema)?;
            let mut picker = Picker::new(3);
            for n in 0..200 {
                if constraint.is_complete() {
                    break;
                }
                let ids = allowed(&mut *constraint)?;
                constraint.accept(picker.pick(&ids, n))?;
            }
            Ok(())
        };
        if let Err(error) = followed() {
            let message = error.to_string();
            assert!(!message.is_empty() && message.len() < 500, "{name}: {message}");
            assert!(!message.contains("failed"), "{name}: {message}");
        }
    }
}

#[test]
fn as_many_properties_as_are_let_through_can_be_written() {
    let properties = |n: usize| -> Value { (0..n).map(|i| (format!("p{i}"), json!({}))).collect() };
    let optional = json!({"type": "object", "properties": properties(400)});
    assert!(fits(&optional, "{\"p3\": 1, \"p399\": {\"x\": []}, \"more\": null}"));
    let counted = json!({"type": "object", "properties": properties(40), "minProperties": 1, "additionalProperties": false});
    assert!(fits(&counted, "{\"p39\": 1}"));
    assert!(!fits(&counted, "{}"));
}
