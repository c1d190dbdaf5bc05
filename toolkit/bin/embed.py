"""Turn recordings into speaker embeddings."""

import argparse

from toolkit.bin import run
from toolkit.bin._arguments import (
    add_batch_seconds,
    add_device,
    add_max_seconds,
    add_recordings,
    add_skipped,
    command_parser,
    skipped_path,
)

EPILOG = """
examples:
  one embedding for each cut of a manifest, under the cut's id:
    python -m toolkit.bin.embed --model exp/speaker/model --cuts cuts_test.jsonl.gz \\
      --output exp/speaker/test.safetensors
  one for each audio file, under the name of the file:
    python -m toolkit.bin.embed --model exp/speaker/model --output talks.safetensors talks/*.wav

The output holds the tensor `embeddings`, a row for each recording, and the ids in its metadata; `verify`
takes it. Recordings that cannot be read are left out, counted, and listed with the reason in
OUTPUT.skipped.jsonl.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = command_parser("embed", __doc__, EPILOG)
    add_recordings(result)
    result.add_argument("--model", required=True, metavar="DIR", help="model directory of a speaker model")
    result.add_argument("--output", required=True, metavar="FILE", help="safetensors file to write")
    add_skipped(result)
    add_max_seconds(result, "only so much of a recording is used")
    add_batch_seconds(result, 120)
    add_device(result)
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
    listed = args.skipped or skipped_path(args.output)
    write_jsonl(listed, skipped)
    check_some(len(embeddings.ids), skipped)
    embeddings.save(args.output)
    print(f"{len(embeddings.ids)} embeddings in {args.output}; {len(skipped)} skipped, listed in {listed}")


if __name__ == "__main__":
    run(main)
