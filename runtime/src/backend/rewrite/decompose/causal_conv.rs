//! `CausalConvWithState`: the steps before in front of the input, and a depthwise convolution.

use zqc_ir::op::attribute;

use super::parts::Parts;

/// Of one dimension, channels first, with a state of the steps before and a weight whose shape is known; any other stays.
pub fn decompose(parts: &mut Parts) -> Option<()> {
    let node = parts.node();
    let others = ["state_update_capacity", "state_window", "state_length", "channels_last", "input_channels"];
    if node.int_or("ndim", 1) != 1
        || others.iter().any(|name| parts.is_set(name))
        || parts.output(2).is_some()
    {
        return None;
    }
    let is_gated = match parts.string_of("activation").unwrap_or(b"none") {
        b"none" => false,
        b"silu" | b"swish" => true,
        _ => return None,
    };
    let (x, weight) = (parts.input(0)?, parts.input(1)?);
    let channels = parts.shape(weight)?.first().copied()??;
    let dilation = node.int_or("dilation", 1);
    // What the first step sees before it, by default nothing: (K - 1) dilation steps.
    let (one, factor) = (parts.ints(&[1]), parts.ints(&[dilation]));
    let taps = parts.length(weight, 2);
    let before = parts.op("Sub", &[&taps, &one], Vec::new());
    let before = parts.op("Mul", &[&before, &factor], Vec::new());
    let state = match parts.input(3) {
        Some(state) => state.to_string(),
        None => {
            let shape = parts.op("Shape", &[x], Vec::new());
            let rows = parts.part(&shape, 0, 2, 0);
            let shape = parts.concat(&[&rows, &before], 0);
            let zero = parts.float(0.0);
            parts.op("Expand", &[&zero, &shape], Vec::new())
        }
    };
    let steps = parts.concat(&[&state, x], 2);
    let attributes = vec![
        attribute::int("group", channels),
        attribute::ints("dilations", &[dilation]),
        attribute::ints("pads", &[0, 0]),
        attribute::ints("strides", &[1]),
    ];
    let inputs: Vec<&str> = [&steps, weight].into_iter().chain(parts.input(2)).collect();
    let mut y = parts.op("Conv", &inputs, attributes);
    if is_gated {
        let gate = parts.op("Sigmoid", &[&y], Vec::new());
        y = parts.op("Mul", &[&y, &gate], Vec::new());
    }
    parts.yield_as(0, &y);
    let start = parts.op("Neg", &[&before], Vec::new());
    let end = parts.ints(&[i64::from(i32::MAX)]);
    let last = parts.slice(&steps, &start, &end, 2, 1);
    parts.yield_as(1, &last);
    Some(())
}
