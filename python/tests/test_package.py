"""The package as it is installed, on the bundled model. Run by tests/python.rs: `python -m unittest`, in a clean environment."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import typing
import unittest
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import zqc
import zqc.cuda
import zqc.genai
import zqc.ort
from zqc import _keywords, _options, _zqc

TINY = Path(os.environ["ZQC_TINY"])
MODEL, TOKENIZER = TINY / "model.onnx", TINY / "tokenizer.json"
IDS = np.random.default_rng(0).integers(3, 200, (4, 1, 32))
QUICK = {"lorc_rounds": 1, "propagation": 0, "verify": False, "resume": False}


def logits(session):
    return session.run(None, {"input_ids": IDS[0]})[0]


class Folder(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)


class Compile(Folder):
    def test_a_path_becomes_a_path_and_the_progress_is_told(self):
        output, told = self.folder / "out.onnx", []
        result = zqc.compile(
            MODEL,
            output,
            calibration=TINY / "calibration.txt",
            tokenizer=TOKENIZER,
            samples=4,
            seq_len=64,
            keep=[r"layers\.0\."],
            threads=1,
            report=self.folder / "report.json",
            progress=lambda *event: told.append(event),
        )
        self.assertEqual(result.path, output)
        self.assertEqual(result.report, json.loads((self.folder / "report.json").read_text()))
        layers = [layer["layer"] for layer in result.report["layers"]]
        self.assertFalse([layer for layer in layers if layer.startswith("model.layers.0.")])
        self.assertEqual(len([layer for layer in layers if layer.startswith("model.layers.")]), 28)
        self.assertTrue(result.report["verification"])
        self.assertIn(("reading calibration data", 0, 0), told)
        stages = [event for event in told if event[0] == "solving"]
        count = len(result.report["stages"])
        self.assertEqual(stages, [("solving", stage, count) for stage in range(count)])
        self.assertEqual(result.model, onnx.load(output))

    def test_a_model_in_memory_becomes_one_and_calibration_data_is_the_same_in_every_form(self):
        class Reader:
            def __init__(self):
                self.samples = iter({"input_ids": ids} for ids in IDS)

            def get_next(self):
                return next(self.samples, None)

        np.savez(self.folder / "samples.npz", input_ids=IDS[:, 0])
        forms = {
            "file": self.folder / "samples.npz",
            "files": [str(self.folder / "samples.npz")],
            "dictionaries": [{"input_ids": ids} for ids in IDS],
            "batch": [{"input_ids": IDS[:2, 0]}, {"input_ids": IDS[2:, 0]}],
            "iterator": ({"input_ids": list(map(list, ids))} for ids in IDS),
            "reader": Reader(),
        }
        float_model = onnx.load(MODEL)
        models = {name: zqc.compile(float_model, calibration=form, **QUICK).model for name, form in forms.items()}
        for name, model in models.items():
            self.assertEqual(model, models["file"], name)
        session = onnxruntime.InferenceSession(models["file"].SerializeToString())
        error = np.linalg.norm(logits(session) - logits(onnxruntime.InferenceSession(MODEL)))
        self.assertLess(error, 0.3 * np.linalg.norm(logits(session)))

    def test_samples_of_several_lengths_and_no_more_than_asked_for(self):
        samples = [{"input_ids": np.full((1, length), 7)} for length in (8, 8, 16, 8, 8)]
        result = zqc.compile(MODEL, self.folder / "out.onnx", calibration=samples, samples=4, **QUICK)
        self.assertTrue(result.report["calibration"].startswith("4 samples of"))
        tokens = {layer["layer"]: (layer["calibration"] or {}).get("tokens") for layer in result.report["layers"]}
        self.assertEqual(tokens["model.layers.0.self_attn.q_proj"], 8 + 8 + 16 + 8)

    def test_errors_have_kinds_and_nothing_is_written(self):
        output = self.folder / "out.onnx"
        cases = [
            (zqc.UsageError, ValueError, "--weights", dict(weights="fp5")),
            (zqc.UsageError, ValueError, "--group-size", dict(group_size=-1)),
            (zqc.UsageError, ValueError, "--keep", dict(keep="(")),
            (zqc.InputError, ValueError, "not a calibration file", dict(calibration="text.doc")),
            (zqc.InputError, ValueError, "nothing.txt", dict(calibration="nothing.txt", tokenizer=TOKENIZER)),
            (TypeError, TypeError, "'grop_size'", dict(grop_size=1)),
            (TypeError, TypeError, "'print_ir_after'", dict(print_ir_after="select")),
            (TypeError, TypeError, "CalibrationDataReader", dict(calibration=[1, 2])),
            (ValueError, ValueError, "no sample", dict(calibration=[])),
        ]
        for kind, base, text, options in cases:
            with self.subTest(options):
                with self.assertRaisesRegex(kind, text) as caught:
                    zqc.compile(MODEL, output, **options)
                self.assertIsInstance(caught.exception, base)
        with self.assertRaisesRegex(zqc.InputError, "missing.onnx"):
            zqc.compile(self.folder / "missing.onnx", output)
        with self.assertRaisesRegex(zqc.OutputError, "nowhere") as caught:
            zqc.compile(MODEL, self.folder / "nowhere" / "out.onnx", method="rtn")
        self.assertIsInstance(caught.exception, OSError)
        with self.assertRaisesRegex(zqc.UsageError, "in memory"):
            zqc.compile(MODEL, emit="cuda")
        with self.assertRaisesRegex(TypeError, "int"):
            zqc.compile(1)
        external = onnx.load(MODEL)
        onnx.external_data_helper.convert_model_to_external_data(external, location="model.data")
        onnx.external_data_helper.set_external_data(external.graph.initializer[0], "model.data")
        external.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
        with self.assertRaisesRegex(zqc.InputError, "beside it"):
            zqc.compile(external)
        self.assertEqual(list(self.folder.iterdir()), [])


class Stop(Folder):
    OPTIONS = {"calibration": TINY / "calibration.txt", "tokenizer": TOKENIZER, "samples": 16, "seq_len": 128}

    def test_ctrl_c_stops_a_run_which_then_goes_on(self):
        output, told = self.folder / "out.onnx", []
        # A shell's job in the background ignores it.
        self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))

        def interrupt(step, done, _count):
            told.append(done)
            if step == "solving" and done == 3:
                signal.raise_signal(signal.SIGINT)

        with self.assertRaises(KeyboardInterrupt):
            zqc.compile(MODEL, output, progress=interrupt, **self.OPTIONS)
        self.assertLess(max(told), 8)
        self.assertFalse(output.exists())
        result = zqc.compile(MODEL, output, **self.OPTIONS)
        # One of the three has no layers to solve: that of the table and the head.
        self.assertEqual(result.report["resumed_stages"], 2)
        self.assertEqual(list(self.folder.iterdir()), [output])
        zqc.compile(MODEL, self.folder / "other.onnx", **self.OPTIONS)
        self.assertEqual(output.read_bytes(), (self.folder / "other.onnx").read_bytes())

    def test_an_exception_of_the_progress_is_raised(self):
        def fail(*_):
            raise LookupError("of the progress")

        with self.assertRaisesRegex(LookupError, "of the progress"):
            zqc.compile(MODEL, self.folder / "out.onnx", progress=fail, **self.OPTIONS)

    def test_other_threads_run_meanwhile(self):
        ended, turns = threading.Event(), 0

        def count():
            nonlocal turns
            while not ended.is_set():
                turns += 1
                time.sleep(0.001)

        thread = threading.Thread(target=count)
        thread.start()
        zqc.compile(MODEL, self.folder / "out.onnx", method="rtn")
        ended.set()
        thread.join()
        self.assertGreater(turns, 10)


class Others(Folder):
    def test_keywords_for_type_checkers_are_those_that_there_are(self):
        for command, options, others in [
            ("compile", _options.CompileOptions, {"output", "calibration", "tokenizer"}),
            ("evaluate", _options.EvaluateOptions, {"text", "tokenizer"}),
        ]:
            known = {name.removeprefix("no-").replace("-", "_") for name in _zqc.options(command)}
            known -= {name.replace("-", "_") for name in _keywords._WITHOUT_KEYWORD}
            self.assertEqual(set(typing.get_type_hints(options)) | others, known)

    def test_evaluate_and_inspect(self):
        text = self.folder / "text.txt"
        text.write_text((TINY / "heldout.txt").read_text()[:4000])
        told = []
        found = zqc.evaluate(MODEL, text, window=128, max_tokens=512, progress=lambda *event: told.append(event))
        self.assertLess(found["perplexity"], 60)
        self.assertEqual(found["window"], 128)
        compared = zqc.evaluate(MODEL, text, window=128, max_tokens=512, reference=MODEL)
        self.assertEqual(compared["comparison"]["kl"]["max"], 0)
        inspected = zqc.inspect(MODEL)
        self.assertEqual(len(inspected["linears"]), 36)
        with self.assertRaisesRegex(zqc.InputError, "missing"):
            zqc.inspect("missing.onnx")
        self.assertEqual(told, [("windows", done, 4) for done in range(5)])

    def test_quantize_takes_what_quantize_static_takes(self):
        graph = onnx.load(MODEL, load_external_data=False).graph
        names = [node.name for node in graph.node if node.name.startswith("node_linear")]
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            result = zqc.quantize(
                str(MODEL),
                str(self.folder / "out.onnx"),
                [{"input_ids": ids} for ids in IDS],
                per_channel=True,
                nodes_to_exclude=names[:1],
                use_external_data_format=True,
                **QUICK,
            )
        self.assertEqual([str(warning.message).rsplit(": ")[-1] for warning in warned], ["per_channel"])
        self.assertTrue((self.folder / "out.onnx.data").exists())
        layers = [layer["layer"] for layer in result.report["layers"]]
        self.assertNotIn("model.layers.0.self_attn.q_proj", layers)
        self.assertIn("model.layers.0.self_attn.k_proj", layers)
        self.assertNotIn("matches no", " ".join(result.report["warnings"]))

    def test_the_command(self):
        def run(*arguments):
            command = [Path(sys.executable).with_name("zqc"), *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=False)

        self.assertRegex(run("--version").stdout, r"^zqc \d")
        self.assertIn("linear layers", run("inspect", MODEL).stdout)
        self.assertEqual(run("inspect").returncode, 2)
        missing = run("inspect", "missing.onnx")
        self.assertEqual(missing.returncode, 3)
        self.assertTrue(missing.stderr.startswith("error: "))


class Runtime(Folder):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.temporary.cleanup)
        cls.model = zqc.compile(MODEL, Path(cls.temporary.name, "model.onnx"), method="rtn").path

    def test_the_library_runs_the_layers(self):
        options = zqc.ort.session_options()
        options.enable_profiling, options.profile_file_prefix = True, str(self.folder / "profile")
        # A second time is no error.
        session = zqc.ort.InferenceSession(self.model, zqc.ort.session_options(options))
        found = logits(session)
        events = json.loads(Path(session.end_profiling()).read_text())
        run = {event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})}
        self.assertIn("W4A8Linear_M3", run)
        stock = logits(onnxruntime.InferenceSession(self.model))
        self.assertLess(np.linalg.norm(found - stock), 0.1 * np.linalg.norm(stock))

    def test_dimensions_without_names(self):
        tensor, value = onnx.helper.make_tensor, onnx.helper.make_tensor_value_info
        weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
        indices = [tensor(f"i{at}", onnx.TensorProto.INT64, [1], [at]) for at in (0, 2)]
        heads = tensor("heads", onnx.TensorProto.INT64, [2], [-1, 16])
        graph = onnx.helper.make_graph(
            [
                onnx.helper.make_node("MatMul", ["x", "w"], ["y"]),
                onnx.helper.make_node("Shape", ["y"], ["shape"]),
                onnx.helper.make_node("Slice", ["shape", "i0", "i2"], ["tokens"]),
                onnx.helper.make_node("Concat", ["tokens", "heads"], ["target"], axis=0),
                onnx.helper.make_node("Reshape", ["y", "target"], ["z"]),
            ],
            "attention",
            [value("x", onnx.TensorProto.FLOAT, [None, None, 64])],
            [value("z", onnx.TensorProto.FLOAT, [None, None, None, 16])],
            [onnx.numpy_helper.from_array(weight, "w"), *indices, heads],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
        compiled = zqc.compile(model, method="rtn").model
        x = np.random.default_rng(1).normal(size=(2, 3, 64)).astype(np.float32)
        (found,) = zqc.ort.InferenceSession(compiled.SerializeToString()).run(None, {"x": x})
        self.assertEqual(found.shape, (2, 3, 4, 16))
        error = np.linalg.norm(found.reshape(2, 3, 64) - x @ weight)
        self.assertLess(error, 0.2 * np.linalg.norm(x @ weight))

    def test_a_folder_of_genai_names_the_library(self):
        config = self.folder / "genai_config.json"
        config.write_text(json.dumps({"model": {"decoder": {"filename": "model.onnx"}, "type": "llama"}}))
        library = zqc.genai.register(self.folder)
        self.assertEqual(library.read_bytes(), zqc.ort.library_path().read_bytes())
        first = config.read_bytes()
        decoder = json.loads(first)["model"]["decoder"]
        self.assertEqual(decoder["session_options"]["custom_ops_library"], library.name)
        zqc.genai.register(self.folder)
        self.assertEqual(config.read_bytes(), first)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), [config.name, library.name])
        config.write_text("{}")
        with self.assertRaisesRegex(ValueError, "model.decoder"):
            zqc.genai.register(self.folder)

    def test_a_package_says_why_it_cannot_run(self):
        zqc.compile(MODEL, self.folder / "model.zqcuda", emit="cuda", method="rtn")
        package = zqc.cuda.Package(self.folder / "model.zqcuda")
        layers = list(package)
        self.assertEqual(len(layers), 35)
        key = package.find("model.layers.0.self_attn.k_proj")
        self.assertEqual(layers[key], zqc.cuda.Layer(key, "model.layers.0.self_attn.k_proj", 64, 192, 0, 356, False))
        with self.assertRaisesRegex(zqc.cuda.Error, "no layer"):
            package.find("v")
        with self.assertRaisesRegex(zqc.cuda.Error, "none"):
            zqc.cuda.Package("none")
        with self.assertRaisesRegex(zqc.cuda.Unavailable, "CUDA|GPU|device"):
            zqc.cuda.Model(package, device=2**30)

    def test_the_bench(self):
        def bench(*arguments):
            command = [sys.executable, "-m", "zqc.bench", "--rounds", "1", "--prompt", "16", *map(str, arguments)]
            return subprocess.run(command, capture_output=True, text=True, check=False)

        run = bench(self.model, "--against", MODEL, "--threads", "1", "--json")
        self.assertEqual(run.returncode, 0, run.stderr)
        ours, theirs = json.loads(run.stdout)["models"]
        self.assertTrue(ours["library"] and not theirs["library"])
        for row in ours, theirs:
            self.assertGreater(row["prefill_tokens_per_second"], 0)
            self.assertGreater(row["memory"]["after"]["resident"], row["memory"]["after"]["private"])
        table = bench(self.model, "--no-library").stdout
        self.assertIn("prompt of 16 tokens, best of 1", table)
        missing = bench("missing.onnx")
        self.assertEqual(missing.returncode, 3)
        self.assertIn("missing.onnx", missing.stderr)


if __name__ == "__main__":
    unittest.main()
