"""GPTQ here against onnxruntime.quantization's, side by side: one model, one text, one machine, in turns.

gptq_peer.py MODEL TOKENIZER TEXT [--zqc PATH] [--samples 16] [--seq-len 256] [--group-size 64] [--runs 3]

Needs `pip install onnxruntime onnx onnx_ir torch tokenizers`. Both tools read the same model and the same token
windows, and both write a 4-bit model by GPTQ and nothing else (zqc FP4, the peer INT4: the loop is the same). The peer's time is that of its
process() call, without imports; zqc's is that of the whole process.
"""
import argparse
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization.matmul_nbits_quantizer import GPTQWeightOnlyQuantConfig, MatMulNBitsQuantizer
from tokenizers import Tokenizer

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("model")
arguments.add_argument("tokenizer")
arguments.add_argument("text")
arguments.add_argument("--zqc", default="target/release/zqc")
arguments.add_argument("--samples", type=int, default=16)
arguments.add_argument("--seq-len", type=int, default=256)
arguments.add_argument("--group-size", type=int, default=64)
arguments.add_argument("--runs", type=int, default=3)
arguments = arguments.parse_args()


class Windows(CalibrationDataReader):
    def __init__(self, ids):
        self.rows = iter([{"input_ids": row[None]} for row in ids])

    def get_next(self):
        return next(self.rows, None)


text = pathlib.Path(arguments.text).read_text(encoding="utf-8")
ids = Tokenizer.from_file(arguments.tokenizer).encode(text, add_special_tokens=False).ids
ids = np.array(ids[:arguments.samples * arguments.seq_len], dtype=np.int64).reshape(-1, arguments.seq_len)


def peer(folder):
    model = onnx.load(arguments.model)
    config = GPTQWeightOnlyQuantConfig(calibration_data_reader=Windows(ids), block_size=arguments.group_size)
    quantizer = MatMulNBitsQuantizer(model, block_size=arguments.group_size, is_symmetric=True, algo_config=config)
    started = time.perf_counter()
    quantizer.process()
    return time.perf_counter() - started


def ours(folder):
    np.savez(f"{folder}/calibration.npz", input_ids=ids)
    command = [arguments.zqc, arguments.model, "-o", f"{folder}/out.onnx", "--calibration",
               f"{folder}/calibration.npz", "--group-size", str(arguments.group_size),
               "--samples", str(arguments.samples), "--seq-len", str(arguments.seq_len),
               "--scale", "none", "--lorc-rank", "0", "--propagation", "0"]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


times = {"zqc": [], "onnxruntime.quantization": []}
with tempfile.TemporaryDirectory() as folder:
    for _ in range(arguments.runs):
        times["zqc"].append(ours(folder))
        times["onnxruntime.quantization"].append(peer(folder))
for name, seconds in times.items():
    print(f"{name:26} median {statistics.median(seconds):8.2f} s   all {[round(s, 2) for s in seconds]}")
ratios = [b / a for a, b in zip(*times.values())]
print(f"ratio, run by run: median {statistics.median(ratios):.1f}x, least {min(ratios):.1f}x")
