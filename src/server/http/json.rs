//! JSON as values, within a bound of memory: a list of empty lists takes forty times its length.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Bytes of a value in a list or an object: lists grow by doubling.
const VALUE: usize = 2 * size_of::<Value>();

/// Bytes of what a list, an object or a text allocates at least, its allocator's share included.
const ALLOCATION: usize = 4 * size_of::<Value>() + 16;

/// Bytes of an entry of an object besides its name's text.
const ENTRY: usize = VALUE + 2 * size_of::<String>() + 16;

/// The value in `json`, if it takes at most `memory` bytes. It may be nested as deeply as `serde_json`
/// reads, 128 levels.
///
/// # Errors
/// If it is no JSON, is nested too deeply or takes more memory.
pub fn parse(json: &[u8], memory: usize) -> serde_json::Result<Value> {
    let left = Cell::new(memory);
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = Bounded { left: &left }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Reads a value while memory is left.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    left: &'a Cell<usize>,
}

impl Bounded<'_> {
    fn take<E: Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(bytes);
        self.left.set(left.ok_or_else(|| E::custom("it has too many values"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.take(VALUE)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        self.take(value.len() + ALLOCATION)?;
        Ok(Value::String(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.take(ALLOCATION)?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        self.take(ALLOCATION)?;
        let mut values = Map::new();
        while let Some(name) = object.next_key::<String>()? {
            self.take(ENTRY + name.len())?;
            let value = object.next_value_seed(self)?;
            values.insert(name, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_those_of_serde_json() {
        for value in [
            json!({"a": [1, -2, 2.5, "é\n", true, null, {}], "b": {"c": [[], [[]]]}, "": u64::MAX}),
            json!("x"),
            json!(7),
            json!(null),
        ] {
            assert_eq!(parse(value.to_string().as_bytes(), 1 << 16).unwrap(), value);
        }
        for flawed in ["", "{", "[1,]", "{\"a\":1}x", "[NaN]", "{1:2}", "\"\\ud800\""] {
            assert!(parse(flawed.as_bytes(), 1 << 16).is_err(), "{flawed}");
        }
        // The last of two fields counts, as in serde_json.
        assert_eq!(parse(b"{\"a\":1,\"a\":2}", 1 << 16).unwrap(), json!({"a": 2}));
    }

    #[test]
    fn what_takes_too_much_memory_is_refused() {
        let nested = format!("[{}0]", (("[".repeat(100) + &"]".repeat(100)) + ",").repeat(10));
        for json in
            [nested.as_str(), &"[[],[],{},".repeat(100), &format!("\"{}\"", "x".repeat(20_000))]
        {
            let error = parse(json.as_bytes(), 1 << 14).unwrap_err();
            assert!(error.to_string().contains("too many values"), "{error}");
        }
        assert!(parse(nested.as_bytes(), 1 << 20).is_ok());
        let deep = parse("[".repeat(200).as_bytes(), 1 << 20).unwrap_err();
        assert!(deep.to_string().contains("recursion limit"), "{deep}");
    }
}
