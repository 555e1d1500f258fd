//! Operators of ONNX Runtime's own domain in the forms that rten does not know: what stands for them gives what ONNX Runtime
//! gives, or, where its CPU does not know them either, what their definition says.

use zqc_ir::Tensor;
use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    ValueInfoProto, tensor_shape_proto, type_proto,
};
use zqc_ir::op::attribute;
use zqc_runtime::{Array, ArrayData, Piece, backend};

/// A node with what it is given, input by input; `None` for one that is left out.
struct Case {
    op_type: &'static str,
    inputs: Vec<Option<Array>>,
    outputs: Vec<&'static str>,
    attributes: Vec<AttributeProto>,
}

impl Case {
    fn new(op_type: &'static str, attributes: Vec<AttributeProto>) -> Self {
        Self { op_type, inputs: Vec::new(), outputs: vec!["y"], attributes }
    }

    fn with(mut self, input: Array) -> Self {
        self.inputs.push(Some(input));
        self
    }

    fn without(mut self) -> Self {
        self.inputs.push(None);
        self
    }

    fn giving(mut self, outputs: &[&'static str]) -> Self {
        self.outputs = outputs.to_vec();
        self
    }

    fn feeds(&self) -> Vec<(String, &Array)> {
        let inputs = self.inputs.iter().enumerate();
        inputs.filter_map(|(at, input)| Some((format!("x{at}"), input.as_ref()?))).collect()
    }

    /// The node in a model, with an opset of before axes were inputs, and one of after; what may be a weight is a constant.
    fn piece(&self, opset: i64, constants: &[usize]) -> Piece {
        let name = |at: usize| format!("x{at}");
        let mut graph = GraphProto { name: Some("g".to_string()), ..Default::default() };
        for (name, array) in self.feeds() {
            let at: usize = name[1..].parse().unwrap();
            if constants.contains(&at) {
                let values = array.as_f32().unwrap().to_vec();
                graph.initializer.push(Tensor::from_f32(&array.shape, values).unwrap().to_proto(&name));
            } else {
                graph.input.push(info(&name, array.data.data_type(), Some(array.shape.len())));
            }
        }
        let inputs = self.inputs.iter().enumerate();
        graph.node = vec![NodeProto {
            op_type: Some(self.op_type.to_string()),
            domain: Some("com.microsoft".to_string()),
            name: Some("node".to_string()),
            input: inputs.map(|(at, input)| input.as_ref().map_or(String::new(), |_| name(at))).collect(),
            output: self.outputs.iter().map(|name| name.to_string()).collect(),
            attribute: self.attributes.clone(),
            ..Default::default()
        }];
        let named = self.outputs.iter().filter(|name| !name.is_empty());
        graph.output =
            named.map(|name| ValueInfoProto { name: Some(name.to_string()), ..Default::default() }).collect();
        let import = |domain: &str, version| OperatorSetIdProto {
            domain: Some(domain.to_string()),
            version: Some(version),
        };
        let opset_import = vec![import("", opset), import("com.microsoft", 1)];
        Piece::from(ModelProto {
            ir_version: Some(8),
            opset_import,
            graph: Some(graph),
            ..Default::default()
        })
    }

    fn run(&self, name: &str, opset: i64, constants: &[usize]) -> Vec<Array> {
        let backend = backend(name, Some(1)).unwrap_or_else(|error| panic!("{error}"));
        let feeds = self.feeds();
        let is_fed = |name: &str| !constants.contains(&name[1..].parse().unwrap());
        let feeds: Vec<_> =
            feeds.iter().filter(|(name, _)| is_fed(name)).map(|(name, x)| (name.as_str(), *x)).collect();
        let fetch: Vec<&str> = self.outputs.iter().copied().filter(|name| !name.is_empty()).collect();
        let mut session =
            backend.load(&self.piece(opset, constants)).unwrap_or_else(|error| panic!("{error}"));
        session.run(&feeds, &fetch).unwrap_or_else(|error| panic!("{}: {error}", self.op_type))
    }

    fn rten(&self) -> Vec<Array> {
        let [old, new] = [11, 21].map(|opset| self.run("rten", opset, &[1]));
        assert_eq!(old, new);
        new
    }

    /// Holds rten against ONNX Runtime, which runs the node as it is.
    fn check(&self) {
        let expected = self.run("ort", 21, &[]);
        let found = self.run("rten", 21, &[]);
        for ((found, expected), name) in found.iter().zip(&expected).zip(&self.outputs) {
            close(found, expected, &format!("{} {name}", self.op_type));
        }
    }
}

fn info(name: &str, data_type: DataType, rank: Option<usize>) -> ValueInfoProto {
    let dimension = tensor_shape_proto::Dimension::default();
    let shape = rank.map(|rank| TensorShapeProto { dim: vec![dimension; rank] });
    let tensor = type_proto::Tensor { elem_type: Some(data_type as i32), shape };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: Some(name.to_string()), r#type: Some(r#type), ..Default::default() }
}

fn close(found: &Array, expected: &Array, what: &str) {
    assert_eq!(found.shape, expected.shape, "{what}");
    match (found.as_f32(), expected.as_f32()) {
        (Some(found), Some(expected)) => {
            for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
                let error = (found - expected).abs();
                assert!(error <= 2e-5 * (1.0 + expected.abs()), "{what} at {at}: {found}, not {expected}");
            }
        }
        _ => assert_eq!(found.to_i64(), expected.to_i64(), "{what}"),
    }
}

