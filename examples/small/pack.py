#!/usr/bin/env python3
"""Tokenizer and tokens of the text that corpus.py wrote: pack.py TEXT_DIR OUT_DIR

Writes OUT_DIR/tokenizer.json; train-NN.bin.xz and heldout.bin.xz, ids as little-endian uint16, <s> before every document; and
heldout.txt and calibration.txt, a sample of the held-out and of the training documents. One document of a hundred is held out.

Needs numpy and tokenizers.
"""
import argparse, lzma, pathlib, random, zlib
import numpy as np, tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

VOCAB, BOS, SEED = 16384, 0, 1
TOKENIZER_BYTES, SAMPLE_BYTES = 100e6, 400e3  # of text: what the tokenizer is trained on; heldout.txt and calibration.txt
TOKENS_PER_FILE = 16 << 20
# Tokens are pairs of bytes, and a text comes back to its words over megabytes.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 3, "lp": 1, "pb": 1, "dict_size": 64 << 20}]


def train_tokenizer(texts):
    tok = tokenizers.Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<s>"], show_progress=False,
                                                       initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    assert tok.token_to_id("<s>") == BOS and tok.get_vocab_size() == VOCAB
    return tok


def sample(documents, size):
    """Documents drawn at random, about `size` bytes of them, no long ones."""
    total = 0
    for document in random.Random(SEED).sample(documents, len(documents)):
        length = len(document.encode())
        if total + length <= size and length <= size / 20:
            total += length
            yield document


def encode(tok, documents):
    for first in range(0, len(documents), 1000):
        for encoding in tok.encode_batch_fast(documents[first:first + 1000], add_special_tokens=False):
            yield np.array([BOS] + encoding.ids, "<u2")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("texts", type=pathlib.Path)
    ap.add_argument("out", type=pathlib.Path)
    args = ap.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    train, heldout = [], []
    for path in sorted(args.texts.glob("*.txt")):
        for document in path.read_text("utf-8").split("\f"):
            (heldout if zlib.crc32(document.encode()) % 100 == 0 else train).append(document)
    tok = train_tokenizer(sample(train, TOKENIZER_BYTES))
    tok.save(str(args.out / "tokenizer.json"))
    for name, documents in ("heldout", heldout), ("calibration", train):
        (args.out / f"{name}.txt").write_text("\n\n".join(sample(documents, SAMPLE_BYTES)) + "\n", "utf-8")

    random.Random(SEED).shuffle(train)  # each file is a sample of the whole
    for name, documents in ("heldout", heldout), ("train", train):
        ids = np.concatenate(list(encode(tok, documents)))
        print(f"{name}: {len(documents)} documents, {sum(len(d.encode()) for d in documents)} bytes, {len(ids)} tokens", flush=True)
        pieces = {"heldout": ids} if name == "heldout" else {
            f"train-{i:02}": ids[first:first + TOKENS_PER_FILE] for i, first in enumerate(range(0, len(ids), TOKENS_PER_FILE))}
        for piece, part in pieces.items():
            path = args.out / f"{piece}.bin.xz"
            path.write_bytes(lzma.compress(part.tobytes(), filters=FILTERS))
            print(f"{path.name}: {len(part)} tokens, {path.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main()
