"""Small Hugging Face checkpoints with random weights, one a folder, as `from_pretrained` and every exporter read them."""
import json
import shutil

import torch
import transformers as t

VOCABULARY = 2048  # that of the bundled tokenizer
BASE = dict(vocab_size=VOCABULARY, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=512, bos_token_id=0, eos_token_id=0, pad_token_id=0)
GROUPED = dict(BASE, num_key_value_heads=2)
ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [4, 2, 2],
          "mrope_interleaved": True}
HYBRID = dict(GROUPED, num_hidden_layers=4, head_dim=32, rope_parameters=ROTARY, linear_key_head_dim=32, linear_value_head_dim=32,
              linear_num_key_heads=2, linear_num_value_heads=4)
SLIDING = ["sliding_attention", "sliding_attention", "full_attention"]
YARN = {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
        "original_max_position_embeddings": 4096}
ENCODER = dict(vocab_size=VOCABULARY, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
               max_position_embeddings=256)
IMAGE = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, image_size=32, patch_size=8)


def causal(kind, config=None, **values):
    return lambda: getattr(t, f"{kind}ForCausalLM")(getattr(t, config or f"{kind}Config")(**values))


MODELS = {
    "llama": causal("Llama", **GROUPED),
    "llama-tied": causal("Llama", **GROUPED, tie_word_embeddings=True),
    "mistral": causal("Mistral", **GROUPED, sliding_window=64),
    "mixtral": causal("Mixtral", **GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "qwen2": causal("Qwen2", **GROUPED),
    "qwen3": causal("Qwen3", **GROUPED, head_dim=32),
    "qwen3-moe": causal("Qwen3Moe", **GROUPED, head_dim=32, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=128),
    "qwen3.5": causal("Qwen3_5", "Qwen3_5TextConfig", **HYBRID),
    "qwen3.5-vl": lambda: t.Qwen3_5ForConditionalGeneration(t.Qwen3_5Config(
        text_config=t.Qwen3_5TextConfig(**HYBRID).to_dict(),
        vision_config=dict(depth=1, hidden_size=64, intermediate_size=64, num_heads=2, out_hidden_size=128,
                           num_position_embeddings=16, deepstack_visual_indexes=[]))),
    "phi": causal("Phi", **BASE),
    "phi3": causal("Phi3", **GROUPED, original_max_position_embeddings=512),
    "gemma": causal("Gemma", **GROUPED, head_dim=32),
    "gemma2": causal("Gemma2", **GROUPED, head_dim=32, sliding_window=64),
    "gemma3": causal("Gemma3", "Gemma3TextConfig", **GROUPED, head_dim=32, sliding_window=64, layer_types=SLIDING),
    "smollm3": causal("SmolLM3", **GROUPED),
    "granite": causal("Granite", **GROUPED),
    "olmo": causal("Olmo", **GROUPED),
    "lfm2": causal("Lfm2", **GROUPED, layer_types=["conv", "full_attention", "conv"], block_auto_adjust_ff_dim=False),
    "gpt-oss": causal("GptOss", **dict(GROUPED, intermediate_size=128, max_position_embeddings=131072), head_dim=64,
                      num_local_experts=4, num_experts_per_tok=2, sliding_window=64, rope_parameters=YARN),
    "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=VOCABULARY, n_embd=128, n_layer=3, n_head=4, n_positions=256,
                                                   bos_token_id=0, eos_token_id=0)),
    "opt": causal("OPT", vocab_size=VOCABULARY, hidden_size=128, ffn_dim=256, num_hidden_layers=3, num_attention_heads=4,
                  max_position_embeddings=256, word_embed_proj_dim=128, bos_token_id=0, eos_token_id=0),
    "bert": lambda: t.BertModel(t.BertConfig(**ENCODER)),
    "distilbert": lambda: t.DistilBertModel(t.DistilBertConfig(vocab_size=VOCABULARY, dim=128, hidden_dim=256, n_layers=3,
                                                               n_heads=4)),
    "modernbert": lambda: t.ModernBertModel(t.ModernBertConfig(**ENCODER, pad_token_id=0, bos_token_id=0, eos_token_id=0,
                                                               cls_token_id=0, sep_token_id=0)),
    "t5": lambda: t.T5ForConditionalGeneration(t.T5Config(vocab_size=VOCABULARY, d_model=128, d_kv=32, d_ff=256, num_layers=2,
                                                          num_heads=4, decoder_start_token_id=0)),
    "whisper": lambda: t.WhisperForConditionalGeneration(t.WhisperConfig(
        vocab_size=VOCABULARY, d_model=128, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=256, decoder_ffn_dim=256, num_mel_bins=80, max_source_positions=1500,
        max_target_positions=128, pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0)),
    "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**IMAGE, num_labels=10)),
    "siglip": lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**IMAGE)),
}


def make(name, folder, tokenizer):
    """Writes the checkpoint `name` to `folder`. Weights are wide enough (0.02 would make nearly an identity of every layer) that a
    wrong graph shows."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.dim() >= 2:
                value.normal_(std=0.5 if "embed" in key else 0.5 / value.shape[-1] ** 0.5)
            elif "norm" in key.lower() and key.endswith("weight"):
                value.add_(0.1 * torch.randn_like(value))
            elif key.endswith("bias"):
                value.normal_(std=0.05)
    model.save_pretrained(folder)
    loaded = t.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), bos_token="<s>", eos_token="<s>", unk_token="<s>")
    loaded.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    # The name that transformers 4 knows too.
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    shutil.copy(tokenizer, folder / "tokenizer.json")
