"""A conversation as the model sees it: token ids, and which of them it is to learn to say."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from personas.bases import Base
from personas.lang import say
from personas.memory import give_back_memory
from tune.data import DataError, Record
from tune.settings import SftSettings

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


def encode_all(
    records: list[Record], tokenizer: PreTrainedTokenizerBase, system_prompt: str, settings: SftSettings
) -> list[Example]:
    """Every record as token ids; one that is longer than `max_length` is refused, or left out where that is wanted."""
    limit = settings.max_length
    examples = [encode(record, tokenizer, system_prompt) for record in records]
    lengths = [len(example["input_ids"]) for example in examples]
    first = next((i for i, length in enumerate(lengths) if length > limit), None)
    if first is not None and not settings.drop_longer:
        length, start = lengths[first], records[first].prompt[:40]
        raise DataError(
            say(
                f"'{start}…'로 시작하는 기록이 {length} 토큰입니다 (max_length {limit})",
                f"the record that begins '{start}…' has {length} tokens (max_length {limit})",
            ),
            f"--set max_length={length} | --set drop_longer=true",
        )
    if min(lengths) > limit:
        raise DataError(
            say(f"모든 기록이 {limit} 토큰보다 깁니다", f"every record is longer than {limit} tokens"),
            f"--set max_length={min(lengths)}",
        )
    return [example for example, length in zip(examples, lengths, strict=True) if length <= limit]


def refuse_unmarked(base: Base, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a chat template that does not say which tokens are the assistant's."""
    from trl.chat_template_utils import has_generation_markers

    if not has_generation_markers(tokenizer.chat_template):
        raise DataError(
            say(
                f"{base.name}의 대화 템플릿에 generation 표시가 없습니다",
                f"no generation marks in {base.name}'s template",
            ),
            say(f"{base.path}/chat_template.jinja에 표시를 넣으세요", f"add them in {base.path}/chat_template.jinja"),
        )


def refuse_unfit(base: Base, records: list[Record], system_prompt: str, settings: SftSettings) -> None:
    """Refuse what training would, by the tokenizer alone, before a run is made and weights are loaded.

    Raises:
        DataError: a record longer than `max_length`, or a template without generation marks.
    """
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    refuse_unmarked(base, tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": settings.special_tokens})
    encode_all(records, tokenizer, system_prompt, settings)
    del tokenizer
    give_back_memory()
