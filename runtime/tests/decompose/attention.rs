//! `Attention`, `MultiHeadAttention` and `RelativePositionBias`.

use super::*;

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn attention_with_its_projections() {
    let hidden = HEADS * WIDTH;
    let case = |attributes: Vec<AttributeProto>| {
        Case::new("Attention", [vec![int("num_heads", HEADS)], attributes].concat())
            .with(floats(&[BATCH, 5, 16], 1))
            .with(floats(&[16, 3 * hidden], 2))
            .with(floats(&[3 * hidden], 3))
    };
    case(vec![]).check();
    case(vec![int("unidirectional", 1), attribute::float("scale", 0.3)]).check();
    case(vec![]).with(int32(&[BATCH], &[5, 3])).check();
    let seen = [1, 1, 1, 1, 1, 1, 1, 1, 0, 0];
    case(vec![]).with(int32(&[BATCH, 5], &seen)).check();
    let rows: Vec<i32> = (0..BATCH * 25).map(|at| i32::from(at % 25 % 5 <= at % 25 / 5)).collect();
    case(vec![]).with(int32(&[BATCH, 5, 5], &rows)).check();
    case(vec![]).with(int32(&[BATCH, 5], &seen)).without().with(floats(&[BATCH, HEADS, 5, 5], 4)).check();
    let past = floats(&[2, BATCH, HEADS, 3, WIDTH], 5);
    case(vec![int("unidirectional", 1)]).without().with(past).giving(&["y", "present"]).check();
    // Values of another width than keys.
    let sizes = attribute::ints("qkv_hidden_sizes", &[64, 64, 16]);
    let mut narrow = case(vec![sizes]);
    narrow.inputs[1] = Some(floats(&[16, 144], 6));
    narrow.inputs[2] = Some(floats(&[144], 7));
    narrow.check();
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn heads_of_keys_that_are_split_already() {
    let hidden = HEADS * WIDTH;
    let query = || {
        Case::new("MultiHeadAttention", vec![int("num_heads", HEADS)]).with(floats(&[BATCH, 5, hidden], 1))
    };
    let keys = |seed| floats(&[BATCH, HEADS, 7, WIDTH], seed);
    query().with(keys(2)).with(keys(3)).check();
    query().with(keys(2)).with(keys(3)).with(floats(&[3 * hidden], 4)).check_bias();
    query().with(floats(&[BATCH, 7, HEADS, 2, WIDTH], 5)).check();
    // The number of keys that count.
    let plain = |seed| floats(&[BATCH, 7, hidden], seed);
    query().with(plain(2)).with(plain(3)).without().with(int32(&[BATCH], &[7, 4])).check();
}

impl Case {
    /// Only queries have a bias where keys and values come from elsewhere.
    fn check_bias(mut self) {
        if let Some(ArrayData::F32(bias)) = self.inputs[3].as_ref().map(|bias| &bias.data) {
            let mut bias = bias.to_vec();
            let hidden = HEADS * WIDTH;
            bias[hidden..].fill(0.0);
            self.inputs[3] = Some(Array::new(vec![3 * hidden], bias).unwrap());
        }
        self.check();
    }
}

/// The bucket of a key that is `ahead` of a query: the definition of T5.
fn bucket(ahead: i64, mut buckets: i64, farthest: i64, is_bidirectional: bool) -> i64 {
    let mut side = 0;
    let mut distance = (-ahead).max(0);
    if is_bidirectional {
        buckets /= 2;
        side = if ahead > 0 { buckets } else { 0 };
        distance = ahead.abs();
    }
    let exact = buckets / 2;
    if distance < exact {
        return side + distance;
    }
    let share = (distance as f32 / exact as f32).ln() / (farthest as f32 / exact as f32).ln();
    side + (exact + (share * (buckets - exact) as f32) as i64).min(buckets - 1)
}

#[test]
fn biases_by_relative_position() {
    let (buckets, heads, length) = (8, 3, 40);
    let table = floats(&[buckets, heads], 1);
    for is_bidirectional in [false, true] {
        let attributes = vec![int("max_distance", 20), int("is_bidirectional", is_bidirectional.into())];
        let case = Case::new("RelativePositionBias", attributes)
            .with(table.clone())
            .with(scalar(length))
            .with(scalar(length));
        let found = case.run("rten", 21, &[]).swap_remove(0);
        assert_eq!(found, case.run("rten", 11, &[]).swap_remove(0));
        assert_eq!(found.shape, [1, heads, 40, 40]);
        for (at, &found) in found.as_f32().unwrap().iter().enumerate() {
            let at = at as i64;
            let (head, query, key) = (at / (length * length), at / length % length, at % length);
            let row = bucket(key - query, buckets as i64, 20, is_bidirectional) as usize;
            assert_eq!(found, table.as_f32().unwrap()[row * heads + head as usize], "{query} {key}");
        }
    }
}
