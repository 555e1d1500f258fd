use std::cell::Cell;
use std::rc::Rc;

use zqc_ir::Patch;
use zqc_ir::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};
use zqc_ir::op::attribute;
use zqc_passes::{PassError, Silent};

use super::*;

/// Changes nothing and counts how often it is run.
struct Count(Rc<Cell<usize>>);

impl Pass for Count {
    fn name(&self) -> &'static str {
        "count"
    }

    fn run(&self, _: &Model, _: &mut dyn Observer) -> Result<Patch, PassError> {
        self.0.set(self.0.get() + 1);
        Ok(Patch::default())
    }
}

fn compiler() -> Compiler {
    Compiler::new(Options { method: Method::Rtn, ..Options::default() })
}

/// A branch of an `If`, `y = x w`, and nothing else that could be quantized.
fn layer_in_a_body() -> Model {
    let string = |text: &str| Some(text.to_string());
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let node = |op_type: &str, inputs: &[&str], output: &str| NodeProto {
        op_type: string(op_type),
        input: names(inputs),
        output: names(&[output]),
        ..Default::default()
    };
    let value = |name: &str| ValueInfoProto { name: string(name), ..Default::default() };
    let weight = TensorProto {
        name: string("w"),
        data_type: Some(DataType::Float as i32),
        dims: vec![64, 64],
        raw_data: Some(0.5f32.to_le_bytes().repeat(64 * 64).into()),
        ..Default::default()
    };
    let body = |node: NodeProto| GraphProto {
        output: vec![value(&node.output[0])],
        node: vec![node],
        ..Default::default()
    };
    let mut branch = node("If", &["c"], "y");
    branch.attribute =
        [("then_branch", node("MatMul", &["x", "w"], "t")), ("else_branch", node("Neg", &["x"], "e"))]
            .map(|(name, node)| zqc_ir::onnx::proto::AttributeProto {
                name: string(name),
                g: Some(body(node)),
                r#type: Some(5),
                i: None,
                ..attribute::int(name, 0)
            })
            .to_vec();
    let graph = GraphProto {
        input: vec![value("c"), value("x")],
        output: vec![value("y")],
        initializer: vec![weight],
        node: vec![branch],
        ..Default::default()
    };
    let opset = OperatorSetIdProto { version: Some(20), ..Default::default() };
    let proto = ModelProto {
        ir_version: Some(10),
        opset_import: vec![opset],
        graph: Some(graph),
        ..Default::default()
    };
    onnx::from_proto(proto).unwrap()
}

#[test]
fn passes_that_do_not_exist_are_told_with_those_that_do() {
    let pass = || Box::new(Count(Rc::default()));
    for result in [compiler().skip("selekt"), compiler().add_after("selekt", pass()), compiler().skip("")] {
        let error = result.err().expect("an error");
        assert!(matches!(error, Error::UnknownPass { .. }) && error.exit_code() == 2);
        assert!(
            error.to_string().contains("canonicalize, select, quantize_head, quantize_activations"),
            "{error}"
        );
    }
    for name in Compiler::PASSES {
        assert!(compiler().skip(name).is_ok() && compiler().add_after(name, pass()).is_ok());
    }
}

#[test]
fn passes_are_skipped_and_added_in_bodies_too() {
    let quantized = |compiler: Compiler| {
        let (mut model, mut report) = (layer_in_a_body(), Report::default());
        compiler.quantize(&mut model, &mut report, &mut Silent).unwrap();
        report.layers.len()
    };
    assert_eq!(quantized(compiler()), 1);
    assert_eq!(quantized(compiler().skip("canonicalize").unwrap()), 0);
    let count = Rc::default();
    let counted = compiler().add_after("select", Box::new(Count(Rc::clone(&count)))).unwrap();
    assert_eq!(quantized(counted), 1);
    assert!(count.get() >= 3, "once in the main graph, and in each body: {}", count.get());
}
