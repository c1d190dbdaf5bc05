"""Turn recordings into speaker embeddings."""

import argparse
from pathlib import Path

from toolkit.bin import run

EPILOG = """
examples:
  one embedding for each cut of a manifest, under the cut's id:
    python -m toolkit.bin.embed --model exp/speaker/model --cuts cuts_test.jsonl.gz --output
    exp/speaker/test.safetensors
  one for each audio file, under the name of the file:
    python -m toolkit.bin.embed --model exp/speaker/model --output talks.safetensors talks/*.wav

The output holds the tensor `embeddings`, a row for each recording, and the ids in its metadata; `verify`
takes it. Recordings that cannot be read are left out, counted, and listed with the reason in skipped.jsonl
beside the output.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m toolkit.bin.embed",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = result.add_argument_group("recordings, one of")
    source.add_argument("--cuts", metavar="FILE", help="cuts (.jsonl, .jsonl.gz or a Shar folder)")
    source.add_argument("files", nargs="*", metavar="AUDIO", help="audio files")
    result.add_argument("--model", required=True, metavar="DIR", help="model directory of a speaker model")
    result.add_argument("--output", required=True, metavar="FILE", help="safetensors file to write")
    result.add_argument("--skipped", metavar="FILE", help="list (default: skipped.jsonl beside the output)")
    result.add_argument("--max-seconds", type=float, default=60, help="used of a recording (default: 60)")
    result.add_argument("--batch-seconds", type=float, default=120, help="computed together (default: 120)")
    result.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    return result


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    from toolkit.data.recordings import named_recordings
    from toolkit.files import write_jsonl
    from toolkit.progress import progress
    from toolkit.tasks.apply import SpeakerEmbedder, check_some, embed_recordings

    embedder = SpeakerEmbedder(args.model, args.device)
    recordings = named_recordings(args.cuts, args.files, embedder.sampling_rate)
    shown = progress(recordings, len(args.files) or None, "embed")
    embeddings, skipped = embed_recordings(shown, embedder, args.max_seconds, args.batch_seconds)
    listed = args.skipped or Path(args.output).parent / "skipped.jsonl"
    write_jsonl(listed, skipped)
    check_some(len(embeddings.ids), skipped)
    embeddings.save(args.output)
    print(f"{len(embeddings.ids)} embeddings in {args.output}; {len(skipped)} skipped, listed in {listed}")


if __name__ == "__main__":
    run(main)
