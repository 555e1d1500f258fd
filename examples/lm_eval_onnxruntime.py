"""Scores ONNX language models in ONNX Runtime on tasks of EleutherAI's lm-evaluation-harness, one model or two on the same documents.

    pip install lm-eval==0.4.13 onnxruntime tokenizers
    python lm_eval_onnxruntime.py --model model.w4a8.onnx --reference model.onnx --tasks hellaswag arc_easy --limit 500

docs/lm-evaluation.md has tasks that need no data set of a hub, and what was measured.
"""
import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime
from lm_eval import simple_evaluate, utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer
from tqdm import tqdm

TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_,
         "tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxRuntimeLM(TemplateLM):
    """A causal language model in a session of ONNX Runtime: `input_ids` to logits, with mask, positions and empty caches as it asks for them.

    `bos` stands in for an empty context, `eos` ends generation; both default to those of the model's configuration.
    """

    def __init__(self, model, tokenizer=None, max_length=2048, batch_size=1, custom_ops=None,
                 provider="CPUExecutionProvider", bos=None, eos=None):
        super().__init__()
        options = onnxruntime.SessionOptions()
        if custom_ops:
            options.register_custom_ops_library(str(custom_ops))
        self.session = onnxruntime.InferenceSession(str(model), options, providers=[provider])
        tokenizer = Path(tokenizer or Path(model).with_name("tokenizer.json"))
        if not tokenizer.is_file():
            raise ValueError(f"{tokenizer}: no such file; --tokenizer names the model's tokenizer.json")
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        # A tokenizer.json may have been saved with the settings of a training run.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.config = read_config(Path(model).parent) or read_config(tokenizer.parent)
        self.max_length, self.batch_size = max_length, batch_size
        self.bos = self._special("bos_token_id", bos)
        self.eos = self._special("eos_token_id", eos)
        outputs = [output.name for output in self.session.get_outputs()]
        self.output = "logits" if "logits" in outputs else outputs[0]

    def _special(self, name, given):
        value = self.config.get(name) if given is None else given
        return value[0] if isinstance(value, list) else value

    @property
    def eot_token_id(self):
        return self.eos

    @property
    def prefix_token_id(self):
        prefix = self.eos if self.bos is None else self.bos
        if prefix is None:
            raise ValueError("an empty context needs a token: there is no bos_token_id in a config.json beside the model or the tokenizer; give --bos")
        return prefix

    def tok_encode(self, string, add_special_tokens=None, **_):
        """Token ids; with the special tokens that the tokenizer itself adds, unless told otherwise."""
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens is not False).ids

    def _feeds(self, rows):
        """Feeds for rows of token ids, padded on the right, where a causal model does not look."""
        length = max(map(len, rows))
        mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        feeds = {}
        for spec in self.session.get_inputs():
            if spec.name == "input_ids":
                value = np.array([row + [0] * (length - len(row)) for row in rows])
            elif spec.name == "attention_mask":
                value = mask
            elif spec.name == "position_ids":
                value = np.broadcast_to(np.arange(length), mask.shape)
            elif spec.name == "use_cache_branch":
                value = np.zeros(1)
            elif spec.name.startswith("past_key_values"):
                heads, width = spec.shape[1], spec.shape[3]
                # onnxruntime-genai's builder may leave the width symbolic.
                width = width if isinstance(width, int) else self.config.get("head_size")
                value = np.zeros((len(rows), heads, 0, width))
            else:
                raise ValueError(f"input {spec.name!r}: what to feed it with is not known here")
            if spec.type not in TYPES:
                raise ValueError(f"input {spec.name!r}: NumPy has no type for its {spec.type}")
            feeds[spec.name] = np.ascontiguousarray(value, dtype=TYPES[spec.type])
        return feeds

    def _logits(self, rows):
        """Logits [rows, length of the longest, vocabulary]."""
        logits = self.session.run([self.output], self._feeds(rows))[0]
        if logits.ndim != 3 or logits.shape[1] != max(map(len, rows)):
            raise ValueError(f"output {self.output!r} has shape {logits.shape}: scoring needs the logits of every token")
        return logits

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, **_):
        # Choices of one token share their input, and so one row.
        rows = defaultdict(list)
        for index, (_, context, continuation) in enumerate(requests):
            if len(continuation) > self.max_length:
                raise ValueError(f"a continuation has {len(continuation)} tokens, more than --max-length {self.max_length}")
            rows[tuple((context + continuation)[-self.max_length - 1:-1])].append((index, continuation))
        rows = sorted(rows.items(), key=lambda row: -len(row[0]))
        results = [None] * len(requests)
        for start in tqdm(range(0, len(rows), self.batch_size), desc="batches", disable=disable_tqdm):
            batch = rows[start:start + self.batch_size]
            for logits, (row, asked) in zip(self._logits([list(row) for row, _ in batch]), batch):
                for index, continuation in asked:
                    scores = logits[len(row) - len(continuation):len(row)].astype(np.float32)
                    top = scores.max(-1)
                    normalizer = np.log(np.exp(scores - top[:, None]).sum(-1, dtype=np.float64)) + top
                    likelihood = (scores[np.arange(len(continuation)), continuation] - normalizer).sum()
                    results[index] = float(likelihood), bool((scores.argmax(-1) == continuation).all())
        return results

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        windows, owners = [], []
        for owner, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            for window in utils.get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1):
                windows.append((None, *utils.make_disjoint_window(window)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (likelihood, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm)):
            totals[owner] += likelihood
        return totals

    def generate_until(self, requests, disable_tqdm=False):
        """Greedy, and without a cache: every token runs all that are before it."""
        return [self._generate(*request.args) for request in tqdm(requests, desc="texts", disable=disable_tqdm)]

    def _generate(self, context, options):
        options = normalize_gen_kwargs(options)
        if options["do_sample"]:
            raise ValueError("the task asks for sampling; only greedy generation is written here")
        room = min(options["max_gen_toks"], self.max_length - 1)
        prompt = self.tok_encode(context)[-(self.max_length - room):]
        made, text = [], ""
        stops = [stop for stop in options["until"] if stop]
        while len(made) < room and not any(stop in text for stop in stops):
            token = int(self._logits([prompt + made])[0, -1].argmax())
            if token == self.eos:
                break
            made.append(token)
            text = self.tokenizer.decode(made)
        return text[:min([text.index(stop) for stop in stops if stop in text], default=None)]


def read_config(folder):
    """What a config.json, or a genai_config.json of onnxruntime-genai, says of the model: a flat dictionary, empty where there is neither."""
    if (folder / "config.json").is_file():
        return json.loads((folder / "config.json").read_text("utf-8"))
    if (folder / "genai_config.json").is_file():
        model = json.loads((folder / "genai_config.json").read_text("utf-8-sig"))["model"]
        return {**model, **model["decoder"]}
    return {}


def compare(model, reference):
    """Rows of a table: every metric that is right or wrong for a document, of two evaluations of the same documents.

    The standard error is that of the mean of the paired differences; flips are the documents whose answer became right or
    wrong ("Accuracy is Not All You Need", arXiv 2407.09141). Shares and the difference are in percent.
    """
    for task, samples in model["samples"].items():
        pairs = defaultdict(list)
        for ours, theirs in zip(samples, reference["samples"][task], strict=True):
            assert (ours["doc_hash"], ours["filter"]) == (theirs["doc_hash"], theirs["filter"]), "the documents differ"
            for metric in ours["metrics"]:
                pairs[metric, ours["filter"]].append((ours[metric], theirs[metric]))
        for (metric, name), values in pairs.items():
            if len(values) < 2 or any(value not in (0, 1) for pair in values for value in pair):
                continue
            ours, theirs = np.array(values, dtype=float).T
            difference = ours - theirs
            error = difference.std(ddof=1) / math.sqrt(len(values))
            yield (task, metric if name == "none" else f"{metric} ({name})", str(len(values)), f"{theirs.mean():.2%}", f"{ours.mean():.2%}",
                   f"{100 * difference.mean():+.2f} ± {100 * error:.2f}", f"{(difference != 0).mean():.2%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="the ONNX model, as zqc or an exporter wrote it")
    parser.add_argument("--reference", type=Path, help="compare with this model, as the float one that the model was made of")
    parser.add_argument("--tokenizer", type=Path, help="the model's tokenizer.json [default: the one beside each model]")
    parser.add_argument("--tasks", nargs="+", required=True, help="names of the harness, or of files in --include-path")
    parser.add_argument("--include-path", type=Path, default=Path(__file__).with_name("lm_eval_tasks"),
                        help="a folder of tasks [default: lm_eval_tasks beside this file]")
    parser.add_argument("--text", type=Path, help="the text file that the tasks of lm_eval_tasks are made of")
    parser.add_argument("--num-fewshot", type=int, help="examples before each document [default: the task's]")
    parser.add_argument("--limit", type=int, help="documents of a task at most")
    parser.add_argument("--max-length", type=int, default=2048, help="tokens that the model is run on at most")
    parser.add_argument("--batch-size", type=int, default=1, help="rows of a run")
    parser.add_argument("--bos", type=int, help="token id in the place of an empty context [default: that of config.json]")
    parser.add_argument("--eos", type=int, help="token id that ends generation [default: that of config.json]")
    parser.add_argument("--custom-ops", type=Path, help="libzqc_ort.so, to run on the 4-bit weights")
    parser.add_argument("--provider", default="CPUExecutionProvider", help="execution provider of ONNX Runtime")
    args = parser.parse_args()
    results = []
    for path in filter(None, (args.reference, args.model)):
        lm = OnnxRuntimeLM(path, args.tokenizer, args.max_length, args.batch_size, args.custom_ops, args.provider, args.bos, args.eos)
        manager = TaskManager(include_path=str(args.include_path), metadata={"text": str(args.text)} if args.text else {})
        # The harness would draw 100,000 samples for the standard error of a perplexity.
        results.append(simple_evaluate(lm, tasks=args.tasks, task_manager=manager, num_fewshot=args.num_fewshot,
                                       limit=args.limit, bootstrap_iters=1000))
        print(f"\n{path}\n{utils.make_table(results[-1])}")
    if args.reference and (rows := list(compare(results[1], results[0]))):
        for row in [("task", "metric", "documents", "reference", "model", "difference", "flips"), ("---",) * 7, *rows]:
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
