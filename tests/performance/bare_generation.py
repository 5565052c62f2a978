"""`python -m tests.performance.bare_generation`: the generation that the service measures, with nothing around it.

Reads lines of two numbers, how often to generate and for how long a prompt, and writes the tokens per second of it.
"""

import sys
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

NEW_TOKENS = 64


def main() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2")).eval()
    settings = GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        top_k=0,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        pad_token_id=50256,
        eos_token_id=50256,
    )
    for line in sys.stdin:
        times, prompt_tokens = map(int, line.split())
        prompt = torch.randint(0, 50000, (1, prompt_tokens))
        mask = torch.ones_like(prompt)
        begun = time.perf_counter()
        with torch.inference_mode():
            for _ in range(times):
                model.generate(prompt, attention_mask=mask, generation_config=settings)
        sys.stdout.write(f"{times * NEW_TOKENS / (time.perf_counter() - begun)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
