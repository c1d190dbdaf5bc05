#!/usr/bin/env bash
# Template: this recipe, or another of LibriSpeech, Libri-Light or AISHELL, on several machines under Slurm.
#
#   mkdir -p logs && sbatch --export=ALL,model=hubert_base egs/librispeech/ssl/slurm.sh
#   sbatch --nodes 2 egs/librispeech/ssl/slurm.sh egs/librilight/ssl/run.sh
#   sbatch egs/librispeech/ssl/slurm.sh egs/librispeech/asr/run.sh
#
# The stages run once, on the first machine; trainings start one torchrun on each. All machines need the repository, the
# data and the experiments under the same paths; the number of GPUs must divide the recipe's `batches`. Adapt the lines
# below to your cluster. A job that ends early is put back into the queue and goes on from its last checkpoint.
#SBATCH --job-name=pretrain
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/%x-%j.txt
set -euo pipefail

recipe=${1:-egs/librispeech/ssl/run.sh}
export num_gpus=${num_gpus:-8}
export num_nodes=$SLURM_JOB_NUM_NODES
master_addr=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export master_addr
# A port of its own for each job on a shared machine.
export master_port=$((20000 + SLURM_JOB_ID % 20000))
export launcher="srun --nodes=$SLURM_JOB_NUM_NODES --ntasks-per-node=1 --kill-on-bad-exit=1"

exec "$recipe" "${@:2}"
