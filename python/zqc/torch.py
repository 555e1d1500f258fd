"""Layers of a zqc CUDA package in place of the linear layers of a torch model.

    model = AutoModelForCausalLM.from_pretrained(..., dtype=torch.bfloat16).cuda()
    zqc.torch.replace_linears(model, zqc.cuda.Package("model.zqcuda"))

Layers that the package quantizes together, such as q, k and v, share one quantization when they are called one after
the other with the same tensor object. To capture a CUDA graph, run the model once before with as many tokens.
"""

import weakref

import torch

from zqc import cuda

_TYPES = {torch.bfloat16: cuda.BF16, torch.float16: cuda.F16, torch.float32: cuda.F32}

_SMALLEST_SCRATCH = 64


class _Quantized:
    """What a stream's scratch holds, and which layers have used it."""

    def __init__(self, tensor, activation):
        self.tensor = weakref.ref(tensor)
        self.version = None if tensor.is_inference() else tensor._version
        self.activation = activation
        self.users = set()

    def serves(self, tensor, layer):
        """Whether the tensor is still the one that was quantized.

        A layer that comes again may find other values in the same tensor, which inference tensors do not tell.
        """
        if self.tensor() is not tensor or self.activation != layer.activation or layer.index in self.users:
            return False
        return self.version == (None if tensor.is_inference() else tensor._version)


class SharedModel:
    """A package on a device, with a scratch for each stream."""

    def __init__(self, package, device=0):
        self._model = cuda.Model(package, device)
        self._scratches = {}
        self._quantized = {}
        self.layers = self._model.layers

    def _scratch(self, stream, tokens):
        """A scratch that is large enough. Smaller ones are kept: a captured graph may hold their addresses."""
        scratches = self._scratches.setdefault(stream, [])
        if not scratches or scratches[-1].tokens < tokens:
            capacity = max(_SMALLEST_SCRATCH, 1 << (tokens - 1).bit_length())
            scratches.append(cuda.Scratch(self._model, capacity))
            self._quantized.pop(stream, None)
        return scratches[-1]

    def linear(self, layer, x):
        """The layer applied to `x[..., k]`, in the type of `x`."""
        rows = x.reshape(-1, layer.k)
        tokens = rows.shape[0]
        y = torch.empty((*x.shape[:-1], layer.n), dtype=x.dtype, device=x.device)
        if tokens == 0:
            return y
        if rows.stride(1) != 1 or tokens > 1 and rows.stride(0) < layer.k:
            rows = rows.contiguous()
        stream = torch.cuda.current_stream(x.device).cuda_stream
        scratch = self._scratch(stream, tokens)
        quantized = self._quantized.get(stream)
        if quantized is None or not quantized.serves(x, layer):
            stride = rows.stride(0) if tokens > 1 else 0
            source = cuda.Input(x=rows.data_ptr(), x_stride=stride, type=_TYPES[x.dtype])
            self._quantized.pop(stream, None)
            self._model.quantize(layer.index, source, tokens, scratch, stream)
            quantized = self._quantized[stream] = _Quantized(x, layer.activation)
        self._model.apply(layer.index, scratch, cuda.Output(y=y.data_ptr(), type=_TYPES[y.dtype]), stream)
        quantized.users.add(layer.index)
        return y


class Linear(torch.nn.Module):
    """A linear layer of a package."""

    def __init__(self, model, layer, bias=None):
        super().__init__()
        self.in_features, self.out_features = layer.k, layer.n
        self.register_parameter("bias", bias)
        self._model, self._layer = model, layer

    def forward(self, x):
        y = self._model.linear(self._layer, x)
        return y if self.bias is None else y + self.bias

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}, zqc={self._layer.name!r}"


def _is_same_path(module, layer):
    """Whether one is the other, or the end of the other: exporters wrap a model in modules of their own."""
    return module == layer or module.endswith("." + layer) or layer.endswith("." + module)


def replace_linears(module, package, device=0):
    """Puts the package's layers in place of the torch.nn.Linear modules of the same names; returns these names.

    Raises ValueError when a layer of the package has no module, or one of another shape.
    """
    model = SharedModel(package, device)
    linears = {name: linear for name, linear in module.named_modules() if isinstance(linear, torch.nn.Linear)}
    places = {}
    for layer in model.layers:
        names = [name for name in linears if _is_same_path(name, layer.name)]
        exact = [name for name in names if name == layer.name]
        if len(exact or names) != 1:
            raise ValueError(f"layer {layer.name!r} of the package: {len(names)} modules have its name")
        name = (exact or names)[0]
        linear = linears[name]
        if (linear.out_features, linear.in_features) != (layer.n, layer.k):
            shape = f"{linear.out_features} x {linear.in_features}"
            raise ValueError(f"module {name!r} is {shape}, layer {layer.name!r} is {layer.n} x {layer.k}")
        if layer.has_bias and linear.bias is None:
            raise ValueError(f"module {name!r} has no bias, layer {layer.name!r} has one")
        places[name] = Linear(model, layer, None if layer.has_bias else linear.bias)
    for name, linear in places.items():
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, linear)
    return list(places)
