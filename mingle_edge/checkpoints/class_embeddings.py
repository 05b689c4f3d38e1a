"""Classification heads from class names: text embeddings of prompts, as zero-shot CLIP makes them (arXiv 2103.00020, 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.core.errors import CheckpointError, TaskFileError, shown

BATCH = 256  # prompts encoded at a time


@dataclass(frozen=True)
class TextTower:
    """A text tower with its tokenizer."""

    embed: Callable[[list[str]], Tensor]  # n prompts -> [n, dim], not normalized
    tokens: Callable[[str], list[int]]  # of one prompt, not cut short, with those of start and end
    context: int  # tokens that the tower reads
    tokenizer: str  # what messages call it

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Tensor:
        """Return text embeddings `[n, dim]` of `prompts`, not normalized.

        Raises:
            CheckpointError: a prompt has more tokens than the tower's context; cut short, classes could become equal.
        """
        for prompt in prompts:
            if (count := len(self.tokens(prompt))) > self.context:
                raise CheckpointError(
                    f"the prompt {shown(prompt)} has {count} tokens, the text tower reads {self.context}; shorten it"
                )
        return torch.cat([self.embed(prompts[i : i + BATCH]) for i in range(0, len(prompts), BATCH)])


def class_embeddings(text_tower: TextTower, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return the head `[classes, dim]`: per class the mean of its prompts' unit embeddings, scaled to unit length.

    `{}` in a template stands for the class name.

    Raises:
        TaskFileError: the tokenizer makes the same tokens of two classes; CLIP's knows no capital letters, takes several
            spaces for one and an HTML entity for its character.
        CheckpointError: see `TextTower.encode`.
    """
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    tokens = [tuple(text_tower.tokens(prompt)) for prompt in prompts]
    known: dict[tuple[tuple[int, ...], ...], str] = {}
    for number, name in enumerate(classes):
        of_class = tuple(tokens[number * len(templates) : (number + 1) * len(templates)])
        if (other := known.setdefault(of_class, name)) is not name:
            raise TaskFileError(
                f"the classes {other!a} and {name!a} are the same tokens to {text_tower.tokenizer}, so nothing could "
                "ever be told to be the second; give names that differ, or a head"
            )
    embeddings = F.normalize(text_tower.encode(prompts), dim=-1)
    per_class = embeddings.reshape(len(classes), len(templates), -1)
    return F.normalize(per_class.mean(dim=1), dim=-1)
