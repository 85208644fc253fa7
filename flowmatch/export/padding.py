"""Padding in an ONNX graph, around a network for sizes that are multiples of its stride."""

from typing import Any

import numpy as np


def pad_and_crop(graph: Any, multiple: int) -> None:
    """Let a graph take images of any height and width, in place.

    Each input is padded like `flowmatch.flow.networks.padding.pad_to_multiple`: the right and
    bottom border are repeated. The output is cropped to the size of the input.

    Args:
        graph: Graph of `onnx_ir` with inputs ``[B, C, H, W]`` and one output of the same H and W.
        multiple: Number that divides the H and W that the graph takes.
    """
    from onnx_ir import Value, tensor
    from onnx_ir.tape import Tape

    before, after = Tape(), Tape()

    def constant(tape: Any, *numbers: int) -> Any:
        return tape.op("Constant", [], {"value": tensor(np.array(numbers, np.int64))})

    size: Any = None
    for k, padded in enumerate(list(graph.inputs)):
        image = Value(name=f"image{k}", type=padded.type)
        size = before.op("Shape", [image], {"start": 2})
        raised = before.op("Add", [size, constant(before, multiple - 1)])
        steps = before.op("Div", [raised, constant(before, multiple)])
        rounded = before.op("Mul", [steps, constant(before, multiple)])
        missing = before.op("Sub", [rounded, size])
        pads = before.op("Concat", [constant(before, 0, 0), missing], {"axis": 0})
        axes = constant(before, 2, 3)
        whole = before.op("Pad", [image, pads, None, axes], {"mode": "edge"})
        whole.type, whole.shape = padded.type, padded.shape
        padded.replace_all_uses_with(whole)
        graph.inputs[k] = image
    flow = graph.outputs[0]
    flow.name = "padded_output"
    start, axes = constant(after, 0, 0), constant(after, 2, 3)
    cropped = after.op("Slice", [flow, start, size, axes])
    cropped.type = flow.type
    graph.outputs[0] = cropped
    graph.insert_before(graph[0], before.nodes)
    graph.extend(after.nodes)
