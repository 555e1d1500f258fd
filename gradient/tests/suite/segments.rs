//! Where a decoder is cut.

use zqc_gradient::segments;

use crate::differences::{find, parse};

#[test]
fn a_decoder_is_cut_at_its_residual_stream() {
    let model = parse(
        "model ir_version=10 imports(20)
        graph g (%ids: i64[s], %mask: i64[s, s]) -> (%y) {
          const %table: f32[8, 4] = splat<0.5>
          const %w: f32[4, 4] = splat<0.25>
          %bias = Cast(%mask) {to = 1}
          %turned = Transpose(%w)
          %e = Gather(%table, %ids)
          %q = MatMul(%e, %turned)
          %k = Transpose(%e)
          %scores = MatMul(%q, %k)
          %masked = Add(%scores, %bias)
          %p = Softmax(%masked)
          %a = MatMul(%p, %e)
          %r1 = Add(%e, %a)
          %n = Tanh(%r1)
          %m = Mul(%n, %n)
          %r2 = Add(%r1, %m)
          %y = MatMul(%r2, %w)
        }",
    );
    let found = segments(&model, find(&model, "y")).unwrap();
    let names: Vec<&str> = found.iter().map(|&value| model.graph.value(value).name.as_str()).collect();
    assert_eq!(names, ["e", "r1", "r2", "y"]);
}

#[test]
fn what_nothing_floating_leads_to_has_no_segments() {
    let model = parse("model ir_version=10 imports(20)\ngraph g (%x: i64[2]) -> (%y) {\n%y = Neg(%x)\n}");
    assert_eq!(segments(&model, find(&model, "y")).unwrap(), []);
}
