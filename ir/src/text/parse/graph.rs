//! Graphs, nodes and attributes from text.

use std::collections::HashMap;

use prost::Message;

use crate::onnx::OwnOperators;
use crate::onnx::proto::{GraphProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto};
use crate::text::constant::{self, Splats};
use crate::text::lex::{Lexer, ParseError, Token};
use crate::text::words::OWN;
use crate::text::{operators, types};

/// What stands between the braces of a graph or a function.
#[derive(Default)]
pub(super) struct Block {
    constants: Vec<TensorProto>,
    pub nodes: Vec<NodeProto>,
    pub types: Vec<ValueInfoProto>,
}

/// What names an operator or a function.
pub(super) struct Operator {
    pub domain: Option<String>,
    pub name: Option<String>,
    pub overload: Option<String>,
}

/// Reads text.
pub(crate) struct Parser<'a> {
    pub(super) lexer: Lexer<'a>,
    pub(super) splats: Splats,
    /// Our own operators so far.
    pub(super) own: OwnOperators,
    /// The way to what is read, see [`OwnOperators`]; none in a function, which has no operators of ours.
    pub(super) way: Option<Vec<usize>>,
    /// How many graphs the attributes so far of a node hold.
    pub(super) graphs: usize,
    /// How many graphs are open.
    depth: usize,
}

impl<'a> Parser<'a> {
    pub fn new(text: &'a str) -> Self {
        let (splats, own) = (Splats::default(), OwnOperators::new());
        Self { lexer: Lexer::new(text), splats, own, way: Some(Vec::new()), graphs: 0, depth: 0 }
    }

    /// The graph behind the word `graph`.
    pub(super) fn graph(&mut self) -> Result<GraphProto, ParseError> {
        if self.depth == types::DEPTH {
            return Err(self.lexer.error("graphs are nested too deeply here"));
        }
        self.depth += 1;
        let mut graph = GraphProto { name: self.optional_name()?, ..Default::default() };
        self.lexer.expect("(")?;
        graph.input = self.list(")", |parser| Ok(parser.declaration()?.0))?;
        self.lexer.expect("->")?;
        self.lexer.expect("(")?;
        graph.output = self.list(")", |parser| Ok(parser.declaration()?.0))?;
        graph.metadata_props = self.metadata()?;
        self.rest(&mut graph)?;
        let block = self.block()?;
        (graph.initializer, graph.node, graph.value_info) = (block.constants, block.nodes, block.types);
        self.depth -= 1;
        Ok(graph)
    }

    /// The name of a graph, unless what it has comes at once.
    fn optional_name(&mut self) -> Result<Option<String>, ParseError> {
        match self.lexer.token() {
            Token::Word(_) | Token::Quoted(_) => self.word_or_string("a name").map(Some),
            _ => Ok(None),
        }
    }

    /// A word, or a string that stands for one.
    pub(super) fn word_or_string(&mut self, expected: &str) -> Result<String, ParseError> {
        match self.lexer.token() {
            Token::Word(word) => {
                let word = word.to_string();
                self.lexer.next();
                Ok(word)
            }
            Token::Quoted(_) => self.lexer.string(),
            _ => Err(self.lexer.unexpected(expected)),
        }
    }

    /// Constants, nodes and types between braces.
    pub(super) fn block(&mut self) -> Result<Block, ParseError> {
        self.lexer.expect("{")?;
        let mut block = Block::default();
        while !self.lexer.takes("}") {
            if self.lexer.takes_word("const") {
                let constant = self.constant()?;
                block.constants.push(constant);
            } else if self.lexer.takes_word("types") {
                self.types(&mut block)?;
            } else {
                self.step_into(block.nodes.len());
                self.node(&mut block)?;
                self.step_back();
            }
        }
        Ok(block)
    }

    fn constant(&mut self) -> Result<TensorProto, ParseError> {
        let mut tensor = TensorProto { name: self.optional_value()?, ..Default::default() };
        if self.lexer.takes(":") {
            self.tensor_type(&mut tensor)?;
            self.lexer.expect("=")?;
            constant::parse_payload(&mut self.lexer, &mut tensor, &mut self.splats)?;
        }
        self.rest(&mut tensor)?;
        Ok(tensor)
    }

    pub(super) fn tensor_type(&mut self, tensor: &mut TensorProto) -> Result<(), ParseError> {
        let dtype = match self.lexer.token() {
            Token::Word(word) => types::data_type(word),
            _ => None,
        };
        let dtype = dtype.ok_or_else(|| self.lexer.unexpected("an element type such as f32"))?;
        self.lexer.next();
        tensor.data_type = Some(dtype as i32);
        self.lexer.expect("[")?;
        tensor.dims = self.lexer.list("]", |lexer| lexer.number("a size"))?;
        Ok(())
    }

    /// The list of types, which replaces that of the results as they came.
    fn types(&mut self, block: &mut Block) -> Result<(), ParseError> {
        let said: HashMap<String, ValueInfoProto> = std::mem::take(&mut block.types)
            .into_iter()
            .map(|info| (info.name().to_string(), info))
            .collect();
        self.lexer.expect("(")?;
        block.types = self.list(")", |parser| {
            let (info, says_more) = parser.declaration()?;
            match said.get(info.name()) {
                _ if says_more => Ok(info),
                Some(said) => Ok(said.clone()),
                None => {
                    Err(parser.lexer.error(&format!("%{} has no type to be listed before this", info.name())))
                }
            }
        })?;
        Ok(())
    }

