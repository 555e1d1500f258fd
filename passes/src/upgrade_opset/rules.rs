//! What changed from opset to opset.

use zqc_ir::onnx::proto::{AttributeProto, NodeProto};
use zqc_ir::op::{attribute, is_standard};

use super::Upgrade;
use crate::pass::PassError;

/// The oldest opset that the table leads on from.
pub(super) const OLDEST: i64 = 11;
/// The newest opset that it leads to.
pub(super) const NEWEST: i64 = 24;

/// How a node is adapted to a change of its operator.
enum Rule {
    /// The attribute is removed.
    Drop(&'static str),
    /// The attribute, a list of integers, becomes the second input.
    ToInput(&'static str),
    /// The attribute `axis`, 1 by default, becomes the third input.
    AxisToInput,
    /// What was the default of the attribute is written down.
    Spell(&'static str, &'static str),
    /// The number of outputs is written down when no second input tells the sizes of the parts.
    CountParts,
    /// The axes from attribute `axis` on were taken as one.
    FlattenAxes,
    /// Values of the attribute got other names: pairs of the old and the new one.
    Rename(&'static str, &'static [(&'static str, &'static str)]),
    /// A value of the attribute was withdrawn.
    Withdrawn(&'static str, &'static str),
    /// The outputs after the first were redefined.
    FirstOutputOnly,
    /// Nodes whose attribute is not 0 were redefined.
    ZeroOnly(&'static str),
    /// The operator was redefined.
    Redefined,
}

/// A change of some standard operators.
pub(super) struct Change {
    /// The opset that brought it.
    pub(super) since: i64,
    operators: &'static [&'static str],
    rule: Rule,
}

/// Every change, oldest first.
pub(super) static CHANGES: [Change; 13] = [
    change(12, &["Dropout"], Rule::Drop("ratio")),
    change(13, &["Squeeze", "Unsqueeze", "ReduceSum"], Rule::ToInput("axes")),
    change(13, &["Split"], Rule::ToInput("split")),
    change(13, &["Softmax", "LogSoftmax", "Hardmax"], Rule::FlattenAxes),
    change(13, &["Resize"], Rule::Withdrawn("coordinate_transformation_mode", "tf_half_pixel_for_nn")),
    change(14, &["BatchNormalization"], Rule::FirstOutputOnly),
    change(16, &["RoiAlign"], Rule::Spell("coordinate_transformation_mode", "output_half_pixel")),
    change(18, &REDUCTIONS, Rule::ToInput("axes")),
    change(18, &["Split"], Rule::CountParts),
    change(20, &["DFT"], Rule::AxisToInput),
    change(20, &["GridSample"], Rule::Rename("mode", &[("bilinear", "linear"), ("bicubic", "cubic")])),
    change(21, &["GroupNormalization"], Rule::Redefined),
    change(22, &["AveragePool", "MaxPool"], Rule::ZeroOnly("ceil_mode")),
];

const REDUCTIONS: [&str; 9] = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
];

const fn change(since: i64, operators: &'static [&'static str], rule: Rule) -> Change {
    Change { since, operators, rule }
}

/// A node and those that came to stand around it.
pub(super) struct Adapted {
    pub(super) before: Vec<NodeProto>,
    pub(super) node: NodeProto,
    pub(super) after: Vec<NodeProto>,
}

impl Change {
    /// Whether it is a change of the operator of `node`.
    pub(super) fn is_of(&self, node: &NodeProto) -> bool {
        is_standard(node.domain()) && self.operators.contains(&node.op_type())
    }

