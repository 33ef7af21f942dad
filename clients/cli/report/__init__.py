"""The report of a search: best.onnx with a loader and a card, report.md, report.json and the growth plot."""
