"""What a language model is fed with: tokens, and what follows from them as exporters mean it."""

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
    """The inputs of a session, and the caches among its outputs."""

    def __init__(self, session: Any):
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
        feeds = {}
        for given in self._inputs:
            dtype = _TYPES.get(given.type)
            if dtype is None:
                raise UnknownInput(f"input {given.name!r}: its type {given.type} is not known")
            if given.name == "input_ids":
                # Few of a vocabulary, so that any model has them.
                feeds[given.name] = self._random.integers(3, 100, (1, tokens)).astype(dtype)
            elif given.name in self._caches:
                if results is None:
                    feeds[given.name] = np.zeros(_empty(given.shape), dtype)
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


def _empty(shape: list[Any]) -> list[int]:
    """The shape of a cache without tokens: `[batch, heads, tokens, width]`, of which the first and the third vary; a state has
    one of its own."""
    return [size if isinstance(size, int) else int(at == 0) for at, size in enumerate(shape)]
