"""Export a merged model to a bundle that any ONNX Runtime from 1.20 on can run.

from mingle_edge_export import export_bundle

report = export_bundle("merged", "bundle")
print(report.parity.cosine, sum(report.files.values()))
"""

from mingle_edge_export.bundle.writer import ExportReport, export_bundle
from mingle_edge_export.check.parity import Parity
from mingle_edge_export.errors import ExportError, OptionError, OutputError, ParityError

__all__ = ["ExportError", "ExportReport", "OptionError", "OutputError", "Parity", "ParityError", "export_bundle"]
