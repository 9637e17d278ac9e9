"""The file that llama.cpp sees with, stated from llama.cpp's own sources (tools/mtmd/clip-impl.h and clip.cpp)."""
