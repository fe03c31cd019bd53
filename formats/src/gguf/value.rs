//! Metadata values, borrowed from the mapped file.

use std::fmt;

use byteorder::{ByteOrder, LE};

use super::cursor::Cursor;
use super::error::Malformed;
use crate::printable::Printable;

/// The type of a metadata value, with its number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// The type with number `n`.
    pub fn from_number(n: u32) -> Option<Self> {
        use ValueType::*;
        let all = [U8, I8, U16, I16, U32, I32, F32, Bool, Str, Array, U64, I64, F64];
        all.into_iter().find(|t| *t as u32 == n)
    }

    /// Bytes of a value; `None` if that depends on the value.
    pub fn size(self) -> Option<usize> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            Str | Array => None,
        }
    }

    /// The printed name: `u32`, `str`, `array`.
    pub fn name(self) -> &'static str {
        use ValueType::*;
        match self {
            U8 => "u8",
            I8 => "i8",
            U16 => "u16",
            I16 => "i16",
            U32 => "u32",
            I32 => "i32",
            F32 => "f32",
            Bool => "bool",
            Str => "str",
            Array => "array",
            U64 => "u64",
            I64 => "i64",
            F64 => "f64",
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A metadata value. [`Display`](fmt::Display) prints a short form on one line.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// Its type.
    pub fn ty(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::Str(_) => ValueType::Str,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The value, if it is an integer (of any type) that fits `T`.
    pub fn as_int<T: TryFrom<i128>>(&self) -> Option<T> {
        let n: i128 = match *self {
            Value::U8(n) => n.into(),
            Value::I8(n) => n.into(),
            Value::U16(n) => n.into(),
            Value::I16(n) => n.into(),
            Value::U32(n) => n.into(),
            Value::I32(n) => n.into(),
            Value::U64(n) => n.into(),
            Value::I64(n) => n.into(),
            _ => return None,
        };
        T::try_from(n).ok()
    }

    /// The value, if it is a floating-point number of either type.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F32(x) => Some(x),
            Value::F64(x) => Some(x as f32),
            _ => None,
        }
    }

    /// The value, if it is a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(b) => Some(b),
            _ => None,
        }
    }

    /// The value, if it is a string.
    pub fn as_str(&self) -> Option<&'a str> {
        match *self {
            Value::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The value, if it is an array.
    pub fn as_array(&self) -> Option<Array<'a>> {
        match *self {
            Value::Array(a) => Some(a),
            _ => None,
        }
    }
}

impl ValueType {
    /// Reads the number of a type.
    pub(super) fn read(cursor: &mut Cursor) -> Result<Self, Malformed> {
        let number = cursor.u32()?;
        Self::from_number(number)
            .ok_or_else(|| Malformed::UnknownValueType { place: cursor.place.clone(), number })
    }
}

impl<'a> Value<'a> {
    /// Reads a value of type `ty` and checks it.
    pub(super) fn read(cursor: &mut Cursor<'a>, ty: ValueType) -> Result<Self, Malformed> {
        Ok(match ty {
            ValueType::U8 => Value::U8(cursor.byte()?),
            ValueType::I8 => Value::I8(cursor.byte()? as i8),
            ValueType::U16 => Value::U16(LE::read_u16(cursor.take(2)?)),
            ValueType::I16 => Value::I16(LE::read_i16(cursor.take(2)?)),
            ValueType::U32 => Value::U32(cursor.u32()?),
            ValueType::I32 => Value::I32(LE::read_i32(cursor.take(4)?)),
            ValueType::F32 => Value::F32(LE::read_f32(cursor.take(4)?)),
            ValueType::Bool => Value::Bool(read_bool(cursor)?),
            ValueType::Str => Value::Str(cursor.string()?),
            ValueType::Array => Value::Array(Array::read(cursor)?),
            ValueType::U64 => Value::U64(cursor.u64()?),
            ValueType::I64 => Value::I64(LE::read_i64(cursor.take(8)?)),
            ValueType::F64 => Value::F64(LE::read_f64(cursor.take(8)?)),
        })
    }
}

