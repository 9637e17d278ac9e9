"""Charts as SVG: numbers in, a picture out. See sixfold.drawing.svg_document for what all pictures share."""
