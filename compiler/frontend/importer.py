"""ONNX model -> Relax module: the entry point of the frontend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from ..element_types import carrier
from ..errors import ModelError
from ..size_requirements import with_requirements
from ..tensor_spec import TensorSpec
from .convert import Context, Scope, convert_graph
from .converters.registry import load_converters
from .functions import LocalFunctions
from .model_reader import ModelLike, ModelSource, read_model
from .signature import Shapes, input_signature
from .symbols import OpenSqueezeError, Squeezed, Symbols, dim_text, identifier
from .tensor_data import decode_tensor
from .values import Value


@dataclass(frozen=True)
class ImportedModel:
    """A model in Relax.

    Attributes:
        mod: module with one Relax function `main`: one parameter for each of `inputs`; returns a tensor, or a tuple of
            tensors when there are several `outputs`. Named dimensions are `tirx.Var`s of dtype int64. What operators
            require of them, where it cannot be proved, stands in an attribute of `main` (see `size_requirements`).
        inputs: in the model's order, without the initializers that old models list as inputs.
        outputs: in the model's order; a dimension computed from named ones is shown as its formula.
        provenance: file, sha256, producer, ir_version and opsets of the model.
    """

    mod: tvm.IRModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    provenance: Mapping[str, Any]


def import_model(model: ModelLike, inputs: Shapes | None = None) -> ImportedModel:
    """Read, check and convert an ONNX model.

    Args:
        model: path of a .onnx file, its bytes, or an `onnx.ModelProto`.
        inputs: input name -> one int or name per dimension, to fix or rename dynamic dimensions. A name that several
            dimensions share is fixed everywhere.
    Raises:
        ModelError: the model cannot be read, is inconsistent or needs an operator that is not supported.
        UsageError: `inputs` does not fit the model.
    """
    return import_source(read_model(model), inputs)


def import_source(source: ModelSource, inputs: Shapes | None = None) -> ImportedModel:
    """`import_model` for a model that has been read.

    Where a `Squeeze` without axes meets open sizes, those are 1 in every run, or never, if only one of both gives the
    outputs as many dimensions as the model declares.
    """
    try:
        return _imported(source, inputs, Symbols())
    except OpenSqueezeError:
        fitting = [model for model in _squeezed_imports(source, inputs) if _has_declared_ranks(source, model)]
        if len(fitting) != 1:
            raise
        return fitting[0]


def _squeezed_imports(source: ModelSource, inputs: Shapes | None) -> Iterator[ImportedModel]:
    """The model with open sizes removed by `Squeeze` and with them kept, as far as it can be imported so."""
    for squeezed in (Squeezed.REMOVED, Squeezed.KEPT):
        with suppress(ModelError):
            yield _imported(source, inputs, Symbols(squeezed))


def _has_declared_ranks(source: ModelSource, model: ImportedModel) -> bool:
    """Whether all outputs whose shapes the model declares have as many dimensions."""
    kinds = (info.type.tensor_type for info in source.proto.graph.output)
    return all(
        not kind.HasField("shape") or len(kind.shape.dim) == len(spec.shape)
        for kind, spec in zip(kinds, model.outputs, strict=True)
    )


def _imported(source: ModelSource, inputs: Shapes | None, symbols: Symbols) -> ImportedModel:
    specs = input_signature(source.proto.graph, inputs)
    params = [_parameter(spec, symbols) for spec in specs]
    load_converters()
    bb = relax.BlockBuilder()
    with bb.function("main", params), _tidy_on_error(bb):
        with bb.dataflow():
            values = _convert(
                source,
                {spec.name: Value(expr=param, dtype=spec.dtype) for spec, param in zip(specs, params, strict=True)},
                symbols,
                bb,
            )
            results = [bb.emit_output(v.expr(bb)) for v in values]
        bb.emit_func_output(results[0] if len(results) == 1 else relax.Tuple(results))
    names = [info.name for info in source.proto.graph.output]
    outputs = tuple(_output_spec(n, v, symbols) for n, v in zip(names, values, strict=True))
    mod = bb.get()
    mod["main"] = with_requirements(mod["main"], symbols.requirements)
    return ImportedModel(mod, tuple(specs), outputs, source.provenance)


@contextmanager
def _tidy_on_error(bb: relax.BlockBuilder) -> Iterator[None]:
    """Close the builder's open block and scope: it complains on stderr when it is dropped with them."""
    try:
        yield
    except Exception:
        bb._end_block()
        bb.end_scope()
        raise


def _parameter(spec: TensorSpec, symbols: Symbols) -> relax.Var:
    dims = [symbols.var(d) if isinstance(d, str) else d for d in spec.shape]
    return relax.Var(identifier(spec.name), relax.TensorType(dims, carrier(spec.dtype)))


def _convert(
    source: ModelSource,
    inputs: dict[str, Value],
    symbols: Symbols,
    bb: relax.BlockBuilder,
) -> list[Value]:
    proto = source.proto
    scope = Scope()
    for name, value in inputs.items():
        scope[name] = value
    context = Context(
        bb=bb,
        symbols=symbols,
        functions=LocalFunctions(proto),
        decode=lambda tensor: decode_tensor(tensor, source.folder),
        opsets=source.opsets,
    )
    values = convert_graph(proto.graph, scope, context)
    for info, value in zip(proto.graph.output, values, strict=True):
        if value.shape is None:
            raise ModelError(f"Output {info.name!r} has a shape that depends on data, which is not supported.")
    return values


def _output_spec(name: str, value: Value, symbols: Symbols) -> TensorSpec:
    return TensorSpec(name, tuple(dim_text(symbols.simplify(d)) for d in value.shape or ()), value.dtype)
