"""The demo: both stages on stories of a small world; minutes on two CPU cores.

cola-jax demo                                            both stages and the report
cola-jax train --config tinyworld:vae --workdir W        stage 1 alone
cola-jax train --config tinyworld:joint,W --workdir W2   stage 2 from the stage 1 workdir W

Text VAE 0.24 M parameters, DiT 1.29 M. Suited to a few minutes of training: many small batches at a large learning
rate, Muon, which learns to retrieve facts from a story in fewer steps than AdamW, and blocks of one latent: the words of
a longer block are drawn at once, and a small DiT takes long to learn which of them go together. The reference term
keeps the latents near those of stage 1: without it the flow matching loss, whose gradient reaches the encoder, makes
them nearly one constant vector or lets their noise vanish, both easy to predict and hard to decode.
"""

from cola_jax import config


def get_config(arg: str | None = None):
    """arg: "vae", or "joint,STAGE_1_WORKDIR"; "joint" alone starts from scratch."""
    stage, _, vae_from = (arg or "joint").partition(",")  # a workdir may have a comma in its name
    if stage not in ("vae", "joint") or (stage == "vae" and vae_from):
        raise config.ConfigError(f"tinyworld:{arg}: the argument is vae, joint or joint,STAGE_1_WORKDIR")
    c = config.base()
    c.data.update(packing="best_fit", generated_documents=20_000, heldout_documents=500)
    c.tokenizer.update(vocab_size=640, training_documents=2000)
    c.vae.update(
        vocab_size=640,
        dim=64,
        ffn_dim=192,
        num_heads=2,
        encoder_blocks=2,
        decoder_blocks=2,
        latent_dim=16,
        block_size=1,
    )
    c.vae.block.update(init_std=0.05)
    c.train.update(sequence_length=48, eval_batches=8, plot_every=0)
    c.checkpoint.update(keep_last=2, every_minutes=1.0)
    c.compute.update(cross_entropy_chunk=48, attention_chunks=1, scan_layers=False)
    c.optimizer.update(initial_learning_rate=1e-5, final_learning_rate=1e-4, warmup_steps=100)
    if stage == "vae":
        c.family = "text_vae"
        c.train.update(batch_size=32, steps=200, log_every=50, eval_every=200)
        c.checkpoint.every = 200
        c.optimizer.update(learning_rate=2e-3, decay_steps=250)
    else:
        c.family = "cola"
        c.dit.update(dim=128, num_layers=4, num_heads=4, head_dim=32, block_size=1, rope_dim=32)
        c.sampling.update(guidance=3.0, repetition_penalty=1.0, max_new_tokens=48)
        c.train.update(batch_size=8, steps=6500, log_every=100, eval_every=2500)
        c.checkpoint.every = 2500
        c.optimizer.update(name="muon", learning_rate=1e-2, decay_steps=6500, weight_decay=0.1)
        config.start_from(c, vae_from)
        c.objective.update(vae_lr_ratio=0.3, mask_weight=0.0, reference_weight=0.03 if vae_from else 0.0)
        c.flow.update(timestep_loc=0.7, known_prefix_probability=0.0)
    return c
