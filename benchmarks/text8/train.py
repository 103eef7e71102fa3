"""Train the experts of the benchmark, as `make text8` does first.

Use: python benchmarks/text8/train.py --data FOLDER [--runs FOLDER] [--seed N] [--only TASK,TASK] [--threads N]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from training import Places, Settings, train, write_base

ROOT = Path(__file__).parents[2]
TASKS = ("trec", "tweet_emotion", "mpqa", "banking77", "clinc150", "mr", "subj", "ag_news")


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with a folder for each task")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/text8", help="where models are written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(TASKS), help="tasks, with commas between")
    parser.add_argument(
        "--head-rate", type=float, default=Settings.head_rate, help="other than that: other --runs, too"
    )
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    places = Places(chosen.runs, chosen.seed)
    write_base(places)
    for task in chosen.only.split(","):
        train(chosen.data, places, task, Settings(head_rate=chosen.head_rate), lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
