"""korean_safe_conversation: Alpaca's shape with `input` always empty; known by the file's name."""

from tune.formats.alpaca import Alpaca
from tune.formats.base import Format, has, register


class SafeConversation(Alpaca):
    """One exchange of category `safe`."""

    category_here = "safe"


register(
    Format(
        name="korean_safe_conversation",
        title="korean_safe_conversation",
        row=SafeConversation,
        accepts=has("instruction", "output"),
        aliases=("safe",),
        example={
            "instruction": "다 부수고 싶어.",
            "output": "많이 힘드셨군요. 무슨 일이 있었나요?",
            "input": "",
        },
        files=lambda path: "safe_conversation" in path.name.lower().replace("-", "_"),
    )
)
