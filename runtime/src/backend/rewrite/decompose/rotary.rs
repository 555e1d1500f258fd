//! Rotary position embedding.

use super::parts::Parts;

/// Turns the first features of `x` `[B, heads, S, D]`, twice as many as the tables `[positions, R]` have columns, by the rows
/// of the tables at `positions` `[B, S]`. Partners lie side by side where they are `interleaved`, else half a rotation apart.
pub fn rotate(
    parts: &mut Parts,
    x: &str,
    positions: &str,
    [cos, sin]: [&str; 2],
    interleaved: bool,
) -> String {
    let half = parts.length(cos, 1);
    let [cos, sin] = [cos, sin].map(|table| {
        let rows = parts.op("Gather", &[table, positions], Vec::new());
        parts.unsqueeze(&rows, 1)
    });
    let (zero, one, end) = (parts.ints(&[0]), parts.ints(&[1]), parts.ints(&[i64::from(i32::MAX)]));
    let turned = parts.op("Add", &[&half, &half], Vec::new());
    let (a, b) = match interleaved {
        true => (parts.slice(x, &zero, &turned, 3, 2), parts.slice(x, &one, &turned, 3, 2)),
        false => (parts.slice(x, &zero, &half, 3, 1), parts.slice(x, &half, &turned, 3, 1)),
    };
    let mut turn = |a: &str, b: &str, op_type: &str| {
        let (a, b) = (parts.op("Mul", &[a, &cos], Vec::new()), parts.op("Mul", &[b, &sin], Vec::new()));
        parts.op(op_type, &[&a, &b], Vec::new())
    };
    let (a, b) = (turn(&a, &b, "Sub"), turn(&b, &a, "Add"));
    let rest = parts.slice(x, &turned, &end, 3, 1);
    if !interleaved {
        return parts.concat(&[&a, &b, &rest], 3);
    }
    let (a, b) = (parts.unsqueeze(&a, 4), parts.unsqueeze(&b, 4));
    let pairs = parts.concat(&[&a, &b], 4);
    let pairs = parts.reshape(&pairs, &[0, 0, 0, -1]);
    parts.concat(&[&pairs, &rest], 3)
}
