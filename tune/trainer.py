"""TRL's trainer with the loss of `tune.loss`, and next-token accuracy and perplexity over all validation tokens."""

import math
from typing import Any

import torch
from peft import PeftModel
from trl import SFTTrainer

from tune.loss import LabelLoss, add_label_loss


class LabelTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer that projects the tokens with a label alone; the loss is the same.

    TRL also skips the others, but on GPUs with Triton alone, and computes every entropy. Evaluation gives `eval_loss`
    (nats a token), `eval_perplexity` and `eval_accuracy` (share of next tokens guessed right, greedily), each over
    all tokens; the Trainer's own loss is a mean over batches.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        add_label_loss(self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model)
        if getattr(self.model, "is_loaded_in_4bit", False):  # TRL rounds them to bfloat16, which float16 cannot scale
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        made: LabelLoss = model(**inputs, label_loss=True)
        if self.model.training:
            self._metrics["train"]["mean_token_accuracy"].append((made.right / made.tokens).item())
        else:
            self._seen += torch.stack([made.loss, made.right, made.tokens]).double().cpu()
        loss = made.loss / (made.tokens if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None:  # it counts the tokens of every process, and DDP averages over them
            loss = loss * self.accelerator.num_processes
        return (loss, None) if return_outputs else loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's, its metrics over the tokens of every process."""
        self._seen = torch.zeros(3, dtype=torch.double)
        output = super().evaluation_loop(*args, **kwargs)
        seen = self._seen.to(self.args.device, torch.float32)
        loss, right, tokens = self.accelerator.reduce(seen).tolist()
        mean = loss / tokens
        perplexity = math.exp(mean) if mean < 700 else math.inf
        output.metrics.update(eval_loss=mean, eval_accuracy=right / tokens, eval_perplexity=perplexity)
        return output
