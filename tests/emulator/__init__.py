"""Runs the CUDA sources on the CPU, so that a machine without a GPU can test them.

``csrc/cuda/*.cu`` are compiled by the C++ compiler against ``include/``, which replaces the CUDA
runtime, and bound to numpy by ``bindings.cpp``. The threads of a block are fibers on one OS thread.
They run in shuffled order, each up to its next barrier; blocks run one after the other, also in
shuffled order.

Errors that are detected (``test_emulator.py`` has a test of each). As NaN or other wrong results:

- use of shared memory or outputs before they are written: both are initialised with NaN;
- a missing barrier, if the order of threads makes a difference: use several seeds.

As an error that names the thread:

- a global or shared access outside its array: arrays are next to unreadable pages, at their end or
  (``guard="before"``) at their beginning; writes on the other side are detected afterwards;
- writes to inputs, which are read-only;
- a barrier or warp operation that some of its threads never reach, or reach on another line;
- an index outside a thread's local array, a misaligned vector access, a signed overflow (arrays are
  not aligned, because slices of tensors need not be);
- a launch with too many threads or too much shared memory.

Tensor cores (``mma.cuh``) are emulated with their documented layout of fragments, so that missing
lanes of a warp and fragments from the wrong lane are detected. ``major=7`` is a device without
tensor cores. Asynchronous copies (``async.cuh``) arrive when they are waited for, and are NaN until
then.

Errors that are not detected: races for which threads would have to interleave between barriers,
which they never do here; races between blocks; reads slightly outside an array on its unguarded
side (they return NaN) or inside another array; accesses to the wrong place of shared memory;
differences in rounding by nvcc or the hardware (fused multiply-adds). Performance (coalescing, bank
conflicts, registers) is not emulated.

Kernels start through ``launch()`` and get shared memory from ``shared_memory()``, both in
``csrc/cuda/launch.cuh``; ``__shared__`` variables do not compile.

To emulate another kernel, bind it in ``bind_<op>.cpp``; the sources are globbed. Missing CUDA
functions are added to ``include/``.
"""
