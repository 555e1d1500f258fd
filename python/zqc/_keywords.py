"""Keywords as arguments of the command line, which has the one table of options, their values and their defaults."""

import os
from typing import Any

from zqc import _zqc

# What they do is to print.
_WITHOUT_KEYWORD = {"json", "print-ir-after", "verbose"}


def arguments(command: str, keywords: dict[str, Any]) -> list[str]:
    """`group_size=32, keep=["a", "b"], verify=False` becomes `--group-size=32 --keep=a --keep=b --no-verify`."""
    known = _zqc.options(command)
    result = []
    for keyword, value in keywords.items():
        option = keyword.replace("_", "-")
        if option in _WITHOUT_KEYWORD or option.startswith("no-"):
            takes_value = None
        else:
            takes_value = known.get(option, known.get(f"no-{option}"))
        if takes_value is None:
            raise TypeError(f"{command}() got an unexpected keyword argument {keyword!r}")
        if value is None:
            continue
        if takes_value:
            values = value if isinstance(value, (list, tuple)) else [value]
            result += [f"--{option}={_word(value)}" for value in values]
        elif bool(value) == (option in known):
            result.append(f"--{option}" if value else f"--no-{option}")
    return result


def _word(value: Any) -> str:
    return os.fsdecode(value) if isinstance(value, (str, bytes, os.PathLike)) else str(value)
