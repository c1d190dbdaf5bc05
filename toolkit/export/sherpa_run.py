"""Runs exported recognisers in sherpa-onnx, as applications do: to check that they say what the toolkit says."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from toolkit.errors import UserError
from toolkit.export.onnx import needed
from toolkit.export.sherpa import SAMPLE_RATE

SHIFT = SAMPLE_RATE // 100
"""Samples from one feature frame to the next."""


class SherpaRecognizer:
    """Greedy search of sherpa-onnx with the files of a folder that `write_sherpa` made.

    Args:
        folder: with the files.
        head: which of them: model.onnx, or encoder.onnx, decoder.onnx and joiner.onnx.
        int8: whether to take those with weights of 8 bits.

    Attributes:
        streaming: whether they are those of a stream.

    Raises:
        UserError: onnx or sherpa-onnx is not installed, or a file is missing.
    """

    def __init__(self, folder: str | Path, head: Literal["ctc", "transducer"], int8: bool = False) -> None:
        sherpa = needed("sherpa_onnx")
        names = ["model"] if head == "ctc" else ["encoder", "decoder", "joiner"]
        paths = {name: Path(folder, f"{name}{'.int8' if int8 else ''}.onnx") for name in names}
        for path in paths.values():
            if not path.is_file():
                raise UserError(
                    f"{path}: no such file, expected one that toolkit.bin.export --to sherpa wrote"
                )
        model = needed("onnx").load(paths[names[0]], load_external_data=False)
        about = {entry.key: entry.value for entry in model.metadata_props}
        self.streaming = "decode_chunk_len" in about
        self._window, self._step = (int(about.get(key, 0)) for key in ("T", "decode_chunk_len"))
        kind = sherpa.OnlineRecognizer if self.streaming else sherpa.OfflineRecognizer
        make = {
            ("transducer", "zipformer2"): kind.from_transducer,
            ("ctc", "zipformer2"): getattr(kind, "from_zipformer2_ctc", None),
            ("ctc", "zipformer2_ctc"): getattr(kind, "from_zipformer_ctc", None),
            ("ctc", "omnilingual"): getattr(kind, "from_omnilingual_asr_ctc", None),
        }[head, about["model_type"]]
        files = {name: str(path) for name, path in paths.items()}
        self.recognizer: Any = make(tokens=str(Path(folder, "tokens.txt")), num_threads=1, **files)

    def __call__(self, samples: np.ndarray) -> list[str]:
        """The symbols that are recognised in (S,) float32 samples in [-1, 1] at 16 kHz."""
        stream = self.recognizer.create_stream()
        stream.accept_waveform(SAMPLE_RATE, self.with_silence(samples))
        if not self.streaming:
            self.recognizer.decode_stream(stream)
            return list(stream.result.tokens)
        stream.input_finished()
        while self.recognizer.is_ready(stream):
            self.recognizer.decode_stream(stream)
        return list(self.recognizer.tokens(stream))

    def with_silence(self, samples: np.ndarray) -> np.ndarray:
        """Samples, and for a stream as much silence as it takes that all of them are heard.

        sherpa-onnx leaves a last chunk that is not full unheard. Here the end is not at the edge of a chunk, so that
        everybody who takes whole chunks alone finds the same number of them.
        """
        if not self.streaming:
            return samples
        chunks = -(-len(samples) // (SHIFT * self._step))
        frames = (chunks - 1) * self._step + self._window + min(5, self._step // 2)
        return np.pad(samples, (0, frames * SHIFT - len(samples)))
