//! Which control-flow operator a node is, with its attributes.

use zqc_ir::onnx::proto::NodeProto;

/// The operators.
pub(super) const KINDS: [&str; 3] = ["If", "Loop", "Scan"];

/// The first version of `Scan` without a batch dimension.
const SCAN_OPSET: i64 = 9;

/// An operator with what its attributes say.
pub(super) enum Kind {
    /// With the indices of its branches.
    If {
        then_branch: usize,
        else_branch: usize,
    },
    Loop,
    Scan(Scan),
}

/// The attributes of a `Scan`, empty where they are left out.
pub(super) struct Scan {
    pub inputs: usize,
    pub input_axes: Vec<i64>,
    pub input_directions: Vec<i64>,
    pub output_axes: Vec<i64>,
    pub output_directions: Vec<i64>,
}

impl Kind {
    /// What `proto` is, or what is wrong with it.
    pub fn new(proto: &NodeProto, opset: i64) -> Result<Self, String> {
        let branch = |name: &str| {
            let bodies = proto.attribute.iter().filter(|attribute| attribute.g.is_some());
            let place = bodies.map(|attribute| attribute.name()).position(|other| other == name);
            place.ok_or_else(|| format!("it has no {name}"))
        };
        match proto.op_type() {
            "If" => Ok(Kind::If { then_branch: branch("then_branch")?, else_branch: branch("else_branch")? }),
            "Loop" => branch("body").map(|_| Kind::Loop),
            _ if opset < SCAN_OPSET => Err(format!("it has a batch dimension, as below opset {SCAN_OPSET}")),
            _ => {
                branch("body")?;
                let list = |name| proto.ints(name).unwrap_or_default().to_vec();
                Ok(Kind::Scan(Scan {
                    inputs: usize::try_from(proto.int_or("num_scan_inputs", 0)).unwrap_or(0),
                    input_axes: list("scan_input_axes"),
                    input_directions: list("scan_input_directions"),
                    output_axes: list("scan_output_axes"),
                    output_directions: list("scan_output_directions"),
                }))
            }
        }
    }
}
