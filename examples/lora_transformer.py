"""Fine-tune a pretrained transformer at three offices: all of it, or LoRA adapters only.

The transformer is a small BERT of Hugging Face's library, pretrained here, in seconds, on texts of
a made-up language, and read back by the library's own ``from_pretrained``. Three offices then
classify texts by topic, and none of them shows a text to another. With LoRA (``peft``) only the
adapters and the head are trained, and only they are exchanged.

    pip install 'fedtl[lora]'
    python examples/lora_transformer.py
"""

from __future__ import annotations

import tempfile
import warnings

import numpy as np
import torch

try:
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification
    from transformers.utils import logging
except ImportError:
    print("skipped: this example needs peft and transformers, pip install 'fedtl[lora]'")
    raise SystemExit from None

from fedtl import FederatedFineTuner

MASK, N_WORDS, LENGTH, N_TOPICS = 0, 81, 16, 4
ADAPTERS = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]}


def texts(n: int, rng: np.random.Generator, telling: float) -> tuple[np.ndarray, np.ndarray]:
    """Return texts as numbers of words, and the topic of each.

    A word is one of its topic's own with the probability `telling`, else one that all topics use.
    """
    topics = rng.integers(0, N_TOPICS, n)
    common = rng.integers(1 + 10 * N_TOPICS, N_WORDS, (n, LENGTH))
    own = 1 + 10 * topics[:, None] + rng.integers(0, 10, (n, LENGTH))
    return np.where(rng.random((n, LENGTH)) < telling, own, common), topics


def pretrain(folder: str, rng: np.random.Generator, n_steps: int = 500) -> None:
    """Predict masked words, and save the encoder."""
    config = BertConfig(
        vocab_size=N_WORDS,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=LENGTH,
    )
    model = BertForMaskedLM(config)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=n_steps)
    for _ in range(n_steps):
        rows = torch.from_numpy(texts(64, rng, 0.4)[0])
        hidden = torch.rand(rows.shape) < 0.2
        labels = rows.masked_fill(~hidden, -100)
        optimizer.zero_grad()
        model(rows.masked_fill(hidden, MASK), labels=labels).loss.backward()
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder)


def compare(seed: int) -> dict[str, tuple[float, int, int]]:
    """Return accuracy, trained parameters and bytes of updates, of both ways.

    In the offices' texts 15 % of the words tell the topic. Some texts have none of them, so that no
    model can be right in more than about 94 of 100.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    X, y = texts(600, rng, 0.15)
    X_test, y_test = texts(2000, rng, 0.15)
    office = np.repeat([0, 1, 2], 200)
    with tempfile.TemporaryDirectory() as folder:
        pretrain(folder, rng)
        whole = BertForSequenceClassification.from_pretrained(folder, num_labels=N_TOPICS)
        again = BertForSequenceClassification.from_pretrained(folder, num_labels=N_TOPICS)
    lora = get_peft_model(again, LoraConfig(task_type="SEQ_CLS", **ADAPTERS))
    results = {}
    for name, model, lr in (("everything", whole, 1e-3), ("LoRA", lora, 1e-2)):
        tuner = FederatedFineTuner(
            model, optimizer=torch.optim.AdamW, lr=lr, n_rounds=8, random_state=seed
        )
        tuner.fit(X, y, sample_party=office)
        sizes = [r["bytes"] for r in tuner.report_.messages if "rounds.update" in r["kind"]]
        results[name] = tuner.score(X_test, y_test), tuner.model_.shared.size, sum(sizes)
    return results


def main() -> None:
    """Compare full fine-tuning with adapters."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # transformers of its own names
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    results = compare(seed=0)
    for name, (accuracy, n_trained, n_bytes) in results.items():
        print(
            f"{name:12} accuracy {accuracy:.3f}, {n_trained:,} parameters trained and exchanged, "
            f"{n_bytes:,} bytes of updates"
        )
    print(f"bytes of LoRA / everything: {results['LoRA'][2] / results['everything'][2]:.1%}")


if __name__ == "__main__":
    main()
