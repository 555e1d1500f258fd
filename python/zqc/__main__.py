"""The command line."""

import sys

from zqc import _zqc
from zqc._library import use_onnxruntime


def main() -> int:
    use_onnxruntime()
    return _zqc.main(["zqc", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
