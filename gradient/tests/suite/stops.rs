//! Where gradients stop, and what is refused.

use zqc_gradient::{GradientError, Stopped, differentiate};
use zqc_ir::ValueId;

use crate::differences::{find, parse};

#[test]
fn an_operator_without_a_rule_stops_the_gradient_and_is_named() {
    let model = parse(
        "model ir_version=10 imports(20)
        graph g (%x: f32[2, 3]) -> (%y) {
          %h = Tanh(%x)
          %c = Acos(%h) @odd
          %s = Sigmoid(%x)
          %y = Add(%c, %s)
        }",
    );
    let [y, c, h, x] = ["y", "c", "h", "x"].map(|name| find(&model, name));
    let gradient = differentiate(&model, y, &[c, h, x]).unwrap();
    let stopped = Stopped {
        node: "Acos \"odd\"".to_string(),
        op_type: "Acos".to_string(),
        reason: "no rule is written for its operator",
    };
    assert_eq!(gradient.stopped, [stopped]);
    let exist: Vec<bool> = gradient.gradients.iter().map(Option::is_some).collect();
    assert_eq!(exist, [true, false, true], "the part by way of Sigmoid comes as far as x");
    assert_eq!(gradient.model.graph.outputs().len(), 2);
}

#[test]
fn integers_and_shapes_have_no_gradient_and_stop_none() {
    let model = parse(
        "model ir_version=10 imports(20)
        graph g (%ids: i64[b, s]) -> (%y) {
          const %table: f32[8, 4] = splat<0.5>
          const %tail: i64[1] = dense<2>
          const %two: i64[1] = dense<2>
          %e = Gather(%table, %ids)
          %shape = Shape(%ids)
          %wanted = Concat(%shape, %two, %tail) {axis = 0}
          %heads = Reshape(%e, %wanted)
          %length = Cast(%wanted) {to = 1}
          %sum = ReduceSum(%length) {keepdims = 0}
          %y = Mul(%heads, %sum)
        }",
    );
    let [y, e] = ["y", "e"].map(|name| find(&model, name));
    let gradient = differentiate(&model, y, &[e]).unwrap();
    assert_eq!(gradient.stopped, []);
    let names = |values: &[ValueId]| -> Vec<String> {
        values.iter().map(|&value| gradient.model.graph.value(value).name.clone()).collect()
    };
    assert_eq!(names(gradient.model.graph.outputs()), ["e_gradient"]);
    assert_eq!(names(gradient.model.graph.inputs()), ["ids", "y_gradient"]);
}

#[test]
fn control_flow_and_functions_stop_it() {
    let model = parse(
        "model ir_version=10 imports(20, local=1)
        function local::Twice (%a) -> (%b) imports(20) {
          %b = Add(%a, %a)
        }
        graph g (%x: f32[2], %c: bool[]) -> (%y) {
          %t = local::Twice(%x) @call
          %i = If(%c) {
            then_branch = graph yes () -> (%r: f32[2]) { %r = Neg(%x) },
            else_branch = graph no () -> (%q: f32[2]) { %q = Tanh(%x) }
          } @choice
          %y = Add(%t, %i)
        }",
    );
    let [y, x] = ["y", "x"].map(|name| find(&model, name));
    let gradient = differentiate(&model, y, &[x]).unwrap();
    let mut stopped: Vec<&str> = gradient.stopped.iter().map(|stopped| stopped.node.as_str()).collect();
    stopped.sort_unstable();
    assert_eq!(stopped, ["If \"choice\"", "Twice \"call\""]);
    assert_eq!(gradient.gradients, [None]);
}

#[test]
fn the_output_itself_and_a_value_twice_may_be_asked_for() {
    let model = parse(
        "model ir_version=10 imports(20)\ngraph g (%x: f32[2]) -> (%y) {\n%h = Identity(%x)\n%y = Add(%h, %h)\n}",
    );
    let [y, h] = ["y", "h"].map(|name| find(&model, name));
    let gradient = differentiate(&model, y, &[y, h, h]).unwrap();
    assert_eq!(gradient.model.graph.outputs().len(), 3);
    let distinct: std::collections::HashSet<_> = gradient.gradients.iter().collect();
    assert_eq!(distinct.len(), 3);
    zqc_ir::onnx::to_proto(&gradient.model).unwrap();
}

#[test]
fn what_has_no_gradient_is_refused() {
    let text = |opset| {
        format!(
            "model ir_version=10 imports({opset})\ngraph g (%x: f32[2], %i: i64[2]) -> (%y) {{\n%y = Neg(%x)\n}}"
        )
    };
    let model = parse(&text(20));
    let [x, y, i] = ["x", "y", "i"].map(|name| find(&model, name));
    assert!(
        matches!(differentiate(&model, y, &[i]), Err(GradientError::NotFloat { value, .. }) if value == "i")
    );
    assert!(matches!(differentiate(&model, i, &[x]), Err(GradientError::NotFloat { .. })));
    let model = parse(&text(12));
    assert_eq!(differentiate(&model, y, &[x]).unwrap_err(), GradientError::Opset { found: 12 });
}
