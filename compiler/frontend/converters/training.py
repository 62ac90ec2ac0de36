"""Steps of optimisers, from the domain ai.onnx.preview.training: each tensor beside its gradient and its states."""

from __future__ import annotations

from tvm import relax

from ..node import Node
from .broadcast import broadcast_operands, scalar
from .registry import converter

op = relax.op
_DOMAIN = "ai.onnx.preview.training"


class _Step:
    """Arithmetic on the tensors of one group, whose rate and count are scalars of the model."""

    def __init__(self, node: Node, groups: int):
        self.node = node
        self.tensors = (len(node.values) - 2) // groups
        if self.tensors < 1 or len(node.values) != 2 + self.tensors * groups:
            raise node.error(f"expected a rate, a count and {groups} inputs for each tensor, found {len(node.values)}")
        self.dtype = node.dtype(2)
        self.rate, self.count = (self._scalar(i) for i in (0, 1))

    def _scalar(self, index: int) -> relax.Expr:
        x = self.node.inputs[index]
        x = x if self.node.dtype(index) == self.dtype else self.node.emit(op.astype(x, self.dtype))
        return self.node.emit(op.reshape(x, relax.ShapeExpr([])))

    def group(self, tensor: int, number: int) -> relax.Expr:
        """Tensors (0), gradients (1), and states (2 and on) follow each other in groups."""
        index = 2 + number * self.tensors + tensor
        return broadcast_operands(self.node, [self.node.inputs[2 + tensor], self.node.inputs[index]])[1]

    def number(self, value: float) -> relax.Expr:
        return scalar(value, self.dtype)

    def mixed(self, a: float, x: relax.Expr, b: relax.Expr | float, y: relax.Expr) -> relax.Expr:
        """a * x + b * y."""
        factor = b if isinstance(b, relax.Expr) else self.number(b)
        return self.node.emit(op.add(op.multiply(self.number(a), x), op.multiply(factor, y)))

    def regularised(self, tensor: int) -> relax.Expr:
        """The gradient and norm_coefficient times the tensor."""
        return self.mixed(self.node.attr("norm_coefficient", 0.0), self.group(tensor, 0), 1.0, self.group(tensor, 1))

    def moved(self, tensor: int, step: relax.Expr, rate: relax.Expr) -> relax.Expr:
        return self.node.emit(op.subtract(self.group(tensor, 0), op.multiply(rate, step)))


@converter("Momentum", domain=_DOMAIN)
def momentum(node: Node) -> tuple[relax.Expr, ...]:
    step, alpha, mode = _Step(node, 3), node.required("alpha"), node.required("mode")
    if mode not in ("standard", "nesterov"):
        raise node.error(f"mode must be standard or nesterov, found {mode!r}")
    first = op.equal(step.count, step.number(0))
    beta = node.emit(op.where(first, step.number(1), step.number(node.required("beta"))))
    tensors, states = [], []
    for i in range(step.tensors):
        gradient = step.regularised(i)
        velocity = step.mixed(alpha, step.group(i, 2), beta, gradient)
        states.append(velocity)
        moves = velocity if mode == "standard" else step.mixed(alpha, velocity, 1.0, gradient)
        tensors.append(step.moved(i, moves, step.rate))
    return (*tensors, *states)


@converter("Adagrad", domain=_DOMAIN)
def adagrad(node: Node) -> tuple[relax.Expr, ...]:
    step = _Step(node, 3)
    decay = op.add(step.number(1), op.multiply(step.count, step.number(node.attr("decay_factor", 0.0))))
    rate = node.emit(op.divide(step.rate, decay))
    tensors, states = [], []
    for i in range(step.tensors):
        gradient = step.regularised(i)
        squares = step.mixed(1.0, step.group(i, 2), gradient, gradient)
        states.append(squares)
        size = op.add(op.sqrt(squares), step.number(node.attr("epsilon", 0.0)))
        tensors.append(step.moved(i, node.emit(op.divide(gradient, size)), rate))
    return (*tensors, *states)


@converter("Adam", domain=_DOMAIN)
def adam(node: Node) -> tuple[relax.Expr, ...]:
    step = _Step(node, 4)
    alpha, beta = node.attr("alpha", 0.9), node.attr("beta", 0.999)
    after = 1.0 - node.attr("norm_coefficient_post", 0.0)
    correction = op.divide(
        op.sqrt(op.subtract(step.number(1), op.power(step.number(beta), step.count))),
        op.subtract(step.number(1), op.power(step.number(alpha), step.count)),
    )
    first = op.equal(step.count, step.number(0))
    rate = node.emit(op.where(first, step.rate, op.multiply(step.rate, correction)))
    tensors, means, squares = [], [], []
    for i in range(step.tensors):
        gradient = step.regularised(i)
        means.append(step.mixed(alpha, step.group(i, 2), 1 - alpha, gradient))
        squares.append(step.mixed(beta, step.group(i, 3), 1 - beta, node.emit(op.multiply(gradient, gradient))))
        size = op.add(op.sqrt(squares[-1]), step.number(node.attr("epsilon", 0.0)))
        moved = step.moved(i, node.emit(op.divide(means[-1], size)), rate)
        tensors.append(node.emit(op.multiply(moved, step.number(after))))
    return (*tensors, *means, *squares)
