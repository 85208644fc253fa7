"""flowmatch: dense correspondence and optical flow for PyTorch, with kernels of its own.

The rooms are imported by name: ``flowmatch.flow``, ``flowmatch.ops``, ``flowmatch.io``, ...
"""

__version__ = "0.1.0"
