"""DPO on a run's AI labels, with TRL's trainer, instead of a preference model and PPO.

cai export runs/quickstart --output exports/quickstart
python examples/dpo.py exports/quickstart runs/quickstart/20-sft dpo-model

What DPO makes of a soft label: TRL's losses know which reply was chosen, and not how sure the judge
was. A label of 0.51 pulls as hard as one of 0.99; `label_smoothing` is one number for all rows. So
pairs whose log-odds are below MARGIN stay away here, and the rest count alike. The preference model
of `cai run` fits the probabilities themselves.
"""

from __future__ import annotations

import sys

from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

MARGIN = 0.2
"""Nats: the judge gives the chosen reply at least 55 %."""


def main(exported: str, model: str, out: str) -> None:
    """Train a LoRA adapter on `model`; the folder `out` gets the merged model."""
    pairs = load_dataset(
        "parquet", data_files=f"{exported}/preferences/train.parquet", split="train"
    )
    sure = pairs.filter(lambda row: row["margin"] >= MARGIN)
    if not len(sure):
        sys.exit(
            f"dpo: none of {len(pairs)} labels in {exported} is surer than {MARGIN} nats:"
            " a better judge may help"
        )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=DPOConfig(
            output_dir=f"{out}/trainer",
            beta=0.1,
            learning_rate=1e-4,
            num_train_epochs=1,
            per_device_train_batch_size=4,
            max_length=512,
            bf16=False,
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=sure.select_columns(["prompt", "chosen", "rejected"]),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.model.merge_and_unload().save_pretrained(out)
    trainer.processing_class.save_pretrained(out)
    print(
        f"{len(sure)} of {len(pairs)} pairs, "
        f"mean loss {trainer.state.log_history[-1]['train_loss']:.3f}: {out}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:4])
