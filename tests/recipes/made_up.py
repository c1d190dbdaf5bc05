"""A made-up corpus of five languages, in the form of the recordings that egs/mini fetches."""

import io
from functools import cache

import av
import numpy as np

WORDS = {
    "en": "please enter your number then press the key and wait for a new message today".split(),
    "es": "por favor marque su número y espere el mensaje nuevo de hoy".split(),
    "fr": "veuillez composer votre numéro puis attendez le nouveau message du jour".split(),
    "it": "prego digitare il numero e attendere il nuovo messaggio di oggi".split(),
    "ru": "пожалуйста введите ваш номер и ждите новое сообщение сегодня".split(),
}


def g722(seconds: float, seed: int, level: float = 0.2) -> bytes:
    """A raw G.722 file of noise and tones."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(16_000 * seconds)) / 16_000
    samples = level * (
        np.sin(2 * np.pi * (200 + 20 * (seed % 30)) * time) + 0.2 * rng.standard_normal(len(time))
    )
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="g722") as file:
        stream = file.add_stream("g722", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray((20_000 * samples).astype("i2")[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        for part in (frame, None):
            file.mux(stream.encode(part))
    return buffer.getvalue()


@cache
def made_up(language: str) -> tuple[dict[str, bytes], str]:
    """G.722 files by name, and the list of transcripts."""
    words, lines, sounds = WORDS[language], ["; a comment", ""], {}
    for number in range(30):
        text = f"{words[number % len(words)]} {' '.join(words[: 2 + number % 7])} {words[-1 - number // 10]}"
        sounds[f"prompt{number}"] = g722(1.6 + len(text) / 25, number)
        lines.append(f"prompt{number}: {text.capitalize()}.")
    lines += [
        "digits/7: 7",
        "beep: [a beep]",
        "twin-a: Equal words here",
        "twin-b: Equal words, here!",
        "gone: No file",
    ]
    lines += [
        "press: Press 1 now",
        "odd: caf? chiuso",
        "twice: one",
        "twice: two",
        "flaw: " + "far too many words " * 20,
    ]
    for name in (
        "digits/7",
        "beep",
        "twin-a",
        "twin-b",
        "press",
        "odd",
        "twice",
        "flaw",
        "untold",
        "silence/1",
    ):
        sounds[name] = g722(1.7, len(sounds))
    sounds["hollow"] = b""
    return sounds, "\ufeff" + "\n".join(lines) + "\n"
