"""The rule-based reward model: a rubric compiled, proved, and used to grade replies."""

from cai.rubric.compile import check_rubric, compile_rubric
from cai.rubric.grade import (
    CompiledRubric,
    gate_of,
    grade,
    grade_many,
    grade_propositions,
    training_gate,
    unscored_grade,
)
from cai.rubric.propositions import Ungraded

__all__ = [
    "CompiledRubric",
    "Ungraded",
    "check_rubric",
    "compile_rubric",
    "gate_of",
    "grade",
    "grade_many",
    "grade_propositions",
    "training_gate",
    "unscored_grade",
]
