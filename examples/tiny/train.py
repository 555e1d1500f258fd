#!/usr/bin/env python3
"""Train the bundled tiny language model from scratch and export it: train.py OUT_DIR jargon.txt [more_text ...]

Writes model.onnx, tokenizer.json, heldout.txt, calibration.txt and checkpoint/ (the same weights for
transformers) into OUT_DIR; progress goes to stdout (train.log is one such run).
The first text is cut into training, validation and held-out pieces; any further text is for training only.

The corpus is public domain, from two Debian packages:
    apt-get download jargon-text dict-devil && for d in *.deb; do dpkg -x $d .; done
    zcat usr/share/doc/jargon-text/jargon.txt.gz > jargon.txt
    gzip -dc < usr/share/dictd/devil.dict.dz > devil.txt

Needs torch, transformers, tokenizers, onnx, onnxscript, onnxruntime; a few minutes on a GPU.
"""
import argparse, collections, math, pathlib, time
import numpy as np, onnx, onnxruntime, tokenizers, torch, transformers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB, CONTEXT, BOS, WINDOW = 2048, 512, 0, 256
# Where the first text is cut, as fractions of its length. Cuts move forward to the next blank line.
CUTS = {"validation": (0.30, 0.335), "heldout": (0.55, 0.625), "calibration": (0.625, 0.725)}


def tidy(text):
    """Undo the hard line breaks of prose; keep verse, tables and code, which are indented, as they are."""
    lines = [line.rstrip() for line in text.splitlines()]
    indents = collections.Counter(len(line) - len(line.lstrip()) for line in lines if line)
    base = indents.most_common(1)[0][0]
    out, last = [], ""
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line and indent == base and len(last) >= 50:
            out[-1] += " " + line.strip()
        elif line or last:  # runs of blank lines become one
            out.append(line[min(base, indent):])
        last = line
    return "\n".join(out).strip() + "\n"


def split(text):
    at = lambda fraction: text.index("\n\n", int(fraction * len(text))) + 2
    cut = {name: (at(lo), at(hi)) for name, (lo, hi) in CUTS.items()}
    pieces = {name: text[lo:hi] for name, (lo, hi) in cut.items()}
    (v0, v1), (h0, h1) = cut["validation"], cut["heldout"]
    return [text[:v0], text[v1:h0], text[h1:]], pieces  # calibration stays part of the training text


def train_tokenizer(texts):
    tok = tokenizers.Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<s>"], initial_alphabet=alphabet,
                                                       show_progress=False))
    assert tok.token_to_id("<s>") == BOS and tok.get_vocab_size() == VOCAB
    return tok


