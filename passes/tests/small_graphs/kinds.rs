//! Quantized layers of every kind: lowered, raised again, and executed by stock ONNX Runtime.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zqc_formats::{ActivationFormat, FactorFormat, Format, Ladder, LowRank, QuantizedMatrix, Scales};
use zqc_ir::onnx::proto::GraphProto;
use zqc_ir::op::{QuantizeActivation, QuantizedLinear, port};
use zqc_ir::operands;
use zqc_ir::tensor::DataType::{self, Float};
use zqc_ir::{Change, Model, NewNode, Op, Patch, onnx};
use zqc_passes::{Canonicalize, Context, LowerPortable, Pass, PassError, RaisePortable, Silent};
use zqc_runtime::{Array, Interpreter, backend};

use crate::builder::{Builder, written};
use crate::{assert_snapshot, run};

/// What a layer consists of.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub format: Format,
    pub ladder: Option<Ladder>,
    pub zero_points: bool,
    pub activation: Option<ActivationFormat>,
    pub low_rank: Option<FactorFormat>,
}

/// E2M1 weights with a scale for every group, E4M3 activations.
pub const PLAIN: Kind = Kind {
    format: Format::E2M1,
    ladder: None,
    zero_points: false,
    activation: Some(ActivationFormat::E4M3),
    low_rank: None,
};

/// Every kind there is.
pub fn kinds() -> Vec<Kind> {
    let mut weights = Vec::new();
    for format in Format::ALL {
        let plain = Kind { format, ..PLAIN };
        let ladders = format.ladders();
        weights.push(plain);
        weights.extend(ladders.map(|ladder| Kind { ladder: Some(ladder), ..plain }));
        weights.extend(format.is_integer().then_some(Kind { zero_points: true, ..plain }));
    }
    let activations = || ActivationFormat::ALL.into_iter().map(Some).chain([None]);
    let branches = [None, Some(FactorFormat::E4M3), Some(FactorFormat::Bf16)];
    let kinds = weights.into_iter().flat_map(|weight| {
        activations()
            .flat_map(move |activation| branches.map(|low_rank| Kind { activation, low_rank, ..weight }))
    });
    kinds.collect()
}

/// Numbers between -1 and 1 that follow no short pattern, others for another seed.
pub fn noise(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i + 1) * (seed + 7919) * 2654435761 % 2003) as f32 / 1001.0 - 1.0).collect()
}

impl Kind {
    pub fn matrix(self, [n, k]: [usize; 2], group_size: usize, seed: usize) -> QuantizedMatrix {
        let groups = n * k.div_ceil(group_size);
        let positive = |len: usize| noise(len, seed + 1).iter().map(|v| 0.05 + v.abs()).collect::<Vec<f32>>();
        let codes = noise(n * k, seed).into_iter().map(|v| self.format.encode(v * 1.2 * self.format.max()));
        QuantizedMatrix {
            format: self.format,
            rows: n,
            cols: k,
            group_size,
            codes: codes.collect(),
            scales: match self.ladder {
                None => Scales::Grouped(positive(groups)),
                Some(ladder) => {
                    let max = usize::from(ladder.max_shift(self.format).unwrap());
                    let shifts = (0..groups).map(|i| ((i * 5 + seed) % (max + 1)) as u8).collect();
                    Scales::Shifted { ladder, rows: positive(n), shifts }
                }
            },
            zero_points: self.zero_points.then(|| {
                let max = self.format.max();
                noise(groups, seed + 2).iter().map(|v| (v * max).round() as i8).collect()
            }),
        }
    }

    fn branch(self, [n, k]: [usize; 2], seed: usize) -> Option<LowRank> {
        let rank = 2;
        let (up, down) = (noise(n * rank, seed + 3), noise(rank * k, seed + 4));
        self.low_rank.map(|format| LowRank::from_factors(&up, &down, [n, rank, k], format).unwrap())
    }
}

/// Makes the layers of a model into quantized ones, in the order of the graph, by these kinds.
struct Quantize<'k> {
    kinds: &'k [Kind],
    group_size: usize,
}

