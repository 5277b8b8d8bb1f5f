"""Cross-entropy straight from hidden states, on the tokens that carry a label, a few at a time.

With Gemma's 262,144 words the logits of 1,000 tokens are 1 GB in float32, and their gradient another. Only the
assistant's tokens carry a loss, so only they are projected, `_CHUNK` at a time; the gradient of the hidden states is
made in the same pass, so nothing of the vocabulary's size is kept for the backward pass and no product is made twice.
The idea is that of Liger Kernel's fused linear cross-entropy (Hsu et al., 2024, arXiv 2410.10989), in plain torch.
"""

from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tune.examples import IGNORED

_CHUNK = 64  # tokens projected at once: 64 × 262,144 float32 are 67 MB


@dataclass
class LabelLoss:
    """Scalars over the tokens with a label: summed loss in nats, right greedy guesses, and their number."""

    loss: torch.Tensor
    right: torch.Tensor
    tokens: torch.Tensor


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed loss and number of right guesses of `hidden @ weight.T` against targets; `weight` is frozen."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        loss = torch.zeros((), device=hidden.device)
        right = torch.zeros((), dtype=torch.long, device=hidden.device)
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        for begin in range(0, len(hidden), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            logits = (hidden[part] @ weight.T).float()
            target = targets[part, None]
            wanted = logits.gather(1, target)
            right += (wanted >= logits.amax(1, keepdim=True)).sum()
            log_total = logits.logsumexp(1, keepdim=True)
            loss += (log_total - wanted).sum()
            if gradient is not None:  # of the logits: their probabilities, less one at the target
                logits.sub_(log_total).exp_().scatter_add_(1, target, torch.full_like(wanted, -1))
                gradient[part] = logits.to(weight.dtype) @ weight
        ctx.gradient = gradient
        ctx.mark_non_differentiable(right)
        return loss, right

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.gradient * scale.to(ctx.gradient.dtype), None, None


def _frozen_loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return _LinearCrossEntropy.apply(hidden.to(weight.dtype), weight, targets)  # type: ignore[no-untyped-call,no-any-return]


def _chunk_loss(head: torch.nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    logits = head(hidden).float()
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), _right(logits, targets)


def _right(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (logits.gather(1, targets[:, None]) >= logits.amax(1, keepdim=True)).sum()


def _trained_loss(head: torch.nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """For an output layer that is trained itself, whole or by LoRA: each chunk is made again in the backward pass."""
    parts = [
        checkpoint(_chunk_loss, head, hidden[i : i + _CHUNK], targets[i : i + _CHUNK], use_reentrant=False)
        for i in range(0, len(targets), _CHUNK)
    ]
    return torch.stack([loss for loss, _ in parts]).sum(), torch.stack([right for _, right in parts]).sum()


def has_plain_frozen_head(model: PreTrainedModel) -> bool:
    """Whether the output layer is a frozen linear one, whole on this device (ZeRO-3 marks a shard with `ds_id`)."""
    head = model.get_output_embeddings()
    plain = type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad
    return plain and not hasattr(head.weight, "ds_id")


def has_scaled_logits(model: PreTrainedModel) -> bool:
    """Whether the model does more to its logits than its output layer says: a soft cap or a scale."""
    config = model.config.get_text_config()
    return any(getattr(config, name, None) for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"))


def add_label_loss(model: PreTrainedModel) -> None:
    """Let `model(…, labels=…, label_loss=True)` return a `LabelLoss`; labels are [rows, tokens], not shifted.

    It goes through the model's own forward, and so through every wrapper around it (PEFT, DDP): gradients of several
    processes are averaged as ever.
    """
    forward = model.forward

    def with_label_loss(self: PreTrainedModel, *args: Any, label_loss: bool = False, **kwargs: Any) -> Any:
        if not label_loss:
            return forward(*args, **kwargs)
        targets = kwargs.pop("labels")[:, 1:]
        labelled = targets != IGNORED
        wanted = targets[labelled]
        if has_scaled_logits(self):
            logits = forward(*args, use_cache=False, **kwargs).logits[:, :-1][labelled].float()
            loss, right = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"), _right(logits, wanted)
        else:
            hidden = self.base_model(*args, use_cache=False, **kwargs).last_hidden_state[:, :-1][labelled]
            head = self.get_output_embeddings()
            frozen = has_plain_frozen_head(self)
            loss, right = _frozen_loss(hidden, head.weight, wanted) if frozen else _trained_loss(head, hidden, wanted)
        return LabelLoss(loss, right, labelled.sum())

    model.forward = MethodType(with_label_loss, model)
