#!/usr/bin/env python3
"""Train the model on one GPU: train.py TOKENS_DIR STATE_DIR --seconds S [--stop-after T]

TOKENS_DIR has what pack.py wrote, unpacked: train-*.bin and heldout.bin. The learning rate follows the clock: it is warmed up and then falls
as a cosine to nothing after S seconds of training, compilation not counted. A run stops T seconds after its start and leaves
STATE_DIR/checkpoint.pt; the same command goes on from there. Every run writes STATE_DIR/model.safetensors in fp16, named as transformers
names the weights of LlamaForCausalLM.

Needs torch, numpy and safetensors. Progress goes to stdout.
"""
import argparse, math, pathlib, time
import numpy as np, torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

CONFIG = dict(vocab_size=16384, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4,
              head_dim=64, max_position_embeddings=1024, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True)
CONTEXT, BOS = CONFIG["max_position_embeddings"], 0
BATCH, MICRO_BATCH = 128, 64  # windows of CONTEXT tokens: of a step, and at once on the GPU
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 3e-3, 0.1, 0.04
LOG_STEPS, VALIDATION_STEPS, SEED = 50, 250, 1


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.dim, self.groups = c["head_dim"], c["num_attention_heads"] // c["num_key_value_heads"]
        wide, narrow = c["num_attention_heads"] * self.dim, c["num_key_value_heads"] * self.dim
        self.q_proj = nn.Linear(c["hidden_size"], wide, bias=False)
        self.k_proj = nn.Linear(c["hidden_size"], narrow, bias=False)
        self.v_proj = nn.Linear(c["hidden_size"], narrow, bias=False)
        self.o_proj = nn.Linear(wide, c["hidden_size"], bias=False)

    def forward(self, x, cos, sin):
        q, k, v = (p(x).unflatten(-1, (-1, self.dim)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = (y * cos + torch.cat((-y[..., self.dim // 2:], y[..., :self.dim // 2]), -1) * sin for y in (q, k))
        k, v = (y.repeat_interleave(self.groups, 1) for y in (k, v))
        y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = nn.RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = Mlp(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = nn.RMSNorm(c["hidden_size"], c["rms_norm_eps"])


class LlamaForCausalLM(nn.Module):
    """The modules are named as in transformers; the head is the embedding."""

    def __init__(self, c):
        super().__init__()
        self.model = Decoder(c)
        for name, p in self.named_parameters():
            if p.dim() > 1:  # what writes to the residual stream begins smaller, by its depth
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * c["num_hidden_layers"]) if deep else 1))
        frequencies = c["rope_theta"] ** -(torch.arange(0, c["head_dim"], 2) / c["head_dim"])
        angles = torch.outer(torch.arange(c["max_position_embeddings"]), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids):
        """Logits [batch, sequence, vocabulary] of `ids` [batch, sequence]."""
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, self.cos[:ids.shape[1]], self.sin[:ids.shape[1]])
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)


def loss_of(model, ids):
    return F.cross_entropy(model(ids)[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


class Windows:
    """The windows of every epoch, in an order and from a first token of its own; the data is cut into windows anew each time."""

    def __init__(self, data):
        self.data, self.count, self.epoch = data, len(data) // CONTEXT - 1, None

    def rows(self, first, count):
        """Windows `first` to `first + count` of all epochs, as int64 [count, CONTEXT]. Half of them begin with <s>."""
        epoch = first // self.count
        if epoch != self.epoch:
            rng = np.random.default_rng((SEED, epoch))
            order = rng.integers(CONTEXT) + CONTEXT * rng.permutation(self.count)
            self.epoch, self.starts = epoch, torch.as_tensor(order, device=self.data.device)
        starts = self.starts[(first + torch.arange(count, device=self.data.device)) % self.count]
        rows = self.data[starts[:, None] + torch.arange(CONTEXT, device=self.data.device)].long()
        rows[::2, 0] = BOS
        return rows


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("tokens", type=pathlib.Path)
    ap.add_argument("state", type=pathlib.Path)
    ap.add_argument("--seconds", type=float, required=True, help="training in all")
    ap.add_argument("--stop-after", type=float, default=math.inf, help="seconds that this run may take")
    args = ap.parse_args()
    began = time.monotonic()
    args.state.mkdir(parents=True, exist_ok=True)
    checkpoint = args.state / "checkpoint.pt"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    say = lambda *words: print(*words, flush=True)

    # uint16 has no indexing on the GPU: int16 carries the bits, and no id reaches the sign.
    load = lambda path: torch.from_numpy(np.fromfile(path, np.int16)).to(device)
    train = Windows(torch.cat([load(path) for path in sorted(args.tokens.glob("train-*.bin"))]))
    heldout = load(args.tokens / "heldout.bin")
    heldout = heldout[:len(heldout) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)

    model = LlamaForCausalLM(CONFIG).to(device)
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
              {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)
    step, elapsed = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, elapsed = state["step"], state["elapsed"]
    say(f"torch {torch.__version__}, {torch.cuda.get_device_name() if device == 'cuda' else device}; {CONFIG}; "
        f"{sum(p.numel() for p in model.parameters())} parameters; {len(train.data)} tokens for training, {heldout.numel()} held out; "
        f"batch {BATCH} x {CONTEXT}, learning rate {LEARNING_RATE}, weight decay {WEIGHT_DECAY}; from step {step}, {elapsed:.0f} s of {args.seconds:.0f} s")

    loss = torch.compile(loss_of) if device == "cuda" else loss_of  # not for validation: it would compile a second graph
    autocast = torch.autocast(device, torch.bfloat16)

    def backward(first):
        total = 0.0
        for i in range(0, BATCH, MICRO_BATCH):
            with autocast:
                part = loss(model, train.rows(first + i, MICRO_BATCH)) * (MICRO_BATCH / BATCH)
            part.backward()
            total += part.detach()
        return total

    @torch.no_grad()
    def validation(rows):
        with autocast:
            return torch.stack([loss_of(model, part.long()) for part in rows.split(MICRO_BATCH) if len(part) == MICRO_BATCH]).mean().item()

    backward(0)  # compiles
    optimizer.zero_grad(set_to_none=True)
    last, last_step = time.monotonic(), step
    while elapsed < args.seconds and time.monotonic() - began < args.stop_after:
        progress = elapsed / args.seconds
        rate = LEARNING_RATE * min(progress / WARM_UP + 1e-3, 0.5 * (1 + math.cos(math.pi * max(0.0, progress - WARM_UP) / (1 - WARM_UP))))
        for group in optimizer.param_groups:
            group["lr"] = rate
        total = backward(step * BATCH)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        value = total.item()  # waits for the GPU, so that the clock is right
        now = time.monotonic()
        elapsed, last = elapsed + now - last, now
        if step % LOG_STEPS == 0:
            epoch = step * BATCH / train.count
            say(f"step {step} ({elapsed:.0f} s, epoch {epoch:.2f}): loss {value:.4f}, gradient norm {norm.item():.3f}, learning rate {rate:.2e}")
        if step % VALIDATION_STEPS == 0:
            say(f"step {step}: validation loss {validation(heldout[:4 * MICRO_BATCH]):.4f}")
            last = time.monotonic()

    tokens = (step - last_step) * BATCH * CONTEXT
    say(f"{step - last_step} steps, {tokens / 1e6:.1f} M tokens in this run of {time.monotonic() - began:.0f} s; {elapsed:.0f} s of training in all")
    save_file({name: p.half().cpu().contiguous() for name, p in model.state_dict().items()}, args.state / "model.safetensors")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "elapsed": elapsed}, checkpoint)
    value = validation(heldout)
    say(f"held-out loss {value:.4f}, perplexity {math.exp(value):.2f}, windows of {CONTEXT}")


if __name__ == "__main__":
    main()