/// Numbers between -1 and 1 that look random.
fn floats(shape: &[usize], seed: u64) -> Array {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Array::new(shape.to_vec(), values).unwrap()
}

fn int32(shape: &[usize], values: &[i32]) -> Array {
    Array::new(shape.to_vec(), values.to_vec()).unwrap()
}

fn scalar(value: i64) -> Array {
    Array::new(vec![], vec![value]).unwrap()
}

const HEADS: usize = 4;
const GROUPS: usize = 2;
const WIDTH: usize = 16;
const BATCH: usize = 2;

fn int(name: &str, value: usize) -> AttributeProto {
    attribute::int(name, value as i64)
}

/// Attention of grouped queries to `given` keys after a cache that holds `cached` of `capacity` keys.
fn grouped(
    batch: usize,
    queries: usize,
    given: usize,
    [cached, capacity]: [usize; 2],
    attributes: Vec<AttributeProto>,
) -> Case {
    let heads = [int("num_heads", HEADS), int("kv_num_heads", GROUPS), int("do_rotary", 1)];
    let past = [batch, GROUPS, capacity, WIDTH];
    let total = (cached + given) as i32;
    Case::new("GroupQueryAttention", heads.into_iter().chain(attributes).collect())
        .giving(&["y", "present_key", "present_value"])
        .with(floats(&[batch, queries, HEADS * WIDTH], 1))
        .with(floats(&[batch, given, GROUPS * WIDTH], 2))
        .with(floats(&[batch, given, GROUPS * WIDTH], 3))
        .with(floats(&past, 4))
        .with(floats(&past, 5))
        .with(int32(&[batch], &vec![total - 1; batch]))
        .with(int32(&[], &[total]))
        .with(floats(&[32, WIDTH / 2], 6))
        .with(floats(&[32, WIDTH / 2], 7))
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn grouped_queries_with_a_sink() {
    let sink = |case: Case| case.without().without().with(floats(&[HEADS], 8));
    sink(grouped(BATCH, 5, 5, [0, 0], vec![])).check();
    sink(grouped(1, 3, 3, [4, 4], vec![])).check();
    sink(grouped(BATCH, 1, 1, [4, 4], vec![int("local_window_size", 3)])).check();
    let others = || {
        vec![int("rotary_interleaved", 1), attribute::float("softcap", 2.0), attribute::float("scale", 0.5)]
    };
    sink(grouped(BATCH, 6, 6, [0, 0], [others(), vec![int("local_window_size", 2)]].concat())).check();
    grouped(BATCH, 5, 5, [0, 0], vec![int("smooth_softmax", 1)]).check();
}

/// Of a layer that has no keys of its own.
#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn grouped_queries_to_the_cache_of_another_layer() {
    grouped(1, 2, 0, [6, 6], vec![]).check();
    grouped(1, 1, 0, [6, 8], vec![int("local_window_size", 3)]).check_result();
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn grouped_queries_packed_with_a_sink() {
    let mut case = grouped(BATCH, 5, 5, [0, 0], vec![]).without().without().with(floats(&[HEADS], 8));
    case.inputs[0] = Some(floats(&[BATCH, 5, (HEADS + 2 * GROUPS) * WIDTH], 9));
    (case.inputs[1], case.inputs[2]) = (None, None);
    case.check();
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn a_prompt_to_a_cache_that_is_as_long_as_the_window() {
    for length in [3, 6, 9] {
        let attributes = vec![int("local_window_size", 4), int("sliding_window_cache", 1)];
        grouped(1, length, length, [0, 6], attributes).check_result();
    }
}

impl Case {
    /// As [`Case::check`]; the caches, which are of another length, are not compared.
    fn check_result(self) {
        let expected = self.run("ort", 21, &[]).swap_remove(0);
        let found = self.run("rten", 21, &[]).swap_remove(0);
        close(&found, &expected, self.op_type);
    }
}

/// Each head of `[B, T, heads WIDTH]` divided by the root of the mean of its squares, times a weight.
fn normalized(x: &Array, weight: &Array, epsilon: f32) -> Array {
    let values = x.as_f32().unwrap().chunks_exact(WIDTH).flat_map(|head| {
        let squares: f32 = head.iter().map(|x| x * x).sum();
        let root = (squares / WIDTH as f32 + epsilon).sqrt();
        head.iter()
            .zip(weight.as_f32().unwrap())
            .map(move |(x, weight)| x / root * weight)
            .collect::<Vec<f32>>()
    });
    Array::new(x.shape.clone(), values.collect::<Vec<f32>>()).unwrap()
}

/// ONNX Runtime's CPU does not normalize queries and keys in the operator.
#[test]
fn grouped_queries_that_are_normalized() {
    let plain = || grouped(BATCH, 5, 5, [0, 0], vec![]);
    let weights = [floats(&[WIDTH], 10), floats(&[WIDTH], 11)];
    let mut normal = plain();
    for (input, weight) in normal.inputs.iter_mut().zip(&weights) {
        *input = input.as_ref().map(|x| normalized(x, weight, 1e-3));
    }
    let mut case = plain();
    case.attributes.push(attribute::float("qk_norm_epsilon", 1e-3));
    case.inputs.resize(14, None);
    case.inputs.extend(weights.map(Some));
    for (found, expected) in case.rten().iter().zip(&normal.rten()) {
        close(found, expected, "normalized");
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn attention_with_its_projections() {
    let hidden = HEADS * WIDTH;
    let case = |attributes: Vec<AttributeProto>| {
        Case::new("Attention", [vec![int("num_heads", HEADS)], attributes].concat())
            .with(floats(&[BATCH, 5, 16], 1))
            .with(floats(&[16, 3 * hidden], 2))
            .with(floats(&[3 * hidden], 3))
    };
    case(vec![]).check();
    case(vec![int("unidirectional", 1), attribute::float("scale", 0.3)]).check();
    case(vec![]).with(int32(&[BATCH], &[5, 3])).check();
    let seen = [1, 1, 1, 1, 1, 1, 1, 1, 0, 0];
    case(vec![]).with(int32(&[BATCH, 5], &seen)).check();
    let rows: Vec<i32> = (0..BATCH * 25).map(|at| i32::from(at % 25 % 5 <= at % 25 / 5)).collect();
    case(vec![]).with(int32(&[BATCH, 5, 5], &rows)).check();
    case(vec![]).with(int32(&[BATCH, 5], &seen)).without().with(floats(&[BATCH, HEADS, 5, 5], 4)).check();
    let past = floats(&[2, BATCH, HEADS, 3, WIDTH], 5);
    case(vec![int("unidirectional", 1)]).without().with(past).giving(&["y", "present"]).check();
    // Values of another width than keys.
    let sizes = attribute::ints("qkv_hidden_sizes", &[64, 64, 16]);
    let mut narrow = case(vec![sizes]);
    narrow.inputs[1] = Some(floats(&[16, 144], 6));
    narrow.inputs[2] = Some(floats(&[144], 7));
    narrow.check();
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn heads_of_keys_that_are_split_already() {
    let hidden = HEADS * WIDTH;
    let query = || {
        Case::new("MultiHeadAttention", vec![int("num_heads", HEADS)]).with(floats(&[BATCH, 5, hidden], 1))
    };
    let keys = |seed| floats(&[BATCH, HEADS, 7, WIDTH], seed);
    query().with(keys(2)).with(keys(3)).check();
    query().with(keys(2)).with(keys(3)).with(floats(&[3 * hidden], 4)).check_bias();
    query().with(floats(&[BATCH, 7, HEADS, 2, WIDTH], 5)).check();
    // The number of keys that count.
    let plain = |seed| floats(&[BATCH, 7, hidden], seed);
    query().with(plain(2)).with(plain(3)).without().with(int32(&[BATCH], &[7, 4])).check();
}

impl Case {
    /// Only queries have a bias where keys and values come from elsewhere.
    fn check_bias(mut self) {
        if let Some(ArrayData::F32(bias)) = self.inputs[3].as_ref().map(|bias| &bias.data) {
            let mut bias = bias.to_vec();
            let hidden = HEADS * WIDTH;
            bias[hidden..].fill(0.0);
            self.inputs[3] = Some(Array::new(vec![3 * hidden], bias).unwrap());
        }
        self.check();
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn sums_that_are_normalized() {
    let epsilon = || vec![attribute::float("epsilon", 1e-5)];
    let x = |seed| floats(&[BATCH, 3, 16], seed);
    let weight = |seed| floats(&[16], seed);
    for outputs in [&["y", "mean", "inverse", "sum"][..], &["y", "", "", "sum"]] {
        let case = || Case::new("SkipLayerNormalization", epsilon()).giving(&["y", "", "", "sum"]);
        let expected =
            case().with(x(1)).with(x(2)).with(weight(3)).with(weight(4)).with(weight(5)).run("ort", 21, &[]);
        let named = Case::new("SkipLayerNormalization", epsilon()).giving(outputs);
        let found =
            named.with(x(1)).with(x(2)).with(weight(3)).with(weight(4)).with(weight(5)).run("rten", 21, &[]);
        close(&found[0], &expected[0], "normalized");
        close(found.last().unwrap(), &expected[1], "sum");
    }
    let case = || Case::new("SkipSimplifiedLayerNormalization", epsilon());
    let expected =
        case().giving(&["y", "", "", "sum"]).with(x(1)).with(x(2)).with(weight(3)).run("ort", 21, &[]);
    let all = case().giving(&["y", "mean", "inverse", "sum"]).with(x(1)).with(x(2)).with(weight(3)).rten();
    close(&all[0], &expected[0], "normalized");
    close(&all[3], &expected[1], "sum");
}

#[test]
fn the_statistics_of_a_normalization() {
    let (x, skip) = (floats(&[1, 2, 4], 1), floats(&[1, 2, 4], 2));
    let one = Array::new(vec![4], vec![1f32; 4]).unwrap();
    for (op_type, is_centred) in
        [("SkipLayerNormalization", true), ("SkipSimplifiedLayerNormalization", false)]
    {
        let case = Case::new(op_type, vec![attribute::float("epsilon", 1e-5)])
            .giving(&["y", "mean", "inverse", "sum"]);
        let found = case.with(x.clone()).with(skip.clone()).with(one.clone()).rten();
        for (row, sum) in found[3].as_f32().unwrap().chunks_exact(4).enumerate() {
            let mean = sum.iter().sum::<f32>() / 4.0;
            let centre = if is_centred { mean } else { 0.0 };
            let variance = sum.iter().map(|x| (x - centre).powi(2)).sum::<f32>() / 4.0;
            let inverse = 1.0 / (variance + 1e-5).sqrt();
            assert!((found[1].as_f32().unwrap()[row] - mean).abs() < 1e-6);
            assert!((found[2].as_f32().unwrap()[row] - inverse).abs() < 1e-4 * inverse);
            let y = found[0].as_f32().unwrap()[4 * row];
            assert!((y - (sum[0] - centre) * inverse).abs() < 1e-5);
        }
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn embeddings_that_are_normalized() {
    let ids = |values: [i32; 6]| int32(&[BATCH, 3], &values);
    let case = || {
        Case::new("EmbedLayerNormalization", vec![attribute::float("epsilon", 1e-6)])
            .giving(&["y", "counts", "sum"])
            .with(ids([4, 0, 2, 3, 3, 1]))
    };
    let tables = |case: Case| case.with(floats(&[5, 8], 1)).with(floats(&[6, 8], 2));
    let weights = |case: Case| case.with(floats(&[8], 4)).with(floats(&[8], 5));
    weights(tables(case().with(ids([0, 1, 0, 1, 1, 0]))).with(floats(&[2, 8], 3)))
        .with(ids([1, 1, 1, 1, 1, 0]))
        .with(ids([2, 0, 1, 5, 4, 3]))
        .check();
    weights(tables(case().without()).without()).check();
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn causal_convolutions_with_a_state() {
    for (activation, dilation) in [("none", 1), ("silu", 1), ("none", 2)] {
        let case = || {
            Case::new(
                "CausalConvWithState",
                vec![attribute::string("activation", activation), int("dilation", dilation)],
            )
            .giving(&["y", "state"])
            .with(floats(&[BATCH, 6, 5], 1))
            .with(floats(&[6, 1, 4], 2))
        };
        let check = |case: Case| {
            let expected = case.run("ort", 21, &[]);
            for (found, expected) in case.rten().iter().zip(&expected) {
                close(found, expected, activation);
            }
        };
        check(case().with(floats(&[6], 3)).with(floats(&[BATCH, 6, 3 * dilation], 4)));
        check(case());
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn products_with_weights_of_a_byte() {
    let bytes = |shape: &[usize], seed| {
        let values = floats(shape, seed)
            .as_f32()
            .unwrap()
            .iter()
            .map(|x| ((x + 1.0) * 127.0) as u8)
            .collect::<Vec<u8>>();
        Array::new(shape.to_vec(), values).unwrap()
    };
    let (n, k, size) = (6, 40, 16);
    let attributes = vec![int("N", n), int("K", k), int("block_size", size), int("bits", 8)];
    let case = || {
        Case::new("MatMulNBits", attributes.clone())
            .with(floats(&[BATCH, 3, k], 1))
            .with(bytes(&[n, 3, size], 2))
            .with(floats(&[n, 3], 3))
    };
    case().check();
    case().with(bytes(&[n, 3], 4)).without().with(floats(&[n], 5)).check();
}

/// The bucket of a key that is `ahead` of a query: the definition of T5.
fn bucket(ahead: i64, mut buckets: i64, farthest: i64, is_bidirectional: bool) -> i64 {
    let mut side = 0;
    let mut distance = (-ahead).max(0);
    if is_bidirectional {
        buckets /= 2;
        side = if ahead > 0 { buckets } else { 0 };
        distance = ahead.abs();
    }
    let exact = buckets / 2;
    if distance < exact {
        return side + distance;
    }
    let share = (distance as f32 / exact as f32).ln() / (farthest as f32 / exact as f32).ln();
    side + (exact + (share * (buckets - exact) as f32) as i64).min(buckets - 1)
}

#[test]
fn biases_by_relative_position() {
    let (buckets, heads, length) = (8, 3, 40);
    let table = floats(&[buckets, heads], 1);
    for is_bidirectional in [false, true] {
        let attributes = vec![int("max_distance", 20), int("is_bidirectional", is_bidirectional.into())];
        let case = Case::new("RelativePositionBias", attributes)
            .with(table.clone())
            .with(scalar(length))
            .with(scalar(length));
        let found = case.run("rten", 21, &[]).swap_remove(0);
        assert_eq!(found, case.run("rten", 11, &[]).swap_remove(0));
        assert_eq!(found.shape, [1, heads, 40, 40]);
        for (at, &found) in found.as_f32().unwrap().iter().enumerate() {
            let at = at as i64;
            let (head, query, key) = (at / (length * length), at / length % length, at % length);
            let row = bucket(key - query, buckets as i64, 20, is_bidirectional) as usize;
            assert_eq!(found, table.as_f32().unwrap()[row * heads + head as usize], "{query} {key}");
        }
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn halves_of_features_that_gate_each_other() {
    Case::new("BiasSplitGelu", vec![]).with(floats(&[1, 4, 2560], 1)).with(floats(&[2560], 2)).check();
}
