use zqc_ir::Tensor;
use zqc_ir::op::attribute::{float, int, ints, string, tensor};
use zqc_ir::tensor::DataType;
use zqc_passes::{Canonicalize, Select};

use crate::builder::{Builder, written};
use crate::{assert_snapshot, run};

/// The activation `x` `[rows, 4]`.
fn rows(dtype: DataType) -> Builder {
    Builder::new().input("x", dtype, "rows 4")
}

/// `MatMul` with a weight of this type.
fn typed(dtype: DataType) -> Builder {
    rows(dtype).constant("w", dtype, &[4, 3]).node("MatMul", &["x", "w"], "y").output("y")
}

/// `x` `[rows, 4]` and a weight `[4, 3]`.
fn matmul() -> Builder {
    rows(DataType::Float).constant("w", DataType::Float, &[4, 3])
}

/// The same, with the product in `product` and a bias at hand.
fn product() -> Builder {
    matmul().constant("b", DataType::Float, &[3]).node("MatMul", &["x", "w"], "product")
}

/// `Gemm` with a third operand of these dimensions.
fn gemm_adding(dims: &[i64]) -> Builder {
    matmul().constant("c", DataType::Float, dims).node("Gemm", &["x", "w", "c"], "y").output("y")
}

/// A weight `[3, 4]`, as PyTorch has it.
fn output_input() -> Builder {
    rows(DataType::Float).constant("w", DataType::Float, &[3, 4])
}

/// Two-dimensional rows made of `x` for a `Gemm`, and back.
fn reshaped() -> Builder {
    Builder::new()
        .input("x", DataType::Float, "batch seq 4")
        .constant("w", DataType::Float, &[4, 3])
        .constant("b", DataType::Float, &[3])
        .constant("flat", DataType::Int64, &[2])
        .constant("deep", DataType::Int64, &[3])
        .node("Reshape", &["x", "flat"], "rows")
        .node("Gemm", &["rows", "w", "b"], "product")
        .node("Reshape", &["product", "deep"], "y")
        .output("y")
}

/// `Conv` of `x` with these spatial dimensions and a weight of those.
fn convolution(spatial: &str, weight: &[i64]) -> Builder {
    Builder::new()
        .input("x", DataType::Float, &format!("batch 4 {spatial}"))
        .constant("w", DataType::Float, weight)
        .node("Conv", &["x", "w"], "y")
}

/// The same with a bias `b`.
fn biased_convolution(spatial: &str, weight: &[i64]) -> Builder {
    let mut model = convolution(spatial, weight);
    model.proto.graph.iter_mut().for_each(|graph| graph.node[0].input.push("b".to_string()));
    model
}

/// A weight `[4, 3]` of this type behind `DequantizeLinear` with scales of these dimensions.
fn dequantized(dtype: DataType, scales: &[usize]) -> Builder {
    rows(DataType::Float).constant("w", dtype, &[4, 3]).weight("scales", DataType::Float, scales).node(
        "DequantizeLinear",
        &["w", "scales"],
        "d",
    )
}

