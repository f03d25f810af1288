"""Small models of the usual kinds: what is looked for in them is known by construction."""

import torch
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """The head is registered first, so that registration and execution differ."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)
        self.layer1 = nn.Sequential(Residual(4, 4), Residual(4, 4))
        self.layer2 = nn.Sequential(Residual(4, 8))
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4)

    def forward(self, x):
        x = self.layer2(self.layer1(self.norm(self.stem(x))))
        return self.fc(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x):
        y = self.ln1(x)
        x = x + self.gamma * self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln2(x))


class ViT(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.patch = nn.Conv2d(1, width, 4, 4)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, 5, width))
        self.blocks = nn.ModuleList([Attention(width) for _ in range(3)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.patch(x).flatten(2).mT
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class GPT(nn.Module):
    """The head is tied to the embedding: as a layer, or as a product with its table."""

    def __init__(self, width=8, words=11, tied="layer"):
        super().__init__()
        self.tied = tied
        self.tokens, self.places = nn.Embedding(words, width), nn.Embedding(6, width)
        self.blocks = nn.ModuleList([Attention(width) for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        if tied == "layer":
            self.lm_head = nn.Linear(width, words, bias=False)
            self.lm_head.weight = self.tokens.weight

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.lm_head(x) if self.tied == "layer" else x @ self.tokens.weight.T


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 5, num_layers=2, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, tokens):
        return self.out(self.lstm(self.tokens(tokens))[0][:, -1])


def make_case(name):
    """A model by name, and inputs for it."""
    torch.manual_seed(0)
    images, tokens = torch.randn(4, 1, 8, 8), torch.randint(11, (4, 6))
    if name in ("resnet", "vit"):
        return (ResNet() if name == "resnet" else ViT()), images
    kinds = {"gpt": GPT, "gpt by product": lambda: GPT(tied="product"), "lstm": Recurrent}
    return kinds[name](), tokens


CASES = ("resnet", "vit", "gpt", "gpt by product", "lstm")
