"""Choose a template and a config for an OpSpec, and build its code once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .op_spec import OpSpec
from .target import Target
from .template import Candidate, Config, Space, Template
from .whole_design import KnownDesigns, no_designs

Option = tuple[Template, Space]


@dataclass(frozen=True)
class Choice:
    """The template and config chosen for an OpSpec, and why ("default", or the record or model that said so)."""

    op: OpSpec
    template: Template
    config: Config
    source: str


class Advisor(Protocol):
    """Knows better than the templates' own defaults: from records, or from a model of what was measured."""

    def advise(self, op: OpSpec, options: Sequence[Option]) -> Choice | None:
        """A choice among the templates that match `op`, or None for no advice."""


class Selector:
    """Chooses among a target's templates: what the first advisor with an opinion says, else the first match's default.

    Choices and built candidates are kept per OpSpec: equal operators of a model share one kernel. `precision` is what
    the compile allows ("fp32", "tf32", "fp16"). `designs` tells what records know of hardware of whole models.
    """

    def __init__(
        self,
        target: Target,
        advisors: Sequence[Advisor] = (),
        precision: str = "fp32",
        designs: KnownDesigns = no_designs,
    ):
        self.target = target
        self.precision = precision
        self.designs = designs
        self.advisors = tuple(advisors)
        self._choices: dict[OpSpec, Choice | None] = {}
        self._candidates: dict[OpSpec, Candidate] = {}

    def choose(self, op: OpSpec) -> Choice | None:
        """The choice for `op`, or None if no template of the target matches."""
        if op not in self._choices:
            self._choices[op] = self._decide(op)
        return self._choices[op]

    @property
    def considered(self) -> tuple[OpSpec, ...]:
        """Every operator that was asked for and that some template matches, in the order of the questions."""
        return tuple(op for op, choice in self._choices.items() if choice is not None)

    def _decide(self, op: OpSpec) -> Choice | None:
        options = matches(op, self.target)
        if not options:
            return None
        for advisor in self.advisors:
            choice = advisor.advise(op, options)
            if choice is not None:
                return choice
        template, space = options[0]
        return Choice(op, template, space.default, "default")

    def candidate(self, choice: Choice) -> Candidate:
        """The code of `choice`, built at the first request."""
        if choice.op not in self._candidates:
            self._candidates[choice.op] = choice.template.build(choice.op, self.target.spec, choice.config)
        return self._candidates[choice.op]


def matches(op: OpSpec, target: Target) -> list[Option]:
    """The templates of `target` that match `op` with their spaces, in the target's order."""
    found = ((template, template.match(op, target.spec)) for template in target.templates)
    return [(template, space) for template, space in found if space is not None]
