"""Section `build` of a role: a small start model and its training."""

from targetsft_jax.data.config import SyntheticConfig
from targetsft_jax.keys import at_least, key, more_than, section


@section
class BuildConfig:
    """A small start model, trained once by plain SFT on synthetic problems and cached.

    Random initial weights, byte tokenizer.
    """

    hidden_size: int = key(256, "Hidden size.", at_least(1, 2**14))
    intermediate_size: int = key(512, "Hidden size of the MLP.", at_least(1, 2**16))
    num_layers: int = key(2, "Decoder layers.", at_least(1, 256))
    num_heads: int = key(8, "Query heads.", at_least(1, 2**10))
    num_kv_heads: int = key(4, "Key and value heads.", at_least(1, 2**10))
    data: SyntheticConfig = key(SyntheticConfig, "Synthetic training problems.")
    max_length: int = key(256, "Tokens per row.", at_least(2, 4096))
    steps: int = key(300, "Optimizer steps of plain SFT.", at_least(1, 10**7))
    batch_size: int = key(32, "Rows per optimizer step.", at_least(1, 2**20))
    learning_rate: float = key(1.5e-3, "Peak learning rate.", more_than(0, 100))
    seed: int = key(
        1, "Seed of the initial weights and of the data order.", at_least(0)
    )
