//! MessagePack for serde types, as small as it can be when compiled: used for rows, for signed lists and at the boundary.
//!
//! Structs and tuples are arrays, newtypes are what they hold, None is nil, an enum is its variant's number or [number, payload],
//! and a sequence of bytes is a byte string. Reading asks for what the type needs, instead of taking what comes, so that no
//! code is made for what cannot be; only `deserialize_any` (which two of OpenMLS' types use) looks at what is there.
//! Floating point numbers, text of single characters and sequences of unknown length do not occur.

use serde::{
    Deserialize, Serialize, Serializer,
    de::{self, DeserializeSeed, IntoDeserializer, Visitor},
    ser,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodecError;

impl std::fmt::Display for CodecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the bytes do not hold what they should")
    }
}

impl std::error::Error for CodecError {}

impl ser::Error for CodecError {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        CodecError
    }
}

impl de::Error for CodecError {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        CodecError
    }
    fn invalid_type(_: de::Unexpected, _: &dyn de::Expected) -> Self {
        CodecError
    }
    fn invalid_value(_: de::Unexpected, _: &dyn de::Expected) -> Self {
        CodecError
    }
    fn invalid_length(_: usize, _: &dyn de::Expected) -> Self {
        CodecError
    }
    fn unknown_variant(_: &str, _: &'static [&'static str]) -> Self {
        CodecError
    }
    fn unknown_field(_: &str, _: &'static [&'static str]) -> Self {
        CodecError
    }
    fn missing_field(_: &'static str) -> Self {
        CodecError
    }
    fn duplicate_field(_: &'static str) -> Self {
        CodecError
    }
}

type Result<T> = std::result::Result<T, CodecError>;

const NIL: u8 = 0xc0;
const FALSE: u8 = 0xc2;
const TRUE: u8 = 0xc3;

/// The MessagePack form of *value*.
pub fn encode(value: &impl Serialize) -> Vec<u8> {
    encode_with(value, None)
}

/// The MessagePack form of a record whose second field is a sequence of numbered records, of which only number *only* is
/// written out; of each other one just [number].
pub fn encode_only(value: &impl Serialize, only: u64) -> Vec<u8> {
    encode_with(value, Some(only))
}

fn encode_with(value: &impl Serialize, only: Option<u64>) -> Vec<u8> {
    let mut writer = Writer { bytes: Vec::with_capacity(256), values: 0, small: 0, only, depth: 0, field: 0 };
    value.serialize(&mut writer).expect("our types can be encoded");
    writer.bytes
}

/// Exactly one value of *T* and nothing behind it.
pub fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T> {
    let mut reader = Reader { rest: bytes };
    let value = T::deserialize(&mut reader)?;
    if reader.rest.is_empty() { Ok(value) } else { Err(CodecError) }
}

/// *values* counts what was written, *small* the `u8`s among it: a sequence of nothing else becomes a byte string.
/// *depth* and the outermost record's *field* say where we are, for `encode_only`.
struct Writer {
    bytes: Vec<u8>,
    values: usize,
    small: usize,
    only: Option<u64>,
    depth: usize,
    field: usize,
}

impl Writer {
    #[inline(never)]
    fn unsigned(&mut self, value: u64) {
        self.values += 1;
        let bytes = value.to_be_bytes();
        match value {
            0..=0x7f => self.bytes.push(bytes[7]),
            0x80..=0xff => self.bytes.extend_from_slice(&[0xcc, bytes[7]]),
            0x100..=0xffff => self.sized(0xcd, &bytes[6..]),
            0x1_0000..=0xffff_ffff => self.sized(0xce, &bytes[4..]),
            _ => self.sized(0xcf, &bytes),
        }
    }

    fn sized(&mut self, marker: u8, digits: &[u8]) {
        self.bytes.push(marker);
        self.bytes.extend_from_slice(digits);
    }

    #[inline(never)]
    fn signed(&mut self, value: i64) {
        match value {
            0.. => self.unsigned(value as u64),
            _ => {
                self.values += 1;
                self.sized(0xd3, &value.to_be_bytes());
            }
        }
    }

