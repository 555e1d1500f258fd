//! A packed layer takes little more memory than its operands in the file.

use zqc_formats::{FactorFormat, Format, Ladder};
use zqc_linear::{Isa, Layout, PackedLinear};

use crate::layers::{ExtraKind, Kind, Operands};
use crate::noise::Noise;

#[test]
fn a_tenth_more_at_most() {
    let noise = &mut Noise::new(10);
    let cases = [
        (Format::E2M1, ExtraKind::Shifts(Ladder::M3), 64, FactorFormat::E4M3),
        (Format::E2M1, ExtraKind::None, 16, FactorFormat::Bf16),
        (Format::Int4, ExtraKind::ZeroPoints, 128, FactorFormat::E4M3),
        (Format::E4M3, ExtraKind::None, 576, FactorFormat::E4M3),
    ];
    for (format, extra, group_size, factors) in cases {
        let (k, n, layout) = (576, 1536, Layout::InputMajor);
        let kind = Kind { k, n, group_size, layout, format, extra, low_rank: Some((8, factors)), bias: true };
        let operands = Operands::random(kind, noise);
        let Operands { codes, scales, shifts, zero_points, down, up, rank_scales, bias, .. } = &operands;
        let bytes = codes.len() + shifts.len() + zero_points.len() + down.len() + up.len();
        let in_file = bytes + 4 * (scales.len() + rank_scales.len() + bias.len());
        let packed = PackedLinear::pack(&operands.layer(), Isa::Scalar).expect("a sound layer").bytes();
        assert!(packed * 10 <= in_file * 11, "{kind:?}: {packed} bytes of {in_file}");
    }
}
