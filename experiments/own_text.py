"""A small model of your own text files; minutes to an hour on a CPU.

cola-jax train --config "own_text:vae,notes/*.txt" --workdir runs/notes/vae
cola-jax train --config "own_text:joint,notes/*.txt,runs/notes/vae" --workdir runs/notes/joint
cola-jax generate --workdir runs/notes/joint --prompt "It was"

Text VAE 2.6 M parameters, DiT 9.6 M; about 0.2 GFLOPs per token in stage 2, forward and backward.
"""

from pathlib import Path

from cola_jax import config
from experiments._arguments import paths_of


def get_config(arg: str | None = None):
    """arg: "vae,FILES", "joint,FILES,STAGE_1_WORKDIR", or "joint,FILES" from scratch.

    FILES are files, folders or globs separated by commas. With several of them and no stage 1, end with a comma.
    """
    stage, *files = (arg or "").split(",")
    vae_from = files.pop() if stage == "joint" and len(files) > 1 else ""
    if stage not in ("vae", "joint") or not files or not all(files):
        raise config.ConfigError(f"own_text:{arg}: give own_text:vae,FILES or own_text:joint,FILES,STAGE_1_WORKDIR")
    if Path(vae_from).is_file():
        raise config.ConfigError(f"own_text:{arg}: the last part is the stage 1 workdir, but {vae_from} is a file")
    c = config.base()
    c.data.sources[0].update(kind="text", path=paths_of(files))
    return small(c, stage, vae_from)


def small(c, stage: str, vae_from: str):
    """Sizes and recipe for a corpus of one or two megabytes."""
    c.data.update(packing="concat", heldout_fraction=0.05)
    c.tokenizer.update(vocab_size=2048)
    c.vae.update(
        vocab_size=2048,
        dim=192,
        ffn_dim=576,
        num_heads=6,
        encoder_blocks=2,
        decoder_blocks=2,
        latent_dim=16,
        block_size=1,
    )
    c.vae.block.update(init_std=0.05)
    c.train.update(batch_size=16, sequence_length=128, log_every=50, eval_every=500, eval_batches=4, plot_every=500)
    c.checkpoint.update(every=500, keep_last=2)
    c.compute.update(attention_chunks=2, cross_entropy_chunk=128)
    c.optimizer.update(learning_rate=1e-3, initial_learning_rate=1e-5, final_learning_rate=1e-4, warmup_steps=200)
    c.family = "text_vae" if stage == "vae" else "cola"
    c.train.steps = 1000 if stage == "vae" else 4000
    c.optimizer.decay_steps = c.train.steps
    if stage == "joint":
        c.dit.update(dim=256, num_layers=8, num_heads=4, head_dim=64, block_size=16, rope_dim=48)
        c.sampling.update(guidance=2.0, max_new_tokens=64)
        config.start_from(c, vae_from)
        c.objective.update(reference_weight=0.1 if vae_from else 0.0)  # ours: see tinyworld.py for what happens without
    return c