def windows(ids, bos):
    """Non-overlapping windows of WINDOW tokens, the ragged tail dropped; with bos, the first of each is <s>."""
    step = WINDOW - bool(bos)
    rows = np.array(ids[:len(ids) // step * step], dtype=np.int64).reshape(-1, step)
    return np.concatenate([np.full((len(rows), 1), BOS), rows], axis=1) if bos else rows


def perplexity(logits_of, ids, bos=False):
    """exp of the mean negative log likelihood of every token of a window but the first, given the ones before it."""
    total = count = 0
    for rows in np.array_split(windows(ids, bos), max(1, len(ids) // WINDOW // 16)):
        logits = torch.as_tensor(logits_of(rows))[:, :-1].float().cpu()
        target = torch.as_tensor(rows[:, 1:])
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum").item()
        count += target.numel()
    return math.exp(total / count), count


def ngram_perplexities(train, ids):
    """Baselines on the same tokens: add-one unigram, then Witten-Bell bigram and trigram that fall back on it."""
    counts = [collections.Counter(tuple(train[i:i + n]) for i in range(len(train) - n + 1)) for n in (1, 2, 3)]
    kinds = [collections.Counter(), collections.Counter(), collections.Counter()]  # distinct followers of a history
    heads = [collections.Counter(), collections.Counter(), collections.Counter()]  # how often a history occurs
    for n in (1, 2):
        for gram, c in counts[n].items():
            kinds[n][gram[:-1]] += 1
            heads[n][gram[:-1]] += c

    def prob(gram):
        n = len(gram) - 1
        if n == 0:
            return (counts[0][gram] + 1) / (len(train) + VOCAB)
        head, kind = heads[n][gram[:-1]], kinds[n][gram[:-1]]
        lower = prob(gram[1:])
        return lower if head == 0 else (counts[n][gram] + kind * lower) / (head + kind)

    out = []
    for order in (1, 2, 3):
        nll = count = 0
        for row in windows(ids, False).tolist():
            for i in range(1, len(row)):
                nll -= math.log(prob(tuple(row[max(0, i - order + 1):i + 1])))
                count += 1
        out.append(math.exp(nll / count))
    return out


def regularize(model, p):
    """Dropout on the embedding and on both residual branches: LlamaForCausalLM itself only knows dropout in attention."""
    hook = lambda module, _, out: torch.nn.functional.dropout(out, p, module.training)
    spots = [model.model.embed_tokens] + [m for b in model.model.layers for m in (b.self_attn.o_proj, b.mlp.down_proj)]
    return [spot.register_forward_hook(hook) for spot in spots]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out", type=pathlib.Path)
    ap.add_argument("texts", type=pathlib.Path, nargs="+")
    ap.add_argument("--steps", type=int, default=4000)
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--dropout", type=float, default=0.3)
    ap.add_argument("--weight-decay", type=float, default=0.2)
    ap.add_argument("--patience", type=int, default=10, help="stop after so many evaluations without a better validation loss")
    ap.add_argument("--seconds", type=float, default=1e9, help="stop training after so long")
    ap.add_argument("--seed", type=int, default=1)
    args = ap.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    say = lambda *words: print(*words, flush=True)
    hyper = {k: v for k, v in vars(args).items() if k not in ("out", "texts")}
    say(f"torch {torch.__version__}, transformers {transformers.__version__}, tokenizers {tokenizers.__version__}, {device}; {hyper}")

    texts = [tidy(path.read_text("utf-8")) for path in args.texts]
    train_texts, pieces = split(texts[0])
    train_texts += texts[1:]
    for name in ("heldout", "calibration"):
        (args.out / f"{name}.txt").write_text(pieces[name], "utf-8")
    tok = train_tokenizer(train_texts)
    tok.save(str(args.out / "tokenizer.json"))
    encode = lambda text: tok.encode(text, add_special_tokens=False).ids
    stream = np.array([i for text in train_texts for i in [BOS] + encode(text)])
    valid, heldout = encode(pieces["validation"]), encode(pieces["heldout"])
    say(f"training {sum(len(t.encode()) for t in train_texts)} bytes, {len(stream)} tokens; "
        f"validation {len(valid)}, held-out {len(heldout)} tokens; vocabulary {VOCAB}")

    config = LlamaConfig(vocab_size=VOCAB, hidden_size=192, intermediate_size=480, num_hidden_layers=5, num_attention_heads=6,
                         num_key_value_heads=2, max_position_embeddings=CONTEXT, tie_word_embeddings=True, attention_dropout=0.1,
                         bos_token_id=BOS, eos_token_id=None, pad_token_id=None, use_cache=False, attn_implementation="eager")
    model = LlamaForCausalLM(config).to(device)
    say(f"parameters {sum(p.numel() for p in model.parameters())}")
    hooks = regularize(model, args.dropout)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": args.weight_decay},
                                   {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}],
                                  lr=args.lr, betas=(0.9, 0.95), fused=device == "cuda")
    schedule = torch.optim.lr_scheduler.LambdaLR(  # warm up, then a cosine down to 3 %
        optimizer, lambda s: min((s + 1) / 100, 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1, s / args.steps)))))

    def logits_of(rows):
        with torch.no_grad():
            return model(torch.as_tensor(rows, device=device)).logits

    # What is kept, and judged on the validation piece, is the running average of the weights.
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    best, best_state, since, started = float("inf"), average, 0, time.time()
    data = torch.as_tensor(stream, device=device)
    for step in range(1, args.steps + 1):
        starts = torch.as_tensor(rng.integers(0, len(stream) - CONTEXT, args.batch), device=device)
        rows = data[starts[:, None] + torch.arange(CONTEXT, device=device)]
        # Half of the windows begin with <s>, so that the model can be used with it and without it.
        rows[: args.batch // 2, 0] = BOS
        logits = model(rows).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(0.995, step / (step + 10))
        torch._foreach_lerp_(list(average.values()), list(model.state_dict().values()), 1 - decay)
        if step % 100 == 0 or step == args.steps:
            live = {k: v.clone() for k, v in model.state_dict().items()}
            model.load_state_dict(average)
            model.eval()
            ppl, _ = perplexity(logits_of, valid)
            model.load_state_dict(live)
            model.train()
            say(f"step {step} ({time.time() - started:.0f} s): training loss {loss.item():.3f} (with dropout), "
                f"validation perplexity {ppl:.3f}")
            since += 1
            if ppl < best:
                best, since = ppl, 0
                best_state = {k: v.clone() for k, v in average.items()}
            if since >= args.patience or time.time() - started > args.seconds:
                break
    say(f"best validation perplexity {best:.3f}")
    model.load_state_dict(best_state)
    for hook in hooks:
        hook.remove()
    model = model.float().cpu().eval()
    device = "cpu"

    model.save_pretrained(args.out / "checkpoint")
    path = args.out / "model.onnx"
    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=CONTEXT)}
    torch.onnx.export(model, (), str(path), kwargs={"input_ids": torch.randint(1, VOCAB, (2, 17))}, dynamo=True, opset_version=20,
                      input_names=["input_ids"], output_names=["logits"], dynamic_shapes={"input_ids": dynamic}, external_data=False)
    proto = onnx.load(path)
    for node in proto.graph.node:  # stack traces name files of the machine that exported; the module names stay
        kept = [p for p in node.metadata_props if not p.key.endswith("stack_trace")]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(proto, path)
    say(f"model.onnx {path.stat().st_size} bytes")

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for name, run in (("torch", logits_of), ("onnxruntime", lambda rows: session.run(None, {"input_ids": rows})[0])):
        for bos in (False, True):
            ppl, count = perplexity(run, heldout, bos)
            say(f"held-out perplexity, {name}, windows of {WINDOW}, {'with' if bos else 'no'} <s>: {ppl:.4f} ({count} tokens)")
    say("held-out perplexity, add-one unigram %.2f, Witten-Bell bigram %.2f, Witten-Bell trigram %.2f"
        % tuple(ngram_perplexities(stream.tolist(), heldout)))


if __name__ == "__main__":
    main()
