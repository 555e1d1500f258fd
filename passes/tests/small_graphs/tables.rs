//! Tables of every kind, and heads that are tied to them: lowered, raised again, and executed by stock ONNX Runtime.

use zqc_formats::{ActivationFormat, Format};
use zqc_ir::op::{QuantizeActivation, QuantizedLinear};
use zqc_ir::tensor::DataType::{self, Float, Int64};
use zqc_ir::{Change, Model, NewNode, Op, Patch, operands};
use zqc_passes::{Context, LowerPortable, Pass, PassError, RaisePortable};
use zqc_runtime::{Array, Interpreter, backend};

use crate::builder::{Builder, written};
use crate::kinds::{Kind, PLAIN, outputs, python};
use crate::{assert_snapshot, run};

/// Rows to look up, one of them from the end.
const INDICES: [f32; 6] = [0.0, 3.0, 6.0, 3.0, -1.0, 2.0];

/// The kinds of tables, each with every activation of the head.
fn kinds() -> Vec<Kind> {
    let tables = [Format::Int8, Format::E4M3].map(|format| Kind { format, ..PLAIN });
    let activations = || ActivationFormat::ALL.into_iter().map(Some).chain([None]);
    let tables = tables.into_iter();
    tables.flat_map(|table| activations().map(move |activation| Kind { activation, ..table })).collect()
}

/// Puts a table of `[rows, k]` and a head that reads it in the place of what defines `h0`, `y0`, `h1`, `y1` ..., one of each kind.
struct Tie {
    kinds: Vec<Kind>,
    shape: [usize; 2],
    group_size: usize,
    dtype: DataType,
}

impl Pass for Tie {
    fn name(&self) -> &'static str {
        "tie"
    }

    fn run(&self, model: &Model, _: &mut Context) -> Result<Patch, PassError> {
        let [n, k] = self.shape;
        let changes = self.kinds.iter().enumerate().map(|(at, kind)| {
            let group_size = self.group_size;
            let mut change = Change::new("tie");
            let results = [format!("h{at}"), format!("y{at}")].map(|name| model.graph.find(&name));
            change.remove.extend(results.into_iter().flatten().filter_map(|y| model.graph.producer(y)));
            let mut names = Vec::new();
            for operand in operands::operands(&kind.matrix([n, k], group_size, at), None).unwrap() {
                let name = format!("table{at}.{}", operand.suffix);
                names.push((operand.port, name.clone()));
                change.initializers.push((name, operand.tensor));
            }
            let weight = QuantizedLinear {
                layer: format!("table{at}"),
                k,
                n,
                format: kind.format,
                group_size,
                ladder: kind.ladder,
                rank: 0,
                beta: 1.0,
                dtype: self.dtype,
            };
            let mut add = |op: Op, inputs, output: String| {
                let name =
                    if let Op::QuantizedGather(table) = &op { table.layer.clone() } else { output.clone() };
                change.add.push(NewNode {
                    name,
                    op,
                    inputs,
                    outputs: vec![Some(output)],
                    regions: Vec::new(),
                    source_index: None,
                });
            };
            let (h, mut x) = (format!("h{at}"), format!("h{at}"));
            let inputs = operands::inputs("ids".to_string(), names.clone(), None);
            add(Op::QuantizedGather(weight.clone()), inputs, h.clone());
            if let Some(format) = kind.activation {
                x = format!("q{at}");
                add(Op::QuantizeActivation(QuantizeActivation { format }), vec![Some(h)], x.clone());
            }
            let head = QuantizedLinear { layer: format!("y{at}"), ..weight };
            add(Op::QuantizedLinear(head), operands::inputs(x, names, None), format!("y{at}"));
            change
        });
        Ok(Patch { changes: changes.collect(), ..Patch::default() })
    }
}

