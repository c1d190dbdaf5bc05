"""Measures speed and memory, beside other programs where they are installed."""

import argparse
from typing import Any

from toolkit.bin import run
from toolkit.bin._arguments import add_device, command_parser

EPILOG = """examples:
  the models that are known by name, with parameters and operations for a second of audio:
    %(prog)s models
  a pretraining step of two models beside transformers' HuBERT, on two CPU cores:
    %(prog)s ssl --models hubert-base zipformer-base --peers hubert-base \\
      --device cpu --threads 2
  transducer losses beside those of fast_rnnt, k2 and torchaudio, where they are installed:
    %(prog)s transducer --device cpu --threads 2
  features, encoder and searches of a recogniser, beside sherpa-onnx:
    %(prog)s decode --peer
  reading and padding of one's own data:
    %(prog)s loader --cuts data/train.jsonl.gz --data.sampler.max_duration=600
"""

SSL_EPILOG = """examples:
  %(prog)s --models hubert-base zipformer-base --peers hubert-base --batch 4 --seconds 10
  the same in bf16 on a GPU, compiled:
    %(prog)s --models hubert-base --device cuda --precision bf16 --compile \\
      --batch 32 --seconds 15.6
  another objective:
    %(prog)s --models hubert-base --objective.name=best_rq

--section.key=value changes a setting of all models: those of a pretraining configuration, which
`python -m toolkit.bin.train --config FILE --print_config` explains.

Each system runs in a process of its own and makes a step when it is its turn; times are medians. memory is
the peak beyond what the process had with its libraries loaded. utilisation is the share of the speed of a
large matrix product. All audio has one length, so there is no padding here; loader tells how much there is.
No layer is dropped (LayerDrop), so that each step does the same work. With several peers, the ratios are to
the first."""

DECODE_EPILOG = """examples:
  %(prog)s --threads 2 --peer
  on a GPU:
    %(prog)s --device cuda --utterances 256 --batch-seconds 1600

Random weights, noise, and a bias of the blank with which greedy search finds 3.4 tokens a second. "encoder" is
features and encoder, which all searches share; the real-time factor is that of both, without reading audio."""

TRANSDUCER_EPILOG = """examples:
  %(prog)s --losses pruned --shapes small unsorted sorted
  %(prog)s --losses recursion --shapes unsorted --device cuda
  %(prog)s --losses full --shapes small --peers torchaudio

Each program runs in a process of its own and computes losses and gradients when it is its turn; times are medians.
There are 500 symbols, joiners have 512 units. small: 8 utterances of 250 frames and 40 symbols; unsorted: 30 of
lengths much as in LibriSpeech's 100 hours; sorted: as many of about one length as have 10,000 frames.

pruned is the simple and the pruned loss with the joiner, full the exact loss with the joiner, recursion the sum
over alignments alone. floor is the time that the joiner's matrix products, over frames and symbols that exist, take
at the speed of a large matrix product. Ratios are to the first peer. pytorch is the toolkit with all logits in
memory."""

