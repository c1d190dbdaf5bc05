"""Synthetic voices: espeak-ng as a library, from the wheel `espeakng-loader`."""

import ctypes
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from toolkit.errors import UserError

# From espeak-ng's speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_PHONEME_EVENTS = 1
_EVENT_LAST, _EVENT_PHONEME = 0, 7
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


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("phoneme", ctypes.c_char * 8),
    ]


class Phone(NamedTuple):
    """A phone and when it begins."""

    name: str
    """In espeak-ng's notation; "" is a pause."""
    start: float
    """Seconds."""


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
        self.sampling_rate = self._library.espeak_Initialize(
            _OUTPUT_SYNCHRONOUS, 0, folder.encode(), _PHONEME_EVENTS
        )
        if self.sampling_rate <= 0:
            raise UserError(f"espeak-ng: cannot start with the data in {folder}")
        self._blocks: list[np.ndarray] = []
        self._phones: list[Phone] = []
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
        )
        # The library keeps only the address, so the object must live as long as we do.
        self._callback = kind(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))

    def _collect(self, samples: "ctypes._Pointer", count: int, events: "ctypes._Pointer") -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        index = 0
        while events and events[index].type != _EVENT_LAST:
            if events[index].type == _EVENT_PHONEME:
                name = events[index].phoneme.decode("utf-8", "replace")
                self._phones.append(Phone(name, events[index].audio_position / 1000))
            index += 1
        return 0

    def say(self, text: str, voice: Voice) -> tuple[np.ndarray, list[Phone]]:
        """Speaks a sentence.

        Returns:
            float32 samples (S,), full scale 1, at `sampling_rate`, and the phones in their order.

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
        self._phones.clear()
        content = text.encode()
        self._library.espeak_Synth(content, len(content) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate(self._blocks or [np.zeros(0, np.int16)]).astype(np.float32) / 32768
        return samples, list(self._phones)
