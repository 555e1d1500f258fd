"""Inputs of exported language models, synthesized as their exporters mean them."""
import json
from pathlib import Path

import numpy as np

TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_,
         "tensor(float)": np.float32, "tensor(float16)": np.float16}


def feeds(session, ids):
    """Feeds for token ids [batch, length]: full attention mask, positions from 0, an empty cache."""
    batch, length = ids.shape
    made = {}
    for spec in session.get_inputs():
        dtype = TYPES[spec.type]
        if spec.name == "input_ids":
            value = ids
        elif spec.name == "attention_mask":
            value = np.ones((batch, length))
        elif spec.name == "position_ids":
            value = np.broadcast_to(np.arange(length), (batch, length))
        elif spec.name == "use_cache_branch":
            value = np.zeros(1)
        elif spec.name == "token_type_ids":
            value = np.zeros((batch, length))
        elif spec.name.startswith("past_key_values"):
            heads, width = spec.shape[1], spec.shape[3]
            width = width if isinstance(width, int) else head_size(session)
            value = np.zeros((batch, heads, 0, width))
        else:
            raise SystemExit(f"no rule for input {spec.name}")
        made[spec.name] = np.ascontiguousarray(value, dtype=dtype)
    return made


def head_size(session):
    """The width of a head in a model of onnxruntime-genai's builder, which leaves it symbolic."""
    config = Path(session._model_path).with_name("genai_config.json")
    return json.loads(config.read_text())["model"]["decoder"]["head_size"]


def logits(session, ids):
    """float32 logits [batch, length, vocabulary]."""
    names = [output.name for output in session.get_outputs()]
    name = "logits" if "logits" in names else names[0]
    return session.run([name], feeds(session, ids))[0].astype(np.float32)
