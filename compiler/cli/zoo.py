"""`kompilo zoo list|get`: the models that come with Kompilo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import model_source
from . import console
from .options import AsJson
from .outputs import check_output, copy_file

app = typer.Typer(help="List the models of the zoo, or get one.", no_args_is_help=True)


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List all models of the zoo."""
    zoo = model_source.zoo()
    entries = [zoo.find(name) for name in zoo.all_names()]
    if as_json:
        keys = ("name", "summary", "license", "tolerance")
        console.print_json([{k: getattr(e, k, None) for k in keys} for e in entries])
        return
    rows = [(f"zoo:{e.name}", e.license, e.summary) for e in entries]
    console.print_table("Model zoo", ("model", "licence", "what it is"), rows, fold=("what it is",))
    console.say("use them wherever a model is expected: kompilo compile zoo:mnist")


@app.command("get")
def get_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name from kompilo zoo list.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Copy the model there.", show_default=False)
    ] = None,
) -> None:
    """Download or build a model and print the path of its ONNX file."""
    entry = model_source.find_zoo_model(model_source.ZOO_PREFIX + name.removeprefix(model_source.ZOO_PREFIX))
    assert entry is not None
    path = Path(entry.path())
    if output is not None:
        target = output / path.name if output.is_dir() else output
        check_output(target)
        if not (target.exists() and target.samefile(path)):
            copy_file(path, target)
        path = target
    print(path)
