"""What cannot be exported for sherpa-onnx, and the command."""

import pytest

from tests.models.small_zipformer import make_config
from tests.tasks.small import SMALLER_ENCODER
from toolkit.bin import export
from toolkit.config import build
from toolkit.errors import UserError
from toolkit.export.sherpa import write_sherpa
from toolkit.export.sherpa_run import SherpaRecognizer
from toolkit.models.asr import AsrModel, CtcConfig
from toolkit.models.attention_decoder import AttentionConfig
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.conformer import ConformerConfig
from toolkit.models.frontend import FbankFrontendConfig
from toolkit.models.predictors import LstmConfig, StatelessConfig
from toolkit.models.transducer import TransducerConfig
from toolkit.models.waveform import WaveformFrontendConfig
from toolkit.tasks.asr import AsrConfig, AsrTask
from toolkit.tasks.encoder import EncoderConfig, EncoderTask
from toolkit.tasks.load import save_model
from toolkit.text.tokenizer import CharTokenizer

TOKENS = CharTokenizer.learn(["a b c"]).tokens
SMALL = ConformerConfig(**SMALLER_ENCODER)
WAVES = {"dims": [16] * 3, "kernels": [10, 3, 3], "strides": [5, 2, 2]}
CAUSAL = make_config(causal=True)


def make_model(frontend, encoder, ctc=1.0, predictor=None):
    transducer = TransducerConfig(
        scale=float(predictor is not None), predictor=predictor or StatelessConfig()
    )
    heads = CtcConfig(scale=ctc), transducer, AttentionConfig(scale=1.0, dim=16, feed_forward_dim=16)
    return AsrModel(SpeechEncoder(SpeechConfig(frontend, encoder)), len(TOKENS), *heads).eval()


@pytest.mark.parametrize(
    "frontend,encoder,heads,sizes,message",
    [
        (FbankFrontendConfig(num_mel_bins=40), SMALL, {}, (), "num_mel_bins: found 40, expected 80"),
        (FbankFrontendConfig(sample_rate=8000), SMALL, {}, (), "sample_rate: found 8000, expected 16000"),
        (
            WaveformFrontendConfig(**WAVES, normalize=False),
            SMALL,
            {},
            (),
            "normalize: found false, expected true",
        ),
        (
            FbankFrontendConfig(),
            CAUSAL,
            {},
            (),
            "normalize: found true, expected false for sherpa-onnx: there is",
        ),
        (
            WaveformFrontendConfig(**WAVES),
            make_config(causal=True, embed="linear"),
            {},
            (),
            "causal Zipformer behind the front end 'waveform', expected 'fbank'",
        ),
        (FbankFrontendConfig(), SMALL, {}, (16, None), "not causal, or whose chunk"),
        (
            FbankFrontendConfig(normalize=False),
            CAUSAL,
            {},
            (12, None),
            "chunk_size: found 12, expected a multiple",
        ),
        (FbankFrontendConfig(), SMALL, {"ctc": 0.0}, (), "no transducer; nor is there a CTC head"),
        (
            FbankFrontendConfig(),
            SMALL,
            {"ctc": 0.0, "predictor": LstmConfig(dim=8)},
            (),
            "'stateless' only; nor is",
        ),
        (
            WaveformFrontendConfig(**WAVES),
            SMALL,
            {"ctc": 0.0, "predictor": StatelessConfig(dim=8)},
            (),
            "a transducer on 'fbank' only; nor is",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_sherpa_cannot_run(tmp_path, frontend, encoder, heads, sizes, message):
    with pytest.raises(UserError, match=message):
        write_sherpa(tmp_path / "out", make_model(frontend, encoder, **heads), TOKENS, *sizes)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def directory(tmp_path):
    """A model directory: CTC, an LSTM transducer and an attention decoder."""
    settings = build(
        AsrConfig,
        {
            "speech": {"encoder": {"name": "conformer", **SMALLER_ENCODER}},
            "transducer": {"scale": 1.0, "predictor": {"name": "lstm", "dim": 8}, "joiner_dim": 8},
            "attention": {"scale": 1.0, "dim": 16, "feed_forward_dim": 16},
        },
        "test",
    )
    CharTokenizer.learn(["a b c"]).save(tmp_path / "model")
    save_model(tmp_path / "model", AsrTask(settings, tmp_path / "model", 0).build_model(), settings)
    return str(tmp_path / "model")


def test_the_command(tmp_path, directory, capsys):
    out = tmp_path / "out"
    export.main(["--to", "sherpa", "--model", directory, str(out)])
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines[0].startswith("Left out: transducer.predictor")
    assert lines[1].startswith("Left out: the attention decoder")
    assert lines[2] == f"{out}: model.int8.onnx, model.onnx, tokens.txt"
    assert (out / "tokens.txt").read_text() == "<blk> 0\n<unk> 1\n▁ 2\na 3\nb 4\nc 5\n"
    with pytest.raises(
        UserError, match="found model.int8.onnx, model.onnx, tokens.txt, expected a new folder"
    ):
        export.main(["--to", "sherpa", "--model", directory, str(out)])
    with pytest.raises(UserError, match=r"encoder.onnx: no such file, expected one that"):
        SherpaRecognizer(out, "transducer")
    with pytest.raises(UserError, match="--chunk-size: found with --to hf"):
        export.main(["--to", "hf", "--model", directory, str(tmp_path / "hf"), "--chunk-size", "8"])


def test_a_model_that_recognises_nothing(tmp_path):
    settings = build(EncoderConfig, {"speech": {"encoder": SMALLER_ENCODER}}, "test")
    save_model(tmp_path / "model", EncoderTask(settings, tmp_path, seed=0).build_model(), settings)
    with pytest.raises(UserError, match="model: found task encoder, expected asr"):
        export.main(["--to", "sherpa", "--model", str(tmp_path / "model"), str(tmp_path / "out")])
