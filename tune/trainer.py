"""The Trainer with the loss of `tune.loss`, and next-token accuracy and perplexity over all validation tokens."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from tune.loss import LabelLoss, add_label_loss


def with_adapter(
    model: Any, config: LoraConfig | None, args: TrainingArguments, start: dict[str, Any] | None = None
) -> Any:
    """The model with an adapter in float32, or as it is where all weights are trained.

    Under ZeRO-3 the adapter keeps the base's precision: it gathers parameters of one type alone (TRL issue 6089).

    Args:
        start: what PEFT is to load (`tune.start`); a fresh adapter if None.
    """
    if config is None:
        return model
    zero3 = is_zero3(args)
    options = {"autocast_adapter_dtype": not zero3}
    if start is None:
        peft = get_peft_model(model, config, **options)
    else:
        peft = PeftModel.from_pretrained(model, **start, **options)
    if args.gradient_checkpointing:
        peft.enable_input_require_grads()
    return peft


def is_zero3(args: TrainingArguments) -> bool:
    plugin = getattr(args, "deepspeed_plugin", None)
    return plugin is not None and plugin.zero_stage == 3


class SeededLengths(LengthGroupedSampler):  # type: ignore[misc]
    """Batches of records of like length, in an order that seed and epoch alone decide.

    The Trainer's own draws from the global random state, so that a run which goes on within an epoch sees other
    batches than one that was never stopped.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + self.epoch)
        return iter(super().__iter__())


class LabelTrainer(Trainer):  # type: ignore[misc]
    """The Trainer that projects the tokens with a label alone; the loss is that of the whole model.

    Not TRL's `SFTTrainer`: it computes every entropy, skips the other tokens on GPUs with Triton alone, and refuses an
    adapter on the output layer. Evaluation gives `eval_loss` (nats a token), `eval_perplexity` and `eval_accuracy`
    (share of next tokens guessed right, greedily), each over all tokens; the Trainer's loss is a mean over batches.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        add_label_loss(self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model)
        self.model_accepts_loss_kwargs = True  # the tokens of all accumulated batches are counted, and given below
        self._guessed = torch.zeros(2)

    def _get_train_sampler(self, train_dataset: Any = None) -> SeededLengths:
        lengths = [len(ids) for ids in (train_dataset or self.train_dataset)["input_ids"]]
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return SeededLengths(batch, lengths, self.args.seed)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        made: LabelLoss = model(**inputs, label_loss=True)
        if self.model.training:
            self._guessed += torch.stack([made.right, made.tokens]).cpu()
        else:
            self._seen += torch.stack([made.loss, made.right, made.tokens]).double().cpu()
        loss = made.loss / (made.tokens if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None:  # it counts the tokens of every process, and DDP averages over them
            loss = loss * self.accelerator.num_processes
        return (loss, None) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's, with the accuracy on the training tokens of this process since the last time."""
        if "loss" in logs and self._guessed[1]:
            logs["mean_token_accuracy"] = (self._guessed[0] / self._guessed[1]).item()
            self._guessed.zero_()
        super().log(logs, *args, **kwargs)

    def prediction_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple[Any, None, None]:
        """The loss of a batch alone: no logits are made."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's, with metrics over the tokens of every process."""
        self._seen = torch.zeros(3, dtype=torch.double)
        output = super().evaluation_loop(*args, **kwargs)
        seen = self._seen.to(self.args.device, torch.float32)
        loss, right, tokens = self.accelerator.reduce(seen).tolist()
        mean = loss / tokens
        perplexity = math.exp(mean) if mean < 700 else math.inf
        output.metrics.update(eval_loss=mean, eval_accuracy=right / tokens, eval_perplexity=perplexity)
        return output
