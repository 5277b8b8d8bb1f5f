"""The page: theme, style and tabs."""

from pathlib import Path

import gradio as gr

from ui.client import Gateway
from ui.tabs.chat import ChatTab
from ui.texts import Texts

CSS = Path(__file__).parent / "page.css"
_FONTS = ["Pretendard", "Noto Sans KR", "NanumGothic", "system-ui", "sans-serif"]  # local: no font is fetched


def make_page(gateway: Gateway, texts: Texts) -> gr.Blocks:
    """The page, not launched yet."""
    with gr.Blocks(title=texts.title, analytics_enabled=False) as page:
        ChatTab(gateway, texts).build(page)
    return page


def launch(page: gr.Blocks, host: str, port: int) -> str:
    """Serve the page in the background; returns its address."""
    page.queue(default_concurrency_limit=16)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        theme=gr.themes.Soft(primary_hue="red", neutral_hue="stone", font=_FONTS, font_mono=["monospace"]),
        css_paths=CSS,
        footer_links=[],
        share=False,
        quiet=True,
        ssr_mode=False,
        prevent_thread_lock=True,
    )
    return str(address)
