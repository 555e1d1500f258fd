//! Constants in the textual form: a type, and the elements as decimals, as bytes, as one that all are equal to, or left out.
//!
//! ```text
//! f32[3] dense<0.5, -1.0, 2.0>    f8e4m3[4] dense<0x38383038>    i64[2, 3] splat<-1>    bf16[64, 172] opaque
//! ```

use std::fmt::Write;

use super::lex::{Lexer, ParseError, Token};
use super::quote;
use crate::onnx::proto::{StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use crate::tensor::{DataType, Tensor, bits, is_external, name};

/// Longer constants are left out of a summary, be they shapes and axes.
const SUMMARY: usize = 16;
/// Longer constants are written as bytes.
const DECIMALS: usize = 64;
/// What the splats of a text may take in memory together, so that a short text makes no large model.
const SPLATS: usize = 64 << 20;

/// Counts the bytes of splats.
pub(super) struct Splats(usize);

impl Default for Splats {
    fn default() -> Self {
        Self(SPLATS)
    }
}

impl Splats {
    fn take(&mut self, bytes: usize) -> bool {
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

/// The type of a tensor, and its payload if the language has words for it; the name is not looked at, nor is what a file says
/// beside. In a summary, long payloads are left out.
pub(super) fn print(proto: &TensorProto, is_summary: bool, splats: &mut Splats) -> Option<(String, String)> {
    let tensor = Tensor::from_proto(proto.clone());
    let (dtype, elements) = (tensor.dtype().ok()?, tensor.elements().ok()?);
    let dims: Vec<_> = tensor.dims().iter().map(i64::to_string).collect();
    let r#type = format!("{}[{}]", name(dtype), dims.join(", "));
    if let Some(location) = external(proto) {
        return Some((r#type, if is_summary { "opaque".to_string() } else { location }));
    }
    if tensor.is_opaque() {
        return Some((r#type, "opaque".to_string()));
    }
    let payload = match dtype {
        DataType::Undefined => return None,
        DataType::String => {
            if proto.string_data.len() != elements || proto.raw_data.is_some() {
                return None;
            }
            let shown = !is_summary || is_short(dtype, elements);
            shown.then(|| {
                proto.string_data.iter().map(|text| quote::quoted(text)).collect::<Vec<_>>().join(", ")
            })
        }
        _ => {
            tensor.check().ok()?;
            let bytes = tensor.bytes().ok()?;
            if let Some(element) = repeated(dtype, &bytes).filter(|_| splats.take(bytes.len())) {
                return Some((r#type, format!("splat<{element}>")));
            }
            let shown = !is_summary || is_short(dtype, elements);
            shown.then(|| decimals(dtype, elements, &bytes).unwrap_or_else(|| hexadecimal(&bytes)))
        }
    };
    Some((r#type, payload.map_or("opaque".to_string(), |payload| format!("dense<{payload}>"))))
}

/// Whether a summary has the elements. Of weights and scales it has none: they say little, and their last digits may hang on the
/// processor that they were computed on.
fn is_short(dtype: DataType, elements: usize) -> bool {
    match dtype {
        DataType::Int32 | DataType::Int64 | DataType::Bool | DataType::String => elements <= SUMMARY,
        _ => elements <= 1,
    }
}

/// The element that all of these are equal to, bit for bit, if they are several.
fn repeated(dtype: DataType, bytes: &[u8]) -> Option<String> {
    let size = bits(dtype).filter(|bits| bits % 8 == 0)? / 8;
    let (first, rest) = bytes.split_at_checked(size)?;
    let is_repeated = !rest.is_empty() && bytes[size..] == bytes[..bytes.len() - size];
    is_repeated.then(|| decimals(dtype, 1, first).unwrap_or_else(|| hexadecimal(first)))
}

/// The elements as decimals, where they read back as the same bits.
fn decimals(dtype: DataType, elements: usize, bytes: &[u8]) -> Option<String> {
    fn list<const N: usize, T: ToString>(bytes: &[u8], element: impl Fn([u8; N]) -> T) -> Option<String> {
        let words = bytes.as_chunks().0.iter().map(|&bytes| element(bytes).to_string());
        Some(words.collect::<Vec<_>>().join(", "))
    }
    fn floats<const N: usize>(bytes: &[u8], element: impl Fn([u8; N]) -> f64 + Copy) -> Option<String> {
        // Which NaN it is, decimals do not say.
        let is_nan = bytes.as_chunks().0.iter().any(|&bytes| element(bytes).is_nan());
        if is_nan { None } else { list(bytes, |bytes| float(element(bytes))) }
    }
    if elements > DECIMALS {
        return None;
    }
    match dtype {
        // A float is printed by its own digits, which are fewer than those of the double it is.
        DataType::Float => {
            let all = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
            let all: Vec<f32> = all.collect();
            let words = || all.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(", ");
            (!all.iter().any(|value| value.is_nan())).then(words)
        }
        DataType::Double => floats(bytes, f64::from_le_bytes),
        DataType::Float16 => floats(bytes, |bytes| half::f16::from_le_bytes(bytes).to_f64()),
        DataType::Bfloat16 => floats(bytes, |bytes| half::bf16::from_le_bytes(bytes).to_f64()),
        DataType::Int8 => list(bytes, i8::from_le_bytes),
        DataType::Int16 => list(bytes, i16::from_le_bytes),
        DataType::Int32 => list(bytes, i32::from_le_bytes),
        DataType::Int64 => list(bytes, i64::from_le_bytes),
        DataType::Uint8 => list(bytes, u8::from_le_bytes),
        DataType::Uint16 => list(bytes, u16::from_le_bytes),
        DataType::Uint32 => list(bytes, u32::from_le_bytes),
        DataType::Uint64 => list(bytes, u64::from_le_bytes),
        DataType::Bool if bytes.iter().all(|&byte| byte <= 1) => list(bytes, |[byte]| byte == 1),
        _ => None,
    }
}

fn float(value: f64) -> String {
    format!("{value:?}")
}

/// `0x` and two digits a byte.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Where the payload of a tensor lies, if that is in a file beside the text.
fn external(proto: &TensorProto) -> Option<String> {
    let entry = |key: &str| proto.external_data.iter().find(|entry| entry.key() == key);
    let location = entry("location").filter(|_| is_external(proto))?;
    let number =
        |key: &str| entry(key).and_then(|entry| entry.value().parse::<u64>().ok()).unwrap_or_default();
    let location = quote::quoted(location.value().as_bytes());
    Some(format!("external<{location}, {}, {}>", number("offset"), number("length")))
}

/// The payload that comes next, of a tensor of this type, which gets it.
pub(super) fn parse_payload(
    lexer: &mut Lexer,
    tensor: &mut TensorProto,
    splats: &mut Splats,
) -> Result<(), ParseError> {
    let dtype =
        Tensor::from_proto(tensor.clone()).dtype().map_err(|error| lexer.error(&error.to_string()))?;
    let kind = match lexer.token() {
        Token::Word(word @ ("dense" | "splat" | "external" | "opaque")) => *word,
        _ => return Err(lexer.unexpected("dense, splat, external or opaque")),
    };
    let place = lexer.place();
    lexer.next();
    if kind == "opaque" {
        tensor.data_location = Some(DataLocation::External as i32);
        let empty = Tensor::from_proto(tensor.clone());
        return empty.elements().map(drop).map_err(|error| lexer.error_at(place, &error.to_string()));
    }
    lexer.expect("<")?;
    match (kind, dtype) {
        ("external", _) => {
            let location = lexer.string()?;
            lexer.expect(",")?;
            let offset: u64 = lexer.number("an offset in bytes")?;
            lexer.expect(",")?;
            let length: u64 = lexer.number("a length in bytes")?;
            lexer.expect(">")?;
            let entry = |key: &str, value: String| StringStringEntryProto {
                key: Some(key.to_string()),
                value: Some(value),
            };
            tensor.data_location = Some(DataLocation::External as i32);
            tensor.external_data = vec![
                entry("location", location),
                entry("offset", offset.to_string()),
                entry("length", length.to_string()),
            ];
            return Ok(());
        }
        ("splat", _) => {
            let element = elements(lexer, dtype)?;
            let whole = Tensor::from_proto(tensor.clone()).byte_len();
            let whole = whole.map_err(|error| lexer.error_at(place, &error.to_string()))?;
            let size = bits(dtype).filter(|bits| bits % 8 == 0).map(|bits| bits / 8);
            if size != Some(element.len()) {
                return Err(lexer.error_at(place, &format!("a splat has one element, of {}", name(dtype))));
            }
            if !splats.take(whole) {
                let limit = format!("the splats of a text may have {SPLATS} bytes together");
                return Err(lexer.error_at(place, &format!("{limit}; write this one as external or opaque")));
            }
            tensor.raw_data = Some(element.repeat(whole / element.len()).into());
        }
        (_, DataType::String) => {
            tensor.string_data = lexer.list(">", |lexer| match lexer.next() {
                Token::Quoted(bytes) => Ok(bytes.into_owned()),
                _ => Err(lexer.error("a string was expected before this")),
            })?;
            let expected = Tensor::from_proto(tensor.clone()).elements();
            let expected = expected.map_err(|error| lexer.error_at(place, &error.to_string()))?;
            return match tensor.string_data.len() {
                found if found == expected => Ok(()),
                found => {
                    Err(lexer
                        .error_at(place, &format!("{expected} strings are declared, and {found} are here")))
                }
            };
        }
        _ => tensor.raw_data = Some(elements(lexer, dtype)?.into()),
    }
    Tensor::from_proto(tensor.clone()).check().map_err(|error| lexer.error_at(place, &error.to_string()))
}

/// The bytes of the elements up to `>`.
fn elements(lexer: &mut Lexer, dtype: DataType) -> Result<Vec<u8>, ParseError> {
    if matches!(lexer.token(), Token::Number(text) if text.starts_with("0x")) {
        let bytes = lexer.bytes()?;
        lexer.expect(">")?;
        return Ok(bytes);
    }
    fn list<T: std::str::FromStr, const N: usize>(
        lexer: &mut Lexer,
        bytes: impl Fn(T) -> [u8; N],
    ) -> Result<Vec<u8>, ParseError> {
        Ok(lexer.list(">", |lexer| lexer.number("an element").map(&bytes))?.concat())
    }
    match dtype {
        DataType::Float => list(lexer, f32::to_le_bytes),
        DataType::Double => list(lexer, f64::to_le_bytes),
        DataType::Float16 => list(lexer, |value| half::f16::from_f64(value).to_le_bytes()),
        DataType::Bfloat16 => list(lexer, |value| half::bf16::from_f64(value).to_le_bytes()),
        DataType::Int8 => list(lexer, i8::to_le_bytes),
        DataType::Int16 => list(lexer, i16::to_le_bytes),
        DataType::Int32 => list(lexer, i32::to_le_bytes),
        DataType::Int64 => list(lexer, i64::to_le_bytes),
        DataType::Uint8 => list(lexer, u8::to_le_bytes),
        DataType::Uint16 => list(lexer, u16::to_le_bytes),
        DataType::Uint32 => list(lexer, u32::to_le_bytes),
        DataType::Uint64 => list(lexer, u64::to_le_bytes),
        DataType::Bool => list(lexer, |value: bool| [value.into()]),
        _ if lexer.takes(">") => Ok(Vec::new()),
        _ => Err(lexer.unexpected("bytes as 0x and hexadecimal digits")),
    }
}
