//! Graphs, nodes and attributes to text.

use std::collections::HashMap;
use std::fmt::{self, Write};

use prost::Message;

use crate::onnx::proto::{
    AttributeProto, GraphProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto,
    attribute_proto::AttributeType,
};
use crate::text::constant::{self, Splats, hexadecimal};
use crate::text::message::OwnPlaces;
use crate::text::words::{
    KINDS, beside_payload, float, has_words, is_empty, is_list, operator, optional_value, value,
};
use crate::text::{quote, types};

/// How much is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// All of the model.
    Exact,
    /// Without long constants, the nodes that a linear layer stands for, and what the language has no words for.
    Summary,
}

/// Prints messages.
pub(in crate::text) struct Printer<'w> {
    pub(super) out: &'w mut dyn Write,
    style: Style,
    splats: Splats,
    own: &'w OwnPlaces,
    /// The way to what is printed, see [`OwnPlaces`]; none in a function, which has no operators of ours.
    way: Option<Vec<usize>>,
    /// Blanks before a statement.
    indent: usize,
}

impl<'w> Printer<'w> {
    /// Prints to `out`; the nodes at the places of `own` are operators of ours.
    pub fn new(out: &'w mut dyn Write, style: Style, own: &'w OwnPlaces) -> Self {
        Self { out, style, splats: Splats::default(), own, way: Some(Vec::new()), indent: 0 }
    }

    /// The graph.
    pub fn graph(&mut self, graph: &GraphProto) -> fmt::Result {
        let GraphProto {
            node,
            name,
            initializer,
            sparse_initializer,
            doc_string,
            input,
            output,
            value_info,
            quantization_annotation,
            metadata_props,
        } = graph;
        write!(self.out, "graph")?;
        if let Some(name) = name {
            write!(self.out, " {}", quote::word(name, |word| word == "proto"))?;
        }
        write!(self.out, " (")?;
        self.separated(input, Self::declaration)?;
        write!(self.out, ") -> (")?;
        self.separated(output, Self::declaration)?;
        write!(self.out, ")")?;
        let unsaid_metadata = self.metadata(metadata_props)?;
        // Nodes read the values of sparse initializers.
        let sparse = GraphProto { sparse_initializer: sparse_initializer.clone(), ..Default::default() };
        if self.style == Style::Summary && !sparse_initializer.is_empty() {
            self.message(&sparse)?;
        }
        self.rest(&GraphProto {
            doc_string: doc_string.clone(),
            quantization_annotation: quantization_annotation.clone(),
            metadata_props: unsaid_metadata,
            ..sparse
        })?;
        self.block(initializer, node, value_info)
    }

    /// The nodes of a function.
    pub(super) fn function_block(&mut self, nodes: &[NodeProto], types: &[ValueInfoProto]) -> fmt::Result {
        let way = self.way.take();
        self.block(&[], nodes, types)?;
        self.way = way;
        Ok(())
    }

