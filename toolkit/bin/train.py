"""Train any task's model; goes on from the last checkpoint if there is one."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from toolkit.bin import run
from toolkit.bin._arguments import command_parser

EPILOG = """
examples:
  see every setting of a task, with what it means:
    python -m toolkit.bin.train --config egs/mini/conf/asr.yaml --print_config
  train, with two settings changed:
    python -m toolkit.bin.train --config egs/mini/conf/asr.yaml --exp exp/asr \\
      --optim.lr=5e-4 --data.train=cuts.jsonl.gz
  on two GPUs (or two processes):
    torchrun --nproc-per-node 2 -m toolkit.bin.train --config egs/mini/conf/asr.yaml --exp exp/asr

The same command, given again after any interruption, goes on where the run stopped. The experiment folder holds
config.yaml, checkpoints/, metrics.jsonl, tensorboard/, log.txt, skipped.jsonl and, at the end, model/: the directory
that --init.model of another training takes, and --model of decode, embed, verify, diarize, kmeans and label.
"""


def parser() -> argparse.ArgumentParser:
    """The command line; settings of the task are given as --section.key=value."""
    usage = "%(prog)s --config FILE --exp DIR [--section.key=value ...]"
    result = command_parser("train", __doc__, EPILOG, usage=usage, allow_abbrev=False)
    result.add_argument(
        "--config", required=True, metavar="FILE", help="YAML whose key `task` says what is learned"
    )
    result.add_argument("--exp", metavar="DIR", help="experiment folder, made if it is not there")
    result.add_argument(
        "--print_config", action="store_true", help="print every setting with its meaning, and stop"
    )
    result.add_argument(
        "--restart",
        action="store_true",
        help="delete what earlier runs left in the experiment folder, begin anew",
    )
    return result


def main(argv: list[str] | None = None) -> None:
    args, overrides = parser().parse_known_args(argv)
    from toolkit.processes import die_with_torchrun

    die_with_torchrun()
    from toolkit import config
    from toolkit.errors import UserError
    from toolkit.tasks import TASKS, task_class
    from toolkit.tasks.base import with_speech

    raw = config.apply_overrides(config.read_yaml(args.config), overrides)
    task_type = task_class(raw.get("task"), args.config, TASKS)
    settings = config.build(task_type.Config, with_speech(raw), args.config)
    if args.print_config:
        print(config.describe(settings), end="")
        return
    if not args.exp:
        raise UserError("command line: --exp: found nothing, expected an experiment folder")
    train(task_type, settings, Path(args.exp), args.restart)


def train(task_type: type, settings: object, folder: Path, restart: bool) -> None:
    """Runs the loop for one task in one experiment folder."""
    from toolkit import checkpoint, config
    from toolkit.bin._experiment import check_owner, forget
    from toolkit.tasks.load import save_model
    from toolkit.train.distributed import distributed, sole_owner
    from toolkit.train.loop import Trainer

    with distributed() as world, ExitStack() as stack:
        task = task_type(settings, folder / "model", settings.seed)
        if world.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            check_owner(folder)
            stack.enter_context(sole_owner(folder))
            if restart or not checkpoint.steps(folder / "checkpoints"):
                # Without a checkpoint to go on from, tokens and names of an earlier start may be of other settings.
                forget(folder, finished_too=restart)
            task.prepare()
        world.barrier()
        resolved = config.to_dict(settings)
        trainer = Trainer(task, settings.train, settings.optim, resolved, settings.seed, folder, world)
        if world.is_main:
            config.save(settings, folder / "config.yaml")
        model = trainer.run()
        if world.is_main:
            save_model(folder / "model", model, settings)
            print(f"model written to {folder / 'model'}")
        world.barrier()


if __name__ == "__main__":
    run(main, goes_on="--restart" not in sys.argv)
