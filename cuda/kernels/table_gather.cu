// Rows of a table of 8-bit codes with a scale a row, as the embedding of tokens looks them up: bound by the launch.
//
// Block      one index: a row of codes to a row of floats. Negative indices count from the end; a row that the table does not have is
//            zeros, as ONNX Runtime's Gather has it on CUDA.
//
// ZQC_CODES  0 int8, 1 E4M3     ZQC_INDEX  32 or 64, bits of an index     ZQC_OUTPUT  0 bf16, 1 f16, 2 f32
#include "common.cuh"

constexpr int THREADS = 128;

extern "C" __device__ const u32 zqc_launch[5] = {THREADS, 0, 1, 1, 1};

extern "C" __global__ void __launch_bounds__(THREADS)
    zqc_table_gather(const void* indices, const u8* table, const float* row_scales, void* y, long long rows, int k) {
    launch_dependents();
    wait_for_dependencies();
    long long row = ZQC_INDEX == 64 ? static_cast<const long long*>(indices)[blockIdx.x] : static_cast<const int*>(indices)[blockIdx.x];
    if (row < 0) row += rows;
    const bool exists = row >= 0 && row < rows;
    const float scale = exists ? row_scales[row] : 0.f;
    const long long first = static_cast<long long>(blockIdx.x) * k;
    for (int column = threadIdx.x; column < k; column += THREADS)
        store<ZQC_OUTPUT>(y, first + column, exists ? code_value<ZQC_CODES>(table[row * k + column]) * scale : 0.f);
}
