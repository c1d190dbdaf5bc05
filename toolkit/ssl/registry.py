"""The objectives that a configuration can name. A new one is one file and one line here."""

from toolkit.ssl.best_rq import BestRqObjective
from toolkit.ssl.data2vec import Data2vecObjective
from toolkit.ssl.hubert import HubertObjective
from toolkit.ssl.wav2vec2 import Wav2Vec2Objective

OBJECTIVES = {
    "hubert": HubertObjective,
    "wav2vec2": Wav2Vec2Objective,
    "best_rq": BestRqObjective,
    "data2vec": Data2vecObjective,
}