/// Tables and heads of these kinds; `x` `[tokens, 1]` holds the indices.
fn tied(kinds: &[Kind], shape: [usize; 2], group_size: usize, dtype: DataType) -> Model {
    let cast = zqc_ir::op::attribute::int("to", Int64 as i64);
    let mut builder = Builder::new().opset(19).input("x", Float, "tokens 1").node("Cast", &["x"], "ids");
    builder = builder.with(cast);
    for at in 0..kinds.len() {
        for output in [format!("h{at}"), format!("y{at}")] {
            builder = builder.node("Placeholder", &["ids"], &output).output(&output);
        }
    }
    let mut model = builder.build();
    run(&[&Tie { kinds: kinds.to_vec(), shape, group_size, dtype }], &mut model);
    model
}

/// `[V, K]`.
const SHAPES: [[usize; 2]; 2] = [[7, 5], [8, 16]];

#[test]
fn the_functions_of_every_kind_of_table() {
    let float = |kind: &Kind| kind.activation.is_none();
    let kinds: Vec<Kind> = kinds().into_iter().filter(float).collect();
    let mut model = tied(&kinds, [7, 20], 20, Float);
    assert_snapshot("lower_portable", "tables", &run(&[&LowerPortable], &mut model));
}

#[test]
fn raising_gives_back_what_was_lowered() {
    for shape in SHAPES {
        for dtype in [Float, DataType::Float16] {
            let before = tied(&kinds(), shape, shape[1], dtype);
            let mut model = before.clone();
            run(&[&LowerPortable], &mut model);
            let lowered = written(&model);
            run(&[&RaisePortable], &mut model);
            assert!(model.header.functions.is_empty());
            assert_eq!(model.graph.to_string(), before.graph.to_string());
            for ((_, after), (_, before)) in model.graph.initializers().zip(before.graph.initializers()) {
                assert_eq!(after.bytes().unwrap(), before.bytes().unwrap());
            }
            run(&[&LowerPortable], &mut model);
            assert!(written(&model) == lowered);
        }
    }
}

#[test]
fn a_table_that_no_function_looks_up_is_refused() {
    // Codes of 4 bits, and bytes in groups.
    let refusal = |kind: Kind, shape, group_size| {
        let mut model = tied(&[kind], shape, group_size, Float);
        zqc_passes::run(&LowerPortable, &mut model, &mut zqc_passes::Silent).unwrap_err().to_string()
    };
    assert!(refusal(PLAIN, [7, 6], 6).contains("table table0 has e2m1 codes"));
    assert!(
        refusal(Kind { format: Format::Int8, ..PLAIN }, [7, 6], 2).contains("table table0 has int8 codes")
    );
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn onnxruntime_computes_what_the_interpreter_does() {
    let python = python();
    let kinds = kinds();
    for shape @ [n, k] in SHAPES {
        let mut model = tied(&kinds, shape, k, Float);
        let backend = backend("rten", Some(1)).unwrap();
        let wanted = model.graph.outputs().to_vec();
        let interpreter = Interpreter::new(&model, backend.as_ref(), wanted).unwrap();
        let x = Array::new(vec![INDICES.len(), 1], INDICES.to_vec()).unwrap();
        let ours = interpreter.prepare().unwrap().run(interpreter.feed([("x", x)])).unwrap();
        let ours: Vec<f32> = ours.iter().flat_map(|array| array.as_f32().unwrap().to_vec()).collect();
        drop(interpreter);
        run(&[&LowerPortable], &mut model);
        let theirs = outputs(&python, "outputs.py", &model, &INDICES, 1);
        let size = INDICES.len() * (k + n);
        assert_eq!((ours.len(), theirs.len()), (kinds.len() * size, kinds.len() * size));
        for ((kind, ours), theirs) in kinds.iter().zip(ours.chunks(size)).zip(theirs.chunks(size)) {
            let rows = INDICES.len() * k;
            assert_eq!(ours[..rows], theirs[..rows], "{kind:?} {shape:?}: rows are exact");
            let largest = ours[rows..].iter().fold(0.0f32, |largest, y| largest.max(y.abs()));
            for (ours, theirs) in ours[rows..].iter().zip(&theirs[rows..]) {
                assert!((ours - theirs).abs() <= 1e-5 * largest, "{kind:?} {shape:?}: {ours} {theirs}");
            }
        }
    }
}
