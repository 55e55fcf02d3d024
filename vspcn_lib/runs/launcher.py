"""Options of `accelerate launch` that this program does not follow, named where somebody has set them."""

from __future__ import annotations

import os

from vspcn_lib.config import Config

_OTHERS = {"ACCELERATE_DYNAMO_BACKEND": "--dynamo_backend", "ACCELERATE_USE_DEEPSPEED": "--use_deepspeed",
           "ACCELERATE_USE_FSDP": "--use_fsdp", "ACCELERATE_USE_MEGATRON_LM": "--use_megatron_lm",
           "ACCELERATE_USE_PARALLELISM_CONFIG": "--use_parallelism_config"}


def ignored(config: Config) -> list[str]:
    """A sentence for each option, also of accelerate's config file, that differs from what the run does.

    `accelerate launch` hands them on as environment variables; here the settings of the run decide, and are recorded.
    """
    told = os.environ.get
    precision, steps = told("ACCELERATE_MIXED_PRECISION", "no"), told("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    said = []
    if precision not in ("no", config.train.precision):
        said.append(f"--mixed_precision {precision} of accelerate launch is ignored, this run's precision is "
                    f"'{config.train.precision}': set it with --train.precision (no or bf16)")
    if steps not in ("1", "auto", str(config.train.accumulate)):
        said.append(f"--gradient_accumulation_steps {steps} of accelerate launch is ignored, this run accumulates "
                    f"{config.train.accumulate} batches a step: set it with --train.accumulate")
    return said + [f"{option} of accelerate launch is ignored: this program shares out the images of a batch itself"
                   for variable, option in _OTHERS.items() if told(variable, "no").lower() not in ("", "no", "false")]