    #[inline(never)]
    fn marker(&mut self, marker: u8) {
        self.values += 1;
        self.bytes.push(marker);
    }

    /// The head of something with a length: *fix* takes up to *fixed* in its low bits, then come the markers by width.
    #[inline(never)]
    fn head(&mut self, length: usize, fix: u8, fixed: usize, markers: [u8; 3]) {
        self.values += 1;
        let digits = (length as u32).to_be_bytes();
        match length {
            _ if length <= fixed => self.bytes.push(fix | length as u8),
            0..=0xff if markers[0] != 0 => self.sized(markers[0], &digits[3..]),
            0..=0xffff => self.sized(markers[1], &digits[2..]),
            _ => self.sized(markers[2], &digits),
        }
    }

    fn array(&mut self, length: usize) {
        self.head(length, 0x90, 15, [0, 0xdc, 0xdd]);
    }

    fn binary(&mut self, length: usize) {
        // Byte strings have no short form: a length of up to 255 takes the marker for one digit.
        match length {
            0..=0xff => {
                self.values += 1;
                self.sized(0xc4, &[length as u8]);
            }
            _ => self.head(length, 0, 0, [0, 0xc5, 0xc6]),
        }
    }
}

/// A sequence, tuple or struct being written; where it began, in case it turns out to be bytes.
struct Parts<'a> {
    writer: &'a mut Writer,
    start: usize,
    length: usize,
    values: usize,
    small: usize,
    field: usize,
    skips: bool,
}

const OUTERMOST: usize = 1;
const NUMBERED: usize = 3;

impl<'a> Parts<'a> {
    fn begin(writer: &'a mut Writer, length: usize) -> Result<Self> {
        let start = writer.bytes.len();
        writer.array(length);
        Ok(Self::after_head(writer, start, length))
    }

    fn after_head(writer: &'a mut Writer, start: usize, length: usize) -> Self {
        writer.depth += 1;
        Parts { start, length, values: writer.values, small: writer.small, field: 0, skips: false, writer }
    }

    fn field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        if self.enter() {
            value.serialize(&mut *self.writer)?;
        }
        self.leave();
        Ok(())
    }

    /// Whether the next field is to be written.
    #[inline(never)]
    fn enter(&mut self) -> bool {
        if self.writer.depth == OUTERMOST {
            self.writer.field = self.field;
        }
        !self.skips
    }

    #[inline(never)]
    fn leave(&mut self) {
        if self.field == 0 && self.writer.depth == NUMBERED && self.writer.field == 1 {
            self.skip_others();
        }
        self.field += 1;
    }

    /// Reads back the number that was just written; a record that is not wanted ends with it.
    fn skip_others(&mut self) {
        let Some(only) = self.writer.only else { return };
        let mut reader = Reader { rest: &self.writer.bytes[self.start + 1..] };
        if reader.unsigned().is_ok_and(|number| number != only) {
            self.skips = true;
            self.writer.bytes[self.start] = 0x91;
        }
    }

    fn end(self) -> Result<()> {
        self.writer.depth -= 1;
        Ok(())
    }

    #[inline(never)]
    fn finish(self) -> Result<()> {
        let writer = self.writer;
        let is_bytes = self.length > 0 && writer.values - self.values == self.length && writer.small - self.small == self.length;
        if is_bytes {
            let mut reader = Reader { rest: &writer.bytes[self.start..] };
            let _ = reader.array();
            let bytes: Vec<u8> = (0..self.length).map_while(|_| reader.unsigned().ok()).map(|value| value as u8).collect();
            writer.bytes.truncate(self.start);
            writer.binary(bytes.len());
            writer.bytes.extend_from_slice(&bytes);
        }
        writer.depth -= 1;
        Ok(())
    }
}

macro_rules! parts {
    ($($kind:ident: $method:ident, $finish:expr;)*) => {$(
        impl ser::$kind for Parts<'_> {
            type Ok = ();
            type Error = CodecError;
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
                value.serialize(&mut *self.writer)
            }
            fn end(self) -> Result<()> {
                $finish(self)
            }
        }
    )*};
}

