# shellcheck shell=bash
# LibriSpeech and what goes with it, for the recipes that use them. Sourced after recipe.sh by a recipe that sets
#   data      folder
#   given     folder LibriSpeech with its parts, or nothing: then they are downloaded to $data
#   corpus    ${given:-$data/LibriSpeech}

# download_librispeech PART ...: from openslr.org, one archive a part.
download_librispeech() {
  if [ -n "$given" ]; then
    echo "$given is used as it is."
    return
  fi
  python - "$data" "$@" << 'END' ||
import sys
from lhotse.recipes import download_librispeech
download_librispeech(sys.argv[1], sys.argv[2:])
END
    stage_error "LibriSpeech could not be downloaded to $data; start again to go on, or get it from" \
      "https://www.openslr.org/12 and name its folder: corpus=/path/to/LibriSpeech"
}

# prepare_librispeech PART ...: the manifests of these parts.
prepare_librispeech() {
  local part
  for part in "$@"; do
    [ -d "$corpus/$part" ] || stage_error "$corpus/$part: no such folder, expected a part of LibriSpeech"
    lhotse prepare librispeech -j 8 -p "$part" "$corpus" "$data/lhotse"
  done
}

# librispeech_cuts TASK NAME PART ... [--shuffle]: all audio of these parts is decoded; what can be used is in cuts_NAME.
librispeech_cuts() {
  python "$root/tools/cuts.py" "$data/lhotse" --corpus librispeech --language en --out "$data/all_$2.jsonl.gz" \
    --parts "${@:3}"
  python -m toolkit.bin.prepare validate "$data/all_$2.jsonl.gz" --task "$1" --decode --out "$data/cuts_$2.jsonl.gz"
}
