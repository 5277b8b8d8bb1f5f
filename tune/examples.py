"""A conversation as the model sees it: token ids, and which of them it is to learn to say."""

from transformers import PreTrainedTokenizerBase

from tune.data import Record

IGNORED = -100  # the label of a token that carries no loss (torch.nn.functional.cross_entropy)
Example = dict[str, list[int]]


def encode(record: Record, tokenizer: PreTrainedTokenizerBase, system_prompt: str) -> Example:
    """`input_ids` by the chat template, and `labels`: the ids within the template's generation marks."""
    encoded = tokenizer.apply_chat_template(
        record.conversation(system_prompt), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, marks = encoded["input_ids"], encoded["assistant_masks"]
    labels = [i if mark else IGNORED for i, mark in zip(ids, marks, strict=True)]
    return {"input_ids": ids, "labels": [IGNORED, *labels[1:]]}  # nothing says the first token
