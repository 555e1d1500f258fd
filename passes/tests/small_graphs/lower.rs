use zqc_formats::{ActivationFormat, unpack_nibbles};
use zqc_ir::op::{QuantizedLinear, attribute, port};
use zqc_ir::tensor::DataType::{self, Float, Float16};
use zqc_ir::{Model, Op, Tensor};
use zqc_passes::{
    Canonicalize, Context, LowerPortable, Opset, PassError, QuantConfig, QuantizeActivations, RaisePortable,
    Scope, Silent, SolveWeights, UpgradeOpset, run_in,
};
use zqc_solvers::{GptqOptions, Grouping, ScaleConstraint};

use crate::builder::{Builder, written};
use crate::{assert_snapshot, run};

/// The model with its layers quantized to E2M1 with a scale for every group and E4M3.
pub fn w4a8(builder: Builder, group_size: usize) -> Model {
    let grouping = Grouping { group_size, constraint: ScaleConstraint::None, ..Default::default() };
    let config = QuantConfig { gptq: GptqOptions { grouping, ..Default::default() }, ..Default::default() };
    let mut model = builder.build();
    let solve = SolveWeights { config };
    run(
        &[&Canonicalize::default(), &QuantizeActivations { format: ActivationFormat::E4M3 }, &solve],
        &mut model,
    );
    model
}

/// Two layers of `[k, n]` weights that read `x`.
pub fn two_layers(dtype: DataType, k: usize, n: usize) -> Builder {
    Builder::new()
        .input("x", dtype, &format!("batch seq {k}"))
        .weight("q.weight", dtype, &[k, n])
        .weight("k.weight", dtype, &[k, n])
        .node("MatMul", &["x", "q.weight"], "q")
        .named("/attention/q/MatMul")
        .node("MatMul", &["x", "k.weight"], "k")
        .named("/attention/k/MatMul")
        .node("Add", &["q", "k"], "y")
        .output("y")
}

/// One layer with a bias.
pub fn gemm(dtype: DataType, beta: f32) -> Builder {
    Builder::new()
        .input("x", dtype, "rows 4")
        .weight("weight", dtype, &[4, 3])
        .weight("bias", dtype, &[3])
        .node("Gemm", &["x", "weight", "bias"], "y")
        .named("/up/Gemm")
        .with(attribute::float("beta", beta))
        .output("y")
}

/// The only layer that reads `weight`.
fn layer<'m>(model: &'m Model, name: &str) -> (&'m QuantizedLinear, [&'m Tensor; 2]) {
    let mut layers = model.graph.nodes().filter_map(|(_, node)| match &node.op {
        Op::QuantizedLinear(linear) if linear.layer == name => {
            let operand = |at| model.graph.constant(node.input(at).unwrap()).unwrap();
            Some((linear, [operand(port::WEIGHT), operand(port::SCALES)]))
        }
        _ => None,
    });
    layers.next().unwrap()
}

#[test]
fn layers_share_the_call_that_quantizes_their_input() {
    let mut model = w4a8(two_layers(Float, 5, 3), 2);
    assert_snapshot("lower_portable", "shared_input", &run(&[&LowerPortable], &mut model));
}

#[test]
fn a_bias_is_added_in_the_type_of_the_layer() {
    let mut model = w4a8(gemm(Float16, 1.0), 4);
    run(&[&LowerPortable], &mut model);
    assert_snapshot("lower_portable", "bias", &model.graph.to_string());
}

#[test]
fn beta_goes_into_the_bias() {
    for dtype in [Float, Float16, DataType::Bfloat16, DataType::Double] {
        let mut model = w4a8(gemm(dtype, -0.5), 4);
        let bias = model.graph.constant(model.graph.find("bias").unwrap()).unwrap().to_f32().unwrap();
        run(&[&LowerPortable], &mut model);
        let scaled = model.graph.constant(model.graph.find("y_bias").unwrap()).unwrap();
        assert_eq!(scaled.dtype(), Ok(dtype));
        let expected: Vec<f32> = bias.iter().map(|b| -0.5 * b).collect();
        assert_eq!(scaled.to_f32().unwrap(), expected);
        let bias = model.graph.find("bias").unwrap();
        assert!(model.graph.constant(bias).is_none(), "nothing reads the original");
    }
}

#[test]
fn what_led_to_a_float_weight_goes_and_what_was_dead_before_stays() {
    let mut builder = Builder::new()
        .input("x", Float, "rows 4")
        .weight("weight", Float, &[3, 4])
        .node("Transpose", &["weight"], "turned")
        .node("Identity", &["turned"], "copied")
        .node("MatMul", &["x", "copied"], "y")
        .node("Neg", &["x"], "unused")
        .output("y");
    let graph = builder.proto.graph.as_mut().unwrap();
    let info = graph.input[0].clone();
    graph.value_info = vec![zqc_ir::onnx::proto::ValueInfoProto { name: Some("turned".to_string()), ..info }];
    let mut model = w4a8(builder, 4);
    run(&[&LowerPortable], &mut model);
    assert_snapshot("lower_portable", "sweep", &model.graph.to_string());
    assert!(written(&model).graph.unwrap().value_info.is_empty());
}

