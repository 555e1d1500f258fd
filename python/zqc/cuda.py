"""The launcher of zqc's CUDA packages: ctypes over libzqc_cuda.

    package = Package("model.zqcuda")
    model = Model(package)
    index = package.find("model.layers.0.mlp.down_proj")

Pointers and streams are integers, as torch gives them; `zqc.torch` puts torch modules on top of this. The library is
that of this package, or the file that ZQC_CUDA_LIBRARY names.
"""

import ctypes
import importlib.util
import os
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import NamedTuple

from zqc._library import shipped

BF16, F16, F32 = range(3)
PLAIN, RMS_NORM, SILU_MUL = range(3)
DECODE, PREFILL = range(2)
FAST, ACCURATE = range(2)

_UNAVAILABLE = 3

# Tokens are padded to a multiple of this.
_TOKEN_MULTIPLE = 8

# The version of the library's interface, without the patch level, whose structures this file describes.
_INTERFACE = 1


class Error(RuntimeError):
    """A call failed; the message says why."""


class Unavailable(Error):
    """This machine has no CUDA driver, no NVRTC, or no Hopper GPU."""


class Layer(NamedTuple):
    """A linear layer of a package."""

    index: int
    name: str
    n: int
    k: int
    activation: int
    token_bytes: int
    has_bias: bool