impl Pass for Quantize<'_> {
    fn name(&self) -> &'static str {
        "quantize"
    }

    fn run(&self, model: &Model, _: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let mut patch = Patch::default();
        for format in ActivationFormat::ALL {
            let quantized = format!("x_{format}");
            patch.changes.push(Change {
                add: vec![NewNode {
                    name: quantized.clone(),
                    op: Op::QuantizeActivation(QuantizeActivation { format }),
                    inputs: vec![Some("x".to_string())],
                    outputs: vec![Some(quantized)],
                    regions: Vec::new(),
                    source_index: None,
                }],
                ..Change::new("quantize")
            });
        }
        let layers = graph.nodes().filter_map(|(id, node)| match &node.op {
            Op::Linear(linear) => Some((id, node, linear)),
            _ => None,
        });
        for (seed, ((id, node, linear), kind)) in layers.zip(self.kinds).enumerate() {
            let shape = [linear.n, linear.k];
            let matrix = kind.matrix(shape, self.group_size, seed);
            let branch = kind.branch(shape, seed);
            let mut change = Change { remove: vec![id], ..Change::new("quantize") };
            let mut names = Vec::new();
            for operand in operands::operands(&matrix, branch.as_ref()).unwrap() {
                let name = format!("{}.{}", linear.layer, operand.suffix);
                names.push((operand.port, name.clone()));
                change.initializers.push((name, operand.tensor));
            }
            let x = kind.activation.map_or("x".to_string(), |format| format!("x_{format}"));
            let op = Op::QuantizedLinear(QuantizedLinear {
                layer: linear.layer.clone(),
                k: linear.k,
                n: linear.n,
                format: matrix.format,
                group_size: matrix.group_size,
                ladder: kind.ladder,
                rank: branch.map_or(0, |branch| branch.rank),
                beta: 1.0,
                dtype: linear.dtype,
            });
            let inputs = operands::inputs(x, names, None);
            let name = linear.layer.clone();
            change.add.push(NewNode { name, op, inputs, ..NewNode::restore(graph, node) });
            change.remove_if_unused.extend(node.input(port::WEIGHT));
            patch.changes.push(change);
        }
        Ok(patch)
    }
}

/// A layer of each kind, all of them reading `x` `[tokens, K]`.
pub fn layers(kinds: &[Kind], dtype: DataType, [n, k]: [usize; 2], group_size: usize) -> Model {
    let width = format!("tokens {k}");
    let mut builder = Builder::new().opset(19).input("x", dtype, &width);
    for (at, _) in kinds.iter().enumerate() {
        let (weight, y) = (format!("w{at}"), format!("y{at}"));
        builder = builder.weight(&weight, dtype, &[k, n]).node("MatMul", &["x", &weight], &y).output(&y);
    }
    let mut model = builder.build();
    run(&[&Canonicalize::default(), &Quantize { kinds, group_size }], &mut model);
    model
}

/// `[N, K]` and group sizes: whole groups and short ones, even and odd N.
pub const SHAPES: [([usize; 2], usize); 4] = [([3, 5], 2), ([4, 8], 4), ([1, 1], 1), ([7, 37], 16)];

#[test]
fn the_functions_of_every_kind_of_weight() {
    let one_each = [
        Kind { low_rank: Some(FactorFormat::E4M3), ladder: Some(Ladder::M3), ..PLAIN },
        Kind { low_rank: Some(FactorFormat::Bf16), ladder: Some(Ladder::M2), format: Format::E3M0, ..PLAIN },
        Kind { format: Format::E4M3, activation: Some(ActivationFormat::E5M2), ..PLAIN },
        Kind { format: Format::Int8, activation: Some(ActivationFormat::Int8), ..PLAIN },
        Kind { format: Format::Int4, zero_points: true, activation: None, ..PLAIN },
    ];
    let mut model = layers(&one_each, Float, [3, 5], 2);
    assert_snapshot("lower_portable", "kinds", &run(&[&LowerPortable], &mut model));
}

#[test]
fn raising_gives_back_what_was_lowered() {
    for (shape, group_size) in SHAPES {
        for dtype in [Float, DataType::Float16, DataType::Bfloat16, DataType::Double] {
            let before = layers(&kinds(), dtype, shape, group_size);
            let mut model = before.clone();
            run(&[&LowerPortable], &mut model);
            let lowered = written(&model);
            run(&[&RaisePortable], &mut model);
            assert!(model.header.functions.is_empty());
            for (after, before) in model.graph.to_string().lines().zip(before.graph.to_string().lines()) {
                assert_eq!(after, before);
            }
            let payload = |model: &Model| -> Vec<_> {
                let tensors = model.graph.initializers();
                tensors.map(|(_, tensor)| tensor.bytes().unwrap().to_vec()).collect()
            };
            assert_eq!(payload(&model), payload(&before));
            run(&[&LowerPortable], &mut model);
            assert!(written(&model) == lowered);
        }
    }
}

/// How raising a lowered layer of shifted scales with a low-rank branch fails after an edit.
fn malformed(edit: impl Fn(&mut GraphProto)) -> String {
    let kind = Kind { ladder: Some(Ladder::M3), low_rank: Some(FactorFormat::E4M3), ..PLAIN };
    let mut model = layers(&[kind], Float, [3, 5], 2);
    run(&[&LowerPortable], &mut model);
    let mut proto = written(&model);
    edit(proto.graph.as_mut().unwrap());
    let mut model = onnx::from_proto(proto).unwrap();
    match zqc_passes::run(&RaisePortable, &mut model, &mut Silent) {
        Err(error @ PassError::Malformed { .. }) => error.to_string(),
        other => panic!("no malformed call: {other:?}"),
    }
}

