"""Fit `rag/calibration.json`: the judgement of whether what was found answers a question.

    python bench/rag/fit.py COLLECTION [--write]

Fits a logistic regression to the calibration half of `questions.jsonl` (a fixed half by the hash of the ids) and shows
its AUROC on the other half, to which nothing is fitted, and over documents left out of the fit. The operating point is
the probability with the best balanced accuracy on the calibration half, each question judged by a fit to the others.
"""

import json
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from personas.home import Home
from rag.evaluate import auroc, in_test_half, read_questions
from rag.relevance import FEATURES, features
from rag.search import Searcher

HERE = Path(__file__).parent
TARGET = HERE.parents[1] / "rag" / "calibration.json"
STRENGTH = 0.01  # of .003 to .3 the best in cross-validation on the calibration half, with .003
LEFT_OUT = ("terms",)  # the length of a question says more about who wrote it than about the documents


def fitted(rows: np.ndarray, labels: np.ndarray) -> object:
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced"))
    return pipeline.fit(rows, labels)


def area(model: object, rows: np.ndarray, labels: np.ndarray) -> float | None:
    scores = model.predict_proba(rows)[:, 1]  # type: ignore[attr-defined]
    return auroc(list(scores[labels == 1]), list(scores[labels == 0]))


def operating_point(rows: np.ndarray, labels: np.ndarray) -> float:
    """The threshold with the best balanced accuracy, over predictions of ten folds; the middle of the best range."""
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced"))
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    scores = cross_val_predict(pipeline, rows, labels, cv=folds, method="predict_proba")[:, 1]
    grid = np.arange(0.05, 0.95, 0.01)
    balanced = [((scores[labels == 1] >= t).mean() + (scores[labels == 0] < t).mean()) / 2 for t in grid]
    best = grid[np.isclose(balanced, max(balanced))]
    return round(float(np.median(best)), 3)


def draw(scores: np.ndarray, labels: np.ndarray, threshold: float, picture: Path) -> None:
    """The test half: how probable an answer was held, for questions with and without one, and the operating point."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams["font.family"] = ["NanumGothic", "DejaVu Sans"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    bins = np.linspace(0, 1, 21)
    left.hist([scores[labels == 1], scores[labels == 0]], bins, label=["답이 있음", "답이 없음"])
    left.axvline(threshold, color="black", linestyle="--", label=f"기준 {threshold:.2f}")
    left.set_xlabel("답이 있을 확률")
    left.set_ylabel("질문 수 (시험용 절반)")
    left.legend()
    grid = np.unique([0.0, *scores, 1.01])
    hits = [(scores[labels == 1] >= t).mean() for t in grid]
    false = [(scores[labels == 0] >= t).mean() for t in grid]
    right.plot(false, hits, drawstyle="steps-post")
    right.plot((scores[labels == 0] >= threshold).mean(), (scores[labels == 1] >= threshold).mean(), "ko", label="기준")
    right.set_xlabel("답이 없는데 답함")
    right.set_ylabel("답이 있어 답함")
    right.set_title(f"AUROC {auroc(list(scores[labels == 1]), list(scores[labels == 0]))}")
    right.legend(loc="lower right")
    figure.savefig(picture, dpi=120)


def main() -> None:
    names = [name for name in FEATURES if name not in LEFT_OUT]
    questions = read_questions(HERE / "questions.jsonl")
    searcher = Searcher(Home.from_env())
    collection = searcher.store.collection(sys.argv[1])
    values = [features(searcher, collection, searcher.search(q.question, sys.argv[1])) for q in questions]
    rows = np.array([[value[name] for name in names] for value in values])
    labels = np.array([q.answerable for q in questions], int)
    test = np.array([in_test_half(q) for q in questions])
    documents = np.array([q.document for q in questions])
    for at, name in enumerate(names):
        alone = auroc(list(rows[test & (labels == 1), at]), list(rows[test & (labels == 0), at]))
        print(json.dumps({"feature": name, "auroc_test_alone": alone}))
    for document in sorted(set(documents)):
        out = documents == document
        print(
            json.dumps({"left_out": document, "auroc": area(fitted(rows[~out], labels[~out]), rows[out], labels[out])})
        )
    model = fitted(rows[~test], labels[~test])
    print(
        json.dumps(
            {
                "auroc_calibration": area(model, rows[~test], labels[~test]),
                "auroc_test": area(model, rows[test], labels[test]),
            }
        )
    )
    scaler, regression = model[0], model[1]  # type: ignore[index]
    made = {
        "features": names,
        "mean": [round(float(x), 6) for x in scaler.mean_],
        "scale": [round(float(x), 6) for x in scaler.scale_],
        "weights": [round(float(x), 6) for x in regression.coef_[0]],
        "bias": round(float(regression.intercept_[0]), 6),
        "threshold": operating_point(rows[~test], labels[~test]),
    }
    print(json.dumps(made))
    scores = model.predict_proba(rows[test])[:, 1]  # type: ignore[attr-defined]
    threshold = float(made["threshold"])  # type: ignore[arg-type]
    judged = {"answered_of_answerable": (scores[labels[test] == 1] >= threshold).mean()}
    judged["declined_of_unanswerable"] = (scores[labels[test] == 0] < threshold).mean()
    print(json.dumps({"half": "test", "threshold": threshold, **{k: round(float(v), 3) for k, v in judged.items()}}))
    draw(scores, labels[test], threshold, HERE.parents[1] / "docs" / "images" / "rag-unanswerable.png")
    if "--write" in sys.argv:
        TARGET.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
