"""MINGLE as its paper's code runs it, written a second time: merged weights materialised in every forward, float64 throughout.

Only what decides random draws is shared with the package (which seeds make a batch, where a gate starts). `parts` says how much
of the method runs, as the paper's ablation takes it apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mingle_edge.data.calibration_images import task_generator


class GatedLayer(nn.Module):
    """One linear layer with an expert and a gate per task."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = weight.double(), None if bias is None else bias.double()
        self.experts, self.gates = [], []  # matrices B A; (weight, bias)
        self.only = None  # the one task in use, if not all
        self.basis = None  # [d_in, m], orthonormal columns
        self.inputs = None  # recorded where a list

    def forward(self, x):
        if self.inputs is not None:
            self.inputs.append(x.detach().flatten(0, 1))
        merged = self.weight
        for t, (expert, (w, b)) in enumerate(zip(self.experts, self.gates, strict=True)):
            if self.only in (None, t):
                merged = merged + (x @ w + b).mean() * expert  # over tokens and images
        return F.linear(x, merged, self.bias)


class OfficialTower(nn.Module):
    """CLIP's vision transformer of gated layers, by the package's names of parameters."""

    def __init__(self, parameters, architecture):
        super().__init__()
        self.p = {name: tensor.double() for name, tensor in parameters.items()}
        self.a = architecture
        self.linears = {}
        for layer in architecture.linear_layers():
            self.linears[layer] = GatedLayer(parameters[f"{layer}.weight"], parameters.get(f"{layer}.bias"))

    def norm(self, x, name):
        return F.layer_norm(x, (self.a.width,), self.p[f"{name}.weight"], self.p[f"{name}.bias"], self.a.layer_norm_eps)

    def forward(self, images):
        a, n = self.a, len(images)
        patches = F.unfold(images.double(), a.patch_size, stride=a.patch_size).transpose(1, 2)
        x = self.linears["patch_embedding"](patches)
        x = self.norm(torch.cat([self.p["class_token"].expand(n, 1, -1), x], 1) + self.p["positions"], "ln_pre")
        for i in range(a.layers):
            at = f"blocks.{i}"
            y = self.norm(x, f"{at}.ln_1")
            q, k, v = (self.linears[f"{at}.{name}"](y).unflatten(2, (a.heads, -1)) for name in "qkv")
            scores = torch.einsum("bihd,bjhd->bhij", q, k) / (a.width // a.heads) ** 0.5
            mixed = torch.einsum("bhij,bjhd->bihd", scores.softmax(3), v).flatten(2)
            x = x + self.linears[f"{at}.out"](mixed)
            y = self.linears[f"{at}.fc1"](self.norm(x, f"{at}.ln_2"))
            x = x + self.linears[f"{at}.fc2"](y * torch.sigmoid(1.702 * y))
        return F.normalize(self.linears["projection"](self.norm(x[:, 0], "ln_post")[:, None])[:, 0], dim=-1)


class OfficialMingle:
    """Merges one task after another; `embed` answers for a batch."""

    def __init__(self, backbone, architecture, logit_scale, *, rank, layers, steps, lr, batch, gamma, parts):
        self.tower = OfficialTower(backbone, architecture)
        self.architecture, self.scale = architecture, logit_scale
        self.rank, self.steps, self.lr, self.batch, self.gamma, self.parts = rank, steps, lr, batch, gamma, parts
        self.carrying = {
            name: layer
            for name, layer in self.tower.linears.items()
            if name.startswith("blocks") and name.split(".")[2] in layers
        }

    def add(self, name, finetuned, head, seeds):
        head = head.double()
        for key, layer in self.carrying.items():
            layer.experts.append(self.expert(finetuned[f"{key}.weight"].double() - layer.weight, layer.experts))
            if self.parts == "experts":
                start, bias = torch.zeros(layer.weight.shape[1]), 0.3
            else:
                draw = torch.randn(1, layer.weight.shape[1], generator=task_generator(0, name, key))
                start, bias = 0.01 * draw[0], 0.0
            layer.gates.append((start.double(), torch.tensor(bias, dtype=torch.float64)))
        if self.parts == "experts":
            return
        with torch.no_grad():
            targets = OfficialTower(finetuned, self.architecture)(seeds) @ head.T * self.scale
        self.adapt(name, head, seeds, targets)
        if self.parts == "null-space":
            self.protect(seeds)

    def expert(self, delta, earlier):
        if earlier:
            U, S, Vh = torch.linalg.svd(sum(earlier))
            share = S[S / S[0] > 1e-12] / S.sum()
            a = int(torch.exp(-(share * share.log()).sum()))
            P = U.T @ delta @ Vh.T
            P[:a, :a] = 0
            delta = U @ P @ Vh
        U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
        return U[:, : self.rank] @ torch.diag(S[: self.rank]) @ Vh[: self.rank]

    def adapt(self, name, head, seeds, targets):
        trained = [layer.gates[t] for layer in self.carrying.values() for t in self.trained(layer)]
        for weight, bias in trained:
            weight.requires_grad_(True), bias.requires_grad_(True)
        optimizer = torch.optim.Adam([tensor for gate in trained for tensor in gate], lr=self.lr)
        average = dict.fromkeys(self.carrying, 0.0)
        generator, order = task_generator(0, name, "batches"), []
        for _ in range(self.steps):
            order = order or torch.randperm(len(seeds), generator=generator).tolist()
            chosen, order = order[: self.batch], order[self.batch :]
            logits = self.tower(seeds[chosen]) @ head.T * self.scale
            wanted = (targets[chosen] / 2).softmax(1)
            optimizer.zero_grad()
            (-(wanted * (logits / 2).log_softmax(1)).sum() / len(chosen)).backward()
            for key, layer in self.carrying.items():
                if self.parts == "null-space" and layer.basis is not None:
                    g, U = layer.gates[-1][0].grad, layer.basis
                    average[key] = 0.99 * average[key] + 0.01 * (g @ U).abs() / g.norm()
                    layer.gates[-1][0].grad = g - ((g @ U) * torch.exp(-self.gamma * average[key])) @ U.T
            optimizer.step()
        for weight, bias in trained:
            weight.requires_grad_(False), bias.requires_grad_(False)

    def trained(self, layer):
        return range(len(layer.gates)) if self.parts == "adaptation" else [len(layer.gates) - 1]

    def protect(self, seeds):
        for layer in self.carrying.values():
            layer.inputs = []
        for start in range(0, len(seeds), self.batch):
            self.embed(seeds[start : start + self.batch])
        for layer in self.carrying.values():
            X = torch.cat(layer.inputs)
            leading = torch.linalg.eigh(X.T @ X).eigenvectors[:, [-1, -2, -3]]
            columns = leading if layer.basis is None else torch.cat([layer.basis, leading], 1)
            layer.basis, layer.inputs = torch.linalg.qr(columns).Q, None

    @torch.no_grad()
    def embed(self, images, only=None):
        for layer in self.carrying.values():
            layer.only = only
        embeds = self.tower(images)
        for layer in self.carrying.values():
            layer.only = None
        return embeds
