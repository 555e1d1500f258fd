//! Sizes that a graph leaves open where it declares a cache, and that the node which reads it implies.
//!
//! The builder of onnxruntime-genai declares caches `[batch, kv heads, length, kv_cache_dim]` for one export to serve float and
//! packed caches. What is known of the width, the surest first: the features that the query has for each head, as declared or
//! as the layer puts out from which it comes, and for rotary embeddings inside the node the width of their table, which covers half
//! of the head, or less where only a part of it is rotated.

use zqc_ir::graph::Port;
use zqc_ir::onnx::proto::NodeProto;
use zqc_ir::{Graph, Node, Op, ValueId};

use super::error::InputError;
use super::spec::{Dimension, InputSpec};

/// An attention operator that reads caches of keys and values.
struct Attention {
    op_type: &'static str,
    /// Its input that is the cache of keys; that of values comes next.
    past_key: usize,
    /// Its attributes of the number of heads of queries, and of keys and values.
    heads: [&'static str; 2],
    /// Its input of the table of cosines, if it rotates by itself.
    cosines: Option<usize>,
}

const ATTENTION: [Attention; 3] = [
    Attention {
        op_type: "GroupQueryAttention",
        past_key: 3,
        heads: ["num_heads", "kv_num_heads"],
        cosines: Some(7),
    },
    Attention {
        op_type: "MultiHeadAttention",
        past_key: 6,
        heads: ["num_heads", "num_heads"],
        cosines: None,
    },
    Attention { op_type: "Attention", past_key: 4, heads: ["q_num_heads", "kv_num_heads"], cosines: None },
];

/// Operators whose result has the features of their first input.
const KEEPS_FEATURES: [&str; 7] = [
    "Cast",
    "Identity",
    "Dropout",
    "LayerNormalization",
    "SimplifiedLayerNormalization",
    "RMSNormalization",
    "RotaryEmbedding",
];

/// Values looked at before a size counts as unknown.
const MOST_VALUES: usize = 64;

impl InputSpec {
    /// The inputs that a caller of `graph` must provide: those without an initializer. Sizes that an input leaves open and
    /// that the node which reads it implies are fixed: of a cache of `GroupQueryAttention` the number of heads and their width.
    ///
    /// # Errors
    /// [`InputError::NotATensor`].
    pub fn of_graph(graph: &Graph) -> Result<Vec<Self>, InputError> {
        let input = |id| {
            let mut spec = Self::of_value(graph, id)?;
            if let Some(dims) = &mut spec.shape {
                fix(graph, id, dims);
            }
            Ok(spec)
        };
        graph.required_inputs().map(input).collect()
    }
}

/// Fixes those of the dimensions `dims` of the graph's input `input` that are open and that the attention which reads it implies.
fn fix(graph: &Graph, input: ValueId, dims: &mut [Dimension]) {
    let [_, heads, length, width] = dims else { return };
    let read = graph.uses(input).iter().find_map(|reader| {
        let Port::Input(port) = reader.port else { return None };
        let Op::Onnx(proto) = &graph.node(reader.node).op else { return None };
        let attention = ATTENTION.iter().find(|attention| {
            attention.op_type == proto.op_type()
                && (port == attention.past_key || port == attention.past_key + 1)
        })?;
        Some((attention, graph.node(reader.node), proto, port == attention.past_key))
    });
    let Some((attention, node, proto, is_key)) = read else { return };
    let [query_heads, kv_heads] =
        attention.heads.map(|name| usize::try_from(proto.int_or(name, 0)).unwrap_or(0));
    let fix = |dimension: &mut Dimension, extent: Option<usize>| {
        if let (Dimension::Symbolic(_), Some(extent)) = (&*dimension, extent.filter(|&extent| extent > 0)) {
            *dimension = Dimension::Fixed(extent);
        }
    };
    fix(heads, Some(kv_heads));
    // A ring of at least as many places as the window; which of them are filled follows from the lengths.
    if proto.int_or("sliding_window_cache", 0) != 0 {
        fix(length, usize::try_from(proto.int_or("local_window_size", 0)).ok());
    }
    // Two codes of 4 bits share a byte.
    if proto.int_or("kv_cache_bit_width", 0) != 4 {
        let found = || head_width(graph, attention, node, query_heads, kv_heads, is_key);
        fix(width, found().or_else(|| rotated_width(graph, attention, node, proto)));
    }
}

/// The features of a head of the keys or the values that `node` caches.
fn head_width(
    graph: &Graph,
    attention: &Attention,
    node: &Node,
    query_heads: usize,
    kv_heads: usize,
    is_key: bool,
) -> Option<usize> {
    let features = |port: usize| {
        let value = node.input(port)?;
        // Some are declared with the heads in a dimension of their own.
        let is_flat = declared(graph, value).is_none_or(|dims| dims.len() == 3);
        features(graph, value).filter(|_| is_flat)
    };
    let share = |features: usize, heads: usize| {
        (heads > 0 && features.is_multiple_of(heads)).then(|| features / heads).filter(|&width| width > 0)
    };
    if node.input(1).is_none() {
        // Queries, keys and values side by side.
        return share(features(0)?, query_heads + 2 * kv_heads);
    }
    // Values may have heads of another width than queries and keys.
    let own = || share(features(if is_key { 1 } else { 2 })?, kv_heads);
    let of_query = || share(features(0)?, query_heads).filter(|_| is_key || attention.cosines.is_some());
    own().or_else(of_query)
}

/// Twice the columns of the table of cosines: the whole head, where the whole head is rotated.
fn rotated_width(graph: &Graph, attention: &Attention, node: &Node, proto: &NodeProto) -> Option<usize> {
    let table = node.input(attention.cosines?).filter(|_| proto.int_or("do_rotary", 0) != 0)?;
    features(graph, table)?.checked_mul(2)
}

/// The dimensions that a value is declared with.
fn declared(graph: &Graph, value: ValueId) -> Option<Vec<Dimension>> {
    InputSpec::of_value(graph, value).ok()?.shape
}

/// The last dimension of a value: declared, that of a constant, or what the node behind it makes.
fn features(graph: &Graph, value: ValueId) -> Option<usize> {
    Features { graph, left: MOST_VALUES }.of(value)
}

/// A search for the last dimension of a value.
struct Features<'g> {
    graph: &'g Graph,
    /// How many values may still be looked at.
    left: usize,
}

