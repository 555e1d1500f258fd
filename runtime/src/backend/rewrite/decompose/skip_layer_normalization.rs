//! `SkipLayerNormalization` and `SkipSimplifiedLayerNormalization`: a sum, and the normalization of it.

use zqc_ir::op::attribute;

use super::parts::Parts;

/// Sum, normalization, and the statistics that the operator yields where they are asked for.
pub fn decompose(parts: &mut Parts) -> Option<()> {
    let is_simplified = parts.node().op_type() == "SkipSimplifiedLayerNormalization";
    let (x, skip, gamma) = (parts.input(0)?, parts.input(1)?, parts.input(2)?);
    let (beta, bias) = if is_simplified { (None, parts.input(3)) } else { (parts.input(3), parts.input(4)) };
    let mut sum = parts.op("Add", &[x, skip], Vec::new());
    if let Some(bias) = bias {
        sum = parts.op("Add", &[&sum, bias], Vec::new());
    }
    let epsilon = parts.node().float_or("epsilon", 1e-12);
    let attributes = vec![attribute::int("axis", -1), attribute::float("epsilon", epsilon)];
    let op_type = if is_simplified { "SimplifiedLayerNormalization" } else { "LayerNormalization" };
    let inputs: Vec<&str> = [&sum, gamma].into_iter().chain(beta).collect();
    let normal = parts.op(op_type, &inputs, attributes);
    parts.yield_as(0, &normal);
    parts.yield_as(3, &sum);
    if parts.output(1).is_some() || parts.output(2).is_some() {
        let mean = parts.reduce("ReduceMean", &sum, -1, true);
        let centred = if is_simplified { sum } else { parts.op("Sub", &[&sum, &mean], Vec::new()) };
        let squares = parts.op("Mul", &[&centred, &centred], Vec::new());
        let variance = parts.reduce("ReduceMean", &squares, -1, true);
        let epsilon = parts.float(epsilon);
        let variance = parts.op("Add", &[&variance, &epsilon], Vec::new());
        let deviation = parts.op("Sqrt", &[&variance], Vec::new());
        let inverse = parts.op("Reciprocal", &[&deviation], Vec::new());
        parts.yield_as(1, &mean);
        parts.yield_as(2, &inverse);
    }
    Some(())
}
