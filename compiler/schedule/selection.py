"""Choose a template and a config for an OpSpec, and build its code once."""

from __future__ import annotations

from dataclasses import dataclass

from .op_spec import OpSpec
from .target import Target
from .template import Candidate, Config, Template


@dataclass(frozen=True)
class Choice:
    """The template and config chosen for an OpSpec, and why ("default" or the record that said so)."""

    op: OpSpec
    template: Template
    config: Config
    source: str


class Selector:
    """Chooses among a target's templates. The first template that matches an operator gives its default config.

    Choices and built candidates are kept per OpSpec: equal operators of a model share one kernel.
    """

    def __init__(self, target: Target):
        self.target = target
        self._choices: dict[OpSpec, Choice | None] = {}
        self._candidates: dict[OpSpec, Candidate] = {}

    def choose(self, op: OpSpec) -> Choice | None:
        """The choice for `op`, or None if no template of the target matches."""
        if op not in self._choices:
            self._choices[op] = self._first_match(op)
        return self._choices[op]

    def _first_match(self, op: OpSpec) -> Choice | None:
        for template in self.target.templates:
            space = template.match(op, self.target.spec)
            if space is not None:
                return Choice(op, template, space.default, "default")
        return None

    def candidate(self, choice: Choice) -> Candidate:
        """The code of `choice`, built at the first request."""
        if choice.op not in self._candidates:
            self._candidates[choice.op] = choice.template.build(choice.op, self.target.spec, choice.config)
        return self._candidates[choice.op]
