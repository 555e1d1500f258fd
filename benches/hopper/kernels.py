"""The kernels by themselves: compiled by NVRTC, launched through the driver, with weights packed here as docs/package.md says.

Shared by check.py and bench.py; needs PyTorch and cuda-bindings on a machine with an H100 or H200.
"""
import ctypes
import functools
import pathlib

import numpy as np
import torch
from cuda.bindings import driver, nvrtc

SOURCES = pathlib.Path(__file__).resolve().parents[2] / "cuda/kernels"
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
# M3, docs/package.md: 3/2, 5/4, 1 and their halves, times 2^5.
FACTORS = torch.tensor([(1.5, 1.25, 1.0)[s % 3] * 0.5 ** (s // 3) for s in range(16)], dtype=torch.float64)
TABLE = (FACTORS[:, None] * E2M1 * 32).to(torch.float8_e4m3fn)
OUTPUTS = (torch.bfloat16, torch.float16, torch.float32)


def check(result):
    code, *values = result
    if int(code) != 0:
        raise RuntimeError(f"{code!r}")
    return values[0] if len(values) == 1 else tuple(values)


@functools.cache
def cubin(source, defines):
    headers = [path.name for path in SOURCES.glob("*.cuh")]
    program = check(nvrtc.nvrtcCreateProgram((SOURCES / source).read_bytes(), source.encode(), len(headers),
                                             [(SOURCES / h).read_bytes() for h in headers], [h.encode() for h in headers]))
    options = [b"--gpu-architecture=sm_90a", b"--std=c++17", b"-default-device"] + [f"-DZQC_{k}={v}".encode() for k, v in defines]
    if int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0]) != 0:
        log = b" " * check(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(log.decode())
    image = b" " * check(nvrtc.nvrtcGetCUBINSize(program))
    check(nvrtc.nvrtcGetCUBIN(program, image))
    return image


class Kernel:
    """A compiled kernel and the shape of its launch."""

    def __init__(self, source, entry, **defines):
        torch.cuda.current_stream()
        self.source = source
        module = check(driver.cuModuleLoadData(cubin(source, tuple(sorted(defines.items())))))
        self.function = check(driver.cuModuleGetFunction(module, entry.encode()))
        address, size = check(driver.cuModuleGetGlobal(module, b"zqc_launch"))
        shape = np.zeros(5, np.uint32)
        check(driver.cuMemcpyDtoH(shape.ctypes.data, address, size))
        self.threads, self.shared, self.cluster, self.rows, self.tokens = map(int, shape)
        check(driver.cuFuncSetAttribute(
            self.function, driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, self.shared))
        self.clusters = check(driver.cuOccupancyMaxActiveClusters(self.function, self.config(self.cluster, 0, False)))

    def config(self, grid, stream, dependent):
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = self.threads, 1, 1
        config.sharedMemBytes, config.hStream = self.shared, stream
        cluster = driver.CUlaunchAttribute()
        cluster.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        value = driver.CUlaunchAttributeValue()
        value.clusterDim.x, value.clusterDim.y, value.clusterDim.z = self.cluster, 1, 1
        cluster.value = value
        attributes = [cluster]
        if dependent:
            serial = driver.CUlaunchAttribute()
            serial.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            value = driver.CUlaunchAttributeValue()
            value.programmaticStreamSerializationAllowed = 1
            serial.value = value
            attributes.append(serial)
        config.attrs, config.numAttrs = attributes, len(attributes)
        return config

    def __call__(self, grid, arguments, dependent=True):
        kinds = {"p": ctypes.c_void_p, "i": ctypes.c_int, "q": ctypes.c_longlong, "f": ctypes.c_float, "struct": None}
        values = tuple(value for _, value in arguments)
        types = tuple(kinds[kind] for kind, _ in arguments)
        config = self.config(grid, torch.cuda.current_stream().cuda_stream, dependent)
        check(driver.cuLaunchKernelEx(config, self.function, (values, types), 0))


def pointer(tensor):
    return ("p", tensor.data_ptr() if tensor is not None else 0)


def up(value, multiple):
    return -(-value // multiple) * multiple


class Layer:
    """A random layer: its packed arrays on the device and its values in float64."""

    def __init__(self, n, k, steps_per_block=1, rank=0, bias=False, seed=0, zero_rows=0, weights="random"):
        g = torch.Generator(device="cuda").manual_seed(seed)
        self.n, self.k, self.steps, self.rank = n, k, steps_per_block, rank
        blocks, panels, rank16 = -(-k // 128), -(-n // 128), up(rank, 16)
        lorc = -(-rank16 // 32)
        codes = torch.zeros(panels * 128, blocks * 128, dtype=torch.int64, device="cuda")
        codes[:n, :k] = 7 if weights == "largest" else torch.randint(0, 8 if weights == "positive" else 16, (n, k), device="cuda", generator=g)
        codes[:zero_rows] = 0
        steps = torch.zeros(panels * 128, blocks * steps_per_block, dtype=torch.int64, device="cuda")
        if weights != "largest":
            steps[:n] = torch.randint(0, 16, (n, blocks * steps_per_block), device="cuda", generator=g)
        width = 128 // steps_per_block
        table = TABLE.to(torch.float64).cuda()
        magnitude = table[steps.repeat_interleave(width, 1), codes & 7]
        self.w = torch.where(codes >= 8, -magnitude, magnitude)[:n, :k]
        self.row_scales = torch.rand(panels * 128, device="cuda", generator=g) * 0.01 + 0.001
        self.row_scales[n:] = 0
        self.u = torch.zeros(panels * 128, lorc * 32, dtype=torch.bfloat16, device="cuda")
        self.u[:n, :rank] = (torch.randn(n, rank, device="cuda", generator=g) * 4).bfloat16()
        self.v = torch.zeros(max(rank16, 0), blocks * 128, device="cuda").to(torch.float8_e4m3fn)
        if rank:
            self.v[:rank, :k] = torch.randn(rank, k, device="cuda", generator=g).to(torch.float8_e4m3fn)
        self.bias = torch.randn(panels * 128, device="cuda", generator=g) if bias else None

        # rows: panel, tile, w, h, l / 4; columns: block, j, half, l % 4, i
        view = codes.view(panels, 2, 4, 2, 8, blocks, 4, 2, 4, 4)
        nibble = torch.arange(4, device="cuda")
        low, high = view[..., 0, :, :], view[..., 1, :, :]
        words = ((low & 7) << (4 * nibble)).sum(-1) + ((high & 7) << (16 + 4 * nibble)).sum(-1)
        words += ((low >> 3) << (8 * nibble + 7)).sum(-1) + ((high >> 3) << (8 * nibble + 3)).sum(-1)
        # panel, tile, w, h, l/4, block, j, l%4 -> panel, block, tile, j/2, w, l/4, l%4, j%2, h
        words = words.view(panels, 2, 4, 2, 8, blocks, 2, 2, 4).permute(0, 5, 1, 6, 2, 4, 8, 7, 3).contiguous()
        words = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
        pairs = steps.view(panels, 2, 4, 2, 8, blocks, steps_per_block)
        pairs = (pairs[:, :, :, 0] | pairs[:, :, :, 1] << 4).permute(0, 4, 1, 2, 3, 5).contiguous().to(torch.uint8)
        tail = max(64, 32 * steps_per_block)
        pairs = torch.nn.functional.pad(pairs.view(panels, blocks, 2, -1), (0, tail - 32 * steps_per_block))
        parts = [words.view(panels, blocks, 2, -1).view(torch.uint8), pairs]
        packed = torch.cat(parts, 3)
        if lorc:
            # rows as above; ranks: lorc block, slice, 8 ranks on, l % 4, pair
            u = self.u.view(panels, 2, 4, 2, 8, lorc, 2, 2, 4, 2)
            # -> panel, lorc block, tile, slice, w, l/4, l%4, 8 ranks on, h, pair
            u = u.permute(0, 5, 1, 6, 2, 4, 8, 7, 3, 9).contiguous().view(panels, lorc, 2, -1).view(torch.uint8)
            packed = torch.cat([packed, torch.nn.functional.pad(u, (0, tail))], 1)
        self.weights = packed.permute(1, 0, 2, 3).contiguous().view(-1)
        self.defines = {
            "N": n, "K": k, "STEPS": steps_per_block, "RANK": rank16,
            "TABLE": ",".join(f"0x{int(word):x}ull" for word in np.frombuffer(TABLE.view(torch.uint8).numpy().tobytes(), np.uint64)),
        }

    def specialization(self, kind, tokens, cluster, per_sm=1, output=0, accurate=0):
        """Source and macros of a variant."""
        chosen = {"OUTPUT": output, "TOKENS": tokens, "CLUSTER": cluster, "PER_SM": per_sm, "ACCURATE": accurate}
        return f"linear_{kind}.cu", tuple(sorted({**self.defines, **chosen}.items()))

    def variant(self, *of, **more):
        source, defines = self.specialization(*of, **more)
        return Kernel(source, "zqc_linear", **dict(defines))

    def down(self):
        """V as the quantization kernel wants it."""
        rank, width = self.v.shape
        return swizzle(self.v.view(torch.uint8).view(rank, width // 128, 128).permute(1, 0, 2).contiguous(), 7)

    def reference(self, codes, scales, inner):
        y = codes.double() @ self.w.T
        if self.rank:
            y += inner.double() @ self.u[: self.n, : self.rank].double().T
        y *= self.row_scales[: self.n].double() * scales.double()[:, None]
        return y if self.bias is None else y + self.bias[: self.n].double()


def swizzle(rows, mask, shift=0):
    """Rows of `[..., r, bytes]` with their 16-byte chunks at `c ^ (r >> shift & mask)`."""
    *lead, count, width = rows.shape
    chunks = width // 16
    at = torch.arange(chunks, device=rows.device) ^ (torch.arange(count, device=rows.device)[:, None] >> shift & mask)
    index = at[:, :, None].expand(*lead, count, chunks, 16)
    return torch.gather(rows.view(*lead, count, chunks, 16), -2, index).reshape(rows.shape).contiguous()


class Tokens:
    """Quantized activations: E4M3 values, scales, inner values, and the buffers that the kernels read."""

    def __init__(self, layer, x):
        m, k = x.shape
        self.m, self.m_pad, width = m, up(m, 8), up(k, 128)
        self.scales = torch.clamp(x.float().abs().amax(1) / 448, min=1e-12)
        codes = torch.zeros(self.m_pad, width, device="cuda")
        codes[:m, :k] = x.float() / self.scales[:, None]
        codes = codes.clamp(-448, 448).to(torch.float8_e4m3fn)
        self.codes = codes[:m, :k]
        self.inner = (self.codes.double() @ layer.v[: layer.rank, :k].double().T).bfloat16()
        blocks = width // 128
        self.code_buffer = swizzle(codes.view(torch.uint8).view(self.m_pad, blocks, 128).permute(1, 0, 2).contiguous(), 7)
        slices = up(layer.rank, 16) // 16
        inner = torch.zeros(self.m_pad, max(slices, 1) * 16, dtype=torch.bfloat16, device="cuda")
        inner[:m, : layer.rank] = self.inner
        self.inner_buffer = swizzle(inner.view(torch.uint8).view(self.m_pad, -1, 32).permute(1, 0, 2).contiguous(), 1, 2)
        self.scale_buffer = torch.zeros(self.m_pad, device="cuda")
        self.scale_buffer[:m] = self.scales


def chunks(y, n, m):
    """The output as prefill's copy engine stores it: boxes of 64 outputs of 32 tokens. Nothing where that needs other alignment."""
    if y.dtype == torch.float32 or (y.data_ptr() | y.stride(0) * 2) & 15:
        return driver.CUtensorMap()
    types = {torch.bfloat16: "BFLOAT16", torch.float16: "FLOAT16"}
    sizes = lambda kind, *values: [kind(value) for value in values]
    return check(driver.cuTensorMapEncodeTiled(
        getattr(driver.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_{types[y.dtype]}"), 2, y.data_ptr(), sizes(driver.cuuint64_t, n, m),
        sizes(driver.cuuint64_t, y.stride(0) * 2), sizes(driver.cuuint32_t, 64, 32), sizes(driver.cuuint32_t, 1, 1),
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE, driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_NONE, driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE))


def apply(kernel, layer, tokens, y, weights=None, dependent=True):
    work = -(-layer.n // kernel.rows) * -(-tokens.m // kernel.tokens)
    grid = kernel.cluster * min(work, kernel.clusters)
    kernel(grid, [pointer(layer.weights if weights is None else weights), pointer(layer.row_scales), pointer(layer.bias),
                  pointer(tokens.code_buffer), pointer(tokens.scale_buffer), pointer(tokens.inner_buffer), pointer(y),
                  ("q", y.stride(0)), ("i", tokens.m), ("i", tokens.m_pad), ("struct", chunks(y, layer.n, tokens.m))], dependent)


def quantize(kernel, x, x2, codes, scales, inner, down, m_pad, eps=1e-6, dependent=True):
    tiles = -(-x.shape[0] // kernel.tokens)
    is_persistent = kernel.source == "quantize_many.cu" or kernel.cluster <= 2  # quantize.cu as cuda/src/loaded/activation.rs
    grid = kernel.cluster * (min(tiles, kernel.clusters) if is_persistent else tiles)
    stride2 = x2.stride(0) if x2 is not None and x2.dim() == 2 else 0
    kernel(grid, [pointer(x), pointer(x2), pointer(codes), pointer(scales), pointer(inner), pointer(down), ("i", x.shape[0]),
                  ("i", m_pad), ("q", x.stride(0)), ("q", stride2), ("f", eps)], dependent)


def error(out, reference):
    out, reference = out.double(), reference.double()
    return float((out - reference).norm() / reference.norm().clamp(min=1e-300))
