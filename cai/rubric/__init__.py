"""The rule-based reward model: a rubric compiled, proved, and used to grade replies."""

from cai.rubric.compile import Compiled, check_rubric, compile_rubric
from cai.rubric.grade import grade, grade_propositions

__all__ = ["Compiled", "check_rubric", "compile_rubric", "grade", "grade_propositions"]
