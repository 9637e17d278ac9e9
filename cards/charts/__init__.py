"""Charts as SVG: numbers in, a picture out. See sixfold.drawing for what all pictures share."""
