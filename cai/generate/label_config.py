"""How pairs are compared: published recipes, and the settings that they stand for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cai.records import FrozenModel

NEEDS_LOCAL_JUDGE = (
    "relevance needs log-probabilities of replies, which an endpoint does not give; name a local "
    "judge, such as smollm2"
)
NEEDS_HIDDEN_STATES = (
    "probe reads a model's hidden states; name a judge that runs here: smollm2 or "
    "local:FOLDER_OR_HUB_ID"
)
SCORES = ("relevance", "probe")
"""Values of `ask` that ask nothing: each reply gets a score by itself."""
PRESETS: dict[str, dict[str, Any]] = {
    "cai": {"ask": "principle", "cot": False},
    "cai-cot": {"ask": "principle", "cot": True, "clamp": (0.4, 0.6)},
    "rlaif": {"ask": "detailed", "cot": True, "shots": 0},
    "direct": {"ask": "plain", "cot": False, "shots": 0},
    "relevance": {"ask": "relevance"},
    "probe": {"ask": "probe"},
}
"""Published recipes: arXiv:2212.08073 without and with chain of thought, the detailed instruction
with chain of thought of arXiv:2309.00267 (without examples), and a bare question. `relevance` and
`probe` ask nothing (`reply_scores.py`, `harm_probe.py`). Settings given beside the preset override
it."""


class LabelConfig(FrozenModel):
    """How pairs are compared."""

    preset: Literal["cai", "cai-cot", "rlaif", "direct", "relevance", "probe"] | None = None
    """A published recipe; the settings below override it."""
    ask: Literal["principle", "detailed", "plain", "relevance", "probe"] = "principle"
    """The question: principles of the constitution, one long instruction about good replies, or
    just which reply is better. `relevance` and `probe` ask nothing: a local judge gives each reply
    a score, for how much it is about its prompt, or for giving no help with harm."""
    principles: int = Field(1, ge=1)
    """Principles drawn per pair, without repetition; their probabilities are averaged (the
    ensemble)."""
    shots: int | None = Field(None, ge=0)
    """Worked examples before the question, half of them with A as the answer; None: all."""
    cot: bool = False
    """Chain of thought: the judge writes a rationale first, and chooses after it."""
    rationales: int = Field(1, ge=1)
    """Rationales per order, whose verdicts are averaged (self-consistency). arXiv:2309.00267 finds
    that more are no better."""
    rationale_tokens: int = Field(120, ge=1)
    rationale_temperature: float = Field(0.7, ge=0)
    clamp: tuple[float, float] | None = None
    """Range of each principle's probability: judges are overconfident after a chain of thought."""
    scale: float = Field(1.0, gt=0)
    """A reward model as judge (`reward:FOLDER_OR_HUB_ID`): its scores are divided by this, and a
    difference of 1 is then one nat. `cai audit-judge` fits it to people's labels."""

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return PRESETS.get(data.get("preset") or "", {}) | data

    @model_validator(mode="after")
    def _check(self) -> LabelConfig:
        if self.clamp is not None and not 0 <= self.clamp[0] <= 0.5 <= self.clamp[1] <= 1:
            raise ValueError(
                "clamp must be a range around one half, such as [0.4, 0.6];"
                f" it is {list(self.clamp)}"
            )
        if self.rationales > 1 and not self.cot:
            raise ValueError("rationales need a chain of thought: set cot: true")
        if self.ask in SCORES and (self.cot or self.shots or self.principles > 1):
            raise ValueError(f"{self.ask} asks the judge nothing: leave out cot, shots, principles")
        return self
