//! Metadata values to be written.

use super::value::{Array, Value, ValueType};

/// Defines [`OwnedValue`] from one table: variant, variant of arrays, Rust type. The order of the
/// table does not matter; the numbers in the file are [`ValueType`]'s.
macro_rules! owned_value {
    ($($one:ident $many:ident $type:ty,)*) => {
        /// A metadata value to be written. Every value of a GGUF file can be copied into one.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)]
        pub enum OwnedValue {
            Bool(bool),
            Str(String),
            Bools(Vec<bool>),
            Strings(Vec<String>),
            $($one($type), $many(Vec<$type>),)*
        }

        impl From<Value<'_>> for OwnedValue {
            fn from(value: Value<'_>) -> Self {
                match value {
                    Value::Bool(b) => Self::Bool(b),
                    Value::Str(s) => Self::Str(s.to_owned()),
                    Value::Array(a) => a.into(),
                    $(Value::$one(x) => Self::$one(x),)*
                }
            }
        }

        impl From<Array<'_>> for OwnedValue {
            fn from(array: Array<'_>) -> Self {
                let values = array.values();
                match array.element_type() {
                    ValueType::Bool => Self::Bools(values.filter_map(|v| v.as_bool()).collect()),
                    // Arrays of arrays are refused when a file is opened, so this is a string.
                    ValueType::Str | ValueType::Array => Self::Strings(
                        values.filter_map(|v| v.as_str()).map(str::to_owned).collect(),
                    ),
                    $(ValueType::$one => Self::$many(
                        values.filter_map(|v| match v {
                            Value::$one(x) => Some(x),
                            _ => None,
                        }).collect(),
                    ),)*
                }
            }
        }

        impl OwnedValue {
            /// Appends the type and the value, encoded as in a file.
            pub(super) fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    Self::Bool(b) => {
                        encode_type(ValueType::Bool, out);
                        out.push((*b).into());
                    }
                    Self::Str(s) => {
                        encode_type(ValueType::Str, out);
                        encode_str(s, out);
                    }
                    Self::Bools(values) => {
                        encode_array(ValueType::Bool, values.len(), out);
                        out.extend(values.iter().map(|b| u8::from(*b)));
                    }
                    Self::Strings(values) => {
                        encode_array(ValueType::Str, values.len(), out);
                        values.iter().for_each(|s| encode_str(s, out));
                    }
                    $(
                        Self::$one(x) => {
                            encode_type(ValueType::$one, out);
                            out.extend(x.to_le_bytes());
                        }
                        Self::$many(values) => {
                            encode_array(ValueType::$one, values.len(), out);
                            values.iter().for_each(|x| out.extend(x.to_le_bytes()));
                        }
                    )*
                }
            }
        }

        $(
            impl From<$type> for OwnedValue {
                fn from(value: $type) -> Self {
                    Self::$one(value)
                }
            }

            impl From<Vec<$type>> for OwnedValue {
                fn from(values: Vec<$type>) -> Self {
                    Self::$many(values)
                }
            }
        )*
    };
}

owned_value! {
    U8 U8s u8,
    I8 I8s i8,
    U16 U16s u16,
    I16 I16s i16,
    U32 U32s u32,
    I32 I32s i32,
    F32 F32s f32,
    U64 U64s u64,
    I64 I64s i64,
    F64 F64s f64,
}

impl From<bool> for OwnedValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for OwnedValue {
    fn from(value: &str) -> Self {
        Self::Str(value.to_owned())
    }
}

impl From<String> for OwnedValue {
    fn from(value: String) -> Self {
        Self::Str(value)
    }
}

impl From<Vec<bool>> for OwnedValue {
    fn from(values: Vec<bool>) -> Self {
        Self::Bools(values)
    }
}

impl From<Vec<String>> for OwnedValue {
    fn from(values: Vec<String>) -> Self {
        Self::Strings(values)
    }
}

/// Appends a string: length in bytes, then the bytes.
pub(super) fn encode_str(s: &str, out: &mut Vec<u8>) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn encode_type(ty: ValueType, out: &mut Vec<u8>) {
    out.extend((ty as u32).to_le_bytes());
}

fn encode_array(ty: ValueType, len: usize, out: &mut Vec<u8>) {
    encode_type(ValueType::Array, out);
    encode_type(ty, out);
    out.extend((len as u64).to_le_bytes());
}