    /// Adapts the node to the change.
    pub(super) fn apply(&self, upgrade: &Upgrade, adapted: &mut Adapted) -> Result<(), PassError> {
        let node = &mut adapted.node;
        let refused = |what: String| {
            Err(PassError::Unsupported {
                what: format!("{} \"{}\" {what} since opset {}", node.op_type(), node.name(), self.since),
                way_out: format!("export the model in opset {}", upgrade.to),
            })
        };
        match self.rule {
            Rule::Drop(name) => drop(take(node, name)),
            Rule::ToInput(name) => adapted.before.extend(attribute_to_input(upgrade, node, name)),
            Rule::AxisToInput => adapted.before.push(axis_to_input(upgrade, node)),
            Rule::Spell(name, value) => node.attribute.push(attribute::string(name, value)),
            Rule::CountParts => {
                if node.input.get(1).is_none_or(String::is_empty) {
                    node.attribute.push(attribute::int("num_outputs", node.output.len() as i64));
                }
            }
            Rule::FlattenAxes => flatten_axes(upgrade, adapted),
            Rule::Rename(name, names) => {
                if node.find_attribute(name).is_some_and(is_reference) {
                    return refused(format!("takes a {name} from its caller, whose values have other names"));
                }
                rename(node, name, names);
            }
            Rule::Withdrawn(name, value) => {
                if node.find_attribute(name).is_some_and(|mode| mode.s() == value.as_bytes()) {
                    return refused(format!("has a {name} that is gone, {value},"));
                }
            }
            Rule::FirstOutputOnly => {
                if node.output.iter().skip(1).any(|output| !output.is_empty()) {
                    return refused("has outputs of training, which mean something else".to_string());
                }
            }
            Rule::ZeroOnly(name) => {
                if node.find_attribute(name).is_some_and(|value| is_reference(value) || value.i() != 0) {
                    return refused(format!("has a {name}, which means something else"));
                }
            }
            Rule::Redefined => return refused("means something else".to_string()),
        }
        Ok(())
    }
}

/// Makes the list `name` the second input of `node`; yields the constant that holds it.
fn attribute_to_input(upgrade: &Upgrade, node: &mut NodeProto, name: &str) -> Option<NodeProto> {
    let list = take(node, name)?;
    let constant = upgrade.name_beside(node, name);
    node.input.resize(1, String::new());
    node.input.push(constant.clone());
    let value = AttributeProto { name: Some("value_ints".to_string()), ..list };
    Some(standard("Constant", vec![], constant, vec![value]))
}

/// Makes the attribute `axis` the third input of `node`; yields the constant that holds it.
fn axis_to_input(upgrade: &Upgrade, node: &mut NodeProto) -> NodeProto {
    let axis = take(node, "axis").unwrap_or_else(|| attribute::int("axis", 1));
    let constant = upgrade.name_beside(node, "axis");
    node.input.resize(2, String::new());
    node.input.push(constant.clone());
    let value = AttributeProto { name: Some("value_int".to_string()), ..axis };
    standard("Constant", vec![], constant, vec![value])
}

/// Makes a softmax over all axes from `axis` on one over the last axis, which is the same where that is `axis`.
fn flatten_axes(upgrade: &Upgrade, Adapted { before, node, after }: &mut Adapted) {
    let axis = take(node, "axis").unwrap_or_else(|| attribute::int("axis", 1));
    node.attribute.push(attribute::int("axis", -1));
    let rank = node.input.first().and_then(|x| (upgrade.rank)(x));
    let last = axis.i() == -1 || rank.is_some_and(|rank| axis.i() == rank as i64 - 1);
    if last && !is_reference(&axis) {
        return;
    }
    let [shape, flat, result] = ["shape", "flat", "result"].map(|hint| upgrade.name_beside(node, hint));
    let (Some(input), Some(output)) = (node.input.first_mut(), node.output.first_mut()) else { return };
    let (x, y) = (std::mem::replace(input, flat.clone()), std::mem::replace(output, result.clone()));
    // Before opset 14, no Reshape can keep an axis of length 0.
    let keep_zeros = (upgrade.to >= 14).then(|| attribute::int("allowzero", 1));
    before.push(standard("Shape", vec![x.clone()], shape.clone(), vec![]));
    before.push(standard("Flatten", vec![x], flat, vec![axis]));
    after.push(standard("Reshape", vec![result, shape], y, keep_zeros.into_iter().collect()));
}

/// Gives a value of the attribute its new name, if it is one of the pairs of the old and the new one.
fn rename(node: &mut NodeProto, name: &str, names: &[(&str, &str)]) {
    for attribute in node.attribute.iter_mut().filter(|attribute| attribute.name() == name) {
        if let Some((_, new)) = names.iter().find(|(old, _)| attribute.s() == old.as_bytes()) {
            attribute.s = Some(new.as_bytes().to_vec());
        }
    }
}

/// Whether the value is that of an attribute of the function's caller.
fn is_reference(attribute: &AttributeProto) -> bool {
    !attribute.ref_attr_name().is_empty()
}

fn take(node: &mut NodeProto, name: &str) -> Option<AttributeProto> {
    let at = node.attribute.iter().position(|attribute| attribute.name() == name)?;
    Some(node.attribute.remove(at))
}

fn standard(op_type: &str, input: Vec<String>, output: String, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_string()),
        input,
        output: vec![output],
        attribute,
        ..Default::default()
    }
}