    /// A value with its type; says whether there was more than its name.
    fn declaration(&mut self) -> Result<(ValueInfoProto, bool), ParseError> {
        let mut info = ValueInfoProto { name: self.optional_value()?, ..Default::default() };
        if self.lexer.takes(":") {
            info.r#type = Some(types::parse(&mut self.lexer)?);
        }
        info.metadata_props = self.metadata()?;
        let has_rest = self.rest(&mut info)?;
        let says_more = has_rest || info.r#type.is_some() || !info.metadata_props.is_empty();
        Ok((info, says_more))
    }

    /// `%name`, or `_` for none.
    fn optional_value(&mut self) -> Result<Option<String>, ParseError> {
        if self.lexer.takes_word("_") { Ok(None) } else { self.value().map(Some) }
    }

    pub(super) fn value(&mut self) -> Result<String, ParseError> {
        let Token::Value(name) = self.lexer.token() else {
            return Err(self.lexer.unexpected("a value such as %x"));
        };
        let name = name.to_string();
        self.lexer.next();
        Ok(name)
    }

    fn node(&mut self, block: &mut Block) -> Result<(), ParseError> {
        let mut node = NodeProto::default();
        if self.lexer.takes_word("node") {
            self.rest(&mut node)?;
            block.nodes.push(node);
            return Ok(());
        }
        if matches!(self.lexer.token(), Token::Value(_)) || self.lexer.is_word("_") {
            loop {
                let (info, has_type) = self.declaration()?;
                node.output.push(info.name().to_string());
                block.types.extend(has_type.then_some(info));
                if !self.lexer.takes(",") {
                    break;
                }
            }
            self.lexer.expect("=")?;
        }
        let place = self.lexer.place();
        let is_own = matches!(self.lexer.token(), Token::Word(word) if word.starts_with(OWN));
        let Operator { domain, name, overload } = self.operator()?;
        if is_own && overload.is_some() {
            return Err(self.lexer.error_at(place, "operators of ours have no overloads"));
        }
        (node.domain, node.op_type, node.overload) = (domain, name, overload);
        self.lexer.expect("(")?;
        node.input = self.list(")", |parser| Ok(parser.optional_value()?.unwrap_or_default()))?;
        if self.lexer.takes("{") {
            let graphs = std::mem::take(&mut self.graphs);
            node.attribute = self.list("}", Self::attribute)?;
            self.graphs = graphs;
        }
        if let Token::At(name) = self.lexer.token() {
            node.name = Some(name.to_string());
            self.lexer.next();
        }
        node.metadata_props = self.metadata()?;
        self.rest(&mut node)?;
        if is_own {
            let own = operators::from_attributes(&node);
            let own = own.map_err(|message| self.lexer.error_at(place, &message))?;
            let Some(way) = &self.way else {
                return Err(self.lexer.error_at(place, "no function has operators of our own"));
            };
            self.own.insert(way.clone(), own);
        }
        block.nodes.push(node);
        Ok(())
    }

    pub(super) fn operator(&mut self) -> Result<Operator, ParseError> {
        let mut is_nameless = self.lexer.is_word("_");
        let mut name = self.word_or_string("an operator")?;
        let mut domain = None;
        if self.lexer.takes("::") {
            is_nameless = self.lexer.is_word("_");
            domain = Some(std::mem::replace(&mut name, self.word_or_string("an operator")?));
        }
        let overload = match self.lexer.takes(":") {
            true => Some(self.word_or_string("an overload")?),
            false => None,
        };
        Ok(Operator { domain, name: Some(name).filter(|_| !is_nameless), overload })
    }

    /// Goes on to a node of a graph, or to a region of a node.
    pub(super) fn step_into(&mut self, place: usize) {
        if let Some(way) = &mut self.way {
            way.push(place);
        }
    }

    pub(super) fn step_back(&mut self) {
        if let Some(way) = &mut self.way {
            way.pop();
        }
    }

    pub(super) fn metadata(&mut self) -> Result<Vec<StringStringEntryProto>, ParseError> {
        if !self.lexer.takes_word("metadata") {
            return Ok(Vec::new());
        }
        self.lexer.expect("(")?;
        self.lexer.list(")", |lexer| {
            let key = lexer.string()?;
            lexer.expect("=")?;
            Ok(StringStringEntryProto { key: Some(key), value: Some(lexer.string()?) })
        })
    }

    /// What the language has no words for, if it comes now: it is merged into `message`.
    pub(super) fn rest(&mut self, message: &mut (impl Message + Default)) -> Result<bool, ParseError> {
        if !self.lexer.takes_word("proto") {
            return Ok(false);
        }
        self.lexer.expect("<")?;
        let place = self.lexer.place();
        let bytes = self.lexer.bytes()?;
        self.lexer.expect(">")?;
        let merged = message.merge(bytes.as_slice());
        merged.map_err(|error| self.lexer.error_at(place, &format!("these bytes: {error}")))?;
        Ok(true)
    }

    /// As [`Lexer::list`], of what the parser reads.
    pub(super) fn list<T>(
        &mut self,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<T, ParseError>,
    ) -> Result<Vec<T>, ParseError> {
        let mut items = Vec::new();
        while !self.lexer.takes(close) {
            if !items.is_empty() {
                self.lexer.expect(",")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }
}
