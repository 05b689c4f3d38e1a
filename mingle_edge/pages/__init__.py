"""The HTML pages of `profile` and `compare`: jinja2 templates around Vega-Lite charts, from the extra `report`.

A page is one file that runs no script and loads nothing, is readable at 360 pixels, and follows the reader's light or dark
scheme. Importing this package loads neither torch nor ONNX.
"""
