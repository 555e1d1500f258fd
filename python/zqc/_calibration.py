"""Calibration data of a program, as files that the compiler reads."""

import itertools
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Sample = Mapping[str, Any]


# How many the compiler takes where `samples` does not say: a data set may have no end.
_SAMPLES = 128


def files(calibration: Any, most: int | None, folder: Path) -> list[Any]:
    """The files of calibration data: those that are named, or those that hold the samples, at most `most`, in `folder`."""
    if isinstance(calibration, (str, os.PathLike)):
        return [calibration]
    if isinstance(calibration, (list, tuple)) and calibration:
        if all(isinstance(path, (str, os.PathLike)) for path in calibration):
            return list(calibration)
    samples = itertools.islice(_samples(calibration), _SAMPLES if most is None else most)
    written: list[Path] = []
    for layout, group in itertools.groupby(samples, _layout):
        path = folder / f"samples-{len(written)}.npz"
        _write(path, [name for name, _, _ in layout], list(group))
        written.append(path)
    if not written:
        raise ValueError("calibration: there is no sample in it")
    return written


def _samples(calibration: Any) -> Iterator[dict[str, np.ndarray]]:
    """Samples of one run each: of arrays whose first dimension is a larger batch, one a row."""
    reads = hasattr(calibration, "get_next")
    given: Iterable[Sample] = iter(calibration.get_next, None) if reads else calibration
    for sample in given:
        if not isinstance(sample, Mapping):
            expected = "paths, dictionaries of arrays by input name, or a CalibrationDataReader"
            raise TypeError(f"calibration: {expected} expected, not {type(sample).__name__}")
        arrays = {name: np.asarray(array) for name, array in sorted(sample.items())}
        batches = {array.shape[0] for array in arrays.values() if array.ndim > 1}
        batch = batches.pop() if len(batches) == 1 else 1
        for row in range(batch) if batch > 1 else []:
            yield {name: array[row : row + 1] if array.ndim > 1 else array for name, array in arrays.items()}
        if batch <= 1:
            yield arrays


def _layout(sample: dict[str, np.ndarray]) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    return tuple((name, array.shape, array.dtype.str) for name, array in sample.items())


def _write(path: Path, names: list[str], samples: list[dict[str, np.ndarray]]) -> None:
    """Samples of one layout, in arrays whose first dimension counts them. Names may be any, unlike those of `numpy.savez`."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            array = np.stack([sample[name] for sample in samples])
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