fn forms() -> Vec<(&'static str, Builder)> {
    use DataType::{Bfloat16, Double, Float, Float16, Int32};
    vec![
        ("matmul", matmul().node("MatMul", &["x", "w"], "y").output("y")),
        ("matmul_f16", typed(Float16)),
        ("matmul_bf16", typed(Bfloat16)),
        ("matmul_f64", typed(Double)),
        ("matmul_i32_is_no_layer", typed(Int32)),
        (
            "transpose",
            output_input().node("Transpose", &["w"], "t").node("MatMul", &["x", "t"], "y").output("y"),
        ),
        (
            "transpose_perm_1_0",
            output_input()
                .node("Transpose", &["w"], "t")
                .with(ints("perm", &[1, 0]))
                .node("MatMul", &["x", "t"], "y")
                .output("y"),
        ),
        (
            "transpose_perm_0_1",
            matmul()
                .node("Transpose", &["w"], "t")
                .with(ints("perm", &[0, 1]))
                .node("MatMul", &["x", "t"], "y")
                .output("y"),
        ),
        (
            "transpose_twice",
            matmul()
                .node("Transpose", &["w"], "t")
                .node("Transpose", &["t"], "u")
                .node("MatMul", &["x", "u"], "y")
                .output("y"),
        ),
        (
            "identity_chain",
            output_input()
                .node("Identity", &["w"], "i")
                .node("Transpose", &["i"], "t")
                .node("Identity", &["t"], "j")
                .node("Identity", &["j"], "k")
                .node("MatMul", &["x", "k"], "y")
                .output("y"),
        ),
        ("gemm", matmul().node("Gemm", &["x", "w"], "y").output("y")),
        ("gemm_trans_b", output_input().node("Gemm", &["x", "w"], "y").with(int("transB", 1)).output("y")),
        (
            "gemm_trans_b_of_transpose",
            matmul()
                .node("Transpose", &["w"], "t")
                .node("Gemm", &["x", "t"], "y")
                .with(int("transB", 1))
                .output("y"),
        ),
        ("gemm_trans_a", matmul().node("Gemm", &["x", "w"], "y").with(int("transA", 1)).output("y")),
        ("gemm_alpha", matmul().node("Gemm", &["x", "w"], "y").with(float("alpha", 0.5)).output("y")),
        (
            "gemm_beta_without_bias",
            matmul().node("Gemm", &["x", "w"], "y").with(float("beta", 0.5)).output("y"),
        ),
        ("gemm_bias", gemm_adding(&[3])),
        ("gemm_bias_row", gemm_adding(&[1, 3])),
        ("gemm_bias_alpha_beta", gemm_adding(&[3]).with(float("alpha", 0.5)).with(float("beta", 0.25))),
        (
            "product_with_a_second_output_stays",
            matmul().node("MatMul", &["x", "w"], "other").and_output("y").output("y"),
        ),
        (
            "add_with_a_second_output_stays",
            product().node("Add", &["product", "b"], "other").and_output("y").output("y"),
        ),
        (
            "view_with_a_second_output_stays",
            output_input()
                .node("Transpose", &["w"], "other")
                .and_output("t")
                .node("MatMul", &["x", "t"], "y")
                .output("y"),
        ),
        ("gemm_scalar_stays", gemm_adding(&[])),
        ("gemm_matrix_stays", gemm_adding(&[2, 3])),
        (
            "gemm_dynamic_stays",
            matmul().input("c", Float, "3").node("Gemm", &["x", "w", "c"], "y").output("y"),
        ),
        ("gemm_between_reshapes", reshaped()),
        (
            "gemm_then_add",
            matmul()
                .constant("b", Float, &[3])
                .node("Gemm", &["x", "w"], "product")
                .with(float("beta", 0.5))
                .node("Add", &["product", "b"], "y")
                .output("y"),
        ),
        ("bias_right", product().node("Add", &["product", "b"], "y").output("y")),
        ("bias_left", product().node("Add", &["b", "product"], "y").output("y")),
        (
            "bias_through_identity",
            product().node("Identity", &["b"], "c").node("Add", &["product", "c"], "y").output("y"),
        ),
        (
            "product_with_another_reader",
            product()
                .node("Add", &["product", "b"], "y")
                .node("Neg", &["product"], "z")
                .output("y")
                .output("z"),
        ),
        ("product_is_an_output", product().node("Add", &["product", "b"], "y").output("y").output("product")),
        ("product_added_to_itself", product().node("Add", &["product", "product"], "y").output("y")),
        ("scalar_added", product().constant("s", Float, &[]).node("Add", &["product", "s"], "y").output("y")),
        (
            "activation_added",
            product().input("z", Float, "rows 3").node("Add", &["product", "z"], "y").output("y"),
        ),
        (
            "shared_weight",
            output_input()
                .input("z", Float, "rows 4")
                .node("Transpose", &["w"], "t")
                .node("MatMul", &["x", "t"], "y")
                .node("Gemm", &["z", "w"], "v")
                .with(int("transB", 1))
                .output("y")
                .output("v"),
        ),
        (
            "overridable_initializer",
            matmul().input("w", Float, "4 3").node("MatMul", &["x", "w"], "y").output("y"),
        ),
        ("initializer_among_the_inputs_before_ir_4", {
            let mut model = typed(Float).input("w", Float, "4 3");
            model.proto.ir_version = Some(3);
            model
        }),
        (
            "constant_on_the_left",
            Builder::new()
                .input("x", Float, "3 cols")
                .constant("w", Float, &[4, 3])
                .node("MatMul", &["w", "x"], "y")
                .output("y"),
        ),
        (
            "constant_on_both_sides",
            matmul().constant("c", Float, &[2, 4]).node("MatMul", &["c", "w"], "y").output("y"),
        ),
        (
            "both_sides_dynamic",
            rows(Float).input("z", Float, "4 cols").node("MatMul", &["x", "z"], "y").output("y"),
        ),
        (
            "stack_of_matrices",
            rows(Float).constant("w", Float, &[2, 4, 3]).node("MatMul", &["x", "w"], "y").output("y"),
        ),
        ("same_name_in_another_domain", {
            let mut model = matmul().node("MatMul", &["x", "w"], "y").output("y");
            let domain = Some("com.example".to_string());
            model
                .proto
                .graph
                .iter_mut()
                .flat_map(|graph| &mut graph.node)
                .for_each(|node| node.domain = domain.clone());
            model
        }),
        (
            "reshape",
            rows(Float)
                .constant("w", Float, &[2, 2, 3])
                .integers("shape", &[-1, 3])
                .node("Reshape", &["w", "shape"], "m")
                .node("MatMul", &["x", "m"], "y")
                .output("y"),
        ),
        (
            "reshape_of_a_transpose_is_no_layer",
            rows(Float)
                .constant("w", Float, &[3, 4])
                .integers("shape", &[4, 3])
                .node("Transpose", &["w"], "t")
                .node("Reshape", &["t", "shape"], "m")
                .node("MatMul", &["x", "m"], "y")
                .output("y"),
        ),
        (
            "squeeze_and_transpose",
            rows(Float)
                .constant("w", Float, &[3, 4, 1, 1])
                .integers("axes", &[2, -1])
                .node("Squeeze", &["w", "axes"], "m")
                .node("Transpose", &["m"], "t")
                .node("MatMul", &["x", "t"], "y")
                .output("y"),
        ),
        (
            "cast",
            rows(Float)
                .constant("w", Float16, &[4, 3])
                .constant("b", Float16, &[1, 3])
                .integers("shape", &[3])
                .node("Cast", &["w"], "m")
                .with(int("to", Float as i64))
                .node("Cast", &["b"], "wide")
                .with(int("to", Float as i64))
                .node("Reshape", &["wide", "shape"], "bias")
                .node("MatMul", &["x", "m"], "product")
                .node("Add", &["product", "bias"], "y")
                .output("y"),
        ),
        (
            "cast_from_integers_is_no_layer",
            rows(Float)
                .constant("w", DataType::Int8, &[4, 3])
                .node("Cast", &["w"], "m")
                .with(int("to", Float as i64))
                .node("MatMul", &["x", "m"], "y")
                .output("y"),
        ),
        ("constant_nodes", {
            let literal = |dims: &[usize]| {
                let elements = dims.iter().product::<usize>();
                tensor("value", Tensor::from_f32(dims, vec![0.5; elements]).unwrap().to_proto("literal"))
            };
            rows(Float)
                .node("Constant", &[], "w")
                .with(literal(&[4, 3]))
                .node("Constant", &[], "b")
                .with(literal(&[3]))
                .node("MatMul", &["x", "w"], "product")
                .node("Add", &["product", "b"], "y")
                .node("MatMul", &["x", "w"], "z")
                .output("y")
                .output("z")
        }),
        (
            "dequantized_weight_stays",
            rows(Float)
                .constant("w", DataType::Int8, &[3, 4])
                .constant("scale", Float, &[])
                .node("DequantizeLinear", &["w", "scale"], "d")
                .node("Transpose", &["d"], "t")
                .node("MatMul", &["x", "t"], "y")
                .output("y"),
        ),
        (
            "weights_with_defaults_stay",
            rows(Float)
                .overridable("w", &[4, 3])
                .overridable("v", &[5, 3])
                .overridable("u", &[4, 2])
                .node("MatMul", &["x", "w"], "a")
                .node("Transpose", &["v"], "t")
                .node("MatMul", &["a", "t"], "y")
                .node("Einsum", &["x", "u"], "z")
                .with(string("equation", "...d,df->...f"))
                .output("y")
                .output("z"),
        ),
        (
            "weight_on_the_left",
            Builder::new()
                .input("x", Float, "32 cols")
                .constant("w", Float, &[32, 32])
                .node("MatMul", &["w", "x"], "y")
                .output("y"),
        ),
        (
            "vector_by_a_stack_stays",
            Builder::new()
                .input("x", Float, "4")
                .constant("w", Float, &[1, 4, 3])
                .node("MatMul", &["x", "w"], "y")
                .output("y"),
        ),
        (
            "matmul_integer_stays",
            rows(DataType::Uint8)
                .constant("w", DataType::Int8, &[4, 3])
                .node("MatMulInteger", &["x", "w"], "y")
                .named("/proj/MatMul_quant")
                .output("y"),
        ),
        ("fused_matmul", matmul().node("FusedMatMul", &["x", "w"], "y").of("com.microsoft").output("y")),
        (
            "fused_matmul_of_activations",
            rows(Float)
                .input("z", Float, "4 cols")
                .node("FusedMatMul", &["x", "z"], "y")
                .of("com.microsoft")
                .output("y"),
        ),
        (
            "matmul_nbits_stays",
            rows(Float)
                .constant("w", DataType::Uint8, &[3, 1, 2])
                .constant("scales", Float, &[3])
                .node("MatMulNBits", &["x", "w", "scales"], "y")
                .of("com.microsoft")
                .output("y"),
        ),
        (
            "matrix_of_an_expert_stays",
            rows(Float)
                .input("expert", DataType::Int64, "batch rows")
                .constant("experts", Float, &[5, 3, 4])
                .integers("axes", &[-1])
                .node("Gather", &["experts", "expert"], "w")
                .node("Unsqueeze", &["x", "axes"], "column")
                .node("MatMul", &["w", "column"], "y")
                .output("y"),
        ),
        ("pointwise_convolution", convolution("length", &[3, 4, 1]).output("y")),
        (
            "pointwise_convolution_2d_bias",
            biased_convolution("height width", &[3, 4, 1, 1])
                .constant("b", Float, &[3])
                .with(ints("strides", &[1, 1]))
                .with(ints("pads", &[0, 0, 0, 0]))
                .with(ints("kernel_shape", &[1, 1]))
                .output("y"),
        ),
        (
            "pointwise_convolutions_of_one_activation",
            convolution("length", &[3, 4, 1])
                .constant("v", Float, &[5, 4, 1])
                .node("Conv", &["x", "v"], "z")
                .output("y")
                .output("z"),
        ),
        (
            "pointwise_convolution_then_add",
            convolution("length", &[3, 4, 1])
                .constant("b", Float, &[3])
                .node("Add", &["y", "b"], "z")
                .output("z"),
        ),
        ("convolution_with_a_window_stays", convolution("length", &[3, 4, 2]).output("y")),
        (
            "convolution_with_strides_stays",
            convolution("length", &[3, 4, 1]).with(ints("strides", &[2])).output("y"),
        ),
        (
            "padded_convolution_stays",
            convolution("length", &[3, 4, 1]).with(ints("pads", &[0, 1])).output("y"),
        ),
        ("grouped_convolution_stays", convolution("length", &[4, 2, 1]).with(int("group", 2)).output("y")),
        (
            "convolution_with_a_dynamic_bias_stays",
            biased_convolution("length", &[3, 4, 1]).input("b", Float, "3").output("y"),
        ),
        ("layer_paths", layer_paths()),
    ]
}