#[test]
fn malformed_shifts_and_branches_are_named() {
    let call = |graph: &mut GraphProto| graph.node.iter().position(|node| node.name() == "y0").unwrap();
    let named = |graph: &GraphProto, name: &str| {
        graph.initializer.iter().position(|tensor| tensor.name() == format!("y0.{name}")).unwrap()
    };
    let messages = [
        malformed(|graph| {
            let at = named(graph, "e2m1_scales");
            graph.initializer[at].dims = vec![3, 1];
        }),
        malformed(|graph| {
            let at = named(graph, "e2m1_shifts");
            graph.initializer[at].dims = vec![2, 3];
        }),
        malformed(|graph| {
            let at = named(graph, "low_rank_down");
            graph.initializer[at].data_type = Some(DataType::Float8e5m2 as i32);
        }),
        malformed(|graph| {
            let at = named(graph, "low_rank_up");
            graph.initializer[at].dims = vec![3, 2];
        }),
        malformed(|graph| {
            let at = call(graph);
            graph.node[at].input.truncate(7);
        }),
        malformed(|graph| {
            let at = call(graph);
            graph.node[at].input.swap(5, 6);
        }),
        malformed(|graph| {
            let at = call(graph);
            graph.node[at].op_type = Some("W4A8Linear_M3_ActInt8_LowRank".to_string());
        }),
    ];
    assert_snapshot("raise_portable", "malformed_branch", &messages.join("\n"));
}

/// The Python of `tests/run`, with onnxruntime in it.
pub fn python() -> PathBuf {
    std::env::var_os("ZQC_PYTHON")
        .expect("ZQC_PYTHON names a Python with onnxruntime; tests/run sets it up")
        .into()
}

/// What a script of `tests/ort` says that a model yields for `x` `[tokens, width]`, all outputs one after the other.
pub fn outputs(python: &Path, script: &str, model: &Model, x: &[f32], width: usize) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    onnx::write(model, &path, onnx::Storage::Inline).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/ort").join(script);
    let mut child = Command::new(python)
        .arg(script)
        .args([path.as_os_str(), width.to_string().as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes: Vec<u8> = x.iter().flat_map(|value| value.to_le_bytes()).collect();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// What our interpreter yields, all outputs one after the other.
fn interpreted(model: &Model, x: &[f32], width: usize) -> Vec<f32> {
    let backend = backend("rten", Some(1)).unwrap();
    let interpreter = Interpreter::new(model, backend.as_ref(), model.graph.outputs().to_vec()).unwrap();
    let x = Array::new(vec![x.len() / width, width], x.to_vec()).unwrap();
    let results = interpreter.prepare().unwrap().run(interpreter.feed([("x", x)])).unwrap();
    results.iter().flat_map(|array| array.as_f32().unwrap().to_vec()).collect()
}

/// Tokens with one feature each, which show the weight, then others, one of zeros, one of large and one of tiny values.
pub fn tokens(width: usize) -> Vec<f32> {
    let mut x = vec![0.0; width * width];
    x.iter_mut().step_by(width + 1).for_each(|value| *value = 1.0);
    for (seed, size) in [1.0, 30.0, 0.0, 1e4, 1e-6].into_iter().enumerate() {
        x.extend(noise(width, seed).iter().map(|value| value * size));
    }
    x
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn onnxruntime_computes_what_the_interpreter_does() {
    let python = python();
    let kinds = kinds();
    for (shape @ [n, k], group_size) in SHAPES {
        let mut model = layers(&kinds, Float, shape, group_size);
        let x = tokens(k);
        let ours = interpreted(&model, &x, k);
        run(&[&LowerPortable], &mut model);
        let theirs = outputs(&python, "outputs.py", &model, &x, k);
        run(&[&RaisePortable], &mut model);
        assert_eq!(interpreted(&model, &x, k), ours, "raised");

        let rows = x.len() / k;
        assert_eq!((ours.len(), theirs.len()), (kinds.len() * rows * n, kinds.len() * rows * n));
        for ((kind, ours), theirs) in kinds.iter().zip(ours.chunks(rows * n)).zip(theirs.chunks(rows * n)) {
            let case = format!("{kind:?} {shape:?}");
            if kind.low_rank.is_none() {
                assert_eq!(ours[..k * n], theirs[..k * n], "{case}: the weight itself");
            }
            // `x` is the same on both sides, and so are the FP8 and INT8 numbers that it becomes, by exact operations alone. What follows
            // are sums of at most 37 products, whose orders differ by a few 2^-24.
            for (ours, theirs) in ours.chunks(n).zip(theirs.chunks(n)) {
                let largest = ours.iter().fold(0.0f32, |largest, y| largest.max(y.abs()));
                for (ours, theirs) in ours.iter().zip(theirs) {
                    assert!((ours - theirs).abs() <= 1e-5 * largest, "{case}: {ours} here, {theirs} there");
                }
            }
        }
    }
}