    /// Constants and nodes, with the types of their results. Where a file lists the types in another order, or others, the list
    /// comes at the end.
    fn block(
        &mut self,
        constants: &[TensorProto],
        nodes: &[NodeProto],
        types: &[ValueInfoProto],
    ) -> fmt::Result {
        writeln!(self.out, " {{")?;
        self.indent += 2;
        for tensor in constants {
            self.start()?;
            self.constant(tensor)?;
            writeln!(self.out)?;
        }
        let mut said: HashMap<&str, &ValueInfoProto> = HashMap::new();
        for info in types.iter().filter(|info| info.r#type.is_some()) {
            said.entry(info.name()).or_insert(info);
        }
        let mut order = Vec::new();
        for (at, node) in nodes.iter().enumerate() {
            self.start()?;
            let outputs = node.output.iter().map(|name| said.remove_entry(name.as_str()));
            let outputs: Vec<_> = outputs.map(|entry| entry.map(|(_, info)| info)).collect();
            self.step_into(at);
            let is_own = self.way.as_ref().is_some_and(|way| self.own.contains(way));
            self.node(node, &outputs, is_own)?;
            self.step_back();
            order.extend(outputs.into_iter().flatten());
            writeln!(self.out)?;
        }
        if self.style == Style::Exact && !types.iter().eq(order.iter().copied()) {
            self.start()?;
            write!(self.out, "types(")?;
            let said: HashMap<&str, &ValueInfoProto> =
                order.into_iter().map(|info| (info.name(), info)).collect();
            self.separated(types, |printer, info| match said.get(info.name()) {
                Some(said) if *said == info => write!(printer.out, "{}", value(info.name())),
                _ => printer.declaration_with(info, info.r#type.is_none()),
            })?;
            writeln!(self.out, ")")?;
        }
        self.indent -= 2;
        self.start()?;
        write!(self.out, "}}")
    }

    fn constant(&mut self, tensor: &TensorProto) -> fmt::Result {
        write!(self.out, "const {}", optional_value(tensor.name.as_deref()))?;
        match self.payload(tensor) {
            Some((r#type, payload)) => {
                write!(self.out, ": {} = {payload}", r#type)?;
                self.rest(&beside_payload(tensor))
            }
            None => self.message(&TensorProto { name: None, ..tensor.clone() }),
        }
    }

    fn payload(&mut self, tensor: &TensorProto) -> Option<(String, String)> {
        constant::print(tensor, self.style == Style::Summary, &mut self.splats)
    }

    fn node(&mut self, node: &NodeProto, types: &[Option<&ValueInfoProto>], is_own: bool) -> fmt::Result {
        let NodeProto {
            input,
            output,
            name,
            op_type,
            domain,
            overload,
            attribute,
            doc_string,
            metadata_props,
            device_configurations,
        } = node;
        let Some(op_type) = op_type else {
            write!(self.out, "node")?;
            return self.message(node);
        };
        let outputs: Vec<_> = output.iter().zip(types).collect();
        self.separated(&outputs, |printer, (name, info)| match (name.as_str(), info) {
            (_, Some(info)) => printer.declaration(info),
            ("", None) => write!(printer.out, "_"),
            (name, None) => write!(printer.out, "{}", value(name)),
        })?;
        let operator = match is_own {
            true => op_type.clone(),
            false => operator(domain.as_deref(), Some(op_type), overload.as_deref()),
        };
        let inputs = input.iter().map(|name| if name.is_empty() { "_".to_string() } else { value(name) });
        let inputs = inputs.collect::<Vec<_>>().join(", ");
        write!(self.out, "{}{operator}({inputs})", if output.is_empty() { "" } else { " = " })?;
        let shown: Vec<_> =
            attribute.iter().filter(|attribute| !is_own || self.shows_own(attribute)).collect();
        if !shown.is_empty() {
            write!(self.out, " {{")?;
            let mut graphs = 0;
            self.separated(&shown, |printer, attribute| {
                printer.attribute(attribute, graphs)?;
                graphs += attribute.g.iter().chain(&attribute.graphs).count();
                Ok(())
            })?;
            write!(self.out, "}}")?;
        }
        if let Some(name) = name {
            write!(self.out, " @{}", quote::name(name))?;
        }
        let unsaid_metadata = self.metadata(metadata_props)?;
        self.rest(&NodeProto {
            doc_string: doc_string.clone(),
            metadata_props: unsaid_metadata,
            device_configurations: device_configurations.clone(),
            ..Default::default()
        })
    }

    /// Metadata; gives them back where an entry lacks its key or its value, which the language cannot say.
    pub(super) fn metadata(
        &mut self,
        entries: &[StringStringEntryProto],
    ) -> Result<Vec<StringStringEntryProto>, fmt::Error> {
        let pair = |StringStringEntryProto { key, value }: &StringStringEntryProto| {
            let text = |text: &Option<String>| Some(quote::quoted(text.as_ref()?.as_bytes()));
            Some(format!("{} = {}", text(key)?, text(value)?))
        };
        let pairs: Option<Vec<String>> = entries.iter().map(pair).collect();
        let Some(pairs) = pairs else { return Ok(entries.to_vec()) };
        if self.style == Style::Exact && !pairs.is_empty() {
            write!(self.out, " metadata({})", pairs.join(", "))?;
        }
        Ok(Vec::new())
    }

    /// Whether an attribute of one of our operators is shown.
    fn shows_own(&self, attribute: &AttributeProto) -> bool {
        self.style == Style::Exact || attribute.r#type() != AttributeType::Graph
    }

    /// An attribute of a node that has so many graphs in those before it.
    pub(super) fn attribute(&mut self, attribute: &AttributeProto, graphs_before: usize) -> fmt::Result {
        let Some(name) = &attribute.name else {
            write!(self.out, "_")?;
            return self.message(attribute);
        };
        write!(self.out, "{}", quote::word(name, |word| word == "_"))?;
        let tensors = attribute.t.iter().chain(&attribute.tensors);
        let tensors: Option<Vec<_>> = tensors.map(|tensor| Some((tensor, self.payload(tensor)?))).collect();
        let types = attribute.tp.iter().chain(&attribute.type_protos);
        let types: Option<Vec<_>> = types.map(types::print).collect();
        let (Some(tensors), Some(types), true) = (tensors, types, has_words(attribute)) else {
            return self.message(&AttributeProto { name: None, ..attribute.clone() });
        };
        let AttributeProto { ref_attr_name, doc_string, i, ints, f, floats, s, strings, g, graphs, .. } =
            attribute;
        write!(self.out, " = ")?;
        let kind = KINDS.iter().find(|(kind, _)| *kind == attribute.r#type());
        let (is_list, word) = kind.map_or((false, ""), |(kind, word)| (is_list(*kind), *word));
        match ref_attr_name {
            Some(name) => {
                let blank = if word.is_empty() { "" } else { " " };
                write!(self.out, "{word}{blank}@{}", quote::name(name))?;
            }
            None if is_list && is_empty(attribute) => {
                write!(self.out, "{word} []")?;
            }
            None => {
                write!(self.out, "{}", if is_list { "[" } else { "" })?;
                self.separated(i.iter().chain(ints), |printer, int| write!(printer.out, "{int}"))?;
                self.separated(f.iter().chain(floats), |printer, value| {
                    write!(printer.out, "{}", float(*value))
                })?;
                self.separated(s.iter().chain(strings), |printer, string| {
                    write!(printer.out, "{}", quote::quoted(string))
                })?;
                self.separated(tensors, |printer, (tensor, (r#type, payload))| {
                    let name = tensor.name.as_deref().map(|name| value(name) + ": ").unwrap_or_default();
                    write!(printer.out, "{name}{} {payload}", r#type)?;
                    printer.rest(&beside_payload(tensor))
                })?;
                self.separated(g.iter().chain(graphs).enumerate(), |printer, (index, graph)| {
                    printer.step_into(graphs_before + index);
                    printer.graph(graph)?;
                    printer.step_back();
                    Ok(())
                })?;
                self.separated(types, |printer, text| write!(printer.out, "type {text}"))?;
                write!(self.out, "{}", if is_list { "]" } else { "" })?;
            }
        }
        self.rest(&AttributeProto { doc_string: doc_string.clone(), ..Default::default() })
    }

    fn declaration(&mut self, info: &ValueInfoProto) -> fmt::Result {
        self.declaration_with(info, false)
    }

    /// The declaration of a value; `says_rest` prints what the language has no words for even if that is nothing.
    fn declaration_with(&mut self, info: &ValueInfoProto, says_rest: bool) -> fmt::Result {
        let ValueInfoProto { name, r#type, doc_string, metadata_props } = info;
        write!(self.out, "{}", optional_value(name.as_deref()))?;
        let text = r#type.as_ref().and_then(types::print);
        if let Some(text) = &text {
            write!(self.out, ": {text}")?;
        }
        let unsaid_metadata = self.metadata(metadata_props)?;
        let rest = ValueInfoProto {
            name: None,
            r#type: r#type.clone().filter(|_| text.is_none()),
            doc_string: doc_string.clone(),
            metadata_props: unsaid_metadata,
        };
        if says_rest { self.message(&rest) } else { self.rest(&rest) }
    }

    /// Items with commas between them.
    pub(super) fn separated<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut print: impl FnMut(&mut Self, T) -> fmt::Result,
    ) -> fmt::Result {
        items.into_iter().enumerate().try_for_each(|(at, item)| {
            write!(self.out, "{}", if at == 0 { "" } else { ", " })?;
            print(self, item)
        })
    }

    /// What the language has no words for, if there is any.
    pub(super) fn rest<M: Message + Default + PartialEq>(&mut self, rest: &M) -> fmt::Result {
        if self.style == Style::Summary || *rest == M::default() { Ok(()) } else { self.message(rest) }
    }

    fn message(&mut self, message: &impl Message) -> fmt::Result {
        write!(self.out, " proto<{}>", hexadecimal(&message.encode_to_vec()))
    }

    /// Goes on to a node of a graph, or to a region of a node.
    fn step_into(&mut self, place: usize) {
        if let Some(way) = &mut self.way {
            way.push(place);
        }
    }

    fn step_back(&mut self) {
        if let Some(way) = &mut self.way {
            way.pop();
        }
    }

    fn start(&mut self) -> fmt::Result {
        write!(self.out, "{:1$}", "", self.indent)
    }
}
