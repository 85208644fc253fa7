"""Counts the instructions of the CUDA kernels and holds them to a budget, without a GPU.

``make sass`` compiles ``csrc/cuda/*.cu`` for sm_80 and sm_90 with the toolkit, disassembles the
machine code and compares what it counts with ``budget.txt``, one line a kernel. It fails if a
kernel needs more than its line allows, or has no line; ``python -m tests.sass --write`` writes the
table anew, with the targets kept.

What is counted, from the loops of the code (a loop is a branch backwards, with all between):

- ``registers`` of a thread, and bytes of its ``stack``, where spilled registers go;
- ``blocks`` that fit on a multiprocessor, with the launch's ``threads`` and ``shared`` memory;
- ``per_math``: instructions for one of arithmetic (a matrix product, multiply-add, or count of
  bits), in the loop that has most of it;
- ``loads``: loads from shared memory for one matrix product, in the same loop;
- ``staging``: instructions for one element that goes from global to shared memory;
- ``evaluation``: instructions for one figure of a tile of products, on the shortest way from the
  last product to the barrier after it (``nearest``).

A number is the budget; where a better one is aimed at, it follows: ``29>10``. What depends on
the size of the problem, such as the number of blocks, is in ``tests/emulator/test_grids.py``.
"""
