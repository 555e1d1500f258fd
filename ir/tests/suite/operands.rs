//! Quantized layers of every kind: numbers to tensors and back, and what the verifier says of tensors that do not fit.

use zqc_formats::FormatError;
use zqc_formats::{FactorFormat, Format, Ladder, LowRank, QuantizedMatrix, Scales};
use zqc_ir::onnx::from_proto;
use zqc_ir::op::{QuantizedLinear, port};
use zqc_ir::operands::{
    OperandError, codes_dtype, format_of, low_rank, matrix, native_dtype, operands, rows,
};
use zqc_ir::tensor::{DataType, TensorError};
use zqc_ir::text;
use zqc_ir::verify::verify;
use zqc_ir::{Change, Model, NewNode, Op, Patch, Tensor};

use crate::protos::{small, string};

const ROWS: usize = 3;
const COLS: usize = 5;
const GROUP_SIZE: usize = 2;
const GROUPS: usize = 3;

fn grouped(format: Format) -> QuantizedMatrix {
    let mask = ((1u32 << format.bits()) - 1) as u8;
    QuantizedMatrix {
        format,
        rows: ROWS,
        cols: COLS,
        group_size: GROUP_SIZE,
        codes: (0..ROWS * COLS).map(|i| (i * 37 + 5) as u8 & mask).collect(),
        scales: Scales::Grouped((1..=ROWS * GROUPS).map(|i| 1.0 / i as f32).collect()),
        zero_points: None,
    }
}

fn shifted(format: Format, ladder: Ladder) -> QuantizedMatrix {
    let shifts = (0..ROWS * GROUPS).map(|i| i as u8).collect();
    QuantizedMatrix {
        scales: Scales::Shifted { ladder, rows: vec![0.1, 0.2, 0.3], shifts },
        ..grouped(format)
    }
}

fn asymmetric(format: Format) -> QuantizedMatrix {
    QuantizedMatrix { zero_points: Some((-4..=4).collect()), ..grouped(format) }
}

fn branch(format: FactorFormat) -> LowRank {
    let values = |len: usize| (0..len).map(|i| (i * i % 7) as f32 - 3.0).collect::<Vec<_>>();
    LowRank::from_factors(&values(ROWS * 2), &values(2 * COLS), [ROWS, 2, COLS], format).unwrap()
}

/// The small model with its product replaced by a layer of this weight; `edit` may change its operands and the layer.
fn model(
    matrix: &QuantizedMatrix,
    low_rank: Option<&LowRank>,
    edit: impl FnOnce(&mut Vec<Option<Tensor>>, &mut QuantizedLinear),
) -> Model {
    let mut proto = small();
    // What an operator yields that nobody knows may be of any type.
    proto.graph.as_mut().unwrap().node[0].op_type = string("Placeholder");
    let mut model = from_proto(proto).unwrap();
    let product = model.graph.producer(model.graph.find("xw").unwrap()).unwrap();
    let mut linear = QuantizedLinear {
        layer: "layer".to_string(),
        k: matrix.cols,
        n: matrix.rows,
        format: matrix.format,
        group_size: matrix.group_size,
        ladder: matrix.scales.ladder(),
        rank: low_rank.map_or(0, |branch| branch.rank),
        beta: 1.0,
        dtype: DataType::Float,
    };
    let mut tensors = vec![None; port::QUANTIZED_BIAS];
    for operand in operands(matrix, low_rank).unwrap() {
        tensors[operand.port] = Some(operand.tensor);
    }
    edit(&mut tensors, &mut linear);
    let named = tensors.into_iter().enumerate().map(|(at, tensor)| Some((format!("operand{at}"), tensor?)));
    let mut inputs: Vec<Option<String>> = named.clone().map(|named| named.map(|(name, _)| name)).collect();
    inputs[port::X] = string("x");
    let change = Change {
        initializers: named.flatten().collect(),
        remove: vec![product],
        add: vec![NewNode {
            name: "product".to_string(),
            op: Op::QuantizedLinear(linear),
            inputs,
            outputs: vec![string("xw")],
            regions: Vec::new(),
            source_index: None,
        }],
        ..Change::new("test")
    };
    Patch { changes: vec![change], ..Patch::default() }.apply(&mut model).unwrap();
    model
}

