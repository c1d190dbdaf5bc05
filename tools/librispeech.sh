# shellcheck shell=bash
# LibriSpeech and what goes with it, for the recipes that use them. Sourced after recipe.sh by a recipe that sets
#   data      folder
# and calls librispeech_settings.

# librispeech_settings: where things are, from the environment or below $data.
librispeech_settings() {
  # What is given is not downloaded.
  given=$(from_start "${corpus:-}") lm_given=$(from_start "${lm_data:-}")
  corpus=${given:-$data/LibriSpeech} lm_data=${lm_given:-$data/lm}
  if [ "${musan:-}" != none ]; then musan=$(from_start "${musan:-}"); fi
  lm_text=$lm_data/librispeech-lm-norm.txt.gz words_arpa=$lm_data/3-gram.pruned.1e-7.arpa.gz
  # The n-gram model of tokens is estimated in memory, so from a part of the text.
  ngram_lines=${ngram_lines:-500000} ngram_text=$data/lm_lines.txt
}

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
  local part parts=()
  for part in "$@"; do
    [ -d "$corpus/$part" ] || stage_error "$corpus/$part: no such folder, expected a part of LibriSpeech"
    parts+=(-p "$part")
  done
  lhotse prepare librispeech -j 8 "${parts[@]}" "$corpus" "$data/lhotse"
}

# librispeech_cuts TASK NAME PART ... [--shuffle]: all audio of these parts is decoded; what can be used is in cuts_NAME.
librispeech_cuts() {
  local made="$data/made_$2.txt"
  # A recipe may be run for several models; the audio is looked at once.
  if [ -f "$data/cuts_$2.jsonl.gz" ] && [ -f "$made" ] && [ "$(cat "$made")" = "$corpus $*" ]; then return; fi
  python "$root/tools/cuts.py" "$data/lhotse" --corpus librispeech --language en --out "$data/all_$2.jsonl.gz" \
    --parts "${@:3}"
  python -m toolkit.bin.prepare validate "$data/all_$2.jsonl.gz" --task "$1" --decode --out "$data/cuts_$2.jsonl.gz"
  echo "$corpus $*" > "$made"
}

# download_musan: the noise corpus, to $data, unless $musan names it.
download_musan() {
  if [ -n "$musan" ]; then
    echo "$musan is used as it is."
    return
  fi
  lhotse download musan "$data" || stage_error "MUSAN could not be downloaded to $data; start again to go on, or get it from" \
    "https://www.openslr.org/17 and name its folder: musan=/path/to/musan (or train without: musan=none)"
}

# prepare_musan: music, speech and noise in one manifest, cuts_musan.
prepare_musan() {
  local part
  lhotse prepare musan "${musan:-$data/musan}" "$data/lhotse_musan"
  for part in music speech noise; do
    lhotse cut simple --force-eager -r "$data/lhotse_musan/musan_recordings_$part.jsonl.gz" \
      "$data/lhotse_musan/cuts_$part.jsonl.gz"
  done
  cat "$data/lhotse_musan/cuts_"{music,speech,noise}.jsonl.gz > "$data/cuts_musan.jsonl.gz"
}

# download_lm: LibriSpeech's trigrams of words and its text for language models, unless $lm_given names their folder.
download_lm() {
  local file
  for file in "$words_arpa" "$lm_text"; do
    if [ -z "$lm_given" ]; then
      fetch "https://www.openslr.org/resources/11/$(basename "$file")" "$file"
    elif [ ! -f "$file" ]; then
      stage_error "$file: no such file, expected what https://www.openslr.org/11 has"
    fi
  done
  mkdir -p "$data"
  # The program that is read from ends early, which is no error.
  head -n "$ngram_lines" < <(gzip -dc "$lm_text") > "$ngram_text"
}
