//! `GroupQueryAttention`.

use super::*;

/// Attention of grouped queries to `given` keys after a cache that holds `cached` of `capacity` keys.
fn grouped(
    batch: usize,
    queries: usize,
    given: usize,
    [cached, capacity]: [usize; 2],
    attributes: Vec<AttributeProto>,
) -> Case {
    let heads = [int("num_heads", HEADS), int("kv_num_heads", GROUPS), int("do_rotary", 1)];
    let past = [batch, GROUPS, capacity, WIDTH];
    let total = (cached + given) as i32;
    Case::new("GroupQueryAttention", heads.into_iter().chain(attributes).collect())
        .giving(&["y", "present_key", "present_value"])
        .with(floats(&[batch, queries, HEADS * WIDTH], 1))
        .with(floats(&[batch, given, GROUPS * WIDTH], 2))
        .with(floats(&[batch, given, GROUPS * WIDTH], 3))
        .with(floats(&past, 4))
        .with(floats(&past, 5))
        .with(int32(&[batch], &vec![total - 1; batch]))
        .with(int32(&[], &[total]))
        .with(floats(&[32, WIDTH / 2], 6))
        .with(floats(&[32, WIDTH / 2], 7))
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn grouped_queries_with_a_sink() {
    let sink = |case: Case| case.without().without().with(floats(&[HEADS], 8));
    sink(grouped(BATCH, 5, 5, [0, 0], vec![])).check();
    sink(grouped(1, 3, 3, [4, 4], vec![])).check();
    sink(grouped(BATCH, 1, 1, [4, 4], vec![int("local_window_size", 3)])).check();
    let others = || {
        vec![int("rotary_interleaved", 1), attribute::float("softcap", 2.0), attribute::float("scale", 0.5)]
    };
    sink(grouped(BATCH, 6, 6, [0, 0], [others(), vec![int("local_window_size", 2)]].concat())).check();
    grouped(BATCH, 5, 5, [0, 0], vec![int("smooth_softmax", 1)]).check();
}

/// Of a layer that has no keys of its own.
#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn grouped_queries_to_the_cache_of_another_layer() {
    grouped(1, 2, 0, [6, 6], vec![]).check();
    grouped(1, 1, 0, [6, 8], vec![int("local_window_size", 3)]).check_result();
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn grouped_queries_packed_with_a_sink() {
    let mut case = grouped(BATCH, 5, 5, [0, 0], vec![]).without().without().with(floats(&[HEADS], 8));
    case.inputs[0] = Some(floats(&[BATCH, 5, (HEADS + 2 * GROUPS) * WIDTH], 9));
    (case.inputs[1], case.inputs[2]) = (None, None);
    case.check();
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn a_prompt_to_a_cache_that_is_as_long_as_the_window() {
    for length in [3, 6, 9] {
        let attributes = vec![int("local_window_size", 4), int("sliding_window_cache", 1)];
        grouped(1, length, length, [0, 6], attributes).check_result();
    }
}

impl Case {
    /// As [`Case::check`]; the caches, which are of another length, are not compared.
    fn check_result(self) {
        let expected = self.run("ort", 21, &[]).swap_remove(0);
        let found = self.run("rten", 21, &[]).swap_remove(0);
        close(&found, &expected, self.op_type);
    }
}

/// Each head of `[B, T, heads WIDTH]` divided by the root of the mean of its squares, times a weight.
fn normalized(x: &Array, weight: &Array, epsilon: f32) -> Array {
    let values = x.as_f32().unwrap().chunks_exact(WIDTH).flat_map(|head| {
        let squares: f32 = head.iter().map(|x| x * x).sum();
        let root = (squares / WIDTH as f32 + epsilon).sqrt();
        head.iter()
            .zip(weight.as_f32().unwrap())
            .map(move |(x, weight)| x / root * weight)
            .collect::<Vec<f32>>()
    });
    Array::new(x.shape.clone(), values.collect::<Vec<f32>>()).unwrap()
}

/// ONNX Runtime's CPU does not normalize queries and keys in the operator.
#[test]
fn grouped_queries_that_are_normalized() {
    let plain = || grouped(BATCH, 5, 5, [0, 0], vec![]);
    let weights = [floats(&[WIDTH], 10), floats(&[WIDTH], 11)];
    let mut normal = plain();
    for (input, weight) in normal.inputs.iter_mut().zip(&weights) {
        *input = input.as_ref().map(|x| normalized(x, weight, 1e-3));
    }
    let mut case = plain();
    case.attributes.push(attribute::float("qk_norm_epsilon", 1e-3));
    case.inputs.resize(14, None);
    case.inputs.extend(weights.map(Some));
    for (found, expected) in case.rten().iter().zip(&normal.rten()) {
        close(found, expected, "normalized");
    }
}