impl Features<'_> {
    fn of(&mut self, value: ValueId) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        if let Some(Dimension::Fixed(extent)) = declared(self.graph, value).as_deref().and_then(<[_]>::last) {
            return Some(*extent);
        }
        match self.graph.literal(value) {
            Some(constant) => usize::try_from(*constant.dims().last()?).ok(),
            None => self.computed(value),
        }
    }

    /// The last dimension of what a node makes.
    fn computed(&mut self, value: ValueId) -> Option<usize> {
        let graph = self.graph;
        let node = graph.node(graph.producer(value)?);
        let proto = match &node.op {
            Op::Linear(linear) => return Some(linear.n),
            Op::QuantizedLinear(linear) => return Some(linear.n),
            Op::QuantizedGather(table) => return Some(table.k),
            Op::QuantizeActivation(_) => return None,
            Op::Onnx(proto) => proto,
        };
        let literal = |port: usize| graph.literal(node.input(port)?)?.to_i64().ok();
        match proto.op_type() {
            "MatMul" | "FusedMatMul" => self.of(node.input(1)?),
            "Gemm" if proto.int_or("transB", 0) == 0 => self.of(node.input(1)?),
            "Gemm" => usize::try_from(*graph.literal(node.input(1)?)?.dims().first()?).ok(),
            "MatMulNBits" => usize::try_from(proto.int_or("N", 0)).ok(),
            // Of a product and its bias.
            "Add" => self.of(node.input(0)?).max(self.of(node.input(1)?)),
            // Of `[batch, length, features]`.
            "Split" if matches!(proto.int_or("axis", 0), -1 | 2) => {
                let port = node.outputs().iter().position(|&output| output == Some(value))?;
                let sizes = literal(1).or_else(|| proto.ints("split").map(<[i64]>::to_vec))?;
                usize::try_from(*sizes.get(port)?).ok()
            }
            "Reshape" => usize::try_from(*literal(1)?.last()?).ok(),
            op_type if KEEPS_FEATURES.contains(&op_type) => self.of(node.input(0)?),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use zqc_ir::onnx::from_proto;
    use zqc_ir::onnx::proto::tensor_shape_proto::{self, dimension};
    use zqc_ir::onnx::proto::{
        AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
        TypeProto, ValueInfoProto, type_proto,
    };
    use zqc_ir::op::attribute::int;
    use zqc_ir::tensor::DataType;

    use crate::inputs::InputSpec;

    fn info(name: &str, dims: &str) -> ValueInfoProto {
        let dim = |dim: &str| tensor_shape_proto::Dimension {
            value: Some(match dim.parse() {
                Ok(extent) => dimension::Value::DimValue(extent),
                Err(_) => dimension::Value::DimParam(dim.to_string()),
            }),
            ..Default::default()
        };
        let shape = TensorShapeProto { dim: dims.split_whitespace().map(dim).collect() };
        let tensor = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: Some(shape) };
        let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
        ValueInfoProto { name: Some(name.to_string()), r#type: Some(r#type), ..Default::default() }
    }

    fn node(op_type: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
        NodeProto {
            op_type: Some(op_type.to_string()),
            domain: (op_type.len() > 12).then(|| "com.microsoft".to_string()),
            input: inputs.iter().map(|input| input.to_string()).collect(),
            output: output.split_whitespace().map(str::to_string).collect(),
            attribute,
            ..Default::default()
        }
    }

    fn matrix(name: &str, dims: &[i64]) -> TensorProto {
        TensorProto {
            name: Some(name.to_string()),
            data_type: Some(DataType::Float as i32),
            dims: dims.to_vec(),
            raw_data: Some(vec![0; dims.iter().product::<i64>() as usize * 4].into()),
            ..Default::default()
        }
    }

    fn integers(name: &str, values: &[i64]) -> TensorProto {
        TensorProto {
            name: Some(name.to_string()),
            data_type: Some(DataType::Int64 as i32),
            dims: vec![values.len() as i64],
            int64_data: values.to_vec(),
            ..Default::default()
        }
    }

    /// The caches of a model, as they are to be fed: of `past.key` and `past.value`, declared as `dims`.
    fn caches(
        dims: &str,
        initializer: Vec<TensorProto>,
        node: Vec<NodeProto>,
        declared: &[ValueInfoProto],
    ) -> [String; 2] {
        let graph = GraphProto {
            name: Some("g".to_string()),
            input: vec![info("x", "batch seq 16"), info("past.key", dims), info("past.value", dims)],
            output: vec![info("y", "batch seq 16")],
            value_info: declared.to_vec(),
            initializer,
            node,
            ..Default::default()
        };
        let opset = |domain: &str| OperatorSetIdProto { domain: Some(domain.to_string()), version: Some(1) };
        let model = ModelProto {
            ir_version: Some(10),
            opset_import: vec![
                OperatorSetIdProto { domain: None, version: Some(20) },
                opset("com.microsoft"),
            ],
            graph: Some(graph),
            ..Default::default()
        };
        let specs = InputSpec::of_graph(&from_proto(model).unwrap().graph).unwrap();
        [specs[1].to_string(), specs[2].to_string()]
    }

    const OPEN: &str = "batch heads past_length kv_cache_dim";

    fn grouped(inputs: [&str; 3], more: &[AttributeProto], cosines: &str) -> NodeProto {
        let [query, key, value] = inputs;
        let inputs = [query, key, value, "past.key", "past.value", "", "", cosines, cosines];
        let attributes = [int("num_heads", 4), int("kv_num_heads", 2)].iter().chain(more).cloned().collect();
        node("GroupQueryAttention", &inputs, "y", attributes)
    }

    fn expected(shape: &str) -> [String; 2] {
        [format!("FLOAT[{shape}]"), format!("FLOAT[{shape}]")]
    }

    #[test]
    fn heads_share_what_the_layer_before_puts_out() {
        let weight = || matrix("w", &[16, 64]);
        let product = |output| node("MatMul", &["x", "w"], output, vec![]);
        let packed = |more: Vec<NodeProto>, from| [more, vec![grouped([from, "", ""], &[], "")]].concat();
        let all = expected("batch, 2, past_length, 8");
        assert_eq!(caches(OPEN, vec![weight()], packed(vec![product("q")], "q"), &[]), all);
        let biased = vec![product("m"), node("Add", &["m", "b"], "q", vec![])];
        assert_eq!(caches(OPEN, vec![weight(), matrix("b", &[64])], packed(biased, "q"), &[]), all);
        let nbits = vec![node("MatMulNBits", &["x", "w"], "q", vec![int("N", 64), int("K", 16)])];
        let nbits = nbits
            .into_iter()
            .map(|node| NodeProto { domain: Some("com.microsoft".into()), ..node })
            .collect();
        assert_eq!(caches(OPEN, vec![weight()], packed(nbits, "q"), &[]), all);
        // Declared, whatever makes it.
        let unknown = vec![node("Tanh", &["x"], "q", vec![])];
        assert_eq!(caches(OPEN, vec![], packed(unknown.clone(), "q"), &[info("q", "batch seq 64")]), all);
        let nothing = expected("batch, 2, past_length, kv_cache_dim");
        assert_eq!(caches(OPEN, vec![], packed(unknown, "q"), &[]), nothing);
    }

    #[test]
    fn queries_keys_and_values_apart_go_through_norms() {
        let nodes = vec![
            node("MatMul", &["x", "w"], "qkv", vec![]),
            node("Split", &["qkv", "sizes"], "q k v", vec![int("axis", -1)]),
            node("Reshape", &["k", "heads"], "k1", vec![]),
            node("SimplifiedLayerNormalization", &["k1", "norm"], "k2", vec![]),
            node("Reshape", &["k2", "features"], "k3", vec![]),
            node("RotaryEmbedding", &["k3"], "k4", vec![]),
            grouped(["q", "k4", "v"], &[], ""),
        ];
        let constants = vec![
            matrix("w", &[16, 64]),
            matrix("norm", &[8]),
            integers("sizes", &[32, 16, 16]),
            integers("heads", &[0, -1, 8]),
            integers("features", &[0, -1, 16]),
        ];
        assert_eq!(caches(OPEN, constants, nodes, &[]), expected("batch, 2, past_length, 8"));
        // Values may have heads of their own width.
        let nodes = vec![
            node("MatMul", &["x", "wk"], "k", vec![]),
            node("MatMul", &["x", "wv"], "v", vec![]),
            node(
                "MultiHeadAttention",
                &["x", "k", "v", "", "", "", "past.key", "past.value"],
                "y",
                vec![int("num_heads", 2)],
            ),
        ];
        let found = caches(OPEN, vec![matrix("wk", &[16, 16]), matrix("wv", &[16, 24])], nodes, &[]);
        assert_eq!(found, ["FLOAT[batch, 2, past_length, 8]", "FLOAT[batch, 2, past_length, 12]"]);
    }

    #[test]
    fn the_table_of_cosines_is_the_last_resort() {
        let cosines = || vec![matrix("cos", &[32, 4]), matrix("w", &[16, 64])];
        let rotary = [int("do_rotary", 1)];
        let unknown = vec![node("Tanh", &["x"], "q", vec![]), grouped(["q", "", ""], &rotary, "cos")];
        assert_eq!(caches(OPEN, cosines(), unknown, &[]), expected("batch, 2, past_length, 8"));
        // Of which a quarter is rotated.
        let known =
            vec![node("MatMul", &["x", "w"], "q", vec![]), grouped(["q", "", ""], &rotary, "quarter")];
        let constants = [cosines(), vec![matrix("quarter", &[32, 1])]].concat();
        assert_eq!(caches(OPEN, constants, known, &[]), expected("batch, 2, past_length, 8"));
    }

    #[test]
    fn a_sliding_cache_has_the_length_of_its_window() {
        let sliding = |on| [int("sliding_window_cache", on), int("local_window_size", 64)];
        let nodes =
            |on| vec![node("MatMul", &["x", "w"], "q", vec![]), grouped(["q", "", ""], &sliding(on), "")];
        let found = |on| caches(OPEN, vec![matrix("w", &[16, 64])], nodes(on), &[]);
        assert_eq!(found(1), expected("batch, 2, 64, 8"));
        assert_eq!(found(0), expected("batch, 2, past_length, 8"));
        // What is declared stays.
        let nodes = vec![node("MatMul", &["x", "w"], "q", vec![]), grouped(["q", "", ""], &[], "")];
        let found = caches("batch 2 past 10", vec![matrix("w", &[16, 64])], nodes, &[]);
        assert_eq!(found, expected("batch, 2, past, 10"));
    }

    #[test]
    fn a_search_without_an_end_is_given_up() {
        let doubled =
            |at: usize| node("Add", &[&format!("a{at}"), &format!("a{at}")], &format!("a{}", at + 1), vec![]);
        let mut nodes = vec![node("Tanh", &["x"], "a0", vec![])];
        nodes.extend((0..200).map(doubled));
        nodes.push(grouped(["a200", "", ""], &[], ""));
        assert_eq!(caches(OPEN, vec![], nodes, &[]), expected("batch, 2, past_length, kv_cache_dim"));
    }
}
