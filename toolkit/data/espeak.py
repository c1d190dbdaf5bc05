"""Synthetic voices: espeak-ng as a library, from the wheel `espeakng-loader`."""

import ctypes
from dataclasses import dataclass

import numpy as np

from toolkit.errors import UserError

# From espeak-ng's speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4


@dataclass(frozen=True)
class Voice:
    """How to speak."""

    language: str
    """A voice of espeak-ng, such as "en-us" or "fr"."""
    variant: str
    """A voice variant of espeak-ng, such as "f2"."""
    pitch: int = 50
    """Base pitch, 0 to 99."""
    range: int = 50
    """Liveliness of the pitch, 0 to 99."""
    rate: int = 170
    """Words a minute, 80 to 450."""


class Espeak:
    """The synthesiser; the library has one global state, so make one a process.

    Phases and noise run on from one sentence to the next. The same calls in the same order in a fresh process
    give the same samples; other orders do not.

    Raises:
        UserError: if `espeakng-loader` is not installed or does not work here.
    """

    def __init__(self):
        try:
            import espeakng_loader

            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
            folder = espeakng_loader.get_data_path()
        except (ImportError, OSError, RuntimeError) as error:
            raise UserError(
                f"espeak-ng: {error}; expected the package espeakng-loader to be installed"
            ) from None
        self.sampling_rate = self._library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, folder.encode(), 0)
        if self.sampling_rate <= 0:
            raise UserError(f"espeak-ng: cannot start with the data in {folder}")
        self._blocks: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        # The library keeps only the address, so the object must live as long as we do.
        self._callback = kind(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))

    def _collect(self, samples: "ctypes._Pointer", count: int, _: int) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def say(self, text: str, voice: Voice) -> np.ndarray:
        """Speaks a sentence.

        Returns:
            float32 samples (S,), full scale 1, at `sampling_rate`.

        Raises:
            UserError: if there is no such voice.
        """
        name = f"{voice.language}+{voice.variant}"
        if self._library.espeak_SetVoiceByName(name.encode()):
            raise UserError(f"espeak-ng has no voice {name!r}")
        for parameter, value in (
            (_RATE, voice.rate),
            (_PITCH, voice.pitch),
            (_RANGE, voice.range),
            (_VOLUME, 100),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks.clear()
        content = text.encode()
        self._library.espeak_Synth(content, len(content) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._blocks or [np.zeros(0, np.int16)]).astype(np.float32) / 32768