parts! {
    SerializeSeq: serialize_element, Parts::finish;
    SerializeTuple: serialize_element, Parts::end;
    SerializeTupleStruct: serialize_field, Parts::end;
    SerializeTupleVariant: serialize_field, Parts::end;
}

macro_rules! fields {
    ($($kind:ident)*) => {$(
        impl ser::$kind for Parts<'_> {
            type Ok = ();
            type Error = CodecError;
            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Result<()> {
                self.field(value)
            }
            fn end(self) -> Result<()> {
                Parts::end(self)
            }
        }
    )*};
}

fields! { SerializeStruct SerializeStructVariant }

impl ser::SerializeMap for Parts<'_> {
    type Ok = ();
    type Error = CodecError;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        key.serialize(&mut *self.writer)
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        value.serialize(&mut *self.writer)
    }
    fn end(self) -> Result<()> {
        Parts::end(self)
    }
}

macro_rules! write_numbers {
    ($($method:ident: $kind:ty => $write:ident as $wide:ty;)*) => {$(
        fn $method(self, value: $kind) -> Result<()> {
            self.$write(value as $wide);
            Ok(())
        }
    )*};
}

impl<'a> Serializer for &'a mut Writer {
    type Ok = ();
    type Error = CodecError;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Parts<'a>;
    type SerializeTupleStruct = Parts<'a>;
    type SerializeTupleVariant = Parts<'a>;
    type SerializeMap = Parts<'a>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Parts<'a>;

    write_numbers! {
        serialize_u16: u16 => unsigned as u64;
        serialize_u32: u32 => unsigned as u64;
        serialize_u64: u64 => unsigned as u64;
        serialize_i8: i8 => signed as i64;
        serialize_i16: i16 => signed as i64;
        serialize_i32: i32 => signed as i64;
        serialize_i64: i64 => signed as i64;
    }

    fn serialize_u8(self, value: u8) -> Result<()> {
        self.small += 1;
        self.unsigned(u64::from(value));
        Ok(())
    }
    fn serialize_bool(self, value: bool) -> Result<()> {
        self.marker(if value { TRUE } else { FALSE });
        Ok(())
    }
    fn serialize_f32(self, _: f32) -> Result<()> {
        Err(CodecError)
    }
    fn serialize_f64(self, _: f64) -> Result<()> {
        Err(CodecError)
    }
    fn serialize_char(self, _: char) -> Result<()> {
        Err(CodecError)
    }
    fn serialize_str(self, value: &str) -> Result<()> {
        self.head(value.len(), 0xa0, 31, [0xd9, 0xda, 0xdb]);
        self.bytes.extend_from_slice(value.as_bytes());
        Ok(())
    }
    fn serialize_bytes(self, value: &[u8]) -> Result<()> {
        self.binary(value.len());
        self.bytes.extend_from_slice(value);
        Ok(())
    }
    fn serialize_none(self) -> Result<()> {
        self.serialize_unit()
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<()> {
        self.marker(NIL);
        Ok(())
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<()> {
        self.serialize_unit()
    }
    fn serialize_unit_variant(self, _: &'static str, number: u32, _: &'static str) -> Result<()> {
        self.serialize_u32(number)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<()> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(self, _: &'static str, number: u32, _: &'static str, value: &T) -> Result<()> {
        self.array(2);
        self.unsigned(u64::from(number));
        value.serialize(self)
    }
    fn serialize_seq(self, length: Option<usize>) -> Result<Parts<'a>> {
        Parts::begin(self, length.ok_or(CodecError)?)
    }
    fn serialize_tuple(self, length: usize) -> Result<Parts<'a>> {
        Parts::begin(self, length)
    }
    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<Parts<'a>> {
        Parts::begin(self, length)
    }
    fn serialize_tuple_variant(self, _: &'static str, number: u32, _: &'static str, length: usize) -> Result<Parts<'a>> {
        self.array(2);
        self.unsigned(u64::from(number));
        Parts::begin(self, length)
    }
    fn serialize_map(self, length: Option<usize>) -> Result<Parts<'a>> {
        let length = length.ok_or(CodecError)?;
        let start = self.bytes.len();
        self.head(length, 0x80, 15, [0, 0xde, 0xdf]);
        Ok(Parts::after_head(self, start, length))
    }
    fn serialize_struct(self, _: &'static str, length: usize) -> Result<Parts<'a>> {
        Parts::begin(self, length)
    }
    fn serialize_struct_variant(self, _: &'static str, number: u32, _: &'static str, length: usize) -> Result<Parts<'a>> {
        self.array(2);
        self.unsigned(u64::from(number));
        Parts::begin(self, length)
    }
    fn is_human_readable(&self) -> bool {
        false
    }
}

