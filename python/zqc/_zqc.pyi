"""The compiler. Commands take the arguments of the command line, without the program, and give JSON."""

import os
from collections.abc import Callable, Sequence
from typing import Any

class UsageError(ValueError):
    """Arguments that are wrong, or do not go together."""

class InputError(ValueError):
    """A model or data that cannot be used."""

class OutputError(OSError):
    """The output cannot be written."""

class InternalError(RuntimeError):
    """A fault of zqc."""

def main(arguments: Sequence[str]) -> int:
    """Runs the command line, the program's name first; its exit code."""

def options(command: str) -> dict[str, bool]:
    """The options of a command, `compile` or `evaluate`, and whether they take a value."""

def compile(arguments: Sequence[str], progress: Callable[[str, int, int], Any] | None) -> str:
    """Compiles a model; the report."""

def evaluate(arguments: Sequence[str], progress: Callable[[str, int, int], Any] | None) -> str:
    """Measures the perplexity of a model on a text."""

def inspect(path: str | os.PathLike[str]) -> str:
    """Lists the linear layers of a model or a package."""

def find_model(path: str | os.PathLike[str]) -> os.PathLike[str]:
    """The model that a path names: the file itself, or the one in the folder."""
