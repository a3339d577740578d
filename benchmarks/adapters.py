"""Adapters against full fine-tuning, over five seeds: ``python -m benchmarks.adapters``.

Twice: texts of a made-up language (``examples/lora_transformer.py``), and a small vision
transformer that is pretrained on MNIST's test images, which three offices fine-tune on the digits
that ship with scikit-learn: another country, another resolution, other strokes. MNIST is read from
the folder ``mnist`` of the directory that ``FEDTL_DATA`` names. Needs ``fedtl[lora]``.
"""

from __future__ import annotations

import gzip
import os
import runpy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils import logging

from fedtl import FederatedFineTuner

SEEDS = range(1, 6)
ADAPTERS = {"r": 6, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
_SIZE = 8


def mnist(folder: Path) -> tuple[Tensor, Tensor]:
    """Return MNIST's test images, of shape (10000, 1, 28, 28) and in [0, 1], and their digits."""
    images = gzip.decompress(next(folder.glob("*images*")).read_bytes())
    labels = gzip.decompress(next(folder.glob("*labels*")).read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    digits = np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
    return torch.from_numpy(pixels.astype(np.float32) / 255), torch.from_numpy(digits)


def scaled(pixels: Any) -> Any:
    """Center and scale pixels in [0, 1]."""
    return (pixels - 0.3) / 0.35


def pretrain(folder: str, images: Tensor, digits: Tensor, n_epochs: int = 10) -> None:
    """Tell digits apart in crops of images, made as small as scikit-learn's; save the network."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = ViTForImageClassification(
        ViTConfig(
            image_size=_SIZE,
            patch_size=2,
            num_channels=1,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_labels=10,
        )
    )
    n_steps = n_epochs * len(images) // 64
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=n_steps)
    for _ in range(n_steps):
        rows = torch.randint(len(images), (64,))
        size = rng.integers(18, 25, 2)
        start = (28 - size) // 2 + rng.integers(-1, 2, 2)
        (top, left), (bottom, right) = start, start + size
        crops = images[rows, :, top:bottom, left:right]
        small = nn.functional.adaptive_avg_pool2d(crops, _SIZE)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(scaled(small)).logits, digits[rows]).backward()
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder)


def compare_on_digits(folder: str, seed: int) -> dict[str, tuple[float, int, int]]:
    """Return accuracy, trained parameters and bytes of updates, of both ways."""
    X, y = load_digits(return_X_y=True)
    X = scaled((X / 16).astype(np.float32).reshape(-1, 1, _SIZE, _SIZE))
    order = np.random.default_rng(seed).permutation(len(y))
    train, test = order[:600], order[600:]
    results = {}
    for name, lr in (("everything", 1e-3), ("LoRA", 3e-3)):
        torch.manual_seed(seed)
        model = ViTForImageClassification.from_pretrained(folder, num_labels=10)
        model.classifier.reset_parameters()
        if name == "LoRA":
            model = get_peft_model(model, LoraConfig(modules_to_save=["classifier"], **ADAPTERS))
        tuner = FederatedFineTuner(
            model, optimizer=torch.optim.AdamW, lr=lr, n_rounds=20, random_state=seed
        )
        tuner.fit(X[train], y[train], sample_party=np.arange(len(train)) % 3)
        sizes = [r["bytes"] for r in tuner.report_.messages if "rounds.update" in r["kind"]]
        results[name] = tuner.score(X[test], y[test]), tuner.model_.shared.size, sum(sizes)
    return results


def show(name: str, runs: list[dict[str, tuple[float, int, int]]]) -> None:
    """Print means, and what adapters are of the whole."""
    whole, lora = (np.array([run[way][0] for run in runs]) for way in ("everything", "LoRA"))
    share = runs[0]["LoRA"][2] / runs[0]["everything"][2]
    print(
        f"{name}, {len(runs)} seeds: everything {whole.mean():.3f} +- {whole.std():.3f}, "
        f"LoRA {lora.mean():.3f} +- {lora.std():.3f}, difference {np.mean(lora - whole):+.4f} "
        f"({' '.join(f'{d:+.3f}' for d in lora - whole)}), {share:.1%} of the bytes",
        flush=True,
    )


def main() -> None:
    """Print a line for texts and one for digits."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    example = Path(__file__).parents[1] / "examples" / "lora_transformer.py"
    on_texts = runpy.run_path(str(example))["compare"]
    show("texts", [on_texts(seed) for seed in SEEDS])
    data = Path(os.environ.get("FEDTL_DATA", "")) / "mnist"
    if not data.is_dir():
        print("digits: skipped, there is no folder mnist in the directory FEDTL_DATA")
        return
    with tempfile.TemporaryDirectory() as folder:
        pretrain(folder, *mnist(data))
        show("digits", [compare_on_digits(folder, seed) for seed in SEEDS])


if __name__ == "__main__":
    main()
