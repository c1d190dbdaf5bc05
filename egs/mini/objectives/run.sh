#!/usr/bin/env bash
# Which pretraining helps: the objectives with the same encoder, audio, number of updates and fine-tuning, beside no
# pretraining. Each is measured by the word error rate of a CTC recogniser that begins with its encoder, and by how well
# one linear layer tells the phones of unseen voices from its frozen frames.
# TOOLKIT_DATA and TOOLKIT_EXP name the folders of egs/mini, data/ and exp/ there by default; the results go to
# TOOLKIT_EXP/objectives.
. "$(dirname "$0")/../../../tools/stages.sh"
. ../local/train.sh

mini=${TOOLKIT_EXP:-$(dirname "$recipe")/exp}
data=${TOOLKIT_DATA:-$(dirname "$recipe")/data}
exp=$mini/objectives
pretrain_updates=1500 asr_updates=900 option='' frames=60000
if $quick; then pretrain_updates=40 asr_updates=40 option=--quick frames=5000; fi

probed=(--max-frames "$frames" --train-cuts "$data/cuts_pretrain_train.jsonl.gz" --alignment "$data/phones_tts.ctm"
  --valid-cuts "$data/cuts_trials_valid.jsonl.gz" --test-cuts "$data/cuts_trials_test.jsonl.gz")
measured=(conf/asr.yaml "$data/cuts_asr_"{train,valid,test}.jsonl.gz "$data/cuts_pretrain_train.jsonl.gz"
  "$data/cuts_trials_"{valid,test}.jsonl.gz "$data/phones_tts.ctm")
inputs=("${measured[@]}" conf/pretrain.yaml "$mini/labels-1/"{train,valid}/cuts.jsonl.gz
  "$mini/labels-1/kmeans.safetensors" "$exp/none/decode/text")

stage data "recordings, synthetic voices and MFCC labels, by the recipe egs/mini" make_data
# shellcheck disable=SC2086  # no word, if there is no option
make_data() {
  TOOLKIT_EXP=$mini TOOLKIT_DATA=$data TOOLKIT_COMMAND=../run.sh ../run.sh $option fetch manifests voices kmeans
}

stage none "no pretraining: recognition from scratch, random frames" none "${measured[@]}"
none() {
  stage_drop "$exp/none"
  recognise none
  probe none --model "$exp/none/asr/model" --random-init 1
}

stage hubert "cluster labels, linear scores" hubert conf/hubert.yaml "${inputs[@]}"
hubert() { pretrained hubert conf/hubert.yaml; }

stage cosine "cluster labels, cosine scores" cosine conf/cosine.yaml "${inputs[@]}"
cosine() { pretrained cosine conf/cosine.yaml; }

stage mixing "cluster labels, with other voices mixed into a fifth of the utterances" mixing conf/hubert.yaml "${inputs[@]}"
mixing() { pretrained mixing conf/hubert.yaml --view.mix_prob=0.2; }

stage wav2vec2 "quantised latents, to be told from others" wav2vec2 conf/wav2vec2.yaml "${inputs[@]}"
wav2vec2() { pretrained wav2vec2 conf/wav2vec2.yaml --optim.lr=5.0e-4; }

stage best_rq "codes of random projections" best_rq conf/best_rq.yaml "${inputs[@]}"
best_rq() { pretrained best_rq conf/best_rq.yaml; }

stage data2vec "layers of an averaged teacher" data2vec conf/data2vec.yaml "${inputs[@]}"
data2vec() { pretrained data2vec conf/data2vec.yaml; }

stage table "one table of all" table local/table.py \
  "$exp/"{none,hubert,cosine,mixing,wav2vec2,best_rq,data2vec}/{decode/wer,probe}.json
table() {
  python local/table.py --exp "$exp" --out "$exp/OBJECTIVES.md" none hubert cosine mixing wav2vec2 best_rq data2vec
}

# pretrained SYSTEM OBJECTIVE [settings]: pretrains with the objective that a file describes, and measures.
pretrained() {
  stage_drop "$exp/$1"
  train "$1/pretrain" conf/pretrain.yaml --data.train="$mini/labels-1/train/cuts.jsonl.gz" \
    --data.valid="$mini/labels-1/valid/cuts.jsonl.gz" --objective="$(cat "$2")" \
    --train.max_updates=$pretrain_updates "${@:3}"
  recognise "$1" --init.model="$exp/$1/pretrain/model"
  probe "$1" --model "$exp/$1/pretrain/model"
}

# recognise SYSTEM [settings]: trains a recogniser and compares it with that from scratch.
recognise() {
  local reference=$data/cuts_asr_test.jsonl.gz out=$exp/$1/decode
  train "$1/asr" conf/asr.yaml --data.train="$data/cuts_asr_train.jsonl.gz" \
    --data.valid="$data/cuts_asr_valid.jsonl.gz" --train.max_updates=$asr_updates "${@:2}"
  python -m toolkit.bin.decode --model "$exp/$1/asr/model" --cuts "$reference" --out "$out"
  python -m toolkit.bin.score wer --ref "$reference" --hyp "$out/text" --baseline "$exp/none/decode/text" \
    --json "$out/wer.json" --details "$out/wer.txt"
}

# probe SYSTEM WHAT: phones of unseen synthetic voices from every layer, the layer chosen on other voices.
probe() { python -m toolkit.bin.probe "${@:2}" "${probed[@]}" --json "$exp/$1/probe.json"; }

run_stages "$@"
