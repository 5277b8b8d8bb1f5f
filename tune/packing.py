"""Many conversations in one row, with the tokens that they share written once.

Every record of a persona begins with the same system prompt, and records differ in length: in a padded batch of Iron
Man's data two thirds of the tokens are the prompt again, or padding. Here a batch is one row,

    prefix | rest of record 1 | rest of record 2 | …

whose mask lets each record see the prefix and itself alone, and whose positions begin again after the prefix. Every
token then gets the same hidden state as in a row of its own, so the loss is the same.
"""

from dataclasses import dataclass
from typing import Any

import torch

from tune.examples import IGNORED, Example

# Tokens. Each new length costs a CPU 12 MB that never come back (measured); so there are few lengths.
_MULTIPLE = 64


def shared_prefix(examples: list[Example]) -> int:
    """How many tokens all examples begin with, at least one token before the first label of any.

    The token after the prefix then carries no label: in the row it follows another record.
    """
    ids = examples[0]["input_ids"]
    length = len(ids)
    for example in examples:
        first_label = next(i for i, label in enumerate(example["labels"]) if label != IGNORED)
        length = min(length, first_label - 1)
        length = next((i for i in range(length) if example["input_ids"][i] != ids[i]), length)
    return length


def can_pack(config: Any, longest: int) -> bool:
    """Whether a model takes a row with a mask of its own: plain attention, and no window shorter than a record."""
    window = getattr(config.get_text_config(), "sliding_window", None)
    return config._attn_implementation == "sdpa" and longest <= (window or longest)


@dataclass(frozen=True)
class SharedPrefixCollator:
    """Makes one row of a batch of examples; `prefix` is the number of tokens that all of them begin with."""

    prefix: int

    def __call__(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        """A batch of tensors: ids, labels and positions [1, tokens], mask [1, 1, tokens, tokens]."""
        start = self.prefix
        ids, labels = examples[0]["input_ids"][:start], [IGNORED] * start
        owners, positions = [0] * start, list(range(start))
        for number, example in enumerate(examples, 1):
            rest = example["input_ids"][start:]
            ids = ids + rest
            labels += example["labels"][start:]
            owners += [number] * len(rest)
            positions += range(start, start + len(rest))
        spare = -len(ids) % _MULTIPLE
        ids, labels = ids + [ids[0]] * spare, labels + [IGNORED] * spare
        owners, positions = owners + [len(examples) + 1] * spare, [*positions, *range(spare)]
        owner = torch.tensor(owners)
        visible = (owner[:, None] == owner) | (owner == 0)
        return {
            "input_ids": torch.tensor([ids]),
            "labels": torch.tensor([labels]),
            "position_ids": torch.tensor([positions]),
            "attention_mask": visible.tril()[None, None],
        }
