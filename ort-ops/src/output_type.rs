//! The element type of the output of a layer.

use zqc_formats::OUTPUT_TYPE;

use crate::element::Element;
use crate::error::OpError;

/// The type that the attribute `output_type` of a layer names, which must be the `declared` one of the operator if that has one.
pub(crate) fn output_element(output_type: i64, declared: Element) -> Result<Element, OpError> {
    let element = i32::try_from(output_type).map(Element).unwrap_or(Element::ANY);
    if ![Element::F32, Element::F16, Element::BF16, Element::F64].contains(&element) {
        return Err(OpError::Attribute { name: OUTPUT_TYPE, value: output_type });
    }
    if declared != Element::ANY && declared != element {
        return Err(OpError::OldRuntime(element));
    }
    Ok(element)
}
