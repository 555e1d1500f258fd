//! `FusedMatMul`: the transposes before `MatMul`, which broadcasts operands of different rank as it does, and a product with its
//! `alpha` behind it.

use zqc_ir::op::attribute;

use super::parts::Parts;

/// Those that swap batch dimensions stay. The attributes that transpose mean nothing to vectors.
pub fn decompose(parts: &mut Parts) -> Option<()> {
    if parts.is_set("transBatchA") || parts.is_set("transBatchB") {
        return None;
    }
    let mut operand = |at, flag| {
        let name = parts.input(at)?;
        if !parts.is_set(flag) || parts.is_vector(name) {
            return Some(name.to_string());
        }
        // `Transpose` would have to know the rank.
        Some(parts.op("Einsum", &[name], vec![attribute::string("equation", "...ij->...ji")]))
    };
    let (a, b) = (operand(0, "transA")?, operand(1, "transB")?);
    let product = match parts.is_vector(&b) {
        // rten's `MatMul` leaves an axis too many where it multiplies a stack by a vector.
        true => parts.op("Einsum", &[&a, &b], vec![attribute::string("equation", "...k,k->...")]),
        false => parts.op("MatMul", &[&a, &b], Vec::new()),
    };
    let alpha = parts.float(parts.node().float_or("alpha", 1.0));
    let scaled = parts.op("Mul", &[&product, &alpha], Vec::new());
    parts.yield_as(0, &scaled);
    Some(())
}
