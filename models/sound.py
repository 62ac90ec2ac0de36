"""A voice made with numpy: a real sound for the speech models, without a recording."""

from __future__ import annotations

import numpy as np

# Centre, width and strength of what a mouth that says "a" lets through, in Hz (textbook values of the vowel).
_FORMANTS = ((730.0, 90.0, 1.0), (1090.0, 110.0, 0.5), (2440.0, 140.0, 0.25))
_SYLLABLES_PER_SECOND = 4.0


def voice(samples: int, rate: int, pitch: float) -> np.ndarray:
    """Somebody who says "a a a" at `pitch` Hz: float32 (samples,) in [-0.5, 0.5] at `rate` samples a second.

    Harmonics of the pitch, weighted by the vowel's formants, rise and fall four times a second.
    """
    time = np.arange(samples) / rate
    sound = np.zeros(samples)
    for harmonic in np.arange(pitch, min(4000.0, rate / 2), pitch):
        weight = sum(s / (1 + ((harmonic - c) / w) ** 2) for c, w, s in _FORMANTS)
        sound += weight * np.sin(2 * np.pi * harmonic * time)
    sound *= 0.55 - 0.45 * np.cos(2 * np.pi * _SYLLABLES_PER_SECOND * time)
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def quiet(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise as a microphone has it: float32, normal with deviation 0.1."""
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(0.1)
