//! Attributes from text.

use std::collections::HashSet;

use super::Parser;
use crate::onnx::proto::{AttributeProto, TensorProto, attribute_proto::AttributeType};
use crate::text::constant;
use crate::text::lex::{ParseError, Token};
use crate::text::types;
use crate::text::words::{KINDS, is_list};

impl Parser<'_> {
    pub(super) fn attribute(&mut self) -> Result<AttributeProto, ParseError> {
        let name = if self.lexer.takes_word("_") { None } else { Some(self.word_or_string("an attribute")?) };
        let graphs = self.graphs;
        let mut attribute = AttributeProto::default();
        if self.lexer.takes("=") {
            attribute = self.attribute_value()?;
        }
        attribute.name = name;
        self.rest(&mut attribute)?;
        self.graphs = graphs + attribute.g.iter().chain(&attribute.graphs).count();
        Ok(attribute)
    }

    fn attribute_value(&mut self) -> Result<AttributeProto, ParseError> {
        if let Token::Word(word) = self.lexer.token()
            && let Some(&(kind, _)) = KINDS.iter().find(|(_, known)| known == word)
        {
            self.lexer.next();
            if is_list(kind) && self.lexer.takes("[") {
                self.lexer.expect("]")?;
                return Ok(of_kind(kind));
            }
            match (self.lexer.token(), kind) {
                (Token::At(_), _) => {}
                (_, AttributeType::Graph | AttributeType::TypeProto) => {
                    return self.item_of(kind);
                }
                _ => return Err(self.lexer.unexpected(if is_list(kind) { "[ or @" } else { "@" })),
            }
            return Ok(AttributeProto { r#type: Some(kind as i32), ..self.reference()? });
        }
        if matches!(self.lexer.token(), Token::At(_)) {
            return self.reference();
        }
        if !self.lexer.takes("[") {
            return self.item();
        }
        let place = self.lexer.place();
        let items = self.list("]", Self::item)?;
        let kinds: HashSet<i32> = items.iter().filter_map(|item| item.r#type).collect();
        let mut list = AttributeProto::default();
        for AttributeProto { f, i, s, t, g, tp, .. } in items {
            list.floats.extend(f);
            list.ints.extend(i);
            list.strings.extend(s);
            list.tensors.extend(t);
            list.graphs.extend(g);
            list.type_protos.extend(tp);
        }
        let kind = match kinds.iter().next().and_then(|&kind| AttributeType::try_from(kind).ok()) {
            _ if kinds.len() != 1 => {
                let rule =
                    "a list has values of one kind, and at least one; an empty one is ints [], floats [] ...";
                return Err(self.lexer.error_at(place, rule));
            }
            Some(AttributeType::Float) => AttributeType::Floats,
            Some(AttributeType::Int) => AttributeType::Ints,
            Some(AttributeType::String) => AttributeType::Strings,
            Some(AttributeType::Tensor) => AttributeType::Tensors,
            Some(AttributeType::Graph) => AttributeType::Graphs,
            _ => AttributeType::TypeProtos,
        };
        Ok(AttributeProto { r#type: Some(kind as i32), ..list })
    }

    fn reference(&mut self) -> Result<AttributeProto, ParseError> {
        let Token::At(name) = self.lexer.next() else { return Err(self.lexer.unexpected("@")) };
        Ok(AttributeProto { ref_attr_name: Some(name.into_owned()), ..Default::default() })
    }

    /// A value that is no list.
    fn item(&mut self) -> Result<AttributeProto, ParseError> {
        match self.lexer.token() {
            Token::Word("graph") => {
                self.lexer.next();
                self.item_of(AttributeType::Graph)
            }
            Token::Word("type") => {
                self.lexer.next();
                self.item_of(AttributeType::TypeProto)
            }
            Token::Word("inf" | "nan") => self.item_of(AttributeType::Float),
            Token::Number(text) => {
                let is_float =
                    text.starts_with("0x") || text.contains(['.', 'e', 'E']) || text.ends_with("inf");
                self.item_of(if is_float { AttributeType::Float } else { AttributeType::Int })
            }
            Token::Quoted(_) => self.item_of(AttributeType::String),
            Token::Word(_) | Token::Value(_) => self.item_of(AttributeType::Tensor),
            _ => Err(self.lexer.unexpected("the value of an attribute")),
        }
    }

    fn item_of(&mut self, kind: AttributeType) -> Result<AttributeProto, ParseError> {
        let mut item = of_kind(kind);
        match kind {
            AttributeType::Graph => {
                self.step_into(self.graphs);
                self.graphs += 1;
                item.g = Some(self.graph()?);
                self.step_back();
            }
            AttributeType::TypeProto => item.tp = Some(types::parse(&mut self.lexer)?),
            AttributeType::Float => item.f = Some(self.float()?),
            AttributeType::Int => item.i = Some(self.lexer.number("an integer of 64 bits")?),
            AttributeType::String => {
                if let Token::Quoted(bytes) = self.lexer.next() {
                    item.s = Some(bytes.into_owned());
                }
            }
            _ => {
                let mut tensor = TensorProto::default();
                if matches!(self.lexer.token(), Token::Value(_)) {
                    tensor.name = Some(self.value()?);
                    self.lexer.expect(":")?;
                }
                self.tensor_type(&mut tensor)?;
                constant::parse_payload(&mut self.lexer, &mut tensor, &mut self.splats)?;
                self.rest(&mut tensor)?;
                item.t = Some(tensor);
            }
        }
        Ok(item)
    }

    fn float(&mut self) -> Result<f32, ParseError> {
        let digits = match self.lexer.token() {
            Token::Number(text) => text.strip_prefix("0x"),
            _ => None,
        };
        let Some(digits) = digits else { return self.lexer.number("a float") };
        let bits = u32::from_str_radix(digits, 16);
        let bits = bits.map_err(|_| self.lexer.unexpected("the 32 bits of a float"))?;
        self.lexer.next();
        Ok(f32::from_bits(bits))
    }
}

fn of_kind(kind: AttributeType) -> AttributeProto {
    AttributeProto { r#type: Some(kind as i32), ..Default::default() }
}