/// One layer for each way to tell its path, and two in the same place.
fn layer_paths() -> Builder {
    let scopes = "['', 'm', 'm.layers.0', 'm.layers.0.up_proj', 'linear_3']";
    matmul()
        .constant("val_7.weight", DataType::Float, &[4, 3])
        .node("MatMul", &["x", "w"], "a")
        .named("node_linear_3")
        .scoped(scopes)
        .node("MatMul", &["x", "w"], "b")
        .named("node_linear_4")
        .scoped(scopes)
        .node("MatMul", &["x", "w"], "c")
        .named("in_no_module")
        .scoped("['', 'linear_5']")
        .node("MatMul", &["x", "w"], "d")
        .named("/m/layers.0/down_proj/MatMul")
        .node("MatMul", &["x", "val_7.weight"], "e")
        .named("MatMul_8")
        .node("MatMul", &["x", "w"], "f")
        .named("MatMul_9")
        .node("MatMul", &["x", "w"], "g")
        .node("Sum", &["a", "b", "c", "d", "e", "f", "g"], "y")
        .output("y")
}

#[test]
fn every_form() {
    for (name, form) in forms() {
        let text = run(&[&Canonicalize::default()], &mut form.build());
        assert_snapshot("canonicalize", name, &text);
    }
}

#[test]
fn weights_that_are_quantized_already() {
    let product = |model: Builder| model.node("MatMul", &["x", "d"], "y").output("y");
    let forms = [
        ("per_tensor", product(dequantized(DataType::Int8, &[]))),
        ("per_column", product(dequantized(DataType::Int8, &[3]))),
        ("per_row_transposed", {
            let model = dequantized(DataType::Uint8, &[4]).with(int("axis", 0));
            let model = model.constant("b", DataType::Float, &[4]);
            let model = model.node("Gemm", &["z", "d", "b"], "y").with(int("transB", 1));
            model.input("z", DataType::Float, "rows 3").output("y")
        }),
        (
            "blocked",
            product(
                dequantized(DataType::Int4, &[2, 3])
                    .with(int("axis", 0))
                    .with(int("block_size", 2))
                    .opset(21),
            ),
        ),
        ("scales_that_do_not_fit_stay", product(dequantized(DataType::Int8, &[2]))),
    ];
    let nothing = Select { only: vec!["^$".parse().unwrap()], ..Default::default() };
    for (name, form) in forms {
        let canonicalize = Canonicalize { requantize: true };
        let text = run(&[&canonicalize], &mut form.build());
        assert_snapshot("canonicalize", &format!("requantize_{name}"), &text);
        let mut model = form.build();
        run(&[&canonicalize, &nothing], &mut model);
        assert_eq!(written(&model), form.proto, "{name}");
    }
}

#[test]
fn an_untouched_model_comes_back_as_it_was() {
    let nothing = Select { only: vec!["^$".parse().unwrap()], ..Default::default() };
    for (name, form) in forms() {
        let mut model = form.build();
        run(&[&Canonicalize::default(), &nothing], &mut model);
        assert_eq!(written(&model), form.proto, "{name}");
    }
}

#[test]
fn a_second_run_changes_nothing() {
    for (name, form) in forms() {
        let mut model = form.build();
        let once = run(&[&Canonicalize::default()], &mut model);
        assert_eq!(run(&[&Canonicalize::default()], &mut model), once, "{name}");
    }
}
