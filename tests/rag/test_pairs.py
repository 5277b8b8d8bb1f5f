"""Pairs of letters: what they see that morphemes may not, and that rare pairs count for more."""

from rag.pairs import pair_scores, pairs


def test_pairs_stay_inside_words() -> None:
    assert pairs("회의록 PDF, 12쪽") == ["회의", "의록", "pd", "df", "12", "2쪽"]


def test_a_word_with_another_ending_is_found() -> None:
    scores = pair_scores("깨뜨렸을 때", ["장난감을 깨뜨리거나 잃어버리면", "월요일에 쉰다"])
    assert scores[0] > 0 == scores[1]


def test_a_rare_pair_outweighs_a_common_one() -> None:
    texts = ["여권 사진", "여권 수수료", "여권 분실", "사증 분실"]
    scores = pair_scores("여권 수수료", texts)
    assert scores.index(max(scores)) == 1
    assert scores[0] < scores[1] / 2


def test_nothing_shared_scores_nothing() -> None:
    assert pair_scores("zq", ["가나", ""]) == [0.0, 0.0]
    assert pair_scores("가나", []) == []
