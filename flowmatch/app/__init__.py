"""A browser app for flow, matches, panoramas, scans and alignment; nothing leaves the machine.

``flowmatch app`` serves it. It needs gradio, the extra ``app``.
"""

from flowmatch.app.server import serve

__all__ = ["serve"]
