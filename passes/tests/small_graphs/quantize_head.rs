//! The head and the table of the tokens, in the forms that exporters write.

use zqc_formats::{ActivationFormat, Format};
use zqc_ir::Tensor;
use zqc_ir::op::attribute::{float, int, ints};
use zqc_ir::tensor::DataType::{Float, Float16, Int64};
use zqc_passes::{Canonicalize, Pass, QuantizeHead, Select};
use zqc_solvers::{Grouping, ScaleConstraint, ScaleSearch};

use crate::builder::Builder;
use crate::{Log, assert_snapshot};

/// INT8 with a scale for every row, the activation in bfloat16.
fn int8() -> QuantizeHead {
    QuantizeHead {
        select: Select { head: true, ..Select::default() },
        grouping: Grouping {
            format: Format::Int8.into(),
            group_size: 0,
            scale_search: ScaleSearch::Max,
            constraint: ScaleConstraint::None,
        },
        head: true,
        activations: None,
    }
}

/// E4M3 and E4M3 activations.
fn fp8() -> QuantizeHead {
    let int8 = int8();
    let grouping = Grouping { format: Format::E4M3.into(), ..int8.grouping };
    QuantizeHead { grouping, activations: Some(ActivationFormat::E4M3), ..int8 }
}

/// The table alone.
fn table() -> QuantizeHead {
    QuantizeHead { head: false, ..int8() }
}

fn keeping(regex: &str) -> QuantizeHead {
    let mut pass = int8();
    pass.select.keep.push(regex.parse().unwrap());
    pass
}

fn only(regex: &str) -> QuantizeHead {
    let mut pass = int8();
    pass.select.only.push(regex.parse().unwrap());
    pass
}

/// A table of 96 tokens in 32 dimensions, looked up into `h`, and a layer behind it, into `d`.
fn embedded() -> Builder {
    let model = Builder::new().input("input_ids", Int64, "batch seq").weight("wte", Float, &[96, 32]);
    model
        .node("Gather", &["wte", "input_ids"], "h")
        .named("/embed/Gather")
        .weight("up", Float, &[32, 32])
        .node("MatMul", &["h", "up"], "d")
        .named("/up/MatMul")
}

fn tied() -> Builder {
    let model = embedded().node("Transpose", &["wte"], "t");
    model.node("MatMul", &["d", "t"], "logits").named("/head/MatMul").output("logits")
}

/// The head reads a transposed copy, as exporters leave it that fold constants.
fn folded() -> Builder {
    let mut model = embedded();
    let table = model.build();
    let (_, table) = table.graph.initializers().next().unwrap();
    let rows = table.to_f32().unwrap();
    let columns = (0..32).flat_map(|column| rows.iter().skip(column).step_by(32).copied()).collect();
    model = model.initializer(Tensor::from_f32(&[32, 96], columns).unwrap().to_proto("onnx::MatMul_7"));
    model.node("MatMul", &["d", "onnx::MatMul_7"], "logits").named("/head/MatMul").output("logits")
}

fn untied() -> Builder {
    let model = embedded().weight("head", Float, &[32, 96]);
    model.node("MatMul", &["d", "head"], "logits").named("/head/MatMul").output("logits")
}

fn gemm() -> Builder {
    let model = embedded()
        .weight("bias", Float, &[96])
        .integers("shape", &[-1, 32])
        .node("Reshape", &["d", "shape"], "rows")
        .node("Gemm", &["rows", "wte", "bias"], "logits");
    model.with(int("transB", 1)).named("/head/Gemm").output("logits")
}

/// The head reads a multiple of the table.
fn scaled() -> Builder {
    let model = embedded().integers("shape", &[-1, 32]).node("Reshape", &["d", "shape"], "rows");
    let model = model.node("Gemm", &["rows", "wte"], "logits").with(int("transB", 1));
    model.with(float("alpha", 0.5)).named("/head/Gemm").output("logits")
}

