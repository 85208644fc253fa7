"""``flowmatch export``: networks as ONNX files."""