fn read(model: &Model) -> Result<(QuantizedMatrix, Option<LowRank>), OperandError> {
    let (_, node) = model.graph.nodes().find(|(_, node)| node.name == "product").unwrap();
    let Op::QuantizedLinear(linear) = &node.op else { panic!("{:?}", node.op) };
    Ok((matrix(&model.graph, node, linear)?, low_rank(&model.graph, node, linear)?))
}

#[test]
fn what_is_written_is_read_again() {
    let grouped = Format::ALL.map(grouped);
    let on_ladders = Format::ALL
        .into_iter()
        .flat_map(|format| format.ladders().map(move |ladder| shifted(format, ladder)));
    let others = [asymmetric(Format::Int4), asymmetric(Format::Int8)].into_iter().chain(on_ladders);
    for weight in grouped.into_iter().chain(others) {
        for branch in [None, Some(branch(FactorFormat::E4M3)), Some(branch(FactorFormat::Bf16))] {
            let model = model(&weight, branch.as_ref(), |_, _| ());
            assert_eq!(verify(&model), Ok(()));
            assert_eq!(read(&model), Ok((weight.clone(), branch)));
        }
    }
}

#[test]
fn rows_are_those_of_the_matrix() {
    let weights = [
        grouped(Format::E4M3),
        asymmetric(Format::Int8),
        grouped(Format::E2M1),
        shifted(Format::E2M1, Ladder::M3),
    ];
    for weight in weights {
        let model = model(&weight, None, |_, _| ());
        let (_, node) = model.graph.nodes().find(|(_, node)| node.name == "product").unwrap();
        let Op::QuantizedLinear(table) = &node.op else { panic!("{:?}", node.op) };
        let of = |indices: &[usize]| rows(&model.graph, node, table, indices);
        let (whole, some) = (weight.dequantize(), of(&[2, 0, 2]).unwrap());
        assert_eq!(some.check(), Ok(()));
        let expected: Vec<f32> =
            [2, 0, 2].iter().flat_map(|row| &whole[row * COLS..][..COLS]).copied().collect();
        assert_eq!(some.dequantize(), expected);
        assert_eq!(of(&[1, 3]), Err(OperandError::Row { index: 3, rows: ROWS }));
    }
}

#[test]
fn the_textual_form_shows_every_operand() {
    let model = model(&shifted(Format::E2M1, Ladder::M3), Some(&branch(FactorFormat::Bf16)), |_, _| ());
    let (text, exact) = (model.to_string(), text::exact(&model).unwrap());
    assert_eq!(text::exact(&text::parse(&exact).unwrap()).unwrap(), exact);
    let lines = [
        "const %operand1: u8[3, 3]",
        "const %operand2: f32[3, 1]",
        "const %operand3: u8[3, 3]",
        "const %operand5: bf16[2, 5]",
        "const %operand6: bf16[3, 2]",
        "const %operand7: f32[2]",
        "zqc.quantized_linear(%x, %operand1, %operand2, %operand3, _, %operand5, %operand6, %operand7) \
         {layer = \"layer\", k = 5, n = 3, format = \"e2m1\", group_size = 2, ladder = \"m3\", rank = 2, dtype = \"f32\"}",
    ];
    lines.into_iter().for_each(|line| assert!(text.contains(line), "no {line} in\n{text}"));
}

#[test]
fn what_does_not_fit_is_not_written() {
    let error = |matrix: &QuantizedMatrix| operands(matrix, None).unwrap_err();
    let (format, ladder) = (Format::Int4, Ladder::M2);
    assert_eq!(error(&shifted(format, ladder)), FormatError::Shifted { format, ladder }.into());
    assert_eq!(error(&asymmetric(Format::E2M1)), FormatError::ZeroPoints(Format::E2M1).into());
    let no_scales = LowRank { scales: Vec::new(), ..branch(FactorFormat::E4M3) };
    let error = operands(&grouped(Format::E2M1), Some(&no_scales)).unwrap_err();
    assert!(matches!(error, OperandError::Weight(FormatError::Length { expected: 2, actual: 0, .. })));
}

