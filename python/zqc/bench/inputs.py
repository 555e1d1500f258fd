"""What a language model is fed with: tokens, and what follows from them as exporters mean it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

_TYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
}
_SEED = 0


class UnknownInput(ValueError):
    """The model asks for something that is not known here."""


class Inputs:
    """The inputs of a session of a model, and the caches among its outputs."""

    def __init__(self, session: Any, model: str):
        self._width = _cache_width(Path(model))
        self._inputs = session.get_inputs()
        self.outputs = [output.name for output in session.get_outputs()]
        names = {given.name for given in self._inputs}
        self._caches = {}
        for name in self._inputs:
            present = _present(name.name, self.outputs)
            if present is not None:
                self._caches[name.name] = present
        unknown = sorted(names - self._caches.keys() - set(_MADE_UP) - {"input_ids"})
        if "input_ids" not in names or unknown:
            raise UnknownInput(f"inputs that are not known: {', '.join(unknown) or 'there is no input_ids'}")
        self._random = np.random.default_rng(_SEED)

    @property
    def has_caches(self) -> bool:
        """Whether a token can be run without those before it."""
        return bool(self._caches)

    def feeds(self, tokens: int, past: int = 0, results: list[Any] | None = None) -> dict[str, Any]:
        """Feeds for `tokens` tokens after `past` others, which gave `results`."""
        feeds: dict[str, Any] = {}
        for given in self._inputs:
            dtype = _TYPES.get(given.type)
            if dtype is None:
                raise UnknownInput(f"input {given.name!r}: its type {given.type} is not known")
            if given.name == "input_ids":
                # Few of a vocabulary, so that any model has them.
                feeds[given.name] = self._random.integers(3, 100, (1, tokens)).astype(dtype)
            elif given.name in self._caches:
                if results is None:
                    feeds[given.name] = np.zeros(self._empty(given), dtype)
                else:
                    feeds[given.name] = results[self.outputs.index(self._caches[given.name])]
            else:
                values = np.asarray(_MADE_UP[given.name](tokens, past))
                rank = len(given.shape)
                if values.ndim > rank or given.name == "attention_mask" and rank != 2:
                    raise UnknownInput(f"input {given.name!r}: its {rank} dimensions are not known")
                batch = [size if isinstance(size, int) else 1 for size in given.shape[: rank - values.ndim]]
                feeds[given.name] = np.broadcast_to(values, (*batch, *values.shape)).astype(dtype)
        return feeds

    def _empty(self, cache: Any) -> list[int]:
        """The shape of a cache without tokens: `[batch, heads, tokens, width]`; a state has no tokens that vary."""
        shape = list(cache.shape)
        if len(shape) == 4 and not isinstance(shape[3], int):
            if self._width is None:
                raise UnknownInput(f"input {cache.name!r}: neither the model nor a genai_config.json has its width")
            shape[3] = self._width
        return [size if isinstance(size, int) else int(at == 0) for at, size in enumerate(shape)]


_MADE_UP = {
    "attention_mask": lambda tokens, past: np.ones(past + tokens),
    "position_ids": lambda tokens, past: np.arange(past, past + tokens),
    "cache_position": lambda tokens, past: np.arange(past, past + tokens),
    "token_type_ids": lambda tokens, past: np.zeros(tokens),
    "seqlens_k": lambda tokens, past: past + tokens - 1,
    "total_sequence_length": lambda tokens, past: past + tokens,
    "past_sequence_length": lambda tokens, past: past,
    "num_logits_to_keep": lambda tokens, past: 1,
    "logits_to_keep": lambda tokens, past: 1,
    "use_cache_branch": lambda tokens, past: past > 0,
}


def _present(name: str, outputs: list[str]) -> str | None:
    """The output that has what the cache `name` becomes."""
    for before, after in (("past_key_values", "present"), ("past", "present"), ("past_", "present_"), ("past_", "")):
        if before in name and name.replace(before, after) in outputs:
            return name.replace(before, after)
    return None


def _cache_width(model: Path) -> int | None:
    """The width of a head, where the model comes with a configuration of onnxruntime-genai."""
    config = model.with_name("genai_config.json")
    if not config.is_file():
        return None
    return json.loads(config.read_text("utf-8-sig"))["model"]["decoder"].get("head_size")
