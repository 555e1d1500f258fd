use std::path::Path;

use zqc_formats::{ActivationFormat, FactorFormat, Format, Ladder, Scales, unpack_nibbles};
use zqc_ir::onnx::from_proto;
use zqc_ir::tensor::DataType::{self, Bfloat16, Double, Float, Float16};
use zqc_ir::{Model, Tensor};
use zqc_passes::{LowerNative, LowerPortable, Opset, PassError, Silent, UpgradeOpset};

use crate::builder::{info, written};
use crate::kinds::{Kind, PLAIN, SHAPES, kinds, layers, outputs, python, tokens};
use crate::lower::{gemm, shared_weight, two_layers, w4a8};
use crate::{assert_snapshot, run};

const TO_24: UpgradeOpset = UpgradeOpset { to: Opset::At(24) };

/// The model of the opset that it needs, lowered.
fn lower(model: &mut Model) -> String {
    let to = LowerNative::least_opset(&model.graph);
    run(&[&UpgradeOpset { to: Opset::At(to) }, &LowerNative], model)
}

/// How lowering the model fails.
fn refused(mut model: Model) -> String {
    match zqc_passes::run(&LowerNative, &mut model, &mut Silent) {
        Err(error @ PassError::Unsupported { .. }) => error.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

fn snapshot(name: &str, kind: Kind) {
    let mut model = layers(&[kind], Float, [3, 5], 2);
    assert_snapshot("lower_native", name, &lower(&mut model));
}

#[test]
fn each_kind() {
    snapshot("grouped", PLAIN);
    snapshot("m2", Kind { ladder: Some(Ladder::M2), ..PLAIN });
    let m3 = Kind { ladder: Some(Ladder::M3), ..PLAIN };
    snapshot("m3_low_rank", Kind { low_rank: Some(FactorFormat::E4M3), ..m3 });
    snapshot(
        "float_activation_low_rank_bf16",
        Kind { activation: None, low_rank: Some(FactorFormat::Bf16), ..PLAIN },
    );
    snapshot("e4m3_e5m2", Kind { format: Format::E4M3, activation: Some(ActivationFormat::E5M2), ..PLAIN });
    snapshot("int8_int8", Kind { format: Format::Int8, activation: Some(ActivationFormat::Int8), ..PLAIN });
    snapshot("int4_zero_points", Kind { format: Format::Int4, zero_points: true, ..PLAIN });
}

/// The kinds that ONNX has types for: those of m2, which need a newer opset, and the others.
fn native_kinds() -> [Vec<Kind>; 2] {
    let kinds = kinds().into_iter().filter(|kind| zqc_ir::operands::native_dtype(kind.format).is_some());
    let (m2, others) = kinds.partition(|kind| kind.ladder == Some(Ladder::M2));
    [m2, others]
}

/// What ONNX's reference makes of `x` by the model, whose outputs are of type `dtype`; the checker must accept it.
fn reference(python: &Path, model: &Model, x: &[f32], dtype: DataType, [n, k]: [usize; 2]) -> Vec<f32> {
    let mut proto = written(model);
    for output in &mut proto.graph.as_mut().unwrap().output {
        *output = info(output.name(), dtype, &format!("tokens {n}"));
    }
    outputs(python, "reference.py", &from_proto(proto).unwrap(), x, k)
}

/// Checks that tokens `[.., n]` differ by at most `tolerance` of the largest value of their token. Both come from one `x`, whose
/// rounding to FP8 or INT8 is the same therefore; the sums behind it may be in another order.
fn assert_close(case: &str, a: &[f32], b: &[f32], n: usize, tolerance: f32) {
    assert_eq!(a.len(), b.len(), "{case}");
    for (a, b) in a.chunks(n).zip(b.chunks(n)) {
        let finite = a.iter().filter(|y| y.is_finite());
        let largest = finite.fold(0.0f32, |largest, y| largest.max(y.abs()));
        let close = |(a, b): (&f32, &f32)| a == b || (a - b).abs() <= tolerance * largest;
        assert!(a.iter().zip(b).all(close), "{case}: {a:?} and {b:?}");
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn the_reference_computes_what_onnxruntime_makes_of_the_portable_form() {
    let python = python();
    for (shape @ [n, k], group_size) in SHAPES {
        for kinds in native_kinds() {
            let x = tokens(k);
            let mut portable = layers(&kinds, Float, shape, group_size);
            let mut native = portable.clone();
            run(&[&LowerPortable], &mut portable);
            let portable = outputs(&python, "outputs.py", &portable, &x, k);
            lower(&mut native);
            let native = reference(&python, &native, &x, Float, shape);
            assert_eq!(native.len(), kinds.len() * (x.len() / k) * n);
            let layers = native.chunks(native.len() / kinds.len());
            for ((kind, native), portable) in kinds.iter().zip(layers).zip(portable.chunks(x.len() / k * n)) {
                assert_close(&format!("{kind:?} {shape:?}"), native, portable, n, 1e-5);
            }
        }
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn layers_of_every_type_compute_what_their_portable_form_does() {
    let python = python();
    let shape @ [n, k] = [7, 37];
    // The two forms add up in another order, so that a result may become the next number of a narrow type.
    for (dtype, tolerance) in [(Float16, 1e-3), (Bfloat16, 8e-3), (Double, 1e-5)] {
        for kinds in native_kinds() {
            let x = tokens(k);
            let mut portable = layers(&kinds, dtype, shape, 16);
            let mut native = portable.clone();
            run(&[&LowerPortable], &mut portable);
            lower(&mut native);
            let [portable, native] =
                [portable, native].map(|model| reference(&python, &model, &x, dtype, shape));
            assert_close(&format!("{dtype:?}"), &native, &portable, n, tolerance);
        }
    }
}

fn initializer<'m>(model: &'m Model, name: &str) -> &'m Tensor {
    model.graph.constant(model.graph.find(name).unwrap()).unwrap()
}

/// Columns `[K, N]` from rows `[N, K]`.
fn transposed<T: Copy>(rows: &[T], n: usize) -> Vec<T> {
    let k = rows.len() / n;
    (0..k).flat_map(|i| rows.iter().skip(i).step_by(k).copied()).collect()
}

#[test]
fn codes_of_4_bits_are_packed_from_the_first_to_the_last() {
    for (shape @ [n, k], group_size) in SHAPES {
        for (format, dtype) in [(Format::E2M1, DataType::Float4e2m1), (Format::Int4, DataType::Int4)] {
            let kind = Kind { format, zero_points: format.is_integer(), ..PLAIN };
            let matrix = kind.matrix(shape, group_size, 0);
            let mut model = layers(&[kind], Float, shape, group_size);
            lower(&mut model);
            let codes = initializer(&model, &format!("y0.{format}"));
            assert_eq!((codes.dtype(), codes.matrix_dims()), (Ok(dtype), Some([k, n])));
            let bytes = codes.bytes().unwrap();
            assert_eq!(bytes.len(), (k * n).div_ceil(2));
            assert_eq!(unpack_nibbles(&bytes, k * n), transposed(&matrix.codes, n));
            let Some(zero_points) = &matrix.zero_points else { continue };
            let nibbles: Vec<u8> = transposed(zero_points, n).iter().map(|&zero| zero as u8 & 0xF).collect();
            let tensor = initializer(&model, &format!("y0.{format}_zero_points"));
            assert_eq!((tensor.dtype(), tensor.matrix_dims()), (Ok(dtype), Some([matrix.groups(), n])));
            assert_eq!(unpack_nibbles(&tensor.bytes().unwrap(), nibbles.len()), nibbles);
        }
    }
}

#[test]
fn steps_of_a_ladder_become_the_numbers_that_they_stand_for() {
    for ladder in PLAIN.format.ladders() {
        let kind = Kind { ladder: Some(ladder), ..PLAIN };
        let shape @ [n, _] = [7, 37];
        let Scales::Shifted { rows, shifts, .. } = kind.matrix(shape, 2, 0).scales else { unreachable!() };
        let mut model = layers(&[kind], Float, shape, 2);
        lower(&mut model);
        let factors = initializer(&model, "y0.e2m1_shifts").bytes().unwrap();
        let value = |&code: &u8| match ladder {
            Ladder::M2 => 2f32.powi(i32::from(code) - 127),
            Ladder::M3 => Format::E4M3.decode(code),
            Ladder::M8 => unreachable!("E2M1 has no such ladder"),
        };
        let expected: Vec<f32> =
            transposed(&shifts, n).into_iter().map(|shift| ladder.factor(shift)).collect();
        assert_eq!(factors.iter().map(value).collect::<Vec<_>>(), expected);
        let scales = initializer(&model, "y0.e2m1_scales");
        assert_eq!((scales.dims(), scales.to_f32().unwrap()), (&[n as i64][..], rows));
    }
}

#[test]
fn layers_share_what_quantizes_their_input() {
    let mut model = w4a8(two_layers(Float16, 5, 3), 2);
    assert_snapshot("lower_native", "shared_input", &lower(&mut model));
}

#[test]
fn a_bias_is_added_in_the_type_of_the_layer() {
    let mut model = w4a8(gemm(Float16, -0.5), 4);
    assert_snapshot("lower_native", "bias", &lower(&mut model));
}

#[test]
fn layers_may_share_a_weight() {
    let mut model = w4a8(shared_weight(), 2);
    assert_snapshot("lower_native", "shared_weight", &lower(&mut model));
}

#[test]
fn names_that_are_taken_are_left_alone() {
    let mut builder = two_layers(Float, 4, 4);
    for taken in ["scale_floor", "x_quantized_codes", "q_accumulated", "q.weight_e2m1_dequantized"] {
        builder = builder.node("Neg", &["x"], taken).output(taken);
    }
    let mut model = w4a8(builder, 4);
    lower(&mut model);
    let names: Vec<String> =
        written(&model).graph.unwrap().node.iter().flat_map(|node| node.output.clone()).collect();
    let distinct: std::collections::HashSet<&String> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
}

#[test]
fn versions_are_those_that_brought_the_types() {
    for (ladder, opset, ir) in [(None, 23, 11), (Some(Ladder::M3), 23, 11), (Some(Ladder::M2), 24, 12)] {
        let mut model = layers(&[Kind { ladder, ..PLAIN }], Float, [4, 4], 4);
        lower(&mut model);
        assert_eq!((model.opset(), model.header.ir_version()), (opset, ir));
    }
}

#[test]
fn what_onnx_cannot_say_is_refused() {
    let kind = |format, ladder| layers(&[Kind { format, ladder, ..PLAIN }], Float, [4, 4], 4);
    let mut m2 = kind(Format::E2M1, Some(Ladder::M2));
    run(&[&UpgradeOpset { to: Opset::At(23) }], &mut m2);
    let mut e3m0 = kind(Format::E3M0, None);
    run(&[&TO_24], &mut e3m0);
    let messages = [refused(kind(Format::E2M1, None)), refused(m2), refused(e3m0)];
    assert_snapshot("lower_native", "refused", &messages.join("\n"));
}

#[test]
fn zero_points_that_need_more_than_4_bits_are_refused() {
    let kind = Kind { format: Format::Int4, zero_points: true, ..PLAIN };
    let mut model = layers(&[kind], Float, [1, 1], 1);
    let zero_points = model.graph.find("y0.int4_zero_points").unwrap();
    let beyond = Tensor::new(DataType::Int8, &[1, 1], vec![8]).unwrap();
    let change = zqc_ir::Change { replace: vec![(zero_points, beyond)], ..Default::default() };
    zqc_ir::Patch { changes: vec![change], ..Default::default() }.apply(&mut model).unwrap();
    run(&[&TO_24], &mut model);
    let error = zqc_passes::run(&LowerNative, &mut model, &mut Silent).unwrap_err();
    assert_eq!(error.to_string(), "layer y0: a zero point cannot be read as 4 bits");
}

#[test]
fn a_model_without_quantized_layers_stays_as_it_is() {
    let mut model = two_layers(Float, 4, 4).opset(13).build();
    let before = written(&model);
    run(&[&LowerNative], &mut model);
    assert_eq!(written(&model), before);
}
