//! The operators that quantize an activation token by token and yield it in float32 again.

use zqc_formats::{ActivationFormat, Format, SCALE_FLOOR};
use zqc_ir::op::attribute::{float, int, ints};
use zqc_ir::tensor::DataType;
use zqc_ir::{ChangeBuilder, NodeId, ValueId, ValueRef};

use super::Shared;

/// Quantizes and dequantizes the float32 activation `x` `[..., K]`; the result is `quantized`, which the node `id` yielded and
/// after which what is between is called.
pub(super) fn quantize(
    change: &mut ChangeBuilder,
    shared: &mut Shared,
    x: ValueRef,
    quantized: ValueId,
    id: NodeId,
    format: ActivationFormat,
    k: usize,
) {
    let name = &change.graph().value(quantized).name;
    let mut operators = Operators { change, shared, name };
    let parameters = match format.float() {
        Some(float) => vec![operators.float_scales(&x, float)],
        None => operators.integer_scales(&x),
    };
    // A block is a whole token: the scales have one column.
    let blocks = [int("axis", -1), int("block_size", k as i64)];
    let output_dtype =
        format.float().map(|float| int("output_dtype", zqc_ir::operands::codes_dtype(float) as i64));
    let inputs = |first| [first].into_iter().chain(parameters.iter().cloned());
    let codes = change.op("QuantizeLinear", inputs(x)).with(blocks.clone()).with(output_dtype);
    let codes = codes.output_named(&format!("{name}_codes"));
    let values = change.op("DequantizeLinear", inputs(codes)).with(blocks).in_place_of(id);
    values.defines([Some(quantized.into())]);
}

/// Writes the operators that yield scales and zero points `[..., 1]`.
struct Operators<'c, 'p, 'g> {
    change: &'c mut ChangeBuilder<'p, 'g>,
    shared: &'c mut Shared,
    name: &'g str,
}

impl Operators<'_, '_, '_> {
    fn op<const N: usize>(&mut self, op_type: &str, inputs: [&ValueRef; N], part: &str) -> ValueRef {
        let op = self.change.op(op_type, inputs.map(ValueRef::clone));
        op.output_named(&format!("{}_{part}", self.name))
    }

    fn reduce(&mut self, op_type: &str, x: &ValueRef, part: &str) -> ValueRef {
        let axis = self.last_axis();
        let op = self.change.op(op_type, [x.clone(), axis]).with([int("keepdims", 1)]);
        op.output_named(&format!("{}_{part}", self.name))
    }

    fn last_axis(&mut self) -> ValueRef {
        self.shared.constant(self.change, "last_axis", ints("value_ints", &[-1]))
    }

    fn scalar(&mut self, name: &str, value: f32) -> ValueRef {
        self.shared.constant(self.change, name, float("value_float", value))
    }

    /// The scales of a floating-point format.
    fn float_scales(&mut self, x: &ValueRef, format: Format) -> ValueRef {
        self.last_axis();
        let largest_code = self.scalar(&format!("largest_{format}"), format.max());
        let magnitude = self.op("Abs", [x], "magnitude");
        let peak = self.reduce("ReduceMax", &magnitude, "peak");
        let scale = self.op("Div", [&peak, &largest_code], "unfloored");
        self.at_least_floor(&scale)
    }

    /// The scales and the zero points of 8-bit integers.
    fn integer_scales(&mut self, x: &ValueRef) -> Vec<ValueRef> {
        self.last_axis();
        let zero = self.scalar("zero", 0.0);
        let last_code = self.scalar("last_code", u8::MAX.into());
        let least = self.reduce("ReduceMin", x, "least");
        let low = self.op("Min", [&least, &zero], "low");
        let largest = self.reduce("ReduceMax", x, "largest");
        let high = self.op("Max", [&largest, &zero], "high");
        let range = self.op("Sub", [&high, &low], "range");
        let scale = self.op("Div", [&range, &last_code], "unfloored");
        let scales = self.at_least_floor(&scale);
        let below_zero = self.op("Neg", [&low], "below_zero");
        let unrounded = self.op("Div", [&below_zero, &scales], "unrounded");
        let rounded = self.op("Round", [&unrounded], "rounded");
        let cast = self.change.op("Cast", [rounded]).with([int("to", DataType::Uint8 as i64)]);
        vec![scales, cast.output_named(&format!("{}_zero_points", self.name))]
    }

    fn at_least_floor(&mut self, scale: &ValueRef) -> ValueRef {
        let floor = self.scalar("scale_floor", SCALE_FLOOR);
        self.op("Max", [scale, &floor], "scales")
    }
}
