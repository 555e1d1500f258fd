"""The launcher's calls as operators of torch, `zqc::quantize` and `zqc::linear`.

Both are functions from tensors to tensors, whose memory torch allocates: within a capture it lies in the pool of the
graph. A quantized input is a tensor of bytes, `[..., token_bytes]` for an input `[..., k]`. Its storage goes on with
room for the tokens that it is padded to, so a copy of it is none.
"""

import itertools
import weakref

import torch

from zqc import cuda

_TYPES = {torch.bfloat16: cuda.BF16, torch.float16: cuda.F16, torch.float32: cuda.F32}

# By number: what operators take are tensors and numbers.
_models = weakref.WeakValueDictionary()
_numbers = itertools.count()

# Not `torch.library.custom_op`, whose calls take three times as long.
for _schema in (
    "quantize(Tensor x, Tensor? second, int model, int layer, int token_bytes, int prologue, float epsilon) -> Tensor",
    "linear(Tensor quantized, int model, int layer, int n, ScalarType dtype) -> Tensor",
):
    _name, _, _signature = _schema.partition("(")
    torch.library.define("zqc::" + _name, "(" + _signature, tags=(torch.Tag.pt2_compliant_tag,))

quantize = torch.ops.zqc.quantize.default
linear = torch.ops.zqc.linear.default


def register(model):
    """The number by which the operators know a `cuda.Model`, for as long as somebody else holds it."""
    number = next(_numbers)
    _models[number] = model
    return number


def element_type(dtype):
    """The launcher's number of a type."""
    if dtype not in _TYPES:
        raise TypeError(f"layers of a package take and give bfloat16, float16 and float32, not {dtype}")
    return _TYPES[dtype]


def _rows(x, k):
    """`x` as rows of `k` elements next to each other, with the stride of the rows; 0 where nothing is between them."""
    rows = x.reshape(-1, k)
    if rows.stride(1) != 1 or len(rows) > 1 and rows.stride(0) < k:
        rows = rows.contiguous()
    return rows, rows.stride(0) if len(rows) > 1 else 0


def stream(tensor):
    """The stream that work on a tensor is put on."""
    return torch.cuda.current_stream(tensor.device).cuda_stream


@torch.library.impl("zqc::quantize", "CUDA")
def _quantize(x, second, model, layer, token_bytes, prologue, epsilon):
    model = _models[model]
    k = model.layers[layer].k
    _check_device(model, x)
    if x.shape[-1] != k:
        raise ValueError(f"an input of {x.shape[-1]} columns, not the {k} of layer {model.layers[layer].name!r}")
    tokens = x.numel() // k
    memory = torch.empty(cuda.quantized_bytes(tokens, token_bytes), dtype=torch.uint8, device=x.device)
    if tokens > 0:
        rows, stride = _rows(x, k)
        source = cuda.Input(rows.data_ptr(), 0, stride, 0, element_type(x.dtype), prologue, epsilon)
        if prologue != cuda.PLAIN:
            shape = (k,) if prologue == cuda.RMS_NORM else x.shape
            if (second.shape, second.dtype, second.device) != (shape, x.dtype, x.device):
                raise ValueError(f"{second.dtype} {tuple(second.shape)} beside an input of {x.dtype} {tuple(x.shape)}")
            # Kept until the kernel is on the stream.
            second_rows, source.second_stride = _rows(second, k)
            source.second = second_rows.data_ptr()
        model.quantize_into(layer, source, tokens, memory.data_ptr(), stream(x))
    return memory[: tokens * token_bytes].view(*x.shape[:-1], token_bytes)


@torch.library.impl("zqc::linear", "CUDA")
def _linear(quantized, model, layer, n, dtype):
    model = _models[model]
    token_bytes = model.layers[layer].token_bytes
    _check_device(model, quantized)
    tokens = quantized.numel() // token_bytes
    # A copy has no padding, and parts of a token lie apart.
    is_whole = quantized.untyped_storage().nbytes() == cuda.quantized_bytes(tokens, token_bytes)
    is_rows = quantized.shape[-1] == token_bytes and quantized.is_contiguous() and quantized.storage_offset() == 0
    if quantized.dtype != torch.uint8 or not is_rows or not is_whole:
        name = model.layers[layer].name
        raise ValueError(f"not a quantized input of layer {name!r}, but a copy or part of one, or that of another")
    y = torch.empty((*quantized.shape[:-1], n), dtype=dtype, device=quantized.device)
    if tokens > 0:
        output = cuda.Output(y=y.data_ptr(), type=element_type(dtype))
        model.apply_from(layer, quantized.data_ptr(), tokens, output, stream(quantized))
    return y


def _check_device(model, tensor):
    if tensor.device.index != model.device:
        raise ValueError(f"a tensor on {tensor.device}, the package is on cuda:{model.device}")


@torch.library.register_fake("zqc::quantize")
def _(x, second, model, layer, token_bytes, prologue, epsilon):
    return x.new_empty((*x.shape[:-1], token_bytes), dtype=torch.uint8)


@torch.library.register_fake("zqc::linear")
def _(quantized, model, layer, n, dtype):
    return quantized.new_empty((*quantized.shape[:-1], n), dtype=dtype)
