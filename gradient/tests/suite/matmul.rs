//! Matrix products.

use zqc_gradient::differentiate;
use zqc_ir::op::{Layout, Linear};
use zqc_ir::tensor::DataType;
use zqc_ir::{Op, PatchBuilder};
use zqc_runtime::Array;

use crate::differences::{check, check_body, dot, find, parse, random, run};

#[test]
fn products_of_any_ranks() {
    let shapes: [(&str, &str, [&[usize]; 2]); 13] = [
        ("2, 3", "3, 4", [&[2, 3], &[3, 4]]),
        ("s, 3", "3, 4", [&[2, 3], &[3, 4]]),
        ("b, s, 3", "3, 4", [&[2, 2, 3], &[3, 4]]),
        ("b, s, 3", "?, ?", [&[2, 2, 3], &[3, 4]]),
        ("2, 2, 3", "2, 3, 4", [&[2, 2, 3], &[2, 3, 4]]),
        ("2, 1, 2, 3", "3, 3, 4", [&[2, 1, 2, 3], &[3, 3, 4]]),
        ("2, 3", "b, 3, 4", [&[2, 3], &[2, 3, 4]]),
        ("2, s, t", "2, t, 4", [&[2, 2, 3], &[2, 3, 4]]),
        ("b, h, s, t", "h, t, 4", [&[2, 3, 2, 3], &[3, 3, 4]]),
        ("s, t", "b, t, 4", [&[2, 3], &[2, 3, 4]]),
        ("3", "3, 4", [&[3], &[3, 4]]),
        ("2, 3", "3", [&[2, 3], &[3]]),
        ("3", "3", [&[3], &[3]]),
    ];
    for (a, b, [shape_a, shape_b]) in shapes {
        let inputs = [("a", random(1, shape_a)), ("b", random(2, shape_b))];
        check_body("20", &format!("%a: f32[{a}], %b: f32[{b}]"), "%y = MatMul(%a, %b)", &inputs);
    }
    let inputs = [("a", random(1, &[2, 3])), ("b", random(2, &[3, 4]))];
    check_body("20", "%a: f32, %b: f32", "%y = MatMul(%a, %b)", &inputs);
    let inputs = [("a", random(1, &[3, 2, 2, 3])), ("b", random(2, &[2, 3, 4]))];
    check_body("20", "%a: f32, %b: f32[?, 3, 4]", "%y = MatMul(%a, %b)", &inputs);
    let inputs = [("a", random(1, &[3])), ("b", random(2, &[2, 3, 4]))];
    check_body("20", "%a: f32[3], %b: f32[2, 3, 4]", "%y = MatMul(%a, %b)", &inputs);
}

#[test]
fn gemm_in_all_layouts() {
    for (turn_a, turn_b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let a: &[usize] = if turn_a == 0 { &[2, 3] } else { &[3, 2] };
        let b: &[usize] = if turn_b == 0 { &[3, 4] } else { &[4, 3] };
        let inputs = [("a", random(1, a)), ("b", random(2, b)), ("c", random(3, &[4]))];
        let body = format!(
            "%y = Gemm(%a, %b, %c) {{alpha = 1.5, beta = 0.5, transA = {turn_a}, transB = {turn_b}}}"
        );
        check_body("13", "%a: f32[?, ?], %b: f32[?, ?], %c: f32[4]", &body, &inputs);
    }
}

