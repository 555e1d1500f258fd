//! The sources of the kernels, as they go into every package.

/// Name and text of each source file.
pub const SOURCES: [(&str, &str); 5] = [
    ("common.cuh", include_str!("../cuda/common.cuh")),
    ("wgmma.cuh", include_str!("../cuda/wgmma.cuh")),
    ("quantize.cu", include_str!("../cuda/quantize.cu")),
    ("linear_decode.cu", include_str!("../cuda/linear_decode.cu")),
    ("linear_prefill.cu", include_str!("../cuda/linear_prefill.cu")),
];
