"""Export a merged model to a bundle that any ONNX Runtime from 1.20 on can run.

    from mingle_edge_export import ExportOptions, export_bundle

    report = export_bundle("merged", "bundle", ExportOptions(precision="fp16", top_k=2))
    print(report.parity.cosine, sum(report.files.values()))

A `ParityError` or an `AccuracyError` shows how far the result would be from PyTorch; nothing is written then.
"""

from mingle_edge_export.errors import AccuracyError, ExportError, OptionError, OutputError, ParityError
from mingle_edge_export.export import export_bundle
from mingle_edge_export.options import ExportOptions
from mingle_edge_export.report import ExportReport, PairedAccuracy, Parity, PartParity, TaskAccuracy

__all__ = [
    "AccuracyError",
    "ExportError",
    "ExportOptions",
    "ExportReport",
    "OptionError",
    "OutputError",
    "PairedAccuracy",
    "Parity",
    "ParityError",
    "PartParity",
    "TaskAccuracy",
    "export_bundle",
]
