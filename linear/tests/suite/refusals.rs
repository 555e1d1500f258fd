//! What does not fit is refused, with a word about it.

use zqc_formats::{ActivationFormat, FactorFormat, Format, Ladder};
use zqc_linear::{
    Extra, Isa, IsaError, Layer, Layout, LowRank, Output, PackError, PackedLinear, Serial, Tokens,
};

const LAYER: Layer<'_> = Layer {
    k: 4,
    n: 2,
    group_size: 2,
    layout: Layout::InputMajor,
    format: Format::E4M3,
    codes: &[0; 8],
    scales: &[1.0; 4],
    extra: Extra::None,
    low_rank: None,
    bias: None,
};

fn refusal(layer: Layer<'_>) -> String {
    PackedLinear::pack(&layer, Isa::Scalar).map(|_| ()).expect_err("a layer that does not fit").to_string()
}

#[test]
fn layers_that_do_not_fit() {
    let factors = LowRank { rank: 1, format: FactorFormat::E4M3, down: &[0; 4], up: &[0; 2], scales: &[1.0] };
    let length = |what: &str, actual: usize, expected: usize| {
        format!("{what}: {actual} elements, the shape of the layer needs {expected}")
    };
    let cases = [
        (Layer { codes: &[0; 7], ..LAYER }, length("codes of the weight", 7, 8)),
        (Layer { scales: &[1.0; 3], ..LAYER }, length("scales of the weight", 3, 4)),
        (Layer { bias: Some(&[0.0; 3]), ..LAYER }, length("bias", 3, 2)),
        (Layer { low_rank: Some(LowRank { down: &[0; 3], ..factors }), ..LAYER }, length("factor V", 3, 4)),
        (Layer { low_rank: Some(LowRank { up: &[0; 3], ..factors }), ..LAYER }, length("factor U", 3, 2)),
        (
            Layer { low_rank: Some(LowRank { scales: &[], ..factors }), ..LAYER },
            length("scales of the low-rank branch", 0, 1),
        ),
        (
            Layer { format: Format::Int8, extra: Extra::ZeroPoints(&[0; 3]), ..LAYER },
            length("zero points of the weight", 3, 4),
        ),
        (
            Layer {
                format: Format::E2M1,
                codes: &[0; 4],
                scales: &[1.0; 2],
                extra: Extra::Shifts(Ladder::M3, &[0; 3]),
                ..LAYER
            },
            length("shifts of the weight", 3, 2),
        ),
        (
            Layer { extra: Extra::ZeroPoints(&[0; 4]), ..LAYER },
            "e4m3 codes have no zero points, those of integers do".into(),
        ),
        (
            Layer { extra: Extra::Shifts(Ladder::M2, &[0; 4]), ..LAYER },
            "e4m3 codes have no shifts of m2".into(),
        ),
        (
            Layer { group_size: 0, ..LAYER },
            "the weight is empty (4 x 2, groups of 0): every one of these must be at least 1".into(),
        ),
        (
            Layer { k: usize::MAX, ..LAYER },
            format!("a weight of {} x 2 is larger than memory can be", usize::MAX),
        ),
        (
            Layer { codes: &[0, 0, 0, 0, 0, 0xFF, 0, 0], ..LAYER },
            "codes of the weight: element 5 is NaN or infinite; the file is damaged".into(),
        ),
        (
            Layer { low_rank: Some(LowRank { up: &[0, 0x7F], ..factors }), ..LAYER },
            "factor U: element 1 is NaN or infinite; the file is damaged".into(),
        ),
    ];
    for (layer, expected) in cases {
        assert_eq!(refusal(layer), expected);
    }
}

#[test]
fn operands_that_do_not_fit() {
    let layer = PackedLinear::pack(&LAYER, Isa::Scalar).expect("a sound layer");
    let run = |tokens: Tokens<'_>, outputs: usize| {
        layer
            .forward(tokens, Output::F32(&mut vec![0.0; outputs]), &Serial)
            .map_err(|error| error.to_string())
    };
    let quantized = |codes, scales, zero_points| Tokens::Quantized {
        format: ActivationFormat::Int8,
        codes,
        scales,
        zero_points,
    };
    assert_eq!(run(Tokens::F32(&[0.0; 8]), 4), Ok(()));
    assert_eq!(run(Tokens::F32(&[]), 0), Ok(()));
    assert_eq!(run(Tokens::F32(&[0.0; 9]), 4), Err("activations: 9 elements, no multiple of 4".into()));
    assert_eq!(run(Tokens::F32(&[0.0; 8]), 5), Err("outputs: 5 elements, not 4".into()));
    assert_eq!(
        run(quantized(&[0; 8], &[1.0], &[0; 2]), 4),
        Err("scales of the tokens: 1 elements, not 2".into())
    );
    assert_eq!(
        run(quantized(&[0; 8], &[1.0; 2], &[]), 4),
        Err("zero points of the tokens: 0 elements, not 2".into())
    );
}

#[test]
fn instruction_sets_that_are_not_there() {
    let unknown = Isa::named("sse9").expect_err("no such instruction set");
    assert!(
        unknown
            .to_string()
            .starts_with("ZQC_CPU names no instruction set: 'sse9' (this processor has: scalar")
    );
    for isa in Isa::ALL {
        match Isa::named(isa.name()) {
            Ok(found) => assert!(found == isa && isa.is_available()),
            Err(error) => assert!(matches!(error, IsaError::Unavailable { .. }) && !isa.is_available()),
        }
        let packed = PackedLinear::pack(&LAYER, isa).map(|_| ());
        assert_eq!(packed.is_ok(), isa.is_available());
        assert!(matches!(packed, Ok(()) | Err(PackError::Isa(IsaError::Unavailable { .. }))));
    }
}
