//! Types of values in the textual form: `f32[batch, 4]`, `seq(f32)`.

use std::fmt::Write;

use super::lex::{Lexer, ParseError, Token};
use super::quote;
use crate::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use crate::onnx::proto::{TensorShapeProto, TypeProto, type_proto};
use crate::tensor::{DataType, name};

/// Types within types, and graphs within graphs; what protobuf readers take is less deep.
pub(super) const DEPTH: usize = 50;

/// The element types that constants can have.
const DATA_TYPES: std::ops::RangeInclusive<i32> = 1..=DataType::Float6e3m2 as i32;

/// The element type that a word names.
pub(super) fn data_type(word: &str) -> Option<DataType> {
    DATA_TYPES.filter_map(|code| DataType::try_from(code).ok()).find(|&dtype| name(dtype) == word)
}

/// The text of a type; `None` where the language has no words for all of it.
pub(super) fn print(proto: &TypeProto) -> Option<String> {
    use type_proto::Value;
    if proto.denotation.is_some() {
        return None;
    }
    let inner = |inner: &Option<Box<TypeProto>>| print(inner.as_deref()?);
    Some(match proto.value.as_ref()? {
        Value::TensorType(tensor) => element(tensor.elem_type) + &shape(tensor.shape.as_ref())?,
        Value::SparseTensorType(tensor) => {
            format!("sparse({}{})", element(tensor.elem_type), shape(tensor.shape.as_ref())?)
        }
        Value::SequenceType(sequence) => format!("seq({})", inner(&sequence.elem_type)?),
        Value::OptionalType(optional) => format!("optional({})", inner(&optional.elem_type)?),
        Value::MapType(map) => format!("map({}, {})", element(map.key_type), inner(&map.value_type)?),
        Value::OpaqueType(_) => return None,
    })
}

/// An element type; `?` and its number where it has no name.
fn element(code: Option<i32>) -> String {
    match code {
        None => "?".to_string(),
        Some(code) if DATA_TYPES.contains(&code) => DataType::try_from(code).map_or("?", name).to_string(),
        Some(code) => format!("?{code}"),
    }
}

fn shape(shape: Option<&TensorShapeProto>) -> Option<String> {
    let Some(shape) = shape else { return Some(String::new()) };
    let mut text = String::from("[");
    for (at, dim) in shape.dim.iter().enumerate() {
        if dim.denotation.is_some() {
            return None;
        }
        text.push_str(if at == 0 { "" } else { ", " });
        match &dim.value {
            Some(dimension::Value::DimValue(size)) => drop(write!(text, "{size}")),
            Some(dimension::Value::DimParam(symbol)) => text.push_str(&quote::word(symbol, |_| false)),
            None => text.push('?'),
        }
    }
    text.push(']');
    Some(text)
}

/// The type that comes next.
pub(super) fn parse(lexer: &mut Lexer) -> Result<TypeProto, ParseError> {
    parse_at(lexer, 0)
}

fn parse_at(lexer: &mut Lexer, depth: usize) -> Result<TypeProto, ParseError> {
    use type_proto::Value;
    if depth == DEPTH {
        return Err(lexer.error("types are nested too deeply here"));
    }
    let inner = |lexer: &mut Lexer| parse_at(lexer, depth + 1).map(|inner| Some(Box::new(inner)));
    let kind = match lexer.token() {
        Token::Word(word @ ("sparse" | "seq" | "optional" | "map")) => *word,
        _ => "",
    };
    let is_tensor = kind.is_empty();
    if !is_tensor {
        lexer.next();
        lexer.expect("(")?;
    }
    let value = match kind {
        "sparse" => Value::SparseTensorType(type_proto::SparseTensor {
            elem_type: parse_element(lexer)?,
            shape: parse_shape(lexer)?,
        }),
        "seq" => Value::SequenceType(Box::new(type_proto::Sequence { elem_type: inner(lexer)? })),
        "optional" => Value::OptionalType(Box::new(type_proto::Optional { elem_type: inner(lexer)? })),
        "map" => {
            let key_type = parse_element(lexer)?;
            lexer.expect(",")?;
            Value::MapType(Box::new(type_proto::Map { key_type, value_type: inner(lexer)? }))
        }
        _ => Value::TensorType(type_proto::Tensor {
            elem_type: parse_element(lexer)?,
            shape: parse_shape(lexer)?,
        }),
    };
    if !is_tensor {
        lexer.expect(")")?;
    }
    Ok(TypeProto { denotation: None, value: Some(value) })
}

fn parse_element(lexer: &mut Lexer) -> Result<Option<i32>, ParseError> {
    if lexer.takes("?") {
        return match lexer.token() {
            Token::Number(_) => lexer.number("the number of an element type").map(Some),
            _ => Ok(None),
        };
    }
    let found = match lexer.token() {
        Token::Word(word) => data_type(word),
        _ => None,
    };
    let found = found.ok_or_else(|| lexer.unexpected("a type such as f32"))?;
    lexer.next();
    Ok(Some(found as i32))
}

fn parse_shape(lexer: &mut Lexer) -> Result<Option<TensorShapeProto>, ParseError> {
    if !lexer.takes("[") {
        return Ok(None);
    }
    let dim = lexer.list("]", |lexer| {
        let value = match lexer.token() {
            Token::Mark("?") => {
                lexer.next();
                None
            }
            Token::Number(_) => Some(dimension::Value::DimValue(lexer.number("a size")?)),
            Token::Word(symbol) => {
                let symbol = symbol.to_string();
                lexer.next();
                Some(dimension::Value::DimParam(symbol))
            }
            Token::Quoted(_) => Some(dimension::Value::DimParam(lexer.string()?)),
            _ => return Err(lexer.unexpected("a size, a symbol or ?")),
        };
        Ok(Dimension { denotation: None, value })
    })?;
    Ok(Some(TensorShapeProto { dim }))
}
