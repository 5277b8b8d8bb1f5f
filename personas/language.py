"""Is a sentence Korean? Pure functions and an incremental splitter; no model, no I/O.

A sentence drifts when it is English prose, or has Hanja, Kana or another script in it. Code, URLs, e-mail addresses,
names, abbreviations, technical words and Hanja given in brackets after a Korean word (한국(韓國)) are Korean usage.
"""

import re
from dataclasses import dataclass, field

_NOT_PROSE = re.compile(
    r"```.*?(?:```|$)|`[^`\n]*`|https?://\S+|www\.\S+|[\w.+-]+@[\w-]+\.[\w.-]+|(?:[~.]?/)?[\w-]+(?:/[\w.-]+)+|<[^<>\n]+>",
    re.DOTALL | re.ASCII,
)
_GLOSS = re.compile(r"(?<=[가-힣])\s?[(（\[][^()（）\[\]가-힣]{1,40}[)）\]]")
_WORD = re.compile(r"[A-Za-z\u00c0-\u024f][A-Za-z\u00c0-\u024f0-9'’._+#-]*")
_HANGUL = re.compile(r"[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]")
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_KANA = re.compile(r"[\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f]")
_PHRASE = 4  # English words in a row that make a phrase whatever the rest of the sentence is
_LEAST_LETTERS = 6  # fewer foreign letters than these are no drift

# Written in Latin letters in ordinary Korean prose about technology; lower case.
TECHNICAL = frozenset(
    """android api app apple arduino aws azure backend bash blender bluetooth bug cache chatgpt chrome class claude cli
    client cloud code commit conda container cpu css csv cuda data database debug deploy dev discord django docker
    download email excel export facebook fastapi figma file firebase flask flutter frontend function gemini git github
    gitlab google gpt gpu gradio grafana hello helm hook html http https id image import index input instagram ios
    iphone java javascript json jupyter kafka kernel key kotlin kubernetes lambda langchain latex library linux llama
    llm lora lte mac main markdown matlab memory microsoft ml model mongodb mysql naver netflix next nginx node notion
    npm null numpy nvidia ok openai output pandas pdf photoshop php pip pod postgres postgresql power powerpoint prompt
    pull push python pytorch query rag react redis rest ruby rust scala script sdk server shell slack spark spring sql
    sqlite ssd ssh string swift tensorflow terminal token torch transformer transformers typescript ubuntu unity unix
    update url usb user vim vllm vpn vue web wifi windows word world xml yaml youtube zip zoom""".split()  # noqa: SIM905
)


def has_hangul(text: str) -> bool:
    """Whether any letter of it is Korean."""
    return bool(_HANGUL.search(text))


@dataclass(frozen=True)
class Verdict:
    """`drift` is what kind of foreign text a sentence is (english, hanja, kana, other), or empty; share 0 to 1."""

    drift: str
    share: float


def _is_usage(word: str, in_korean: bool, allowed: frozenset[str]) -> bool:
    """Whether a word in Latin letters is ordinary Korean usage: a term, an abbreviation, an identifier or a name."""
    bare = word.strip("'’.-_+#")
    lower = bare.lower()
    if len(bare) < 2 or lower in allowed or lower in TECHNICAL or bare.isupper() or any(c.isdigit() for c in bare):
        return True
    if re.search(r"[a-z][A-Z]|[A-Z]{2}[a-z]|\w[._+#]\w", bare):  # camelCase, vLLM, README.md
        return True
    return in_korean and bare[0].isupper()


def judge(sentence: str, threshold: float = 0.3, allowed: frozenset[str] = frozenset()) -> Verdict:
    """Whether a sentence drifts from Korean.

    Args:
        sentence: NFC text.
        threshold: the share of English letters among all letters above which a sentence drifts.
        allowed: more words, in lower case, that pass.
    """
    text = _GLOSS.sub(" ", _NOT_PROSE.sub(" ", sentence))
    hangul, letters = len(_HANGUL.findall(text)), sum(c.isalpha() for c in text)
    if not letters:
        return Verdict("", 0.0)
    for kind, pattern in (("kana", _KANA), ("hanja", _HAN)):
        if (count := len(pattern.findall(text))) >= 2 or (count and not hangul):
            return Verdict(kind, count / letters)
    words = list(_WORD.finditer(text))
    foreign, run, longest = 0, 0, 0
    for i, word in enumerate(words):
        before = i > 0 and not text[words[i - 1].end() : word.start()].strip()
        usage = _is_usage(word[0], hangul > 0, allowed)
        foreign += 0 if usage else sum(c.isalpha() for c in word[0])
        run = (run + 1 if before else 1) if not usage or (before and run) else 0
        longest = max(longest, run)
    if foreign and (longest >= _PHRASE or not hangul or (foreign >= _LEAST_LETTERS and foreign / letters > threshold)):
        return Verdict("english", foreign / letters)
    latin = sum(c.isalpha() for word in words for c in word[0])
    other = letters - hangul - latin - len(_HAN.findall(text)) - len(_KANA.findall(text))
    return Verdict("other" if other >= 4 and other / letters > threshold / 3 else "", other / letters)


# A sentence's end shows at what follows it: the numbers of its sources ("…입니다. [1]") are its own.
_END = re.compile(r"[.!?。！？…]+[\"'”’)\]]*(?:[^\S\n]?\[\d[\d, ]{0,10}\])*(?=\n|[^\S\n]+(?:[^\s\[]|\[[^\d\s]|\n))|\n")


@dataclass
class Sentences:
    """Splits text that comes in pieces into sentences; every piece belongs to one, blanks in front included.

    Lines of a fenced code block come as they are, marked as code. A sentence without an end is cut at the first
    blank after `longest` characters.
    """

    longest: int = 200
    _buffer: str = ""
    _fenced: bool = field(default=False)

    def feed(self, text: str) -> list[tuple[str, bool]]:
        """The sentences that are whole now, in order: (text, whether it is code)."""
        self._buffer += text
        found: list[tuple[str, bool]] = []
        while (end := self._end()) is not None:
            found.append(self._take(end))
        return found

    def flush(self) -> list[tuple[str, bool]]:
        """What is left, at the end of the text."""
        return [self._take(len(self._buffer))] if self._buffer else []

    def _end(self) -> int | None:
        start = len(self._buffer) - len(self._buffer.lstrip())
        match = _END.search(self._buffer, start)
        end = match.end() if match else None
        cut = self._buffer.find(" ", start + self.longest, start + 2 * self.longest)
        if cut < 0 and len(self._buffer) > start + 2 * self.longest:
            cut = start + 2 * self.longest
        return end if self._fenced or cut < 0 or (end is not None and end <= cut) else cut

    def _take(self, end: int) -> tuple[str, bool]:
        sentence, self._buffer = self._buffer[:end], self._buffer[end:]
        fence = sentence.strip().startswith("```") and sentence.strip().count("```") == 1
        code = self._fenced or fence
        if fence:
            self._fenced = not self._fenced
        return sentence, code


def first_drift(text: str, threshold: float, allowed: frozenset[str] = frozenset()) -> tuple[str, str, str]:
    """(the text before the first sentence that drifts, that sentence, its kind); the last two empty if none does."""
    splitter, good = Sentences(), ""
    for sentence, code in [*splitter.feed(text), *splitter.flush()]:
        if not code and (verdict := judge(sentence, threshold, allowed)).drift:
            return good, sentence, verdict.drift
        good += sentence
    return good, "", ""
