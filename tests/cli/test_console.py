"""Tables and progress on screens and in logs."""

import pytest

from kompilo.compiler.cli import console


@pytest.mark.parametrize("width", [20, 40, 200])
@pytest.mark.parametrize("fold", [(), ("operator",)])
def test_tables_cut_nothing(capsys, monkeypatch, width, fold):
    monkeypatch.setenv("COLUMNS", str(width))
    name = "conv2d_with_a_name_that_is_longer_than_narrow_screens"
    console.print_table("Operators", ("operator", "kind", ">calls"), [(name, "conv2d", 3), (None, "tir", 12)], fold)
    text = capsys.readouterr().out
    assert "…" not in text
    assert "conv2d_with_a_name_t" in text  # never folded letter by letter
    column = "".join(line[:53].split("  ")[0] for line in text.splitlines()[3:])
    assert name in column


def test_a_log_tells_a_series_of_stages_once(capsys):
    with console.progress() as report:
        report("import", 0, 1)
        for _target in range(2):
            for number, stage in enumerate(["simplify", "fold", "simplify", "fuse"]):
                report(stage, number, 4)
            report("build", 0, 1)
            report("build", 1, 1)
    assert capsys.readouterr().err.splitlines() == ["import", "simplify ...", "build", "simplify ...", "build"]


def test_control_characters_of_names_are_escaped(capsys):
    console.say("a\x1b[31mred\rline\nnext \u00e9\u7f51")
    console.print_table("ti\x1btle", ("name",), [["od\x07d"]])
    out = capsys.readouterr().out
    assert "a\\x1b[31mred\\rline\nnext \u00e9\u7f51" in out
    assert "\x1b" not in out
    assert "od\\x07d" in out
