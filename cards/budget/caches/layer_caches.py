"""What a decoder layer keeps of the tokens it has seen: the kinds of caches there are, each with its sizes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class KeysValues:
    """A key of `key` and a value of `value` numbers for each of `heads` KV heads and each token (MHA, GQA, MQA).

    window: tokens that are looked back on, this one included; None for all. chunked: the window does not slide but
    restarts every `window` tokens (Llama 4).
    """

    heads: int
    key: int
    value: int
    window: int | None = None
    chunked: bool = False

    @property
    def numbers(self) -> int:
        return self.heads * (self.key + self.value)


@dataclass(frozen=True)
class Latent:
    """One vector of `rank` + `rope` numbers a token, which all heads share (multi-head latent attention).

    sparse: an indexer chooses which of them are looked at; engines lay those out differently in FP8.
    """

    rank: int
    rope: int
    sparse: bool = False


@dataclass(frozen=True)
class IndexKeys:
    """One key of `width` numbers a token, by which an indexer chooses what the attention looks at.

    of_latent: DeepSeek's indexer beside a latent, which vLLM and SGLang keep in FP8 with a float32 scale for every 128;
    otherwise MiniMax-M3's, kept as the model computes.
    """

    width: int
    of_latent: bool


@dataclass(frozen=True)
class Compressed:
    """DeepSeek-V4: one vector of `width` numbers is key and value at once; those of the last `window` tokens as they
    are, and one for every `ratio` tokens of all (0: none). index: numbers of the key that an indexer keeps for each
    compressed vector, 0 without an indexer."""

    width: int
    window: int
    ratio: int
    index: int


@dataclass(frozen=True)
class State:
    """A state of constant size for each sequence, whatever its length (Mamba, linear attention, short convolution).

    kind: its name for people. heads: of the recurrent state, over which tensor parallelism divides it; 0 where there is
    a convolution alone. recurrent: numbers of the recurrent state.
    rows: past inputs that the convolution keeps, its kernel without the present one. channels: numbers of such an
    input, but for those of groups. groups, group_width: Mamba-2's B and C, whose groups tensor parallelism copies
    rather than splits. dtype: of the recurrent state where the model prescribes it, "" otherwise.
    """

    kind: str
    heads: int
    recurrent: int
    rows: int
    channels: int
    groups: int = 0
    group_width: int = 0
    dtype: str = ""

    def convolution(self, tensor_parallel: int = 1) -> int:
        """Numbers of the convolution's state on one of so many devices (extra_groups_for_head_shards in vLLM)."""
        groups = self.groups if self.groups % tensor_parallel == 0 else tensor_parallel
        return self.rows * (self.channels + groups * self.group_width) // tensor_parallel


Cache = KeysValues | Latent | IndexKeys | Compressed | State
Layer = tuple[Cache, ...]
"""All that one layer keeps; () for one without attention, or one that reads another layer's cache."""
