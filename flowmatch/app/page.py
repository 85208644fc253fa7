"""The page of the app, and how it looks."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes import Base as Theme
from gradio.themes import Font

from flowmatch import __version__
from flowmatch.app.layout import KEPT, Settings, add_tab
from flowmatch.app.tabs import TABS

__all__ = ["Settings", "build_page", "launch"]

_LONGEST_QUEUE = 50
_CLEANING = 600
"""Time between two removals of old files, seconds."""

_HEADER = f"""
<header class="fm-header">
  <h1>flowmatch</h1><span>dense correspondence and optical flow</span>
  <small>{__version__} · DEVICE · nothing leaves this machine</small>
</header>
"""


def build_page(settings: Settings) -> Any:
    """Return the page with all tabs, a `gradio.Blocks`.

    Args:
        settings: What all jobs share.
    """
    with gr.Blocks(
        title="flowmatch", analytics_enabled=False, fill_width=True,
        delete_cache=(_CLEANING, int(KEPT)),
    ) as page:  # fmt: skip
        gr.HTML(_HEADER.replace("DEVICE", settings.device), elem_classes="fm-html")
        with gr.Tabs():
            for tab in TABS:
                add_tab(tab, settings)
    page.queue(default_concurrency_limit=1, max_size=_LONGEST_QUEUE, api_open=False)
    return page


def launch(settings: Settings, host: str, port: int, largest_file: int) -> tuple[Any, str]:
    """Serve the page from other threads.

    Args:
        settings: What all jobs share.
        host: Address to listen on.
        port: A free port.
        largest_file: Longest file that is accepted, bytes.

    Returns:
        The page, and its URL.
    """
    page = build_page(settings)
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        max_file_size=largest_file,
        theme=_theme(),
        css_paths=Path(__file__).with_name("style.css"),
    )
    return page, url


def _theme() -> Theme:
    sans = [Font(name) for name in ("system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial")]
    mono = [Font(name) for name in ("ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono")]
    return Theme(
        primary_hue="blue", secondary_hue="slate", neutral_hue="slate", radius_size="sm",
        font=[*sans, Font("sans-serif")], font_mono=[*mono, Font("monospace")],
    ).set(body_text_color_subdued="*neutral_500")  # fmt: skip
