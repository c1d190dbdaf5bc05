"""The objectives that a configuration can name. A new one is one file and one line here."""

from toolkit.ssl.hubert import HubertObjective

OBJECTIVES = {"hubert": HubertObjective}
