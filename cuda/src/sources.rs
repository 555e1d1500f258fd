//! The kernels' sources. They are part of the launcher: a package is data, and nothing in it is compiled or run.

/// A kernel in CUDA C++.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Quantize,
    QuantizeMany,
    LinearDecode,
    LinearPrefill,
    QuantizeRows,
    TableGather,
    TableLinear,
}

/// Name and text of the files that the kernels include.
pub(crate) const HEADERS: [(&str, &str); 9] = [
    ("common.cuh", include_str!("../kernels/common.cuh")),
    ("linear_decode_layout.cuh", include_str!("../kernels/linear_decode_layout.cuh")),
    ("linear_prefill_layout.cuh", include_str!("../kernels/linear_prefill_layout.cuh")),
    ("quantize_layout.cuh", include_str!("../kernels/quantize_layout.cuh")),
    ("quantize_low_rank.cuh", include_str!("../kernels/quantize_low_rank.cuh")),
    ("quantize_many_layout.cuh", include_str!("../kernels/quantize_many_layout.cuh")),
    ("quantize_many_tokens.cuh", include_str!("../kernels/quantize_many_tokens.cuh")),
    ("quantize_values.cuh", include_str!("../kernels/quantize_values.cuh")),
    ("wgmma.cuh", include_str!("../kernels/wgmma.cuh")),
];

impl Source {
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Quantize => "quantize.cu",
            Self::QuantizeMany => "quantize_many.cu",
            Self::LinearDecode => "linear_decode.cu",
            Self::LinearPrefill => "linear_prefill.cu",
            Self::QuantizeRows => "quantize_rows.cu",
            Self::TableGather => "table_gather.cu",
            Self::TableLinear => "table_linear.cu",
        }
    }

    pub const fn text(self) -> &'static str {
        match self {
            Self::Quantize => include_str!("../kernels/quantize.cu"),
            Self::QuantizeMany => include_str!("../kernels/quantize_many.cu"),
            Self::LinearDecode => include_str!("../kernels/linear_decode.cu"),
            Self::LinearPrefill => include_str!("../kernels/linear_prefill.cu"),
            Self::QuantizeRows => include_str!("../kernels/quantize_rows.cu"),
            Self::TableGather => include_str!("../kernels/table_gather.cu"),
            Self::TableLinear => include_str!("../kernels/table_linear.cu"),
        }
    }

    /// The function that is launched.
    pub const fn entry(self) -> &'static str {
        match self {
            Self::Quantize | Self::QuantizeMany => "zqc_quantize",
            Self::LinearDecode | Self::LinearPrefill => "zqc_linear",
            Self::QuantizeRows => "zqc_quantize_rows",
            Self::TableGather => "zqc_table_gather",
            Self::TableLinear => "zqc_table_linear",
        }
    }
}
