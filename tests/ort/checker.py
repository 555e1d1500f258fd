"""onnx.checker in its strictest mode. checker.py MODEL"""
import sys

import onnx

onnx.checker.check_model(onnx.load(sys.argv[1]), full_check=True)
print("ok")
