"""The bundles that the examples are tried on."""

LOOSE = {"min_cosine": 0.0, "min_route_agreement": 0.0}  # random weights are harder to quantize than trained ones
KINDS = {
    "image-fp32": ("image", {}),
    "image-fp16-two-experts": ("image", {"precision": "fp16", "top_k": 2}),
    "image-int8": ("image", {"precision": "int8"}),
    "image-int8-two-experts": ("image", {"precision": "int8", "top_k": 2}),
    "image-int4": ("image", {"precision": "int4"}),
    "image-experts-int8-and-int4": ("measured", {"keep": 1.0}),
    "image-experts-int8-and-int4-two": ("measured", {"keep": 1.0, "top_k": 2}),
    "layer-fp32": ("layer", {}),
    "layer-int8": ("layer", {"precision": "int8"}),
    "folded": ("image", {"fold": "task1"}),
}
"""name -> merged model and options of the export"""
LOSSLESS = ("image-fp32", "layer-fp32", "folded")
