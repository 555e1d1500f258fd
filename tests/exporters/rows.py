"""The rows of the table: which checkpoint goes which way."""
import dataclasses

DECODERS = ["llama", "llama-tied", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma", "gemma2", "gemma3", "smollm3", "granite",
            "olmo", "lfm2"]
ENCODERS = ["bert", "distilbert", "modernbert"]


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    route: str
    checkpoint: str = ""
    arguments: tuple = ()
    # The row whose export this route takes, in place of a checkpoint.
    source: str = ""
    file: str = "model.onnx"
    # Whether it runs with requirements-older.txt.
    older: bool = False
    # Whether it is calibrated on arrays of all inputs, not on text.
    arrays: bool = False
    options: tuple = ()


def genai(name, precision="fp32", provider="cpu", *extra, older=False, label="", **more):
    version = "0.9*" if older else "0.18"
    title = f"genai {version} {precision} {provider}{' ' + label if label else ''}/{name}"
    return Row(title, "genai", name, (precision, provider, *extra), older=older, **more)


def optimum(name, task, *options, label="", **more):
    return Row(f"Optimum*{' ' + label if label else ''}/{name}", "optimum", name, (task, *options), older=True, **more)


def transformers5(name, fusions="-", opset="", **more):
    label = (f" {fusions} fusions" if fusions != "-" else "") + (f" opset {opset}" if opset else "")
    return Row(f"transformers 5{label}/{name}", "transformers5", name, (fusions, opset) if opset else (fusions,), **more)


def torch(name, exporter, **more):
    return Row(f"torch {exporter}/{name}", "torch", name, (exporter,), **more)


def parts(name, task, files):
    """A row for each part of an encoder-decoder model."""
    return [dataclasses.replace(optimum(name, task, arrays=True, file=f"{file}.onnx"), name=f"Optimum*/{name} {file}") for file in files]


SEQ2SEQ = ["encoder_model", "decoder_model", "decoder_with_past_model", "decoder_model_merged"]
WITH_PAST = "text-generation-with-past"
ROWS = [
    *[genai(name) for name in [*DECODERS, "gpt-oss", "qwen3.5-vl"]],
    genai("whisper", file="encoder.onnx", arrays=True, label="encoder"),
    genai("whisper", file="decoder.onnx", arrays=True, label="decoder"),
    *[genai(name, "fp16", "cuda") for name in ["llama", "qwen3"]],
    *[genai(name, "fp16", "dml") for name in ["llama", "qwen3"]],
    genai("llama", "bf16", "cuda"),
    genai("llama", "int4"),
    genai("llama", "int4", label="--requantize", options=("--requantize",)),
    genai("llama", "int4", "cpu", "use_qdq=true", label="QDQ --requantize", options=("--requantize",)),
    *[genai(name, older=True) for name in ["llama-tied", "qwen3", "gemma3", "phi3"]],
    *[optimum(name, WITH_PAST) for name in ["llama", "llama-tied", "qwen3", "gemma3", "smollm3", "phi3", "gpt2", "opt", "gpt-oss"]],
    *[optimum(name, "text-generation", label="without past") for name in ["llama", "gpt2"]],
    optimum("llama", WITH_PAST, "--optimize", "O2", label="O2"),
    optimum("gpt2", WITH_PAST, "--optimize", "O3", label="O3"),
    *[optimum(name, "feature-extraction") for name in ENCODERS],
    *[optimum("bert", "feature-extraction", "--optimize", level, label=level) for level in ["O1", "O2", "O3"]],
    *parts("t5", "text2text-generation-with-past", SEQ2SEQ),
    *parts("whisper", "automatic-speech-recognition-with-past", SEQ2SEQ),
    optimum("vit", "image-classification", arrays=True),
    *[Row(f"float16/{name}", "float16", source=f"Optimum*/{name}") for name in ["llama", "modernbert", "bert"]],
    *[transformers5(name) for name in ["llama", "qwen3", "phi3", "gemma3", "gpt-oss", "qwen3-moe", "lfm2", "qwen3.5", "gpt2", "bert"]],
    *[transformers5("llama", opset=opset) for opset in ["23", "24"]],
    *[transformers5(name, arrays=True) for name in ["vit", "siglip"]],
    *[transformers5(name, "cpu") for name in ["llama", "qwen3", "gpt2", "bert"]],
    *[transformers5(name, "cuda") for name in ["llama", "bert"]],
    *[Row(f"onnxruntime.transformers/{name}", "optimized", source=f"Optimum*/{name}", arguments=(kind,), arrays=name == "vit")
      for name, kind in [("bert", "bert"), ("distilbert", "bert"), ("gpt2", "gpt2"), ("phi3", "phi"), ("vit", "vit")]],
    *[Row(f"onnxruntime.transformers/t5 {file}", "optimized", source=f"Optimum*/t5 {file}", arguments=("t5",), arrays=True)
      for file in SEQ2SEQ[:2]],
    *[Row(f"onnxruntime.transformers/whisper {file}", "optimized", source=f"Optimum*/whisper {file}", arguments=("bart",), arrays=True)
      for file in SEQ2SEQ[:2]],
    Row("FP8 QDQ weights/llama", "fp8", source="Optimum*/llama", options=("--requantize",)),
    Row("FP8 QDQ weights and activations/llama", "fp8", source="Optimum*/llama", arguments=("activations",), options=("--requantize",)),
    Row("ModelOpt FP8/llama", "modelopt", "llama"),
    Row("jax2onnx, batch and length fixed/flax decoder", "jax", "llama"),
    *[torch(name, exporter) for name in ["llama", "mixtral", "opt", "bert"] for exporter in ["dynamo", "legacy"]],
    *[torch(name, exporter, arrays=True) for name in ["t5", "whisper", "vit"] for exporter in ["dynamo", "legacy"]],
]