struct Reader<'de> {
    rest: &'de [u8],
}

impl<'de> Reader<'de> {
    fn peek(&self) -> Result<u8> {
        self.rest.first().copied().ok_or(CodecError)
    }

    #[inline(never)]
    fn take(&mut self, length: usize) -> Result<&'de [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CodecError)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline(never)]
    fn digits(&mut self, width: usize) -> Result<u64> {
        Ok(self.take(width)?.iter().fold(0, |sum, digit| sum << 8 | u64::from(*digit)))
    }

    #[inline(never)]
    fn unsigned(&mut self) -> Result<u64> {
        match self.digits(1)? as u8 {
            marker @ 0..=0x7f => Ok(u64::from(marker)),
            marker @ 0xcc..=0xcf => self.digits(1 << (marker - 0xcc)),
            _ => Err(CodecError),
        }
    }

    #[inline(never)]
    fn signed(&mut self) -> Result<i64> {
        match self.peek()? {
            0xd3 => {
                self.take(1)?;
                Ok(self.digits(8)? as i64)
            }
            _ => i64::try_from(self.unsigned()?).map_err(|_| CodecError),
        }
    }

    /// The length after a marker of up to three widths.
    #[inline(never)]
    fn length(&mut self, fix: u8, fixed: u8, markers: [u8; 3]) -> Result<usize> {
        let marker = self.digits(1)? as u8;
        if fixed > 0 && marker & !fixed == fix {
            return Ok(usize::from(marker & fixed));
        }
        match markers.iter().position(|other| *other == marker && marker != 0) {
            Some(width) => Ok(self.digits(1 << width)? as usize),
            None => Err(CodecError),
        }
    }

    fn array(&mut self) -> Result<usize> {
        self.length(0x90, 15, [0, 0xdc, 0xdd])
    }

    #[inline(never)]
    fn binary(&mut self) -> Result<&'de [u8]> {
        let length = self.length(0, 0, [0xc4, 0xc5, 0xc6])?;
        self.take(length)
    }

    #[inline(never)]
    fn text(&mut self) -> Result<&'de str> {
        let length = self.length(0xa0, 31, [0xd9, 0xda, 0xdb])?;
        std::str::from_utf8(self.take(length)?).map_err(|_| CodecError)
    }

    fn is_binary(&self) -> Result<bool> {
        Ok(matches!(self.peek()?, 0xc4..=0xc6))
    }
}

/// The elements of an array, or key and value by turns.
struct Elements<'a, 'de> {
    reader: &'a mut Reader<'de>,
    left: usize,
}

impl<'de> de::SeqAccess<'de> for Elements<'_, 'de> {
    type Error = CodecError;
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.reader).map(Some)
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.left.min(self.reader.rest.len()))
    }
}

impl<'de> de::MapAccess<'de> for Elements<'_, 'de> {
    type Error = CodecError;
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        de::SeqAccess::next_element_seed(self, seed)
    }
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        seed.deserialize(&mut *self.reader)
    }
}

/// A byte string read as a sequence of numbers.
struct Numbers<'de>(std::slice::Iter<'de, u8>);

