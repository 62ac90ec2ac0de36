"""Arguments and options that several verbs have in common, and how they are explained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import a_folder

_ARTIFACT = typer.Argument(metavar="OUT.kpo", help="A compiled artifact.", show_default=False)
_ONE_OF_SEVERAL = "May be repeated."

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX file, or zoo:NAME.", show_default=False)]
ArtifactArgument = Annotated[Path, _ARTIFACT]
EitherArgument = Annotated[
    str, typer.Argument(metavar="OUT.kpo|MODEL.onnx", help="An artifact, a model, or zoo:NAME.", show_default=False)
]
# Verbs that compile fix the shapes of inputs, verbs that run give their values.
InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NAME:1x3x224x224",
        help=f"Fix the shape of an input; a name in place of a size keeps that dimension dynamic. {_ONE_OF_SEVERAL}",
    ),
]
FixedValues = Annotated[
    list[str] | None,
    typer.Option(
        "--value",
        metavar="NAME=VALUE",
        help=f"Fix an input to a number, [1,2,3], or what a .npy file holds, in every run. {_ONE_OF_SEVERAL}",
        show_default=False,
    ),
]
InputValues = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NAME=VALUE",
        help=f"A .npy or .npz file, random, zeros, ones, a number, or [1,2,3]; default random. {_ONE_OF_SEVERAL}",
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", metavar="DIM=SIZE", help=f"Size of a dynamic dimension, or NAME:1x3x224x224. {_ONE_OF_SEVERAL}"
    ),
]
Precision = Annotated[
    str, typer.Option(help="fp32, or where the target multiplies so: tf32, fp16 (float32 sums), int8.")
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npz",
        help="For int8: samples of each input, stacked along a new first axis.",
        show_default=False,
    ),
]
CalibrationMethod = Annotated[
    str, typer.Option(help="minmax, or percentile: cuts off the largest 0.01% of each value's magnitudes.")
]
MoreRecords = Annotated[
    list[Path] | None,
    typer.Option(
        "--records", metavar="DIR", parser=a_folder, help=f"Tuning records to ask before yours. {_ONE_OF_SEVERAL}"
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of random inputs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
