//! `CausalConvWithState`, `MatMulNBits` and `BiasSplitGelu`.

use super::*;

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn causal_convolutions_with_a_state() {
    for (activation, dilation) in [("none", 1), ("silu", 1), ("none", 2)] {
        let case = || {
            Case::new(
                "CausalConvWithState",
                vec![attribute::string("activation", activation), int("dilation", dilation)],
            )
            .giving(&["y", "state"])
            .with(floats(&[BATCH, 6, 5], 1))
            .with(floats(&[6, 1, 4], 2))
        };
        let check = |case: Case| {
            let expected = case.run("ort", 21, &[]);
            for (found, expected) in case.rten().iter().zip(&expected) {
                close(found, expected, activation);
            }
        };
        check(case().with(floats(&[6], 3)).with(floats(&[BATCH, 6, 3 * dilation], 4)));
        check(case());
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn products_with_weights_of_a_byte() {
    let bytes = |shape: &[usize], seed| {
        let values = floats(shape, seed)
            .as_f32()
            .unwrap()
            .iter()
            .map(|x| ((x + 1.0) * 127.0) as u8)
            .collect::<Vec<u8>>();
        Array::new(shape.to_vec(), values).unwrap()
    };
    let (n, k, size) = (6, 40, 16);
    let attributes = vec![int("N", n), int("K", k), int("block_size", size), int("bits", 8)];
    let case = || {
        Case::new("MatMulNBits", attributes.clone())
            .with(floats(&[BATCH, 3, k], 1))
            .with(bytes(&[n, 3, size], 2))
            .with(floats(&[n, 3], 3))
    };
    case().check();
    case().with(bytes(&[n, 3], 4)).without().with(floats(&[n], 5)).check();
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn halves_of_features_that_gate_each_other() {
    Case::new("BiasSplitGelu", vec![]).with(floats(&[1, 4, 2560], 1)).with(floats(&[2560], 2)).check();
}
