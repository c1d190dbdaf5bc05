#!/usr/bin/env bash
# Recognition of Mandarin on AISHELL-1, 170 hours: characters, from scratch.
#
#   egs/aishell/asr/run.sh
#   model=zipformer_ctc corpus=/data/aishell num_gpus=4 egs/aishell/asr/run.sh
#
# From the environment:
#   model           zipformer_transducer (default), zipformer_ctc: a file of conf/
#   corpus          folder with data_aishell and resource_aishell; without it they are downloaded to TOOLKIT_DATA (15 GB)
#   overrides       further settings of the training, such as "--data.sampler.max_duration=200"
#   batches         of an update, a multiple of the number of GPUs (default: 4)
#   updates, average, lm_updates, lm_overrides    defaults are in this script and in conf/
#   searches        folder with configurations of searches (default: those of egs/librispeech/asr)
#   num_gpus, num_nodes, node_rank, master_addr, launcher       see tools/launch.sh and egs/librispeech/ssl/slurm.sh
#   TOOLKIT_DATA, TOOLKIT_EXP   folders for data and experiments (default: data/ and exp/ of this recipe)
. "$(dirname "$0")/../../../tools/stages.sh"
. "$root/tools/recognition.sh"

model=${model:-zipformer_transducer}
config=conf/$model.yaml
experiments=${TOOLKIT_EXP:-$recipe/exp} data=${TOOLKIT_DATA:-$recipe/data}
exp=$experiments/$model
given=$(from_start "${corpus:-}")
corpus=${given:-$data/aishell}

train_set=train valid_set=dev test_sets="dev test"
head=transducer exports=true metric=cer
if [ "$model" = zipformer_ctc ]; then head=ctc; fi
batches=${batches:-4} average=${average:-10}
lm_exp=$experiments/lm lm_config=conf/lm.yaml lm_text=$data/cuts_train.jsonl.gz ngram_text=$lm_text words_arpa=$data/words.arpa
if $quick; then updates=2000 lm_updates=500 average=1; fi

stage download "AISHELL from openslr.org" download
download() {
  if [ -n "$given" ]; then
    echo "$given is used as it is."
    return
  fi
  lhotse download aishell "$data" || stage_error "AISHELL could not be downloaded to $data; start again to go on, or get it" \
    "from https://www.openslr.org/33 and name the folder that holds data_aishell: corpus=/path/to/aishell"
}

stage prepare "manifests, and a look at all audio" prepare "$root/tools/cuts.py"
prepare() {
  stage_drop "$data/lhotse"
  [ -d "$corpus/data_aishell" ] || stage_error "$corpus/data_aishell: no such folder, expected AISHELL-1"
  lhotse prepare aishell "$corpus" "$data/lhotse"
  aishell_cuts train --shuffle
  aishell_cuts dev
  aishell_cuts test
}

stage words "n-gram model of words, from the training transcripts" words local/text.py "$data/cuts_train.jsonl.gz"
words() {
  python local/text.py --corpus "$corpus" --cuts "$data/cuts_train.jsonl.gz" --out "$data"
  python -m toolkit.bin.ngram estimate "$data/text.txt" --order 3 --vocabulary "$data/words.txt" --out "$words_arpa"
}

# aishell_cuts PART [--shuffle]
aishell_cuts() {
  python "$root/tools/cuts.py" "$data/lhotse" --corpus aishell --language zh --parts "$@" --out "$data/all_$1.jsonl.gz"
  python -m toolkit.bin.prepare validate "$data/all_$1.jsonl.gz" --task asr --decode --out "$data/cuts_$1.jsonl.gz"
}

recognition_stages
run_recipe "$@"
