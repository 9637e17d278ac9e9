"""What a model sees with, as llama.cpp's files beside the language model hold it: towers and projectors.

An entry in `families.py` declares a kind of projector; nothing else here knows of a family.
"""