#[test]
fn codes_are_packed_along_n_and_scales_lie_beside_them() {
    for (k, n, group_size) in [(5, 3, 2), (4, 4, 4), (1, 1, 1), (9, 2, 4), (2, 7, 64)] {
        let mut model = w4a8(two_layers(Float, k, n), group_size);
        let (linear, [codes, scales]) = layer(&model, "attention.q");
        let rows: Vec<u8> = codes.bytes().unwrap().to_vec();
        let rows: Vec<Vec<u8>> = rows.chunks(linear.row_bytes()).map(|row| unpack_nibbles(row, k)).collect();
        let (groups, scales) = (linear.groups(), scales.to_f32().unwrap());
        run(&[&LowerPortable], &mut model);
        let tensor = |name| model.graph.constant(model.graph.find(name).unwrap()).unwrap();
        let (packed, turned) = (tensor("q.weight_e2m1"), tensor("q.weight_e2m1_scales"));
        assert_eq!(packed.matrix_dims(), Some([k, n.div_ceil(2)]));
        assert_eq!(turned.matrix_dims(), Some([groups, n]));
        let (packed, turned) = (packed.bytes().unwrap(), turned.to_f32().unwrap());
        for (i, row) in packed.chunks(n.div_ceil(2)).enumerate() {
            let column: Vec<u8> = rows.iter().map(|codes| codes[i]).collect();
            assert_eq!(unpack_nibbles(row, n), column);
        }
        for (i, row) in turned.chunks(n).enumerate() {
            let column: Vec<f32> = scales.chunks(groups).map(|scales| scales[i]).collect();
            assert_eq!(row, column);
        }
    }
}

/// Two layers that share their weight.
pub fn shared_weight() -> Builder {
    Builder::new()
        .input("x", Float, "rows 3")
        .weight("weight", Float, &[3, 3])
        .node("MatMul", &["x", "weight"], "a")
        .node("MatMul", &["a", "weight"], "y")
        .output("y")
}

#[test]
fn layers_may_share_a_weight() {
    let mut model = w4a8(shared_weight(), 2);
    run(&[&LowerPortable], &mut model);
    let lowered = written(&model);
    assert_eq!(lowered.graph.as_ref().unwrap().initializer.len(), 2);
    run(&[&RaisePortable, &LowerPortable], &mut model);
    assert_eq!(written(&model), lowered);
}

#[test]
fn the_opset_of_the_model_is_that_of_the_functions() {
    for opset in [19, 24] {
        let mut model = w4a8(two_layers(Float, 4, 4).opset(opset), 4);
        run(&[&LowerPortable], &mut model);
        let imports = model.header.functions.iter().map(|function| function.opset_import[0].version());
        assert_eq!(imports.collect::<Vec<_>>(), [opset; 3]);
    }
}

#[test]
fn constants_among_the_inputs_stay_constants() {
    let mut builder = two_layers(Float, 4, 4).weight("shift", Float, &[4]).node("Add", &["y", "shift"], "z");
    builder.proto.ir_version = Some(3);
    let graph = builder.proto.graph.as_mut().unwrap();
    let listed = ["q.weight", "k.weight", "shift"];
    graph.input.extend(listed.map(|name| zqc_ir::onnx::proto::ValueInfoProto {
        name: Some(name.to_string()),
        ..Default::default()
    }));
    let mut model = w4a8(builder.output("z"), 4);
    run(&[&LowerPortable], &mut model);
    let proto = written(&model);
    assert_eq!(proto.ir_version(), 9);
    let inputs = proto.graph.as_ref().unwrap().input.iter().map(|input| input.name());
    assert_eq!(inputs.collect::<Vec<_>>(), ["x"]);
}

#[test]
fn an_opset_without_fp8_is_refused() {
    let mut model = w4a8(two_layers(Float, 4, 4).opset(18), 4);
    match zqc_passes::run(&LowerPortable, &mut model, &mut Silent) {
        Err(error @ PassError::Unsupported { .. }) => {
            assert_snapshot("lower_portable", "refused", &error.to_string());
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_model_without_quantized_layers_stays_as_it_is() {
    let mut model = two_layers(Float, 4, 4).opset(13).build();
    let before = written(&model);
    run(&[&LowerPortable, &RaisePortable], &mut model);
    assert_eq!(written(&model), before);
}

#[test]
fn an_old_model_is_lowered_after_the_upgrade() {
    let mut model = w4a8(two_layers(Float, 4, 4).opset(13), 4);
    run(&[&UpgradeOpset { to: Opset::At(19) }, &LowerPortable], &mut model);
    assert_eq!(model.opset(), 19);
}

#[test]
fn a_body_has_weights_that_are_folded_at_once_and_the_graph_around_it_keeps_its_functions() {
    let take_turns = |model: &Model| {
        let attribute = |function| &model.function("ai.zqc", function).unwrap().attribute;
        let declared = ["DequantizeE2M1", "W4A8Linear"].map(|name| attribute(name).contains(&"turn".into()));
        let calls = model.graph.to_string().matches(", turn = ").count();
        assert_eq!(declared, [calls == 2; 2], "a call has the attributes that its function declares");
        calls == 2
    };
    let quantized = || w4a8(two_layers(Float, 5, 3), 2);
    let [mut graph, mut body] = [quantized(), quantized()];
    run(&[&LowerPortable], &mut graph);
    assert!(take_turns(&graph));
    let mut observer = Silent;
    let mut context = Context { scope: Scope::Subgraph, ..Context::new(&mut observer) };
    run_in(&LowerPortable, &mut body, &mut context).unwrap();
    assert!(!take_turns(&body));

    let mut around = quantized();
    around.header.functions = body.header.functions.clone();
    run(&[&LowerPortable], &mut around);
    assert!(!take_turns(&around) && around.header.functions.len() == body.header.functions.len());
    run(&[&RaisePortable], &mut around);
    assert!(around.header.functions.is_empty(), "both forms are raised");
}
