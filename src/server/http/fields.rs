//! The fields of a request's JSON, read by name. An error names the field that is wrong, and says what
//! it has to be.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error::ApiError;

/// A JSON object. A field that is `null` counts as absent.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// What messages put before a field's name, such as `stream_options.`
    at: String,
}

impl<'a> Fields<'a> {
    /// The fields of a request's body.
    pub fn of(body: &'a Value) -> Result<Self, ApiError> {
        let map = body.as_object();
        let map = map.ok_or_else(|| ApiError::invalid("the body has to be a JSON object"))?;
        Ok(Self { map, at: String::new() })
    }

    /// The fields of a value inside the body. `at` is its path there.
    pub fn of_part(value: &'a Value, at: &str) -> Result<Self, ApiError> {
        let map = value.as_object().ok_or_else(|| wrong(at, "an object"))?;
        Ok(Self { map, at: format!("{at}.") })
    }

    /// A field as it is.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// The path of a field, as messages name it.
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.at)
    }

    /// A field that is an object.
    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>, ApiError> {
        self.get(name).map(|value| Self::of_part(value, &self.path(name))).transpose()
    }

    /// A field that is a list.
    pub fn array(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        self.read(name, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    /// A field that is a text.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.read(name, "a string", Value::as_str)
    }

    /// A field that is true or false; false if it is absent.
    pub fn flag(&self, name: &str) -> Result<bool, ApiError> {
        Ok(self.read(name, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// A field that is a whole number.
    pub fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let what = format!("a whole number {}", between(&range));
        self.read(name, &what, |value| value.as_i64().filter(|n| range.contains(n)))
    }

    /// A field that is a number.
    pub fn number(&self, name: &str, range: RangeInclusive<f32>) -> Result<Option<f32>, ApiError> {
        let what = format!("a number {}", between(&range));
        let number = |value: &Value| value.as_f64().map(|n| n as f32).filter(|n| range.contains(n));
        self.read(name, &what, number)
    }

    fn read<T>(
        &self,
        name: &str,
        what: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let read = |value| read(value).ok_or_else(|| wrong(&self.path(name), what));
        self.get(name).map(read).transpose()
    }
}

/// Token ids; `None` if one of the values is not one.
pub fn token_ids(list: &[Value]) -> Option<Vec<u32>> {
    list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}

/// The error of a field that has to be `what`.
pub fn wrong(path: &str, what: &str) -> ApiError {
    ApiError::field(path, format!("{path} has to be {what}"))
}

/// A range in words. An end that is the largest number of its kind is not mentioned.
fn between<T: Display + PartialOrd + Bounds>(range: &RangeInclusive<T>) -> String {
    let (start, end) = (range.start(), range.end());
    match *end == T::MAX {
        true => format!("of at least {start}"),
        false => format!("from {start} to {end}"),
    }
}

/// A kind of numbers that has a largest one.
trait Bounds {
    const MAX: Self;
}

impl Bounds for i64 {
    const MAX: Self = i64::MAX;
}

impl Bounds for f32 {
    const MAX: Self = f32::MAX;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_read_by_kind_and_range() {
        let body = json!({"a": 3, "b": 0.5, "c": "x", "d": true, "e": null, "f": {"g": [1]}});
        let fields = Fields::of(&body).unwrap();
        assert_eq!(fields.integer("a", 0..=3), Ok(Some(3)));
        assert_eq!(fields.number("b", 0.0..=1.0), Ok(Some(0.5)));
        assert_eq!(fields.number("a", 0.0..=f32::MAX), Ok(Some(3.0)));
        assert_eq!(fields.text("c"), Ok(Some("x")));
        assert_eq!((fields.flag("d"), fields.flag("z")), (Ok(true), Ok(false)));
        assert_eq!((fields.text("e"), fields.integer("e", 0..=1)), (Ok(None), Ok(None)));
        let inner = fields.object("f").unwrap().unwrap();
        assert_eq!(inner.array("g"), Ok(Some(&[json!(1)][..])));
    }

    #[test]
    fn a_wrong_field_is_named_with_what_it_may_be() {
        let body = json!({"n": 17, "t": "hot", "s": 1, "o": {"flag": 1}});
        let fields = Fields::of(&body).unwrap();
        let errors = [
            (fields.integer("n", 1..=16).unwrap_err(), "n has to be a whole number from 1 to 16"),
            (
                fields.integer("n", 18..=i64::MAX).unwrap_err(),
                "n has to be a whole number of at least 18",
            ),
            (fields.number("t", 0.0..=2.0).unwrap_err(), "t has to be a number from 0 to 2"),
            (fields.text("s").unwrap_err(), "s has to be a string"),
            (fields.object("s").unwrap_err(), "s has to be an object"),
            (
                fields.object("o").unwrap().unwrap().flag("flag").unwrap_err(),
                "o.flag has to be true or false",
            ),
        ];
        for (error, message) in errors {
            assert_eq!(error.message, message);
            assert_eq!(error.field.as_deref(), message.split(' ').next());
        }
        assert!(Fields::of(&json!([])).is_err());
    }
}
