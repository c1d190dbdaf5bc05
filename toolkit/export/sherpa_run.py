"""Runs exported recognisers in sherpa-onnx, as applications do: to check that they say what the toolkit says."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from toolkit.errors import UserError
from toolkit.export.onnx import needed
from toolkit.export.sherpa import SAMPLE_RATE


class SherpaRecognizer:
    """Greedy search of sherpa-onnx with the files of a folder that `write_sherpa` made.

    Args:
        folder: with the files.
        head: which of them: model.onnx, or encoder.onnx, decoder.onnx and joiner.onnx.
        int8: whether to take those with weights of 8 bits.

    Attributes:
        streaming: whether they are those of a stream.
        chunk: streaming: seconds of audio from one chunk to the next.

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
        self.chunk = float(about.get("decode_chunk_len", 0)) / 100
        kind = sherpa.OnlineRecognizer if self.streaming else sherpa.OfflineRecognizer
        make = {
            ("transducer", "zipformer2"): kind.from_transducer,
            ("ctc", "zipformer2"): getattr(kind, "from_zipformer2_ctc", None),
            ("ctc", "zipformer2_ctc"): getattr(kind, "from_zipformer_ctc", None),
            ("ctc", "omnilingual"): getattr(kind, "from_omnilingual_asr_ctc", None),
        }[head, about["model_type"]]
        files = {name: str(path) for name, path in paths.items()}
        self.recognizer: Any = make(tokens=str(Path(folder, "tokens.txt")), num_threads=1, **files)

    def __call__(self, samples: np.ndarray, tail: float = 0.0) -> list[str]:
        """The symbols that are recognised.

        Args:
            samples: (S,) float32 in [-1, 1] at 16 kHz.
            tail: streaming: seconds of silence that follow. What is left after the last whole chunk is never heard.
        """
        stream = self.recognizer.create_stream()
        stream.accept_waveform(SAMPLE_RATE, samples)
        if not self.streaming:
            self.recognizer.decode_stream(stream)
            return list(stream.result.tokens)
        stream.accept_waveform(SAMPLE_RATE, np.zeros(round(tail * SAMPLE_RATE), np.float32))
        stream.input_finished()
        while self.recognizer.is_ready(stream):
            self.recognizer.decode_stream(stream)
        return list(self.recognizer.tokens(stream))
