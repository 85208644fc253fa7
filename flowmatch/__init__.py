"""flowmatch: dense correspondence and optical flow for PyTorch, with kernels of its own."""
