//! Errors.

use super::*;

in_every_backend! {
    errors_name_what_is_wrong
    weights_of_the_wrong_length_are_refused
}

#[test]
fn a_back_end_of_another_name_is_an_error() {
    let error = backend("tpu", None).err().unwrap().to_string();
    assert!(["\"tpu\"", "auto", "rten", "ort"].iter().all(|word| error.contains(word)), "{error}");
}

fn errors_name_what_is_wrong(backend: &dyn Backend) {
    let x = Array::new(vec![1, 2], vec![1f32, 2.0]).unwrap();
    let wide = Array::new(vec![1, 3], vec![0f32; 3]).unwrap();
    let linear = linear(DataType::Float, f32_bytes(&W), f32_bytes(&B));
    let run = |feeds: &[(&str, &Array)], fetch| run(backend, &linear, feeds, fetch).unwrap_err();
    assert!(matches!(run(&[("w", &x)], "y"), BackendError::UnknownInput { name } if name == "w"));
    assert!(matches!(run(&[("x", &x)], "xw"), BackendError::UnknownOutput { name } if name == "xw"));
    assert!(matches!(run(&[("x", &wide)], "y"), BackendError::Run { .. }));
    assert!(matches!(run(&[], "y"), BackendError::Run { .. }));
}

#[test]
fn an_unknown_operator_is_named() {
    let unknown = subgraph(GraphProto {
        input: vec![value("x", DataType::Float)],
        output: vec![value("y", DataType::Float)],
        node: vec![node("Frobnicate", &["x"], &["y"])],
        ..Default::default()
    });
    let rten = backend("rten", None).unwrap();
    match rten.load(&unknown).err().unwrap() {
        BackendError::UnsupportedNode { node, op_type, .. } => {
            assert_eq!((node.as_str(), op_type.as_str()), ("Frobnicate(y)", "Frobnicate"));
        }
        other => panic!("{other}"),
    }
}

fn weights_of_the_wrong_length_are_refused(backend: &dyn Backend) {
    let short = linear(DataType::Float, vec![0; 12], f32_bytes(&B));
    assert!(matches!(backend.load(&short), Err(BackendError::Load { .. })));
    let mut huge = linear(DataType::Float, vec![0; 4096], f32_bytes(&B));
    huge.model.graph.as_mut().unwrap().initializer[0].dims = vec![1 << 40, 1 << 40];
    assert!(matches!(backend.load(&huge), Err(BackendError::Load { .. })));
}

#[test]
fn a_panic_inside_rten_is_an_error() {
    let shape = i64::from(i32::MAX).to_le_bytes().repeat(2);
    let absurd = subgraph(GraphProto {
        output: vec![value("y", DataType::Float)],
        initializer: vec![tensor("shape", DataType::Int64, &[2], shape)],
        node: vec![node("ConstantOfShape", &["shape"], &["y"])],
        ..Default::default()
    });
    let error = run(&*backend("rten", None).unwrap(), &absurd, &[], "y").unwrap_err();
    assert!(error.to_string().contains("it panicked: capacity overflow"), "{error}");
}
