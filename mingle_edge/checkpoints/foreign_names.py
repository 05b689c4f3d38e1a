"""Names of tensors that belong to no vision tower as mingle-edge runs it: what they are, and the way on."""

from __future__ import annotations

import re
from collections.abc import Iterable

_MERGED = (
    "merge it into its model first: PeftModel.from_pretrained(model, FOLDER).merge_and_unload().save_pretrained(NEW_FOLDER)"
)

# What a file without a vision tower is, by a name in it. The first that matches is said.
_FILES: tuple[tuple[str, str], ...] = (
    (r"lora_unet_|lora_te\d?_|lora_transformer_", "looks like a LoRA for diffusion models; name a fine-tuned CLIP model"),
    (r"^base_model\.model\.|\.lora_[AB]\.|\.lora_(up|down)\.", f"looks like a PEFT adapter, which holds no weights; {_MERGED}"),
    (r"(^|\.)(qweight|qzeros|quant_state|absmax|SCB)(\.|$)", "holds quantized weights; use the model before quantization"),
    (r"(^|\.)diffusion_model\.|(^|\.)down_blocks\.|(^|\.)up_blocks\.", "looks like a diffusion model, not an image encoder"),
    (r"(^|\.)visual\.(layer1|attnpool|stem)\.", "looks like a CLIP whose image encoder is a ResNet; use a vision transformer"),
    (r"(^|\.)layer1\.0\.conv1\.", "looks like a ResNet; use a vision transformer"),
    (
        r"(^|\.)stages\.\d+\.blocks\.|(^|\.)layers\.\d+\.blocks\.\d+\.",
        "looks like a ConvNeXt or Swin; use a plain vision transformer",
    ),
    (r"(^|\.)lm_head\.|(^|\.)embed_tokens\.|(^|\.)wte\.", "looks like a language model, without an image encoder"),
    (
        r"(^|\.)(token_embedding|word_embeddings|text_projection)\b",
        "looks like a text tower alone; name the whole model, or its vision tower",
    ),
    (
        r"(^|\.)patch_embed\.",
        "looks like a vision transformer of timm or DINOv2 alone; timm's are read as the trunk of an open_clip model, "
        "whose names begin with visual.trunk.",
    ),
    (
        r"(^|\.)patch_embeddings?\.",
        "looks like a vision transformer of transformers that is none of CLIP, SigLIP, ViT, DeiT and DINOv2; use one of these",
    ),
    (
        r"(^|\.)(exp_avg|momentum_buffer|param_groups|exp_avg_sq)(\.|$)",
        "looks like the state of an optimizer; name the file of the model that was saved beside it",
    ),
    (
        r"^(weight|bias|classification_head\..*|classifier\..*|fc\..*|head\.(weight|bias))$",
        "looks like a head alone; name the file of the image encoder, and give this one as the task's head",
    ),
    (
        r"^c\d+$|^CONSTANTS\.",
        "looks like a frozen TorchScript program, whose weights have lost their names; use one not frozen",
    ),
)

# What changes an image's embedding beside a plain tower, by a name outside of it or one in it that no parameter has.
_CHANGES: tuple[tuple[str, str], ...] = (
    (r"lora_|\bloha_|hada_w|lokr_|\bia3_|\boft_|\bboft_|\bvera_|\bbase_layer\.", "LoRA"),
    (r"adapter|adaptmlp|\bssf_(scale|shift)|\bside_network", "an adapter"),
    (r"\bvpt|(visual|vision|vis|image|deep|compound)_prompt|ctx_vision|prompt_embeddings", "visual prompts"),
)
_TEXT = re.compile(r"(^|\.)(text|text_model|text_encoder|text_projection|prompt_learner\.ctx|language_model)(\.|_|$)")
_STEPS = {
    "LoRA": "merge it into the weights first (PEFT: model.merge_and_unload()), and save the result",
    "an adapter": "mingle-edge runs the plain tower, so this model's embeddings would not be its own; train without it",
    "visual prompts": "mingle-edge runs the plain tower, so this model's embeddings would not be its own; train without them",
}


def foreign_names(names: Iterable[str]) -> str:
    """Say what a file is whose names hold no vision tower, with the way on, to follow its path; empty where unknown."""
    names = list(names)
    for pattern, said in _FILES:
        if any(re.search(pattern, name) for name in names):
            return said
    return ""


def changes_embedding(names: Iterable[str]) -> tuple[str, str, str] | None:
    """Find a name beside those of a plain tower that says the image's embedding is another than the plain tower's.

    Returns:
        the name, what it is, and the way on; None where there is none. Names of a text tower change nothing for images.
    """
    for name in names:
        for pattern, what in _CHANGES:
            if re.search(pattern, name, re.IGNORECASE) and not _TEXT.search(name):
                return name, what, _STEPS[what]
    return None
