"""Fields of a published config.json that do not affect the model's output."""

from __future__ import annotations

# Ids of special tokens, generation defaults of other programs, and metadata about the file.
BOOKKEEPING = {
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "_flash_attn_2_enabled",
    "architectures", "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "cls_token_id", "decoder_start_token_id",
    "diversity_penalty", "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label",
    "is_llama_config", "keys_to_ignore_at_inference", "label2id", "length_penalty", "max_length", "max_position_embeddings",
    "max_sequence_length", "min_length", "model_max_length", "model_type", "name_or_path", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores",
    "pad_token_id", "prefix", "pretraining_tp", "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict",
    "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss",
    "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version", "transformers.js_config",
    "typical_p", "unk_token_id", "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache", "use_flash_attn",
}  # fmt: skip

# Fields that would change the model, with the value that switches them off; null switches off every field.
OFF = {
    "add_cross_attention": False, "chunk_size_feed_forward": 0, "cross_attention_hidden_size": None, "embd_pdrop": 0.0,
    "is_decoder": False, "is_encoder_decoder": False, "logits_scaling": 1.0, "partial_rotary_factor": 1.0, "pruned_heads": {},
    "qk_norm": False, "qkv_bias": False, "quantization_config": None, "resid_pdrop": 0.0, "rope_interleaved": False,
    "sliding_window": None, "tie_encoder_decoder": False, "use_qk_norm": False, "use_sliding_window": False,
}  # fmt: skip


def is_off(name: str, value: object) -> bool:
    """Whether a field with this value has no effect."""
    return name in BOOKKEEPING or value is None or (name in OFF and value == OFF[name])