/// As the builder of onnxruntime-genai ties them: what lies transposed is what the head reads.
fn genai() -> Builder {
    Builder::new()
        .input("input_ids", Int64, "batch seq")
        .weight("lm_head.weight", Float16, &[32, 96])
        .node("Transpose", &["lm_head.weight"], "table")
        .with(ints("perm", &[1, 0]))
        .node("Gather", &["table", "input_ids"], "h")
        .named("/model/embed_tokens/Gather")
        .node("MatMul", &["h", "lm_head.weight"], "logits")
        .named("/lm_head/MatMul")
        .output("logits")
}

fn read_elsewhere() -> Builder {
    tied().node("ReduceMean", &["wte"], "mean").named("/mean").output("mean")
}

/// An encoder: its positions have a table, too, and no layer writes a logit for a token.
fn encoder() -> Builder {
    let model = embedded().weight("wpe", Float, &[64, 32]).input("position_ids", Int64, "batch seq");
    model.node("Gather", &["wpe", "position_ids"], "p").node("Add", &["d", "p"], "y").output("y")
}

fn fused() -> Builder {
    Builder::new()
        .input("input_ids", Int64, "batch seq")
        .weight("words", Float, &[96, 32])
        .weight("positions", Float, &[64, 32])
        .weight("gamma", Float, &[32])
        .node("EmbedLayerNormalization", &["input_ids", "", "words", "positions", "", "gamma", "gamma"], "h")
        .of("com.microsoft")
        .named("embed")
        .and_output("mask")
        .output("h")
}

/// What the pass makes of a model, and what it and the choice of the layers say.
fn quantized(pass: &QuantizeHead, model: &Builder) -> String {
    let (mut model, mut log) = (model.build(), Log::default());
    let passes: [&dyn Pass; 3] = [&Canonicalize::default(), &pass.select, pass];
    passes.into_iter().for_each(|pass| zqc_passes::run(pass, &mut model, &mut log).unwrap());
    format!("{model}\n{}", log.0)
}

#[test]
fn every_form() {
    let cases = [
        ("tied", int8(), tied()),
        ("tied_fp8", fp8(), tied()),
        ("tied_table_alone", table(), tied()),
        ("tied_by_a_folded_transpose", int8(), folded()),
        ("untied", int8(), untied()),
        ("untied_fp8", fp8(), untied()),
        ("gemm", int8(), gemm()),
        ("multiple", int8(), scaled()),
        ("genai", int8(), genai()),
        ("read_elsewhere", int8(), read_elsewhere()),
        ("encoder", int8(), encoder()),
        ("fused", int8(), fused()),
        ("kept_by_the_name_of_the_head", keeping("^head$"), tied()),
        ("kept_by_the_name_of_the_table", keeping("embed"), untied()),
        ("only_the_head", only("^head$"), untied()),
        ("only_the_tied_head", only("^head$"), tied()),
    ];
    for (name, pass, model) in cases {
        assert_snapshot("quantize_head", name, &quantized(&pass, &model));
    }
}

#[test]
fn blocks_of_rows_are_the_rows_of_the_whole() {
    // More rows than are read at a time, in both layouts.
    let rows = 5000;
    let table = |dims: &[usize]| {
        let mut model = Builder::new().input("input_ids", Int64, "batch seq").weight("wte", Float, dims);
        let mut looked_up = "wte";
        if dims[0] == 32 {
            model = model.node("Transpose", &["wte"], "t");
            looked_up = "t";
        }
        model.node("Gather", &[looked_up, "input_ids"], "h").output("h").build()
    };
    for dims in [[rows, 32], [32, rows]] {
        let mut model = table(&dims);
        let (_, float) = model.graph.initializers().next().unwrap();
        let float = float.to_f32().unwrap();
        zqc_passes::run(&int8(), &mut model, &mut Log::default()).unwrap();
        let named = |name: &str| model.graph.constant(model.graph.find(name).unwrap()).unwrap();
        let (codes, scales) =
            (named("wte_int8").bytes().unwrap(), named("wte_int8_scales").to_f32().unwrap());
        assert_eq!((codes.len(), scales.len()), (rows * 32, rows));
        for row in 0..rows {
            for column in 0..32 {
                let at = if dims[0] == rows { row * 32 + column } else { column * rows + row };
                let value = f32::from(codes[row * 32 + column] as i8) * scales[row];
                assert!((value - float[at]).abs() <= 0.5001 * scales[row], "{dims:?} {row} {column}");
            }
        }
    }
}