def quantized_bytes(tokens, token_bytes):
    """The memory that `Model.quantize_into` needs, for a layer's `token_bytes`."""
    return -(-tokens // _TOKEN_MULTIPLE) * _TOKEN_MULTIPLE * token_bytes


class _Layer(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("n", c_size_t),
        ("k", c_size_t),
        ("activation", c_size_t),
        ("token_bytes", c_size_t),
        ("has_bias", c_int),
    ]


class Input(ctypes.Structure):
    """Rows in device memory; a stride of 0 means that nothing is between them."""

    _fields_ = [
        ("x", c_void_p),
        ("second", c_void_p),
        ("x_stride", c_size_t),
        ("second_stride", c_size_t),
        ("type", c_uint32),
        ("prologue", c_uint32),
        ("epsilon", c_float),
    ]


class Output(ctypes.Structure):
    """Rows in device memory; a stride of 0 means that nothing is between them."""

    _fields_ = [("y", c_void_p), ("stride", c_size_t), ("type", c_uint32)]


class Variant(ctypes.Structure):
    """A linear kernel with its tile."""

    _fields_ = [("kernel", c_uint32), ("tokens", c_uint32), ("cluster", c_uint32), ("blocks_per_sm", c_uint32)]


_SIGNATURES = {
    "zqc_cuda_version": (c_uint32, []),
    "zqc_last_error": (c_char_p, []),
    "zqc_package_open": (c_uint32, [c_char_p, POINTER(c_void_p)]),
    "zqc_package_close": (None, [c_void_p]),
    "zqc_package_layer_count": (c_size_t, [c_void_p]),
    "zqc_package_layer": (c_uint32, [c_void_p, c_size_t, POINTER(_Layer)]),
    "zqc_package_find": (c_uint32, [c_void_p, c_char_p, POINTER(c_size_t)]),
    "zqc_model_load": (c_uint32, [c_void_p, c_int, c_uint32, POINTER(c_void_p)]),
    "zqc_model_destroy": (None, [c_void_p]),
    "zqc_model_prepare": (c_uint32, [c_void_p, c_size_t, c_uint32, c_uint32, c_uint32]),
    "zqc_scratch_create": (c_uint32, [c_void_p, c_size_t, POINTER(c_void_p)]),
    "zqc_scratch_destroy": (None, [c_void_p]),
    "zqc_quantize": (c_uint32, [c_void_p, c_size_t, POINTER(Input), c_size_t, c_void_p, c_void_p]),
    "zqc_linear_apply": (c_uint32, [c_void_p, c_size_t, c_void_p, POINTER(Output), c_void_p]),
    "zqc_linear_apply_variant": (
        c_uint32,
        [c_void_p, c_size_t, POINTER(Variant), c_void_p, POINTER(Output), c_void_p],
    ),
    "zqc_quantize_into": (c_uint32, [c_void_p, c_size_t, POINTER(Input), c_size_t, c_void_p, c_void_p]),
    "zqc_linear_apply_from": (c_uint32, [c_void_p, c_size_t, c_void_p, c_size_t, POINTER(Output), c_void_p]),
    "zqc_linear_forward": (
        c_uint32,
        [c_void_p, c_size_t, POINTER(Input), c_size_t, POINTER(Output), c_void_p],
    ),
}


def _use_nvrtc_of_python():
    """Names the folder of the wheel nvidia-cuda-nvrtc, where there is one and the user has named none."""
    if "ZQC_NVRTC_LIB" in os.environ:
        return
    nvidia = importlib.util.find_spec("nvidia")
    for folder in nvidia.submodule_search_locations if nvidia else []:
        for library in Path(folder).glob("*/lib/libnvrtc.so*"):
            os.environ["ZQC_NVRTC_LIB"] = str(library.parent)
            return


def _load():
    _use_nvrtc_of_python()
    library = ctypes.CDLL(os.environ.get("ZQC_CUDA_LIBRARY") or str(shipped("zqc_cuda")))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    if library.zqc_cuda_version() // 1000 != _INTERFACE:
        raise ImportError(f"{library._name} has version {library.zqc_cuda_version()}, which this file does not know")
    return library


_library = _load()


def _check(status):
    if status:
        message = _library.zqc_last_error().decode()
        raise (Unavailable if status == _UNAVAILABLE else Error)(message)


class Package:
    """A folder that `zqc --emit cuda` wrote."""

    def __init__(self, folder):
        self._handle = c_void_p()
        _check(_library.zqc_package_open(os.fspath(folder).encode(), byref(self._handle)))

    def __del__(self):
        _library.zqc_package_close(self._handle)

    def __len__(self):
        return _library.zqc_package_layer_count(self._handle)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        layer = _Layer()
        _check(_library.zqc_package_layer(self._handle, index, byref(layer)))
        name, has_bias = layer.name.decode(), bool(layer.has_bias)
        return Layer(index, name, layer.n, layer.k, layer.activation, layer.token_bytes, has_bias)

    def find(self, name):
        """The index of the layer of this name."""
        index = c_size_t()
        _check(_library.zqc_package_find(self._handle, name.encode(), byref(index)))
        return index.value


class Model:
    """A package on a device. Its kernels add products up as the tensor cores do, in 14 bits (FAST), or in float32 every 1024
    columns (ACCURATE), which takes 5 to 25 % longer for many tokens."""

    def __init__(self, package, device=0, accumulation=FAST):
        self._handle = c_void_p()
        _check(_library.zqc_model_load(package._handle, device, accumulation, byref(self._handle)))
        self.device = device
        self.layers = list(package)

    def __del__(self):
        _library.zqc_model_destroy(self._handle)

    def prepare(self, tokens, input_type, output_type, prologues=(PLAIN,)):
        """Compiles and loads what calls of up to `tokens` tokens need, ahead of the first."""
        bits = sum(1 << prologue for prologue in set(prologues))
        _check(_library.zqc_model_prepare(self._handle, tokens, input_type, bits, output_type))

    def quantize(self, layer, rows, tokens, scratch, stream):
        """Quantizes an Input into the scratch, for every layer of the same activation."""
        _check(_library.zqc_quantize(self._handle, layer, byref(rows), tokens, scratch._handle, stream))

    def apply(self, layer, scratch, output, stream, variant=None):
        """Applies a layer to what the scratch holds, and writes an Output."""
        if variant is None:
            status = _library.zqc_linear_apply(self._handle, layer, scratch._handle, byref(output), stream)
        else:
            status = _library.zqc_linear_apply_variant(
                self._handle, layer, byref(variant), scratch._handle, byref(output), stream
            )
        _check(status)

    def quantize_into(self, layer, rows, tokens, memory, stream):
        """Quantizes an Input into device memory of `quantized_bytes`, for every layer of the same activation."""
        _check(_library.zqc_quantize_into(self._handle, layer, byref(rows), tokens, memory, stream))

    def apply_from(self, layer, memory, tokens, output, stream):
        """Applies a layer to what was quantized into the memory, and writes an Output."""
        _check(_library.zqc_linear_apply_from(self._handle, layer, memory, tokens, byref(output), stream))

    def forward(self, layer, rows, tokens, output, stream):
        """Quantizes an Input and applies a layer, with a scratch that the library keeps for the stream."""
        status = _library.zqc_linear_forward(self._handle, layer, byref(rows), tokens, byref(output), stream)
        _check(status)


class Scratch:
    """Room for a quantized input of up to `tokens` rows, of any layer of the model."""

    def __init__(self, model, tokens):
        self._handle = c_void_p()
        self.tokens = tokens
        _check(_library.zqc_scratch_create(model._handle, tokens, byref(self._handle)))

    def __del__(self):
        _library.zqc_scratch_destroy(self._handle)
