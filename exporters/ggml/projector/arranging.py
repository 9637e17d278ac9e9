"""What the file holds of a tensor on disk: whole, in parts, or in another order."""

from collections.abc import Sequence

from exporters.ggml.projector.entry import NotRun, Seeing, Step
from exporters.ggml.tensors import Tensor
from sixfold.checkpoint.checkpoint import SourceTensor


def whole(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    if not part.shape:
        return [Tensor(name, (1,), (part.name,), "scalar")]
    return [Tensor(name, part.shape, (part.name,))]


def one_added(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    return [Tensor(name, part.shape, (part.name,), "plus_one")]


def softened(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    return [Tensor(name, part.shape, (part.name,), "softplus")]


def squeezed(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    """[C, 1, K] as [C, K]."""
    return [Tensor(name, (part.shape[0], part.shape[-1]), (part.name,), "squeeze")]


def frames(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    """A convolution over two frames [R, C, 2, H, W] as one for each. Raises NotRun for another number."""
    rows, colors, count, *sides = part.shape
    if count != 2:
        raise NotRun(f"{part.name} looks at {count} frames at a time, and llama.cpp's towers at 2")
    return [
        Tensor(name if frame == 0 else f"{name}.{frame}", (rows, colors, *sides), (part.name,), f"frame:{frame}")
        for frame in range(count)
    ]


def thirds(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    """Queries, keys and values, which lie behind each other in one, as three."""
    rows = part.shape[0] // 3
    return [
        Tensor(
            name.replace("attn_qkv", f"attn_{letter}"),
            (rows, *part.shape[1:]),
            (part.name,),
            part=(number * rows, (number + 1) * rows),
        )
        for number, letter in enumerate("qkv")
    ]


def gate_and_up(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    """A gate and what it lets through, which lie behind each other in one, as two."""
    rows, *columns = part.shape[0] // 2, *part.shape[1:]
    return [
        Tensor(
            name.replace("ffn_gate", f"ffn_{half}"), (rows, *columns), (part.name,), part=(n * rows, n * rows + rows)
        )
        for n, half in enumerate(("gate", "up"))
    ]


def rotated(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    """Rows of queries or keys that turn together next to each other, as llama.cpp's "llama" has them."""
    size = part.shape[0] // seeing.tower["num_attention_heads"]
    return [Tensor(name, part.shape, (part.name,), f"rope:{size}", size)]


def two_axes(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    """Rows of queries and keys that turn along one axis of the picture before those of the other."""
    size = part.shape[0] // 3 // seeing.tower["num_attention_heads"]
    return [Tensor(name, part.shape, (part.name,), f"quarters:{size}", part.shape[0])]


def three_axes(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    """Rows of queries or keys that turn along one axis together, the axes (time, height, width) behind each other."""
    size = part.shape[0] // seeing.tower["num_attention_heads"]
    return [Tensor(name, part.shape, (part.name,), f"axes:{size}:{size // 2 * 2 // 3 // 2}", size)]


def patches(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    """A matrix over the colors of a patch's pixels as the convolution that it is."""
    side = int((part.shape[1] // 3) ** 0.5)
    return [Tensor(name, (part.shape[0], 3, side, side), (part.name,), f"patches:{side}")]


def second_row_on(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    """Positions without that of a class token, which the first is."""
    rows = part.shape[0]
    return [Tensor(name, (rows - 1, *part.shape[1:]), (part.name,), part=(1, rows))]


def column(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    """[C] as [C, 1]."""
    return [Tensor(name, (*part.shape, 1), (part.name,))]


def joined(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    """[H, W, C] as [H * W, C]."""
    height, width, channels = part.shape
    return [Tensor(name, (height * width, channels), (part.name,), "joined")]


def by_axis(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    """[N, A, C] as [A, N, C]."""
    count, axes, width = part.shape
    return [Tensor(name, (axes, count, width), (part.name,), "by_axis", count)]


def colors_apart(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    """What is last the colors of a patch's pixels by turns, color behind color."""
    side = int((part.shape[-1] // 3) ** 0.5)
    whole = part.shape[0] if len(part.shape) == 1 else 1
    return [Tensor(name, part.shape, (part.name,), f"colors:{side}", whole)]


def unflattened(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
    """A matrix over a patch's pixels, color behind color, as the convolution that it is."""
    side = int((part.shape[1] // 3) ** 0.5)
    return [Tensor(name, (part.shape[0], 3, side, side), (part.name,))]


def token(text: str) -> Step:
    """The row of the embeddings that is the token's. Raises NotRun where the tokenizer does not have it."""

    def row(seeing: Seeing, name: str, part: SourceTensor) -> Sequence[Tensor]:
        number = seeing.token(text)
        if number is None or not 0 < number < part.shape[0]:
            raise NotRun(f"the tokenizer has no {text}, which llama.cpp puts between the rows of a picture")
        return [Tensor(name, part.shape[1:], (part.name,), "row", part=(number, number + 1))]

    return row
