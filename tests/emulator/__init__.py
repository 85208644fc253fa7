"""Runs the CUDA sources on the CPU, so that a machine without a GPU can test them.

``csrc/cuda/*.cu`` are compiled by the C++ compiler against ``include/``, which stands in for the
CUDA runtime, and bound to numpy by ``bindings.cpp``. A block's threads are fibers on one OS thread
and run in shuffled order, each as far as it can; blocks follow each other, also shuffled.

What is caught (``test_emulator.py`` shows each one). As NaN or other wrong results:

- use of shared memory or outputs before they are written: both start as NaN;
- a missing barrier, if the order of threads can show it: use several seeds.

As an error that names the thread:

- a global or shared access outside its array: arrays lie against unreadable pages, at their end or
  (``guard="before"``) at their beginning; writes on the other side are found afterwards;
- writes to inputs, which are read-only;
- a barrier or warp operation that some of its threads never reach, or reach on another line;
- an index past a thread's own array, a misaligned vector access, a signed overflow (arrays are
  placed without regard for alignment, as slices of a tensor may be);
- a launch with too many threads or too much shared memory.

Tensor cores (``mma.cuh``) are emulated by their documented layout of fragments: a warp that has not
come together, or a fragment from the wrong lane, shows. ``major=7`` is a device without them.
Asynchronous copies (``async.cuh``) arrive when they are waited for, and are NaN until then.

What is not: races that show only if threads interleave between barriers, which they never do here;
races between blocks; reads a little outside an array on its unguarded side (they give NaN), or in
another array altogether; accesses in the wrong place of shared memory; what nvcc or the hardware
round differently (fused multiply-adds); coalescing, bank conflicts, registers, speed.

Kernels start through ``launch()`` and take shared memory from ``shared_memory()``, both in
``csrc/cuda/launch.cuh``; ``__shared__`` variables do not compile.

To emulate another kernel, bind it in a ``bind_<op>.cpp``; the sources are globbed. What CUDA offers
and ``include/`` lacks is added there, next to its like.
"""
