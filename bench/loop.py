"""One turn of the loop on the embedded base: 20 corrections → `tune learn` → gate → live, timed, with its margins.

python bench/loop.py   ($GAMYEON_FROM: a home whose models to copy)

The persona answers 20 prompts; a reader's corrections, written for this bench, are stored as feedback on them.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import copy_models, emit, machine

from personas.adapters import AdapterStore, read_manifest
from personas.bases import prepare_base
from personas.feedback_store import Content, Feedback, FeedbackStore
from personas.home import Home
from personas.loader import find_persona, load_personas
from personas.memory import keep_freed_memory
from personas.registry import Registry
from personas.shipped import install_shipped

CORRECTIONS = {
    "우산을 자꾸 잃어버려": "우산에 위치 추적 태그부터 달아. 만 원이면 되는데 매번 새로 사는 건 바보짓이지.",
    "월요일이 너무 싫어": "월요일은 죄가 없어. 일요일 밤에 십 분만 내일 할 일을 적어 둬, 그럼 훨씬 덜 싫어져.",
    "기타를 배워 볼까?": "배워. 하루 십오 분, 코드 세 개면 한 달 뒤에 노래 한 곡은 친다.",
    "냉장고에서 소리가 나": "수평부터 봐. 한쪽 발이 떠 있으면 그렇게 떨어. 그래도 나면 뒤쪽 팬에 먼지가 낀 거야.",
    "친구가 약속에 늘 늦어": "다음부턴 삼십 분 일찍 약속 시간을 불러. 기계든 사람이든 여유 시간을 설계에 넣는 거지.",
    "강아지를 키우고 싶은데": "산책을 하루 두 번, 십 년 동안 할 수 있으면 키워. 못 하면 내 로봇 팔이나 빌려줄게.",
    "발표만 하면 떨려": "나도 첫 발표 땐 떨었어. 첫 문장만 통째로 외워, 그다음은 입이 알아서 가거든.",
    "자전거 체인이 빠졌어": "뒤집어 놓고 뒷변속기를 앞으로 밀어. 체인에 여유가 생기면 작은 톱니부터 걸면 돼.",
    "요리를 못해서 고민이야": "요리는 화학이야. 계량부터 정확히 해, 눈대중은 실력이 붙은 다음에 하는 거고.",
    "집중이 안 돼": "휴대폰을 다른 방에 둬. 이십오 분만 한 가지를 하고 오 분 쉬어, 그게 제일 잘 들어.",
    "비 오는 날 뭐 하면 좋을까": "창가에 앉아서 고장 난 물건 하나 고쳐 봐. 빗소리 들으면서 납땜하는 거, 꽤 괜찮아.",
    "달리기를 시작했는데 숨차": "너무 빨라서 그래. 말을 할 수 있는 속도까지 늦춰, 엔진도 길들이기부터 하잖아.",
    "선물로 뭘 줄까": "그 사람이 매일 쓰는 물건 중에 제일 낡은 걸 봐. 그걸 좋은 걸로 바꿔 주면 돼.",
    "게임을 너무 많이 해": "끄는 시간을 정하고 알람을 맞춰. 의지보다 타이머가 훨씬 믿을 만하거든.",
    "커피 좀 줄이고 싶어": "오후 두 시 이후엔 디카페인으로 바꿔. 나도 그렇게 밤잠을 되찾았어.",
    "방이 늘 어질러져 있어": "물건마다 자리를 하나씩만 정해. 내 작업실도 공구는 제자리에 있어, 먼지만 많을 뿐이지.",
    "노트북이 뜨거워": "바닥에 공기 길부터 터 줘. 책 두 권만 괴어도 온도가 뚝 떨어진다.",
    "영어 공부가 지겨워": "좋아하는 영화 한 장면을 골라서 스무 번 따라 해. 문법책보다 그게 빨라.",
    "동생이랑 싸웠어": "먼저 사과해. 이기는 것보다 저녁을 같이 먹는 게 낫거든, 그건 내가 늦게 배웠어.",
    "내일 첫 출근이야": "십 분 일찍 가고, 이름을 외우고, 모르면 물어봐. 첫날은 그거면 충분해.",
}


def prepared(folder: str) -> Home:
    home = Home(Path(folder))
    copy_models(home.models)
    prepare_base(find_persona("ironman").persona.base, home)
    install_shipped(load_personas(), AdapterStore(home.adapters), Registry(home.database))
    return home


def loaded(home: Home, version: int) -> tuple[Any, Any]:
    from tune.preference import load_policy
    from tune.preference_settings import PreferenceSettings

    base = prepare_base(find_persona("ironman").persona.base, home)
    folder = AdapterStore(home.adapters).folder("ironman", version)
    return load_policy(base, folder, PreferenceSettings())


def say_all(home: Home) -> list[str]:
    """The live version's own answers."""
    from tune.answers import answer_all
    from tune.data import Record

    made = [
        Record.model_validate(
            {"category": "b", "messages": [{"role": "user", "content": p}, {"role": "assistant", "content": c}]}
        )
        for p, c in CORRECTIONS.items()
    ]
    model, tokenizer = loaded(home, 1)
    model.eval()
    return [
        text for text, _ in answer_all(model, tokenizer, made, find_persona("ironman").persona.system_prompt, 60, 1.1)
    ]


def margin(home: Home, version: int, answers: list[str]) -> float:
    """Mean of the corrected answer's log-likelihood less the original's, in nats."""
    import torch

    from tune.data import Turn
    from tune.preference import split_ids

    model, tokenizer = loaded(home, version)
    model.eval()

    def nats(prompt: str, answer: str) -> float:
        before, ids = split_ids([Turn(role="user", content=prompt)], answer, tokenizer, system)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([before + ids]), logits_to_keep=len(ids) + 1).logits[0, :-1].float()
        return float(logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum())

    system = find_persona("ironman").persona.system_prompt
    pairs = zip(CORRECTIONS.items(), answers, strict=True)
    return sum(nats(p, c) - nats(p, a) for (p, c), a in pairs) / len(answers)


def main() -> None:
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        home = prepared(folder)
        answers = say_all(home)
        store = FeedbackStore(home.database)
        for number, ((prompt, correction), answer) in enumerate(zip(CORRECTIONS.items(), answers, strict=True)):
            content = Content(messages=[{"role": "user", "content": prompt}], answer=answer, correction=correction)
            store.put(Feedback(answer=f"bench-{number}", persona="ironman", version=1, user="bench", consent=True,
                               thumb="down", content=content))  # fmt: skip
        store.close()
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "tune.cli", "learn", "ironman", *sys.argv[1:]],
                              env={**os.environ, "GAMYEON_HOME": folder}, check=False)  # fmt: skip
        seconds = time.perf_counter() - began
        registry = Registry(home.database)
        history = [f"{move.action} v{move.version}: {move.why}" for move in registry.history("ironman")]
        emit(**machine(), corrections=len(answers), returned=done.returncode, seconds=round(seconds, 1),
             live=registry.live("ironman"), history=history)  # fmt: skip
        for version in registry.versions("ironman"):
            manifest = read_manifest(AdapterStore(home.adapters).folder("ironman", version))
            emit(version=manifest.id, margin_nats=round(margin(home, version, answers), 2), scores=manifest.scores)


if __name__ == "__main__":
    main()
