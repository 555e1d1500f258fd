//! Every element decides whether a constant is a copy; `filetests/share_constants` has what comes of copies.

use zqc_ir::Tensor;
use zqc_ir::tensor::DataType::Int64;
use zqc_passes::ShareConstants;

use crate::builder::Builder;
use crate::kinds::noise;
use crate::run;

#[test]
fn a_copy_is_transposed_in_every_element() {
    let table = noise(48 * 32, 1);
    let transposed = zqc_formats::transpose(&table, 48, 32);
    let mut other = transposed.clone();
    other[100] += 1.0;
    for (case, head, constants) in
        [("transposed", transposed, 1), ("one element differs", other, 2), ("reshaped", table.clone(), 2)]
    {
        let matrix = |dims: [usize; 2], values, name| Tensor::from_f32(&dims, values).unwrap().to_proto(name);
        let mut model = Builder::new()
            .input("ids", Int64, "batch seq")
            .initializer(matrix([48, 32], table.clone(), "table"))
            .initializer(matrix([32, 48], head, "head"))
            .node("Gather", &["table", "ids"], "h")
            .node("MatMul", &["h", "head"], "logits")
            .output("logits")
            .build();
        run(&[&ShareConstants], &mut model);
        assert_eq!(model.graph.initializers().count(), constants, "{case}");
    }
}
