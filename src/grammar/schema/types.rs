//! Sets of JSON types.

use std::ops::BitAnd;

use serde_json::{json, Value};

/// A set of types. Integers and fractions are separate members; `number` is both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Types(u8);

const NAMES: [(&str, Types); 7] = [
    ("null", Types::NULL),
    ("boolean", Types::BOOLEAN),
    ("number", Types::NUMBER),
    ("integer", Types::INTEGER),
    ("string", Types::STRING),
    ("array", Types::ARRAY),
    ("object", Types::OBJECT),
];

impl Types {
    pub(super) const NULL: Self = Self(1);
    pub(super) const BOOLEAN: Self = Self(2);
    pub(super) const INTEGER: Self = Self(4);
    const FRACTION: Self = Self(8);
    pub(super) const NUMBER: Self = Self(4 | 8);
    pub(super) const STRING: Self = Self(16);
    pub(super) const ARRAY: Self = Self(32);
    pub(super) const OBJECT: Self = Self(64);
    pub(super) const ALL: Self = Self(127);

    /// Parses the value of `type`.
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        let names = match value {
            Value::Array(names) => names.as_slice(),
            name => std::slice::from_ref(name),
        };
        names.iter().try_fold(Self(0), |types, name| {
            let known = NAMES.iter().find(|(known, _)| name == known);
            let error = || "`type` is not one of JSON's types".to_owned();
            known.map(|(_, more)| Self(types.0 | more.0)).ok_or_else(error)
        })
    }

    /// The value of `type` for this set.
    pub(super) fn names(self) -> Value {
        let whole = |(_, types): &&(&str, Self)| match *types {
            Self::INTEGER => self & Self::NUMBER == Self::INTEGER,
            types => self & types == types,
        };
        NAMES.iter().filter(whole).map(|(name, _)| json!(name)).collect()
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn intersects(self, other: Self) -> bool {
        !(self & other).is_empty()
    }

    /// Whether `value` has one of these types.
    pub(super) fn holds(self, value: &Value) -> bool {
        let own = match value {
            Value::Null => Self::NULL,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Number(number) if number.as_f64().is_some_and(|x| x.fract() == 0.0) => {
                Self::INTEGER
            }
            Value::Number(_) => Self::FRACTION,
            Value::String(_) => Self::STRING,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
        };
        self.intersects(own)
    }
}

impl BitAnd for Types {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}
