"""The parts that a configuration can name. A new encoder is one file and one line here."""

from toolkit.models.conformer import ConformerEncoder
from toolkit.models.frontend import FbankFrontend

FRONTENDS = {"fbank": FbankFrontend}

ENCODERS = {"conformer": ConformerEncoder}