impl<'de> de::SeqAccess<'de> for Numbers<'de> {
    type Error = CodecError;
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        let Some(byte) = self.0.next() else { return Ok(None) };
        let deserializer: de::value::U8Deserializer<CodecError> = (*byte).into_deserializer();
        seed.deserialize(deserializer).map(Some)
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

impl<'de> Reader<'de> {
    fn sequence<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        let left = self.array()?;
        let mut elements = Elements { reader: self, left };
        let value = visitor.visit_seq(&mut elements)?;
        if elements.left == 0 { Ok(value) } else { Err(CodecError) }
    }
}

macro_rules! read_numbers {
    ($($method:ident: $read:ident => $visit:ident as $kind:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            visitor.$visit(<$kind>::try_from(self.$read()?).map_err(|_| CodecError)?)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for &mut Reader<'de> {
    type Error = CodecError;

    read_numbers! {
        deserialize_u8: unsigned => visit_u8 as u8;
        deserialize_u16: unsigned => visit_u16 as u16;
        deserialize_u32: unsigned => visit_u32 as u32;
        deserialize_u64: unsigned => visit_u64 as u64;
        deserialize_i8: signed => visit_i8 as i8;
        deserialize_i16: signed => visit_i16 as i16;
        deserialize_i32: signed => visit_i32 as i32;
        deserialize_i64: signed => visit_i64 as i64;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.peek()? {
            0..=0x7f | 0xcc..=0xcf => visitor.visit_u64(self.unsigned()?),
            0xc4..=0xc6 => visitor.visit_borrowed_bytes(self.binary()?),
            0x90..=0x9f | 0xdc | 0xdd => self.sequence(visitor),
            _ => Err(CodecError),
        }
    }
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.digits(1)? as u8 {
            FALSE => visitor.visit_bool(false),
            TRUE => visitor.visit_bool(true),
            _ => Err(CodecError),
        }
    }
    fn deserialize_f32<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(CodecError)
    }
    fn deserialize_f64<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(CodecError)
    }
    fn deserialize_char<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(CodecError)
    }
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_str(self.text()?)
    }
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_str(self.text()?)
    }
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_bytes(self.binary()?)
    }
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_bytes(self.binary()?)
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.peek()? == NIL {
            self.take(1)?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.digits(1)? as u8 == NIL { visitor.visit_unit() } else { Err(CodecError) }
    }
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        self.deserialize_unit(visitor)
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.is_binary()? {
            return visitor.visit_seq(Numbers(self.binary()?.iter()));
        }
        self.sequence(visitor)
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.sequence(visitor)
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value> {
        self.sequence(visitor)
    }
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let left = self.length(0x80, 15, [0, 0xde, 0xdf])?;
        visitor.visit_map(Elements { reader: self, left })
    }
    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value> {
        self.sequence(visitor)
    }
    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value> {
        let has_payload = matches!(self.peek()?, 0x90..=0x9f);
        if has_payload && self.array()? != 2 {
            return Err(CodecError);
        }
        visitor.visit_enum(Variant { reader: self, has_payload })
    }
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_u32(visitor)
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(CodecError)
    }
    fn is_human_readable(&self) -> bool {
        false
    }
}

struct Variant<'a, 'de> {
    reader: &'a mut Reader<'de>,
    has_payload: bool,
}

impl<'de> de::EnumAccess<'de> for Variant<'_, 'de> {
    type Error = CodecError;
    type Variant = Self;
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self)> {
        let number = seed.deserialize(&mut *self.reader)?;
        Ok((number, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_, 'de> {
    type Error = CodecError;
    fn unit_variant(self) -> Result<()> {
        if self.has_payload { Err(CodecError) } else { Ok(()) }
    }
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value> {
        if self.has_payload { seed.deserialize(self.reader) } else { Err(CodecError) }
    }
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        if self.has_payload { self.reader.sequence(visitor) } else { Err(CodecError) }
    }
    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value> {
        if self.has_payload { self.reader.sequence(visitor) } else { Err(CodecError) }
    }
}
