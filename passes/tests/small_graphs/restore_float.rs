use zqc_formats::ActivationFormat;
use zqc_ir::tensor::DataType::Float;
use zqc_passes::{Canonicalize, QuantizeActivations, RestoreFloat};

use crate::builder::written;
use crate::lower::{gemm, two_layers};
use crate::run;

#[test]
fn layers_that_nobody_quantized_are_what_they_were() {
    for form in [two_layers(Float, 32, 48), gemm(Float, 1.0)] {
        let mut model = form.build();
        let before = written(&model);
        let quantize = QuantizeActivations { format: ActivationFormat::E4M3 };
        let text = run(&[&Canonicalize::default(), &quantize], &mut model);
        assert!(text.contains("zqc.linear") && text.contains("zqc.quantize_activation"), "{text}");
        run(&[&RestoreFloat], &mut model);
        assert_eq!(written(&model), before, "{model}");
    }
}
