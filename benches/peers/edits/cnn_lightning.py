"""cnn.py's training as a LightningModule: python cnn_lightning.py power|binsearch."""

import sys

import lightning
import torch
import torch.nn.functional as F
from cnn import CNN, Shapes
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader


class Training(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.pictures = Shapes(6000, 32, augment=True, seed=1)
        self.model = CNN()
        self.batch_size = 128

    def train_dataloader(self):
        return DataLoader(self.pictures, self.batch_size, shuffle=True, drop_last=True)

    def training_step(self, batch):
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(
            self.model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True
        )


training = Training()
trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, logger=False)
Tuner(trainer).scale_batch_size(training, mode=sys.argv[1])
print("batch size", training.batch_size)
