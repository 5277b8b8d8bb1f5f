"""Every text that the page shows: Korean, or English behind `--lang en`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Texts:
    """The Korean texts; another language gives its own."""

    title: str = "가면"
    subtitle: str = "한국어 페르소나와 이야기해 보세요"
    persona: str = "누구와 이야기할까요?"
    untuned: str = "튜닝 전"
    ask: str = "메시지를 입력하고 Enter를 누르세요"
    send: str = "보내기"
    stop: str = "멈춤"
    retry: str = "다시 답하기"
    clear: str = "지우기"
    ready: str = "엔진 준비됨"
    waiting: str = "엔진이 준비되면 바로 답할게요"
    no_gateway: str = "게이트웨이에 닿지 않습니다. `serve up`이 돌고 있나요?"
    cut: str = "⚠️ 엔진이 멈춰서 답이 끊겼어요. 다시 시작되면 ‘다시 답하기’를 눌러 주세요."
    failed: str = "⚠️ 답을 받지 못했어요"
    consent: str = "내 대화를 페르소나를 더 좋게 만드는 데 써도 괜찮아요 (개인정보는 가리고 저장해요)"
    thanks: str = "고마워요! 다음 버전에 반영할게요."
    thumb_only: str = "고마워요! 동의하지 않으셔서 대화는 저장하지 않았어요."
    edit_needs_consent: str = "고친 답을 보내려면 아래에서 동의해 주세요."
    sources: str = "찾아본 구절"
    cited: str = "인용"
    page: str = "{}쪽"
    not_taken: str = "피드백을 보내지 못했어요. 너무 오래된 답일 수 있어요."


KO = Texts()
EN = Texts(
    title="Gamyeon",
    subtitle="Chat with Korean personas",
    persona="Who do you want to talk to?",
    untuned="not tuned yet",
    ask="Type a message and press Enter",
    send="Send",
    stop="Stop",
    retry="Answer again",
    clear="Clear",
    ready="Engine ready",
    waiting="I will answer as soon as the engine is ready",
    no_gateway="The gateway cannot be reached. Is `serve up` running?",
    cut="⚠️ The engine died and the answer was cut. Press ‘Answer again’ once it is back.",
    failed="⚠️ No answer",
    consent="My conversation may be used to improve the persona (personal data is masked before it is stored)",
    thanks="Thank you! The next version will learn from it.",
    thumb_only="Thank you! Without your consent the conversation was not stored.",
    edit_needs_consent="To send a corrected answer, please agree below.",
    sources="Passages looked up:",
    cited="cited",
    page="p. {}",
    not_taken="The feedback was not taken. The answer may be too old.",
)
