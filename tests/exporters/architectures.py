"""Small random-weight models of the architectures that people export, with inputs for each."""
import torch
import transformers as t
from torch import nn

VOCABULARY = 256
TEXT = dict(vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=128, attn_implementation="eager")
DECODER = dict(TEXT, intermediate_size=128, num_key_value_heads=2)


class Outputs(nn.Module):
    """The first output of a model that takes its inputs by position; caches are off."""

    def __init__(self, model, names, field, **options):
        super().__init__()
        self.model, self.names, self.field, self.options = model, names, field, options

    def forward(self, *inputs):
        return getattr(self.model(**dict(zip(self.names, inputs)), **self.options), self.field)


def tokens(generator, batch=2, length=12):
    ids = torch.randint(3, VOCABULARY, (batch, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def causal(kind, head="ForCausalLM", **config):
    config = getattr(t, f"{kind}Config")(**config)
    return lambda: (getattr(t, f"{kind}{head}")(config), "logits", dict(use_cache=False)), tokens


def gpt2():
    return causal("GPT2", "LMHeadModel", vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=128,
                  attn_implementation="eager")


def opt():
    return causal("OPT", vocab_size=VOCABULARY, hidden_size=64, ffn_dim=128, num_hidden_layers=2, num_attention_heads=4,
                  max_position_embeddings=128, word_embed_proj_dim=64, attn_implementation="eager")


def mixtral():
    return causal("Mixtral", **DECODER, num_local_experts=4, num_experts_per_tok=2,
                  experts_implementation="batched_mm")


class Layer(nn.Module):
    """One layer of a model that does not export as a whole."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states):
        return t.modeling_outputs.BaseModelOutput(self.layer(hidden_states)[0])


def llama4_experts():
    config = t.Llama4TextConfig(**DECODER, num_local_experts=4, num_experts_per_tok=2)
    layer = t.models.llama4.modeling_llama4.Llama4TextMoe

    def make():
        experts = layer(config)
        for weight in experts.parameters():
            nn.init.normal_(weight, std=0.2)
        return Layer(experts), "last_hidden_state", {}

    return make, lambda generator: {"hidden_states": torch.randn(8, 48, 64, generator=generator)}


def bert():
    config = t.BertConfig(**TEXT, intermediate_size=128)
    return lambda: (t.BertModel(config), "last_hidden_state", {}), tokens


def t5():
    config = t.T5Config(vocab_size=VOCABULARY, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
                        decoder_start_token_id=0, attn_implementation="eager")

    def inputs(generator):
        return {**tokens(generator), "decoder_input_ids": tokens(generator, length=7)["input_ids"]}

    return lambda: (t.T5ForConditionalGeneration(config), "logits", dict(use_cache=False)), inputs


def vit():
    config = t.ViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
                         image_size=32, patch_size=8, num_labels=10, attn_implementation="eager")
    return (lambda: (t.ViTForImageClassification(config), "logits", {}),
            lambda generator: {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)})


def whisper():
    config = t.WhisperConfig(vocab_size=VOCABULARY, d_model=64, encoder_layers=2, decoder_layers=2,
                             encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128,
                             decoder_ffn_dim=128, num_mel_bins=16, max_source_positions=40, max_target_positions=64,
                             pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
                             attn_implementation="eager")

    def inputs(generator):
        # Without a mask the model looks for packed sequences, by an operator that the legacy exporter lacks.
        decoder = {f"decoder_{key}": value for key, value in tokens(generator, length=7).items()}
        return {"input_features": torch.randn(2, 16, 80, generator=generator), **decoder}

    return lambda: (t.WhisperForConditionalGeneration(config), "logits", dict(use_cache=False)), inputs


ARCHITECTURES = {
    "GPT-2": gpt2,
    "OPT": opt,
    "LLaMA": lambda: causal("Llama", **DECODER),
    "Qwen2": lambda: causal("Qwen2", **DECODER),
    "Gemma": lambda: causal("Gemma", **DECODER, head_dim=16),
    "Phi": lambda: causal("Phi", **TEXT, intermediate_size=128),
    "Mixtral": mixtral,
    "Llama 4 experts": llama4_experts,
    "T5": t5,
    "BERT": bert,
    "ViT": vit,
    "Whisper": whisper,
}


def build(name):
    """The model, ready to export, and what makes its inputs from a random generator."""
    make, inputs = ARCHITECTURES[name]()
    torch.manual_seed(0)
    model, field, options = make()
    names = list(inputs(torch.Generator()))
    return Outputs(model.eval(), names, field, **options), inputs
