"""The ways of training that are timed: ours, and the loops that people write."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from wbcli import device as devices
from wbcli.config.settings import Config
from wbcli.data.batches.memory import Batches
from wbcli.data.batches.splits import Data
from wbcli.data.datasets import Dataset, Split
from wbcli.data.pictures import decoding
from wbcli.methods.make import for_run
from wbcli.models import networks
from wbcli.training.fit import fit, make_optimizer
from wbcli.training.optimizers import slowed

OURS = "wbcli"


class Ours:
    """`fit.fit`, as `wbcli stage1` calls it."""

    def __init__(self, split: Split, dataset: Dataset, config: Config, device: torch.device):
        devices.prepare(device, config.precision, config.seed, config.deterministic)
        self.network = networks.for_run(config, dataset.num_classes)
        self.network.to(device, memory_format=torch.channels_last)
        method = for_run(config, self.network, dataset.class_counts).to(device)
        groups = slowed(method.groups(), self.network, config.backbone_lr_factor)
        optimizer = make_optimizer(groups, [], config)
        batches = Batches(split, dataset.source, config.batch_size, device)
        if config.compile:
            self.network.compile()
        self.epochs = fit(method, Data(batches), optimizer, config)

    def epoch(self, number: int) -> None:
        next(self.epochs)


class PlainTensors:
    """A good plain loop: normalised tensors on the device, crops by indexing, no waiting."""

    def __init__(self, split: Split, dataset: Dataset, config: Config, device: torch.device):
        torch.manual_seed(config.seed)
        devices.set_float32(config.precision)
        torch.backends.cudnn.benchmark = True
        self.network = networks.for_run(config, dataset.num_classes)
        self.network.to(device, memory_format=torch.channels_last)
        self.config, source = config, dataset.source
        mean, std = (torch.tensor(x)[:, None, None] for x in (source.mean, source.std))
        images = (torch.from_numpy(split.images).float() / 255 - mean) / std
        self.padding, self.flip = source.padding, source.flip
        self.images = F.pad(images, (source.padding,) * 4).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self.height, self.width = split.images.shape[2:]
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.wd,
            fused=True,
        )

    def epoch(self, number: int) -> None:
        self.network.train()
        device, size = self.labels.device, len(self.labels)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr_at(number)
        loss_sum = torch.zeros((), device=device)
        for index in torch.randperm(size, device=device).split(self.config.batch_size):
            with devices.autocast(device, self.config.precision):
                logits = self.network(self.augmented(index))
            loss = F.cross_entropy(logits.float(), self.labels[index])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.detach()
        loss_sum.item()

    def augmented(self, index: Tensor) -> Tensor:
        device, shape = index.device, (2, len(index), 1)
        top, left = torch.randint(0, 2 * self.padding + 1, shape, device=device)
        rows = top + torch.arange(self.height, device=device)
        columns = left + torch.arange(self.width, device=device)
        if self.flip:
            mirrored = torch.rand(len(index), 1, device=device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        channels = torch.arange(self.images.shape[1], device=device)
        return self.images[
            index[:, None, None, None],
            channels[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]


class PublishedStyle:
    """As in the released code: Pillow picture by picture, and a read of the loss in every step."""

    def __init__(self, split: Split, dataset: Dataset, config: Config, device: torch.device):
        from torchvision import transforms

        torch.manual_seed(config.seed)
        devices.set_float32(config.precision)
        self.network = networks.for_run(config, dataset.num_classes).to(device)
        self.config, self.device, source = config, device, dataset.source
        steps = [transforms.RandomCrop(split.images.shape[2:], padding=source.padding)]
        steps += [transforms.RandomHorizontalFlip()] * source.flip
        steps += [transforms.ToTensor(), transforms.Normalize(source.mean, source.std)]
        workers = decoding.workers_to_use()
        self.loader = DataLoader(
            _PillowImages(split, transforms.Compose(steps)),
            config.batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,  # kinder than the released code
            # A process that was spawned would spawn these, too, which takes seconds for each.
            multiprocessing_context="fork" if workers else None,
        )
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.wd,
        )

    def epoch(self, number: int) -> None:
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr_at(number)
        loss_sum, hits = 0.0, 0
        for images, labels in self.loader:
            images, labels = images.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            with devices.autocast(self.device, self.config.precision):
                logits = self.network(images)
            loss = F.cross_entropy(logits.float(), labels)
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.item() * len(labels)
            hits += (logits.argmax(1) == labels).sum().item()


class _PillowImages(torch.utils.data.Dataset):
    def __init__(self, split: Split, transform: Callable):
        self.arrays = np.ascontiguousarray(split.images.transpose(0, 2, 3, 1))
        self.labels, self.transform = split.labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int):
        from PIL import Image

        return self.transform(Image.fromarray(self.arrays[i].squeeze())), int(self.labels[i])


WAYS = {OURS: Ours, "plain tensors": PlainTensors, "published style": PublishedStyle}