LOADER_EPILOG = """examples:
  %(prog)s --cuts data/train.jsonl.gz --batches 50 \\
    --data.sampler.max_duration=600 --data.sampler.num_workers=4

--section.key=value changes a setting: those of a pretraining configuration, which
`python -m toolkit.bin.train --config FILE --print_config` explains."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = command_parser("bench", __doc__, EPILOG)
    what = top.add_subparsers(dest="what", required=True, metavar="WHAT")
    settings: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    models = what.add_parser("models", help="sizes of the models that are known by name", **settings)
    models.add_argument("--names", nargs="+", metavar="MODEL", help="which models (default: all)")
    usage = f"{top.prog} %s [--section.key=value ...]"
    ssl = what.add_parser(
        "ssl", help="pretraining steps", epilog=SSL_EPILOG, usage=usage % "ssl [OPTION ...]", **settings
    )
    ssl.add_argument(
        "--models",
        nargs="+",
        default=["hubert-base"],
        metavar="MODEL",
        help="ours, of those that `bench models` lists (default: hubert-base)",
    )
    ssl.add_argument(
        "--peers",
        nargs="*",
        default=[],
        metavar="MODEL",
        help="of the same list, measured in transformers, too (default: none)",
    )
    ssl.add_argument(
        "--batch", type=int, default=4, metavar="N", help="utterances in a step (default: %(default)s)"
    )
    ssl.add_argument(
        "--seconds", type=float, default=10, metavar="S", help="length of an utterance (default: %(default)s)"
    )
    ssl.add_argument(
        "--steps",
        type=int,
        default=5,
        metavar="N",
        help="of each model that are timed (default: %(default)s)",
    )
    ssl.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (default: %(default)s)")
    add_device(ssl)
    ssl.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="(default: %(default)s)")
    ssl.add_argument("--compile", action="store_true", help="compile ours with torch.compile")
    loader = what.add_parser(
        "loader",
        help="reading of batches",
        epilog=LOADER_EPILOG,
        usage=usage % "loader --cuts FILE [OPTION ...]",
        **settings,
    )
    loader.add_argument("--cuts", required=True, metavar="FILE", help="cuts, or a Shar folder")
    loader.add_argument(
        "--batches", type=int, default=20, metavar="N", help="that are timed (default: %(default)s)"
    )
    transducer = add_transducer(what, settings)
    decode = add_decode(what, settings)
    for command in (models, ssl, loader, transducer, decode):
        command.add_argument("--json", metavar="FILE", help="write the numbers to a file, too")
    return top


def add_transducer(what: Any, settings: dict[str, Any]) -> argparse.ArgumentParser:
    """The command for losses of transducers."""
    command = what.add_parser("transducer", help="transducer losses", epilog=TRANSDUCER_EPILOG, **settings)
    for option, choices in (
        ("losses", ["pruned", "full", "recursion"]),
        ("shapes", ["small", "unsorted", "sorted"]),
    ):
        default = choices[:1] if option == "losses" else choices
        help_text = f"which of {', '.join(choices)} (default: {' '.join(default)})"
        command.add_argument(
            f"--{option}", nargs="+", choices=choices, default=default, metavar="NAME", help=help_text
        )
    command.add_argument(
        "--peers",
        nargs="*",
        metavar="NAME",
        help="fast_rnnt, k2, torchaudio, pytorch (default: all that are installed)",
    )
    command.add_argument(
        "--steps", type=int, default=10, metavar="N", help="that are timed (default: %(default)s)"
    )
    command.add_argument(
        "--threads", type=int, default=2, metavar="N", help="CPU threads (default: %(default)s)"
    )
    add_device(command)
    return command


def add_decode(what: Any, settings: dict[str, Any]) -> argparse.ArgumentParser:
    """The command for searches."""
    command = what.add_parser("decode", help="recognition", epilog=DECODE_EPILOG, **settings)
    for option, default, kind, text in (
        ("model", "zipformer-asr-medium", str, "of those for recognition that `bench models` lists"),
        ("utterances", 24, int, "how many, of 2 to 20 s"),
        ("batch-seconds", 120.0, float, "audio computed together"),
        ("rounds", 3, int, "that are timed"),
        ("threads", 2, int, "CPU threads"),
    ):
        command.add_argument(
            f"--{option}", type=kind, default=default, metavar="X", help=f"{text} (default: %(default)s)"
        )
    command.add_argument(
        "--searches",
        nargs="+",
        default=["ctc_greedy", "greedy", "modified_beam"],
        metavar="NAME",
        help="as `decode --searches` knows them (default: ctc_greedy greedy modified_beam)",
    )
    command.add_argument(
        "--peer", action="store_true", help="the same weights in sherpa-onnx, too, on the CPU"
    )
    add_device(command)
    return command


def main(argv: list[str] | None = None) -> None:
    """Measures, prints a table, writes the numbers."""
    args, overrides = parser().parse_known_args(argv)
    from toolkit.bench.table import show
    from toolkit.errors import UserError
    from toolkit.files import write_json

    if overrides and args.what not in ("ssl", "loader"):
        raise UserError(f"command line: found {overrides[0]}, expected no settings for {args.what}")
    rows = {
        "models": measure_models,
        "ssl": measure_ssl,
        "loader": measure_loading,
        "transducer": measure_transducer,
        "decode": measure_decoding,
    }[args.what](args, overrides)
    print(show(rows))
    if args.json:
        write_json(args.json, rows)


def measure_models(args: argparse.Namespace, overrides: list[str]) -> list[dict[str, Any]]:
    """Rows of `toolkit.bench.sizes`."""
    from toolkit.bench.sizes import sizes
    from toolkit.errors import UserError
    from toolkit.models.published import PUBLISHED

    names = args.names or list(PUBLISHED)
    for name in names:
        if name not in PUBLISHED:
            raise UserError(f"--names: found {name!r}, expected one of: {', '.join(PUBLISHED)}")
    return sizes(names)


def measure_ssl(args: argparse.Namespace, overrides: list[str]) -> list[dict[str, Any]]:
    """Rows of `toolkit.bench.pretraining`."""
    from toolkit.bench.pretraining import Setting, compare
    from toolkit.errors import UserError
    from toolkit.tasks.apply import pick_device

    if min(args.batch, args.steps, args.threads) < 1 or args.seconds < 1:
        raise UserError("--batch, --seconds, --steps, --threads: found a number below 1, expected 1 or more")
    device = str(pick_device(args.device))
    setting = Setting(args.batch, args.seconds, args.precision, device, args.compile)
    return compare(args.models, args.peers, overrides, setting, args.steps, args.threads)


def measure_transducer(args: argparse.Namespace, overrides: list[str]) -> list[dict[str, Any]]:
    """Rows of `toolkit.bench.transducer`."""
    from toolkit.bench.transducer import compare, find_peers
    from toolkit.errors import UserError
    from toolkit.tasks.apply import pick_device

    if min(args.steps, args.threads) < 1:
        raise UserError("--steps, --threads: found a number below 1, expected 1 or more")
    peers, device = find_peers(args.peers), str(pick_device(args.device))
    return compare(args.losses, args.shapes, peers, device, args.steps, args.threads)


def measure_decoding(args: argparse.Namespace, overrides: list[str]) -> list[dict[str, Any]]:
    """Rows of `toolkit.bench.decoding`."""
    from toolkit.bench.decoding import Setting, compare
    from toolkit.errors import UserError
    from toolkit.tasks.apply import pick_device

    if min(args.utterances, args.rounds, args.threads) < 1 or args.batch_seconds < 20:
        raise UserError(
            "--utterances, --rounds, --threads, --batch-seconds: found a number too small, expected at least 1, and "
            "batches of at least 20 s"
        )
    setting = Setting(args.model, args.utterances, args.batch_seconds, str(pick_device(args.device)))
    return compare(setting, args.searches, args.rounds, args.threads, args.peer)


def measure_loading(args: argparse.Namespace, overrides: list[str]) -> list[dict[str, Any]]:
    """The row of `toolkit.bench.loading`."""
    from toolkit.bench.loading import loader_task, measure_loader
    from toolkit.errors import UserError

    if args.batches < 1:
        raise UserError(f"--batches: found {args.batches}, expected at least 1")
    return [measure_loader(loader_task(args.cuts, overrides), args.batches)]


if __name__ == "__main__":
    run(main)
