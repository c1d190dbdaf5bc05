"""The searches that a configuration can name. A new one is one file and one line here."""

from typing import Protocol

from torch import Tensor

from toolkit.decode.ctc import CtcGreedy
from toolkit.decode.ctc_beam import CtcBeam
from toolkit.decode.greedy import Greedy
from toolkit.decode.hlg import Hlg
from toolkit.decode.hypothesis import Hypothesis
from toolkit.decode.modified_beam import ModifiedBeam
from toolkit.decode.rescoring import Rescoring


class Search(Protocol):
    """What turns the frames of an encoder into hypotheses.

    A class of `SEARCHES` is made of its `Config`, an `AsrModel`, a tokenizer and the device of both.
    """

    def __call__(self, frames: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        """(B, T, D) frames and (B,) how many are valid, to B n-best lists of at least one hypothesis."""


SEARCHES = {
    "ctc_greedy": CtcGreedy,
    "ctc_beam": CtcBeam,
    "hlg": Hlg,
    "greedy": Greedy,
    "modified_beam": ModifiedBeam,
    "rescoring": Rescoring,
}
