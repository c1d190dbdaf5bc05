# shellcheck shell=bash
# The stages that recipes for recognition share: from cuts with transcripts to error rates and exported models. Sourced
# after stages.sh by a recipe that sets
#   exp, data    folders
#   config       configuration of the training
#   train_set, valid_set    names of cuts: NAME stands for $data/cuts_NAME.jsonl.gz
#   test_sets    such names, in one string
#   batches      of which an update is made
#   average      checkpoints that are averaged at the end
#   head         transducer or ctc: what is searched
#   exports      true for a model that sherpa-onnx can compute: on filter banks, or on normalised waveforms
#   lm_exp       folder for language models, which all models over the same tokens share
#   lm_config    configuration of the neural language model
#   lm_text      sentences to learn it from: text, a sentence a line (.gz is unpacked), or cuts
#   ngram_text   the same, for the n-gram model of tokens, all of which is held in memory
#   words_arpa   n-gram model of words, for ctc
# and may change what is set here:
settings=()   # of the training, beside those of the configuration; `overrides` come after them
noise=''      # cuts of noise that is mixed into the training audio
streams=false # true for a causal model
metric=wer    # or cer, for languages that put no spaces between words
# It has stages that write the cuts and the texts. Then it calls
#   recognition_stages
#   run_recipe "$@"
# From the environment, as each recipe explains: pretrained, overrides, updates, lm_overrides, lm_updates, searches.

. "$root/tools/recipe.sh"

trainings="train lm"
pretrained=$(from_start "${pretrained:-}")
searches=$(from_start "${searches:-$root/egs/librispeech/asr/conf}")
overrides=${overrides:-} updates=${updates:-} lm_overrides=${lm_overrides:-} lm_updates=${lm_updates:-}

recognition_stages() {
  local name tests=() model="$exp/model/model.safetensors"
  local lms=("$lm_exp/tokens.arpa" "$lm_exp/train/model/model.safetensors")
  for name in $test_sets; do tests+=("$data/cuts_$name.jsonl.gz"); done

  stage train "the recogniser" train "$config" "$data/cuts_$train_set.jsonl.gz" "$data/cuts_$valid_set.jsonl.gz" \
    ${noise:+"$noise"} ${pretrained:+"$pretrained/model.safetensors"}

  stage average "average the last checkpoints" average "$exp/train/model/model.safetensors"

  stage decode "recognise without language models" decode "$searches/decode_$head.yaml" "$model" "${tests[@]}"

  if $streams; then
    stage stream "recognise while the audio arrives" stream "$searches/stream.yaml" "$model" "${tests[@]}"
  fi

  stage ngram "n-gram models of tokens" ngram \
    "$ngram_text" "$exp/model/tokens.txt" "$data/cuts_$train_set.jsonl.gz" "$data/cuts_$valid_set.jsonl.gz"

  stage lm "neural language model of tokens" lm \
    "$lm_config" "$lm_text" "$exp/model/tokens.txt" "$data/cuts_$valid_set.jsonl.gz"

  if [ "$head" = ctc ]; then
    stage graph "n-gram model of words and the tokens of the recogniser as one graph" graph \
      "$words_arpa" "$exp/model/tokens.txt"
    lms+=("$exp/graph/HLG.fst")
  fi

  stage fusion "recognise with language models" fusion "$searches/fusion_$head.yaml" "$model" "${tests[@]}" "${lms[@]}"

  stage results "a table of all error rates" results "$root/tools/error_rates.py" "$model" "${tests[@]}"

  if $exports; then
    stage export "files for sherpa-onnx" export_model "$model"
  fi
}

train() {
  local more
  read -r -a more <<< "$overrides"
  stage_drop "$exp/train"
  "$root/tools/launch.sh" "$batches" --config "$config" --exp "$exp/train" \
    --data.train="$data/cuts_$train_set.jsonl.gz" --data.valid="$data/cuts_$valid_set.jsonl.gz" \
    ${noise:+--data.augment.noise="$noise"} ${pretrained:+--init.model="$pretrained"} \
    ${updates:+--train.max_updates="$updates"} ${settings[@]+"${settings[@]}"} ${more[@]+"${more[@]}"}
}

average() {
  python -m toolkit.bin.average --exp "$exp/train" --last "$average" --output "$exp/model"
}

decode() { decode_with "$searches/decode_$head.yaml" decode; }

stream() { decode_with "$searches/stream.yaml" stream --streaming; }

# One for fusion, and a small one of the training transcripts, which stands for what a transducer itself knows of text.
ngram() {
  python -m toolkit.bin.ngram estimate "$ngram_text" --model "$exp/model" --order 4 --out "$lm_exp/tokens.arpa" \
    --test "$data/cuts_$valid_set.jsonl.gz"
  python -m toolkit.bin.ngram estimate "$data/cuts_$train_set.jsonl.gz" --model "$exp/model" --order 2 \
    --out "$lm_exp/transcripts.arpa"
}

lm() {
  local more
  read -r -a more <<< "$lm_overrides"
  stage_drop "$lm_exp/train"
  "$root/tools/launch.sh" "$batches" --config "$lm_config" --exp "$lm_exp/train" --tokenizer.folder="$exp/model" \
    --data.train="$lm_text" --data.valid="$data/cuts_$valid_set.jsonl.gz" \
    ${lm_updates:+--train.max_updates="$lm_updates"} ${more[@]+"${more[@]}"}
}

graph() {
  stage_drop "$exp/graph"
  python -m toolkit.bin.graph --model "$exp/model" --arpa "$words_arpa" --out "$exp/graph"
}

fusion() {
  case $head in
    ctc)
      decode_with "$searches/fusion_ctc.yaml" fusion --searches.beam_words.words.ngram="$words_arpa" \
        --searches.beam_lm.fusion.lm="$lm_exp/train/model" --searches.graph.graph="$exp/graph"
      ;;
    transducer)
      decode_with "$searches/fusion_transducer.yaml" fusion --searches.beam_ngram.fusion.ngram="$lm_exp/tokens.arpa" \
        --searches.beam_lm.fusion.lm="$lm_exp/train/model" --searches.beam_lodr.fusion.lm="$lm_exp/train/model" \
        --searches.beam_lodr.fusion.lodr="$lm_exp/transcripts.arpa" --searches.rescored.fusion.lm="$lm_exp/train/model"
      ;;
  esac
}

# decode_with FILE FOLDER [what else decode takes]: every test set with every search of the file.
decode_with() {
  local name
  stage_drop "$exp/$2"
  for name in $test_sets; do
    python -m toolkit.bin.decode --model "$exp/model" --cuts "$data/cuts_$name.jsonl.gz" --out "$exp/$2/$name" \
      --searches "$1" "${@:3}"
  done
}

# shellcheck disable=SC2086 # $test_sets are several words
results() {
  python "$root/tools/error_rates.py" --exp "$exp" --data "$data" --sets $test_sets --metric "$metric" \
    --out "$exp/RESULTS.md"
}

export_model() {
  stage_drop "$exp/sherpa"
  python -m toolkit.bin.export --to sherpa --model "$exp/model" "$exp/sherpa"
}
