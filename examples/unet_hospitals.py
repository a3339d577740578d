"""Three hospitals segment scans with one small U-Net, and show no scan to one another.

The scans are synthetic: noisy slices with a bright lesion, and each hospital's scanner has its own
brightness and noise. Batch norms therefore stay at the hospital (``personal=("batch_norm",)``).
Give a folder of nifti files to train on real ones: ``<folder>/<hospital>/<case>.nii.gz`` with the
mask beside it as ``<case>_mask.nii.gz``; the middle slice of each is used.

    python examples/unet_hospitals.py [folder]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedtl import FederatedFineTuner

SIZE = 32


class UNet(nn.Module):
    """A U-Net of two levels, from (n, 1, size, size) to scores of the same shape."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down1, self.down2 = block(1, width), block(width, 2 * width)
        self.bottom = block(2 * width, 4 * width)
        self.up2, self.up1 = block(6 * width, 2 * width), block(3 * width, width)
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Score every pixel."""
        one = self.down1(x)
        two = self.down2(functional.max_pool2d(one, 2))
        bottom = self.bottom(functional.max_pool2d(two, 2))
        up = self.up2(torch.cat([functional.interpolate(bottom, scale_factor=2), two], dim=1))
        return self.out(self.up1(torch.cat([functional.interpolate(up, scale_factor=2), one], 1)))


def block(n_in: int, n_out: int) -> nn.Module:
    """Two convolutions, each with a batch norm."""
    layers: list[nn.Module] = []
    for i in (n_in, n_out):
        layers += [nn.Conv2d(i, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers)


def synthetic(n: int, hospital: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scans of one hospital's scanner and masks of their lesions."""
    grid = np.arange(SIZE)
    center, radius = rng.uniform(8, SIZE - 8, (n, 2, 1, 1)), rng.uniform(3, 6, (n, 1, 1))
    distance = (grid[:, None] - center[:, 0]) ** 2 + (grid[None, :] - center[:, 1]) ** 2
    mask = (distance < radius**2).astype(np.float32)
    ramp = rng.uniform(-1, 1, (n, 1, 1)) * grid[None, :, None] / SIZE
    noise = rng.normal(scale=(0.3, 0.5, 0.7)[hospital], size=mask.shape)
    scan = (0.5, 2.0, 5.0)[hospital] * (mask + ramp + noise) + (0, 3, -4)[hospital]
    return scan[:, None].astype(np.float32), mask[:, None]


def from_nifti(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Middle slices of a hospital's scans, resized, and their masks."""
    import nibabel

    scans, masks = [], []
    for path in sorted(folder.glob("*_mask.nii*")):
        for kept, name in ((masks, path.name), (scans, path.name.replace("_mask", ""))):
            volume = np.asarray(nibabel.load(folder / name).dataobj, dtype=np.float32)
            piece = torch.from_numpy(volume[:, :, volume.shape[2] // 2])[None, None]
            kept.append(functional.interpolate(piece, (SIZE, SIZE))[0].numpy())
    return np.stack(scans), (np.stack(masks) > 0).astype(np.float32)


def load(arguments: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scans and masks of each hospital."""
    if arguments:
        return [from_nifti(path) for path in sorted(Path(arguments[0]).iterdir()) if path.is_dir()]
    rng = np.random.default_rng(0)
    return [synthetic(n, hospital, rng) for hospital, n in enumerate((60, 40, 40))]


def dice(mask: np.ndarray, scores: np.ndarray) -> float:
    """Twice the overlap over the sum of areas."""
    found = scores > 0
    return float(2 * (found * mask).sum() / (found.sum() + mask.sum()))


def main() -> None:
    """Compare hospitals alone with the federation, on scans that were held back."""
    hospitals = load(sys.argv[1:])
    train = [(scans[::2], masks[::2]) for scans, masks in hospitals]
    X, y = (np.concatenate(parts) for parts in zip(*train, strict=True))
    # The hospital of a scan must be known when it is segmented: by which model is its own affair.
    owner = np.repeat(np.arange(len(train)), [len(scans) for scans, _ in train])
    torch.manual_seed(0)
    network = UNet()
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(4.0))
    for name, params in {
        "each hospital alone": {"deploy": "local"},
        "one model, own batch norms": {"personal": ("batch_norm",)},
        "the best for each hospital": {"personal": ("batch_norm",), "deploy": "best"},
    }.items():
        tuner = FederatedFineTuner(
            network,
            criterion=loss,
            optimizer=torch.optim.Adam,
            lr=5e-3,
            batch_size=10,
            n_rounds=12,
            local_epochs=1,
            random_state=0,
            **params,
        ).fit(X, y, sample_party=owner)
        parts = [
            dice(masks[1::2], tuner.predict(scans[1::2], sample_party=[h] * len(scans[1::2])))
            for h, (scans, masks) in enumerate(hospitals)
        ]
        print(f"{name:28} Dice of lesions by hospital: {', '.join(f'{d:.3f}' for d in parts)}")


if __name__ == "__main__":
    main()