#[test]
fn a_shift_out_of_range_is_not_read() {
    let shifts = Tensor::new(DataType::Uint8, &[ROWS, GROUPS], vec![15; ROWS * GROUPS]).unwrap();
    let matrix = shifted(Format::E2M1, Ladder::M2);
    let model = model(&matrix, None, |operands, _| operands[port::SHIFTS] = Some(shifts));
    assert_eq!(verify(&model), Ok(()));
    let error = FormatError::Shift { shift: 15, format: Format::E2M1, max: 14 };
    assert_eq!(read(&model), Err(error.into()));
}

/// What the verifier says of the one fault of a shifted layer with a low-rank branch, once it was edited.
fn fault(edit: impl FnOnce(&mut Vec<Option<Tensor>>, &mut QuantizedLinear)) -> String {
    let model = model(&shifted(Format::E2M1, Ladder::M3), Some(&branch(FactorFormat::E4M3)), edit);
    let faults = verify(&model).unwrap_err();
    assert_eq!(faults.0.len(), 1, "{faults}");
    faults.0[0].message.clone()
}

#[test]
fn the_verifier_names_the_operand_that_does_not_fit() {
    let tensor = |dtype, dims: &[usize]| {
        let bits = zqc_ir::tensor::bits(dtype).unwrap();
        Some(Tensor::new(dtype, dims, vec![0; dims.iter().product::<usize>() * bits / 8]).unwrap())
    };
    let cases = [
        ("codes", port::WEIGHT, tensor(DataType::Float8e4m3fn, &[3, 5])),
        ("scales", port::SCALES, tensor(DataType::Float, &[3, 3])),
        ("shifts", port::SHIFTS, tensor(DataType::Int8, &[3, 3])),
        ("low-rank factors V", port::LOW_RANK_DOWN, tensor(DataType::Float8e4m3fn, &[5, 2])),
        ("low-rank factors V", port::LOW_RANK_DOWN, tensor(DataType::Float16, &[2, 5])),
        ("low-rank factors U", port::LOW_RANK_UP, tensor(DataType::Bfloat16, &[3, 2])),
        ("low-rank scales", port::LOW_RANK_SCALES, None),
    ];
    for (name, at, tensor) in cases {
        let message = fault(|operands, _| operands[at] = tensor);
        assert!(message.starts_with(&format!("its {name} are ")), "{message}");
    }
    assert!(fault(|_, linear| linear.rank = 0).contains("its rank is 0"));
    assert!(fault(|_, linear| linear.format = Format::Int4).contains("cannot be steps of a ladder"));
    let zero_points = tensor(DataType::Int8, &[3, 3]);
    assert!(fault(|operands, _| operands[port::ZERO_POINTS] = zero_points).contains("have no zero points"));
}

#[test]
fn a_missing_operand_is_not_read() {
    let model = model(&grouped(Format::E2M1), None, |operands, _| operands[port::SCALES] = None);
    assert_eq!(read(&model), Err(TensorError::NotLoaded.into()));
}

#[test]
fn onnx_has_types_of_its_own_for_formats() {
    let types = Format::ALL.map(|format| (format, native_dtype(format), codes_dtype(format)));
    assert_eq!(
        types,
        [
            (Format::E2M1, Some(DataType::Float4e2m1), DataType::Uint8),
            (Format::E3M0, None, DataType::Uint8),
            (Format::E4M3, Some(DataType::Float8e4m3fn), DataType::Float8e4m3fn),
            (Format::E5M2, Some(DataType::Float8e5m2), DataType::Float8e5m2),
            (Format::Int4, Some(DataType::Int4), DataType::Uint8),
            (Format::Int8, Some(DataType::Int8), DataType::Int8),
            (Format::Lut4, None, DataType::Uint8),
        ]
    );
    for format in Format::ALL {
        assert!(native_dtype(format).is_none_or(|dtype| format_of(dtype) == Some(format)), "{format}");
    }
}
