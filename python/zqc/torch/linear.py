"""Linear layers of a package as torch modules."""

import weakref
from collections import Counter, defaultdict

import torch

from zqc import cuda
from zqc.torch import operators


class LoadedModel:
    """A package on a device, for the modules that read it."""

    def __init__(self, package, device=0, accumulation=cuda.FAST):
        self._model = cuda.Model(package, device, accumulation)
        self.number = operators.register(self._model)
        self.layers = self._model.layers
        self._readers = Counter(layer.activation for layer in self.layers)
        self._shared = {}

    def quantize(self, x, layer, prologue=cuda.PLAIN, second=None, epsilon=0.0):
        """The quantized input of every layer that has the same activation as this one."""
        return operators.quantize(x, second, self.number, layer.index, layer.token_bytes, prologue, epsilon)

    def quantize_shared(self, x, layer):
        """As `quantize`; layers of one activation that are called one after the other with one tensor get one result.

        In a capture they do not: it may hold one of them, and the next capture the others.
        """
        readers = self._readers[layer.activation]
        if readers == 1 or torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():
            return self.quantize(x, layer)
        stream = operators.stream(x)
        shared = self._shared.get(stream)
        if shared is None or not shared.serves(x, layer):
            shared = self._shared[stream] = _Shared(x, layer.activation, self.quantize(x, layer))
        shared.users.add(layer.index)
        if len(shared.users) == readers:
            self._shared.pop(stream, None)
        return shared.quantized

    def apply(self, quantized, layer, dtype):
        """The layer applied to its quantized input."""
        return operators.linear(quantized, self.number, layer.index, layer.n, dtype)

    def prepare(self, tokens, dtype, prologues):
        """Compiles what calls of up to `tokens` tokens need."""
        element_type = operators.element_type(dtype)
        self._model.prepare(tokens, element_type, element_type, prologues)


class _Shared:
    """A quantized tensor, and which layers have used it."""

    def __init__(self, tensor, activation, quantized):
        self.tensor = weakref.ref(tensor)
        self.version = None if tensor.is_inference() else tensor._version
        self.activation = activation
        self.quantized = quantized
        self.users = set()

    def serves(self, tensor, layer):
        """Whether the tensor is still the one that was quantized.

        A layer that comes again may find other values in the same tensor, which inference tensors do not tell.
        """
        if self.tensor() is not tensor or self.activation != layer.activation or layer.index in self.users:
            return False
        return self.version == (None if tensor.is_inference() else tensor._version)


class Linear(torch.nn.Module):
    """A linear layer of a package: of floats, in whose type the result is, or of a quantized input."""

    prologue = cuda.PLAIN

    def __init__(self, model, layer, dtype, bias=None):
        super().__init__()
        self.in_features, self.out_features = layer.k, layer.n
        self.register_parameter("bias", bias)
        # The type of the result for a quantized input.
        self.dtype = dtype
        self.loaded, self.layer = model, layer

    def forward(self, x):
        if x.dtype == torch.uint8:
            y = self.loaded.apply(x, self.layer, self.dtype)
        else:
            y = self.loaded.apply(self.loaded.quantize_shared(x, self.layer), self.layer, x.dtype)
        return y if self.bias is None else y + self.bias

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}, zqc={self.layer.name!r}"


def _is_same_path(module, layer):
    """Whether one is the other, or the end of the other: exporters wrap a model in modules of their own."""
    return module == layer or module.endswith("." + layer) or layer.endswith("." + module)


def replace_linears(module, package, device=0, accumulation=cuda.FAST):
    """Puts the package's layers in place of the torch.nn.Linear modules of the same names; returns these names.

    Raises ValueError when a layer of the package has no module, or one of another shape.
    """
    model = LoadedModel(package, device, accumulation)
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
        places[name] = Linear(model, layer, linear.weight.dtype, None if layer.has_bias else linear.bias)
    for name, linear in places.items():
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, linear)
    return list(places)


def prepare(module, tokens, dtype=torch.bfloat16):
    """Compiles and loads what a model with layers of a package needs for up to `tokens` tokens of all sequences.

    No later call with as many or fewer compiles anything. The first time on a machine this takes seconds to minutes.
    """
    prologues = defaultdict(set)
    for part in module.modules():
        if isinstance(loaded := getattr(part, "loaded", None), LoadedModel):
            prologues[loaded].add(part.prologue)
    for loaded, of_loaded in prologues.items():
        loaded.prepare(tokens, dtype, of_loaded)
