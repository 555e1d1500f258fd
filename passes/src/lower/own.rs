//! Which model-local functions are those that [`LowerPortable`](crate::LowerPortable) writes.

use zqc_formats::{FUNCTION_DOMAIN, Signature, WeightKind};
use zqc_ir::onnx::proto::{AttributeProto, FunctionProto, NodeProto};
use zqc_ir::op::is_standard;
use zqc_ir::opset;

use super::folding::Folding;
use super::functions::LEAST_OPSET;
use super::{activation, dequantize, dequantize_rows, gather, signature};

/// Whether the function has the name of one of ours. [`is_foreign`] says whether it is another all the same.
pub(crate) fn is_ours(function: &FunctionProto) -> bool {
    function.domain() == FUNCTION_DOMAIN && !definitions(function.name()).is_empty()
}

/// Whether the function is one that versions before 28 November 2026 wrote, whose ladders had other names.
pub(crate) fn is_old(function: &FunctionProto) -> bool {
    let old = ["_Octaves", "_Thirds"];
    function.domain() == FUNCTION_DOMAIN && old.iter().any(|suffix| function.name().contains(suffix))
}

/// Whether the function has the name of one of ours and is another: other operands, or another body.
pub(crate) fn is_foreign(function: &FunctionProto) -> bool {
    is_ours(function) && !definitions(function.name()).iter().any(|own| does_the_same(own, function))
}

/// Our functions of this name, in all forms.
fn definitions(name: &str) -> Vec<FunctionProto> {
    const OPSET: i64 = LEAST_OPSET;
    if let Some(format) = activation::parse(name) {
        return vec![activation::definition(format, OPSET)];
    }
    if let Some(signature) = Signature::parse(name) {
        return Folding::ALL.map(|folding| signature::definition(signature, folding, OPSET)).to_vec();
    }
    if let Some(table) = WeightKind::of_gather(name) {
        return vec![gather::definition(table, OPSET)];
    }
    let weight = WeightKind::all().find(|weight| weight.dequantize_function() == name);
    if let Some(weight) = weight {
        return Folding::ALL.map(|folding| dequantize::definition(weight, folding, OPSET)).to_vec();
    }
    let rows = WeightKind::tables().find(|table| table.dequantize_rows_function() == name);
    rows.map(|rows| dequantize_rows::definition(rows, OPSET)).into_iter().collect()
}

/// Whether two functions have the same interface and the same body. Documentation, names of nodes and metadata may differ, and
/// the versions of the standard operators, as long as the body is valid in both.
fn does_the_same(own: &FunctionProto, other: &FunctionProto) -> bool {
    let valid = opset::version(&other.opset_import, "").is_some_and(|version| version >= LEAST_OPSET);
    let interface = |function: &FunctionProto| {
        (function.input.clone(), function.output.clone(), function.attribute.clone())
    };
    let plain = other.overload().is_empty() && other.attribute_proto.is_empty();
    let body = |function: &FunctionProto| function.node.iter().map(bare).collect::<Vec<_>>();
    valid && plain && interface(own) == interface(other) && body(own) == body(other)
}

/// What a node computes.
fn bare(node: &NodeProto) -> NodeProto {
    let domain = node.domain.clone().filter(|domain| !is_standard(domain));
    let attributes = node.attribute.iter().map(|attribute| AttributeProto {
        doc_string: None,
        ref_attr_name: attribute.ref_attr_name.clone().filter(|name| !name.is_empty()),
        ..attribute.clone()
    });
    NodeProto {
        op_type: node.op_type.clone(),
        domain,
        overload: node.overload.clone().filter(|overload| !overload.is_empty()),
        input: node.input.clone(),
        output: node.output.clone(),
        attribute: attributes.collect(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use zqc_formats::ActivationFormat;

    use super::*;

    fn all() -> Vec<FunctionProto> {
        let activations = ActivationFormat::ALL.into_iter().map(|format| activation::definition(format, 21));
        let layers = Signature::all()
            .flat_map(|signature| Folding::ALL.map(|folding| signature::definition(signature, folding, 19)));
        let weights = WeightKind::all()
            .flat_map(|weight| Folding::ALL.map(|folding| dequantize::definition(weight, folding, 24)));
        let tables = WeightKind::tables()
            .flat_map(|table| [dequantize_rows::definition(table, 19), gather::definition(table, 23)]);
        activations.chain(layers).chain(weights).chain(tables).collect()
    }

    #[test]
    fn what_we_write_is_ours_whatever_surrounds_it() {
        for mut function in all() {
            assert!(is_ours(&function) && !is_foreign(&function), "{}", function.name());
            function.doc_string = Some("of an earlier version".to_string());
            function.node[0].name = Some("n".to_string());
            function.node.iter_mut().for_each(|node| node.domain.get_or_insert_default().push_str(""));
            assert!(!is_foreign(&function), "{}", function.name());
        }
    }

    #[test]
    fn an_edit_makes_a_function_foreign() {
        let edits: [fn(&mut FunctionProto); 6] = [
            |function| function.input[0].push('0'),
            |function| function.output.push("more".to_string()),
            |function| function.overload = Some("second".to_string()),
            |function| function.opset_import[0].version = Some(18),
            |function| drop(function.node.pop()),
            |function| function.node[0].op_type = Some("Neg".to_string()),
        ];
        for (function, edit) in
            all().into_iter().flat_map(|function| edits.map(|edit| (function.clone(), edit)))
        {
            let mut edited = function;
            edit(&mut edited);
            assert!(is_foreign(&edited), "{edited:?}");
            edited.domain = Some("user".to_string());
            assert!(!is_foreign(&edited) && !is_ours(&edited));
        }
        let unknown = FunctionProto { name: Some("W2A2Linear".to_string()), ..all().remove(0) };
        assert!(!is_foreign(&unknown) && !is_ours(&unknown));
    }
}
