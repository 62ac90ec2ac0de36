"""Models at the edges of what designs are made for: constants that are no numbers."""

import numpy as np
import onnx.parser

import kompilo

from fpga_cases import need_headers


def agree(signature: str, body: str, *inputs: np.ndarray) -> None:
    """The simulated device gives what this machine's CPU gives, infinities and NaN included."""
    need_headers()
    text = f'<ir_version: 8, opset_import: ["" : 18]> g {signature} {{ {body} }}'
    made = kompilo.compile(onnx.parser.parse_model(text), target=["cpu", "fpga:u280"])
    cpu, fpga = (
        list(module.run(dict(zip((s.name for s in made.inputs), inputs, strict=True))).values())
        for module in (kompilo.load(made, device=device) for device in ("cpu", "fpga:sim"))
    )
    assert len(cpu) == len(fpga)
    for expected, found in zip(cpu, fpga, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_constant_may_be_no_number():
    agree("(float[5] x) => (float[5] y)", "y = Log(x)", np.array([1, 0.5, -1, 0, np.nan], np.float32))
