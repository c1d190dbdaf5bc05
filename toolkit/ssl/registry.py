"""The objectives that a configuration can name. A new one is one file and one line here."""

from toolkit.ssl.data2vec import Data2vecObjective
from toolkit.ssl.hubert import HubertObjective

OBJECTIVES = {"hubert": HubertObjective, "data2vec": Data2vecObjective}
