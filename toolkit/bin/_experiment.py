"""Whose an experiment folder is, and what of it is removed before a run begins anew."""

from pathlib import Path

from toolkit import config
from toolkit.errors import UserError
from toolkit.tasks import task_class
from toolkit.train.distributed import LOCK

# All that a run writes into its experiment folder, the finished model first. Not config.yaml, which is replaced and
# never removed: it may be the very file that --config names.
WRITTEN = (
    *(f"model/{name}" for name in ("model.safetensors", "config.yaml", "tokens.txt", "tokenizer.model")),
    *(f"model/{name}" for name in ("tokenizer.yaml", "lexicon.txt", "speakers.txt")),
    "model/.*.tmp",
    "checkpoints/step-*.safetensors",
    "checkpoints/.step-*.tmp",
    "tensorboard/events.out.tfevents.*",
    "failed/update-*.json",
    "metrics.jsonl",
    "log.txt",
    "skipped.jsonl",
)


def check_owner(folder: Path) -> None:
    """Keeps the command out of what another program wrote.

    Raises:
        UserError: there are files with the names of ours, but neither the lock nor the configuration of a run.
    """
    names = dict.fromkeys(["config.yaml", *(pattern.split("/")[0] for pattern in WRITTEN)])
    found = [name for name in names if (folder / name).exists()]
    if not found or (folder / LOCK).exists():
        return
    path = folder / "config.yaml"
    try:
        task_class(config.read_yaml(path).get("task"), str(path))
    except UserError:
        raise UserError(
            f"{folder}: found {', '.join(found)} that this command did not write; expected a new folder for --exp, "
            "or one of its own experiments"
        ) from None


def forget(folder: Path, finished_too: bool) -> None:
    """Removes what an earlier run wrote into its experiment folder, and nothing else.

    Raises:
        UserError: there is a finished model, and `finished_too` is False.
    """
    if (folder / "model" / "model.safetensors").exists() and not finished_too:
        raise UserError(
            f"{folder}: found a finished model without checkpoints to go on from; expected another --exp, or --restart "
            "to replace the model"
        )
    for pattern in WRITTEN:
        for path in folder.glob(pattern):
            path.unlink()
