//! `RelativePositionBias`: for every query and key a row of a table, by the logarithm of how far they are apart (T5, Raffel et al.,
//! arXiv 1910.10683).

use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::op::attribute;

use super::parts::Parts;

/// The table is `[buckets, heads]`, the result `[1, heads, queries, keys]`.
pub fn decompose(parts: &mut Parts) -> Option<()> {
    let table = parts.input(0)?;
    let farthest = parts.count_of("max_distance")?;
    let is_bidirectional = parts.is_set("is_bidirectional");
    let [queries, keys] = [1, 2].map(|at| parts.input(at));
    let [queries, keys] = [queries?, keys?].map(|count| {
        let count = parts.reshape(count, &[1]);
        let count = parts.cast(&count, DataType::Int64);
        parts.range(&count)
    });
    let (queries, keys) = (parts.unsqueeze(&queries, 1), parts.unsqueeze(&keys, 0));
    let ahead = parts.op("Sub", &[&keys, &queries], Vec::new());
    let (zero, two) = (parts.int(0), parts.int(2));
    let mut buckets = parts.length(table, 0);
    let behind = parts.op("Neg", &[&ahead], Vec::new());
    let (distance, side) = if is_bidirectional {
        buckets = parts.op("Div", &[&buckets, &two], Vec::new());
        let is_ahead = parts.op("Greater", &[&ahead, &zero], Vec::new());
        let distance = parts.op("Where", &[&is_ahead, &ahead, &behind], Vec::new());
        (distance, Some(parts.op("Where", &[&is_ahead, &buckets, &zero], Vec::new())))
    } else {
        let is_behind = parts.op("Greater", &[&behind, &zero], Vec::new());
        (parts.op("Where", &[&is_behind, &behind, &zero], Vec::new()), None)
    };
    // Half of the buckets are for one distance each, the others grow up to the farthest.
    let exact = parts.op("Div", &[&buckets, &two], Vec::new());
    let is_near = parts.op("Less", &[&distance, &exact], Vec::new());
    let [far, exact_float, buckets_float] =
        [&distance, &exact, &buckets].map(|x| parts.cast(x, DataType::Float));
    let farthest = parts.float(farthest as f32);
    let mut logarithm = |x: &str| {
        let ratio = parts.op("Div", &[x, &exact_float], Vec::new());
        // Near ones are not asked for.
        let one = parts.float(1.0);
        let ratio = parts.op("Max", &[&ratio, &one], Vec::new());
        parts.op("Log", &[&ratio], Vec::new())
    };
    let (far, whole) = (logarithm(&far), logarithm(&farthest));
    let share = parts.op("Div", &[&far, &whole], Vec::new());
    let growing = parts.op("Sub", &[&buckets_float, &exact_float], Vec::new());
    let bucket = parts.op("Mul", &[&share, &growing], Vec::new());
    let bucket = parts.cast(&bucket, DataType::Int64);
    let bucket = parts.op("Add", &[&bucket, &exact], Vec::new());
    let one = parts.int(1);
    let last = parts.op("Sub", &[&buckets, &one], Vec::new());
    let is_beyond = parts.op("Greater", &[&bucket, &last], Vec::new());
    let bucket = parts.op("Where", &[&is_beyond, &last, &bucket], Vec::new());
    let mut bucket = parts.op("Where", &[&is_near, &distance, &bucket], Vec::new());
    if let Some(side) = side {
        bucket = parts.op("Add", &[&bucket, &side], Vec::new());
    }
    let rows = parts.op("Gather", &[table, &bucket], vec![attribute::int("axis", 0)]);
    let bias = parts.transpose(&rows, &[2, 0, 1]);
    let bias = parts.unsqueeze(&bias, 0);
    parts.yield_as(0, &bias);
    Some(())
}
