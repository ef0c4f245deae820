"""Propositions that fitted models decide: one scorer for all of a rubric's that use one model."""

from __future__ import annotations

from dataclasses import dataclass, field

from cai.constitution.schema import Proposition, SentenceModel, TextModel
from cai.rubric.propositions import PropositionTest
from cai.rubric.sentence_model import SentenceScorer, SentenceTest
from cai.rubric.text_classifier import ClassifierTest


@dataclass
class FittedTests:
    """The fitted models of a rubric: each is applied once to a reply, for all its propositions."""

    texts: list[TextModel] = field(default_factory=list)
    scorers: list[SentenceScorer] = field(default_factory=list)

    def test(self, proposition: Proposition) -> PropositionTest:
        model = proposition.fitted
        if isinstance(model, SentenceModel):
            scorer = next((one for one in self.scorers if one.model == model), None)
            if scorer is None:
                scorer = SentenceScorer(model)
                self.scorers.append(scorer)
            return SentenceTest(scorer, str(proposition.output), proposition.above)
        if not isinstance(model, TextModel):
            raise TypeError("a proposition without a model")
        if model not in self.texts:
            self.texts.append(model)
        return ClassifierTest(model, self.texts.index(model), proposition.above)
