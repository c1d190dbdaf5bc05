"""The parts that a configuration can name. A new encoder is one file and one line here."""

from toolkit.models.branchformer import BranchformerEncoder, EBranchformerEncoder
from toolkit.models.conformer import ConformerEncoder
from toolkit.models.frontend import FbankFrontend
from toolkit.models.transformer import TransformerEncoder
from toolkit.models.waveform import WaveformFrontend
from toolkit.models.zipformer.encoder import ZipformerEncoder

FRONTENDS = {"fbank": FbankFrontend, "waveform": WaveformFrontend}

ENCODERS = {
    "conformer": ConformerEncoder,
    "transformer": TransformerEncoder,
    "zipformer": ZipformerEncoder,
    "branchformer": BranchformerEncoder,
    "e_branchformer": EBranchformerEncoder,
}
