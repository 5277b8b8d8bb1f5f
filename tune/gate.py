"""The gate: a candidate against the live version on the persona's held-out set, before it may go live."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from personas.language import first_drift
from personas.schema import Gate, Persona
from tune.data import Record
from tune.replies import hangul_share, has_loop, is_refusal

HARMFUL, LOOKALIKE = "harmful", "lookalike"  # categories of the held-out set
Answer = tuple[str, bool]  # text, and whether it ended by itself


@dataclass(frozen=True)
class Figures:
    """What a version showed; shares 0 to 1, loss in nats a character; None where the set cannot tell."""

    korean: float
    hanja_kana: float
    ended: float
    loops: float
    loss: float
    refusals: float | None = None
    over_refusals: float | None = None

    def scores(self) -> dict[str, float]:
        """As an adapter's manifest keeps them."""
        return {f"gate_{name}": round(value, 4) for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate may go live; each reason names a figure and its bound."""

    passed: bool
    reasons: list[str]

    @property
    def reason(self) -> str:
        return "; ".join(self.reasons)


def choose(records: Sequence[Record], count: int) -> list[Record]:
    """Records to answer: one of each category in turn, in the set's order, so that all are there."""
    by_category: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_category[record.category].append(record)
    queues = [list(reversed(group)) for group in by_category.values()]
    chosen: list[Record] = []
    while len(chosen) < count and any(queues):
        chosen += [queue.pop() for queue in queues if queue][: count - len(chosen)]
    return chosen


def figures(records: Sequence[Record], answers: Sequence[Answer], loss: float, persona: Persona) -> Figures:
    """Figures of a version's answers to the records."""
    allowed = frozenset(word.lower() for word in persona.guard.allow) if persona.guard else frozenset()
    threshold = persona.guard.threshold if persona.guard else 0.3
    drifts = [first_drift(text, threshold, allowed)[2] for text, _ in answers]

    def share(hits: Sequence[bool]) -> float:
        return sum(hits) / len(hits)

    def refused(category: str) -> float | None:
        pairs = zip(records, answers, strict=True)
        hits = [is_refusal(text) for record, (text, _) in pairs if record.category == category]
        return share(hits) if hits else None

    return Figures(
        korean=share([hangul_share(text) > 0 and not drift for (text, _), drift in zip(answers, drifts, strict=True)]),
        hanja_kana=share([drift in ("hanja", "kana") for drift in drifts]),
        ended=share([ended for _, ended in answers]),
        loops=share([has_loop(text) for text, _ in answers]),
        loss=loss,
        refusals=refused(HARMFUL),
        over_refusals=refused(LOOKALIKE),
    )


def verdict(candidate: Figures, live: Figures | None, gate: Gate, wins: float | None = None) -> Verdict:
    """Hold a candidate against the bounds, and against the live version where there is one."""
    reasons: list[str] = []
    bounds = {
        "korean": (gate.least_korean, 1),
        "ended": (gate.least_ended, 1),
        "refusals": (gate.least_refusals, 1),
        "hanja_kana": (gate.most_hanja_kana, -1),
        "loops": (gate.most_loops, -1),
        "over_refusals": (gate.most_over_refusals, -1),
    }
    for name, (bound, sign) in bounds.items():
        value, before = getattr(candidate, name), getattr(live, name, None)
        if value is None:
            continue
        if sign * value < sign * bound:
            reasons.append(f"{name} {value:.3f} {'<' if sign > 0 else '>'} {bound:g}")
        elif before is not None and sign * (value - before) < -gate.most_fall - 1e-9:
            reasons.append(f"{name} {value:.3f}, live {before:.3f}: worse by more than {gate.most_fall:g}")
    if live is not None and candidate.loss > live.loss * (1 + gate.most_loss_rise):
        reasons.append(f"loss {candidate.loss:.4f} > live {live.loss:.4f} + {gate.most_loss_rise:.0%}")
    if gate.judge and wins is not None and wins < gate.judge.least_wins:
        reasons.append(f"judge {wins:.3f} < {gate.judge.least_wins:g}")
    return Verdict(not reasons, reasons)


@dataclass(frozen=True)
class Measured:
    """A version's figures and the answers that they are of."""

    figures: Figures
    answers: list[Answer]


def measure(model: Any, tokenizer: Any, held_out: list[Record], persona: Persona) -> Measured:
    """Let a model answer, greedily and so always the same, and take its figures."""
    from tune.answers import answer_all
    from tune.evaluate import reply_losses

    model.eval()
    chosen = choose(held_out, persona.gate.prompts)
    nats, _, characters = reply_losses(model, tokenizer, held_out, persona.system_prompt, "loss")
    penalty = persona.sampling.repetition_penalty or 1.0
    answers = answer_all(model, tokenizer, chosen, persona.system_prompt, persona.gate.max_tokens, penalty)
    return Measured(figures(chosen, answers, nats / characters, persona), answers)


def measure_live(
    folder: Path, cache: Path, held_out: list[Record], persona: Persona, load: Callable[[], tuple[Any, Any]]
) -> Measured:
    """The live version's figures, from the cache where this version was measured on this set already.

    Args:
        folder: the version's folder; its name is part of the key, as versions never change.
        cache: a folder for what was measured.
        held_out: the whole held-out set.
        persona: system prompt, guard and gate are part of the key.
        load: gives model and tokenizer; called only if they are needed.
    """
    key = f"{folder.name}{persona.model_dump_json()}" + "".join(record.model_dump_json() for record in held_out)
    file = cache / f"{folder.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
    if file.is_file():
        known = json.loads(file.read_text())
        return Measured(Figures(**known["figures"]), [(text, ended) for text, ended in known["answers"]])
    measured = measure(*load(), held_out, persona)
    cache.mkdir(parents=True, exist_ok=True)
    staged = file.with_suffix(".staged")
    staged.write_text(json.dumps({"figures": asdict(measured.figures), "answers": measured.answers}))
    staged.replace(file)
    return measured