fn read_bool(cursor: &mut Cursor) -> Result<bool, Malformed> {
    match cursor.byte()? {
        found @ (0 | 1) => Ok(found == 1),
        found => Err(Malformed::Bool { place: cursor.place.clone(), found }),
    }
}

/// An array of one element type: scalars or strings, never arrays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    ty: ValueType,
    len: usize,
    /// The elements, encoded as in the file; checked when it was opened.
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Malformed> {
        let ty = ValueType::read(cursor)?;
        let len = cursor.u64()?;
        let start = cursor.at;
        match (ty, ty.size()) {
            (ValueType::Array, _) => {
                return Err(Malformed::NestedArray { place: cursor.place.clone() })
            }
            (ValueType::Bool, _) => (0..len).try_for_each(|_| read_bool(cursor).map(drop))?,
            (_, Some(size)) => {
                cursor.take(len.saturating_mul(size as u64))?;
            }
            (_, None) => (0..len).try_for_each(|_| cursor.string().map(drop))?,
        }
        // Every element took at least one byte, so the number of elements fits in a `usize`.
        Ok(Self { ty, len: len as usize, bytes: &cursor.bytes[start..cursor.at] })
    }

    /// Type of the elements.
    pub fn element_type(&self) -> ValueType {
        self.ty
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, encoded as in the file.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements, of any type.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> {
        let (mut cursor, ty) = (Cursor::new(self.bytes), self.ty);
        // The bytes were checked when the file was opened. If somebody has changed the file since,
        // the list ends early.
        (0..self.len).map_while(move |_| Value::read(&mut cursor, ty).ok())
    }

    /// The elements, if they are strings.
    pub fn strings(&self) -> Option<impl Iterator<Item = &'a str>> {
        (self.ty == ValueType::Str).then(|| self.values().filter_map(|v| v.as_str()))
    }

    /// The elements, if they are floating-point numbers of either type.
    pub fn f32s(&self) -> Option<Vec<f32>> {
        self.collect(|v| v.as_f32())
    }

    /// The elements, if they are integers (of any type) that all fit.
    pub fn i32s(&self) -> Option<Vec<i32>> {
        self.collect(|v| v.as_int())
    }

    /// The elements, if they are integers (of any type) that all fit.
    pub fn u32s(&self) -> Option<Vec<u32>> {
        self.collect(|v| v.as_int())
    }

    pub(super) fn collect<T>(&self, convert: impl Fn(Value<'a>) -> Option<T>) -> Option<Vec<T>> {
        self.values().map(convert).collect()
    }
}

/// How many characters of a string are printed, and how many elements of an array.
const SHOWN_CHARS: usize = 60;
const SHOWN_ELEMENTS: usize = 4;

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(n) => n.fmt(f),
            Value::I8(n) => n.fmt(f),
            Value::U16(n) => n.fmt(f),
            Value::I16(n) => n.fmt(f),
            Value::U32(n) => n.fmt(f),
            Value::I32(n) => n.fmt(f),
            Value::U64(n) => n.fmt(f),
            Value::I64(n) => n.fmt(f),
            Value::F32(x) => x.fmt(f),
            Value::F64(x) => x.fmt(f),
            Value::Bool(b) => b.fmt(f),
            Value::Str(s) => Printable::new(s).at_most(SHOWN_CHARS).fmt(f),
            Value::Array(a) => a.fmt(f),
        }
    }
}

impl fmt::Display for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]: ", self.ty, self.len)?;
        for (i, value) in self.values().take(SHOWN_ELEMENTS).enumerate() {
            f.write_str(if i > 0 { ", " } else { "" })?;
            value.fmt(f)?;
        }
        f.write_str(if self.len > SHOWN_ELEMENTS { ", …" } else { "" })
    }
}