/// A linear layer of ours in place of a product; weight and bias as they lie in the file.
#[test]
fn linear_layers_of_both_layouts() {
    for layout in [Layout::InputOutput, Layout::OutputInput] {
        let dims = if layout == Layout::InputOutput { "3, 2" } else { "2, 3" };
        let mut model = parse(&format!(
            "model ir_version=10 imports(20, placeholder=1)
            graph g (%x: f32[b, s, 3]) -> (%y) {{
              const %w: f32[{dims}] = dense<0.5, -1.0, 2.0, 0.25, 1.0, -0.75>
              const %c: f32[2] = dense<0.5, -0.5>
              %h = Tanh(%x)
              %y = placeholder::Linear(%h, %w, %c)
            }}"
        ));
        let value = |name| find(&model, name);
        let [x, w, c, h, y] = ["x", "w", "c", "h", "y"].map(value);
        let placeholder = model.graph.producer(y).unwrap();
        let mut patch = PatchBuilder::new(&model.graph);
        let layer = Linear {
            layer: "layer".to_string(),
            k: 3,
            n: 2,
            layout,
            alpha: 1.5,
            beta: 0.5,
            dtype: DataType::Float,
            origin: Vec::new(),
        };
        let mut change = patch.change_of(placeholder, "a linear layer");
        let inputs = [h, w, c].map(|value| Some(value.into()));
        change.node(Op::Linear(layer), inputs).replaces(placeholder);
        change.finish();
        patch.finish().apply(&mut model).unwrap();

        let gradient = differentiate(&model, y, &[x, w, c, h]).unwrap();
        assert_eq!(gradient.stopped, []);
        let inputs = vec![("x", random(1, &[2, 2, 3]))];
        let weights = random(2, &[2, 2, 2]);
        let fed = [inputs.clone(), vec![("y_gradient", weights.clone())]].concat();
        let wanted: Vec<_> = gradient.gradients.iter().map(|value| value.unwrap()).collect();
        let found = run(&gradient.model, &wanted, &fed);

        // The same layer in standard operators, with its constants as inputs.
        let product = match layout {
            Layout::InputOutput => "%p = MatMul(%h, %w)",
            Layout::OutputInput => "%t = Transpose(%w)\n%p = MatMul(%h, %t)",
        };
        let text = format!(
            "model ir_version=10 imports(20)
            graph g (%x: f32[b, s, 3], %w: f32[{dims}], %c: f32[2]) -> (%y) {{
              const %alpha: f32[] = dense<1.5>
              const %beta: f32[] = dense<0.5>
              %h = Tanh(%x)
              {product}
              %a = Mul(%p, %alpha)
              %d = Mul(%c, %beta)
              %y = Add(%a, %d)
            }}"
        );
        let constant = |value, dims: &[usize]| {
            let values = model.graph.constant(value).unwrap().to_f32().unwrap();
            zqc_runtime::Array::new(dims.to_vec(), values).unwrap()
        };
        let dims: &[usize] = if layout == Layout::InputOutput { &[3, 2] } else { &[2, 3] };
        let inputs = [inputs[0].clone(), ("w", constant(w, dims)), ("c", constant(c, &[2]))];
        let other = check(&text, &inputs);
        let fed = [inputs.to_vec(), vec![("y_gradient", weights)]].concat();
        let wanted: Vec<_> = other.gradients.iter().map(|value| value.unwrap()).collect();
        for (found, expected) in found.iter().zip(run(&other.model, &wanted, &fed)) {
            let (square, product) = (dot(&expected, &expected), dot(found, &expected));
            assert!((square - product).abs() < 1e-5 * square, "{layout:?}: {found:?} {expected:?}");
        }
    }
}

#[test]
fn quantized_layers_with_a_branch() {
    let body = "const %w: i8[4, 3] = dense<1, -2, 3, 4, 5, -6, 7, 8, -9, 10, 11, 12>
          const %scales: f32[4, 1] = dense<0.125, 0.25, 0.0625, 0.1>
          const %down: bf16[2, 3] = dense<0.5, -1.0, 2.0, 0.25, 1.0, -0.75>
          const %up: bf16[4, 2] = dense<1.0, -0.5, 0.25, 2.0, -1.0, 0.75, 0.5, 0.5>
          const %s: f32[2] = dense<0.5, -1.5>
          %h = Tanh(%x)
          %y = zqc.quantized_linear(%h, %w, %scales, _, _, %down, %up, %s) {layer = \"l\", k = 3, n = 4, format = \"int8\", group_size = 3, rank = 2, dtype = \"f32\"}";
    let inputs = [("x", random(1, &[2, 5, 3]))];
    check_body("20", "%x: f32[b, t, 3]", body, &inputs);
}

#[test]
fn the_rounding_of_an_activation_passes_the_gradient_as_it_comes() {
    let model = parse(
        "model ir_version=10 imports(20)
        graph g (%x: f32[t, 2]) -> (%y) {
          const %w: i8[2, 2] = dense<1, -2, 3, 4>
          const %scales: f32[2, 1] = dense<0.5, 0.25>
          %q = zqc.quantize_activation(%x) {format = \"e4m3\"}
          %y = zqc.quantized_linear(%q, %w, %scales) {layer = \"l\", k = 2, n = 2, format = \"int8\", group_size = 2, dtype = \"f32\"}
        }",
    );
    let [x, y] = ["x", "y"].map(|name| find(&model, name));
    let gradient = differentiate(&model, y, &[x]).unwrap();
    assert_eq!(gradient.stopped, []);
    let seed = &gradient.model.graph.value(gradient.output_gradient).name;
    let g = Array::new(vec![1, 2], vec![1.0f32, 10.0]).unwrap();
    let fed = [("x", random(1, &[1, 2])), (seed, g)];
    let found = run(&gradient.model, &[gradient.gradients[0].unwrap()], &fed).remove(0);
    // g times the rows [0.5, -1] and [0.75, 1].
    assert_eq!(found.as_f32().unwrap(), [8.0, 9.0]);
}
