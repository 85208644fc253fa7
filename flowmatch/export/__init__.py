"""Networks as ONNX files of standard operators, for runtimes without PyTorch."""

from flowmatch.export.descriptor import export_descriptor
from flowmatch.export.flow import export_flow
from flowmatch.export.onnx_file import ExportReport

__all__ = ["ExportReport", "export_descriptor", "export_flow"]
