//! Models and functions from text.

mod attributes;
mod graph;

use std::path::Path;

use super::lex::{ParseError, Token};
use crate::onnx::OwnOperators;
use crate::onnx::proto::{FunctionProto, ModelProto, OperatorSetIdProto};

use graph::Operator;
pub(crate) use graph::Parser;

/// Whether a file of this name holds a model as text.
pub fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "zir")
}

impl Parser<'_> {
    /// The model that the text is, and our own operators in its graph.
    pub fn model(&mut self) -> Result<(ModelProto, OwnOperators), ParseError> {
        let mut model = ModelProto::default();
        self.keyword("model")?;
        loop {
            let field = match *self.lexer.token() {
                Token::Word(
                    word @ ("ir_version" | "model_version" | "producer" | "producer_version" | "domain"),
                ) => word,
                Token::Word("imports") => {
                    self.lexer.next();
                    model.opset_import = self.imports()?;
                    continue;
                }
                _ => break,
            };
            self.lexer.next();
            self.lexer.expect("=")?;
            match field {
                "ir_version" => model.ir_version = Some(self.lexer.number("a version")?),
                "model_version" => model.model_version = Some(self.lexer.number("a version")?),
                "producer" => model.producer_name = Some(self.lexer.string()?),
                "producer_version" => model.producer_version = Some(self.lexer.string()?),
                _ => model.domain = Some(self.lexer.string()?),
            }
        }
        model.metadata_props = self.metadata()?;
        self.rest(&mut model)?;
        while self.lexer.takes_word("function") {
            let way = self.way.take();
            let function = self.function()?;
            self.way = way;
            model.functions.push(function);
        }
        self.keyword("graph")?;
        model.graph = Some(self.graph()?);
        match self.lexer.token() {
            Token::End => Ok((model, std::mem::take(&mut self.own))),
            _ => Err(self.lexer.unexpected("the end, after the graph")),
        }
    }

    fn keyword(&mut self, word: &str) -> Result<(), ParseError> {
        if self.lexer.takes_word(word) { Ok(()) } else { Err(self.lexer.unexpected(&format!("'{word}'"))) }
    }

    fn imports(&mut self) -> Result<Vec<OperatorSetIdProto>, ParseError> {
        self.lexer.expect("(")?;
        self.list(")", |parser| {
            let mut domain = None;
            if !matches!(parser.lexer.token(), Token::Number(_)) {
                domain = Some(parser.word_or_string("a domain or a version")?);
                parser.lexer.expect("=")?;
            }
            Ok(OperatorSetIdProto { domain, version: Some(parser.lexer.number("a version")?) })
        })
    }

    fn function(&mut self) -> Result<FunctionProto, ParseError> {
        let Operator { domain, name, overload } = self.operator()?;
        let mut function = FunctionProto { domain, name, overload, ..Default::default() };
        self.lexer.expect("(")?;
        function.input = self.list(")", Self::value)?;
        self.lexer.expect("->")?;
        self.lexer.expect("(")?;
        function.output = self.list(")", Self::value)?;
        if self.lexer.takes_word("attributes") {
            self.lexer.expect("(")?;
            function.attribute = self.list(")", |parser| parser.word_or_string("an attribute"))?;
        }
        if self.lexer.takes_word("defaults") {
            self.lexer.expect("(")?;
            function.attribute_proto = self.list(")", Self::attribute)?;
        }
        if self.lexer.takes_word("imports") {
            function.opset_import = self.imports()?;
        }
        function.metadata_props = self.metadata()?;
        self.rest(&mut function)?;
        let block = self.block()?;
        (function.node, function.value_info) = (block.nodes, block.types);
        Ok(function)
    }
}
